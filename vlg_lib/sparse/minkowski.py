"""The other engine: MinkowskiEngine's own layers under our names (chapter 07).

Its tensors pass through a network as they are: ``features`` and ``coordinates``
mean the same there, and the parameters have the same names and shapes. Rows of
strided grids come in an order of its own: compare by coordinate, never by row.
"""

from typing import Any

from torch import Tensor

from vlg_lib.sparse import layers
from vlg_lib.sparse.clouds import find_clouds
from vlg_lib.sparse.tensor import CoordinateManager


def minkowski_layers() -> dict[str, Any]:
    """The layers of :class:`~vlg_lib.sparse.backend.Backend` by name. Raises
    ImportError without MinkowskiEngine.
    """
    # here, not above: it is optional, and finds its libraries only after torch
    import MinkowskiEngine as ME

    def sparse_tensor(features: Tensor, coordinates: Tensor) -> Any:
        """Features on voxels, refused where ours are: MinkowskiEngine would
        floor, wrap or drop bad coordinates.
        """
        CoordinateManager(coordinates)
        return ME.SparseTensor(features, coordinates=coordinates.int())

    class Convolution(ME.MinkowskiConvolution):
        def __init__(
            self,
            in_channels: int,
            out_channels: int,
            kernel_size: int = 3,
            stride: int = 1,
            dilation: int = 1,
            bias: bool = False,
        ):
            super().__init__(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                dilation,
                bias,
                dimension=3,
            )

    class ConvolutionTranspose(ME.MinkowskiConvolutionTranspose):
        def __init__(
            self,
            in_channels: int,
            out_channels: int,
            kernel_size: int = 3,
            stride: int = 1,
            dilation: int = 1,
            bias: bool = False,
        ):
            super().__init__(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                dilation,
                bias,
                dimension=3,
            )

    def replaced(x: Any, features: Tensor) -> Any:
        """Other features on the voxels of ``x``."""
        return ME.SparseTensor(
            features,
            coordinate_map_key=x.coordinate_map_key,
            coordinate_manager=x.coordinate_manager,
        )

    class BatchNorm(ME.MinkowskiBatchNorm):
        def forward(self, x: Any) -> Any:
            return replaced(x, layers.batch_norm(self.bn, x.F))

    class InstanceNorm(layers.InstanceNorm):
        def forward(self, x: Any) -> Any:
            return replaced(x, self.normalize(x.F, find_clouds(x.C[:, 0])))

    return {
        "SparseTensor": sparse_tensor,
        "Convolution": Convolution,
        "ConvolutionTranspose": ConvolutionTranspose,
        "BatchNorm": BatchNorm,
        "InstanceNorm": InstanceNorm,
        "ReLU": ME.MinkowskiReLU,
        "cat": ME.cat,
    }
