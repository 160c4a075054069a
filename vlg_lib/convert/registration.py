"""One pixel grid for the colour and depth images of a scan, as the layout wants
it, with exact intrinsics.

Scanners give colour and depth of different sizes. Where the two are registered
(one centre, one orientation), either colour is resampled onto the pixels of
depth (:func:`common_grid`), which leaves every measured depth as it is, or
depth is looked up at the pixels of a colour image of any size
(:func:`depth_on_grid`).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlg_lib.geometry.cameras import crop_camera
from vlg_lib.scene import Camera


@dataclass(frozen=True)
class CommonGrid:
    """One pixel grid for colour and depth: the part of the depth image that the
    colour image covers.

    ``camera``: of that part. ``color_box``: (left, top, right, bottom) of that
    part in the colour image, in pixels from its upper left corner.
    ``depth_left``, ``depth_top``: where it begins in the depth image.
    """

    camera: Camera
    color_box: tuple[float, float, float, float]
    depth_left: int = 0
    depth_top: int = 0


def common_grid(color: Camera, depth: Camera) -> CommonGrid:
    """The common grid of two registered cameras (one centre, one orientation);
    ValueError where they do not overlap.
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
    edges = [
        _edge(camera.fx, camera.cx, color.fx, color.cx, -0.5, color.width),
        _edge(camera.fy, camera.cy, color.fy, color.cy, -0.5, color.height),
        _edge(
            camera.fx,
            camera.cx,
            color.fx,
            color.cx,
            camera.width - 0.5,
            color.width,
        ),
        _edge(
            camera.fy,
            camera.cy,
            color.fy,
            color.cy,
            camera.height - 0.5,
            color.height,
        ),
    ]
    return CommonGrid(
        camera, (edges[0], edges[1], edges[2], edges[3]), left, top
    )


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


def resize_color(color: Tensor, grid: CommonGrid) -> Tensor:
    """A colour image (H, W, 3) uint8 resampled onto a common grid; untouched
    where it lies on it already.
    """
    image, size = (
        Image.fromarray(color.numpy()),
        (
            grid.camera.width,
            grid.camera.height,
        ),
    )
    if image.size == size and grid.color_box == (
        0.0,
        0.0,
        float(image.width),
        float(image.height),
    ):
        return color
    return torch.from_numpy(
        np.array(
            image.resize(size, Image.Resampling.BILINEAR, box=grid.color_box)
        )
    )


def depth_on_grid(depth: Tensor, camera: Camera, target: Camera) -> Tensor:
    """Depth (H, W) of ``camera`` at the pixels of ``target``, a registered
    camera: the nearest pixel's, 0 outside.

    Depth is never interpolated: a mean of foreground and background is on no
    surface.
    """
    columns = _nearest(target.width, target.fx, target.cx, camera.fx, camera.cx)
    rows = _nearest(target.height, target.fy, target.cy, camera.fy, camera.cy)
    outside = ((rows < 0) | (rows >= camera.height))[:, None] | (
        (columns < 0) | (columns >= camera.width)
    )[None]
    rows, columns = (
        rows.clamp(0, camera.height - 1),
        columns.clamp(0, camera.width - 1),
    )
    return depth[rows][:, columns].masked_fill(outside, 0.0)


def _nearest(
    size: int,
    target_focal: float,
    target_center: float,
    focal: float,
    center: float,
) -> Tensor:
    """The nearest pixel, along one axis, to each of ``size`` target pixels; it
    may lie outside the image.
    """
    at = (torch.arange(size, dtype=torch.float64) - target_center) * (
        focal / target_focal
    ) + center
    return at.round().long()
