"""nerfstudio's transforms.json."""

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
    numbers_of,
)
from vlg_lib.data.frames import LayoutError, image_size
from vlg_lib.geometry.poses import OPENGL
from vlg_lib.scene import Camera


def read_nerfstudio(folder: Path) -> Iterator[PosedImage]:
    """Nerfstudio and instant-ngp, ``transforms.json``: camera-to-world, camera
    axes right, up, backward.

    Intrinsics of all frames or of each; the middle of the first pixel is at
    1/2. Depth in ``depth_file_path``, in units of ``depth_unit_scale_factor``
    (1/1000 m). Distorted cameras are refused.
    """
    path = folder / "transforms.json"
    content = json_object(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(
        isinstance(frame, dict) for frame in frames
    ):
        raise LayoutError(f"{path}: expected a list 'frames' of objects")
    for i, frame in enumerate(frames):
        values = {**content, **frame}
        name, depth = (
            values.get("file_path"),
            frame.get("depth_file_path", frame.get("depth_path")),
        )
        if not isinstance(name, str) or not (
            depth is None or isinstance(depth, str)
        ):
            raise LayoutError(
                f"{path}: expected frame {i} to name its image in 'file_path',"
                f" found {name!r}, {depth!r}"
            )
        color = file_inside(folder, name, path)
        if not color.suffix:  # Blender's exporter leaves the suffix out
            color = color.with_suffix(".png")
        matrix = torch.tensor(
            numbers_of(
                path,
                f"transform_matrix of frame {i}",
                frame.get("transform_matrix"),
                16,
            )
        )
        (unit,) = numbers_of(
            path,
            "depth_unit_scale_factor",
            values.get("depth_unit_scale_factor", 0.001),
            1,
        )
        if not 0 < unit < math.inf:
            raise LayoutError(
                f"{path}: expected a positive depth_unit_scale_factor, found"
                f" {unit}"
            )
        yield PosedImage(
            f"{i:05d}_{color.stem}",
            color,
            None if depth is None else file_inside(folder, depth, path),
            _nerf_camera(path, color, values),
            matrix.double().view(4, 4) @ OPENGL,
            1 / unit,
        )


def _nerf_camera(path: Path, color: Path, values: dict[str, Any]) -> Camera:
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
    if not {"w", "h"} <= values.keys() and color.is_file():
        values["h"], values["w"] = image_size(color)
    width, height = (
        numbers_of(path, key, values.get(key), 1)[0] for key in ("w", "h")
    )
    if "fl_x" not in values and "camera_angle_x" in values:
        (angle,) = numbers_of(
            path, "camera_angle_x", values["camera_angle_x"], 1
        )
        values["fl_x"] = (
            0.5 * width / math.tan(0.5 * angle)
            if math.tan(0.5 * angle)
            else math.inf
        )
    fx = numbers_of(path, "fl_x", values.get("fl_x"), 1)[0]
    fy, cx, cy = (
        numbers_of(path, key, values.get(key, default), 1)[0]
        for key, default in (
            ("fl_y", fx),
            ("cx", width / 2),
            ("cy", height / 2),
        )
    )
    return camera_of(path, fx, fy, cx - 0.5, cy - 0.5, width, height)
