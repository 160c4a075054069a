"""nerfstudio, instant-ngp and Blender: ``transforms.json``."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vlg_lib.convert.formats.base import Found, Key, LeftOut, PosedImage
from vlg_lib.convert.parsing import (
    camera_of,
    file_inside,
    json_object,
    number_of,
    numbers_of,
)
from vlg_lib.data.files import existing, is_there
from vlg_lib.data.frames import (
    COLOR_SUFFIXES,
    LayoutError,
    image_size,
    is_whole_image,
)
from vlg_lib.geometry.poses import opengl_to_opencv
from vlg_lib.scene import Camera

_NERFSTUDIO = "nerfstudio, data_conventions and nerfstudio_dataparser.py"
_NGP = "instant-ngp, src/nerf_loader.cu"
_BOTH = "both"
DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
"""Coefficients of a lens."""
OTHER_LENSES = (
    *(f"ftheta_p{i}" for i in range(5)),
    "ftheta",
    "fisheye",
    "is_fisheye",
    "latlong",
    "equirectangular",
    "orthographic",
    "rolling_shutter",
)
"""What instant-ngp knows besides."""

KEYS = (
    Key("frames", "read", "the images", _BOTH),
    Key("file_path", "read", "backslashes are slashes; .png added", _BOTH),
    Key("transform_matrix", "read", "camera to world, 4x4", _BOTH),
    Key("w, h", "read", "else the image's own size", _BOTH),
    Key("fl_x, fl_y", "read", "pixels, of all or of a frame", _BOTH),
    Key("x_fov, y_fov", "read", "degrees; must agree with fl_x, fl_y", _NGP),
    Key(
        "camera_angle_x, camera_angle_y",
        "read",
        "radians, where there is no focal length",
        _NGP,
    ),
    Key("cx, cy", "read", "else the image's middle", _BOTH),
    Key("depth_file_path", "read", "16-bit PNG", _NERFSTUDIO),
    Key(
        "depth_unit_scale_factor",
        "read",
        "metres a code of depth_file_path; 1/1000 without it",
        _NERFSTUDIO,
    ),
    Key("depth_path", "read", "16-bit PNG", _NGP),
    Key(
        "integer_depth_scale",
        "read",
        "metres a code of depth_path; without it, --depth-scale is asked for",
        _NGP,
    ),
    Key(
        ", ".join(DISTORTION),
        "refused",
        "a bent lens, where it is not 0: undistort first",
        _BOTH,
    ),
    Key(
        "camera_model",
        "refused",
        "where it is not OPENCV, PINHOLE or SIMPLE_PINHOLE",
        _NERFSTUDIO,
    ),
    Key(", ".join(OTHER_LENSES), "refused", "where it is on", _NGP),
    Key(
        "applied_scale",
        "refused",
        "where it is not 1 and there is depth, which it does not scale",
        _NERFSTUDIO,
    ),
    Key(
        "transform_matrix_start, transform_matrix_end",
        "refused",
        "a pose that moves: the frame is left out",
        _NGP,
    ),
    Key("ply_file_path", "ignored", "give it with --cloud", _NERFSTUDIO),
    Key("applied_transform", "ignored", "poses carry it", _NERFSTUDIO),
    Key("mask_path", "ignored", "all pixels are used", _NERFSTUDIO),
    Key(
        "train_filenames, val_filenames, test_filenames",
        "ignored",
        "all frames are taken",
        _NERFSTUDIO,
    ),
    Key(
        "aabb_scale, aabb, scale, offset, up, render_aabb, n_frames, sharpness",
        "ignored",
        "for the training of radiance fields",
        _NGP,
    ),
)
"""What a ``transforms.json`` may say."""


def read_nerfstudio(folder: Path) -> Iterator[Found]:
    """Nerfstudio and instant-ngp, ``transforms.json``: camera-to-world, camera
    axes right, up, backward. Where it is missing, all of
    ``transforms_train.json``, ``_val``, ``_test`` that are there.

    Intrinsics of all frames or of each; the middle of the first pixel is at
    1/2. Depth in ``depth_file_path``, in units of ``depth_unit_scale_factor``
    (1/1000 m), or in ``depth_path``, in units of ``integer_depth_scale``.
    Distorted cameras are refused.

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
    count = 0
    for path in _files(folder):
        content = json_object(path)
        frames = content.get("frames")
        if not isinstance(frames, list):
            raise LayoutError(f"{path}: expected a list 'frames' of objects")
        for number, frame in enumerate(frames):
            yield _image(path, content, number, frame, count)
            count += 1


def _files(folder: Path) -> list[Path]:
    path = folder / "transforms.json"
    parts = [folder / f"transforms_{s}.json" for s in ("train", "val", "test")]
    there = [part for part in parts if part.is_file()]
    return there if there and not path.is_file() else [path]


def _image(
    path: Path, content: dict[str, Any], number: int, frame: Any, count: int
) -> Found:
    """The image of a frame; ``count``: how many came before it."""
    if not isinstance(frame, dict):
        raise LayoutError(f"{path}: expected a list 'frames' of objects")
    what = f"{path}: frame {number}"
    name = frame.get("file_path")
    if not isinstance(name, str) or not name:
        return LeftOut("missing image", f"{what} has no file_path")
    matrix = frame.get("transform_matrix")
    if matrix is None:
        return LeftOut("missing pose", f"{what} has no transform_matrix")
    numbers = numbers_of(
        path, f"transform_matrix of frame {number}", matrix, 16
    )
    color = existing(file_inside(path.parent, name, path), COLOR_SUFFIXES)
    # what a frame says of itself goes before what the file says of all
    values = {**content, **frame}
    if not {"w", "h"} <= values.keys():
        if not is_there(color):
            return LeftOut("missing image", f"{color}: no such file")
        if not is_whole_image(color):
            return LeftOut("unreadable image", f"{color}: not a whole image")
        values["h"], values["w"] = image_size(color)
    depth, scale = _depth(path, number, frame, values)
    pose = torch.tensor(numbers, dtype=torch.float64).view(4, 4)
    return PosedImage(
        f"{count:05d}_{_stem(color)}",
        color,
        depth,
        _camera(path, values, (frame, content)),
        opengl_to_opencv(pose),
        scale,
    )


def _stem(color: Path) -> str:
    """Without the ending of an image, but with other parts after a dot."""
    known = color.suffix.lower() in COLOR_SUFFIXES
    return color.stem if known else color.name


def _depth(
    path: Path, number: int, frame: dict[str, Any], values: dict[str, Any]
) -> tuple[Path | None, float | None]:
    """The depth image of a frame, and its units a metre; None where the file
    does not say it.
    """
    own = ("depth_file_path", "depth_unit_scale_factor")
    other = ("depth_path", "integer_depth_scale")
    if frame.get(own[0]) is None and frame.get(other[0]) is not None:
        own, other = other, own
    name = frame.get(own[0])
    if name is None:
        return None, 1000.0
    if not isinstance(name, str):
        raise LayoutError(
            f"{path}: expected frame {number} to name its depth in {own[0]},"
            f" found {str(name)[:60]!r}"
        )
    depth = existing(file_inside(path.parent, name, path), (".png",))
    if values.get("applied_scale", 1) != 1:
        raise LayoutError(
            f"{path}: applied_scale is {str(values['applied_scale'])[:20]}, so"
            " poses are in a unit that depth does not share; divide the"
            " positions by it and take it out"
        )
    unit_of = next((key for _, key in (own, other) if key in values), None)
    if unit_of is None:
        return depth, 1000.0 if own[0] == "depth_file_path" else None
    unit = number_of(path, unit_of, values[unit_of])
    if not (0 < unit < math.inf and 0 < 1 / unit < math.inf):
        raise LayoutError(
            f"{path}: expected a positive {unit_of}, found {unit}"
        )
    return depth, 1 / unit


def _camera(
    path: Path, values: dict[str, Any], levels: tuple[dict[str, Any], ...]
) -> Camera:
    """The camera of a frame. ``values``: all that holds for it; ``levels``: of
    the frame and then of all, for what can be said in several ways.
    """
    _check_undistorted(path, values)
    width = number_of(path, "w", values.get("w"))
    height = number_of(path, "h", values.get("h"))
    fx = _focal(path, levels, ("fl_x", "x_fov", "camera_angle_x"), width)
    fy = _focal(path, levels, ("fl_y", "y_fov", "camera_angle_y"), height)
    if fx is None and fy is None:
        raise LayoutError(
            f"{path}: expected a focal length in fl_x, x_fov or"
            " camera_angle_x, found none"
        )
    cx = number_of(path, "cx", values.get("cx", width / 2))
    cy = number_of(path, "cy", values.get("cy", height / 2))
    fx, fy = fx or fy or 0.0, fy or fx or 0.0
    return camera_of(path, fx, fy, cx - 0.5, cy - 0.5, width, height)


def _focal(
    path: Path,
    levels: tuple[dict[str, Any], ...],
    keys: tuple[str, str, str],
    size: float,
) -> float | None:
    """A focal length in pixels, as the first of ``levels`` that says it has it
    (pixels, degrees or radians); None where none does.
    """
    pixels, degrees, radians = keys
    for values in levels:
        told = []
        if values.get(pixels) is not None:
            told.append(number_of(path, pixels, values[pixels]))
        if values.get(degrees) is not None:
            angle = number_of(path, degrees, values[degrees])
            told.append(_of_angle(math.radians(angle), size))
        if len(told) == 2 and not math.isclose(*told, rel_tol=0.01):
            raise LayoutError(
                f"{path}: {pixels} is {told[0]:g} px and {degrees} means"
                f" {told[1]:g} px; take the wrong one out"
            )
        if not told and values.get(radians) is not None:
            told = [_of_angle(number_of(path, radians, values[radians]), size)]
        if told:
            return told[0]
    return None


def _of_angle(angle: float, size: float) -> float:
    """The focal length of ``size`` pixels seen under an angle in radians."""
    half = math.tan(0.5 * angle) if math.isfinite(angle) else math.nan
    return 0.5 * size / half if half else math.inf


def _check_undistorted(path: Path, values: dict[str, Any]) -> None:
    bent = [key for key in DISTORTION if values.get(key) not in (None, 0)]
    for key in OTHER_LENSES:
        said = values.get(key)
        if any(said) if isinstance(said, list) else said:
            bent.append(key)
    model = values.get("camera_model", "OPENCV")
    if bent or model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        raise LayoutError(
            f"{path}: a distorted camera ({str(model)[:40]},"
            f" {', '.join(bent) or 'no pinhole'}); undistort the images first"
        )
