"""A second labeller that is blind to what fools the first: co-training over
superpoints (chapter 11).

A 2D model takes a brown floor for a table because of its colour, in every view.
No vote repairs that, and a network that sees colours learns it. A labeller that
sees the **shape** of a superpoint alone, its height, extent and tilt, cannot
make this mistake, and makes others. Blum and Mitchell (COLT 1998) let two such
views of the same thing teach each other. Here forests learn from the first
labeller which shapes go with which class, in *other* rooms, and both opinions
are averaged; and again, with the better labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from numpy.typing import NDArray
from torch import Tensor

SHAPE_FEATURES = (
    "height of the middle",
    "height of the lowest point",
    "height of the highest point",
    "extent along x",
    "extent along y",
    "extent along z",
    "smallest spread",
    "middle spread",
    "largest spread",
    "how far its flattest direction points up",
    "how far its longest direction points up",
    "logarithm of its points",
    "distance to the border of the room",
)
"""What :func:`shape_features` tells of a superpoint: lengths in metres, heights
above the lowest point of the scene, directions as the cosine with z."""


@dataclass(frozen=True)
class CoTrainingSettings:
    """How the second labeller learns. ValueError for values out of range."""

    rounds: int = 4
    """How often forests learn from the opinion of both; from 0."""
    folds: int = 4
    """Rooms are dealt into so many heaps; a forest that judges one learnt from
    the others. From 2."""
    trees: int = 150
    """Trees in a forest; from 1."""
    least: int = 3
    """Superpoints in a leaf of a tree, at least; from 1."""

    def __post_init__(self) -> None:
        for name, low in (
            ("rounds", 0),
            ("folds", 2),
            ("trees", 1),
            ("least", 1),
        ):
            if getattr(self, name) < low:
                raise ValueError(
                    f"co-training: expected {name} of {low} or more, found"
                    f" {getattr(self, name)}"
                )


@dataclass(frozen=True)
class Pieces:
    """The superpoints of a scene, in the order of their numbers.

    ``features``: (R, F) float32, :func:`shape_features`. ``beliefs``: (R, K)
    float32, the mean probability of each class among the points that were seen;
    zero where none was. ``sizes``: (R,) int64, points. ``index``: (N,) int64,
    the row of each point. ``scene_labels``: (K,) bool, or None where tags are
    not known.
    """

    features: Float[Tensor, "R F"]
    beliefs: Float[Tensor, "R K"]
    sizes: Int64[Tensor, " R"]
    index: Int64[Tensor, " N"]
    scene_labels: Bool[Tensor, " K"] | None


def make_pieces(
    points: Float[Tensor, "N 3"],
    regions: Int[Tensor, " M"],
    probabilities: Float[Tensor, "P K"],
    scene_labels: Bool[Tensor, " K"] | None = None,
) -> Pieces:
    """The superpoints of a scene with their shapes and the first opinion.

    ``points``: metres, z up. ``regions``: any whole numbers.
    ``probabilities``: of stage 1
    (:func:`vlg_lib.pseudo_labels.class_probabilities`), masked by
    ``scene_labels`` where they are given.
    ValueError for lengths that differ.

    >>> points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 2]])
    >>> regions = torch.tensor([7, 7, 9])
    >>> pieces = make_pieces(points, regions, torch.eye(3)[:, :2])
    >>> pieces.beliefs.tolist(), pieces.sizes.tolist()
    ([[0.5, 0.5], [0.0, 0.0]], [2, 1])
    """
    if not len(points) == len(regions) == len(probabilities):
        raise ValueError(
            f"{len(points)} points, {len(regions)} regions and"
            f" {len(probabilities)} probabilities: expected one of each a point"
        )
    _, index = regions.long().unique(return_inverse=True)
    sizes = index.bincount()
    seen = (probabilities > 0).any(dim=1).double()
    sums = _summed(probabilities.double(), index)
    voters = _summed(seen[:, None], index)
    return Pieces(
        shape_features(points, index),
        (sums / voters.clamp(min=1)).float(),
        sizes,
        index,
        scene_labels,
    )


def shape_features(
    points: Float[Tensor, "N 3"], regions: Int64[Tensor, " N"]
) -> Float[Tensor, "R 13"]:
    """The shape of each region, without its colour: :data:`SHAPE_FEATURES`.

    ``points``: metres, z up. ``regions``: (N,) from 0 to R - 1, each with a
    point. Spreads are the square roots of the eigenvalues of its covariance.
    The border of the room is the box around all points, seen from above.

    >>> points = torch.tensor([[0.0, 0, 1], [2, 0, 1], [0, 0, 0]])
    >>> shape_features(points, torch.tensor([0, 0, 1]))[0, :6].tolist()
    [1.0, 1.0, 1.0, 2.0, 0.0, 0.0]
    """
    if len(points) == 0:
        return points.new_zeros(0, len(SHAPE_FEATURES))
    low, high = points.amin(0), points.amax(0)
    moved = (points - low).double()
    counts = regions.bincount().double()[:, None]
    middle = _summed(moved, regions) / counts
    lowest, highest = (
        _extreme(moved, regions, len(counts), which)
        for which in ("amin", "amax")
    )
    offset = moved - middle[regions]
    outer = (offset[:, :, None] * offset[:, None, :]).flatten(1)
    covariance = (_summed(outer, regions) / counts).view(-1, 3, 3)
    values, vectors = torch.linalg.eigh(covariance)
    size = (high - low).double()
    border = torch.minimum(middle, size - middle)[:, :2].amin(1, keepdim=True)
    upright = vectors[:, 2, :].abs()
    return torch.cat(
        [
            middle[:, 2:],
            lowest[:, 2:],
            highest[:, 2:],
            highest - lowest,
            values.clamp(min=0).sqrt(),
            upright[:, :1],
            upright[:, 2:],
            counts.log(),
            border,
        ],
        dim=1,
    ).float()


def _summed(
    values: Float[Tensor, "N C"], regions: Int64[Tensor, " N"]
) -> Float[Tensor, "R C"]:
    count = int(regions.max()) + 1 if len(regions) else 0
    return values.new_zeros(count, values.shape[1]).index_add_(
        0, regions, values
    )


def _extreme(
    values: Float[Tensor, "N 3"],
    regions: Int64[Tensor, " N"],
    count: int,
    which: str,
) -> Float[Tensor, "R 3"]:
    rows = regions[:, None].expand(-1, 3)
    return values.new_zeros(count, 3).scatter_reduce(
        0, rows, values, which, include_self=False
    )


def co_train(
    scenes: Sequence[Pieces],
    settings: CoTrainingSettings | None = None,
    *,
    seed: int = 0,
) -> list[Float[Tensor, "R K"]]:
    """What both labellers together believe of the superpoints of each scene,
    (R, K) float32; the rows add up to 1, or are zero where nobody knows.

    The scene labels of a scene bound both of its opinions. A scene is judged by
    forests that learnt from other scenes, so no superpoint confirms itself.
    ``seed``: of the forests. ValueError for fewer scenes than two.

    >>> floor, top = [0.0] * 13, [0.8] + [0.0] * 12
    >>> shapes = torch.tensor([floor, top] * 4)
    >>> first = torch.tensor([[0.9, 0.1], [0.2, 0.8]] * 4)
    >>> first[1] = torch.tensor([0.55, 0.45])  # a table, taken for a floor
    >>> same = torch.ones(8).long(), torch.arange(8), None
    >>> pieces = Pieces(shapes, first, *same)
    >>> other = Pieces(shapes, first.roll(2, 0), *same)
    >>> settings = CoTrainingSettings(rounds=1, folds=2, trees=20)
    >>> int(co_train([pieces, other], settings)[0][1].argmax())
    1
    """
    settings = settings or CoTrainingSettings()
    if len(scenes) < 2:
        raise ValueError(
            "co-training needs two scenes or more: each is judged by forests"
            " that learnt from the others"
        )
    features = np.concatenate([scene.features.numpy() for scene in scenes])
    sizes = np.concatenate([scene.sizes.numpy() for scene in scenes])
    first = np.concatenate([scene.beliefs.numpy() for scene in scenes])
    counts = [len(scene.sizes) for scene in scenes]
    folds = np.repeat(np.arange(len(scenes)) % settings.folds, counts)
    allowed = np.concatenate([_allowed(scene) for scene in scenes])
    beliefs = first.astype(np.float64)
    for number in range(settings.rounds):
        second = _judged(
            features, beliefs, sizes, folds, settings, seed + number
        )
        beliefs = first + _normalized(second * allowed)
    made = torch.from_numpy(_normalized(beliefs)).float()
    return list(made.split(counts))


def _judged(
    features: NDArray[np.float32],
    beliefs: NDArray[np.float64],
    sizes: NDArray[np.int64],
    folds: NDArray[np.int64],
    settings: CoTrainingSettings,
    seed: int,
) -> NDArray[np.float64]:
    """What forests of the other folds say of the superpoints of each."""
    # a second to import, and only trainings need it
    from sklearn.ensemble import ExtraTreesClassifier

    opinion = np.zeros_like(beliefs)
    known = beliefs.any(axis=1)
    # a large piece counts more, an unsure one less
    weights = np.sqrt(sizes) * _normalized(beliefs).max(axis=1)
    for fold in np.unique(folds):
        judged, learnt = folds == fold, known & (folds != fold)
        if not learnt.any():
            continue
        forest = ExtraTreesClassifier(
            settings.trees,
            min_samples_leaf=settings.least,
            max_features=0.3,
            random_state=seed,
        )
        forest.fit(
            features[learnt],
            beliefs[learnt].argmax(axis=1),
            sample_weight=weights[learnt],
        )
        columns = np.ix_(judged, forest.classes_)
        opinion[columns] = forest.predict_proba(features[judged])
    return opinion


def _allowed(scene: Pieces) -> NDArray[np.bool_]:
    """Which classes the superpoints of a scene may have."""
    count, classes = scene.beliefs.shape
    if scene.scene_labels is None:
        return np.ones((count, classes), dtype=bool)
    return np.broadcast_to(scene.scene_labels.numpy(), (count, classes))


def _normalized(beliefs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows that add up to 1; rows of zeros stay."""
    sums = beliefs.sum(axis=1, keepdims=True)
    return beliefs / np.where(sums > 0, sums, 1)
