"""Superpoints: a cloud in pieces of one surface and one colour, and votes over
them (chapter 11).

The points of a wall belong together whatever a 2D model says of each of them.
:func:`superpoints` cuts a cloud into such pieces without any label: normals, a
graph of neighbours, and the graph-based merge of Felzenszwalb and Huttenlocher
(IJCV 2004). :func:`vote` and :func:`soft_vote` then give all points of a piece
one label, and :func:`ceiling` tells what a perfect vote would reach.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from tqdm.auto import tqdm

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.metrics import confusion
from vlg_lib.scene import Scene

UNLABELLED = ("ignored", "counts")
"""What points without a label do in :func:`vote`."""

_BLOCK = 2**16
"""Points whose neighbours are looked up at a time: 100 MB."""


@dataclass(frozen=True)
class SuperpointSettings:
    """How a cloud is cut. ValueError for a value that makes no sense.

    >>> SuperpointSettings(scale=1.0).least
    30
    """

    neighbours: int = 8
    """Each point is joined by an edge to so many nearest others; from 1."""
    normal_neighbours: int = 16
    """Points, itself among them, whose best plane gives a point its normal;
    from 3."""
    scale: float = 2.0
    """k of the algorithm, in units of the edge weight, from 0: the larger, the
    larger the pieces. With 0 only edges of weight 0 merge."""
    least: int = 30
    """Pieces of fewer points are joined to a neighbour afterwards; from 1. A
    piece that no edge leaves stays as it is."""
    color_weight: float = 1.0
    """How much the distance of two colours (RGB from 0 to 1) counts beside the
    angle of their normals; from 0. Boards, windows and doors lie in the plane
    of the wall: without colour they are one with it."""

    def __post_init__(self) -> None:
        for name, low in (
            ("neighbours", 1),
            ("normal_neighbours", 3),
            ("least", 1),
            ("scale", 0),
            ("color_weight", 0),
        ):
            value = getattr(self, name)
            if not low <= value < float("inf"):
                raise ValueError(
                    f"superpoints: expected {name} of {low} or more, found"
                    f" {value}"
                )


@dataclass(frozen=True)
class _Edges:
    """The edges of a graph, lightest first: ``left`` < ``right`` are points."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    weights: NDArray[np.float64]


def superpoints(
    points: Float[Tensor, "N 3"],
    colors: UInt8[Tensor, "N 3"],
    settings: SuperpointSettings = SuperpointSettings(),
    *,
    progress: bool = False,
) -> Int64[Tensor, " N"]:
    """The superpoint of every point, (N,) int64 from 0, numbered in the order
    of their first points.

    ``points``: (N, 3) float32, metres. ``colors``: (N, 3) uint8. ``progress``:
    whether to show a bar. An edge joins a point and each of its nearest others;
    its weight is ``1 - |n . m|`` of their normals plus the distance of their
    colours. Edges are taken in the order of their weights. One between two
    pieces merges them where it weighs no more than Int + k / size of either;
    Int is the heaviest edge of the piece's minimum spanning tree. Small pieces
    are joined afterwards, over the lightest edges first. This is the published
    algorithm. Its image grid alone is replaced by the graph of neighbours.

    Equal weights are taken in the order of the points. Where no two weights and
    no two distances are equal, another order of the points gives the same
    pieces. 100,000 points take less than a CPU second and 100 MB, a million
    take nine and 700 MB (``results/superpoints.json``). ValueError for clouds
    without points, shapes that do not fit, and NaN or infinite coordinates.

    >>> line = torch.arange(20.0)[:, None] * torch.tensor([0.1, 0.0, 0.0])
    >>> colors = torch.zeros(20, 3, dtype=torch.uint8)
    >>> colors[12:] = 255
    >>> superpoints(line, colors, SuperpointSettings(least=5)).bincount()
    tensor([12,  8])
    """
    _check_cloud(points, colors)
    if len(points) == 1:
        return torch.zeros(1, dtype=torch.int64)
    edges = _edges(
        points.cpu().double().numpy(), colors.cpu().numpy(), settings, progress
    )
    parents = _merged(edges, len(points), settings.scale)
    _join_small(edges, parents, settings.least)
    return torch.from_numpy(_numbered(parents))


def superpoints_of(
    scene: Scene,
    settings: SuperpointSettings = SuperpointSettings(),
    *,
    progress: bool = False,
) -> Int64[Tensor, " N"]:
    """The superpoints of a scene, (N,) int64: those that its data set ships,
    else those of :func:`superpoints`, whose errors are raised.

    >>> from dataclasses import replace
    >>> from vlg_lib.rooms.scenes import room_scene
    >>> room, _ = room_scene(0, views=2, width=40, height=30)
    >>> one = torch.zeros(len(room.points), dtype=torch.int64)
    >>> int(superpoints_of(replace(room, superpoints=one)).max())
    0
    """
    if scene.superpoints is not None:
        return scene.superpoints
    return superpoints(scene.points, scene.colors, settings, progress=progress)


def _check_cloud(points: Tensor, colors: Tensor) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(
            "superpoints: expected (N, 3) points, at least one, found shape"
            f" {tuple(points.shape)}"
        )
    if colors.shape != points.shape or colors.dtype != torch.uint8:
        raise ValueError(
            f"superpoints: expected {tuple(points.shape)} uint8 colours, found"
            f" {tuple(colors.shape)} {colors.dtype}"
        )
    bad = int((~points.isfinite()).any(dim=1).sum())
    if bad:
        raise ValueError(
            f"superpoints: {bad} of {len(points)} points are NaN or infinite;"
            " leave them out"
        )


def _edges(
    places: NDArray[np.float64],
    colors: NDArray[np.uint8],
    settings: SuperpointSettings,
    progress: bool,
) -> _Edges:
    """The graph of neighbours with its weights."""
    normals, left, right = _neighbourhoods(places, settings, progress)
    weights = np.empty(len(left))
    shades = colors.astype(np.float32) / 255
    for block in _blocks(len(left)):
        i, j = left[block], right[block]
        cosines = np.abs(np.einsum("ij,ij->i", normals[i], normals[j]))
        distances = np.linalg.norm(shades[i] - shades[j], axis=1)
        weights[block] = 1 - np.minimum(cosines, 1)
        weights[block] += settings.color_weight * distances
    # Stable, and pairs come in order: equal weights in the order of the points.
    order = np.argsort(weights, kind="stable")
    return _Edges(left[order], right[order], weights[order])


def _blocks(count: int) -> Iterator[slice]:
    return (slice(i, i + _BLOCK) for i in range(0, count, _BLOCK))


def _neighbourhoods(
    places: NDArray[np.float64], settings: SuperpointSettings, progress: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The normal of every point, and the pairs of neighbours."""
    count = len(places)
    joined = min(settings.neighbours, count - 1)
    around = min(settings.normal_neighbours, count)
    tree = cKDTree(places)
    normals, keys = np.empty_like(places), []
    blocks = list(_blocks(count))
    for block in tqdm(blocks, "superpoints", disable=not progress):
        # Points of one leaf one after another: what they look up is at hand.
        own = tree.indices[block]
        _, near = tree.query(places[own], max(joined + 1, around))
        normals[own] = _normals(places[near[:, :around]])
        keys.append(_pair_keys(own, near[:, : joined + 1], count))
    pairs = np.sort(np.concatenate(keys))
    new = np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]
    left, right = np.divmod(pairs[new], count)
    return normals, left, right


def _normals(clouds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The direction in which each of some clouds, (N, k, 3), spreads least:
    (N, 3) of length one and of either sign.

    Where all points of one lie in one place, the x axis.
    """
    clouds = clouds - clouds.mean(axis=1, keepdims=True)
    spread = np.einsum("nki,nkj->nij", clouds, clouds)
    return np.linalg.eigh(spread).eigenvectors[:, :, 0]


def _pair_keys(
    own: NDArray[np.int64], near: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Each pair of a point and one of its nearest others as one number, the
    smaller point first.
    """
    other = near != own[:, None]
    # Among many points in one place a point need not find itself.
    other[other.all(axis=1), -1] = False
    near, own = near[other], np.repeat(own, near.shape[1] - 1)
    return np.minimum(near, own) * count + np.maximum(near, own)


def _merged(edges: _Edges, count: int, scale: float) -> list[int]:
    """The merge of Felzenszwalb and Huttenlocher: for each point another of its
    piece, or itself where it stands for the piece.

    All edges are looked at, not those of a spanning tree alone: a piece that is
    complete may lie between two that still merge over a heavier edge beside it.
    """
    parents, sizes = list(range(count)), [1] * count
    limits = [float(scale)] * count
    for i, j, weight in zip(*_listed(edges), strict=True):
        first, second = _root(parents, i), _root(parents, j)
        if (
            first != second
            and weight <= limits[first]
            and weight <= limits[second]
        ):
            if sizes[first] < sizes[second]:
                first, second = second, first
            parents[second] = first
            sizes[first] += sizes[second]
            # The heaviest edge of its tree is the last one that merged it.
            limits[first] = weight + scale / sizes[first]
    return parents


def _join_small(edges: _Edges, parents: list[int], least: int) -> None:
    """Join small pieces in place: the same edges in the same order, each of
    which joins two pieces where one of them is small.
    """
    sizes = np.bincount(_roots(parents), minlength=len(parents)).tolist()
    for i, j, _ in zip(*_listed(edges), strict=True):
        first, second = _root(parents, i), _root(parents, j)
        if first != second and (sizes[first] < least or sizes[second] < least):
            if sizes[first] < sizes[second]:
                first, second = second, first
            parents[second] = first
            sizes[first] += sizes[second]


def _listed(edges: _Edges) -> tuple[list[int], list[int], list[float]]:
    """Python's own numbers, which a loop reads faster than those of NumPy."""
    return edges.left.tolist(), edges.right.tolist(), edges.weights.tolist()


def _root(parents: list[int], i: int) -> int:
    """Who stands for the piece of a point; the way there gets shorter."""
    while parents[i] != i:
        parents[i] = i = parents[parents[i]]
    return i


def _roots(parents: list[int]) -> NDArray[np.int64]:
    """Who stands for the piece of each point."""
    roots = np.array(parents)
    while (roots != roots[roots]).any():
        roots = roots[roots]
    return roots


def _numbered(parents: list[int]) -> NDArray[np.int64]:
    """Pieces from 0, in the order of their first points."""
    _, first, piece = np.unique(
        _roots(parents), return_index=True, return_inverse=True
    )
    rank = np.empty_like(first)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[piece].astype(np.int64)


def vote(
    labels: Int[Tensor, " N"],
    regions: Int[Tensor, " N"],
    *,
    unlabelled: str = "ignored",
) -> Int64[Tensor, " N"]:
    """The commonest label of each region, for all its points.

    ``labels``: (N,), ``IGNORE_LABEL`` where a point has none. ``regions``:
    (N,), any whole numbers from 0. Of classes with equally many points the
    first wins. ``unlabelled``: with "ignored", points without a label do not
    vote, and get the label of the others; a region of nothing else stays
    without. With "counts", they vote as a class of their own: a region in which
    they are more than those of any class loses its labels. The first is what
    the text of DBGroup (AAAI 2026) says, the second what its release does.
    ValueError for other choices, lengths or numbers.

    >>> labels = torch.tensor([2, 2, 0, -1, -1, -1, 1])
    >>> regions = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    >>> vote(labels, regions)
    tensor([2, 2, 2, 1, 1, 1, 1])
    >>> vote(labels, regions, unlabelled="counts")
    tensor([ 2,  2,  2, -1, -1, -1, -1])
    """
    if unlabelled not in UNLABELLED:
        raise ValueError(
            f"unknown choice {unlabelled!r} for points without a label; known:"
            f" {', '.join(UNLABELLED)}"
        )
    regions, count = _compact(regions, len(labels))
    if len(labels) == 0:
        return labels.long()
    if int(labels.min()) < IGNORE_LABEL:
        raise ValueError(
            f"expected labels from {IGNORE_LABEL} (none), found"
            f" {int(labels.min())}"
        )
    columns = int(labels.max()) + 2
    # The last column: no label.
    cells = regions * columns + labels.long() % columns
    votes = cells.bincount(minlength=count * columns).view(count, columns)
    if unlabelled == "ignored":
        votes[:, -1] = votes[:, :-1].sum(dim=1) == 0
    winners = votes.argmax(dim=1)
    winners[winners == columns - 1] = IGNORE_LABEL
    return winners[regions]


def soft_vote(
    probabilities: Float[Tensor, "N K"], regions: Int[Tensor, " N"]
) -> tuple[Int64[Tensor, " N"], Float[Tensor, " N"]]:
    """The class with the highest mean probability in each region, for all its
    points, and that mean: (N,) int64 and (N,) float32.

    ``probabilities``: (N, K), a softmax, over the classes of the scene where
    its tags are known; a row of zeros is a point that was not seen and does not
    vote. ``regions``: (N,), any whole numbers from 0. Of classes with equal
    means the first wins. A region that was not seen at all gets
    ``IGNORE_LABEL`` and 0. A few sure points outvote many that waver, which a
    :func:`vote` cannot see. ValueError for NaN and for lengths that do not fit.

    >>> probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    >>> regions = torch.tensor([0, 0, 0])
    >>> soft_vote(probabilities, regions)[0]
    tensor([0, 0, 0])
    >>> vote(probabilities.argmax(dim=1), regions)
    tensor([1, 1, 1])
    """
    rows = torch.arange(len(probabilities))
    if len(rows) != len(regions):
        raise ValueError(
            f"expected a region for each of {len(rows)} points, found"
            f" {len(regions)}"
        )
    votes = SoftVote(regions, probabilities.shape[1])
    votes.add(rows, probabilities)
    return votes.result()


class SoftVote:
    """A :func:`soft_vote` whose probabilities come block after block, so that
    those of all points are never there at once.

    >>> votes = SoftVote(torch.tensor([0, 0, 1]), classes=2)
    >>> votes.add(torch.tensor([2, 1]), torch.tensor([[0.2, 0.8], [0.4, 0.6]]))
    >>> votes.add(torch.tensor([0]), torch.tensor([[0.9, 0.1]]))
    >>> votes.result()[0]
    tensor([0, 0, 1])
    """

    def __init__(self, regions: Int[Tensor, " N"], classes: int) -> None:
        self._regions, count = _compact(regions, len(regions))
        self._sums = torch.zeros(count, classes, dtype=torch.float64)
        self._voters = torch.zeros(count, dtype=torch.int64)

    def add(
        self,
        points: Int64[Tensor, " M"],
        probabilities: Float[Tensor, "M K"],
    ) -> None:
        """Count the votes of some points, given by their numbers, each once.

        ``probabilities``: of each of them, as in :func:`soft_vote`. ValueError
        for NaN.
        """
        if not bool(probabilities.isfinite().all()):
            raise ValueError("expected probabilities, found NaN or infinity")
        regions = self._regions[points]
        self._sums.index_add_(0, regions, probabilities.double())
        seen = (probabilities > 0).any(dim=1)
        self._voters += regions[seen].bincount(minlength=len(self._voters))

    def result(self) -> tuple[Int64[Tensor, " N"], Float[Tensor, " N"]]:
        """The label of every point and its score, as in :func:`soft_vote`."""
        best, winners = self._sums.max(dim=1)
        winners[self._voters == 0] = IGNORE_LABEL
        means = (best / self._voters.clamp(min=1)).float()
        return winners[self._regions], means[self._regions]


def ceiling(
    truth: Int[Tensor, " N"], regions: Int[Tensor, " N"], classes: int
) -> Int[Tensor, "K columns"]:
    """What the best vote over a partition could reach: the confusion
    (:func:`vlg_lib.metrics.confusion`) of the :func:`vote` of the true labels
    with themselves.

    ``truth``: (N,), ``IGNORE_LABEL`` where a point has none. ``classes``: how
    many there are. Points of two classes in one superpoint cannot both be
    right. Errors as from :func:`vote`.

    >>> ceiling(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1]), 2)
    tensor([[2, 0, 0],
            [1, 1, 0]])
    """
    return confusion(vote(truth, regions), truth, classes)


def _compact(
    regions: Int[Tensor, " N"], points: int
) -> tuple[Int64[Tensor, " N"], int]:
    """Regions without gaps in their numbers, and how many there are."""
    if len(regions) != points:
        raise ValueError(
            f"expected a region for each of {points} points, found"
            f" {len(regions)}"
        )
    if len(regions) and int(regions.min()) < 0:
        raise ValueError(f"expected regions from 0, found {int(regions.min())}")
    numbers, compact = regions.long().unique(return_inverse=True)
    return compact, len(numbers)
