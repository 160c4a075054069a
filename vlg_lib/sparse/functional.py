"""The arithmetic of sparse convolution: gather, multiply, scatter (chapter 07).

For each kernel offset k the kernel map lists which input row meets which output
row. So::

    gather the input rows  ->  multiply by W[k]  ->  add to the output rows

with one matrix product for each offset.

Within one offset no output row occurs twice, so this addition has one order
only: the result is the same in every run, on a GPU too. A CPU takes several
small offsets, or a piece of a large one, at a time: what its cache holds.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlg_lib.precision import sum_dtype
from vlg_lib.sparse.kernel_maps import Block, KernelMap
from vlg_lib.sparse.products import (
    LARGE,
    times,
    times_all,
    times_transposed,
)


def sparse_convolution(
    features: Float[Tensor, "N C_in"],
    kernel: Float[Tensor, "K C_in C_out"],
    kernel_map: KernelMap,
) -> Float[Tensor, "M C_out"]:
    """out[o] = sum over offsets k and pairs (i, o) of k: W[k]^T x[i];
    cross-correlation, no bias.

    A kernel map's ``transposed()`` gives the transposed convolution. Under
    autocast, features and kernel are cast to its dtype; half-precision products
    are added up in float32. Differentiable once. Raises ValueError where
    kernel, features and map do not fit each other.

    >>> from vlg_lib.sparse import CoordinateManager
    >>> cells = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]])
    >>> kernel_map = CoordinateManager(cells).kernel_map(1, 1, 3)
    >>> kernel = torch.arange(27.0).reshape(27, 1, 1)
    >>> features = torch.tensor([[1.0], [10.0]])
    >>> sparse_convolution(features, kernel, kernel_map).flatten().tolist()
    [233.0, 134.0]
    """
    if tuple(kernel.shape[:2]) != (len(kernel_map.pairs), features.shape[1]):
        raise ValueError(
            f"a kernel of shape {tuple(kernel.shape)} does not fit"
            f" {len(kernel_map.pairs)} offsets and {features.shape[1]} input"
            " channels"
        )
    if len(features) != kernel_map.input_size:
        raise ValueError(
            f"{len(features)} rows of features for a kernel map of"
            f" {kernel_map.input_size} input voxels"
        )
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        features, kernel = features.to(dtype), kernel.to(dtype)
    return _GatherMultiplyScatter.apply(features, kernel, kernel_map)


def sum_pool(
    features: Float[Tensor, "N C"], kernel_map: KernelMap
) -> Float[Tensor, "M C"]:
    """The sum of the input rows that each output row meets; zero for none.

    It is added up, and returned, in float32 where the features are in half
    precision.
    """
    wide = features.to(sum_dtype(features))
    out = wide.new_zeros(kernel_map.output_size, features.shape[1])
    for sources, targets in kernel_map.pairs:
        out.index_add_(0, targets, wide[sources])
    return out


def max_pool(
    features: Float[Tensor, "N C"], kernel_map: KernelMap
) -> Float[Tensor, "M C"]:
    """The largest of the input rows that each output row meets, channel by
    channel; zero where it meets none.

    The gradient goes to the row that was largest; of several equal ones, to
    that of the first offset.
    """
    shape = (kernel_map.output_size, features.shape[1])
    largest = features.new_full(shape, -torch.inf)
    winner = torch.full(shape, -1, device=features.device)
    for sources, targets in kernel_map.pairs:
        candidates = features.detach()[sources]
        better = (candidates > largest[targets]) | (winner[targets] < 0)
        largest[targets] = torch.where(better, candidates, largest[targets])
        winner[targets] = torch.where(better, sources[:, None], winner[targets])
    return torch.where(winner < 0, 0.0, features.gather(0, winner.clamp(min=0)))


class _GatherMultiplyScatter(torch.autograd.Function):
    """Saves the features and the kernel for the backward pass, and nothing of
    what was gathered.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, kernel: Tensor, kernel_map: KernelMap
    ) -> Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.kernel_map = kernel_map
        return _multiply(features, kernel, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        features, kernel = ctx.saved_tensors
        needs_features, needs_kernel, _ = ctx.needs_input_grad
        for_features, for_kernel = _gradients(
            features,
            kernel,
            gradient,
            ctx.kernel_map,
            needs_features,
            needs_kernel,
        )
        return for_features, for_kernel, None


def _multiply(x: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """out[o] += W[k]^T x[i] over all pairs. An offset that pairs each voxel
    with itself needs no gathering.
    """
    weights, itself = kernel.unbind(), kernel_map.identity
    if itself is None:
        out = x.new_zeros(kernel_map.output_size, kernel.shape[2])
    else:
        out = times_all(x, weights[itself])
    out = out.to(sum_dtype(x))
    for block in _blocks(kernel_map, kernel):
        product = multiply_block(
            x.index_select(0, block.filled_sources), weights, block
        )
        _add_rows(out, block.targets, product)
    return out.to(x.dtype)


def _gradients(
    x: Tensor,
    kernel: Tensor,
    gradient: Tensor,
    kernel_map: KernelMap,
    needs_x: bool,
    needs_kernel: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """With g the outputs' gradient: dx[i] += W[k] g[o] and dW[k] += x[i] g[o]^T
    over all pairs, each where needed.
    """
    weights, itself = kernel.mT.unbind(), kernel_map.identity
    for_x = for_kernel = None
    if needs_x:
        if itself is None:
            for_x = torch.zeros_like(x, dtype=sum_dtype(x))
        else:
            for_x = times_all(gradient, weights[itself]).to(sum_dtype(x))
    if needs_kernel:
        for_kernel = _KernelGradient(kernel, sum_dtype(x))
        if itself is not None:
            for_kernel.add(itself, x, gradient)
    for block in _blocks(kernel_map, kernel):
        arriving = gradient.index_select(0, block.filled_targets)
        if for_x is not None:
            product = multiply_block(arriving, weights, block)
            _add_rows(for_x, block.sources, product)
        if for_kernel is not None:
            gathered = x.index_select(0, block.filled_sources)
            for_kernel.add_block(block, gathered, arriving)
    return (
        None if for_x is None else for_x.to(x.dtype),
        None if for_kernel is None else for_kernel.total().to(kernel.dtype),
    )


def multiply_block(
    rows: Tensor, weights: Sequence[Tensor], block: Block
) -> Tensor:
    """The rows of each offset of a block times its matrix.

    >>> from vlg_lib.sparse import CoordinateManager
    >>> cells = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]])
    >>> (block,) = CoordinateManager(cells).kernel_map(1, 1, 3).blocks(1024)
    >>> block.offsets, block.sizes
    ((4, 22), (1, 1))
    >>> weights = torch.arange(27.0).reshape(27, 1, 1).unbind()
    >>> multiply_block(torch.ones(2, 1), weights, block).flatten().tolist()
    [4.0, 22.0]
    """
    if len(block.offsets) == 1:
        return times(rows, weights[block.offsets[0]])
    product = rows.new_empty(len(rows), weights[0].shape[1])
    for k, part, out in zip(
        block.offsets,
        rows.split(block.sizes),
        product.split(block.sizes),
        strict=True,
    ):
        torch.mm(part, weights[k], out=out)
    return product


def _add_rows(out: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add values to the rows of ``out``, in the dtype of ``out``; values beyond
    the rows are filling.
    """
    out.index_add_(0, rows, values[: len(rows)].to(out.dtype))


class _KernelGradient:
    """dW[k] += x^T g, block by block. What comes first for an offset is written
    where it belongs, so that no zeros are written before it.
    """

    def __init__(self, kernel: Tensor, dtype: torch.dtype) -> None:
        self._sum = torch.empty_like(
            kernel, dtype=dtype, memory_format=torch.contiguous_format
        )
        self._by_offset = self._sum.unbind()
        self._missing = set(range(len(kernel)))

    def add(self, k: int, left: Tensor, right: Tensor) -> None:
        """Add left^T right to the gradient of an offset."""
        total, first = self._by_offset[k], k in self._missing
        self._missing.discard(k)
        small = len(left) < LARGE and total.dtype == left.dtype
        if first and small:
            torch.mm(left.mT, right, out=total)
        elif first:
            total.copy_(times_transposed(left, right))
        else:
            total.add_(times_transposed(left, right))

    def add_block(self, block: Block, left: Tensor, right: Tensor) -> None:
        """Add what a block gives; the filling of ``right`` becomes zeros."""
        if len(block.offsets) == 1:
            if len(right) > len(block.targets):
                right[len(block.targets) :].zero_()
            self.add(block.offsets[0], left, right)
            return
        for k, rows, others in zip(
            block.offsets,
            left.split(block.sizes),
            right.split(block.sizes),
            strict=True,
        ):
            self.add(k, rows, others)

    def total(self) -> Tensor:
        """The gradient; zero for offsets without pairs."""
        for k in self._missing:
            self._by_offset[k].zero_()
        return self._sum


def _blocks(kernel_map: KernelMap, kernel: Tensor) -> list[Block]:
    """The pairs in blocks that suit the device: of a CPU's cache, else an
    offset each, and so no output row twice.
    """
    if kernel.device.type != "cpu":
        return kernel_map.blocks()
    return kernel_map.blocks(pairs_at_a_time(sum(kernel.shape[1:])))


def pairs_at_a_time(channels: int) -> int:
    """How many pairs a CPU takes at a time in a layer of so many channels, in
    and out together: about 1 MB in float32, so that they stay in its cache.

    Two sizes, since a kernel map keeps its blocks of each.

    >>> pairs_at_a_time(32 + 32)
    4096
    """
    return 4096 if channels <= 128 else 1024
