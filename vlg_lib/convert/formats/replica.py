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
    numbers_of,
    text_rows,
)
from vlg_lib.data.frames import LayoutError


def read_replica(folder: Path) -> Iterator[PosedImage]:
    """Replica as rendered for NICE-SLAM: ``traj.txt``, camera-to-world, one a
    line; ``cam_params.json``, also above.
    """
    colors = [
        path
        for path in images_in(folder / "results")
        if path.name.startswith("frame")
    ]
    path = next(
        (
            p
            for p in (
                folder / "cam_params.json",
                folder.parent / "cam_params.json",
            )
            if p.is_file()
        ),
        None,
    )
    if path is None:
        raise LayoutError(
            f"{folder / 'cam_params.json'}: no such file, here or one folder"
            " up; copy it from the data set"
        )
    values = json_object(path).get("camera")
    w, h, fx, fy, cx, cy, scale = (
        numbers_of(
            path, key, (values if isinstance(values, dict) else {}).get(key), 1
        )[0]
        for key in ("w", "h", "fx", "fy", "cx", "cy", "scale")
    )
    if not 0 < scale < math.inf:
        raise LayoutError(f"{path}: expected a positive scale, found {scale}")
    camera = camera_of(path, fx, fy, cx, cy, w, h)
    poses = [
        floats_of(folder / "traj.txt", number, words, 16)
        for number, words in text_rows(folder / "traj.txt")
    ]
    if len(poses) != len(colors):
        raise LayoutError(
            f"{folder / 'traj.txt'}: expected {len(colors)} lines, one an"
            f" image, found {len(poses)}"
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
