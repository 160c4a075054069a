"""The formats of posed images by name, and what each needs: a list that can be
read without torch; a format's reader is imported when it is used.

A reader takes the folder of a scan and yields posed images in the library's
conventions (:class:`vlg_lib.convert.formats.base.PosedImage`), and what it had
to leave out (``LeftOut``). What is common to all formats is done by
:mod:`vlg_lib.convert.scan`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from vlg_lib.convert.formats.base import Found, Key

Reader = Callable[[Path], Iterator["Found"]]
PointsReader = Callable[[Path], tuple["Tensor", "Tensor"]]


@dataclass(frozen=True)
class Format:
    """A format: what its folder holds, and where its reader is."""

    needs: str
    """What the folder of a scan holds, and which options matter."""
    up: str
    """Which axis of its world points up; "auto" where nobody knows."""
    reader: str
    """The import path of the function that reads it, "module:function"."""
    points_reader: str = ""
    """That of the function that reads the points that the format brings along,
    (N, 3) float32 and colours (N, 3) uint8; "" where there are none."""

    @property
    def read(self) -> Reader:
        """The function that yields the images of a scan, imported now.

        >>> FORMATS["tum"].read.__name__
        'read_tum'
        """
        reader: Reader = _imported(self.reader)
        return reader

    @property
    def keys(self) -> tuple["Key", ...]:
        """What the format's files may say, and what becomes of it.

        >>> FORMATS["replica"].keys[0].name
        'w, h, fx, fy, cx, cy'
        """
        module = import_module(self.reader.partition(":")[0])
        keys: tuple[Key, ...] = module.KEYS
        return keys

    @property
    def points(self) -> PointsReader | None:
        """The function that reads the points of a scan, imported now; None
        where the format has none.
        """
        if not self.points_reader:
            return None
        reader: PointsReader = _imported(self.points_reader)
        return reader


def _imported(path: str) -> Any:
    """A function by its import path, such as "json:loads"."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


_HERE = "vlg_lib.convert.formats"

FORMATS = {
    "7-scenes": Format(
        "frame-*.color.png (or .jpg), .depth.png (or .pgm), .pose.txt, here or"
        " in seq-*/; info.txt or --camera where it is no Kinect",
        "auto",
        f"{_HERE}.seven_scenes:read_seven_scenes",
    ),
    "tum": Format(
        "rgb.txt, depth.txt, groundtruth.txt; calibration.txt or --camera where"
        " it is not the data set's",
        "z",
        f"{_HERE}.tum:read_tum",
    ),
    "replica": Format(
        "results/, traj.txt, cam_params.json",
        "z",
        f"{_HERE}.replica:read_replica",
    ),
    "open3d": Format(
        "color/, depth/, trajectory.log or .json, intrinsic.json",
        "auto",
        f"{_HERE}.open3d:read_open3d",
    ),
    "record3d": Format(
        "metadata.json, rgb/, depth/ (16-bit PNG, or EXR), or an unpacked .r3d:"
        " metadata, rgbd/",
        "y",
        f"{_HERE}.record3d:read_record3d",
    ),
    "polycam": Format(
        "keyframes/ with images/, cameras/, depth/ (raw data)",
        "y",
        f"{_HERE}.polycam:read_polycam",
    ),
    "arkitscenes": Format(
        "lowres_wide/, lowres_depth/, lowres_wide_intrinsics/,"
        " lowres_wide.traj",
        "z",
        f"{_HERE}.arkitscenes:read_arkitscenes",
    ),
    "nerfstudio": Format(
        "transforms.json (or transforms_train.json ...) and its images; --cloud"
        " where it names no depth",
        "z",
        f"{_HERE}.nerfstudio:read_nerfstudio",
    ),
    "colmap": Format(
        "cameras.txt, images.txt, points3D.txt (or .bin), images/, depth/ or"
        " stereo/; --metres, since its unit is its own",
        "auto",
        f"{_HERE}.colmap:read_colmap",
        f"{_HERE}.colmap:read_colmap_points",
    ),
}
"""The formats by name; ``vlg_lib.convert.scan.convert_scans`` converts them."""

OTHER_CONVERTERS = {
    "rgbd": (
        "a plain folder of images/, depth/, K.txt, poses.txt, or other names"
        " given by options; --poses, --camera-axes, --up say its conventions"
    ),
    "scannet": (
        "ScanNet's scans, SCENE/SCENE.sens and SCENE_vh_clean_2.ply, or"
        " exported frames; --split, --every"
    ),
    "s3dis": (
        "Stanford3dDataset_v1.2, Area_1/conferenceRoom_1/Annotations/; --images"
        " for 2D-3D-S, --areas"
    ),
    "openscene-features": (
        "NAME.pt or NAME_0.pt, NAME_1.pt ..., as OpenScene published them, and"
        " the scenes that they belong to"
    ),
    "openscene-network": (
        "a checkpoint of OpenScene or 3DSS-VLG, .pth or .pth.tar; --class-set"
    ),
}
"""What has a converter and options of its own, by name, and what each needs."""
