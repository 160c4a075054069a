"""Chapter 13's exercise checks pass the solution and fail typical wrong answers
with a hint."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from vlg_lib.exercises import chapter13 as exercises


def read_matrices(lines: Sequence[str], classes: int) -> Tensor:
    return torch.tensor(
        [[int(number) for number in line.split()] for line in lines]
    ).reshape(-1, classes, classes + 1)


def transposed(lines: Sequence[str], classes: int) -> Tensor:
    return read_matrices(lines, classes).reshape(-1, classes + 1, classes)


def verdict(draws: Tensor, tail: float = 0.025) -> str:
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = draws.quantile(ends).tolist()
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


@pytest.mark.parametrize(
    ("check", "solution", "wrong"),
    [
        (
            exercises.check_share_of_gap,
            lambda score, low, high: 100 * (score - low) / (high - low),
            {
                "the gap starts at the low end": lambda score, low, high: (
                    100 * score / high
                ),
                "per cent, please": lambda score, low, high: (
                    (score - low) / (high - low)
                ),
                "outside the gap": lambda score, low, high: max(
                    0, 100 * (score - low) / (high - low)
                ),
                "returns nothing yet": lambda *given: None,
            },
        ),
        (
            exercises.check_read_matrices,
            read_matrices,
            {
                "points without an answer": transposed,
                "row after row": lambda lines, classes: read_matrices(
                    lines, classes
                ).flip(1),
                "returns nothing yet": lambda *given: None,
            },
        ),
        (
            exercises.check_verdict,
            verdict,
            {
                "half of the draws": lambda draws: (
                    "better" if draws.mean() >= 0 else "worse"
                ),
                "2.5 at each end": lambda draws: verdict(draws, 0.06),
                "outside the interval": lambda draws: verdict(draws, 0.001),
                "returns nothing yet": lambda draws: None,
            },
        ),
    ],
    ids=["share_of_gap", "read_matrices", "verdict"],
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
