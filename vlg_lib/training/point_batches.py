"""How a 3D network is trained, whatever its loss: rooms drawn, changed,
cropped, voxelised and batched (chapter 08).

Stage 3 and every baseline go through :func:`train_network`, so that they differ
in their loss and in nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from vlg_lib.networks.point_network import (
    PointNetwork,
    point_features,
    scaled_colors,
    voxel_inputs,
)
from vlg_lib.sparse import VoxelTensor
from vlg_lib.training.augmentation import Augmentation, augment, crop
from vlg_lib.training.distributed import mixed_precision
from vlg_lib.training.loop import SCHEDULES, FitSettings, Optimization, fit
from vlg_lib.training.muon import Muon
from vlg_lib.training.scan_like import Scan, ScanLike, scan_like


@dataclass(frozen=True)
class Cloud:
    """What stage 3 may see of a scene: ``points`` (N, 3) float32, metres, z up;
    ``colors`` (N, 3) uint8.

    ``sampling_weights``: (N,) float32 or None, how likely each point is to be
    the centre of a crop, relative to the others.
    """

    points: Float[Tensor, "N 3"]
    colors: UInt8[Tensor, "N 3"]
    sampling_weights: Float[Tensor, " N"] | None = None


@dataclass(frozen=True)
class CloudBatch:
    """A batch of B crops: the network's input, and where its P points come
    from.

    ``clouds``: the index of each crop's room. ``points``: for each crop, the
    indices of its points in that room. ``rows``: (P,) the voxel row of each
    point, crop after crop.
    """

    inputs: VoxelTensor
    clouds: list[int]
    points: list[Int64[Tensor, " _"]]
    rows: Int64[Tensor, " P"]

    def gather(
        self, values: Sequence[Shaped[Tensor, "_ ..."]]
    ) -> Shaped[Tensor, "P ..."]:
        """The points' values out of per-room values, in the order of ``rows``
        and on its device.
        """
        drawn = [
            values[cloud][points]
            for cloud, points in zip(self.clouds, self.points, strict=True)
        ]
        return torch.cat(drawn).to(self.rows.device)


def _adamw(
    parameters: Sequence[nn.Parameter], rate: float, decay: float
) -> Optimizer:
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(
        parameters, lr=rate, weight_decay=decay, fused=fused
    )


def _muon(
    parameters: Sequence[nn.Parameter], rate: float, decay: float
) -> Optimizer:
    # of a training this short a mean over ten steps is long enough
    return Muon(parameters, rate, weight_decay=decay, momentum=0.9)


OPTIMIZERS = {"adamw": _adamw, "muon": _muon}
"""The optimizers by name: of parameters, rate and weight decay."""


@dataclass(frozen=True)
class TrainingSettings:
    """The budget and the recipe that all 3D networks of one table share.

    The paper: Adam at 1e-3 with the poly schedule, 8 whole scenes a batch, 2 cm
    voxels. ValueError for an unknown schedule or
    optimizer, and shares out of range.
    """

    steps: int
    """How many batches are learnt from; from 0. The paper, for ScanNet:
    75,062."""
    batch_rooms: int = 4
    """Rooms in a batch; from 1. The paper: 8."""
    crop: float | None = 2.6
    """The side of the square column that is cut from a room, metres, above 0;
    None takes whole rooms, as the paper does."""
    learning_rate: float = 4e-3
    """The optimizer's rate at its highest, above 0. The paper: 1e-3."""
    optimizer: str = "adamw"
    """How weights are moved, a name in :data:`OPTIMIZERS`. The paper: Adam."""
    weight_decay: float = 1e-4
    """How much weights shrink in a step, times the rate; from 0. The paper's
    release: 0."""
    max_grad_norm: float | None = 5.0
    """The largest norm of the gradient; None for any, as in the paper's
    release."""
    coarse: float = 0.0
    """The share of the steps, from the first on, that see coarser voxels: such
    a step costs half as much, and teaches most of what a finer one does.
    0 to 1."""
    coarse_factor: float = 1.5
    """How many times as long the sides of coarser voxels are, above 0."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How far rooms are changed at random."""
    scan_like: ScanLike | None = None
    """How much rooms are made to look like scans; None: not at all."""
    schedule: str = "one_cycle"
    """How the rate changes, a name in
    :data:`vlg_lib.training.loop.SCHEDULES`. The paper: ``poly_decay``."""

    def __post_init__(self) -> None:
        for what, name, known in (
            ("schedule", self.schedule, SCHEDULES),
            ("optimizer", self.optimizer, OPTIMIZERS),
        ):
            if name not in known:
                raise ValueError(
                    f"unknown {what} {name!r}; known: {', '.join(known)}"
                )
        if not 0 <= self.coarse <= 1 or self.coarse_factor <= 0:
            raise ValueError(
                "a share of coarse steps from 0 to 1 and a factor above 0"
                f" expected, found {self.coarse} and {self.coarse_factor}"
            )


@dataclass(frozen=True)
class _Crop:
    """A part of a room, changed: the index of the room, which of its points the
    crop has, where they were moved to, and their features; after them come
    points that are no room's.
    """

    cloud: int
    chosen: Int64[Tensor, " M"]
    points: Float[Tensor, "P 3"]
    features: Float[Tensor, "P C"]
    voxel_size: float


def draw_batch(
    network: PointNetwork,
    clouds: Sequence[Cloud],
    settings: TrainingSettings,
    generator: Generator,
) -> CloudBatch:
    """Draw rooms, change, crop and voxelise them, in the voxels that the
    network works in. A generator in the same state draws the same batch.

    >>> from vlg_lib.networks.point_network import NetworkSettings
    >>> network = PointNetwork(NetworkSettings())
    >>> cloud = Cloud(torch.rand(50, 3), torch.zeros(50, 3).byte())
    >>> settings = TrainingSettings(steps=1, batch_rooms=1)
    >>> batch = draw_batch(network, [cloud], settings, Generator())
    >>> batch.clouds, len(batch.points[0]) == len(batch.rows)
    ([0], True)
    """
    size = network.settings.voxel_size
    return _collate(network, _draw(network, clouds, settings, size, generator))


def _draw(
    network: PointNetwork,
    clouds: Sequence[Cloud],
    settings: TrainingSettings,
    voxel_size: float,
    generator: Generator,
) -> list[_Crop]:
    crops = []
    for index in torch.randperm(len(clouds), generator=generator)[
        : settings.batch_rooms
    ].tolist():
        cloud = clouds[index]
        scan, weights = _scan(cloud, settings.scan_like, generator)
        moved, colors = augment(
            scan.points, scan.colors, settings.augmentation, generator
        )
        features = point_features(moved, colors, network.settings.height)
        moved = moved + torch.rand(3, generator=generator) * voxel_size
        chosen = (
            torch.arange(len(moved))
            if settings.crop is None
            else crop(moved, settings.crop, generator, weights)
        )
        origin = scan.origin[chosen]
        crops.append(
            _Crop(
                index,
                origin[origin >= 0],
                moved[chosen],
                features[chosen],
                voxel_size,
            )
        )
    return crops


def _scan(
    cloud: Cloud, settings: ScanLike | None, generator: Generator
) -> tuple[Scan, Float[Tensor, " M"] | None]:
    """A room as a scan might show it, and how likely each of its points is to
    be the centre of a crop; what is no room's is none.
    """
    colors, weights = scaled_colors(cloud.colors), cloud.sampling_weights
    if settings is None:
        every = torch.arange(len(cloud.points))
        return Scan(cloud.points, colors, every), weights
    scan = scan_like(cloud.points, colors, settings, generator)
    return scan, None if weights is None else scan.carry(weights, 0)


def _voxel_size(
    network: PointNetwork, settings: TrainingSettings, step: int
) -> float:
    """The sides of the voxels of a step, metres."""
    own = network.settings.voxel_size
    is_coarse = step < settings.coarse * settings.steps
    return own * settings.coarse_factor if is_coarse else own


def _collate(network: PointNetwork, crops: Sequence[_Crop]) -> CloudBatch:
    inputs, rows = voxel_inputs(
        network,
        [(crop.points, crop.features) for crop in crops],
        crops[0].voxel_size,
    )
    by_crop = rows.split([len(crop.points) for crop in crops])
    return CloudBatch(
        inputs,
        [crop.cloud for crop in crops],
        [crop.chosen for crop in crops],
        torch.cat(
            [
                part[: len(crop.chosen)]
                for part, crop in zip(by_crop, crops, strict=True)
            ]
        ),
    )


def train_network(
    network: PointNetwork,
    clouds: Sequence[Cloud],
    loss: Callable[
        [Float[Tensor, "V channels"], CloudBatch],
        Tensor | tuple[Tensor, Tensor | float],
    ],
    settings: TrainingSettings,
    fit_settings: FitSettings | None = None,
) -> list[float]:
    """Train a network in place on rooms and return the loss of each step;
    ``loss(outputs of the voxels, batch)``.

    The loss is a mean, or a mean and what it weighs beside those of other parts
    of a step (:func:`vlg_lib.training.loop.fit`). Precision:
    :func:`vlg_lib.training.distributed.mixed_precision`; in float16 the loss is
    scaled. ValueError without rooms.

    >>> from vlg_lib.networks.point_network import NetworkSettings
    >>> network = PointNetwork(NetworkSettings(norm="instance"))
    >>> cloud = Cloud(torch.rand(50, 3), torch.zeros(50, 3).byte())
    >>> settings = TrainingSettings(steps=2, batch_rooms=1)
    >>> loss = lambda outputs, batch: outputs.square().mean()
    >>> len(train_network(network, [cloud], loss, settings))
    2
    """
    if not clouds:
        raise ValueError("there is no room to train on")
    device = next(network.parameters()).device
    precision = mixed_precision(device)

    def batch_loss(
        model: nn.Module, batch: CloudBatch
    ) -> Tensor | tuple[Tensor, Tensor | float]:
        with torch.autocast(
            device.type, dtype=precision, enabled=precision is not None
        ):
            outputs = model(batch.inputs)
        return loss(outputs.float(), batch)

    return fit(
        network,
        lambda step, generator: _draw(
            network,
            clouds,
            settings,
            _voxel_size(network, settings, step),
            generator,
        ),
        batch_loss,
        Optimization(
            OPTIMIZERS[settings.optimizer](
                list(network.parameters()),
                settings.learning_rate,
                settings.weight_decay,
            ),
            settings.steps,
            SCHEDULES[settings.schedule],
            settings.max_grad_norm,
            half_precision=precision is torch.float16,
        ),
        fit_settings,
        collate=lambda crops: _collate(network, crops),
    )
