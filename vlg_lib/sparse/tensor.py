"""Sparse tensors: a row of features for each occupied voxel, and the manager
that knows where the voxels are (ch. 07).

All tensors of one pass through a network share one coordinate manager. It holds
the occupied voxels at every stride and the kernel maps between them, each made
when it is first asked for and kept for the layers after.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from vlg_lib.geometry.voxels import coarsen, pack, unpack
from vlg_lib.sparse.clouds import Clouds, find_clouds
from vlg_lib.sparse.kernel_maps import KernelMap, build_kernel_map


@dataclass(frozen=True)
class Grid:
    """The occupied voxels at one stride: sorted ``keys`` (N,), and the feature
    row of each where rows are not sorted.

    ``rows``: (N,) int64 or None; ``keys[i]`` is the voxel of feature row
    ``rows[i]``.
    """

    keys: Int64[Tensor, " N"]
    rows: Int64[Tensor, " N"] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def coordinates(self) -> Int32[Tensor, "N 4"]:
        """(batch, x, y, z) of each feature row, in units of the finest grid."""
        in_key_order = unpack(self.keys)
        if self.rows is None:
            return in_key_order
        return torch.empty_like(in_key_order).index_copy_(
            0, self.rows, in_key_order
        )

    @cached_property
    def clouds(self) -> Clouds:
        """The feature rows of each cloud of the batch."""
        return find_clouds(self.coordinates[:, 0])


class CoordinateManager:
    """The voxel grids of one network pass at all their strides, and the kernel
    maps between them, each made once.

    A grid of stride s holds the voxels floor(c / s) * s of the finest
    coordinates c, so it does not matter through which layers a tensor came to
    this stride. Its keys cost one sort.

    >>> rows = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 4, 0, 0]])
    >>> manager = CoordinateManager(rows)
    >>> manager.grid(2).coordinates.tolist()
    [[0, 0, 0, 0], [0, 4, 0, 0]]
    """

    def __init__(self, coordinates: Tensor, stride: int = 1):
        """Start from the (N, 4) integer rows (batch, x, y, z) of the finest
        grid; ``stride`` divides x, y and z.

        Raises ValueError where these are not integers, empty, repeated, off the
        grid of ``stride`` or out of range.
        """
        _check_coordinates(coordinates, stride)
        keys = pack(coordinates)
        rows: Tensor | None = None
        if bool((keys[1:] < keys[:-1]).any()):
            keys, rows = keys.sort(stable=True)
        repeated = int((keys[1:] == keys[:-1]).sum())
        if repeated:
            raise ValueError(
                f"{repeated} of {len(keys)} coordinates are repeated: pool them"
                " first (vlg_lib.geometry.voxels)"
            )
        self.finest_stride = stride
        self._grids = {stride: Grid(keys, rows)}
        self._kernel_maps: dict[tuple[int, int, int, int], KernelMap] = {}

    @property
    def device(self) -> torch.device:
        """Where the coordinates and the kernel maps are."""
        return self._grids[self.finest_stride].keys.device

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of the grids made so far."""
        return tuple(self._grids)

    def grid(self, stride: int) -> Grid:
        """The occupied voxels at ``stride``, a multiple of the finest one; made
        where it does not exist yet.
        """
        if stride not in self._grids:
            if stride % self.finest_stride:
                raise ValueError(
                    f"the stride {stride} is not a multiple of the finest one,"
                    f" {self.finest_stride}"
                )
            finer = max(known for known in self._grids if stride % known == 0)
            self._grids[stride] = Grid(coarsen(self._grids[finer].keys, stride))
        return self._grids[stride]

    def kernel_map(
        self,
        stride: int,
        output_stride: int,
        kernel_size: int,
        dilation: int = 1,
    ) -> KernelMap:
        """The map from the voxels at ``stride`` to those at ``output_stride``,
        which is equal or coarser.
        """
        name = (stride, output_stride, kernel_size, dilation)
        larger = (stride, output_stride, kernel_size + 2, dilation)
        if (
            name not in self._kernel_maps
            and kernel_size % 2
            and larger in self._kernel_maps
        ):
            self._kernel_maps[name] = self._kernel_maps[larger].smaller(
                kernel_size
            )
        if name not in self._kernel_maps:
            inputs, outputs = self.grid(stride), self.grid(output_stride)
            in_key_order = build_kernel_map(
                inputs.keys, outputs.keys, kernel_size, stride, dilation
            )
            self._kernel_maps[name] = in_key_order.with_rows(
                inputs.rows, outputs.rows
            )
        return self._kernel_maps[name]


class SparseTensor:
    """Features (N, C) on N occupied voxels of one or several clouds.

    ``features``: floating point. ``stride``: the size of these voxels in units
    of the finest. ``manager``: where they are. Layers return new tensors; row i
    of two tensors of one manager and stride is the same voxel.

    >>> SparseTensor(torch.ones(1, 3), torch.tensor([[0, 5, -3, 7]]))
    SparseTensor(1 voxels, 3 channels, stride 1)
    """

    def __init__(
        self,
        features: Tensor,
        coordinates: Tensor | None = None,
        *,
        stride: int = 1,
        manager: CoordinateManager | None = None,
    ):
        """Features on new ``coordinates`` (N, 4), integer rows (batch, x, y, z)
        in any order; or on a manager's grid.

        Raises ValueError where both or neither are given, where they do not fit
        the features in length or device, and what :class:`CoordinateManager`
        raises.
        """
        if (coordinates is None) == (manager is None):
            raise ValueError(
                "give either coordinates, for a new cloud, or the manager that"
                " already holds them"
            )
        if features.ndim != 2 or not features.is_floating_point():
            found = f"{features.dtype} of shape {tuple(features.shape)}"
            raise ValueError(
                "expected floating-point features of shape (voxels, channels),"
                f" found {found}"
            )
        if coordinates is not None:
            if coordinates.device != features.device:
                raise ValueError(
                    f"features are on {features.device}, coordinates on"
                    f" {coordinates.device}: move one"
                )
            manager = CoordinateManager(coordinates, stride)
        assert manager is not None
        if manager.device != features.device:
            raise ValueError(
                f"features are on {features.device}, their manager on"
                f" {manager.device}: move one"
            )
        if len(features) != len(manager.grid(stride)):
            raise ValueError(
                f"{len(features)} rows of features for"
                f" {len(manager.grid(stride))} voxels"
            )
        self.features = features
        self.stride = stride
        self.manager = manager

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return (
            f"SparseTensor({len(self)} voxels, {self.features.shape[1]}"
            f" channels, stride {self.stride})"
        )

    @property
    def coordinates(self) -> Int32[Tensor, "N 4"]:
        """(batch, x, y, z) of each row, in units of the finest grid."""
        return self.manager.grid(self.stride).coordinates

    @property
    def batch(self) -> Int64[Tensor, " N"]:
        """Which cloud each row belongs to."""
        return self.coordinates[:, 0].long()

    @property
    def clouds(self) -> Clouds:
        """The rows of each cloud."""
        return self.manager.grid(self.stride).clouds

    def replace(self, features: Float[Tensor, "N C"]) -> "SparseTensor":
        """Other features on the same voxels."""
        return SparseTensor(features, stride=self.stride, manager=self.manager)

    def __add__(self, other: "SparseTensor") -> "SparseTensor":
        """The sum, voxel by voxel, of two tensors on the same grid."""
        check_same_grid(self, other)
        return self.replace(self.features + other.features)


def check_same_grid(*tensors: SparseTensor) -> None:
    """Raise ValueError unless all tensors share one coordinate manager and one
    stride: then their rows correspond.
    """
    first = tensors[0]
    for other in tensors[1:]:
        if other.manager is not first.manager:
            raise ValueError(
                "the tensors have different coordinate managers: make the"
                " second with manager=first.manager"
            )
        if other.stride != first.stride:
            raise ValueError(
                f"the tensors have different strides, {first.stride} and"
                f" {other.stride}"
            )


def _check_coordinates(coordinates: Tensor, stride: int) -> None:
    if coordinates.ndim != 2 or coordinates.shape[1] != 4:
        raise ValueError(
            "expected coordinates (N, 4) = (batch, x, y, z), found shape"
            f" {tuple(coordinates.shape)}"
        )
    if (
        coordinates.is_floating_point()
        or coordinates.is_complex()
        or coordinates.dtype == torch.bool
    ):
        raise ValueError(
            f"voxel coordinates are integers, found {coordinates.dtype}: see"
            " vlg_lib.geometry.voxels.quantize"
        )
    if len(coordinates) == 0:
        raise ValueError("a sparse tensor needs at least one voxel, found none")
    if stride < 1 or bool((coordinates[:, 1:] % stride).any()):
        raise ValueError(
            f"coordinates on a grid of stride {stride} must be multiples of it"
        )
