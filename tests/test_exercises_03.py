"""Chapter 03's exercise checks pass the solution and fail typical wrong answers
with a hint."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from vlg_lib.exercises import chapter03 as exercises


def running_mean(frames: Iterator[Tensor]) -> Tensor:
    total, count = None, 0
    for frame in frames:
        total = frame.clone() if total is None else total + frame
        count += 1
    assert total is not None
    return total / count


def test_running_mean(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_running_mean(running_mean)
    assert "ok: running_mean" in capsys.readouterr().out
    exercises.check_running_mean(
        lambda frames: running_mean(frame.double() for frame in frames)
    )
    with pytest.raises(AssertionError, match="overwritten"):
        exercises.check_running_mean(
            lambda frames: torch.stack(list(frames)).mean(0)
        )
    with pytest.raises(AssertionError, match="found"):
        exercises.check_running_mean(lambda frames: sum(frames))  # type: ignore[arg-type,return-value]
    with pytest.raises(AssertionError, match="returns nothing"):
        exercises.check_running_mean(lambda frames: None)  # type: ignore[arg-type,return-value]

    def halves(frames: Iterator[Tensor]) -> Tensor:
        mean = next(frames).clone()
        for frame in frames:
            mean = (mean + frame) / 2
        return mean

    with pytest.raises(AssertionError):
        exercises.check_running_mean(halves)


def majority_vote(votes: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    counts = torch.stack([(votes == k).sum(0) for k in range(classes)])
    most, labels = counts.max(0)
    voters = counts.sum(0)
    return labels.masked_fill(voters == 0, -1), most / voters.clamp(min=1)


def test_majority_vote() -> None:
    exercises.check_majority_vote(majority_vote)
    with pytest.raises(AssertionError, match="seen by no view"):
        exercises.check_majority_vote(
            lambda votes, classes: (
                votes.mode(0).values.clamp(min=0),
                torch.zeros(3),
            )
        )

    def of_all_views(votes: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        labels, agreement = majority_vote(votes, classes)
        return labels, agreement * (votes >= 0).float().mean(0)

    with pytest.raises(AssertionError, match="saw the point"):
        exercises.check_majority_vote(of_all_views)
    # torch's mode counts -1 as a vote
    with pytest.raises(AssertionError, match="most votes"):
        exercises.check_majority_vote(
            lambda votes, classes: (
                votes.mode(0).values,
                majority_vote(votes, classes)[1],
            )
        )


def views_needed(variance: float, correlation: float, target: float) -> float:
    left = target - variance * correlation
    return (
        max(1, math.ceil(variance * (1 - correlation) / left - 1e-9))
        if left > 0
        else math.inf
    )


def test_views_needed() -> None:
    exercises.check_views_needed(views_needed)
    with pytest.raises(AssertionError, match="correlation 1/2"):
        exercises.check_views_needed(
            lambda variance, correlation, target: math.ceil(variance / target)
        )
    with pytest.raises(AssertionError, match="one view fewer"):
        exercises.check_views_needed(
            lambda v, c, t: views_needed(v, c, t) + (v not in (1.0,))
        )
    with pytest.raises(AssertionError, match="stays for any number"):
        exercises.check_views_needed(
            lambda v, c, t: views_needed(v, c, t) if t > v * c else 10_000
        )


def odd_view(rows: Tensor, saw: Tensor) -> int:
    others = rows.sum(0) - rows
    cosine = torch.nn.functional.cosine_similarity(rows, others, dim=2)
    shared = saw & (saw.sum(0) > 1)
    agreement = (cosine * shared).sum(1) / shared.sum(1).clamp(min=1)
    return int(agreement.masked_fill(shared.sum(1) == 0, torch.inf).argmin())


def test_odd_view() -> None:
    exercises.check_odd_view(odd_view)

    def summed(rows: Tensor, saw: Tensor) -> int:
        cosine = torch.nn.functional.cosine_similarity(
            rows, rows.sum(0) - rows, dim=2
        )
        return int(((1 - cosine) * saw).sum(1).argmax())

    with pytest.raises(AssertionError, match="not a sum"):
        exercises.check_odd_view(summed)

    def lonely_points_count(rows: Tensor, saw: Tensor) -> int:
        cosine = torch.nn.functional.cosine_similarity(
            rows, rows.sum(0) - rows, dim=2
        )
        agreement = (cosine * saw).sum(1) / saw.sum(1).clamp(min=1)
        return int(agreement.masked_fill(saw.sum(1) == 0, torch.inf).argmin())

    with pytest.raises(AssertionError, match="nobody to agree with"):
        exercises.check_odd_view(lonely_points_count)
    with pytest.raises(AssertionError, match="compare a view with the others"):
        exercises.check_odd_view(lambda rows, saw: 1)
    with pytest.raises(AssertionError, match="returns nothing"):
        exercises.check_odd_view(lambda rows, saw: None)  # type: ignore[arg-type,return-value]
