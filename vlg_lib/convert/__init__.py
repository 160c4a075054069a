"""Every outside format, turned into the one layout that the library reads.

One module a source: ``scan`` (posed images of the formats in
:mod:`vlg_lib.convert.formats`), ``scannet``, ``s3dis``, ``openscene_features``,
``openscene_network``; ``scannet_benchmark`` goes the other way. What they
share: ``batch`` (many scenes, resumed), ``frames`` (the lazy list of frames),
``registration`` (one grid), ``image_rotation``, ``depth_maps``, ``tsdf``,
``scene_labels``, ``parsing``.

Nothing is imported here, so that the command line can list the formats of
:mod:`vlg_lib.convert.formats.registry` without loading torch.
"""

__all__ = [
    "batch",
    "depth_maps",
    "formats",
    "frames",
    "image_rotation",
    "openscene_features",
    "openscene_network",
    "origin",
    "parsing",
    "registration",
    "s3dis",
    "s3dis_images",
    "s3dis_text",
    "scan",
    "scannet",
    "scannet_benchmark",
    "scannet_images",
    "scannet_labels",
    "scene_labels",
    "sens",
    "tsdf",
]
