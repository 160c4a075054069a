"""The 3D network, how it labels a cloud, and the shipped weights.

``mink_unet``: the U-Net on voxels. ``point_network``: the way from points to
voxels and back, and its file. ``tiling``: large clouds. ``zoo``: shipped
weights by name. ``openscene``: networks that others published.
"""

__all__ = ["mink_unet", "openscene", "point_network", "tiling", "zoo"]
