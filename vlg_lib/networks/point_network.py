"""A 3D network for point clouds: MinkUNet with the way from points to voxels
and back, and its file (chapter 08).

Points and colours go in, a vector for every point comes out. What the vector
means is the training's business: an embedding to compare with text
(``embeddings``), or a score for each class of a fixed set (``scores``).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Int32, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize

from vlg_lib.artifacts import (
    StoreError,
    load_tensors,
    plain_name,
    save_tensors,
)
from vlg_lib.geometry.poses import rotation_matrix
from vlg_lib.geometry.voxels import batch_coordinates, voxelize
from vlg_lib.networks.mink_unet import ARCHITECTURES, create_mink_unet
from vlg_lib.precision import sum_dtype
from vlg_lib.sparse import VoxelTensor

FORMAT = "vlg_lib point network 1"

OUTPUTS = ("embeddings", "scores")

TURN = math.radians(20)
"""How far a cloud is turned about z before it is labelled. Scans stand along
their axes, and a wall in a face of the voxel grid falls to both sides of it.
Training turns rooms at random and hardly ever shows that."""


@dataclass(frozen=True)
class NetworkSettings:
    """What a network is built from: enough to build it again before its weights
    are loaded.

    ValueError for an unknown output.
    """

    architecture: str = "MinkUNetSmall"
    """A name in ``vlg_lib.networks.mink_unet.ARCHITECTURES``. The paper:
    MinkUNet18A."""
    channels: int = 64
    """How many numbers a point gets: the dimension of the text embeddings, or
    the number of classes."""
    voxel_size: float = 0.08
    """The side of a voxel, metres; above 0. The paper: 0.02."""
    norm: str = "batch"
    """What is normalised over: ``batch``, or ``instance`` for each cloud by
    itself. The paper: batch."""
    height: bool = True
    """Whether there is a fourth input channel, the height above the cloud's
    floor. The paper's network sees colours alone."""
    output: str = "embeddings"
    """What the numbers are, one of OUTPUTS: ``embeddings`` to compare with
    text, or ``scores`` of a fixed set of classes."""

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise ValueError(
                f"unknown output {self.output!r}; known: {', '.join(OUTPUTS)}"
            )


class PointNetwork(nn.Module):
    """MinkUNet on coloured points, its first weights drawn with ``seed``;
    :func:`load_network` reads a trained one.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        *,
        backend: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.unet = create_mink_unet(
            settings.architecture,
            3 + settings.height,
            settings.channels,
            norm=settings.norm,
            head_bias=settings.output == "scores",
            backend=backend,
            seed=seed,
        )

    def forward(self, inputs: VoxelTensor) -> Float[Tensor, "V channels"]:
        """One vector for each voxel of ``inputs`` (see :func:`voxel_inputs`),
        in the order of its rows.
        """
        outputs: Tensor = self.unet(inputs).features
        return outputs


def point_features(
    points: Float[Tensor, "N 3"], colors: Float[Tensor, "N 3"], height: bool
) -> Float[Tensor, "N channels"]:
    """What the network is told of a point: its colour in [-1, 1] and, with
    ``height``, its height.

    Height is counted from the floor (the lowest hundredth of the points lies
    below it, for scans have stray points), in units of 1.5 m, and is 0 at 1.5
    m: about as large as a colour. The place in the room is not told.

    >>> points = torch.tensor([[0.0, 0, 0], [0, 0, 1.5]])
    >>> point_features(points, torch.zeros(2, 3), height=True).tolist()
    [[0.0, 0.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    if not height:
        return colors
    z = points[:, 2]
    floor = z.kthvalue(max(1, math.ceil(0.01 * len(z)))).values
    return torch.cat([colors, ((z - floor) / 1.5 - 1)[:, None]], dim=1)


def voxel_inputs(
    network: PointNetwork,
    clouds: Sequence[tuple[Float[Tensor, "_ 3"], Float[Tensor, "_ C"]]],
    voxel_size: float | None = None,
) -> tuple[VoxelTensor, Int64[Tensor, " M"]]:
    """Clouds of (points, features) as one batch of voxels, and the row of each
    point's voxel. ``voxel_size``: metres; None for the network's own.

    A voxel carries the mean of its points' features. The second result counts
    all points, cloud after cloud: ``network(voxels)[rows]`` hands each point
    the vector of its voxel.

    >>> network = PointNetwork(NetworkSettings())
    >>> points = torch.tensor([[0.01, 0, 0], [0.02, 0, 0], [0.5, 0, 0]])
    >>> voxels, rows = voxel_inputs(network, [(points, torch.zeros(3, 4))])
    >>> len(voxels.features), rows.tolist()
    (2, [0, 0, 1])
    """
    coordinates, features, rows, count = [], [], [], 0
    for points, values in clouds:
        voxels = voxelize(points, voxel_size or network.settings.voxel_size)
        coordinates.append(voxels.coordinates)
        features.append(voxels.average(values))
        rows.append(voxels.point_to_voxel + count)
        count += len(voxels)
    device = next(network.parameters()).device
    tensor = network.unet.engine.SparseTensor(
        torch.cat(features).to(device),
        batch_coordinates(coordinates).to(device),
    )
    return tensor, torch.cat(rows).to(device)


def scaled_colors(colors: UInt8[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Colours 0 ... 255 as float32 in [-1, 1], as the paper's network takes
    them.

    >>> scaled_colors(torch.tensor([[0, 255, 51]]).byte())
    tensor([[-1.0000,  1.0000, -0.6000]])
    """
    return colors.float() / 127.5 - 1


def point_scores(
    network: PointNetwork,
    points: Float[Tensor, "N 3"],
    colors: UInt8[Tensor, "N 3"],
    text_embeddings: Float[Tensor, "K D"] | None = None,
    *,
    augmentations: int = 1,
    seed: int = 0,
) -> Float[Tensor, "N K"]:
    """The scores of every class at every point, on the CPU: cosines with the
    text, or the network's own scores.

    ``text_embeddings`` is needed by a network of embeddings and refused by one
    of scores. The cloud is first turned off its axes (:data:`TURN`) and moved
    to the origin, so its place does not matter. With more ``augmentations``
    than one it is also turned about z by as many even steps and moved at random
    within a voxel, and the scores are averaged (test-time augmentation; the
    paper adds up five). ValueError for fewer than one.

    >>> network = PointNetwork(NetworkSettings())
    >>> points, colors = torch.rand(50, 3), torch.zeros(50, 3).byte()
    >>> point_scores(network, points, colors, torch.eye(3, 64)).shape
    torch.Size([50, 3])
    """
    scores, rows = voxel_scores(
        network,
        points,
        colors,
        text_embeddings,
        augmentations=augmentations,
        seed=seed,
    )
    return mean_of_rows(scores, rows)


@torch.no_grad()
def voxel_scores(
    network: PointNetwork,
    points: Float[Tensor, "N 3"],
    colors: UInt8[Tensor, "N 3"],
    text_embeddings: Float[Tensor, "K D"] | None = None,
    *,
    augmentations: int = 1,
    seed: int = 0,
) -> tuple[Float[Tensor, "V K"], Int32[Tensor, "N A"]]:
    """The scores of :func:`point_scores` while they still belong to voxels: of
    all turned copies one under the other, and for each point the row of its
    voxel in each copy. Both on the CPU.

    A large cloud has many points a voxel, and its voxels are far fewer numbers
    than its points.

    >>> network = PointNetwork(NetworkSettings(channels=3, output="scores"))
    >>> points = torch.tensor([[0.0, 0, 0], [0.01, 0, 0], [1.0, 0, 0]])
    >>> scores, rows = voxel_scores(network, points, points.byte())
    >>> scores.shape, rows.tolist()
    (torch.Size([2, 3]), [[0], [0], [1]])
    """
    _check_text(network, text_embeddings)
    if augmentations < 1:
        raise ValueError(
            "the scores are a mean over augmentations: at least one is needed,"
            f" found {augmentations}"
        )
    network.eval()
    features = point_features(
        points, scaled_colors(colors), network.settings.height
    )
    rows = torch.empty(len(points), augmentations, dtype=torch.int32)
    scores: list[Tensor] = []
    count = 0
    for index, moved in enumerate(
        _turned(points, augmentations, network.settings.voxel_size, seed)
    ):
        voxels, own = voxel_inputs(network, [(moved, features)])
        outputs = network(voxels).float()
        if text_embeddings is not None:
            outputs = (
                normalize(outputs, dim=1)
                @ normalize(text_embeddings.to(outputs), dim=1).T
            )
        rows[:, index] = own + count
        scores.append(outputs.cpu())
        count += len(outputs)
    return torch.cat(scores), rows


def mean_of_rows(
    table: Float[Tensor, "V K"], rows: Int[Tensor, "N A"]
) -> Float[Tensor, "N K"]:
    """The mean of the rows of ``table`` that each row of ``rows`` names, added
    up in float32 or better.

    >>> table = torch.tensor([[1.0], [3.0], [7.0]])
    >>> mean_of_rows(table, torch.tensor([[0, 1], [2, 2]])).tolist()
    [[2.0], [7.0]]
    """
    # gathers and adds in one pass, without a copy of the table for each column
    wide = table.to(sum_dtype(table))
    return embedding_bag(rows, wide, mode="mean").to(table.dtype)


def _turned(
    points: Float[Tensor, "N 3"],
    augmentations: int,
    voxel_size: float,
    seed: int,
) -> Iterator[Float[Tensor, "N 3"]]:
    """The copies of a cloud that a network is shown, see
    :func:`point_scores`.
    """
    generator = torch.Generator().manual_seed(seed)
    for index in range(augmentations):
        moved = (
            points
            @ rotation_matrix(TURN + 2 * math.pi * index / augmentations).T
        )
        shift = (
            torch.rand(3, generator=generator)
            if index
            else torch.full((3,), 0.5)
        )
        # column by column: several times as fast as amin(dim=0)
        low = torch.stack([column.min() for column in moved.unbind(dim=1)])
        yield moved.sub_(low).add_(shift * voxel_size)


def _check_text(network: PointNetwork, text_embeddings: Tensor | None) -> None:
    settings = network.settings
    if settings.output == "scores" and text_embeddings is not None:
        raise ValueError(
            "this network scores a fixed set of classes: it takes no text"
            " embeddings"
        )
    if settings.output == "embeddings":
        if text_embeddings is None:
            raise ValueError(
                "this network gives embeddings: it needs the text embeddings of"
                " the classes"
            )
        if text_embeddings.shape[1] != settings.channels:
            raise ValueError(
                f"text embeddings of {text_embeddings.shape[1]} numbers for"
                f" point embeddings of {settings.channels}: take the text tower"
                " of the model that the network was trained with"
            )


def save_network(
    path: Path, network: PointNetwork, *, half: bool = True, **about: Any
) -> None:
    """Write weights and settings into one safetensors file; ``about``:
    JSON-able facts (classes, teacher, training).

    ``half``: weights are rounded to float16, half the size; they are float32
    again when loaded. Those with numbers beyond float16 stay as they are. A
    network that ``torch.compile`` has wrapped is saved under the names of its
    own weights. ValueError where the weights are not those that
    :func:`load_network` expects; then nothing is written.
    """
    weights = {
        plain_name(name): tensor
        for name, tensor in network.unet.state_dict().items()
    }
    _check_weights(path, weights, network.settings)
    tensors = {
        name: _half(tensor) if half else tensor
        for name, tensor in weights.items()
    }
    save_tensors(
        path,
        tensors,
        {"format": FORMAT, "settings": asdict(network.settings), **about},
    )


def _check_weights(
    path: Path, weights: Mapping[str, Tensor], settings: NetworkSettings
) -> None:
    """ValueError where a network of these settings has other weights, or some
    of another shape.
    """
    expected = PointNetwork(settings).unet.state_dict()
    wrong = sorted(
        name
        for name in expected.keys() | weights.keys()
        if name not in expected
        or name not in weights
        or expected[name].shape != weights[name].shape
    )
    if wrong:
        raise ValueError(
            f"{path}: the network does not have the weights of its settings, so"
            f" it could not be loaded again; {len(wrong)} differ, first"
            f" {wrong[0]!r}: save it without what was added to its modules"
        )


def load_network(
    path: Path, *, backend: str | None = None
) -> tuple[PointNetwork, dict[str, Any]]:
    """Read what :func:`save_network` wrote: (the network in evaluation mode,
    float32, on the CPU; what is said of it).

    Raises StoreError where the file is missing, cut, of another kind, or does
    not fit its own architecture.
    """
    tensors, manifest = load_tensors(path)
    if manifest.get("format") != FORMAT:
        raise StoreError(
            f"{path}: expected a network of this library ({FORMAT}), found"
            f" {manifest.get('format')!r}"
        )
    try:
        settings = NetworkSettings(**manifest["settings"])
        network = PointNetwork(settings, backend=backend)
        network.unet.load_state_dict(
            {name: _full(tensor) for name, tensor in tensors.items()}
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        known = ", ".join(ARCHITECTURES)
        # PyTorch gives each tensor that does not fit a line
        reason = " ".join(str(error).split())[:200]
        raise StoreError(
            f"{path}: weights and settings do not fit ({reason}); known"
            f" networks: {known}"
        ) from error
    return network.eval(), manifest


def _half(tensor: Tensor) -> Tensor:
    """The numbers rounded to float16, where none of them becomes infinite."""
    if not tensor.is_floating_point():
        return tensor
    rounded = tensor.half()
    overflows = bool((rounded.isinf() & tensor.isfinite()).any())
    return tensor if overflows else rounded


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def check_scores(network: PointNetwork, counts: set[int]) -> None:
    """ValueError unless the network gives scores, and as many as each of the
    ``counts`` of classes.

    >>> check_scores(PointNetwork(NetworkSettings(output="scores")), {64})
    """
    settings = network.settings
    if settings.output != "scores":
        raise ValueError(
            "a classifier is a network of scores, this one gives embeddings"
        )
    if counts - {settings.channels}:
        raise ValueError(
            f"scene labels of {sorted(counts)} classes, the network scores"
            f" {settings.channels}"
        )
