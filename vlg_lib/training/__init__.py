"""The one training loop, its batches of points, its device, and how processes
share it.
"""

__all__ = [
    "augmentation",
    "devices",
    "distributed",
    "loop",
    "muon",
    "point_batches",
]
