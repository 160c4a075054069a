"""Open3D's reconstruction system."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from vlg_lib.geometry.poses import inverse
from vlg_lib.scene import Camera


def read_open3d(folder: Path) -> Iterator[PosedImage]:
    """Open3D: ``trajectory.log`` (camera-to-world) or ``trajectory.json``
    (world-to-camera, column by column).

    Images in ``color/`` (or ``image/``, ``rgb/``) and ``depth/`` in natural
    order, one a pose; the camera of a ``.log`` in ``intrinsic.json`` (or
    ``camera_intrinsic.json``).
    """
    colors = images_in(
        next(
            (
                folder / n
                for n in ("color", "image", "rgb")
                if (folder / n).is_dir()
            ),
            folder / "color",
        )
    )
    depths = (
        images_in(folder / "depth", (".png",))
        if (folder / "depth").is_dir()
        else [None] * len(colors)
    )
    shots = (
        _open3d_json(folder)
        if (folder / "trajectory.json").is_file()
        else _open3d_log(folder)
    )
    if not len(shots) == len(colors) == len(depths):
        raise LayoutError(
            f"{folder}: expected as many poses as images, found {len(shots)}"
            f" poses, {len(colors)} colour and {len(depths)} depth images"
        )
    for color, depth, (camera, pose) in zip(colors, depths, shots, strict=True):
        yield PosedImage(color.stem, color, depth, camera, pose)


def _open3d_camera(path: Path, content: Any) -> Camera:
    values = content if isinstance(content, dict) else {}
    width, height = (
        numbers_of(path, key, values.get(key), 1)[0]
        for key in ("width", "height")
    )
    # column by column
    k = numbers_of(path, "intrinsic_matrix", values.get("intrinsic_matrix"), 9)
    return camera_of(path, k[0], k[4], k[6], k[7], width, height)


def _open3d_json(folder: Path) -> list[tuple[Camera, Tensor]]:
    path = folder / "trajectory.json"
    parameters = json_object(path).get("parameters")
    if not isinstance(parameters, list) or not all(
        isinstance(entry, dict) for entry in parameters
    ):
        raise LayoutError(
            f"{path}: expected a list 'parameters', as Open3D's"
            " PinholeCameraTrajectory has it"
        )
    shots = []
    for entry in parameters:
        extrinsic = torch.tensor(
            numbers_of(path, "extrinsic", entry.get("extrinsic"), 16),
            dtype=torch.float64,
        )
        shots.append(
            (
                _open3d_camera(path, entry.get("intrinsic")),
                inverse(extrinsic.view(4, 4).T),
            )
        )
    return shots


def _open3d_log(folder: Path) -> list[tuple[Camera, Tensor]]:
    names = ("intrinsic.json", "camera_intrinsic.json")
    file = next(
        (folder / name for name in names if (folder / name).is_file()),
        folder / names[0],
    )
    camera, path = (
        _open3d_camera(file, json_object(file)),
        folder / "trajectory.log",
    )
    lines = list(text_rows(path))
    if len(lines) % 5:
        raise LayoutError(
            f"{path}: expected five lines a pose (three numbers, then a 4x4"
            f" matrix), found {len(lines)}"
        )
    rows = [
        floats_of(path, number, words, 4 if i % 5 else 3)
        for i, (number, words) in enumerate(lines)
    ]
    poses = [
        torch.tensor(rows[i + 1 : i + 5], dtype=torch.float64)
        for i in range(0, len(rows), 5)
    ]
    return [(camera, pose) for pose in poses]
