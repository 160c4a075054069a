"""One pixel grid for the colour and depth images of a scan, as the layout wants
it, with exact intrinsics.

Scanners give colour and depth of different sizes, and some give every image a
camera of its own. Where the two are registered (one centre, one orientation),
either colour is resampled onto the pixels of depth (:func:`common_grid`), which
leaves every measured depth as it is, or depth is looked up at the pixels of a
colour image of any size (:func:`depth_on_grid`). The camera that all frames of
a scene then share is chosen by :func:`target_camera` or :func:`common_camera`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from vlg_lib.data.frames import LayoutError
from vlg_lib.geometry.cameras import crop_camera, resize_camera
from vlg_lib.scene import Camera

GridSize = str | tuple[int, int]
"""How large the frames of a scene become: "depth" (the grid of the depth
images, as far as colour covers it: depth stays as it is), "color" (the grid of
the colour images), or (width, height): the colour images resampled."""

_WIDEST = 16384  # pixels


@dataclass(frozen=True)
class CommonGrid:
    """One pixel grid for colour and depth: the part of the depth image that the
    colour image covers.
    """

    camera: Camera
    """Of that part."""
    color_box: tuple[float, float, float, float]
    """(left, top, right, bottom) of that part in the colour image, in pixels
    from its upper left corner."""
    depth_left: int = 0
    """The column of the depth image where it begins."""
    depth_top: int = 0
    """The row of the depth image where it begins."""


def common_grid(color: Camera, depth: Camera) -> CommonGrid:
    """The common grid of two registered cameras (one centre, one orientation);
    ValueError where they do not overlap.

    >>> color = Camera(100.0, 100.0, 49.5, 39.5, 100, 80)
    >>> grid = common_grid(color, Camera(50.0, 50.0, 39.5, 29.5, 80, 60))
    >>> grid.depth_left, grid.depth_top, grid.camera.width, grid.camera.height
    (15, 10, 50, 40)
    """
    left, right = _covered(
        color.fx, color.cx, color.width, depth.fx, depth.cx, depth.width
    )
    top, bottom = _covered(
        color.fy, color.cy, color.height, depth.fy, depth.cy, depth.height
    )
    if left >= right or top >= bottom:
        raise ValueError(
            f"colour {color} and depth {depth} share no pixel: check both"
            " intrinsics"
        )
    camera = crop_camera(depth, left, top, right - left, bottom - top)
    x_edges = (-0.5, camera.width - 0.5)
    y_edges = (-0.5, camera.height - 0.5)
    x0, x1 = (
        _edge(camera.fx, camera.cx, color.fx, color.cx, at, color.width)
        for at in x_edges
    )
    y0, y1 = (
        _edge(camera.fy, camera.cy, color.fy, color.cy, at, color.height)
        for at in y_edges
    )
    return CommonGrid(camera, (x0, y0, x1, y1), left, top)


def _covered(
    focal: float,
    center: float,
    size: int,
    depth_focal: float,
    depth_center: float,
    depth_size: int,
) -> tuple[int, int]:
    """First and one past the last depth pixel, along one axis, whose whole
    width lies inside the colour image.
    """
    scale = depth_focal / focal
    low, high = (
        (edge - center) * scale + depth_center for edge in (-0.5, size - 0.5)
    )
    # calibrations written with few digits must not cost a row of pixels
    tolerance = 0.05
    return max(0, math.ceil(low + 0.5 - tolerance)), min(
        depth_size, math.floor(high + 0.5 + tolerance)
    )


def _edge(
    focal: float,
    center: float,
    color_focal: float,
    color_center: float,
    at: float,
    size: int,
) -> float:
    """A pixel edge of the grid in the colour image, counted from its corner
    (pixel 0 spans 0 to 1).
    """
    return min(
        max((at - center) * color_focal / focal + color_center + 0.5, 0.0),
        float(size),
    )


def resize_color(
    color: UInt8[Tensor, "h w 3"], grid: CommonGrid
) -> UInt8[Tensor, "height width 3"]:
    """A colour image (H, W, 3) uint8 resampled onto a common grid; untouched
    where it lies on it already.
    """
    image = Image.fromarray(color.numpy())
    size = (grid.camera.width, grid.camera.height)
    whole = (0.0, 0.0, float(image.width), float(image.height))
    if image.size == size and grid.color_box == whole:
        return color
    resized = image.resize(size, Image.Resampling.BILINEAR, box=grid.color_box)
    return torch.from_numpy(np.array(resized))


def depth_on_grid(
    depth: Float[Tensor, "h w"], camera: Camera, target: Camera
) -> Float[Tensor, "height width"]:
    """Depth (H, W) of ``camera``, metres, at the pixels of ``target``, a
    registered camera: the nearest pixel's, 0 outside.

    Depth is never interpolated: a mean of foreground and background is on no
    surface.

    >>> camera = Camera(2.0, 2.0, 0.5, 0.0, 2, 1)
    >>> wider = Camera(2.0, 2.0, 1.5, 0.0, 4, 1)
    >>> depth_on_grid(torch.tensor([[3.0, 4.0]]), camera, wider).tolist()
    [[0.0, 3.0, 4.0, 0.0]]
    """
    columns = _nearest(target.width, target.fx, target.cx, camera.fx, camera.cx)
    rows = _nearest(target.height, target.fy, target.cy, camera.fy, camera.cy)
    outside = ((rows < 0) | (rows >= camera.height))[:, None] | (
        (columns < 0) | (columns >= camera.width)
    )[None]
    rows = rows.clamp(0, camera.height - 1)
    columns = columns.clamp(0, camera.width - 1)
    return depth[rows][:, columns].masked_fill(outside, 0.0)


def _nearest(
    size: int,
    target_focal: float,
    target_center: float,
    focal: float,
    center: float,
) -> Int[Tensor, " size"]:
    """The nearest pixel, along one axis, to each of ``size`` target pixels; it
    may lie outside the image.
    """
    at = (torch.arange(size, dtype=torch.float64) - target_center) * (
        focal / target_focal
    ) + center
    return at.round().long()


def target_camera(color: Camera, depth: Camera, size: GridSize) -> Camera:
    """The camera of the converted frames where all images share these two
    registered cameras; ``size`` as in GridSize.

    >>> color = Camera(100.0, 100.0, 49.5, 39.5, 100, 80)
    >>> target_camera(color, color, (50, 40)).fx
    50.0
    """
    if size == "depth":
        return common_grid(color, depth).camera
    if size == "color":
        return color
    width, height = check_size(size)
    return resize_camera(color, width, height)


def common_camera(cameras: Sequence[Camera]) -> Camera:
    """A camera that sees what all see: that of all where they are equal, else
    with the median focal length.

    LayoutError where some of them look past each other.

    >>> wide = Camera(50.0, 50.0, 49.5, 39.5, 100, 80)
    >>> near = Camera(100.0, 100.0, 49.5, 39.5, 100, 80)
    >>> common_camera([wide, near])
    Camera(fx=75.0, fy=75.0, cx=37.0, cy=29.5, width=75, height=60)
    """
    if len(set(cameras)) == 1:
        return cameras[0]
    fx = median(camera.fx for camera in cameras)
    fy = median(camera.fy for camera in cameras)
    # the edges of the view of all, as slopes of rays
    left = max((-0.5 - each.cx) / each.fx for each in cameras)
    right = min((each.width - 0.5 - each.cx) / each.fx for each in cameras)
    top = max((-0.5 - each.cy) / each.fy for each in cameras)
    bottom = min((each.height - 0.5 - each.cy) / each.fy for each in cameras)
    width = int((right - left) * fx + 1e-6)
    height = int((bottom - top) * fy + 1e-6)
    if min(width, height) < 1:
        raise LayoutError(
            "the cameras of this scan share no direction of view: convert them"
            " apart"
        )
    return Camera(fx, fy, -left * fx - 0.5, -top * fy - 0.5, width, height)


def check_size(size: GridSize) -> tuple[int, int]:
    """(width, height) of a GridSize, (0, 0) for "depth" and "color";
    ValueError for anything else.

    >>> check_size((320, 240)), check_size("depth")
    ((320, 240), (0, 0))
    """
    if size in ("depth", "color"):
        return 0, 0
    if isinstance(size, str) or not all(0 < side <= _WIDEST for side in size):
        raise ValueError(
            f"expected a size like 320x240, 'depth' or 'color', found"
            f" {size_text(size)!r}"
        )
    return size


def size_text(size: GridSize) -> str:
    """A size as ``scene.json`` and the command line have it.

    >>> size_text((320, 240)), size_text("color")
    ('320x240', 'color')
    """
    return size if isinstance(size, str) else f"{size[0]}x{size[1]}"


def parse_size(text: str) -> GridSize:
    """The inverse of :func:`size_text`; ValueError for another text.

    >>> parse_size("320x240"), parse_size("depth")
    ((320, 240), 'depth')
    """
    width, _, height = text.partition("x")
    size: GridSize = text
    if width.isdecimal() and height.isdecimal():
        size = (int(width), int(height))
    check_size(size)
    return size
