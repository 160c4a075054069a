"""Replica, as NICE-SLAM renders it."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from vlg_lib.convert.formats.base import PosedImage
from vlg_lib.convert.parsing import (
    camera_of,
    floats_of,
    images_in,
    json_object,
    number_of,
    text_rows,
)
from vlg_lib.data.frames import LayoutError
from vlg_lib.scene import Camera


def read_replica(folder: Path) -> Iterator[PosedImage]:
    """Replica as rendered for NICE-SLAM: ``traj.txt``, camera-to-world, one a
    line, camera axes right, down, forward; ``cam_params.json``, also above,
    with the units a metre of the depth.
    """
    colors = [
        path
        for path in images_in(folder / "results")
        if path.name.startswith("frame")
    ]
    camera, scale = _camera_and_scale(folder)
    path = folder / "traj.txt"
    poses = [floats_of(path, *row, 16) for row in text_rows(path)]
    if len(poses) != len(colors):
        raise LayoutError(
            f"{path}: expected {len(colors)} lines, one an image, found"
            f" {len(poses)}"
        )
    for color, pose in zip(colors, poses, strict=True):
        depth = color.with_name(color.stem.replace("frame", "depth") + ".png")
        yield PosedImage(
            color.stem,
            color,
            depth,
            camera,
            torch.tensor(pose, dtype=torch.float64).view(4, 4),
            scale,
        )


def _camera_and_scale(folder: Path) -> tuple[Camera, float]:
    """The camera of all images, and the depth units a metre."""
    places = (folder / "cam_params.json", folder.parent / "cam_params.json")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise LayoutError(
            f"{places[0]}: no such file, here or one folder up; copy it from"
            " the data set"
        )
    content = json_object(path).get("camera")
    values = content if isinstance(content, dict) else {}
    width, height, fx, fy, cx, cy, scale = (
        number_of(path, key, values.get(key))
        for key in ("w", "h", "fx", "fy", "cx", "cy", "scale")
    )
    if not 0 < scale < math.inf:
        raise LayoutError(f"{path}: expected a positive scale, found {scale}")
    return camera_of(path, fx, fy, cx, cy, width, height), scale
