"""Which engine runs the sparse layers: chosen by argument, never silently
(chapter 07).

Both engines have one interface and one set of parameter names, so one network
definition and one ``state_dict`` serve both. ``torch`` is this package: plain
PyTorch, no compiler, any device. ``minkowski`` is MinkowskiEngine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from vlg_lib.sparse import layers
from vlg_lib.sparse.minkowski import minkowski_layers
from vlg_lib.sparse.tensor import SparseTensor

BACKENDS = ("torch", "minkowski")
"""The names of the engines."""


@runtime_checkable
class VoxelTensor(Protocol):
    """What a network may use of an engine's tensor: ``features`` (N, C), their
    voxels, and addition on one grid.
    """

    @property
    def features(self) -> Tensor:
        """A row for each voxel."""

    @property
    def coordinates(self) -> Tensor:
        """(N, 4) integers: (batch, x, y, z) of each row."""

    def __add__(self, other: Any) -> Any:
        """The sum, voxel by voxel."""


@dataclass(frozen=True)
class Backend:
    """The layers of one engine, under the names a network definition uses.

    ``SparseTensor(features, coordinates)`` makes the input of a network; the
    layers are constructed as in :mod:`vlg_lib.sparse.layers`.
    """

    name: str
    SparseTensor: Callable[..., VoxelTensor]
    Convolution: type[nn.Module]
    ConvolutionTranspose: type[nn.Module]
    BatchNorm: type[nn.Module]
    InstanceNorm: type[nn.Module]
    ReLU: type[nn.Module]
    cat: Callable[..., Any]


TORCH = Backend(
    name="torch",
    SparseTensor=SparseTensor,
    Convolution=layers.Convolution,
    ConvolutionTranspose=layers.ConvolutionTranspose,
    BatchNorm=layers.BatchNorm,
    InstanceNorm=layers.InstanceNorm,
    ReLU=layers.ReLU,
    cat=layers.cat,
)


def get_backend(name: str | None = None) -> Backend:
    """The engine called ``name``, one of BACKENDS; None is ``torch``.

    Raises ValueError for an unknown name, and RuntimeError where
    MinkowskiEngine is asked for and not available.

    >>> get_backend().name
    'torch'
    """
    name = "torch" if name is None else name
    if name not in BACKENDS:
        raise ValueError(
            f"unknown sparse backend {name!r}; known: {', '.join(BACKENDS)}"
        )
    if name == "torch":
        return TORCH
    try:
        return Backend("minkowski", **minkowski_layers())
    except ImportError as error:
        raise RuntimeError(
            f"the backend 'minkowski' needs MinkowskiEngine ({error}), which"
            " pip cannot install on a current Python: `make minkowski` builds"
            " it. The default backend 'torch' gives the same numbers from the"
            " same weights"
        ) from error
