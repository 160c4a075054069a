"""COLMAP's text models."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vlg_lib.convert.formats.base import PosedImage
from vlg_lib.convert.parsing import camera_of, file_inside, floats_of, text_rows
from vlg_lib.data.frames import LayoutError
from vlg_lib.geometry.poses import inverse, pose_from_quaternion
from vlg_lib.scene import Camera


def read_colmap(folder: Path) -> Iterator[PosedImage]:
    """COLMAP's text model (``cameras.txt``, ``images.txt``, here or in
    ``sparse/`` or ``sparse/0``), images, depth.

    World-to-camera quaternions w x y z, camera axes right, down, forward; the
    middle of the first pixel is at 1/2; a unit of its own, which ``depth/``
    must share (16-bit PNG of the images' names, 1/1000 units). Without it, the
    depth maps of the dense stage are taken from ``stereo/depth_maps`` where
    they are. Cameras with distortion are refused.
    """
    model = _model_folder(folder)
    cameras = _cameras(model / "cameras.txt")
    path = model / "images.txt"
    for number, words in _image_lines(path):
        numbers = floats_of(path, number, words[1:9], 8)
        qw, qx, qy, qz = numbers[:4]
        name = " ".join(words[9:])
        camera = cameras.get(words[8])
        if camera is None or not name:
            raise LayoutError(
                f"{path}, line {number}: expected a camera of cameras.txt and a"
                f" name, found {words[8:]}"
            )
        world_to_camera = pose_from_quaternion((qx, qy, qz, qw), numbers[4:7])
        yield PosedImage(
            str(Path(name).with_suffix("")).replace("/", "_"),
            file_inside(folder / "images", name, path),
            _depth(folder, name, path),
            camera,
            inverse(world_to_camera),
        )


def _depth(folder: Path, name: str, path: Path) -> Path | None:
    """The depth image or depth map of an image; None where the model has
    none.
    """
    if (folder / "depth").is_dir():
        return (folder / "depth" / name).with_suffix(".png")
    maps = folder / "stereo" / "depth_maps"
    if maps.is_dir():
        return file_inside(maps, f"{name}.geometric.bin", path)
    return None


def read_colmap_points(
    folder: Path,
) -> tuple[Float[Tensor, "N 3"], UInt8[Tensor, "N 3"]]:
    """The sparse points of a COLMAP text model, ``points3D.txt``: (N, 3)
    float64 in its own unit and world, colours (N, 3) uint8.
    """
    path = _model_folder(folder) / "points3D.txt"
    rows = [
        floats_of(path, number, words[1:7], 6)
        for number, words in text_rows(path)
    ]
    table = torch.tensor(rows, dtype=torch.float64).view(-1, 6)
    if (
        len(table) == 0
        or not bool(table.isfinite().all())
        or bool(((table[:, 3:] < 0) | (table[:, 3:] > 255)).any())
    ):
        raise LayoutError(
            f"{path}: expected points, x y z and red green blue (0 to 255),"
            f" found {len(table)} rows"
        )
    return table[:, :3], table[:, 3:].to(torch.uint8)


def _model_folder(folder: Path) -> Path:
    places = (folder, folder / "sparse", folder / "sparse/0")
    return next(
        (place for place in places if (place / "cameras.txt").is_file()), folder
    )


def _image_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Every first line of two: the second holds an image's 2D points, and may
    be empty.
    """
    if not path.is_file():
        raise LayoutError(
            f"{path}: no such file; write the model as text (colmap"
            " model_converter --output_type TXT)"
        )
    lines = path.read_text("utf-8", "replace").splitlines()
    kept = [
        (i, line.split())
        for i, line in enumerate(lines, start=1)
        if not line.lstrip().startswith("#")
    ]
    for number, words in kept[::2]:
        if words:
            if len(words) < 10:
                raise LayoutError(
                    f"{path}, line {number}: expected 10 words, found"
                    f" {len(words)}"
                )
            yield number, words


def _cameras(path: Path) -> dict[str, Camera]:
    cameras = {}
    for number, words in text_rows(path):
        model = words[1] if len(words) > 1 else ""
        if model not in ("PINHOLE", "SIMPLE_PINHOLE"):
            raise LayoutError(
                f"{path}, line {number}: a camera {model!r} with distortion;"
                " run colmap image_undistorter first"
            )
        values = floats_of(
            path, number, words[2:], 6 if model == "PINHOLE" else 5
        )
        width, height, fx, *rest = values
        fy, cx, cy = rest if model == "PINHOLE" else (fx, *rest)
        if not (math.isfinite(width) and math.isfinite(height)):
            raise LayoutError(
                f"{path}, line {number}: expected an image size, found {width}"
                f" x {height}"
            )
        cameras[words[0]] = camera_of(
            path, fx, fy, cx - 0.5, cy - 0.5, width, height
        )
    return cameras
