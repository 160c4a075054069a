"""Chapter 09's exercise checks pass the solution and fail typical wrong answers
with a hint."""

import math

import pytest
import torch
from torch import Tensor

from vlg_lib.exercises import chapter09 as exercises


def class_iou(truth: Tensor, answer: Tensor, k: int) -> float:
    counted = truth != -1
    is_k, called_k = (truth == k) & counted, (answer == k) & counted
    return (
        float((is_k & called_k).sum() / (is_k | called_k).sum())
        if is_k.any()
        else float("nan")
    )


def without_false_positives(truth: Tensor, answer: Tensor, k: int) -> float:
    return float(((truth == k) & (answer == k)).sum() / (truth == k).sum())


def with_unlabelled_points(truth: Tensor, answer: Tensor, k: int) -> float:
    is_k, called_k = truth == k, answer == k
    return float((is_k & called_k).sum() / (is_k | called_k).sum())


def absent_is_zero(truth: Tensor, answer: Tensor, k: int) -> float:
    return 0.0 if math.isnan(iou := class_iou(truth, answer, k)) else iou


def test_class_iou(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_class_iou(class_iou)
    assert "ok: class_iou" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="without the false positives"):
        exercises.check_class_iou(without_false_positives)
    with pytest.raises(AssertionError, match="counts nowhere"):
        exercises.check_class_iou(with_unlabelled_points)
    with pytest.raises(AssertionError, match="has no IoU here"):
        exercises.check_class_iou(absent_is_zero)
    with pytest.raises(AssertionError, match="returns nothing yet"):
        exercises.check_class_iou(lambda truth, answer, k: None)


def tail(heads: int, tosses: int) -> float:
    return (
        sum(math.comb(tosses, i) for i in range(heads, tosses + 1)) / 2**tosses
    )


def test_sign_test(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_sign_test(
        lambda wins, losses: min(
            1.0, 2 * tail(max(wins, losses), wins + losses)
        )
    )
    assert "ok: sign_test" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="one direction only"):
        exercises.check_sign_test(
            lambda wins, losses: tail(max(wins, losses), wins + losses)
        )
    with pytest.raises(AssertionError, match="also 10 heads"):
        exercises.check_sign_test(
            lambda wins, losses: (
                2 * math.comb(wins + losses, wins) / 2 ** (wins + losses)
            )
        )
    with pytest.raises(AssertionError, match="no probability"):
        exercises.check_sign_test(
            lambda wins, losses: 2 * tail(max(wins, losses), wins + losses)
        )
    with pytest.raises(AssertionError, match="who wins must not matter"):
        exercises.check_sign_test(
            lambda wins, losses: min(1.0, 2 * tail(wins, wins + losses))
        )


def means(matrix: Tensor) -> dict[str, float]:
    square = matrix[:, :-1].double()
    hits, called = square.diagonal(), square.sum(0)
    true, answered = matrix.sum(1).double(), square.sum(1)
    ious = hits / (true + called - hits).clamp(min=1)
    seen = hits / (answered + called - hits).clamp(min=1)
    return {
        "present": float(ious[true > 0].mean()),
        "scannet": float(ious[(true > 0) | (called > 0)].mean()),
        "openscene": float(seen[true > 0].sum() / len(matrix)),
    }


def test_which_conventions(capsys: pytest.CaptureFixture[str]) -> None:
    def named(matrix: Tensor, reported: float) -> list[str]:
        return [
            name
            for name, mean in means(matrix).items()
            if abs(mean - reported) < 0.0005
        ]

    exercises.check_which_conventions(named)
    assert "ok: which_conventions" in capsys.readouterr().out
    with pytest.raises(
        AssertionError, match="what does it do with an absent class"
    ):
        exercises.check_which_conventions(lambda matrix, reported: ["present"])
    with pytest.raises(AssertionError, match="the list is empty"):
        exercises.check_which_conventions(
            lambda matrix, reported: [
                min(
                    means(matrix),
                    key=lambda name: abs(means(matrix)[name] - reported),
                )
            ]
        )
    with pytest.raises(AssertionError, match="Name all that agree"):
        exercises.check_which_conventions(
            lambda matrix, reported: named(matrix, reported)[:1]
        )


def test_optimism(capsys: pytest.CaptureFixture[str]) -> None:
    def simulated(
        spread: float, tries: int, repetitions: int = 20_000
    ) -> float:
        drawn = torch.randn(
            repetitions, tries, generator=torch.Generator().manual_seed(0)
        )
        return spread * float(drawn.amax(1).mean())

    exercises.check_optimism(simulated)
    assert "ok: optimism" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="mean of the largest"):
        # a bound, not the mean
        exercises.check_optimism(
            lambda spread, tries: spread * math.sqrt(2 * math.log(tries))
        )
    with pytest.raises(AssertionError, match="times the spread"):
        exercises.check_optimism(lambda spread, tries: simulated(1.0, tries))
