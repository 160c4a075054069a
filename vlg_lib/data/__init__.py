"""Scenes and point clouds on disk.

``layout``: the one layout of a scene, its reader and its writer. ``frames``:
its images, poses and intrinsics. ``files``: names and text
as other systems write them. ``ply``: its points, strictly.
``point_clouds``: anybody's PLY file, tolerantly. ``embedding_files``: fused
embeddings. ``depth_fusion``: points from depth images.
"""

__all__ = [
    "depth_fusion",
    "embedding_files",
    "files",
    "frames",
    "layout",
    "ply",
    "point_clouds",
]
