"""What a format is, and what its reader yields: posed images in the library's
conventions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from vlg_lib.scene import Camera


class PosedImage(NamedTuple):
    """One posed image: ``camera`` of the colour image, ``pose`` (4, 4)
    camera-to-world, ``depth_scale`` units a metre.

    ``pose`` may be no pose (lost tracking): the converter leaves such images
    out and counts them.
    """

    name: str
    color: Path
    depth: Path | None
    camera: Camera
    pose: Tensor
    depth_scale: float = 1000.0


@dataclass(frozen=True)
class Format:
    """A format: its reader, which axis of its world points up (or "auto":
    unknown), and what its folder holds.

    ``points``: reads the points that the format brings along, (N, 3) float32
    and colours (N, 3) uint8.
    """

    read: Callable[[Path], Iterator[PosedImage]]
    up: str
    holds: str
    points: Callable[[Path], tuple[Tensor, Tensor]] | None = None
