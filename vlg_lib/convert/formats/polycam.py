"""Polycam, an app for phones: its raw data are what Apple's ARKit says, in the
conventions that ``record3d`` tells of.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.convert.formats.base import PosedImage
from vlg_lib.convert.parsing import (
    camera_of,
    images_in,
    json_object,
    number_of,
)
from vlg_lib.geometry.poses import opengl_to_opencv
from vlg_lib.scene import Camera


def read_polycam(folder: Path) -> Iterator[PosedImage]:
    """Polycam's raw data ("developer mode"): ``keyframes/`` with ``images/``,
    ``cameras/NAME.json`` and ``depth/``.

    A camera file holds fx, fy, cx, cy, width, height and t_00 to t_23, the
    upper three rows of camera-to-world, with ARKit's axes (right, up, backward)
    and y up. Depth is that of the LiDAR, 16-bit PNG in mm. Where Polycam
    optimised the poses, ``corrected_cameras`` and ``corrected_images`` are
    taken.
    """
    inner = folder / "keyframes" if (folder / "keyframes").is_dir() else folder
    images, cameras = inner / "images", inner / "cameras"
    better = inner / "corrected_images", inner / "corrected_cameras"
    if all(path.is_dir() for path in better):
        images, cameras = better
    depths = inner / "depth"
    for color in images_in(images):
        path = cameras / f"{color.stem}.json"
        values = json_object(path)
        yield PosedImage(
            color.stem,
            color,
            depths / f"{color.stem}.png" if depths.is_dir() else None,
            _camera(path, values),
            opengl_to_opencv(_pose(path, values)),
        )


def _camera(path: Path, values: dict[str, Any]) -> Camera:
    fx, fy, cx, cy, width, height = (
        number_of(path, key, values.get(key))
        for key in ("fx", "fy", "cx", "cy", "width", "height")
    )
    return camera_of(path, fx, fy, cx, cy, width, height)


def _pose(path: Path, values: dict[str, Any]) -> Float[Tensor, "4 4"]:
    pose = torch.eye(4, dtype=torch.float64)
    for i in range(3):
        for j in range(4):
            key = f"t_{i}{j}"
            pose[i, j] = number_of(path, key, values.get(key))
    return pose
