"""The one training loop, its batches of points, and how processes share it."""
