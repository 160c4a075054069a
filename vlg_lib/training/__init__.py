"""The one training loop, its batches of points, and how processes share it."""

__all__ = ["augmentation", "distributed", "loop", "point_batches"]
