"""Depth images of a scan: 16-bit PNG (or PGM), the depth maps that COLMAP's
dense stage writes (``stereo/depth_maps``), EXR, and the compressed floats of
Record3D's ``.r3d``.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.data.frames import (
    LayoutError,
    depth_size,
    is_whole_image,
    read_depth,
)

COLMAP = ".bin"
"""The ending of COLMAP's depth maps: "width&height&channels&" in ASCII, then
float32 little-endian, row after row."""
EXR = ".exr"
"""The ending of OpenEXR's images: one channel of metres."""
PACKED = ".depth"
"""The ending of depth in an .r3d: float32 little-endian, metres, compressed
with LZFSE; its size stands in the metadata."""

_PACKAGES = {EXR: ("OpenEXR", "OpenEXR"), PACKED: ("liblzfse", "pyliblzfse")}
"""The module that reads a kind, and the package that brings it."""


class MissingPackageError(LayoutError):
    """A depth map needs a package that is not there; the message names it."""


def check_packages(path: Path) -> None:
    """MissingPackageError where a depth image of this ending cannot be read
    here, so that a scan ends with a word and not without frames.

    >>> check_packages(Path("depth/0.png"))
    """
    if path.suffix.lower() in _PACKAGES:
        _package(path)


def map_size(
    path: Path, size: tuple[int, int] | None = None
) -> tuple[int, int]:
    """(height, width) of a depth image of any kind, from its header; ``size``
    where its kind has none. LayoutError where it is none.
    """
    ending = path.suffix.lower()
    if ending == COLMAP:
        return _header(path)[:2]
    if ending == EXR:
        return _exr(path).shape
    if ending == PACKED:
        return _packed(path, size).shape
    return depth_size(path)


def read_map(
    path: Path,
    scale: float,
    missing: tuple[int, ...],
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "height width"]:
    """Depth (H, W) float32, 0 where missing: of PNG in codes of ``scale`` a
    unit (``missing``: those that mean "no depth" besides 0), of COLMAP in units
    of its model, of the others in metres. ``size``: (height, width) where the
    kind has none. LayoutError where the file is missing, cut or foreign.
    """
    ending = path.suffix.lower()
    if ending == COLMAP:
        values = _colmap(path)
    elif ending == EXR:
        values = _exr(path)
    elif ending == PACKED:
        values = _packed(path, size)
    else:
        return read_depth(path, scale, missing)
    depth = torch.from_numpy(np.array(values, np.float32))
    return torch.where(depth.isfinite() & (depth > 0), depth, 0.0)


def is_whole_map(path: Path, size: tuple[int, int] | None = None) -> bool:
    """Whether a depth image of any kind is there to its end."""
    ending = path.suffix.lower()
    if ending not in (COLMAP, EXR, PACKED):
        return is_whole_image(path)
    try:
        if ending != COLMAP:
            map_size(path, size)
            return True
        height, width, start = _header(path)
    except MissingPackageError:
        raise
    except LayoutError:
        return False
    return path.stat().st_size == start + 4 * height * width


def _package(path: Path) -> ModuleType:
    name, package = _PACKAGES[path.suffix.lower()]
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"{path}: reading it needs a package that is not there:"
            f" pip install {package} ({error})"
        ) from error


def _colmap(path: Path) -> Float[np.ndarray, "height width"]:
    height, width, start = _header(path)
    values = np.frombuffer(path.read_bytes(), "<f4", offset=start)
    if len(values) != height * width:
        raise LayoutError(
            f"{path}: expected {height} x {width} numbers, found {len(values)};"
            " was the copy cut short?"
        )
    return values.reshape(height, width)


def _exr(path: Path) -> Float[np.ndarray, "height width"]:
    """The one channel of an EXR, or the equal ones of a grey image."""
    package = _package(path)
    try:
        with package.File(str(path), True) as file:
            layers = [
                np.asarray(channel.pixels, np.float32)
                for channel in file.channels().values()
            ]
    except (RuntimeError, ValueError, TypeError, OSError, MemoryError) as error:
        raise LayoutError(f"{path}: no whole EXR image ({error})") from error
    if (
        not layers
        or layers[0].ndim != 2
        or not all(np.array_equal(layer, layers[0], True) for layer in layers)
    ):
        raise LayoutError(
            f"{path}: expected one channel of depth, found {len(layers)} that"
            " differ; export the depth alone"
        )
    return layers[0]


def _packed(
    path: Path, size: tuple[int, int] | None
) -> Float[np.ndarray, "height width"]:
    """The depth of an .r3d; its size is in the metadata."""
    package = _package(path)
    if size is None:
        raise LayoutError(
            f"{path}: expected its size as dw and dh in metadata, found none"
        )
    content = path.read_bytes()
    try:
        if len(content) != 4 * size[0] * size[1]:  # else it is not compressed
            content = package.decompress(content)
    except (package.error, MemoryError) as error:
        raise LayoutError(f"{path}: no whole LZFSE ({error})") from error
    if len(content) != 4 * size[0] * size[1]:
        raise LayoutError(
            f"{path}: expected {size[1]} x {size[0]} numbers of 4 bytes, found"
            f" {len(content)} bytes"
        )
    return np.frombuffer(content, "<f4").reshape(size)


def _header(path: Path) -> tuple[int, int, int]:
    """Height, width, and where the numbers begin."""
    with path.open("rb") as file:
        words = file.read(64).split(b"&")
    if (
        len(words) < 4
        or not all(word.isdigit() for word in words[:3])
        or int(words[2]) != 1
    ):
        raise LayoutError(
            f"{path}: expected a depth map of COLMAP (width&height&1& and"
            " numbers)"
        )
    width, height, channels = words[:3]
    if not 0 < int(width) <= 65536 or not 0 < int(height) <= 65536:
        raise LayoutError(
            f"{path}: expected a size of an image, found {int(width)} x"
            f" {int(height)}"
        )
    return int(height), int(width), len(width) + len(height) + len(channels) + 3
