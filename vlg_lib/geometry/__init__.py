"""One home for every pose, flip, axis and visibility rule.

``cameras``: from the world to the pixels and back. ``poses``: what a pose is,
and turns. ``upright``: which way is up. ``visibility``: which points a frame
sees. ``voxels``: from points to voxels and back.
"""

__all__ = ["cameras", "poses", "upright", "visibility", "voxels"]
