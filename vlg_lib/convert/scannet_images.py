"""The images of a ScanNet scene as they are handed around, exported from its
stream: found in each of the usual layouts, with their intrinsics.

=========================== =================================================
ScanNet's Python exporter   color/0.jpg, depth/0.png, pose/0.txt,
                            intrinsic/intrinsic_color.txt, intrinsic_depth.txt
scannet_frames_25k          color/000000.jpg and so on, intrinsics_color.txt
                            and intrinsics_depth.txt beside these folders
OpenScene's scannet_2d      color/0.jpg and so on, all of one size; one
                            intrinsics.txt for all scenes, beside them
mmdetection3d, posed_images 00000.jpg, 00000.png, 00000.txt and intrinsic.txt
                            in one folder
ScanNet's C++ exporter      frame-000000.color.jpg, .depth.pgm, .pose.txt and
                            _info.txt in one folder
=========================== =================================================

Depth may be missing in all of them. Where there are no intrinsics for depth,
those of colour are resized.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.convert.parsing import camera_of_matrix
from vlg_lib.data.frames import (
    COLOR_SUFFIXES,
    LayoutError,
    depth_size,
    image_size,
    read_matrix,
)
from vlg_lib.geometry.cameras import resize_camera
from vlg_lib.scene import Camera

_DEPTH_SUFFIXES = (".png", ".pgm")
_IN_FOLDERS = {
    "color": COLOR_SUFFIXES,
    "depth": _DEPTH_SUFFIXES,
    "pose": (".txt",),
}
_FLAT = {
    "color": (".jpg", ".jpeg"),
    "depth": _DEPTH_SUFFIXES,
    "pose": (".txt",),
}
_CPP_NAME = re.compile(r"frame-([0-9]+)\.(color|depth|pose)\.[a-z]+", re.I)
_MATRICES = ("intrinsic/intrinsic_{}.txt", "intrinsics_{}.txt")
_SHARED = ("intrinsic.txt", "intrinsics.txt", "../intrinsics.txt")
_INFO = ("_info.txt", "info.txt")


@dataclass(frozen=True)
class ExportedImages:
    """The files of a scene's frames, each by its frame's name, a number."""

    color: dict[str, Path] = field(default_factory=dict)
    depth: dict[str, Path] = field(default_factory=dict)
    pose: dict[str, Path] = field(default_factory=dict)


def find_images(folder: Path) -> ExportedImages:
    """The files of the frames in a scene's folder, whichever layout it has."""
    found = ExportedImages()
    for kind, suffixes in _IN_FOLDERS.items():
        getattr(found, kind).update(_by_number(folder / kind, suffixes))
    if found.color:
        return found
    for path in _files(folder):
        if match := _CPP_NAME.fullmatch(path.name):
            getattr(found, match[2].lower())[match[1]] = path
    if found.color:
        return found
    flat = {
        kind: _by_number(folder, suffixes) for kind, suffixes in _FLAT.items()
    }
    return ExportedImages(**flat) if flat["color"] else found


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder but for those that systems leave, in order."""
    if folder.is_dir():
        yield from sorted(
            path for path in folder.iterdir() if not path.name.startswith(".")
        )


def _by_number(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    return {
        path.stem: path
        for path in _files(folder)
        if path.suffix.lower() in suffixes and path.stem.isdecimal()
    }


def color_camera(folder: Path, image: Path) -> Camera:
    """The camera of the colour images of a scene, one of which is ``image``;
    LayoutError where no layout's intrinsics are there.
    """
    size = image_size(image)
    if (own := _own_camera(folder, "color", size)) is not None:
        return own
    for name in _SHARED:
        path = folder / name
        if path.is_file():
            camera = camera_of_matrix(path, read_matrix(path), size)
            _check_middle(path, camera)
            return camera
    raise LayoutError(
        f"{folder / _MATRICES[0].format('color')}: no such file, and none of"
        " intrinsics_color.txt, intrinsic.txt, intrinsics.txt (here or beside"
        " the scenes), _info.txt; export the intrinsics, too"
    )


def depth_camera(folder: Path, image: Path, color: Camera) -> Camera:
    """The camera of the depth images of a scene, one of which is ``image``."""
    height, width = depth_size(image)
    own = _own_camera(folder, "depth", (height, width))
    return resize_camera(color, width, height) if own is None else own


def _own_camera(
    folder: Path, what: str, size: tuple[int, int]
) -> Camera | None:
    """The camera that a file of the scene's own gives; None without."""
    for name in _MATRICES:
        path = folder / name.format(what)
        if path.is_file():
            return camera_of_matrix(path, read_matrix(path), size)
    for name in _INFO:
        path = folder / name
        if path.is_file():
            return camera_of_matrix(path, _from_info(path, what), size)
    return None


def _from_info(path: Path, what: str) -> Float[Tensor, "4 4"]:
    """A matrix of the C++ exporter's ``_info.txt``."""
    key = f"m_calibration{what.capitalize()}Intrinsic"
    for line in path.read_text("utf-8-sig", "replace").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == key:
            try:
                numbers = [float(word) for word in value.split()]
                return torch.tensor(numbers, dtype=torch.float64).view(4, 4)
            except (ValueError, RuntimeError) as error:
                raise LayoutError(
                    f"{path}: expected {key} = 16 numbers, found"
                    f" {value.strip()!r}"
                ) from error
    raise LayoutError(f"{path}: expected a line {key} = 16 numbers, found none")


def _check_middle(path: Path, camera: Camera) -> None:
    """LayoutError where intrinsics that do not stand in the scene's own folder
    are of images of another size.
    """
    off = max(
        abs(2 * camera.cx / camera.width - 1),
        abs(2 * camera.cy / camera.height - 1),
    )
    if off > 0.2:
        raise LayoutError(
            f"{path}: expected the intrinsics of images of {camera.width} x"
            f" {camera.height} pixels, found a principal point of"
            f" ({camera.cx:g}, {camera.cy:g}); give those of this size"
        )
