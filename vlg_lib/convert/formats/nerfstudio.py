"""nerfstudio and instant-ngp: ``transforms.json``."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vlg_lib.convert.formats.base import PosedImage
from vlg_lib.convert.parsing import (
    camera_of,
    file_inside,
    json_object,
    number_of,
    numbers_of,
)
from vlg_lib.data.frames import LayoutError, image_size
from vlg_lib.geometry.poses import opengl_to_opencv
from vlg_lib.scene import Camera


def read_nerfstudio(folder: Path) -> Iterator[PosedImage]:
    """Nerfstudio and instant-ngp, ``transforms.json``: camera-to-world, camera
    axes right, up, backward.

    Intrinsics of all frames or of each; the middle of the first pixel is at
    1/2. Depth in ``depth_file_path``, in units of ``depth_unit_scale_factor``
    (1/1000 m). Distorted cameras are refused.

    >>> import json
    >>> from tempfile import TemporaryDirectory
    >>> camera = {"w": 4, "h": 2, "fl_x": 3, "fl_y": 3, "cx": 2, "cy": 1}
    >>> pose = [[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    >>> frames = [{"file_path": "images/1.png", "transform_matrix": pose}]
    >>> with TemporaryDirectory() as root:
    ...     text = json.dumps({**camera, "frames": frames})
    ...     _ = (Path(root) / "transforms.json").write_text(text)
    ...     (image,) = read_nerfstudio(Path(root))
    >>> image.camera.cx, image.pose[:3, 3].tolist(), float(image.pose[2, 2])
    (1.5, [5.0, 0.0, 0.0], -1.0)
    """
    path = folder / "transforms.json"
    content = json_object(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(
        isinstance(frame, dict) for frame in frames
    ):
        raise LayoutError(f"{path}: expected a list 'frames' of objects")
    for i, frame in enumerate(frames):
        # what a frame says of itself goes before what the file says of all
        values = {**content, **frame}
        color, depth = _files(path, i, frame)
        matrix = numbers_of(
            path,
            f"transform_matrix of frame {i}",
            frame.get("transform_matrix"),
            16,
        )
        pose = torch.tensor(matrix, dtype=torch.float64).view(4, 4)
        yield PosedImage(
            f"{i:05d}_{color.stem}",
            color,
            depth,
            _camera(path, color, values),
            opengl_to_opencv(pose),
            _depth_scale(path, values),
        )


def _files(
    path: Path, i: int, frame: dict[str, Any]
) -> tuple[Path, Path | None]:
    """The colour image of a frame, and its depth image where it has one."""
    name = frame.get("file_path")
    depth = frame.get("depth_file_path", frame.get("depth_path"))
    if not isinstance(name, str) or not isinstance(depth, str | None):
        raise LayoutError(
            f"{path}: expected frame {i} to name its image in 'file_path',"
            f" found {name!r}, {depth!r}"
        )
    color = file_inside(path.parent, name, path)
    if not color.suffix:  # Blender's exporter leaves the suffix out
        color = color.with_suffix(".png")
    return color, None if depth is None else file_inside(
        path.parent, depth, path
    )


def _depth_scale(path: Path, values: dict[str, Any]) -> float:
    """Depth units a metre."""
    key = "depth_unit_scale_factor"
    unit = number_of(path, key, values.get(key, 0.001))
    if not 0 < unit < math.inf:
        raise LayoutError(f"{path}: expected a positive {key}, found {unit}")
    return 1 / unit


def _camera(path: Path, color: Path, values: dict[str, Any]) -> Camera:
    """The camera of a frame; the size is that of its image where the file does
    not say it.
    """
    _check_undistorted(path, values)
    if not {"w", "h"} <= values.keys() and color.is_file():
        values["h"], values["w"] = image_size(color)
    width = number_of(path, "w", values.get("w"))
    height = number_of(path, "h", values.get("h"))
    if "fl_x" not in values and "camera_angle_x" in values:
        angle = number_of(path, "camera_angle_x", values["camera_angle_x"])
        half = math.tan(0.5 * angle)
        values["fl_x"] = 0.5 * width / half if half else math.inf
    fx = number_of(path, "fl_x", values.get("fl_x"))
    fy = number_of(path, "fl_y", values.get("fl_y", fx))
    cx = number_of(path, "cx", values.get("cx", width / 2))
    cy = number_of(path, "cy", values.get("cy", height / 2))
    return camera_of(path, fx, fy, cx - 0.5, cy - 0.5, width, height)


def _check_undistorted(path: Path, values: dict[str, Any]) -> None:
    bent = [
        key
        for key in ("k1", "k2", "k3", "k4", "p1", "p2")
        if values.get(key, 0) != 0
    ]
    model = values.get("camera_model", "OPENCV")
    if bent or model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        raise LayoutError(
            f"{path}: a distorted camera ({model},"
            f" {', '.join(bent) or 'no pinhole'}); undistort the images first"
        )
