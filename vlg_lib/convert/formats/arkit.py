"""Scans of phones and tablets, made by Apple's ARKit: Record3D, Polycam's raw
data, and the ARKitScenes data set.

ARKit's own camera axes are right, up, backward, and its world has y up;
ARKitScenes was brought to right, down, forward and z up before it was
published. Depth is that of the LiDAR, smoothed: 16-bit PNG in millimetres,
smaller than the images and registered to them. Images lie as the sensor does,
so a phone held upright gives images that lie on their side: ``convert_scan.py``
turns them.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from vlg_lib.convert.formats.base import PosedImage
from vlg_lib.convert.parsing import (
    TimedRow,
    camera_of,
    floats_of,
    images_in,
    json_object,
    nearest_in_time,
    numbers_of,
    stamped_rows,
    text_rows,
)
from vlg_lib.data.frames import LayoutError
from vlg_lib.geometry.poses import OPENGL, inverse, pose_from
from vlg_lib.scene import Camera

SAME_FRAME = 0.005
"""Seconds between an image and the pose or camera that belong to it (Apple's
own reader takes as much)."""


def read_record3d(folder: Path) -> Iterator[PosedImage]:
    """Record3D, its RGB-D export: ``metadata.json`` with K (column by column)
    and poses x y z w, then x y z.

    Camera-to-world with ARKit's camera axes (right, up, backward) and y up.
    Depth as 16-bit PNG in mm.
    """
    path = folder / "metadata.json"
    content = json_object(path)
    width, height = (
        numbers_of(path, key, content.get(key), 1)[0] for key in ("w", "h")
    )
    k = numbers_of(path, "K", content.get("K"), 9)
    shared = camera_of(path, k[0], k[4], k[6], k[7], width, height)
    colors, poses = images_in(folder / "rgb"), content.get("poses")
    if not isinstance(poses, list) or len(poses) != len(colors):
        raise LayoutError(
            f"{path}: expected 'poses', one for each of the {len(colors)}"
            " images in rgb/"
        )
    own = content.get("perFrameIntrinsicCoeffs")
    for i, (color, entry) in enumerate(zip(colors, poses, strict=True)):
        numbers = numbers_of(path, f"pose {i}", entry, 7)
        camera = shared
        if isinstance(own, list) and len(own) == len(colors):
            fx, fy, cx, cy = numbers_of(
                path, f"perFrameIntrinsicCoeffs {i}", own[i], 4
            )
            camera = camera_of(path, fx, fy, cx, cy, width, height)
        depth = folder / "depth" / f"{color.stem}.png"
        if depth.with_suffix(".exr").is_file() and not depth.is_file():
            raise LayoutError(
                f"{depth.with_suffix('.exr')}: convert depth to 16-bit PNG in"
                " millimetres, beside it"
            )
        pose = pose_from(numbers[:4], numbers[4:]) @ OPENGL
        yield PosedImage(
            color.stem,
            color,
            depth if depth.parent.is_dir() else None,
            camera,
            pose,
        )


def read_polycam(folder: Path) -> Iterator[PosedImage]:
    """Polycam's raw data ("developer mode"): ``keyframes/`` with ``images/``,
    ``cameras/NAME.json`` and ``depth/``.

    A camera file holds fx, fy, cx, cy, width, height and t_00 to t_23, the
    upper three rows of camera-to-world, with ARKit's axes and y up. Where
    Polycam optimised the poses, ``corrected_cameras`` and ``corrected_images``
    are taken.
    """
    inner = folder / "keyframes" if (folder / "keyframes").is_dir() else folder
    better = all(
        (inner / name).is_dir()
        for name in ("corrected_cameras", "corrected_images")
    )
    images, cameras = (
        ("corrected_images", "corrected_cameras")
        if better
        else ("images", "cameras")
    )
    for color in images_in(inner / images):
        path = inner / cameras / f"{color.stem}.json"
        values = json_object(path)
        fx, fy, cx, cy, width, height = (
            numbers_of(path, key, values.get(key), 1)[0]
            for key in ("fx", "fy", "cx", "cy", "width", "height")
        )
        rows = [
            [
                numbers_of(path, f"t_{i}{j}", values.get(f"t_{i}{j}"), 1)[0]
                for j in range(4)
            ]
            for i in range(3)
        ]
        pose = (
            torch.tensor([*rows, [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
            @ OPENGL
        )
        depth = (
            inner / "depth" / f"{color.stem}.png"
            if (inner / "depth").is_dir()
            else None
        )
        yield PosedImage(
            color.stem,
            color,
            depth,
            camera_of(path, fx, fy, cx, cy, width, height),
            pose,
        )


def read_arkitscenes(folder: Path) -> Iterator[PosedImage]:
    """ARKitScenes, the folder of a video or its ``VIDEO_frames``; an image is
    named ``VIDEO_SECONDS.png``.

    ``lowres_wide.traj``: seconds, then world-to-camera as an axis times an
    angle in radians and a translation in metres.
    ``lowres_wide_intrinsics/VIDEO_SECONDS.pincam``: width, height, fx, fy, cx,
    cy. Images without a pose of their time (the raw data set has 60 images and
    10 poses a second) are left out by the converter.
    """
    places = (folder, *sorted(folder.glob("*_frames")))
    inner = next(
        (place for place in places if (place / "lowres_wide").is_dir()), folder
    )
    path = inner / "lowres_wide.traj"
    poses, cameras = (
        stamped_rows(path, 7),
        _cameras_by_time(inner / "lowres_wide_intrinsics"),
    )
    for color in images_in(inner / "lowres_wide"):
        time = _seconds(color)
        row, camera = (
            nearest_in_time(poses, time, SAME_FRAME),
            nearest_in_time(cameras, time, SAME_FRAME),
        )
        if camera is None:
            raise LayoutError(
                f"{inner / 'lowres_wide_intrinsics' / color.stem}.pincam: no"
                " such file, nor of this time"
            )
        pose = torch.full((4, 4), torch.nan, dtype=torch.float64)
        if row is not None:
            pose = inverse(
                _pose_of_axis_angle(floats_of(path, row[0], row[2], 6))
            )
        yield PosedImage(
            color.stem,
            color,
            inner / "lowres_depth" / color.name,
            _pincam(Path(camera[2][0])),
            pose,
        )


def _seconds(path: Path) -> float:
    """The time in a name like ``41254925_3244.123.png``."""
    try:
        time = float(path.stem.rpartition("_")[2])
    except ValueError:
        time = math.nan
    if not math.isfinite(time):
        raise LayoutError(
            f"{path}: expected a name that ends in a time,"
            f" VIDEO_SECONDS{path.suffix}"
        )
    return time


def _cameras_by_time(folder: Path) -> list[TimedRow]:
    paths = folder.glob("*.pincam")
    return sorted(
        ((0, _seconds(path), [str(path)]) for path in paths),
        key=lambda entry: entry[1],
    )


def _pincam(path: Path) -> Camera:
    rows = list(text_rows(path))
    if len(rows) != 1:
        raise LayoutError(f"{path}: expected one line, found {len(rows)}")
    width, height, fx, fy, cx, cy = floats_of(path, *rows[0], 6)
    return camera_of(path, fx, fy, cx, cy, width, height)


def _pose_of_axis_angle(numbers: list[float]) -> Tensor:
    """A 4x4 matrix from an axis times an angle, and a translation; NaN where
    the numbers are not finite.
    """
    if not np.isfinite(numbers).all():
        return torch.full((4, 4), torch.nan, dtype=torch.float64)
    return pose_from(
        Rotation.from_rotvec(numbers[:3]).as_quat().tolist(), numbers[3:]
    )
