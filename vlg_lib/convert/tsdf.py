"""Points of a scan by TSDF fusion, with Open3D, an optional package; the plain
way averages depth in grid cells.

A truncated signed distance field keeps, for every small cube of space near a
surface, the mean distance to the surface that the frames measured there
(Curless and Levoy, A volumetric method for building complex models from range
images, SIGGRAPH 1996). The surface is where that mean is zero: noise of single
frames averages out *across* the surface, where averaging the measured points in
cells leaves a crust as thick as the noise.

It loses surface, too: what is thinner than the truncation or was seen once,
from one side, may vanish. Of a real room it gave a third as many points as
averages, and 7.4 % of a surface that others had fused lay more than 4 cm from
them (from averages 0.2 %).
"""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vlg_lib.data.depth_fusion import VoxelAverager, points_from_frames
from vlg_lib.geometry.poses import inverse
from vlg_lib.scene import Frame

BLOCK, BLOCKS = 8, 10_000
"""Cubes along a side of a block of space, and how many blocks there is room for
at first; the table grows."""

TRUNCATION = 2.0
"""How far from a surface the field is kept, in cubes."""

FARTHEST = 1e4
"""Metres: depth is cut nowhere."""

SEEN = 0.5
"""A cube that one frame has measured (weight 1) counts."""

MISSING = (
    "--points tsdf needs Open3D, which is not installed here: pip install"
    " open3d (or take --points average); the import said: "
)
BROKEN = (
    "--points tsdf needs Open3D, which is installed here but cannot be"
    " imported; a library of the system that it is linked to is missing (of"
    " libusb-1.0.so.0: apt install libusb-1.0-0; or take --points average); the"
    " import said: "
)


def tsdf_points(
    frames: Iterable[Frame], cell: float
) -> tuple[Float[Tensor, "N 3"], UInt8[Tensor, "N 3"]]:
    """A coloured point cloud from RGB-D frames, one frame in memory at a time:
    (N, 3) float32 metres, (N, 3) uint8.

    Cubes have sides of ``cell`` metres, and reach TRUNCATION of them to either
    side of a surface; its points are averaged in cells, as dense as those of
    :func:`vlg_lib.data.depth_fusion.points_from_frames`. ValueError where
    Open3D cannot be imported, a frame has no depth map, or no surface comes
    out.
    """
    open3d = _open3d()
    kinds = (open3d.core.float32,) * 3
    grid = open3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight", "color"), kinds, (1, 1, 3), cell, BLOCK, BLOCKS
    )
    seen = False
    for frame in frames:
        if frame.depth is None:
            raise ValueError(
                f"frame {frame.name!r} has no depth map to make points from"
            )
        # Open3D refuses an image without depth
        if bool((frame.depth > 0).any()):
            _integrate(open3d, grid, frame, frame.depth)
            seen = True
    if not seen:
        raise ValueError(
            "no pixel of any frame has depth: no surface; check the depth scale"
        )
    cloud = grid.extract_point_cloud(weight_threshold=SEEN)
    averager = VoxelAverager(cell, channels=3)
    averager.add(
        torch.from_numpy(cloud.point.positions.numpy().copy()),
        torch.from_numpy(cloud.point.colors.numpy().copy()),
    )
    points, colors, _ = averager.result()
    return points, colors.round().clamp(0, 255).to(torch.uint8)


def _integrate(
    open3d: ModuleType, grid: Any, frame: Frame, depth: Tensor
) -> None:
    """Put what one frame has measured into the field."""
    lens = frame.camera.matrix.double().clone()
    # Open3D takes the pixel that a coordinate lies in, counted from the image's
    # corner
    lens[:2, 2] += 0.5
    matrix = open3d.core.Tensor(np.ascontiguousarray(lens.numpy()))
    extrinsic = open3d.core.Tensor(
        np.ascontiguousarray(inverse(frame.camera_to_world.double()).numpy())
    )
    image = open3d.t.geometry.Image(np.ascontiguousarray(depth.numpy()))
    color = open3d.t.geometry.Image(
        np.ascontiguousarray(frame.color.float().numpy())
    )
    scale = 1.0  # depth units a metre
    near = grid.compute_unique_block_coordinates(
        image, matrix, extrinsic, scale, FARTHEST, TRUNCATION
    )
    grid.integrate(
        near,
        image,
        color,
        matrix,
        matrix,
        extrinsic,
        scale,
        FARTHEST,
        TRUNCATION,
    )


def _open3d() -> ModuleType:
    try:
        import open3d
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError)
        said = MISSING if absent and error.name == "open3d" else BROKEN
        raise ValueError(f"{said}{error}") from error
    module: ModuleType = open3d
    return module


POINTS: dict[str, Callable[[Iterable[Frame], float], tuple[Tensor, Tensor]]] = {
    "average": points_from_frames,
    "tsdf": tsdf_points,
}
"""How points are made from depth: averages in grid cells, or the surface of
TSDF fusion."""
