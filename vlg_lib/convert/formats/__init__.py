"""Formats of posed images, one file a format; ``registry`` lists them without
importing torch.
"""

__all__ = [
    "arkitscenes",
    "base",
    "colmap",
    "colmap_model",
    "nerfstudio",
    "open3d",
    "polycam",
    "record3d",
    "registry",
    "replica",
    "rgbd_folder",
    "seven_scenes",
    "tum",
]
