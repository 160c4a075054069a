"""Cameras, visibility, poses and voxels: one home for every pose, flip, axis
and visibility rule.
"""
