"""7-Scenes, Microsoft's data set of rooms recorded with a Kinect, and others
that name their files so: BundleFusion, 12-Scenes, 3RScan.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.convert.formats.base import Found, Key, LeftOut, PosedImage
from vlg_lib.convert.parsing import camera_of
from vlg_lib.data.files import existing, files_in, read_text
from vlg_lib.data.frames import LayoutError, natural_key, read_matrix
from vlg_lib.scene import Camera

KINECT = Camera(585.0, 585.0, 320.0, 240.0, 640, 480)
"""The data set gives no calibration but "focal length 585, principal point
(320, 240)" at 640 x 480."""
COLORS = (".color.png", ".color.jpg", ".color.jpeg")
"""How colour images are named."""
DEPTHS = (".depth.png", ".depth.pgm")
"""How depth images are named."""
_SENS = "BundleFusion's and ScanNet's sensorData.h; 3RScan"

KEYS = (
    Key("frame-N.color.png, .jpg", "read", "the images", "7-Scenes, 3RScan"),
    Key(
        "frame-N.depth.png, .pgm",
        "read",
        "16-bit, mm, 65535 missing",
        "7-Scenes, 3RScan",
    ),
    Key("frame-N.pose.txt", "read", "camera to world", "7-Scenes"),
    Key(
        "camera-intrinsics.txt",
        "read",
        "3x3, of the colour images",
        "copies of 7-Scenes for TSDF fusion",
    ),
    Key("m_colorWidth, m_colorHeight", "read", "size of m_calibration", _SENS),
    Key("m_calibrationColorIntrinsic", "read", "4x4 or 3x4", _SENS),
    Key("m_depthWidth, m_depthHeight", "read", "as for colour", _SENS),
    Key("m_calibrationDepthIntrinsic", "read", "of the depth images", _SENS),
    Key("m_depthShift", "read", "depth codes a metre", _SENS),
    Key(
        "m_calibrationColorExtrinsic, m_calibrationDepthExtrinsic",
        "refused",
        "where one is not the identity: depth is not registered",
        _SENS,
    ),
    Key(
        "m_versionNumber, m_sensorName, m_frames.size",
        "ignored",
        "the files themselves are counted",
        _SENS,
    ),
    Key("no info.txt", "read", "585 px at 640 x 480", "7-Scenes, its page"),
)
"""What lies in such a folder, and what ``info.txt`` or ``_info.txt`` says."""


@dataclass(frozen=True)
class _Sensor:
    """What holds for all frames of a folder."""

    color: Camera
    depth: Camera | None
    scale: float
    remark: str = ""


def read_seven_scenes(folder: Path) -> Iterator[Found]:
    """7-Scenes, a folder ``seq-XX`` or one that holds some: camera-to-world
    matrices, camera axes right, down, forward, depth in mm with 65535 missing.

    The camera is that of ``info.txt`` or ``_info.txt`` (BundleFusion, 3RScan)
    or ``camera-intrinsics.txt``, in the folder or above; else KINECT.
    """
    inner = [p for p in folder.glob("*") if p.is_dir()]
    inner.sort(key=lambda path: natural_key(path.name))
    for place in [folder, *inner]:
        names = _names(place)
        if not names:
            continue
        prefix = "" if place == folder else f"{place.name}_"
        sensor = _sensor(place, folder)
        for name in names:
            yield _image(place, name, prefix, sensor)


def _names(place: Path) -> list[str]:
    """The frames of a folder: those with an image, depth or a pose."""
    found = set()
    for path in files_in(place, (*COLORS, *DEPTHS, ".pose.txt")):
        if path.name.startswith("frame-"):
            found.add(path.name.split(".")[0])
    return sorted(found, key=natural_key)


def _image(place: Path, name: str, prefix: str, sensor: _Sensor) -> Found:
    color = existing(place / f"{name}.color.png", _last(COLORS))
    depth = existing(place / f"{name}.depth.png", _last(DEPTHS))
    matrix = place / f"{name}.pose.txt"
    if not color.is_file():
        return LeftOut("missing image", f"{color}: no such file")
    if not matrix.is_file():
        return LeftOut("missing pose", f"{matrix}: no such file")
    try:
        pose = read_matrix(matrix)
    except LayoutError as error:
        return LeftOut("invalid pose", str(error))
    return PosedImage(
        prefix + name,
        color,
        depth,
        sensor.color,
        pose,
        sensor.scale,
        sensor.remark,
        sensor.depth,
    )


def _last(endings: tuple[str, ...]) -> list[str]:
    """The last parts of endings, such as ".png" of ".color.png"."""
    return ["." + ending.rpartition(".")[2] for ending in endings]


def _sensor(place: Path, folder: Path) -> _Sensor:
    """The cameras and the depth's units of a folder of frames."""
    names = ("info.txt", "_info.txt")
    above = place.parent if place != folder else folder
    for path in [p / name for p in (place, above) for name in names]:
        if path.is_file():
            return _of_info(path)
    for path in [p / "camera-intrinsics.txt" for p in (place, above)]:
        if path.is_file():
            k = read_matrix(path)
            if tuple(k.shape) not in ((3, 3), (4, 4)):
                raise LayoutError(
                    f"{path}: expected a 3x3 matrix, found {tuple(k.shape)}"
                )
            return _Sensor(
                _camera(path, k, KINECT.width, KINECT.height), None, 1000.0
            )
    return _Sensor(
        KINECT,
        None,
        1000.0,
        f"{place}: no info.txt says the camera; that of 7-Scenes is taken,"
        " 585 px at 640 x 480 (another: --camera)",
    )


def _of_info(path: Path) -> _Sensor:
    """What ``info.txt`` says: lines ``key = value``."""
    lines = [line.partition("=") for line in read_text(path).splitlines()]
    values = {key.strip(): value.split() for key, _, value in lines}
    for key in ("m_calibrationColorExtrinsic", "m_calibrationDepthExtrinsic"):
        matrix = _numbers(path, key, values.get(key, []))
        near = torch.eye(4, dtype=torch.float64).flatten()
        if len(matrix) and (
            len(matrix) != 16 or not torch.allclose(matrix, near, atol=1e-4)
        ):
            raise LayoutError(
                f"{path}: {key} is not the identity, so depth is not"
                " registered to the images; register it first"
            )
    color = _of_matrix(path, values, "Color", "color")
    if color is None:
        raise LayoutError(
            f"{path}: expected m_calibrationColorIntrinsic, m_colorWidth and"
            " m_colorHeight"
        )
    shift = _numbers(path, "m_depthShift", values.get("m_depthShift", ["1000"]))
    if len(shift) != 1 or not 0 < float(shift[0]) < 1e9:
        raise LayoutError(f"{path}: expected a positive m_depthShift")
    depth = _of_matrix(path, values, "Depth", "depth")
    return _Sensor(color, depth, float(shift[0]))


def _of_matrix(
    path: Path, values: dict[str, list[str]], what: str, small: str
) -> Camera | None:
    keys = (
        f"m_calibration{what}Intrinsic",
        f"m_{small}Width",
        f"m_{small}Height",
    )
    told = [_numbers(path, key, values.get(key, [])) for key in keys]
    if not all(len(numbers) for numbers in told):
        return None
    k, width, height = told
    if len(k) not in (12, 16):
        raise LayoutError(
            f"{path}: expected 16 numbers of {keys[0]}, found {len(k)}"
        )
    return _camera(path, k.view(-1, 4), float(width[0]), float(height[0]))


def _camera(
    path: Path, k: Float[Tensor, "rows columns"], width: float, height: float
) -> Camera:
    fx, fy, cx, cy = (
        float(k[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))
    )
    return camera_of(path, fx, fy, cx, cy, width, height)


def _numbers(path: Path, key: str, words: list[str]) -> Float[Tensor, " N"]:
    try:
        return torch.tensor([float(w) for w in words], dtype=torch.float64)
    except ValueError as error:
        raise LayoutError(f"{path}: {key}: {error}") from error
