"""A point cloud from posed depth images: back-project every pixel with depth and average within voxels."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from vlg_lib.projection import back_project
from vlg_lib.scene import Frame

_BITS = 21
_OFFSET = 1 << (_BITS - 1)


class VoxelAverager:
    """Averages points, and values that they carry, within the cells of a grid; fed piece by piece.

    Sums are kept in float64, one row a filled cell, so memory follows the surface and not the number of pixels, and the
    result does not depend on threads. ``grid``: cell size in metres. ``channels``: values a point carries.

    >>> averager = VoxelAverager(grid=1.0, channels=1)
    >>> averager.add(torch.tensor([[0.2, 0, 0], [0.4, 0, 0], [5.5, 0, 0]]), torch.tensor([[1.0], [3.0], [7.0]]))
    >>> points, values, counts = averager.result()
    >>> values[:, 0].tolist(), counts.tolist()
    ([2.0, 7.0], [2, 1])
    """

    def __init__(self, grid: float, channels: int) -> None:
        if not grid > 0:
            raise ValueError(f"the grid size must be positive (metres), found {grid}")
        self.grid = grid
        self._keys = torch.zeros(0, dtype=torch.int64)
        self._sums = torch.zeros(0, 3 + channels, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.int64)

    def add(self, points: Float[Tensor, "M 3"], values: Shaped[Tensor, "M C"]) -> None:
        """Add points (metres) and their values; ValueError for a point that is not finite or beyond a million cells."""
        rows = torch.cat([points.double().cpu(), values.double().cpu()], dim=1)
        keys = _cell_keys(rows[:, :3], self.grid)
        ones = torch.ones(len(keys), dtype=torch.int64)
        self._keys, cells = torch.unique(torch.cat([self._keys, keys]), return_inverse=True)
        self._sums = _sum_rows(torch.cat([self._sums, rows]), cells, len(self._keys))
        self._counts = _sum_rows(torch.cat([self._counts, ones]), cells, len(self._keys))

    def result(self) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N C"], Int[Tensor, " N"]]:
        """(mean point, mean values, count of points) of every filled cell, in the order of the cells: x, then y, z."""
        means = self._sums / self._counts[:, None]
        return means[:, :3].float(), means[:, 3:].float(), self._counts


def _cell_keys(points: Float[Tensor, "M 3"], grid: float) -> Int[Tensor, " M"]:
    """One int64 a point, the same for points of one cell and in the order of the cells."""
    cells = torch.floor(points / grid)
    if not bool((cells.abs() < _OFFSET).all()):
        raise ValueError(
            f"points must be finite and within {_OFFSET * grid:.0f} m of the origin for a grid of {grid} m; check the "
            "poses and the depth units"
        )
    x, y, z = (cells.long() + _OFFSET).unbind(1)
    return (x << 2 * _BITS) | (y << _BITS) | z


def _sum_rows(rows: Shaped[Tensor, "M *C"], cells: Int[Tensor, " M"], count: int) -> Shaped[Tensor, "N *C"]:
    return torch.zeros(count, *rows.shape[1:], dtype=rows.dtype).index_add_(0, cells, rows)


def points_from_frames(
    frames: Iterable[Frame], grid: float = 0.04
) -> tuple[Float[Tensor, "N 3"], UInt8[Tensor, "N 3"]]:
    """A coloured point cloud from RGB-D frames, one frame in memory at a time: (points, colours).

    Every pixel with depth is back-projected; positions (metres, world frame) and colours are averaged within the cells
    of a grid of ``grid`` metres. Points come back as (N, 3) float32 in the order of the cells, colours as (N, 3) uint8.
    ValueError where a frame has no depth map, or no pixel of any frame has depth.
    """
    averager = VoxelAverager(grid, channels=3)
    for frame in frames:
        if frame.depth is None:
            raise ValueError(f"frame {frame.name!r} has no depth map to make points from")
        points, pixels = back_project(frame.depth, frame.camera, frame.camera_to_world)
        averager.add(points, frame.color[pixels[:, 1], pixels[:, 0]])
    points, colors, _ = averager.result()
    if len(points) == 0:
        raise ValueError(
            "no pixel of any frame has depth: no points; check the depth scale and the missing-depth codes"
        )
    return points, colors.round().to(torch.uint8)
