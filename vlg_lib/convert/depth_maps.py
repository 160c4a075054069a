"""Depth images of a scan: 16-bit PNG, or the depth maps that COLMAP's dense
stage writes (``stereo/depth_maps``).
"""

from pathlib import Path

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


def map_size(path: Path) -> tuple[int, int]:
    """(height, width) of a depth image of either kind, from its header;
    LayoutError where it is none.
    """
    return _header(path)[:2] if path.suffix == COLMAP else depth_size(path)


def read_map(
    path: Path, scale: float, missing: tuple[int, ...]
) -> Float[Tensor, "height width"]:
    """Depth (H, W) float32, 0 where missing: of PNG in codes of ``scale`` a
    unit (``missing``: those that mean "no depth" besides 0), of COLMAP in units
    of its model. LayoutError where the file is missing, cut or foreign.
    """
    if path.suffix != COLMAP:
        return read_depth(path, scale, missing)
    height, width, start = _header(path)
    values = np.frombuffer(path.read_bytes(), "<f4", offset=start)
    if len(values) != height * width:
        raise LayoutError(
            f"{path}: expected {height} x {width} numbers, found {len(values)};"
            " was the copy cut short?"
        )
    depth = torch.from_numpy(values.reshape(height, width).copy())
    return torch.where(depth.isfinite() & (depth > 0), depth, 0.0)


def is_whole_map(path: Path) -> bool:
    """Whether a depth image of either kind is there to its end."""
    if path.suffix != COLMAP:
        return is_whole_image(path)
    try:
        height, width, start = _header(path)
    except LayoutError:
        return False
    return path.stat().st_size == start + 4 * height * width


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
