"""A point cloud from posed depth images: unproject every pixel with depth and
average within voxels.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from vlg_lib.geometry.cameras import unproject
from vlg_lib.geometry.voxels import batch_coordinates, pack, quantize
from vlg_lib.scene import Frame


class VoxelAverager:
    """Averages points, and values that they carry, within the cells of a grid;
    fed piece by piece.

    Sums are kept in float64, one row a filled cell, so memory follows the
    surface and not the number of pixels, and the result does not depend on
    threads. ``grid``: cell size in metres. ``channels``: values a point
    carries.

    >>> averager = VoxelAverager(grid=1.0, channels=1)
    >>> points = torch.tensor([[0.2, 0, 0], [0.4, 0, 0], [5.5, 0, 0]])
    >>> averager.add(points, torch.tensor([[1.0], [3.0], [7.0]]))
    >>> points, values, counts = averager.result()
    >>> values[:, 0].tolist(), counts.tolist()
    ([2.0, 7.0], [2, 1])
    """

    def __init__(self, grid: float, channels: int) -> None:
        if not grid > 0:
            raise ValueError(
                f"the grid size must be positive (metres), found {grid}"
            )
        self.grid = grid
        self._keys = torch.zeros(0, dtype=torch.int64)
        # the last column counts
        self._sums = torch.zeros(0, 3 + channels + 1, dtype=torch.float64)

    def add(
        self, points: Float[Tensor, "M 3"], values: Shaped[Tensor, "M C"]
    ) -> None:
        """Add points (metres) and their values; ValueError as in
        :func:`vlg_lib.geometry.voxels.quantize`.
        """
        # ordered as the cells are: x, then y, z
        keys = pack(batch_coordinates([quantize(points.cpu(), self.grid)]))
        ones = torch.ones(len(points), 1, dtype=torch.float64)
        rows = torch.cat(
            [
                self._sums,
                torch.cat(
                    [points.double().cpu(), values.double().cpu(), ones], dim=1
                ),
            ]
        )
        self._keys, cells = torch.unique(
            torch.cat([self._keys, keys]), return_inverse=True
        )
        self._sums = torch.zeros(
            len(self._keys), rows.shape[1], dtype=rows.dtype
        ).index_add_(0, cells, rows)

    def result(
        self,
    ) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N C"], Int[Tensor, " N"]]:
        """(mean point, mean values, count of points) of every filled cell, in
        the order of the cells: x, then y, z.
        """
        counts = self._sums[:, -1]
        means = self._sums[:, :-1] / counts[:, None]
        return means[:, :3].float(), means[:, 3:].float(), counts.long()


def points_from_frames(
    frames: Iterable[Frame], grid: float = 0.04
) -> tuple[Float[Tensor, "N 3"], UInt8[Tensor, "N 3"]]:
    """A coloured point cloud from RGB-D frames, one frame in memory at a time:
    (points, colours).

    Every pixel with depth is unprojected; positions (metres, world frame)
    and colours are averaged within the cells of a grid of ``grid`` metres.
    Points come back as (N, 3) float32 in the order of the cells, colours as (N,
    3) uint8. ValueError where a frame has no depth map, or no pixel of any
    frame has depth.

    >>> from vlg_lib.scene import Camera
    >>> camera = Camera(10, 10, cx=0.5, cy=0, width=2, height=1)
    >>> colors, depth = torch.full((1, 2, 3), 9).byte(), torch.ones(1, 2)
    >>> frame = Frame("0", camera, torch.eye(4), colors, depth)
    >>> points, colors = points_from_frames([frame], grid=0.04)
    >>> len(points), colors[0].tolist()
    (2, [9, 9, 9])
    """
    averager = VoxelAverager(grid, channels=3)
    for frame in frames:
        if frame.depth is None:
            raise ValueError(
                f"frame {frame.name!r} has no depth map to make points from"
            )
        points, pixels = unproject(
            frame.depth, frame.camera, frame.camera_to_world
        )
        averager.add(points, frame.color[pixels[:, 1], pixels[:, 0]])
    points, colors, _ = averager.result()
    if len(points) == 0:
        raise ValueError(
            "no pixel of any frame has depth: no points; check the depth scale"
            " and the missing-depth codes"
        )
    return points, colors.round().to(torch.uint8)
