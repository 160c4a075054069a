"""The tables of the evidence, from the files of its cells
(:mod:`vlg_lib.pipeline.evidence`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.metrics import (
    Matrices,
    accuracy,
    iou_per_class,
    mean_iou,
    middle,
    resampled_scores,
)
from vlg_lib.pipeline.evidence import LABELS_2D, Cell, read_cell
from vlg_lib.pipeline.teaching import TEACHINGS, teaching

FLOOR, CEILING = "projection", "full supervision"
"""The two ends of the gap: zero-shot labels, and a network that learnt the true
label of every point."""

NAMES = {
    "projection": "projection",
    "projection-masked": "projection + scene mask",
    "adapter": "adapter",
    "adapter-masked": "adapter + scene mask",
    "cam": "CAM",
    "cam-retrained": "CAM, retrained",
    "openscene": "OpenScene",
    "adapter-untagged": "adapter without tags, distilled",
    "3dss-vlg": "3DSS-VLG",
    "cross-entropy": "pseudo labels, cross-entropy",
    "voted": "voted labels",
    "selected": "selected and voted labels",
    "round-2": "voted labels, second round",
    "round-3": "voted labels, third round",
    "3dss-vlg-round-2": "3DSS-VLG, then a round",
    "3dss-vlg-round-3": "3DSS-VLG, then two rounds",
    "co-trained": "co-trained labels",
    "co-trained-round-2": "co-trained labels, second round",
    "co-trained-round-3": "co-trained labels, third round",
    "voted-untagged": "voted labels without tags",
    "round-2-untagged": "voted labels without tags, second round",
    "round-3-untagged": "voted labels without tags, third round",
    "co-trained-untagged": "co-trained labels without tags",
    "supervised": CEILING,
}
"""What the methods are called in tables, in their order."""

AGAINST = {
    "projection-masked": ("projection",),
    "adapter": ("projection",),
    "adapter-masked": ("projection-masked",),
    "cam-retrained": ("cam",),
    "openscene": ("projection",),
    "adapter-untagged": ("openscene",),
    "3dss-vlg": ("adapter-untagged", "openscene"),
    "cross-entropy": ("3dss-vlg",),
    "voted": ("cross-entropy", "3dss-vlg"),
    "selected": ("voted",),
    "round-2": ("voted",),
    "round-3": ("round-2",),
    "3dss-vlg-round-2": ("3dss-vlg",),
    "3dss-vlg-round-3": ("3dss-vlg-round-2",),
    "co-trained": ("voted",),
    "co-trained-round-2": ("co-trained",),
    "co-trained-round-3": ("co-trained-round-2",),
    "co-trained-untagged": ("co-trained",),
    "voted-untagged": ("voted",),
    "round-2-untagged": ("voted-untagged",),
    "round-3-untagged": ("round-2-untagged",),
    "supervised": ("co-trained",),
}
"""The methods that each may be compared with: the first of them that is
recorded. As a rule it differs from that one in one thing."""

PAIRS = (
    ("openscene", "adapter"),
    ("3dss-vlg", "openscene"),
    ("3dss-vlg", "adapter"),
    ("3dss-vlg", "projection"),
    ("round-3", "3dss-vlg"),
    ("round-3", "3dss-vlg-round-3"),
    ("round-3", "round-3-untagged"),
    ("co-trained", "3dss-vlg"),
    ("co-trained", "round-2"),
    ("co-trained-round-2", "3dss-vlg"),
)
"""More pairs that a reader asks for: the student and its teacher, above all."""

Runs = Sequence[Matrices]
"""For each seed the confusion of each room."""


@dataclass(frozen=True)
class Evidence:
    """The cells of an experiment: for each method those of all seeds."""

    seeds: tuple[int, ...]
    cells: Mapping[str, Mapping[int, Cell]]

    def runs(self, method: str, reading: str) -> Runs:
        """The matrices of a method, seed by seed."""
        return [
            list(self.cells[method][seed].matrices[reading])
            for seed in self.seeds
        ]


def read_evidence(folder: Path, seeds: Sequence[int]) -> Evidence:
    """The cells in a folder, of the methods that have all the seeds.

    StoreError for a damaged file; ValueError where no method has all seeds.
    """
    found: dict[str, dict[int, Cell]] = {}
    for path in sorted(folder.glob("*-seed-*.json")):
        cell = read_cell(path)
        found.setdefault(cell.method, {})[cell.seed] = cell
    whole = {
        method: found[method]
        for method in NAMES
        if set(seeds) <= set(found.get(method, {}))
    }
    if not whole:
        raise ValueError(
            f"{folder}: no method has the seeds {', '.join(map(str, seeds))};"
            " make them with vlg experiment"
        )
    return Evidence(tuple(seeds), whole)


def tables(evidence: Evidence) -> dict[str, Any]:
    """Everything that pages print of an experiment, as JSON: shares in per
    cent, intervals of 95 % over seeds and rooms.

    ``rows``: a method read plainly, or after the vote of the superpoints;
    ``pairs``: differences of methods; ``learnt``: how good and how complete the
    labels were that a network learnt, and how well it fits its rooms.
    """
    methods = list(evidence.cells)
    return {
        "seeds": list(evidence.seeds),
        "test_rooms": [
            len(rooms) for rooms in evidence.runs(methods[0], "plain")
        ],
        "rows": [
            _row(evidence, method, reading)
            for reading in ("plain", "voted")
            for method in methods
        ],
        "one_copy": {
            NAMES[method]: _score(evidence.runs(method, "one copy"))
            for method in methods
            if method in TEACHINGS
        },
        "pairs": [
            _pair(evidence, first, second)
            for first, second in PAIRS
            if first in methods and second in methods
        ],
        "learnt": [
            _learnt(evidence, method)
            for method in methods
            if method in TEACHINGS
        ],
        "cpu_hours": round(_cpu_seconds(evidence) / 3600, 2),
    }


def _row(evidence: Evidence, method: str, reading: str) -> dict[str, Any]:
    runs = evidence.runs(method, reading)
    scores = resampled_scores(runs)
    row: dict[str, Any] = {
        "row": _name(method, reading),
        "needs": LABELS_2D.get(method, "points"),
        "learnt_from": None if method in LABELS_2D else teaching(method).needs,
        "miou": _score(runs),
        "interval": _interval(scores),
        "by_seed": [_score([rooms]) for rooms in runs],
        "accuracy": _percent(
            sum(accuracy(_total(rooms)) for rooms in runs) / len(runs)
        ),
        "iou": _by_class(evidence, runs),
    }
    others = AGAINST.get(method, ()) if reading == "plain" else (method,)
    other = next((name for name in others if name in evidence.cells), None)
    if other is not None:
        against = evidence.runs(other, "plain")
        row["compared_with"] = NAMES[other]
        row["difference"] = round(row["miou"] - _score(against), 2)
        row["difference_interval"] = _interval(
            scores - resampled_scores(against)
        )
    if {"projection", "supervised"} <= set(evidence.cells):
        row["share_of_gap"], row["share_interval"] = _share(
            evidence, runs, reading
        )
    return row


def _name(method: str, reading: str) -> str:
    name = NAMES[method]
    return name if reading == "plain" else f"{name}, voted"


def _share(
    evidence: Evidence, runs: Runs, reading: str
) -> tuple[float, list[float]]:
    """How much of the gap a method closes: between projection, as it is or
    voted like the method, and full supervision.
    """
    low, high = (
        evidence.runs(method, reading)
        for method in ("projection", "supervised")
    )
    drawn, floor, ceiling = map(resampled_scores, (runs, low, high))
    share = (_score(runs) - _score(low)) / (_score(high) - _score(low))
    return _percent(share), _interval((drawn - floor) / (ceiling - floor))


def _pair(evidence: Evidence, first: str, second: str) -> dict[str, Any]:
    runs = [evidence.runs(method, "plain") for method in (first, second)]
    drawn = [resampled_scores(part) for part in runs]
    rarest = _rarest(runs[0])
    without = [[_without(rooms, rarest) for rooms in part] for part in runs]
    names = next(iter(evidence.cells[first].values())).classes
    return {
        "first": NAMES[first],
        "second": NAMES[second],
        "difference": round(_score(runs[0]) - _score(runs[1]), 2),
        "difference_interval": _interval(drawn[0] - drawn[1]),
        "rarest_class": names[rarest],
        "difference_without_it": round(
            _score(without[0]) - _score(without[1]), 2
        ),
    }


def _rarest(runs: Runs) -> int:
    """The class with the fewest points in the test rooms of all seeds."""
    counts = torch.stack([_total(rooms) for rooms in runs]).sum((0, 2))
    return int(counts.masked_fill(counts == 0, counts.max() + 1).argmin())


def _without(rooms: Matrices, label: int) -> Matrices:
    """The matrices without the points of a class: its row gets zeros, so that
    no mean counts it.
    """
    kept = [matrix.clone() for matrix in rooms]
    for matrix in kept:
        matrix[label] = 0
    return kept


def _learnt(evidence: Evidence, method: str) -> dict[str, Any]:
    cells = [evidence.cells[method][seed] for seed in evidence.seeds]
    fits = [cell.fit for cell in cells if cell.fit is not None]
    labels = [cell.labels for cell in cells if cell.labels is not None]
    found: dict[str, Any] = {
        "row": NAMES[method],
        "taught_by": teaching(method).says,
        "fit_miou": _mean([mean_iou(matrix) for matrix in fits]),
    }
    if labels:
        found["label_miou"] = _mean([mean_iou(matrix) for matrix in labels])
        found["coverage"] = _mean(
            [1 - float(matrix[:, -1].sum() / matrix.sum()) for matrix in labels]
        )
    return found


def _by_class(evidence: Evidence, runs: Runs) -> dict[str, float | None]:
    """The IoU of each class, as a mean over the seeds that have it."""
    names = next(iter(next(iter(evidence.cells.values())).values())).classes
    ious = torch.stack([iou_per_class(_total(rooms)) for rooms in runs])
    return {
        name: None if bool(mean.isnan()) else _percent(float(mean))
        for name, mean in zip(names, ious.nanmean(0), strict=True)
    }


def _cpu_seconds(evidence: Evidence) -> float:
    return sum(
        float(cell.about["cpu_seconds"])
        for of_seeds in evidence.cells.values()
        for cell in of_seeds.values()
    )


def _total(rooms: Matrices) -> Tensor:
    return torch.stack(list(rooms)).sum(0)


def _score(runs: Runs) -> float:
    """The mean IoU, as a mean over seeds, in per cent."""
    return _mean([mean_iou(_total(rooms)) for rooms in runs])


def _mean(shares: Sequence[float]) -> float:
    return _percent(sum(shares) / len(shares))


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _interval(scores: Float[Tensor, " samples"]) -> list[float]:
    return [_percent(end) for end in middle(scores)]
