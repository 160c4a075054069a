"""Metrics: confusion, IoU and its three conventions, accuracy, intervals over
rooms (chapter 09).

Everything comes from one table per room: the confusion matrix with an extra
column for points that got no prediction. Point labels come in as arguments;
this module opens no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlg_lib.classes import IGNORE_LABEL, ClassSet

Labels = Sequence[Int[Tensor, " _"]]
"""The labels of some rooms."""

Matrices = Sequence[Int[Tensor, "K columns"]]
"""One confusion matrix a room."""

CONVENTIONS = ("present", "scannet", "openscene")
"""The names of the ways to average IoU; see :func:`iou_per_class`."""


def confusion(
    predicted: Int[Tensor, " N"],
    truth: Int[Tensor, " M"],
    classes: ClassSet | int,
) -> Int[Tensor, "K columns"]:
    """Confusion matrix (K, K + 1) int64: rows true class, columns predicted
    class, last column no prediction.

    ``classes``: the class set, or its size K. ``predicted``, ``truth``: (N,)
    int64 in [0, K) or ``IGNORE_LABEL``. Points without a true label do not
    count; points with one but without a prediction are counted in the last
    column. ValueError for labels outside this range and for label lists of
    different lengths.

    >>> confusion(torch.tensor([0, 1, -1]), torch.tensor([0, 0, 1]), classes=2)
    tensor([[1, 1, 0],
            [0, 0, 1]])
    """
    classes = classes if isinstance(classes, int) else len(classes)
    if predicted.shape != truth.shape:
        raise ValueError(
            f"{len(predicted)} predicted labels for {len(truth)} true labels"
        )
    for name, labels in (("predicted", predicted), ("true", truth)):
        if len(labels) and (
            int(labels.min()) < IGNORE_LABEL or int(labels.max()) >= classes
        ):
            raise ValueError(
                f"{name} labels span {int(labels.min())} to"
                f" {int(labels.max())}; expected {IGNORE_LABEL} (ignore) to"
                f" {classes - 1}"
            )
    counted = truth != IGNORE_LABEL
    columns = torch.where(predicted == IGNORE_LABEL, classes, predicted)
    cells = truth[counted].long() * (classes + 1) + columns[counted].long()
    counts = torch.bincount(cells, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1)


def iou_per_class(
    matrix: Int[Tensor, "*many K columns"], convention: str = "present"
) -> Float[Tensor, "*many K"]:
    """Intersection over union of each class, float64; NaN where the convention
    leaves a class out.

    ``matrix``: (..., K, K + 1) from :func:`confusion`, summed over rooms;
    leading axes are kept. IoU = TP / (TP + FP + FN), counted in points.

    * ``present`` (ours): classes that the truth contains; points without a
      prediction are false negatives.
    * ``scannet`` (the ScanNet benchmark): as above, and a class that is absent
      but predicted counts, with 0.
    * ``openscene`` (its released code): points without a prediction are
      dropped; see :func:`mean_iou` for the mean.

    >>> matrix = torch.tensor([[5, 1, 0], [1, 2, 1]])
    >>> iou_per_class(matrix)
    tensor([0.7143, 0.4000], dtype=torch.float64)
    >>> iou_per_class(matrix, "openscene")
    tensor([0.7143, 0.5000], dtype=torch.float64)
    """
    if convention not in CONVENTIONS:
        raise ValueError(
            f"unknown convention {convention!r}; known:"
            f" {', '.join(CONVENTIONS)}"
        )
    square = matrix[..., :-1].double()
    right = square.diagonal(dim1=-2, dim2=-1)
    claimed = square.sum(-2)
    true_points = matrix.sum(-1)
    wanted = square.sum(-1) if convention == "openscene" else true_points
    union = claimed + wanted - right
    counted = union > 0 if convention == "scannet" else true_points > 0
    # A present class none of whose points is seen has no union under openscene:
    # its code gets none right, so 0.
    return torch.where(counted, right / union.clamp(min=1), torch.nan)


def mean_iou(
    matrix: Int[Tensor, "K columns"], convention: str = "present"
) -> float:
    """Mean of :func:`iou_per_class`; ``openscene`` divides by K even where
    classes are absent. NaN without a class.

    >>> round(mean_iou(torch.tensor([[5, 1, 0], [1, 2, 1]])), 4)
    0.5571
    """
    return float(_mean_of(iou_per_class(matrix, convention), convention))


def _mean_of(
    ious: Float[Tensor, "*many K"], convention: str
) -> Float[Tensor, "*many"]:
    return (
        ious.nan_to_num().mean(-1)
        if convention == "openscene"
        else ious.nanmean(-1)
    )


def accuracy(matrix: Int[Tensor, "K columns"]) -> float:
    """Share of the labelled points whose prediction is right; a point without a
    prediction is wrong.

    >>> accuracy(torch.tensor([[3, 1, 0], [1, 2, 1]]))
    0.625
    """
    return float(matrix.diagonal().sum() / matrix.sum())


def mean_accuracy(matrix: Int[Tensor, "K columns"]) -> float:
    """Mean over the classes present of the share of their points that is right
    (mAcc of the papers).

    >>> mean_accuracy(torch.tensor([[3, 1, 0], [1, 2, 1]]))
    0.625
    """
    return float((matrix.diagonal().double() / matrix.sum(1)).nanmean())


def seen_only(matrix: Int[Tensor, "K columns"]) -> Int[Tensor, "K columns"]:
    """The same matrix without the points that got no prediction (the last
    column becomes zero).

    >>> seen_only(torch.tensor([[5, 1, 0], [1, 2, 1]]))
    tensor([[5, 1, 0],
            [1, 2, 0]])
    """
    kept = matrix.clone()
    kept[:, -1] = 0
    return kept


def interval(
    matrices: Matrices,
    *,
    convention: str = "present",
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean IoU: rooms, not points, are
    drawn with replacement.

    Points of one room are not independent; rooms are. The interval says how
    much the score would move with other rooms, not with another training seed.

    ``matrices``: one confusion matrix a room. ``convention``: see
    :func:`iou_per_class`. ``level``: the share of draws inside, in (0, 1).
    ``samples``: how many draws. ``seed``: of the draws. ValueError without
    rooms, and for another level.

    >>> low, high = interval([torch.tensor([[9, 1], [5, 5]])] * 4)
    >>> low == high  # four rooms that are all alike
    True
    """
    if not matrices:
        raise ValueError("an interval needs at least one room")
    generator = torch.Generator().manual_seed(seed)
    (scores,) = _resampled([matrices], convention, samples, generator)
    return _percentiles(scores, level)


def difference_interval(
    first: Sequence[Matrices],
    second: Sequence[Matrices],
    *,
    convention: str = "present",
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Paired interval of how much the mean IoU of one method lies above that of
    another, as a mean over seeds.

    Both methods are scored on the same rooms in every draw, so what makes a
    room hard for both does not widen it.

    ``first``, ``second``: for each seed of a run, one confusion matrix a room,
    the same rooms in the same order. The rest as for :func:`interval`;
    ValueError, too, where the seeds or rooms of both are not equally many.

    >>> better = [torch.tensor([[9, 1, 0], [5, 5, 0]])] * 4
    >>> worse = [torch.tensor([[9, 1, 0], [6, 4, 0]])] * 4
    >>> low, high = difference_interval([better], [worse])
    >>> low == high, round(low, 3)
    (True, 0.064)
    """
    counts = [[len(rooms) for rooms in method] for method in (first, second)]
    if counts[0] != counts[1] or not all([*counts[0], len(counts[0])]):
        raise ValueError(
            "a difference needs the same rooms of both methods, one or more for"
            f" each seed; found {counts[0]} and {counts[1]}"
        )
    above, below = (
        torch.stack(
            _resampled(
                method, convention, samples, torch.Generator().manual_seed(seed)
            )
        )
        for method in (first, second)
    )
    return _percentiles((above - below).mean(0), level)


def resampled_scores(
    runs: Sequence[Matrices],
    *,
    convention: str = "present",
    samples: int = 1000,
    seed: int = 0,
) -> Float[Tensor, " samples"]:
    """The mean IoU of a method, as a mean over the seeds of a run, had there
    been other seeds and other rooms: (samples,) float64.

    In each draw as many seeds are drawn with replacement, and of each its rooms
    with replacement: rooms of one seed share what was trained, so they vary
    less than rooms of different seeds. Two methods with the same rooms get the
    same draws, so their scores may be subtracted draw by draw.

    ``runs``: for each seed one confusion matrix a room. ValueError without
    seeds or without rooms.

    >>> rooms = [torch.tensor([[9, 1, 0], [5, 5, 0]])] * 4
    >>> resampled_scores([rooms, rooms], samples=3)
    tensor([0.5273, 0.5273, 0.5273], dtype=torch.float64)
    """
    if not runs or not all(len(rooms) for rooms in runs):
        raise ValueError("expected one seed or more, each with rooms")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(runs), (len(runs), samples), generator=generator)
    slots = [
        torch.stack(_resampled(runs, convention, samples, generator))
        .gather(0, seeds[None])
        .squeeze(0)
        for seeds in drawn
    ]
    return torch.stack(slots).mean(0)


def middle(
    scores: Float[Tensor, " samples"], level: float = 0.95
) -> tuple[float, float]:
    """The ends of the middle share of some draws: a percentile interval;
    ValueError for a level outside 0 to 1.

    >>> middle(torch.arange(5, dtype=torch.float64), level=0.5)
    (1.0, 3.0)
    """
    return _percentiles(scores, level)


def _resampled(
    runs: Sequence[Matrices],
    convention: str,
    samples: int,
    generator: torch.Generator,
) -> list[Float[Tensor, " samples"]]:
    """For each run the mean IoU of rooms drawn with replacement, many times."""
    scores = []
    for matrices in runs:
        stacked = torch.stack(list(matrices))
        draws = torch.randint(
            len(stacked), (samples, len(stacked)), generator=generator
        )
        ious = iou_per_class(stacked[draws].sum(1), convention)
        scores.append(_mean_of(ious, convention))
    return scores


def _percentiles(
    scores: Float[Tensor, " samples"], level: float
) -> tuple[float, float]:
    """The middle share of some numbers; ValueError for no share."""
    if not 0 < level < 1:
        raise ValueError(
            f"the level of an interval lies between 0 and 1, found {level}"
        )
    low, high = torch.nanquantile(
        scores,
        torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64),
    )
    return float(low), float(high)


@dataclass(frozen=True)
class Scores:
    """The figures of one method over some rooms; shares lie in [0, 1]."""

    miou: float
    """Mean IoU over the classes; see :func:`mean_iou`."""
    accuracy: float
    """Share of the labelled points that are right."""
    mean_accuracy: float
    """Mean over the classes of the share of their points that is right."""
    coverage: float
    """Share of the labelled points that got a prediction."""
    miou_interval: tuple[float, float]
    """95 % bootstrap interval of ``miou`` over rooms."""
    iou: dict[str, float | None]
    """IoU by class name, None for absent classes."""
    confusion: Int[Tensor, "K columns"]
    """The rooms' confusion matrices, added up; see :func:`confusion`."""


def evaluate(
    predictions: Labels,
    truths: Labels,
    class_set: ClassSet,
    *,
    points: str = "all",
    convention: str = "present",
) -> Scores:
    """Score the predictions of some rooms against their true labels:
    :func:`score` of one confusion matrix a room.

    ValueError for lists of different lengths, and as from :func:`confusion` and
    :func:`score`.

    >>> from vlg_lib.classes import own_class_set
    >>> cups = own_class_set(["cup", "plate"])
    >>> found, truth = torch.tensor([0, 0, -1]), torch.tensor([0, 1, 1])
    >>> evaluate([found], [truth], cups).iou
    {'cup': 0.5, 'plate': 0.0}
    """
    if len(predictions) != len(truths):
        raise ValueError(
            f"predictions of {len(predictions)} rooms for the labels of"
            f" {len(truths)}"
        )
    matrices = [
        confusion(*pair, classes=len(class_set))
        for pair in zip(predictions, truths, strict=True)
    ]
    return score(matrices, class_set, points=points, convention=convention)


def score(
    matrices: Matrices,
    class_set: ClassSet,
    *,
    points: str = "all",
    convention: str = "present",
) -> Scores:
    """The figures of one method from the :func:`confusion` of each room, added
    up: rooms may be spread over processes.

    ``points="seen"`` leaves out points without a prediction instead of counting
    them as missed. ValueError for another choice, no room, or rooms without any
    labelled point.

    >>> from vlg_lib.classes import own_class_set
    >>> cups = own_class_set(["cup", "plate"])
    >>> score([torch.tensor([[9, 1, 0], [0, 5, 5]])], cups).coverage
    0.75
    """
    if points not in ("all", "seen"):
        raise ValueError(
            f"unknown choice of points {points!r}; known: all, seen"
        )
    if not any(bool(matrix.any()) for matrix in matrices):
        raise ValueError(
            "no point has a true label: there is nothing to evaluate"
        )
    everything = torch.stack(list(matrices)).sum(0)
    coverage = 1 - float(everything[:, -1].sum() / everything.sum())
    if points == "seen":
        matrices = [seen_only(matrix) for matrix in matrices]
    total = torch.stack(list(matrices)).sum(0)
    ious = iou_per_class(total, convention).tolist()
    return Scores(
        miou=mean_iou(total, convention),
        accuracy=accuracy(total),
        mean_accuracy=mean_accuracy(total),
        coverage=coverage,
        miou_interval=interval(matrices, convention=convention),
        iou={
            name: None if iou != iou else iou
            for name, iou in zip(class_set.names, ious, strict=True)
        },
        confusion=total,
    )
