"""Large clouds in overlapping tiles, so that a network's memory is bounded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from vlg_lib.geometry.voxels import voxelize
from vlg_lib.networks.point_network import (
    PointNetwork,
    mean_of_rows,
    voxel_scores,
)

TILE_VOXELS = 200_000
"""Larger clouds go through in tiles: about 1 kB a voxel (small network)."""

_BLOCK = 2**14
"""Points whose scores are compared at a time: those of a dozen classes fit into
a processor's cache."""

MARGIN = 32
"""Voxels around a tile that the network sees and does not label. A whole power
of two, as all strides are."""


Listener = Callable[[Int64[Tensor, " M"], Float[Tensor, "M K"]], None]
"""What is told the class probabilities of some points, and their numbers."""


@dataclass(frozen=True)
class Question:
    """What a network is asked about a cloud."""

    texts: Float[Tensor, "K D"] | None = None
    """The embeddings of the class names, for a network of embeddings."""
    columns: Sequence[int] | None = None
    """Which of its own scores are the classes, for a network of scores; None:
    all of them."""
    temperature: float = 1.0
    """Divides what the softmax turns into probabilities; above 0."""
    augmentations: int = 1
    """Turned copies of the cloud whose scores are averaged; from 1."""


def label_points(
    network: PointNetwork,
    points: Float[Tensor, "N 3"],
    colors: UInt8[Tensor, "N 3"],
    question: Question,
    *,
    progress: bool = False,
    tile_voxels: int = TILE_VOXELS,
    listener: Listener | None = None,
) -> tuple[Int64[Tensor, " N"], Float[Tensor, " N"], int]:
    """The best class of every point, its softmax probability, and how many
    tiles the cloud was cut into.

    ``listener`` is told the probabilities of all classes, each point once.
    A tile knows its own floor (and, with instance normalisation, its own
    statistics), as a room does in training. ValueError for a network that
    answers with NaN.
    """
    labels = torch.empty(len(points), dtype=torch.int64)
    scores = torch.empty(len(points))
    cut = list(tiles(points, network.settings.voxel_size, tile_voxels))
    for seen, own in tqdm(
        cut, "network", disable=not progress or len(cut) == 1
    ):
        found, rows = voxel_scores(
            network,
            points[seen],
            colors[seen],
            question.texts,
            augmentations=question.augmentations,
        )
        if question.columns is not None:
            found = found[:, list(question.columns)]
        if not bool(found.isfinite().all()):
            raise ValueError(
                "the network answers with NaN or infinite scores: its weights"
                " are damaged"
            )
        found, rows, seen = found / question.temperature, rows[own], seen[own]
        labels[seen], scores[seen] = _best(found, rows)
        if listener is not None:
            _tell(listener, seen, found, rows)
    return labels, scores, len(cut)


def _best(
    scores: Float[Tensor, "V K"], rows: Int[Tensor, "N A"]
) -> tuple[Int64[Tensor, " N"], Float[Tensor, " N"]]:
    """The best class of every point and its softmax probability, from the
    scores of voxels and each point's ``rows`` among them.

    In blocks of points, so that the scores of all points are never there at
    once.
    """
    labels, probabilities = [], []
    for block in rows.split(_BLOCK):
        logits = mean_of_rows(scores, block)
        best, label = logits.max(dim=1)
        labels.append(label)
        others = (logits - best[:, None]).exp_().sum(dim=1)
        probabilities.append(others.reciprocal_())
    return torch.cat(labels), torch.cat(probabilities)


def _tell(
    listener: Listener,
    points: Int64[Tensor, " N"],
    scores: Float[Tensor, "V K"],
    rows: Int[Tensor, "N A"],
) -> None:
    """Tell the probabilities of points, in blocks, from the scores of voxels
    and each point's ``rows`` among them.
    """
    for some, block in zip(
        points.split(_BLOCK), rows.split(_BLOCK), strict=True
    ):
        listener(some, mean_of_rows(scores, block).softmax(dim=1).cpu())


def tiles(
    points: Float[Tensor, "N 3"],
    voxel_size: float,
    limit: int,
    margin: int = MARGIN,
) -> Iterator[tuple[Int64[Tensor, " M"], Bool[Tensor, " M"]]]:
    """Cut a cloud into upright boxes of at most ``limit`` occupied voxels (or
    one voxel column): halves of halves.

    For each box: the indices of the points in it and up to ``margin`` voxels
    beside it, and which of these are its own. Every point is one box's own.

    >>> points = torch.tensor([[0.0, 0, 0], [10.0, 0, 0]])
    >>> [own.tolist() for _, own in tiles(points, 0.1, limit=1)]
    [[True], [True]]
    """
    voxels = voxelize(points, voxel_size)
    columns = voxels.coordinates[:, :2].long()
    waiting = [torch.arange(len(voxels))]
    while waiting:
        rows = waiting.pop()
        inside = columns[rows]
        low, high = inside.amin(dim=0), inside.amax(dim=0)
        axis = int((high - low).argmax())
        if len(rows) > limit and int(high[axis]) > int(low[axis]):
            half = inside[:, axis] < max(
                int(inside[:, axis].median()), int(low[axis]) + 1
            )
            waiting += [rows[~half], rows[half]]
            continue
        own = torch.zeros(len(voxels), dtype=torch.bool)
        own[rows] = True
        near = ((columns >= low - margin) & (columns <= high + margin)).all(
            dim=1
        )
        (seen,) = near[voxels.point_to_voxel].nonzero(as_tuple=True)
        yield seen, own[voxels.point_to_voxel[seen]]
