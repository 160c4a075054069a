"""Foreign formats of posed images, each a small function that yields posed
images; all else is ``convert_scan.py``'s.

They come in the library's conventions: camera-to-world, camera axes right,
down, forward, pixel centres at integers. What the formats say of themselves
(axes, direction, units, where a pixel's centre is) is undone here, once, and
said beside each. Those of Apple's ARKit stand in ``arkit_formats.py``.
"""

from vlg_lib.convert.formats.arkit import (
    read_arkitscenes,
    read_polycam,
    read_record3d,
)
from vlg_lib.convert.formats.base import Format
from vlg_lib.convert.formats.colmap import read_colmap, read_colmap_points
from vlg_lib.convert.formats.nerfstudio import read_nerfstudio
from vlg_lib.convert.formats.open3d import read_open3d
from vlg_lib.convert.formats.replica import read_replica
from vlg_lib.convert.formats.seven_scenes import read_seven_scenes
from vlg_lib.convert.formats.tum import read_tum

FORMATS = {
    "7-scenes": Format(
        read_seven_scenes, "auto", "frame-*.color.png, .depth.png, .pose.txt"
    ),
    "tum": Format(read_tum, "z", "rgb.txt, depth.txt, groundtruth.txt"),
    "replica": Format(read_replica, "z", "results/, traj.txt, cam_params.json"),
    "open3d": Format(
        read_open3d,
        "auto",
        "color/, depth/, trajectory.log or .json, intrinsic.json",
    ),
    "record3d": Format(read_record3d, "y", "metadata.json, rgb/, depth/"),
    "polycam": Format(
        read_polycam, "y", "keyframes/ with images/, cameras/, depth/"
    ),
    "arkitscenes": Format(
        read_arkitscenes,
        "z",
        "lowres_wide/, lowres_depth/, lowres_wide_intrinsics/,"
        " lowres_wide.traj",
    ),
    "nerfstudio": Format(read_nerfstudio, "z", "transforms.json"),
    "colmap": Format(
        read_colmap,
        "auto",
        "cameras.txt, images.txt, points3D.txt, images/, depth/ or stereo/",
        read_colmap_points,
    ),
}
"""The formats by name."""
OTHER_CONVERTERS = {n: n for n in ("rgbd","scannet","s3dis","openscene-features","openscene-network")}
