"""Checks of the exercises of chapter 13: the share of a gap, matrices from the
lines of a record, and a verdict from paired draws.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlg_lib.metrics import middle


def check_share_of_gap(
    share_of_gap: Callable[[float, float, float], float],
) -> None:
    """How far a score gets from the low end to the high end, in per cent.

    >>> check_share_of_gap(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: share_of_gap returns nothing yet
    """
    found = share_of_gap(75, 70, 90)
    assert found is not None, "share_of_gap returns nothing yet"
    assert not math.isclose(found, 100 * 75 / 90), (
        "that is the score over the high end: the gap starts at the low end"
    )
    assert not math.isclose(found, 0.25), "per cent, please: 25, not 0.25"
    assert math.isclose(found, 25), f"75 between 70 and 90: 25, found {found}"
    for score, expected in ((65, -25), (95, 125), (70, 0), (90, 100)):
        found = share_of_gap(score, 70, 90)
        assert math.isclose(found, expected, abs_tol=1e-9), (
            f"{score} between 70 and 90: expected {expected}, found {found}; a"
            " row may lie outside the gap, and that is worth seeing"
        )
    print("ok: share_of_gap")


def check_read_matrices(
    read_matrices: Callable[[Sequence[str], int], Tensor],
) -> None:
    """The lines of a record become one confusion matrix a room.

    >>> check_read_matrices(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: read_matrices returns nothing yet
    """
    lines = ["1 2 3 4 5 6", "0 0 0 7 0 0"]
    found = read_matrices(lines, 2)
    assert found is not None, "read_matrices returns nothing yet"
    assert tuple(found.shape) != (2, 3, 2), (
        "K rows of K + 1 numbers: the last column is for points without an"
        " answer"
    )
    assert tuple(found.shape) == (2, 2, 3), (
        f"two rooms, two classes: expected shape (2, 2, 3), found"
        f" {tuple(found.shape)}"
    )
    assert found.tolist() == [[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [7, 0, 0]]], (
        f"the numbers stand row after row; found {found.tolist()}"
    )
    print("ok: read_matrices")


def check_verdict(verdict: Callable[[Tensor], str]) -> None:
    """What paired draws of a difference say at 95 per cent.

    >>> check_verdict(lambda draws: None)
    Traceback (most recent call last):
        ...
    AssertionError: verdict returns nothing yet
    """
    sure = torch.linspace(1, 2, 1000, dtype=torch.float64)
    found = verdict(sure)
    assert found is not None, "verdict returns nothing yet"
    assert found == "better", f"all draws above zero: better, found {found!r}"
    assert verdict(-sure) == "worse", "all draws below zero: worse"
    assert verdict(sure - 1.5) == "not told apart", (
        "half of the draws on either side of zero tell nothing"
    )
    assert verdict(sure - 1.05) == "not told apart", (
        "5 of 100 draws lie below zero; an interval of 95 % leaves out 2.5 at"
        " each end, so it holds zero"
    )
    assert verdict(sure - 1.01) == "better", (
        "1 of 100 draws lies below zero: outside the interval"
    )
    generator = torch.Generator().manual_seed(6)
    for _ in range(20):
        draws = torch.randn(500, generator=generator).double() + 2 * float(
            torch.randn((), generator=generator)
        )
        low, high = middle(draws)
        expected = (
            "better" if low > 0 else "worse" if high < 0 else "not told apart"
        )
        assert verdict(draws) == expected, (
            f"draws with an interval of {low:.2f} to {high:.2f}: expected"
            f" {expected!r}, found {verdict(draws)!r}"
        )
    print("ok: verdict")
