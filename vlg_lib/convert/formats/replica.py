"""Replica, as NICE-SLAM renders it."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from vlg_lib.convert.formats.base import Found, Key, LeftOut, PosedImage
from vlg_lib.convert.parsing import (
    camera_of,
    floats_of,
    images_in,
    json_object,
    number_in_name,
    number_of,
    numbered,
    order_remark,
    text_rows,
)
from vlg_lib.data.files import existing
from vlg_lib.data.frames import LayoutError
from vlg_lib.scene import Camera

_NICE = "NICE-SLAM, src/utils/datasets.py and its copy of Replica"
KEYS = (
    Key("w, h, fx, fy, cx, cy", "read", "of cam_params.json, pixels", _NICE),
    Key("scale", "read", "depth codes a metre", _NICE),
    Key("traj.txt", "read", "camera to world; line N is of frameN", _NICE),
    Key("results/frameN, depthN", "read", "N counts from 0", _NICE),
)
"""What lies in such a folder."""


def read_replica(folder: Path) -> Iterator[Found]:
    """Replica as rendered for NICE-SLAM: ``traj.txt``, camera-to-world, one a
    line, camera axes right, down, forward; ``cam_params.json``, also above,
    with the units a metre of the depth.

    ``frame000012`` has line 12, counted from 0, so an image may be missing.
    """
    colors = [
        path
        for path in images_in(folder / "results")
        if path.name.startswith("frame")
    ]
    camera, scale = _camera_and_scale(folder)
    path = folder / "traj.txt"
    rows = list(text_rows(path))
    cut = bool(rows) and len(rows[-1][1]) < 16  # then later lines are missing
    most = max((number_in_name(color) or 0 for color in colors), default=0) + 1
    by_line = numbered(colors, max(most, len(rows)) if cut else len(rows))
    if by_line is None:
        raise LayoutError(
            f"{path}: expected {max(most, len(colors))} lines, one an image,"
            f" found {len(rows)}; which is missing does not show"
        )
    remark = order_remark(by_line, folder / "results")
    for color in sorted(set(colors) - set(by_line.values())):
        yield LeftOut("missing pose", f"{color}: its name has no number")
    for line in range(max(len(rows), *(i + 1 for i in by_line))):
        yield _image(
            path, rows, line, by_line.get(line), (camera, scale, remark)
        )


def _image(
    path: Path,
    rows: list[tuple[int, list[str]]],
    line: int,
    color: Path | None,
    sensor: tuple[Camera, float, str],
) -> Found:
    """The image of a line of the trajectory, counted from 0; ``sensor``: what
    holds for all: camera, units of depth, remark.
    """
    if color is None:
        return LeftOut("missing image", f"{path}: no frame{line:06d}")
    if line >= len(rows):
        return LeftOut("missing pose", f"{path}: ends before {color.name}")
    try:
        pose = floats_of(path, *rows[line], 16)
    except LayoutError as error:
        return LeftOut("invalid pose", str(error))
    depth = color.with_name(color.stem.replace("frame", "depth") + ".png")
    return PosedImage(
        color.stem,
        color,
        existing(depth, (".png",)),
        sensor[0],
        torch.tensor(pose, dtype=torch.float64).view(4, 4),
        sensor[1],
        sensor[2],
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
