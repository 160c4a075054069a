"""Chapter 11's exercise checks pass the solution and fail typical wrong answers
with a hint."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vlg_lib.exercises import chapter11 as exercises


def best_accuracy(truth: Tensor, regions: Tensor) -> float:
    right = sum(
        int(truth[regions == region].bincount().max())
        for region in regions.unique()
    )
    return right / len(truth)


def best_of_each_class(labels: Tensor, sure: Tensor, share: float) -> Tensor:
    chosen = torch.full_like(labels, -1)
    for label in labels[labels >= 0].unique():
        points = torch.nonzero(labels == label)[:, 0]
        best = points[sure[points].argsort(descending=True)]
        chosen[best[: int(share * len(best) + 1e-9)]] = label
    return chosen


def best_of_all(labels: Tensor, sure: Tensor, share: float) -> Tensor:
    chosen = torch.full_like(labels, -1)
    best = sure.argsort(descending=True)[: int(share * len(labels))]
    chosen[best] = labels[best]
    return chosen


def with_points_without_label(
    labels: Tensor, sure: Tensor, share: float
) -> Tensor:
    return best_of_each_class(labels.clamp(min=0), sure, share)


def one_round(
    scores: Tensor, stage_1: Tensor, tags: Tensor, regions: Tensor
) -> Tensor:
    network = scores.masked_fill(~tags, -torch.inf).softmax(1)
    both = (network + stage_1) / 2
    found = torch.empty(len(scores), dtype=torch.int64)
    for region in regions.unique():
        found[regions == region] = both[regions == region].mean(0).argmax()
    return found


def masked_too_late(
    scores: Tensor, stage_1: Tensor, tags: Tensor, regions: Tensor
) -> Tensor:
    return one_round(scores, stage_1, torch.ones_like(tags), regions)


def without_stage_1(
    scores: Tensor, stage_1: Tensor, tags: Tensor, regions: Tensor
) -> Tensor:
    return one_round(scores, torch.zeros_like(stage_1), tags, regions)


@pytest.mark.parametrize(
    ("check", "solution", "wrong"),
    [
        (
            exercises.check_best_accuracy,
            best_accuracy,
            {
                "two of three points are right": lambda truth, regions: 0.5,
                "pure regions": lambda truth, regions: 1.0,
                "returns nothing yet": lambda truth, regions: None,
            },
        ),
        (
            exercises.check_best_of_each_class,
            best_of_each_class,
            {
                "the best half of all points": best_of_all,
                "no class": with_points_without_label,
                "returns nothing yet": lambda labels, sure, share: None,
            },
        ),
        (
            exercises.check_outvoted,
            lambda: torch.tensor([[0.99, 0.01], [0.45, 0.55], [0.45, 0.55]]),
            {
                "let one point be very sure": lambda: torch.full((3, 2), 0.5),
                "add up to 1": lambda: torch.ones(3, 2),
                "three points": lambda: torch.ones(2, 2),
                "returns nothing yet": lambda: None,
            },
        ),
        (
            exercises.check_one_round,
            one_round,
            {
                "mask before the softmax": masked_too_late,
                "points differ": without_stage_1,
                "returns nothing yet": lambda *given: None,
            },
        ),
    ],
    ids=["best_accuracy", "best_of_each_class", "outvoted", "one_round"],
)
def test_a_check_passes_the_solution_and_tells_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
    check: Callable[[object], None],
    solution: object,
    wrong: dict[str, object],
) -> None:
    check(solution)
    assert capsys.readouterr().out.startswith("ok: ")
    for hint, answer in wrong.items():
        with pytest.raises(AssertionError, match=hint):
            check(answer)
