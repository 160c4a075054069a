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
    number_of,
    numbers_of,
    text_rows,
)
from vlg_lib.data.frames import LayoutError
from vlg_lib.geometry.poses import inverse
from vlg_lib.scene import Camera


def read_open3d(folder: Path) -> Iterator[PosedImage]:
    """Open3D: ``trajectory.log`` (camera-to-world) or ``trajectory.json``
    (world-to-camera, column by column), camera axes right, down, forward.

    Images in ``color/`` (or ``image/``, ``rgb/``) and ``depth/`` (mm) in
    natural order, one a pose; the camera of a ``.log`` in ``intrinsic.json``
    (or ``camera_intrinsic.json``).
    """
    colors = images_in(_first_there(folder, ("color", "image", "rgb")))
    depths: list[Path | None] = [None] * len(colors)
    if (folder / "depth").is_dir():
        depths = [*images_in(folder / "depth", (".png",))]
    if (folder / "trajectory.json").is_file():
        cameras_and_poses = _from_json(folder / "trajectory.json")
    else:
        cameras_and_poses = _from_log(folder)
    if not len(cameras_and_poses) == len(colors) == len(depths):
        raise LayoutError(
            f"{folder}: expected as many poses as images, found"
            f" {len(cameras_and_poses)} poses, {len(colors)} colour and"
            f" {len(depths)} depth images"
        )
    for color, depth, (camera, pose) in zip(
        colors, depths, cameras_and_poses, strict=True
    ):
        yield PosedImage(color.stem, color, depth, camera, pose)


def _first_there(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of these that exists; the first of all where none does."""
    paths = [folder / name for name in names]
    return next((path for path in paths if path.exists()), paths[0])


def _camera(path: Path, content: Any) -> Camera:
    values = content if isinstance(content, dict) else {}
    width = number_of(path, "width", values.get("width"))
    height = number_of(path, "height", values.get("height"))
    # column by column
    k = numbers_of(path, "intrinsic_matrix", values.get("intrinsic_matrix"), 9)
    return camera_of(path, k[0], k[4], k[6], k[7], width, height)


def _from_json(path: Path) -> list[tuple[Camera, Tensor]]:
    """Cameras and poses (4, 4) of a PinholeCameraTrajectory."""
    parameters = json_object(path).get("parameters")
    if not isinstance(parameters, list) or not all(
        isinstance(entry, dict) for entry in parameters
    ):
        raise LayoutError(
            f"{path}: expected a list 'parameters', as Open3D's"
            " PinholeCameraTrajectory has it"
        )
    found = []
    for entry in parameters:
        numbers = numbers_of(path, "extrinsic", entry.get("extrinsic"), 16)
        world_to_camera = torch.tensor(numbers, dtype=torch.float64).view(4, 4)
        camera = _camera(path, entry.get("intrinsic"))
        found.append((camera, inverse(world_to_camera.T)))
    return found


def _from_log(folder: Path) -> list[tuple[Camera, Tensor]]:
    """The one camera, again and again, and the poses (4, 4) of a log."""
    file = _first_there(folder, ("intrinsic.json", "camera_intrinsic.json"))
    camera = _camera(file, json_object(file))
    path = folder / "trajectory.log"
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
    return [
        (camera, torch.tensor(rows[i + 1 : i + 5], dtype=torch.float64))
        for i in range(0, len(rows), 5)
    ]
