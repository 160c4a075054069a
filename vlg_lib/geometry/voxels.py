"""From points to voxels and back: quantising, one integer key a voxel, and the
map between the two (chapter 07).

A voxel coordinate (x, y, z) counts whole voxels from the origin; a batch of
clouds adds a first column that says which cloud a voxel belongs to. A row
(batch, x, y, z) packs into one non-negative int64 key::

    bits    62 ... 51 | 50 ... 34 | 33 ... 17 | 16 ... 0
    field   batch     | x + 65536 | y + 65536 | z + 65536

Keys sort like their rows, no two voxels share one (a hash would collide), and a
step from voxel to voxel is a plain addition: key(c + d) = key(c) + step(d).
Coordinates fill half of their field only, so no step of up to 32768 voxels
spills into the field beside it.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int32, Int64, Shaped
from torch import Tensor
from torch.nn import functional

from vlg_lib.precision import sum_dtype

LIMIT = 2**15
"""Coordinates lie in -LIMIT <= c < LIMIT: 655 m to either side at 2 cm."""

MAX_BATCH = 2**12
"""Batch indices lie in 0 <= b < MAX_BATCH."""

_CELLS_A_POINT = 8
"""A bounding box with at most so many cells a point is gone through cell by
cell; larger ones are sorted."""

_FIELD = 17
_MIDDLE = 2 ** (_FIELD - 1)


@dataclass(frozen=True)
class Voxels:
    """The V occupied voxels of a cloud of N points, and each point's voxel.

    ``coordinates``: (V, 3) int32, unique, sorted by x, then y, then z.
    ``point_to_voxel``: (N,) int64, rows of ``coordinates``;
    ``values[voxels.point_to_voxel]`` hands each point the value of its own
    voxel.

    >>> points = torch.tensor([[0.01, 0, 0], [0.09, 0, 0], [0.15, 0, 0]])
    >>> voxels = voxelize(points, 0.1)
    >>> means = voxels.average(torch.tensor([[1.0], [3.0], [7.0]]))
    >>> means.tolist(), voxels.to_points(means).tolist()
    ([[2.0], [7.0]], [[2.0], [2.0], [7.0]])
    """

    coordinates: Int32[Tensor, "V 3"]
    point_to_voxel: Int64[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.coordinates)

    def average(self, values: Float[Tensor, "N C"]) -> Float[Tensor, "V C"]:
        """The mean over each voxel's points. Points are added up in their
        order, in float32 or better: two runs agree to the last bit.
        """
        _check_rows(values, len(self.point_to_voxel), "points")
        counts = torch.bincount(self.point_to_voxel, minlength=len(self))
        wide = values.to(sum_dtype(values))
        if wide.device.type == "cpu":
            sums = wide.new_zeros(len(self), wide.shape[1])
            sums = sums.index_add(0, self.point_to_voxel, wide)
            means = sums / counts[:, None]
        else:  # there an index_add adds in any order
            by_voxel = wide[self.point_to_voxel.argsort(stable=True)]
            means = torch.segment_reduce(
                by_voxel, "mean", lengths=counts, axis=0
            )
        return means.to(values.dtype)

    def to_points(
        self, values: Shaped[Tensor, "V ..."]
    ) -> Shaped[Tensor, "N ..."]:
        """The voxels' values at their points: every point of a voxel gets the
        same (nearest neighbour).
        """
        _check_rows(values, len(self), "voxels")
        return values[self.point_to_voxel]

    def interpolate(
        self,
        values: Float[Tensor, "V C"],
        points: Float[Tensor, "P 3"],
        voxel_size: float,
    ) -> Float[Tensor, "P C"]:
        """The voxels' values at any points, in metres, trilinearly: each is a
        mean of the eight voxels around it.

        A value stands at the centre of its voxel; its weight is the product
        over the axes of 1 - distance / voxel_size. Empty voxels do not count:
        the weights of the occupied ones are scaled to the sum 1. A point
        without any gets zeros; one of the cloud's own always has its own voxel.
        Differentiable in ``values``. Raises ValueError for values of another
        number of voxels, and what :func:`quantize` raises.
        """
        _check_rows(values, len(self), "voxels")
        quantize(points, voxel_size)
        keys = pack(batch_coordinates([self.coordinates]))
        from_centre = points.double() / voxel_size - 0.5
        lowest = from_centre.floor()
        share = from_centre - lowest
        total = share.new_zeros(len(points))
        wide = values.to(sum_dtype(values))
        out = wide.new_zeros(len(points), values.shape[1])
        for corner in itertools.product((0, 1), repeat=3):
            offset = torch.tensor(corner, device=points.device)
            wanted = _keys(functional.pad(lowest.long() + offset, (1, 0)))
            row = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
            weight = torch.where(offset == 1, share, 1 - share).prod(dim=1) * (
                keys[row] == wanted
            )
            total = total + weight
            out = out + weight.to(wide.dtype)[:, None] * wide[row]
        means = out / total.clamp(min=1e-30).to(wide.dtype)[:, None]
        return means.to(values.dtype)


def _check_rows(values: Tensor, expected: int, what: str) -> None:
    if len(values) != expected:
        raise ValueError(
            f"expected a row of values for each of {expected} {what}, found"
            f" {len(values)} rows"
        )


def quantize(
    points: Float[Tensor, "N 3"], voxel_size: float
) -> Int32[Tensor, "N 3"]:
    """The voxel of each point: floor(point / voxel_size), int32; metres.

    Computed in float64 whatever the dtype of the points, and rounded towards
    minus infinity (truncation would make the voxels around the origin twice as
    wide). Raises ValueError for a size that is not positive, for points that
    are not finite, and for points too far from the origin to pack.

    >>> quantize(torch.tensor([[0.19, -0.01, 0.0]]), 0.1)
    tensor([[ 1, -1,  0]], dtype=torch.int32)
    """
    if not voxel_size > 0:
        raise ValueError(f"the voxel size must be positive, found {voxel_size}")
    voxels = (points.double() / voxel_size).floor_()
    if len(voxels):
        low, high = map(float, voxels.aminmax())
        # false for NaN, too
        if not -LIMIT <= low <= high < LIMIT:
            raise ValueError(_why_not(points, voxel_size))
    return voxels.int()


def _why_not(points: Float[Tensor, "N 3"], voxel_size: float) -> str:
    """What is wrong with points that have no voxel."""
    bad = int((~points.isfinite()).any(dim=1).sum())
    if bad:
        return (
            f"{bad} of {len(points)} points have a NaN or infinite coordinate:"
            " remove them first"
        )
    return (
        f"points reach {float(points.abs().max()):g} m from the origin,"
        f" voxels of {voxel_size:g} m only {LIMIT * voxel_size:g} m: are"
        " the points in millimetres, or the voxels too small? Else move"
        " the origin"
    )


def voxelize(points: Float[Tensor, "N 3"], voxel_size: float) -> Voxels:
    """The occupied voxels of a cloud and the voxel of each point.

    Raises ValueError for a cloud without points, and what :func:`quantize`
    raises.

    >>> points = torch.tensor([[0.01, 0, 0], [0.09, 0, 0], [-0.01, 0, 0]])
    >>> voxels = voxelize(points, 0.1)
    >>> voxels.coordinates.tolist(), voxels.point_to_voxel.tolist()
    ([[-1, 0, 0], [0, 0, 0]], [1, 1, 0])
    """
    if len(points) == 0:
        raise ValueError("expected a cloud of at least one point, found none")
    cells = quantize(points, voxel_size)
    ranges = [column.aminmax() for column in cells.unbind(dim=1)]
    low = [int(column.min) for column in ranges]
    sides = [int(column.max) - int(column.min) + 1 for column in ranges]
    if math.prod(sides) <= _CELLS_A_POINT * len(points):
        return _voxels_of_box(cells, low, sides)
    unique_keys, point_to_voxel = pack(batch_coordinates([cells])).unique(
        sorted=True, return_inverse=True
    )
    return Voxels(unpack(unique_keys)[:, 1:].contiguous(), point_to_voxel)


def _voxels_of_box(
    cells: Int32[Tensor, "N 3"], low: list[int], sides: list[int]
) -> Voxels:
    """The voxels of points whose bounding box has few cells: each cell is
    ticked off in a list of them all, which needs no sort.
    """
    x, y, z = (
        column.long() - least
        for column, least in zip(cells.unbind(dim=1), low, strict=True)
    )
    places = (x * sides[1] + y) * sides[2] + z
    ticked = places.new_zeros(math.prod(sides), dtype=torch.bool)
    ticked[places] = True
    occupied = ticked.nonzero().squeeze(1)
    row_of_place = torch.empty_like(ticked, dtype=torch.int64)
    row_of_place[occupied] = torch.arange(len(occupied), device=occupied.device)
    column = occupied // sides[2]
    coordinates = torch.stack(
        [column // sides[1], column % sides[1], occupied % sides[2]], dim=1
    ) + occupied.new_tensor(low)
    return Voxels(coordinates.int(), row_of_place[places])


def batch_coordinates(
    clouds: Sequence[Int[Tensor, "_ 3"]],
) -> Int32[Tensor, "V 4"]:
    """Several clouds' coordinates under one another, with the index of the
    cloud as the first column.

    >>> cloud = torch.tensor([[1, 2, 3]])
    >>> batch_coordinates([cloud, cloud]).tolist()
    [[0, 1, 2, 3], [1, 1, 2, 3]]
    """
    if not clouds:
        raise ValueError(
            "expected the coordinates of at least one cloud, found none"
        )
    with_batch = [
        torch.cat([torch.full_like(cloud[:, :1], batch), cloud], dim=1).int()
        for batch, cloud in enumerate(clouds)
    ]
    return torch.cat(with_batch)


def pack(coordinates: Int[Tensor, "N 4"]) -> Int64[Tensor, " N"]:
    """One int64 key for each row (batch, x, y, z); keys sort like rows.
    :func:`unpack` is the inverse.

    Raises ValueError where a coordinate or a batch index does not fit (see
    LIMIT and MAX_BATCH).

    >>> row = torch.tensor([[0, 5, -3, 7]])
    >>> unpack(pack(row)).equal(row.int())
    True
    """
    if len(coordinates):
        batch, cells = coordinates[:, 0], coordinates[:, 1:]
        if int(batch.min()) < 0 or int(batch.max()) >= MAX_BATCH:
            found = f"{int(batch.min())} to {int(batch.max())}"
            raise ValueError(
                f"batch indices (column 0) must lie in 0 to {MAX_BATCH - 1},"
                f" found {found}"
            )
        if int(cells.min()) < -LIMIT or int(cells.max()) >= LIMIT:
            found = f"{int(cells.min())} to {int(cells.max())}"
            raise ValueError(
                f"voxel coordinates must lie in {-LIMIT} to {LIMIT - 1}, found"
                f" {found}: move the origin"
            )
    return _keys(coordinates)


def unpack(keys: Int64[Tensor, " N"]) -> Int32[Tensor, "N 4"]:
    """The rows (batch, x, y, z) of keys.

    >>> unpack(pack(torch.tensor([[1, 2, 3, 4]]))).tolist()
    [[1, 2, 3, 4]]
    """
    fields = torch.stack([keys >> 2 * _FIELD, keys >> _FIELD, keys], dim=1) & (
        2**_FIELD - 1
    )
    return torch.cat(
        [keys[:, None] >> 3 * _FIELD, fields - _MIDDLE], dim=1
    ).int()


def step(offset: Sequence[int]) -> int:
    """What to add to a voxel's key to reach the voxel ``offset`` = (dx, dy, dz)
    away in the same cloud.

    Raises ValueError for a step of more than LIMIT voxels, which could leave
    the field.

    >>> a, b = pack(torch.tensor([[0, 5, -3, 7], [0, 4, -3, 9]])).tolist()
    >>> a + step((-1, 0, 2)) == b
    True
    """
    if max(abs(distance) for distance in offset) > LIMIT:
        raise ValueError(
            f"a step of {tuple(offset)} voxels is longer than {LIMIT}: the"
            " kernel reaches too far"
        )
    dx, dy, dz = offset
    return (dx << 2 * _FIELD) + (dy << _FIELD) + dz


def coarsen(keys: Int64[Tensor, " N"], stride: int) -> Int64[Tensor, " M"]:
    """The occupied cells of a grid ``stride`` times coarser, each named by its
    lowest corner; sorted keys.

    c becomes floor(c / stride) * stride, towards minus infinity: coordinates
    stay in units of the finest grid.

    >>> keys = pack(torch.tensor([[0, -1, 0, 3], [0, -2, 1, 2]]))
    >>> unpack(coarsen(keys, 2)).tolist()
    [[0, -2, 0, 2]]
    """
    rows = unpack(keys)
    cells = torch.div(rows[:, 1:], stride, rounding_mode="floor") * stride
    return _keys(torch.cat([rows[:, :1], cells], dim=1)).unique(sorted=True)


def _keys(coordinates: Int[Tensor, "N 4"]) -> Int64[Tensor, " N"]:
    batch, x, y, z = coordinates.long().unbind(1)
    return (
        (batch << 3 * _FIELD)
        + (x + _MIDDLE << 2 * _FIELD)
        + (y + _MIDDLE << _FIELD)
        + (z + _MIDDLE)
    )
