"""What the reader of a format yields: posed images in the library's
conventions. The list of formats is in :mod:`vlg_lib.convert.formats.registry`.
"""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from vlg_lib.scene import Camera


@dataclass(frozen=True)
class PosedImage:
    """One posed image of a scan. What the format says of itself (axes,
    direction, units, where a pixel's centre is) is undone by its reader.
    """

    name: str
    """Of the frame, different for every image of a scan."""
    color: Path
    """The colour image."""
    depth: Path | None
    """The depth image, registered to the colour image, 16-bit PNG or a depth
    map of COLMAP; None where the format brings none."""
    camera: Camera
    """Of the colour image; pixel centres at integers. The image may be a
    smaller copy."""
    pose: Float[Tensor, "rows columns"]
    """(4, 4) float64 camera-to-world, camera axes right, down, forward. It may
    be no pose (lost tracking): the converter leaves such images out and counts
    them."""
    depth_scale: float = 1000.0
    """Depth units a metre (of the source's world)."""
