"""The eight procedural textures of the rooms: a brightness factor from
coordinates on a box's face.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from vlg_lib.rooms.materials import TEXTURES


def _noise(
    u: np.ndarray, v: np.ndarray, salt: np.ndarray, cell: float = 1.0
) -> Float[np.ndarray, " N"]:
    """White noise in [0, 1) from the square cell that holds (u, v): by
    integers, so equal on every processor.
    """
    x = np.floor(u / cell).astype(np.int64).astype(np.uint32)
    y = np.floor(v / cell).astype(np.int64).astype(np.uint32)
    h = x * np.uint32(0x9E3779B1) ^ y * np.uint32(0x85EBCA77)
    h = h ^ (salt.astype(np.uint32) * np.uint32(0xC2B2AE3D))
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    h = (h ^ (h >> np.uint32(12))) * np.uint32(0x297A2D39)
    h = (h ^ (h >> np.uint32(15))) >> np.uint32(8)
    return h.astype(np.float32) / np.float32(1 << 24)


def _lines(x: np.ndarray, period: float, width: float) -> np.ndarray:
    """1 on lines of ``width`` metres, every ``period`` metres; 0 elsewhere."""
    return (np.mod(x, period) < width).astype(np.float32)


def _joints(
    u: np.ndarray, v: np.ndarray, across: float, down: float, width: float
) -> np.ndarray:
    """1 on the lines of a grid of ``across`` x ``down`` metres; 0 elsewhere."""
    return np.maximum(_lines(u, across, width), _lines(v, down, width))


def _plain(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    return 0.98 + 0.04 * _noise(u, v, salt, 0.25)


def _wood(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    plank = _noise(v / 0.12, u / 0.9 + 0.37 * np.floor(v / 0.12), salt)
    grain = np.sin(90 * v + 5 * np.sin(2.1 * u + salt)).astype(np.float32)
    return 0.86 + 0.2 * plank + 0.06 * grain - 0.22 * _lines(v, 0.12, 0.012)


def _tiles(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    tile = _noise(u, v, salt, 0.35)
    return 0.95 + 0.1 * tile - 0.35 * _joints(u, v, 0.35, 0.35, 0.02)


def _stripes(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    return 1.06 - 0.3 * _lines(u, 0.16, 0.08)


def _checker(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    odd = np.mod(np.floor(u / 0.15) + np.floor(v / 0.15), 2)
    return 1.08 - 0.32 * odd.astype(np.float32)


def _brick(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    row = np.floor(v / 0.09)
    shifted = u + 0.11 * np.mod(row, 2)
    brick = _noise(shifted / 0.22, row, salt)
    return 0.82 + 0.22 * brick + 0.16 * _joints(shifted, v, 0.22, 0.09, 0.015)


def _fabric(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    fine, coarse = _noise(u, v, salt, 0.02), _noise(u, v, salt, 0.06)
    return 0.84 + 0.2 * fine + 0.12 * coarse


def _panels(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    return 1.03 - 0.32 * _joints(u, v, 0.45, 0.6, 0.025)


Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_PATTERNS: dict[str, Pattern] = {
    "plain": _plain,
    "wood": _wood,
    "tiles": _tiles,
    "stripes": _stripes,
    "checker": _checker,
    "brick": _brick,
    "fabric": _fabric,
    "panels": _panels,
}
"""The brightness of each texture at N places (u, v), in metres along a face;
the third argument tells objects apart."""


def texture_factor(
    texture: Int[np.ndarray, " N"],
    u: Float[np.ndarray, " N"],
    v: Float[np.ndarray, " N"],
    salt: Int[np.ndarray, " N"],
) -> Float[np.ndarray, " N"]:
    """Brightness factor (about 0.6 to 1.2) of N surface points.

    ``texture``: index into ``TEXTURES``; ``u, v``: metres along the face;
    ``salt``: one number an object, so that two wooden tables are not the same
    wood.
    """
    factor = np.ones(len(u), dtype=np.float32)
    for index, name in enumerate(TEXTURES):
        here = np.flatnonzero(texture == index)
        if len(here):
            factor[here] = _PATTERNS[name](u[here], v[here], salt[here])
    return factor
