"""Checks of the exercises of chapter 09: IoU from lists, the sign test, naming
the convention, the best of equals.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from vlg_lib.metrics import CONVENTIONS, confusion, iou_per_class, mean_iou


def check_class_iou(class_iou: Callable[[Tensor, Tensor, int], float]) -> None:
    """The IoU agrees with the library's on random labels with missing truths
    and missing answers.

    >>> check_class_iou(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: class_iou returns nothing yet
    """
    truth = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 2])
    answer = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, -1, 0])
    found = class_iou(truth, answer, 1)
    assert found is not None, "class_iou returns nothing yet"
    assert not math.isclose(found, 2 / 3, abs_tol=1e-6), (
        "the ten points, chair: 2/3 is what comes out without the false"
        " positives, or without the point that has no answer. Which points does"
        " either side claim?"
    )
    assert math.isclose(found, 0.5, abs_tol=1e-6), (
        f"the ten points, chair: expected 0.5, found {found}"
    )
    unlabelled = torch.tensor([-1, 0, 0]), torch.tensor([0, 0, 1])
    assert math.isclose(class_iou(*unlabelled, 0), 0.5, abs_tol=1e-6), (
        "a point without a true label counts nowhere, not even as a false"
        " positive"
    )
    assert math.isnan(
        class_iou(torch.tensor([0, 0]), torch.tensor([0, 1]), 1)
    ), (
        "a class that the truth does not contain has no IoU here: float('nan'),"
        " even where it is predicted"
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        truth, answer = torch.randint(-1, 4, (2, 60), generator=generator)
        expected = iou_per_class(confusion(answer, truth, 4)).tolist()
        for k in range(4):
            found = class_iou(truth, answer, k)
            assert math.isclose(found, expected[k], abs_tol=1e-5) or (
                math.isnan(found) and math.isnan(expected[k])
            ), (
                f"random labels, class {k}: expected {expected[k]:.4f}, found"
                f" {found:.4f}"
            )
    print("ok: class_iou")


def check_sign_test(sign_test: Callable[[int, int], float]) -> None:
    """The two-sided probability under a fair coin, symmetric and at most 1.

    >>> check_sign_test(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: sign_test returns nothing yet
    """
    found = sign_test(4, 0)
    assert found is not None, "sign_test returns nothing yet"
    assert not math.isclose(found, 1 / 16, abs_tol=1e-9), (
        "0.0625 is one direction only: a lopsided 0 to 4 counts, too"
    )
    assert math.isclose(found, 0.125, abs_tol=1e-9), (
        f"4 to 0: expected 0.125, found {found}"
    )
    assert not math.isclose(sign_test(9, 1), 20 / 1024, abs_tol=1e-9), (
        "9 to 1: at least as lopsided means 9 heads, and also 10 heads"
    )
    for wins, losses in ((9, 1), (5, 5), (6, 5), (0, 7), (12, 20), (1, 0)):
        n, most = wins + losses, max(wins, losses)
        expected = min(
            1.0, 2 * sum(math.comb(n, i) for i in range(most, n + 1)) / 2**n
        )
        found = sign_test(wins, losses)
        assert found <= 1, (
            f"{wins} to {losses}: {found} is more than 1, and no probability"
        )
        assert math.isclose(found, expected, rel_tol=1e-6), (
            f"{wins} to {losses}: expected {expected:.5f}, found {found:.5f};"
            " who wins must not matter"
        )
    print("ok: sign_test")


def check_which_conventions(
    which_conventions: Callable[[Tensor, float], list[str]],
) -> None:
    """Every convention whose mIoU is the reported one is named, no other.

    >>> check_which_conventions(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: which_conventions returns nothing yet
    """
    ten = torch.tensor(
        [[5, 0, 0, 1, 0], [0, 2, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    )
    found = which_conventions(ten, 0.4286)
    assert found is not None, "which_conventions returns nothing yet"
    for name in CONVENTIONS:
        found = list(which_conventions(ten, mean_iou(ten, name)))
        assert name in found, (
            f"the ten points with a bed have mIoU {mean_iou(ten, name):.4f}"
            f" under {name!r}, but you name {found}: what does it do with an"
            " absent class, and with a point without an answer?"
        )
        assert found == [name], (
            f"the ten points with a bed, {mean_iou(ten, name):.4f}: only"
            f" {name!r}, found {found}"
        )
    assert list(which_conventions(ten, 0.9)) == [], (
        "0.9 is no convention's result: the list is empty"
    )
    generator = torch.Generator().manual_seed(2)
    for trial in range(30):
        matrix = _random_matrix(
            generator, absent=trial % 3, unseen=bool(trial % 2)
        )
        for name in CONVENTIONS:
            reported = mean_iou(matrix, name)
            expected = [
                other
                for other in CONVENTIONS
                if abs(mean_iou(matrix, other) - reported) < 0.0005
            ]
            found = list(which_conventions(matrix, reported))
            assert found == expected, (
                f"matrix {matrix.tolist()}, reported {reported:.4f}: expected"
                f" {expected}, found {found}. Name all that agree, in the order"
                " present, scannet, openscene"
            )
    print("ok: which_conventions")


def _random_matrix(
    generator: torch.Generator, absent: int, unseen: bool
) -> Int[Tensor, "5 6"]:
    """Five classes, the last ``absent`` of them not in the truth, with points
    without an answer or without them.
    """
    matrix = torch.randint(0, 9, (5, 6), generator=generator) + 20 * torch.eye(
        5, 6, dtype=torch.int64
    )
    matrix[5 - absent :] = 0
    if not unseen:
        matrix[:, -1] = 0
    return matrix


def check_optimism(optimism: Callable[[float, int], float]) -> None:
    """The mean of the largest of n normal draws, to 3 per cent; proportional to
    the spread.

    >>> check_optimism(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: optimism returns nothing yet
    """
    found = optimism(1.0, 1)
    assert found is not None, "optimism returns nothing yet"
    assert abs(found) < 0.03, (
        f"one try cannot be chosen: expected about 0, found {found:.3f}"
    )
    # The mean of the largest of n standard normals: closed form for n = 2, 3;
    # tables of order statistics for the rest.
    known = {
        2: 1 / math.sqrt(math.pi),
        3: 1.5 / math.sqrt(math.pi),
        10: 1.5388,
        100: 2.5076,
    }
    for tries, expected in known.items():
        found = optimism(1.0, tries)
        assert abs(found - expected) < 0.03 * expected, (
            f"spread 1, {tries} tries: expected about {expected:.3f}, found"
            f" {found:.3f}. It is the mean of the largest, over many"
            " repetitions"
        )
    assert abs(optimism(2.5, 10) - 2.5 * known[10]) < 0.03 * 2.5 * known[10], (
        "2.5 times the spread is 2.5 times the optimism"
    )
    print("ok: optimism")
