"""Chapter 04's exercise checks pass the solution and fail typical wrong answers
with a hint."""

import math

import pytest
import torch
from torch import Tensor

from vlg_lib.exercises import chapter04 as exercises


def masked_softmax(logits: Tensor, tags: Tensor) -> Tensor:
    return logits.masked_fill(~tags, -torch.inf).softmax(dim=1)


def test_masked_softmax(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_masked_softmax(masked_softmax)
    assert "ok: masked_softmax" in capsys.readouterr().out
    # masked after the softmax
    with pytest.raises(AssertionError, match=r"\[0, 0.25, 0.75\]"):
        exercises.check_masked_softmax(
            lambda logits, tags: logits.softmax(1) * tags
        )
    # a logit of zero is not an absent class
    with pytest.raises(AssertionError, match=r"\[0, 0.25, 0.75\]"):
        exercises.check_masked_softmax(
            lambda logits, tags: (logits * tags).softmax(1)
        )

    def by_hand(logits: Tensor, tags: Tensor) -> Tensor:
        weights = logits.exp() * tags
        return weights / weights.sum(1, keepdim=True)

    with pytest.raises(AssertionError, match="overflows"):
        exercises.check_masked_softmax(by_hand)
    with pytest.raises(AssertionError, match="work on a copy"):
        exercises.check_masked_softmax(
            lambda logits, tags: logits.masked_fill_(~tags, -torch.inf).softmax(
                1
            )
        )

    def renormalised(logits: Tensor, tags: Tensor) -> Tensor:
        kept = logits.softmax(1) * tags
        return kept / kept.sum(1, keepdim=True).clamp(min=1e-30)

    # right for small logits only
    with pytest.raises(AssertionError, match="underflow to 0 before"):
        exercises.check_masked_softmax(renormalised)


def coverage_accuracy(
    confidence: Tensor, right: Tensor, threshold: float
) -> tuple[float, float]:
    kept = confidence >= threshold
    return float(kept.float().mean()), float(right[kept].float().mean())


def test_coverage_accuracy() -> None:
    exercises.check_coverage_accuracy(coverage_accuracy)
    with pytest.raises(AssertionError, match="two of the three"):
        exercises.check_coverage_accuracy(
            lambda c, r, t: (
                float((c >= t).float().mean()),
                float(r.float().mean()),
            )
        )
    with pytest.raises(AssertionError, match="three of four"):
        exercises.check_coverage_accuracy(
            lambda c, r, t: coverage_accuracy(c, r, t + 1e-4)
        )
    with pytest.raises(AssertionError, match="NaN"):
        exercises.check_coverage_accuracy(
            lambda c, r, t: coverage_accuracy(c, r, t) if t < 1 else (0.0, 0.0)
        )


def calibration_error(confidence: Tensor, right: Tensor, bins: int) -> float:
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    error = 0.0
    for k in range(bins):
        inside = bin_of == k
        if inside.any():
            gap = confidence[inside].mean() - right[inside].float().mean()
            error += float(inside.float().mean() * gap.abs())
    return error


def test_calibration_error() -> None:
    exercises.check_calibration_error(calibration_error)
    # every bin the same weight
    with pytest.raises(AssertionError, match="example"):
        exercises.check_calibration_error(
            lambda c, r, b: (abs(0.9 - 2 / 3) + 0.7) / 2
        )
    # no bins: the gap of the means
    with pytest.raises(AssertionError, match="example"):
        exercises.check_calibration_error(
            lambda c, r, b: float((c.mean() - r.float().mean()).abs())
        )

    def last_bin_open(confidence: Tensor, right: Tensor, bins: int) -> float:
        keep = confidence < 1
        return (
            calibration_error(confidence[keep], right[keep], bins)
            if keep.any()
            else 0.0
        )

    with pytest.raises(AssertionError, match="exactly 1"):
        exercises.check_calibration_error(last_bin_open)

    def point_by_point(confidence: Tensor, right: Tensor, bins: int) -> float:
        values = confidence.unique()
        gaps = [
            (value - right[confidence == value].float().mean()).abs()
            for value in values
        ]
        return sum(
            float((confidence == v).float().mean() * g)
            for v, g in zip(values, gaps, strict=True)
        )

    with pytest.raises(AssertionError, match="means over a bin"):
        exercises.check_calibration_error(point_by_point)


def select_by_class(labels: Tensor, confidence: Tensor, share: float) -> Tensor:
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for k in labels[labels >= 0].unique().tolist():
        members = (labels == k).nonzero().flatten()
        best = confidence[members].argsort(descending=True)[
            : math.ceil(share * len(members) - 1e-9)
        ]
        kept[members[best]] = True
    return kept


def test_select_by_class() -> None:
    exercises.check_select_by_class(select_by_class)

    def of_all(labels: Tensor, confidence: Tensor, share: float) -> Tensor:
        confidence = confidence.masked_fill(labels < 0, -1)
        return confidence >= confidence[labels >= 0].quantile(1 - share)

    with pytest.raises(AssertionError, match="within each class"):
        exercises.check_select_by_class(of_all)

    def with_unlabelled(
        labels: Tensor, confidence: Tensor, share: float
    ) -> Tensor:
        return select_by_class(labels, confidence, share) | (labels < 0)

    with pytest.raises(AssertionError, match="has no label"):
        exercises.check_select_by_class(with_unlabelled)

    def rounded_down(
        labels: Tensor, confidence: Tensor, share: float
    ) -> Tensor:
        kept = select_by_class(labels, confidence, share)
        for k in labels[kept].unique().tolist():
            if share * int((labels == k).sum()) % 1 > 1e-6:
                kept[
                    confidence.masked_fill(
                        ~kept | (labels != k), torch.inf
                    ).argmin()
                ] = False
        return kept

    with pytest.raises(AssertionError, match="rounded up"):
        exercises.check_select_by_class(rounded_down)
