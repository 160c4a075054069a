"""Checks of the exercises of chapter 04: masked softmax, coverage and accuracy,
calibration, selection by class.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _scene(
    seed: int, points: int = 50, classes: int = 6
) -> tuple[Tensor, Tensor]:
    """Logits of some points, and tags of which at least one is True and at
    least one False.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(points, classes, generator=generator)
    tags = torch.rand(classes, generator=generator) < 0.5
    tags[seed % classes], tags[(seed + 1) % classes] = True, False
    return logits, tags


def check_masked_softmax(
    masked_softmax: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Absent classes get exactly 0, the rest sum to one and keep their ratios,
    and large logits do no harm.

    >>> check_masked_softmax(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: masked_softmax returns nothing yet
    """
    example = torch.tensor([[0.6, 0.1, 0.3]]).log()
    answer = masked_softmax(example, torch.tensor([False, True, True]))
    assert answer is not None, "masked_softmax returns nothing yet"
    assert torch.as_tensor(answer).shape == (1, 3), (
        "keep one column a class, also for classes that are absent"
    )
    assert torch.allclose(answer, torch.tensor([[0.0, 0.25, 0.75]])), (
        "the example gives [0, 0.25, 0.75], found"
        f" {[round(p, 3) for p in answer[0].tolist()]}"
    )
    for seed in range(5):
        logits, tags = _scene(seed)
        before = logits.clone()
        found = masked_softmax(logits, tags)
        assert torch.equal(logits, before), (
            "the caller's logits were changed: work on a copy"
        )
        assert bool((found[:, ~tags] == 0).all()), (
            "an absent class keeps some probability: it must be exactly 0"
        )
        assert torch.allclose(
            found.sum(1), torch.ones(len(found)), atol=1e-5
        ), (
            "the probabilities of a point do not sum to one: when were the"
            " absent classes removed?"
        )
        full = logits.softmax(1)[:, tags]
        assert torch.allclose(
            found[:, tags], full / full.sum(1, keepdim=True), atol=1e-5
        ), "the classes that remain must keep their ratios"
    logits, tags = _scene(7)
    large = masked_softmax(200 * logits, tags)
    assert bool(large.isfinite().all()), (
        "logits of some hundreds give NaN or infinity: exp of a large number"
        " overflows, and a sum may underflow to 0"
    )
    assert torch.allclose(large.sum(1), torch.ones(len(large)), atol=1e-5), (
        "with logits of some hundreds the probabilities of a point do not sum"
        " to one: where an absent class is far ahead, the probabilities of the"
        " others underflow to 0 before you divide"
    )
    print("ok: masked_softmax")


def check_coverage_accuracy(
    coverage_accuracy: Callable[[Tensor, Tensor, float], tuple[float, float]],
) -> None:
    """Counts the kept points over all, the right ones over the kept, and says
    NaN where nothing is kept.

    >>> check_coverage_accuracy(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: coverage_accuracy returns nothing yet
    """
    confidence = torch.tensor([0.9, 0.5, 0.7, 0.2])
    right = torch.tensor([True, True, False, False])
    answer = coverage_accuracy(confidence, right, 0.5)
    assert answer is not None, "coverage_accuracy returns nothing yet"
    assert len(answer) == 2, "return two numbers: coverage and accuracy"
    assert abs(float(answer[0]) - 0.75) < 1e-6, (
        f"three of four points are kept (>= 0.5), found {float(answer[0]):.3f}"
    )
    assert abs(float(answer[1]) - 2 / 3) < 1e-6, (
        f"two of the three kept are right, found {float(answer[1]):.3f}"
    )
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        confidence = torch.rand(100, generator=generator)
        right = torch.rand(100, generator=generator) < confidence
        threshold = 0.15 * seed
        kept = [
            bool(r)
            for c, r in zip(confidence.tolist(), right.tolist(), strict=True)
            if c >= threshold
        ]
        coverage, accuracy = coverage_accuracy(confidence, right, threshold)
        assert abs(float(coverage) - len(kept) / 100) < 1e-6, (
            "coverage is the share of *all* points that are kept"
        )
        assert abs(float(accuracy) - sum(kept) / len(kept)) < 1e-6, (
            "accuracy is counted among the *kept* points"
        )
    coverage, accuracy = coverage_accuracy(confidence, right, 2.0)
    assert float(coverage) == 0.0, (
        "no point reaches a confidence of 2: the coverage is 0"
    )
    assert math.isnan(float(accuracy)), (
        "the accuracy of no points is unknown: return NaN, neither 0 nor 1"
    )
    print("ok: coverage_accuracy")


def check_calibration_error(
    calibration_error: Callable[[Tensor, Tensor, int], float],
) -> None:
    """Right by hand, 0 for a calibrated forecast, weighted by the points in a
    bin, and never an average of nothing.

    >>> check_calibration_error(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: calibration_error returns nothing yet
    """
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.3])
    right = torch.tensor([True, True, False, True])
    answer = calibration_error(confidence, right, 10)
    assert answer is not None, "calibration_error returns nothing yet"
    expected = 0.75 * (0.9 - 2 / 3) + 0.25 * 0.7
    assert abs(float(answer) - expected) < 1e-5, (
        f"the example: 3/4 x |0.9 - 2/3| + 1/4 x |0.3 - 1| = {expected:.3f},"
        f" found {float(answer):.3f}"
    )
    half = calibration_error(torch.full((10,), 0.75), torch.arange(10) < 5, 4)
    assert abs(float(half) - 0.25) < 1e-6, (
        "ten points at confidence 0.75 of which five are right: the error is"
        " 0.25"
    )
    assert (
        abs(
            float(
                calibration_error(
                    torch.full((8,), 0.5), torch.arange(8) % 2 == 0, 5
                )
            )
        )
        < 1e-6
    ), (
        "half of the points at confidence 0.5 are right: a perfect forecast has"
        " error 0 (empty bins count nothing)"
    )
    shared = calibration_error(
        torch.tensor([0.61, 0.69]), torch.tensor([False, True]), 5
    )
    assert abs(float(shared) - 0.15) < 1e-5, (
        "0.61 and 0.69 fall into one of five bins, mean confidence 0.65, one"
        f" of two right: the error is 0.15, found {float(shared):.3f}; take the"
        " means over a bin first, then the distance"
    )
    one = calibration_error(torch.ones(6), torch.arange(6) < 3, 10)
    assert abs(float(one) - 0.5) < 1e-6, (
        "a confidence of exactly 1 belongs into the last bin"
    )
    print("ok: calibration_error")


def check_select_by_class(
    select_by_class: Callable[[Tensor, Tensor, float], Tensor],
) -> None:
    """Every class keeps its share, its most confident points, and unlabelled
    points are never kept.

    >>> check_select_by_class(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: select_by_class returns nothing yet
    """
    labels = torch.tensor([0, 0, 0, 0, 1, 1, -1])
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.3, 0.2, 1.0])
    answer = select_by_class(labels, confidence, 0.5)
    assert answer is not None, "select_by_class returns nothing yet"
    answer = torch.as_tensor(answer)
    assert answer.dtype == torch.bool, (
        f"return one boolean a point, found {answer.dtype}"
    )
    assert answer.shape == (7,), (
        "return one boolean a point: expected shape (7,), found"
        f" {tuple(answer.shape)}"
    )
    assert not bool(answer[6]), (
        "the last point of the example has no label: it cannot be selected,"
        " however confident"
    )
    assert bool(answer[4]), (
        "class 1 of the example keeps nothing: the share is taken within each"
        " class"
    )
    assert answer.tolist() == [True, True, False, False, True, False, False], (
        "half of each class of the example: points 0, 1 and 4; found"
        f" {answer.nonzero().flatten().tolist()}"
    )
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(-1, 5, (200,), generator=generator)
        confidence = (
            torch.rand(200, generator=generator).masked_fill(labels == 3, 0.01)
            + torch.arange(200) * 1e-6
        )
        kept = torch.as_tensor(select_by_class(labels, confidence, 0.3))
        for k in range(5):
            members = labels == k
            count = math.ceil(0.3 * int(members.sum()) - 1e-9)
            assert int((kept & members).sum()) == count, (
                f"class {k} has {int(members.sum())} points; 30 %, rounded up,"
                f" is {count}, found {int((kept & members).sum())}"
            )
            assert (
                confidence[kept & members].min()
                >= confidence[~kept & members].max()
            ), (
                f"class {k}: a point that was left out is more confident than"
                " one that was kept"
            )
    print("ok: select_by_class")
