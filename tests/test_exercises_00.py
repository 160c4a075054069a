"""Chapter 00's exercise checks pass the solution and fail typical wrong answers
with a hint."""

import pytest
import torch
from torch import Tensor

from vlg_lib.exercises import chapter00 as exercises


def masked_choice(scores: Tensor, tags: Tensor) -> Tensor:
    return scores.masked_fill(~tags, float("-inf")).argmax(dim=1)


def test_masked_choice(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_masked_choice(masked_choice)
    assert "ok: masked_choice" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="negative"):
        exercises.check_masked_choice(
            lambda scores, tags: (scores * tags).argmax(dim=1)
        )
    with pytest.raises(AssertionError, match="returns nothing"):
        exercises.check_masked_choice(lambda scores, tags: None)
    with pytest.raises(AssertionError, match="work on a copy"):
        exercises.check_masked_choice(
            lambda scores, tags: scores.masked_fill_(~tags, -1e9).argmax(dim=1)
        )


def test_silenced() -> None:
    exercises.check_silenced(
        lambda scores, tags: float((~tags[scores.argmax(dim=1)]).float().mean())
    )
    with pytest.raises(AssertionError, match="two of three"):
        exercises.check_silenced(
            lambda scores, tags: float((~tags).float().mean())
        )
    with pytest.raises(AssertionError, match=r"best|two of three"):
        exercises.check_silenced(
            lambda scores, tags: float(
                (~tags[scores.argmin(dim=1)]).float().mean()
            )
        )


def test_best_absence() -> None:
    def solution(scores: Tensor, truth: Tensor, absent: list[int]) -> int:
        def right_without(index: int) -> int:
            tags = torch.ones(scores.shape[1], dtype=torch.bool)
            tags[index] = False
            return int((masked_choice(scores, tags) == truth).sum())

        return max(absent, key=right_without)

    exercises.check_best_absence(solution)
    with pytest.raises(AssertionError, match="only the classes"):
        exercises.check_best_absence(lambda scores, truth, absent: 0)
    with pytest.raises(AssertionError, match="three points are right"):
        exercises.check_best_absence(lambda scores, truth, absent: 2)
    with pytest.raises(AssertionError, match="another wrong word"):
        exercises.check_best_absence(
            lambda scores, truth, absent: max(
                absent, key=lambda k: int((scores.argmax(dim=1) == k).sum())
            )
        )
