"""MinkUNet: the 3D network of the method, a U-Net of sparse convolutions
(chapter 07; paper, Sec. 3.4).

Coloured voxels in, one embedding a voxel out. Strided convolutions lead down to
grids 2, 4, 8, 16 times coarser, transposed ones lead back up, and at each
stride the features of the way down join those of the way up. The network is
that of Choy et al., 4D Spatio-Temporal ConvNets (CVPR 2019). Modules are called
as in MinkowskiEngine's examples, which OpenScene and 3DSS-VLG kept, so that a
``state_dict`` fits both ways: ``conv3p4s2`` reads "third convolution, from
stride 4, stepping by 2".
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlg_lib.sparse import Backend, VoxelTensor, get_backend


@dataclass(frozen=True)
class Architecture:
    """The sizes of a MinkUNet; ValueError where the stages down and up are not
    as many.
    """

    planes: tuple[int, ...]
    """Channels of each stage: first the way down, then the way up."""
    blocks: tuple[int, ...]
    """Residual blocks of each stage, in the same order."""
    stem: int = 32
    """Channels at the finest stride."""
    stem_kernel: int = 5
    """Kernel size of the first convolution."""

    def __post_init__(self) -> None:
        if len(self.planes) % 2 or len(self.planes) != len(self.blocks):
            raise ValueError(
                "planes and blocks list the stages down and as many stages up"
            )

    @property
    def levels(self) -> int:
        """How many times the grid is made coarser."""
        return len(self.planes) // 2


ARCHITECTURES = {
    "MinkUNet14A": Architecture(
        (32, 64, 128, 256, 128, 128, 96, 96), (1, 1, 1, 1, 1, 1, 1, 1)
    ),
    "MinkUNet18A": Architecture(
        (32, 64, 128, 256, 128, 128, 96, 96), (2, 2, 2, 2, 2, 2, 2, 2)
    ),
    "MinkUNet34C": Architecture(
        (32, 64, 128, 256, 256, 128, 96, 96), (2, 3, 4, 6, 2, 2, 2, 2)
    ),
    "MinkUNetSmall": Architecture(
        (32, 64, 96, 128, 96, 64, 48, 32),
        (1, 1, 1, 1, 1, 1, 1, 1),
        stem=16,
        stem_kernel=3,
    ),
}


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions and a shortcut: relu(F(x) + x). A 1x1x1
    convolution fits x where the channels change.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        engine: Backend,
        norm: type[nn.Module],
    ):
        super().__init__()
        self.conv1 = engine.Convolution(
            in_channels, out_channels, kernel_size=3
        )
        self.norm1 = norm(out_channels)
        self.conv2 = engine.Convolution(
            out_channels, out_channels, kernel_size=3
        )
        self.norm2 = norm(out_channels)
        # of a sum or a norm, which nobody else reads
        self.relu = engine.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                engine.Convolution(in_channels, out_channels, kernel_size=1),
                norm(out_channels),
            )

    def forward(self, x: VoxelTensor) -> VoxelTensor:
        """The same voxels with ``out_channels`` channels."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(x)) + shortcut)


class MinkUNet(nn.Module):
    """The U-Net of an :class:`Architecture`. Use :func:`create_mink_unet` for
    the known ones.

    With L levels: ``conv0p1s1, bn0``; on the way down ``conv{l}p{stride}s2,
    bn{l}, block{l}`` for l = 1 ... L; on the way up ``convtr{l}p{stride}s2,
    bntr{l}, block{l + 1}`` for l = L ... 2L - 1; ``final``, 1x1x1, with a bias
    if ``head_bias``.
    """

    def __init__(
        self,
        architecture: Architecture,
        in_channels: int,
        out_channels: int,
        *,
        norm: str = "batch",
        head_bias: bool = True,
        engine: Backend | None = None,
    ):
        super().__init__()
        if norm not in ("batch", "instance"):
            raise ValueError(
                f"unknown normalisation {norm!r}; known: batch, instance"
            )
        self.engine = engine or get_backend()
        if norm == "batch":
            self.norm = self.engine.BatchNorm
        else:
            self.norm = self.engine.InstanceNorm
        self.relu = self.engine.ReLU(inplace=True)
        self.conv0p1s1 = self.engine.Convolution(
            in_channels, architecture.stem, kernel_size=architecture.stem_kernel
        )
        self.bn0 = self.norm(architecture.stem)
        self._down: list[tuple[str, str, str]] = []
        self._up: list[tuple[str, str, str]] = []
        self._add_way_down(architecture)
        channels = self._add_way_up(architecture)
        self.final = self.engine.Convolution(
            channels, out_channels, kernel_size=1, bias=head_bias
        )
        for module in self.modules():
            # transposed ones keep their own initial values
            if isinstance(module, self.engine.Convolution):
                _kaiming_normal_(module.get_parameter("kernel"))

    def _add_way_down(self, architecture: Architecture) -> None:
        """The stages that halve the grid: each strided convolution keeps the
        channels, the blocks after it change them.
        """
        channels = architecture.stem
        for level in range(1, architecture.levels + 1):
            names = (
                f"conv{level}p{2 ** (level - 1)}s2",
                f"bn{level}",
                f"block{level}",
            )
            strided = self.engine.Convolution(
                channels, channels, kernel_size=2, stride=2
            )
            width = architecture.planes[level - 1]
            blocks = architecture.blocks[level - 1]
            self._add_stage(names, strided, channels, channels, width, blocks)
            self._down.append(names)
            channels = width

    def _add_way_up(self, architecture: Architecture) -> int:
        """The stages that double the grid, each of which takes the features of
        the way down at its stride beside its own; the channels that leave the
        last one.
        """
        planes, levels = architecture.planes, architecture.levels
        skips = [architecture.stem, *planes[: levels - 1]]
        channels = planes[levels - 1]
        for level in range(levels, 2 * levels):
            names = (
                f"convtr{level}p{2 ** (2 * levels - level)}s2",
                f"bntr{level}",
                f"block{level + 1}",
            )
            width, blocks = planes[level], architecture.blocks[level]
            transposed = self.engine.ConvolutionTranspose(
                channels, width, kernel_size=2, stride=2
            )
            beside = width + skips.pop()
            self._add_stage(names, transposed, width, beside, width, blocks)
            self._up.append(names)
            channels = width
        return channels

    def _add_stage(
        self,
        names: tuple[str, str, str],
        convolution: nn.Module,
        normed: int,
        entering: int,
        width: int,
        blocks: int,
    ) -> None:
        """Add a change of stride, its normalisation (of ``normed`` channels)
        and the residual blocks after it, from ``entering`` to ``width``
        channels.
        """
        residual = [
            BasicBlock(
                entering if index == 0 else width, width, self.engine, self.norm
            )
            for index in range(blocks)
        ]
        modules = (convolution, self.norm(normed), nn.Sequential(*residual))
        for name, module in zip(names, modules, strict=True):
            self.add_module(name, module)

    def forward(self, x: VoxelTensor) -> VoxelTensor:
        """One output row for each voxel of ``x``, which has ``in_channels``
        channels at the finest stride.
        """
        x = self.relu(self.bn0(self.conv0p1s1(x)))
        skips = []
        for names in self._down:
            strided, norm, block = (self.get_submodule(name) for name in names)
            skips.append(x)
            x = block(self.relu(norm(strided(x))))
        for names in self._up:
            transposed, norm, block = (
                self.get_submodule(name) for name in names
            )
            x = self.relu(norm(transposed(x)))
            x = block(self.engine.cat(x, skips.pop()))
        return self.final(x)


def create_mink_unet(
    name: str,
    in_channels: int,
    out_channels: int,
    *,
    norm: str = "batch",
    head_bias: bool = True,
    backend: str | None = None,
    seed: int = 0,
) -> MinkUNet:
    """An untrained network by name, one of ARCHITECTURES; ValueError for any
    other name.

    The initial weights depend on ``seed`` alone. ``norm``: ``batch``, or
    ``instance`` for the statistics of each cloud by itself. ``head_bias``:
    MinkowskiEngine's examples give the last layer a bias; OpenScene and
    3DSS-VLG do not. ``backend``: see
    :func:`vlg_lib.sparse.backend.get_backend`.

    >>> from vlg_lib.sparse import SparseTensor
    >>> network = create_mink_unet("MinkUNetSmall", 3, 64, norm="instance")
    >>> rows = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]])
    >>> network(SparseTensor(torch.ones(2, 3), rows))
    SparseTensor(2 voxels, 64 channels, stride 1)
    """
    if name not in ARCHITECTURES:
        raise ValueError(
            f"unknown network {name!r}; known: {', '.join(ARCHITECTURES)}"
        )
    engine = get_backend(backend)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MinkUNet(
            ARCHITECTURES[name],
            in_channels,
            out_channels,
            norm=norm,
            head_bias=head_bias,
            engine=engine,
        )


@torch.no_grad()
def _kaiming_normal_(kernel: Tensor) -> None:
    """He et al. (2015) for ReLU, by the fan out: the variance 2 / (C_out K^3)
    keeps gradients at one scale.
    """
    volume = kernel.shape[0] if kernel.ndim == 3 else 1
    kernel.normal_(0.0, (2 / (kernel.shape[-1] * volume)) ** 0.5)
