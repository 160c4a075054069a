"""Sparse convolution in plain PyTorch, with MinkowskiEngine's semantics and
parameter names (chapter 07).

``kernel_maps``: which voxels meet. ``tensor``: features on voxels, and the
manager of their grids. ``functional``: gather, multiply, scatter. ``layers``:
the modules. ``backend``: which engine runs them (``minkowski``: the other one).
"""

from vlg_lib.sparse.backend import BACKENDS, Backend, VoxelTensor, get_backend
from vlg_lib.sparse.functional import sparse_convolution
from vlg_lib.sparse.kernel_maps import (
    KernelMap,
    build_kernel_map,
    kernel_offsets,
)
from vlg_lib.sparse.layers import (
    AvgPooling,
    BatchNorm,
    Convolution,
    ConvolutionTranspose,
    InstanceNorm,
    MaxPooling,
    ReLU,
    SumPooling,
    cat,
    global_average,
    global_max,
)
from vlg_lib.sparse.tensor import CoordinateManager, SparseTensor

__all__ = [
    "BACKENDS",
    "AvgPooling",
    "Backend",
    "BatchNorm",
    "Convolution",
    "ConvolutionTranspose",
    "CoordinateManager",
    "InstanceNorm",
    "KernelMap",
    "MaxPooling",
    "ReLU",
    "SparseTensor",
    "SumPooling",
    "VoxelTensor",
    "build_kernel_map",
    "cat",
    "get_backend",
    "global_average",
    "global_max",
    "kernel_offsets",
    "sparse_convolution",
]
