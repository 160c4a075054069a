"""What the reader of a format yields: posed images in the library's
conventions, and what it left out; and how it says which keys it knows. The list
of formats is in :mod:`vlg_lib.convert.formats.registry`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
    """The depth image, registered to the colour image, of a kind that
    :mod:`vlg_lib.convert.depth_maps` reads; None where there is none."""
    camera: Camera
    """Of the colour image; pixel centres at integers. The image may be a
    smaller copy."""
    pose: Float[Tensor, "rows columns"]
    """(4, 4) float64 camera-to-world, camera axes right, down, forward. It may
    be no pose (lost tracking): the converter leaves such images out and counts
    them."""
    depth_scale: float | None = 1000.0
    """Depth units a metre (of the source's world); None where the source does
    not say, so that a person must."""
    remark: str = ""
    """What the source does not say and was assumed; "" where nothing was."""
    depth_camera: Camera | None = None
    """Of the depth image, where its own intrinsics are told; it may be a
    smaller copy. None: those of the colour image, resized."""
    depth_size: tuple[int, int] | None = None
    """(height, width) of a depth map that does not say it itself."""


@dataclass(frozen=True)
class LeftOut:
    """An image of a scan that cannot be used, for a reason that its reader
    knows; it costs this image, and is counted.
    """

    reason: str
    """In words to count by, such as "missing camera"."""
    what: str
    """Where, and what is wrong there; the first of each reason is shown."""


Found = PosedImage | LeftOut
"""What a reader yields."""


@dataclass(frozen=True)
class Key:
    """A key (or word, or file) of a format, and what becomes of it."""

    name: str
    """As the format writes it; several that go together, with commas."""
    fate: Literal["read", "refused", "ignored"]
    """Used; or an error where it says something; or not looked at."""
    why: str
    """What it means, or why it is not read."""
    source: str = ""
    """The program, page or file that defines it."""
