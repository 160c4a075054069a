"""The TUM RGB-D benchmark, whose layout many SLAM programs share."""

from collections.abc import Iterator
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from vlg_lib.convert.formats.base import Found, Key, LeftOut, PosedImage
from vlg_lib.convert.parsing import (
    TimedRow,
    camera_of,
    file_inside,
    floats_of,
    nearest_in_time,
    stamped_rows,
    text_rows,
)
from vlg_lib.data.files import existing, is_there
from vlg_lib.data.frames import (
    COLOR_SUFFIXES,
    LayoutError,
    image_size,
    is_whole_image,
)
from vlg_lib.geometry.poses import pose_from_quaternion, unknown_pose
from vlg_lib.scene import Camera

SAME_TIME = 0.02
"""Seconds between an image and the depth image or pose that is taken for it
(the TUM tools' own choice)."""

TUM_CAMERAS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
    "": (525.0, 525.0, 319.5, 239.5),
}
"""fx, fy, cx, cy of the data set's cameras, chosen by the folder's name, else
the OpenNI default."""

_TUM = "TUM RGB-D, its page on file formats"
KEYS = (
    Key("rgb.txt", "read", "time stamp and file", _TUM),
    Key("depth.txt", "read", "the same; 1/5000 m, 0 missing", _TUM),
    Key("groundtruth.txt", "read", "t x y z qx qy qz qw", _TUM),
    Key(
        "calibration.txt",
        "read",
        "fx fy cx cy in pixels of the images; more numbers: refused",
        "ETH3D SLAM, its documentation",
    ),
    Key(
        "freiburg1, freiburg2, freiburg3",
        "read",
        "in the folder's name: the camera that TUM's page gives",
        _TUM,
    ),
    Key(
        "no camera anywhere",
        "read",
        "525 px at 640 x 480 is taken and named; --camera says another",
        _TUM,
    ),
    Key("accelerometer.txt, imu.txt", "ignored", "no image", _TUM),
    Key(
        "associated.txt",
        "ignored",
        "images, depth and poses are joined by their own times",
        "ETH3D SLAM, its documentation",
    ),
)
"""What lies in such a folder."""


def read_tum(folder: Path) -> Iterator[Found]:
    """TUM RGB-D: lists of time stamps, ``groundtruth.txt`` camera-to-world with
    quaternions x y z w, camera axes right, down, forward, depth 1/5000 m.

    The camera is that of ``calibration.txt`` (fx fy cx cy, as ETH3D writes it);
    else that of the data set, by the folder's name.
    """
    colors = stamped_rows(folder / "rgb.txt", 2)
    depths = stamped_rows(folder / "depth.txt", 2)
    poses = stamped_rows(folder / "groundtruth.txt", 8)
    if len(colors) < len(list(text_rows(folder / "rgb.txt"))):
        yield LeftOut("unreadable line", f"{folder / 'rgb.txt'}: it is cut")
    own = _calibration(folder / "calibration.txt")
    camera, remark = _camera(folder)
    for number, time, (name,) in colors:
        color = existing(
            file_inside(folder, name, folder / "rgb.txt"), COLOR_SUFFIXES
        )
        if own is not None:
            if not is_there(color):
                yield LeftOut("missing image", f"{color}: no such file")
                continue
            if not is_whole_image(color):
                yield LeftOut("unreadable image", f"{color}: not whole")
                continue
            height, width = image_size(color)
            camera = camera_of(folder / "calibration.txt", *own, width, height)
        depth = nearest_in_time(depths, time, SAME_TIME)
        pose = nearest_in_time(poses, time, SAME_TIME)
        yield PosedImage(
            Path(name.replace("\\", "/")).stem or str(number),
            color,
            _depth(folder, depth),
            camera,
            unknown_pose() if pose is None else _pose(folder, pose),
            5000.0,
            "" if own is not None else remark,
        )


def _calibration(path: Path) -> tuple[float, float, float, float] | None:
    """fx, fy, cx, cy of a file with these numbers; None where it is missing."""
    if not path.is_file():
        return None
    rows = list(text_rows(path))
    if len(rows) != 1 or len(rows[0][1]) != 4:
        raise LayoutError(
            f"{path}: expected one line, fx fy cx cy, of images without"
            f" distortion, found {len(rows)} lines of"
            f" {len(rows[0][1]) if rows else 0} words; undistort the images, or"
            " take the file away and say --camera"
        )
    fx, fy, cx, cy = floats_of(path, *rows[0], 4)
    return fx, fy, cx, cy


def _camera(folder: Path) -> tuple[Camera, str]:
    """The data set's camera by the folder's name, and what to say of it."""
    name = folder.resolve().name
    key = next(key for key in TUM_CAMERAS if key in name)
    camera = Camera(*TUM_CAMERAS[key], 640, 480)
    if key:
        return camera, ""
    return camera, (
        f"{folder}: no calibration.txt says the camera; the OpenNI default is"
        " taken, 525 px at 640 x 480 (another: --camera)"
    )


def _depth(folder: Path, row: TimedRow | None) -> Path:
    """The file of a row of depth.txt; one that does not exist without a row."""
    if row is None:
        return folder / "no-depth"
    path = file_inside(folder, row[2][0], folder / "depth.txt")
    return existing(path, (".png",))


def _pose(folder: Path, row: TimedRow) -> Float[Tensor, "4 4"]:
    number, _, words = row
    numbers = floats_of(folder / "groundtruth.txt", number, words, 7)
    return pose_from_quaternion(numbers[3:], numbers[:3])
