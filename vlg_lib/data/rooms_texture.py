"""The eight procedural textures of the rooms: a brightness factor from coordinates on a box's face."""

import numpy as np
from jaxtyping import Float, Int

from vlg_lib.data.rooms_palette import TEXTURES


def _hash_noise(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> Float[np.ndarray, " N"]:
    """White noise in [0, 1) from the integer cell of (u, v): integer arithmetic, so equal on every processor."""
    x = np.floor(u).astype(np.int64).astype(np.uint32) * np.uint32(0x9E3779B1)
    y = np.floor(v).astype(np.int64).astype(np.uint32) * np.uint32(0x85EBCA77)
    h = x ^ y ^ (salt.astype(np.uint32) * np.uint32(0xC2B2AE3D))
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    h = (h ^ (h >> np.uint32(12))) * np.uint32(0x297A2D39)
    return ((h ^ (h >> np.uint32(15))) >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


def _lines(x: np.ndarray, period: float, width: float) -> np.ndarray:
    """1 on lines of ``width`` metres, every ``period`` metres; 0 elsewhere."""
    return (np.mod(x, period) < width).astype(np.float32)


def _wood(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    plank = _hash_noise(v / 0.12, u / 0.9 + 0.37 * np.floor(v / 0.12), salt)
    grain = np.sin(90 * v + 5 * np.sin(2.1 * u + salt)).astype(np.float32)
    return 0.86 + 0.2 * plank + 0.06 * grain - 0.22 * _lines(v, 0.12, 0.012)


def _tiles(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    tone = _hash_noise(u / 0.35, v / 0.35, salt)
    return 0.95 + 0.1 * tone - 0.35 * np.maximum(_lines(u, 0.35, 0.02), _lines(v, 0.35, 0.02))


def _stripes(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    return 1.06 - 0.3 * _lines(u, 0.16, 0.08)


def _checker(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    return 1.08 - 0.32 * np.mod(np.floor(u / 0.15) + np.floor(v / 0.15), 2).astype(np.float32)


def _brick(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    row = np.floor(v / 0.09)
    shifted = u + 0.11 * np.mod(row, 2)
    tone = _hash_noise(shifted / 0.22, row, salt)
    mortar = np.maximum(_lines(shifted, 0.22, 0.015), _lines(v, 0.09, 0.015))
    return 0.82 + 0.22 * tone + 0.16 * mortar


def _fabric(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    return 0.84 + 0.2 * _hash_noise(u / 0.02, v / 0.02, salt) + 0.12 * _hash_noise(u / 0.06, v / 0.06, salt)


def _panels(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    return 1.03 - 0.32 * np.maximum(_lines(u, 0.45, 0.025), _lines(v, 0.6, 0.025))


def _plain(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    return 0.98 + 0.04 * _hash_noise(u / 0.25, v / 0.25, salt)


_PATTERNS = {"plain": _plain, "wood": _wood, "tiles": _tiles, "stripes": _stripes, "checker": _checker,
             "brick": _brick, "fabric": _fabric, "panels": _panels}  # fmt: skip


def texture_factor(
    texture: Int[np.ndarray, " N"], u: Float[np.ndarray, " N"], v: Float[np.ndarray, " N"], salt: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Brightness factor (about 0.6 to 1.2) of N surface points.

    ``texture``: index into ``TEXTURES``; ``u, v``: metres along the face; ``salt``: one number an object, so that two
    wooden tables are not the same wood.
    """
    factor = np.ones(len(u), dtype=np.float32)
    for index, name in enumerate(TEXTURES):
        here = np.flatnonzero(texture == index)
        if len(here):
            factor[here] = _PATTERNS[name](u[here], v[here], salt[here])
    return factor
