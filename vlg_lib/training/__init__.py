"""The one training loop, its batches of points and how they are changed, its
device, and how processes share it.
"""

__all__ = [
    "augmentation",
    "devices",
    "distributed",
    "loop",
    "muon",
    "point_batches",
    "scan_like",
]
