"""ARKitScenes, Apple's data set of rooms recorded with tablets.

It was brought from ARKit's axes to right, down, forward and z up before it was
published. Images lie as the sensor does, so many lie on their side: the
converter turns them.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from vlg_lib.convert.formats.base import Found, Key, LeftOut, PosedImage
from vlg_lib.convert.parsing import (
    TimedRow,
    camera_of,
    floats_of,
    images_in,
    nearest_in_time,
    stamped_rows,
    text_rows,
)
from vlg_lib.data.files import existing, files_in
from vlg_lib.data.frames import LayoutError
from vlg_lib.geometry.poses import (
    inverse,
    pose_from_quaternion,
    unknown_pose,
)
from vlg_lib.scene import Camera

SAME_FRAME = 0.005
"""Seconds between an image and the pose or camera that belong to it (Apple's
own reader takes as much)."""

_DATA = "ARKitScenes, DATA.md and its threedod reader"
KEYS = (
    Key("lowres_wide/VIDEO_SECONDS.png", "read", "the images", _DATA),
    Key("lowres_depth/VIDEO_SECONDS.png", "read", "16-bit, mm", _DATA),
    Key(
        "lowres_wide.traj",
        "read",
        "seconds, axis times angle, translation: world to camera",
        _DATA,
    ),
    Key(
        "lowres_wide_intrinsics/VIDEO_SECONDS.pincam",
        "read",
        "width height fx fy cx cy, of the image of that time",
        _DATA,
    ),
    Key("confidence", "ignored", "all depth is taken", _DATA),
    Key(
        "wide, vga_wide, ultrawide, highres_depth",
        "ignored",
        "other images of the same moments",
        _DATA,
    ),
    Key("VIDEO_3dod_annotation.json", "ignored", "boxes, not labels", _DATA),
    Key("VIDEO_3dod_mesh.ply", "ignored", "give it with --cloud", _DATA),
)
"""What lies in such a folder."""


def read_arkitscenes(folder: Path) -> Iterator[Found]:
    """ARKitScenes, the folder of a video or its ``VIDEO_frames``; an image is
    named ``VIDEO_SECONDS.png``.

    ``lowres_wide.traj``: seconds, then world-to-camera as an axis times an
    angle in radians and a translation in metres.
    ``lowres_wide_intrinsics/VIDEO_SECONDS.pincam``: width, height, fx, fy, cx,
    cy. Depth is that of the LiDAR, 16-bit PNG in mm. Images without a pose of
    their time (the raw data set has 60 images and 10 poses a second) are left
    out by the converter.
    """
    places = (folder, *sorted(folder.glob("*_frames")))
    inner = next(
        (place for place in places if (place / "lowres_wide").is_dir()), folder
    )
    path = inner / "lowres_wide.traj"
    poses = stamped_rows(path, 7)
    cameras = _cameras_by_time(inner / "lowres_wide_intrinsics")
    colors = images_in(inner / "lowres_wide")
    times = [(0, time, [""]) for c in colors if (time := _seconds(c))]
    times.sort(key=lambda row: row[1])
    for _, time, (name,) in cameras:
        if nearest_in_time(times, time, SAME_FRAME) is None:
            yield LeftOut("missing image", f"{name}: no image of this time")
    for color in colors:
        time = _seconds(color)
        if time is None:
            yield LeftOut(
                "name without a time",
                f"{color}: expected a name that ends in a time,"
                f" VIDEO_SECONDS{color.suffix}",
            )
            continue
        camera = nearest_in_time(cameras, time, SAME_FRAME)
        if camera is None:
            missing = inner / "lowres_wide_intrinsics" / color.stem
            yield LeftOut(
                "missing camera",
                f"{missing}.pincam: no such file, nor of this time",
            )
            continue
        row = nearest_in_time(poses, time, SAME_FRAME)
        depth = inner / "lowres_depth" / f"{color.stem}.png"
        try:
            yield PosedImage(
                color.stem,
                color,
                existing(depth, (".png",)),
                _pincam(Path(camera[2][0])),
                unknown_pose() if row is None else _pose(path, row),
            )
        except LayoutError as error:
            yield LeftOut("unreadable camera or pose", str(error))


def _seconds(path: Path) -> float | None:
    """The time in a name like ``41254925_3244.123.png``."""
    try:
        time = float(path.stem.rpartition("_")[2])
    except ValueError:
        return None
    return time if math.isfinite(time) else None


def _cameras_by_time(folder: Path) -> list[TimedRow]:
    """The camera files and their times; those whose names have none are no
    cameras of an image.
    """
    rows: list[TimedRow] = []
    for path in files_in(folder, (".pincam",)):
        time = _seconds(path)
        if time is not None:
            rows.append((0, time, [str(path)]))
    return sorted(rows, key=lambda row: row[1])


def _pincam(path: Path) -> Camera:
    rows = list(text_rows(path))
    if len(rows) != 1:
        raise LayoutError(f"{path}: expected one line, found {len(rows)}")
    width, height, fx, fy, cx, cy = floats_of(path, *rows[0], 6)
    return camera_of(path, fx, fy, cx, cy, width, height)


def _pose(path: Path, row: TimedRow) -> Float[Tensor, "4 4"]:
    """Camera-to-world of a line of the trajectory."""
    number, _, words = row
    numbers = floats_of(path, number, words, 6)
    if not np.isfinite(numbers).all():
        return unknown_pose()
    quaternion = Rotation.from_rotvec(numbers[:3]).as_quat().tolist()
    return inverse(pose_from_quaternion(quaternion, numbers[3:]))
