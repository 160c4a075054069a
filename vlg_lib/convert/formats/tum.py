"""The TUM RGB-D benchmark, whose layout many SLAM programs share."""

from collections.abc import Iterator
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from vlg_lib.convert.formats.base import PosedImage
from vlg_lib.convert.parsing import (
    TimedRow,
    file_inside,
    floats_of,
    nearest_in_time,
    stamped_rows,
)
from vlg_lib.geometry.poses import pose_from_quaternion, unknown_pose
from vlg_lib.scene import Camera

SAME_TIME = 0.02
"""Seconds between an image and the depth image or pose that is taken for it
(the TUM tools' own choice)."""

TUM_CAMERAS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
    "": (525.0, 525.0, 319.5, 239.5),
}
"""fx, fy, cx, cy of the data set's cameras, chosen by the folder's name, else
the OpenNI default."""


def read_tum(folder: Path) -> Iterator[PosedImage]:
    """TUM RGB-D: lists of time stamps, ``groundtruth.txt`` camera-to-world with
    quaternions x y z w, camera axes right, down, forward, depth 1/5000 m.
    """
    colors = stamped_rows(folder / "rgb.txt", 2)
    depths = stamped_rows(folder / "depth.txt", 2)
    poses = stamped_rows(folder / "groundtruth.txt", 8)
    camera = _camera(folder.resolve().name)
    for number, time, (name,) in colors:
        color = file_inside(folder, name, folder / "rgb.txt")
        depth = nearest_in_time(depths, time, SAME_TIME)
        pose = nearest_in_time(poses, time, SAME_TIME)
        yield PosedImage(
            Path(name).stem or str(number),
            color,
            _depth(folder, depth),
            camera,
            unknown_pose() if pose is None else _pose(folder, pose),
            5000.0,
        )


def _camera(folder_name: str) -> Camera:
    key = next(key for key in TUM_CAMERAS if key in folder_name)
    return Camera(*TUM_CAMERAS[key], 640, 480)


def _depth(folder: Path, row: TimedRow | None) -> Path:
    """The file of a row of depth.txt; one that does not exist without a row."""
    if row is None:
        return folder / "no-depth"
    return file_inside(folder, row[2][0], folder / "depth.txt")


def _pose(folder: Path, row: TimedRow) -> Float[Tensor, "4 4"]:
    number, _, words = row
    numbers = floats_of(folder / "groundtruth.txt", number, words, 7)
    return pose_from_quaternion(numbers[3:], numbers[:3])
