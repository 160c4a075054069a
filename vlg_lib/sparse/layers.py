"""The layers of sparse networks, with MinkowskiEngine's parameter names, shapes
and initial values (chapter 07).

Each takes a :class:`~vlg_lib.sparse.tensor.SparseTensor` and returns one.
Kernels, strides and dilations are cubic: one number for the three axes.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlg_lib.precision import sum_dtype
from vlg_lib.sparse.clouds import Clouds
from vlg_lib.sparse.functional import max_pool, sparse_convolution, sum_pool
from vlg_lib.sparse.kernel_maps import KernelMap
from vlg_lib.sparse.tensor import SparseTensor, check_same_grid


class _Convolution(nn.Module):
    """What both convolutions share: kernel, bias, and their initial values."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
    ):
        super().__init__()
        if min(in_channels, out_channels, kernel_size, stride, dilation) < 1:
            raise ValueError(
                "channels, kernel size, stride and dilation are all at least 1"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.dilation = dilation
        volume = kernel_size**3
        self.pointwise = volume == 1 and stride == 1
        shape = (
            (in_channels, out_channels)
            if self.pointwise
            else (volume, in_channels, out_channels)
        )
        self.kernel = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(1, out_channels)) if bias else None
        bound = 1 / math.sqrt(self._fan() * volume)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def _fan(self) -> int:
        """The channels whose number sets the scale of the initial values."""
        return self.in_channels

    def extra_repr(self) -> str:
        """What ``print`` shows of the layer."""
        return (
            f"{self.in_channels}, {self.out_channels},"
            f" kernel_size={self.kernel_size}, stride={self.stride},"
            f" dilation={self.dilation}, bias={self.bias is not None}"
        )

    def _convolve(
        self, x: SparseTensor, kernel_map: KernelMap | None, output_stride: int
    ) -> SparseTensor:
        """The kernel applied along a kernel map, and the bias; no map stands
        for a 1x1x1 kernel.
        """
        if x.features.shape[1] != self.in_channels:
            raise ValueError(
                f"the layer takes {self.in_channels} channels, the tensor has"
                f" {x.features.shape[1]}"
            )
        if self.kernel.device != x.features.device:
            raise ValueError(
                f"the layer is on {self.kernel.device}, the tensor on"
                f" {x.features.device}: move one"
            )
        if kernel_map is None:
            out = x.features @ self.kernel
        else:
            out = sparse_convolution(x.features, self.kernel, kernel_map)
        if self.bias is not None:
            out = out + self.bias
        return SparseTensor(out, stride=output_stride, manager=x.manager)


class Convolution(_Convolution):
    """out[u] = sum over k of W[k]^T x[u + offset_k], where occupied voxels
    meet; cross-correlation, like torch's.

    ``kernel``: (K^3, C_in, C_out) in the order of
    :func:`~vlg_lib.sparse.kernel_maps.kernel_offsets`, or (C_in, C_out) where
    kernel size and stride are 1. ``bias``: (1, C_out), absent unless asked for.
    With stride 1 the output has the voxels of the input (submanifold
    convolution); with stride s those of the grid s times coarser.

    >>> coordinates = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]])
    >>> x = SparseTensor(torch.ones(2, 3), coordinates)
    >>> Convolution(3, 8)(x)
    SparseTensor(2 voxels, 8 channels, stride 1)
    >>> Convolution(3, 8, kernel_size=2, stride=2)(x)
    SparseTensor(1 voxels, 8 channels, stride 2)
    """

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve ``x``; ValueError for another number of channels."""
        if self.pointwise:
            return self._convolve(x, None, x.stride)
        coarse = x.stride * self.stride
        return self._convolve(
            x,
            x.manager.kernel_map(
                x.stride, coarse, self.kernel_size, self.dilation
            ),
            coarse,
        )


class ConvolutionTranspose(_Convolution):
    """The transpose of :class:`Convolution`: from a coarse grid back to a finer
    one that the tensor came from.

    It uses the pairs of the convolution from fine to coarse, in the other
    direction, each under the same W[k]: the kernel is not flipped. Parameters
    as in :class:`Convolution`.

    >>> coordinates = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]])
    >>> x = SparseTensor(torch.ones(2, 3), coordinates)
    >>> coarse = Convolution(3, 8, kernel_size=2, stride=2)(x)
    >>> ConvolutionTranspose(8, 4, kernel_size=2, stride=2)(coarse)
    SparseTensor(2 voxels, 4 channels, stride 1)
    """

    def _fan(self) -> int:
        return self.out_channels

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve ``x`` onto the grid of stride ``x.stride / stride``;
        ValueError where no layer made that grid.
        """
        if self.pointwise:
            return self._convolve(x, None, x.stride)
        fine, remainder = divmod(x.stride, self.stride)
        if remainder or fine not in x.manager.strides:
            raise ValueError(
                f"a transposed convolution of stride {self.stride} takes stride"
                f" {x.stride} to {x.stride / self.stride:g}, but there are"
                f" voxels at strides {list(x.manager.strides)} only"
            )
        downwards = x.manager.kernel_map(
            fine, x.stride, self.kernel_size, self.dilation
        )
        return self._convolve(x, downwards.transposed, fine)


def batch_norm(
    bn: nn.BatchNorm1d, rows: Float[Tensor, "N C"]
) -> Float[Tensor, "N C"]:
    """What ``bn`` makes of rows, be there one only.

    One row has no variance, and PyTorch refuses it in training: the running
    statistics do for it, and are left as they are. In several processes one row
    in all of them is such a row
    (:class:`vlg_lib.training.distributed.SyncedBatchNorm1d`).

    >>> batch_norm(nn.BatchNorm1d(2, eps=0.0), torch.tensor([[3.0, 4.0]]))
    tensor([[3., 4.]], grad_fn=<NativeBatchNormBackward0>)
    """
    # another class looks at the rows of other processes as well
    alone = len(rows) == 1 and type(bn) is nn.BatchNorm1d
    if not (bn.training and alone):
        result: Tensor = bn(rows)
        return result
    return functional.batch_norm(
        rows, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps
    )


class BatchNorm(nn.Module):
    """Batch normalisation over all voxels of the batch
    (:func:`batch_norm`). Its parameters live under ``bn``, as MinkowskiEngine's
    do.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, eps=eps, momentum=momentum)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Normalise each channel."""
        return x.replace(batch_norm(self.bn, x.features))


class InstanceNorm(nn.Module):
    """Normalisation of each cloud of the batch by its own statistics, in
    training and at test alike.

    ``weight``, ``bias``: (1, C). There are no running statistics, so a network
    trained on one room a batch sees at test what it saw in training; the colour
    cast or the density of a room is taken out with its mean.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1, channels))
        self.bias = nn.Parameter(torch.zeros(1, channels))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Normalise each channel within each cloud."""
        return x.replace(self.normalize(x.features, x.clouds))

    def normalize(
        self, features: Float[Tensor, "N C"], clouds: Clouds
    ) -> Float[Tensor, "N C"]:
        """Features of mean ``bias`` and standard deviation ``weight`` over the
        rows of each cloud.

        Statistics are taken in float32 or better, under autocast too: of one
        voxel, say, the variance is 0, and what 1 / sqrt(0 + eps) does to a
        gradient is beyond float16.
        """
        with torch.autocast(features.device.type, enabled=False):
            wide = features.to(sum_dtype(features))
            normal = clouds.join(
                [self._normalize_cloud(cloud) for cloud in clouds.split(wide)]
            )
        return normal.to(features.dtype)

    def _normalize_cloud(
        self, rows: Float[Tensor, "N C"]
    ) -> Float[Tensor, "N C"]:
        if not len(rows):
            return rows
        # one row is normalised to zero, where functional.batch_norm refuses it
        normal: Tensor = torch.batch_norm(
            rows,
            self.weight.reshape(-1).to(rows.dtype),
            self.bias.reshape(-1).to(rows.dtype),
            None,
            None,
            True,
            0.0,
            self.eps,
            False,
        )
        return normal


class ReLU(nn.Module):
    """max(0, x), feature by feature. ``inplace``: in the memory of ``x``, whose
    own values are lost.
    """

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Rectify ``x``."""
        return x.replace(functional.relu(x.features, inplace=self.inplace))


class _Pooling(nn.Module):
    """Pooling over the occupied voxels under a window; the output is on the
    grid ``stride`` times coarser.
    """

    def __init__(self, kernel_size: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        if min(kernel_size, stride, dilation) < 1:
            raise ValueError(
                "kernel size, stride and dilation are all at least 1"
            )
        self.kernel_size = kernel_size
        self.stride = stride
        self.dilation = dilation

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Pool ``x``."""
        output_stride = x.stride * self.stride
        kernel_map = x.manager.kernel_map(
            x.stride, output_stride, self.kernel_size, self.dilation
        )
        return SparseTensor(
            self._pool(x.features, kernel_map),
            stride=output_stride,
            manager=x.manager,
        )

    def _pool(self, features: Tensor, kernel_map: KernelMap) -> Tensor:
        raise NotImplementedError


class SumPooling(_Pooling):
    """The sum over the occupied voxels under the window; zero for none."""

    def _pool(self, features: Tensor, kernel_map: KernelMap) -> Tensor:
        return sum_pool(features, kernel_map).to(features.dtype)


class AvgPooling(_Pooling):
    """The mean over the occupied voxels under the window (empty ones do not
    count); zero where there is none.
    """

    def _pool(self, features: Tensor, kernel_map: KernelMap) -> Tensor:
        counts = kernel_map.counts().clamp(min=1)[:, None]
        return (sum_pool(features, kernel_map) / counts).to(features.dtype)


class MaxPooling(_Pooling):
    """The largest of the occupied voxels under the window; zero for none."""

    def _pool(self, features: Tensor, kernel_map: KernelMap) -> Tensor:
        return max_pool(features, kernel_map)


def global_average(x: SparseTensor) -> Float[Tensor, "B C"]:
    """The mean over each cloud's voxels, in float32 or better; zero for a cloud
    without voxels.
    """
    means = [
        cloud.sum(dim=0, dtype=sum_dtype(cloud)) / max(1, len(cloud))
        for cloud in x.clouds.split(x.features)
    ]
    return torch.stack(means).to(x.features.dtype)


def global_max(x: SparseTensor) -> Float[Tensor, "B C"]:
    """The largest value over each cloud's voxels; minus infinity for a batch
    index without voxels.
    """
    batch = x.batch
    lowest = x.features.new_full(
        (int(batch.max()) + 1, x.features.shape[1]), -torch.inf
    )
    return lowest.scatter_reduce(
        0, batch[:, None].expand_as(x.features), x.features, "amax"
    )


def cat(*tensors: SparseTensor) -> SparseTensor:
    """The channels of several tensors on one grid, side by side; ValueError
    where they are on different grids.
    """
    if not tensors:
        raise ValueError("expected at least one sparse tensor, found none")
    check_same_grid(*tensors)
    return tensors[0].replace(torch.cat([x.features for x in tensors], dim=1))
