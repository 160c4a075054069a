"""The TUM RGB-D benchmark."""

from collections.abc import Iterator
from pathlib import Path

import torch

from vlg_lib.convert.formats.base import PosedImage
from vlg_lib.convert.parsing import (
    file_inside,
    floats_of,
    nearest_in_time,
    stamped_rows,
)
from vlg_lib.geometry.poses import pose_from
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
    quaternions x y z w, depth 1/5000 m.
    """
    colors, depths = (
        stamped_rows(folder / "rgb.txt", 2),
        stamped_rows(folder / "depth.txt", 2),
    )
    poses = stamped_rows(folder / "groundtruth.txt", 8)
    values = next(
        values
        for key, values in TUM_CAMERAS.items()
        if key in folder.resolve().name
    )
    camera = Camera(*values, 640, 480)
    for number, time, (name,) in colors:
        depth, pose = (
            nearest_in_time(lines, time, SAME_TIME) for lines in (depths, poses)
        )
        color = file_inside(folder, name, folder / "rgb.txt")
        matrix = torch.full((4, 4), torch.nan, dtype=torch.float64)
        if pose is not None:
            numbers = floats_of(folder / "groundtruth.txt", pose[0], pose[2], 7)
            matrix = pose_from(numbers[3:], numbers[:3])
        file = (
            folder / "no-depth"
            if depth is None
            else file_inside(folder, depth[2][0], folder / "depth.txt")
        )
        yield PosedImage(
            Path(name).stem or str(number), color, file, camera, matrix, 5000.0
        )
