"""The oracle of the sparse layers: the same convolutions on a dense grid, by
torch, and clouds to try them on."""

import torch
from torch.nn.functional import conv3d, conv_transpose3d, pad

from vlg_lib.geometry.voxels import batch_coordinates

MARGIN = 2


def cloud(seed=0, voxels=60, reach=5, stride=1, batches=2):
    """Random voxels around the origin, negative ones too, rows in random order:
    (N, 4), about ``voxels`` a batch."""
    generator = torch.Generator().manual_seed(seed)
    clouds = [
        torch.randint(-reach, reach, (voxels, 3), generator=generator).unique(
            dim=0
        )
        * stride
        for _ in range(batches)
    ]
    rows = batch_coordinates(clouds)
    return rows[torch.randperm(len(rows), generator=generator)]


def random(*shape, seed=0):
    return torch.randn(
        *shape,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )


class DenseGrid:
    """A dense grid with room around the voxels, whose origin lies on the
    coarsest grid in use."""

    def __init__(self, coordinates, coarsest):
        lowest, highest = (
            coordinates[:, 1:].min(0).values,
            coordinates[:, 1:].max(0).values,
        )
        self.origin = (
            torch.div(lowest - MARGIN, coarsest, rounding_mode="floor")
            * coarsest
        )
        self.size = (
            torch.div(
                highest + MARGIN - self.origin, coarsest, rounding_mode="floor"
            )
            + 1
        ) * coarsest
        self.batches = int(coordinates[:, 0].max()) + 1

    def _cells(self, coordinates, stride):
        x, y, z = (
            torch.div(
                coordinates[:, 1:] - self.origin, stride, rounding_mode="floor"
            )
            .long()
            .unbind(1)
        )
        return coordinates[:, 0].long(), x, y, z

    def fill(self, features, coordinates, stride, empty=0.0):
        """(B, C, X, Y, Z) with the features at their voxels."""
        shape = (
            self.batches,
            *(self.size // stride).tolist(),
            features.shape[1],
        )
        grid = torch.full(shape, empty, dtype=features.dtype)
        return grid.index_put(
            self._cells(coordinates, stride), features
        ).permute(0, 4, 1, 2, 3)

    def read(self, grid, coordinates, stride):
        """The rows of the grid at these voxels."""
        return grid.permute(0, 2, 3, 4, 1)[self._cells(coordinates, stride)]


def dense_kernel(kernel, size):
    """(K^3, C_in, C_out), x fastest, as torch's (C_out, C_in, K, K, K) over (x,
    y, z)."""
    return kernel.reshape(size, size, size, *kernel.shape[-2:]).permute(
        4, 3, 2, 1, 0
    )


def dense_convolution(x, kernel, out_coordinates, size, stride, dilation):
    grid = DenseGrid(x.coordinates, x.stride * stride)
    filled = grid.fill(x.features, x.coordinates, x.stride)
    before = size // 2 * dilation if size % 2 else 0
    padded = pad(filled, [before, dilation * (size - 1)] * 3)
    out = conv3d(
        padded, dense_kernel(kernel, size), stride=stride, dilation=dilation
    )
    return grid.read(out, out_coordinates, x.stride * stride)


def dense_transposed(x, kernel, out_coordinates, size, stride, dilation):
    fine = x.stride // stride
    grid = DenseGrid(torch.cat([x.coordinates, out_coordinates]), x.stride)
    filled = grid.fill(x.features, x.coordinates, x.stride)
    before = size // 2 * dilation if size % 2 else 0
    out = conv_transpose3d(
        filled,
        dense_kernel(kernel, size).transpose(0, 1),
        stride=stride,
        dilation=dilation,
    )
    return grid.read(
        out[:, :, before:, before:, before:], out_coordinates, fine
    )
