"""Polycam, an app for phones: its raw data are what Apple's ARKit says, in the
conventions that ``record3d`` tells of.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.convert.formats.base import Found, Key, LeftOut, PosedImage
from vlg_lib.convert.parsing import (
    camera_of,
    images_in,
    json_object,
    number_of,
)
from vlg_lib.data.files import existing, files_in
from vlg_lib.data.frames import LayoutError, image_size, is_whole_image
from vlg_lib.geometry.poses import opengl_to_opencv
from vlg_lib.scene import Camera

_POLYCAM = "Polycam's polyform, and nerfstudio's polycam_utils.py"
KEYS = (
    Key("fx, fy, cx, cy", "read", "pixels of the image", _POLYCAM),
    Key(
        "width, height",
        "read",
        "else the image's own size (current corrected_cameras lack them)",
        "nerfstudio, PR 3725",
    ),
    Key("t_00 to t_23", "read", "camera to world, three rows", _POLYCAM),
    Key("blur_score, timestamp", "ignored", "no geometry", _POLYCAM),
    Key(
        "cameras, images",
        "read",
        "where there are no corrected_cameras, corrected_images",
        _POLYCAM,
    ),
    Key("depth", "read", "16-bit PNG, mm", _POLYCAM),
    Key("confidence", "ignored", "all depth is taken", _POLYCAM),
)
"""What a camera file says, and what lies in ``keyframes/``."""


def read_polycam(folder: Path) -> Iterator[Found]:
    """Polycam's raw data ("developer mode"): ``keyframes/`` with ``images/``,
    ``cameras/NAME.json`` and ``depth/``.

    A camera file holds fx, fy, cx, cy, width, height and t_00 to t_23, the
    upper three rows of camera-to-world, with ARKit's axes (right, up, backward)
    and y up. Without width and height, the size is the image's own. Depth is
    that of the LiDAR, 16-bit PNG in mm. Where Polycam optimised the poses,
    ``corrected_cameras`` and ``corrected_images`` are taken. An image without a
    readable camera file is left out.
    """
    inner = folder / "keyframes" if (folder / "keyframes").is_dir() else folder
    images, cameras = inner / "images", inner / "cameras"
    better = inner / "corrected_images", inner / "corrected_cameras"
    if all(path.is_dir() for path in better):
        images, cameras = better
    if not cameras.is_dir():
        raise LayoutError(f"{cameras}: no such folder; export the raw data")
    depths = inner / "depth"
    colors = images_in(images)
    for path in files_in(cameras, (".json",)):
        if path.stem not in {color.stem for color in colors}:
            yield LeftOut("missing image", f"{path}: no image of this name")
    for color in colors:
        path = existing(cameras / f"{color.stem}.json", (".json",))
        if not path.is_file():
            yield LeftOut("missing camera", f"{path}: no such file")
            continue
        depth = None
        if depths.is_dir():
            depth = existing(depths / f"{color.stem}.png", (".png",))
        try:
            yield _image(color, depth, path)
        except LayoutError as error:
            yield LeftOut("unreadable camera", str(error))


def _image(color: Path, depth: Path | None, path: Path) -> Found:
    values = json_object(path)
    if "width" not in values and "height" not in values:
        if not is_whole_image(color):
            return LeftOut("unreadable image", f"{color}: not a whole image")
        values["height"], values["width"] = image_size(color)
    return PosedImage(
        color.stem,
        color,
        depth,
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
