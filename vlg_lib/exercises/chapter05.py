"""Checks of the exercises of chapter 05: pooling, what tags tell, who is
taught, swapped classes, centred scores.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlg_lib.class_activation_maps import pool_scores


def check_log_sum_exp(log_sum_exp: Callable[[Tensor, float], Tensor]) -> None:
    """The pooled score of each class: between average and maximum, the
    library's, finite for large scores.

    >>> check_log_sum_exp(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: log_sum_exp returns nothing yet
    """
    found = log_sum_exp(torch.tensor([[0.0, 1.0], [4.0, 1.0]]), 1.0)
    assert found is not None, "log_sum_exp returns nothing yet"
    assert tuple(found.shape) == (2,), (
        f"one score for each of the 2 classes, found shape {tuple(found.shape)}"
    )
    assert abs(float(found[1]) - 1.0) < 1e-4, (
        "two members of score 1 make a bag of score 1, found"
        f" {float(found[1]):.2f}: sum or mean?"
    )
    assert abs(float(found[0]) - 3.325) < 1e-3, (
        f"the scores 0 and 4 pool to 3.325, found {float(found[0]):.3f}"
    )
    scores = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    for sharpness in (0.5, 5.0):
        expected = pool_scores(
            scores,
            torch.zeros(50, dtype=torch.int64),
            1,
            "log-sum-exp",
            sharpness,
        )[0]
        assert torch.allclose(
            log_sum_exp(scores, sharpness), expected, atol=1e-4
        ), (
            f"sharpness {sharpness}: the scores are multiplied by it before,"
            " and divided by it after"
        )
    large = log_sum_exp(torch.tensor([[300.0], [-300.0]]), 1.0)
    assert bool(large.isfinite().all()), (
        "scores of several hundred overflow: take the maximum out before exp"
    )
    print("ok: log_sum_exp")


def check_tag_bits(tag_bits: Callable[[Tensor], Tensor]) -> None:
    """The entropy of each class's tag in bits; 0 for one that never changes.

    >>> check_tag_bits(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: tag_bits returns nothing yet
    """
    tags = torch.tensor(
        [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]],
        dtype=torch.bool,
    )
    found = tag_bits(tags)
    assert found is not None, "tag_bits returns nothing yet"
    assert tuple(found.shape) == (4,), (
        f"one number a class, four in all, found shape {tuple(found.shape)}"
    )
    assert bool(torch.isfinite(found).all()), (
        "0 log 0 counts as 0: a tag that is always or never there tells nothing"
    )
    expected = torch.tensor([0.0, 1.0, 0.8113, 0.0])
    assert not torch.allclose(found, expected * math.log(2), atol=1e-3), (
        "these are nats: for bits take the log to base 2"
    )
    assert torch.allclose(found, expected, atol=1e-3), (
        f"expected {[round(v, 2) for v in expected.tolist()]}, found"
        f" {[round(v, 2) for v in found.tolist()]}: both answers count, that"
        " the class is there and that it is not"
    )
    more = torch.rand(40, 6, generator=torch.Generator().manual_seed(1)) < 0.3
    assert torch.allclose(tag_bits(more), tag_bits(~more), atol=1e-5), (
        "an absence tells as much as a presence"
    )
    print("ok: tag_bits")


def check_taught(taught: Callable[[Tensor, float], Tensor]) -> None:
    """The shares are the gradient of the pooled score: they sum to 1, and go
    from equal ones to the top one.

    >>> check_taught(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: taught returns nothing yet
    """
    scores = torch.tensor([4.0, 0.0, 0.0, 0.0])
    found = taught(scores, 1.0)
    assert found is not None, "taught returns nothing yet"
    assert tuple(found.shape) == (4,), (
        f"one share for each of the 4 points, found shape {tuple(found.shape)}"
    )
    assert abs(float(found.sum()) - 1) < 1e-4, (
        f"the shares of a bag sum to 1, found {float(found.sum()):.3f}"
    )
    generator = torch.Generator().manual_seed(2)
    for sharpness in (0.001, 0.5, 1.0, 5.0):
        values = torch.randn(20, generator=generator).requires_grad_()
        pooled = pool_scores(
            values[:, None],
            torch.zeros(20, dtype=torch.int64),
            1,
            "log-sum-exp",
            sharpness,
        )
        (expected,) = torch.autograd.grad(pooled.sum(), values)
        assert torch.allclose(
            taught(values.detach(), sharpness), expected, atol=1e-4
        ), (
            f"sharpness {sharpness}: the shares are not the gradient of the"
            " bag's score. Where does the sharpness go?"
        )
    assert bool(taught(torch.tensor([500.0, 0.0]), 5.0).isfinite().all()), (
        "large scores overflow"
    )
    print("ok: taught")


def check_interchangeable(
    interchangeable: Callable[[Tensor], Sequence[tuple[int, int]]],
) -> None:
    """All pairs of classes, smaller index first, that are tagged in exactly the
    same rooms.

    >>> check_interchangeable(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: interchangeable returns nothing yet
    """
    tags = torch.tensor(
        [[1, 1, 0, 1, 0], [1, 1, 1, 0, 1], [1, 1, 0, 0, 0]], dtype=torch.bool
    )
    found = interchangeable(tags)
    assert found is not None, "interchangeable returns nothing yet"
    pairs = [(int(first), int(second)) for first, second in found]
    assert all(first != second for first, second in pairs), (
        "a class and itself are no pair"
    )
    assert len({frozenset(pair) for pair in pairs}) == len(pairs), (
        "each pair once: (0, 1) and (1, 0) are the same"
    )
    assert (
        2,
        3,
    ) not in pairs, (
        "classes 2 and 3 are equally frequent, but not in the same rooms"
    )
    assert sorted(pairs) == [
        (0, 1),
        (2, 4),
    ], f"expected (0, 1) and (2, 4), found {sorted(pairs)}"
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        more = torch.rand(3, 7, generator=generator) < 0.5
        expected = [
            (i, j)
            for i in range(7)
            for j in range(i + 1, 7)
            if more[:, i].tolist() == more[:, j].tolist()
        ]
        assert (
            sorted((int(a), int(b)) for a, b in interchangeable(more))
            == expected
        ), "compare whole columns"
    assert list(interchangeable(torch.eye(3, dtype=torch.bool))) == [], (
        "no two of these classes share their rooms"
    )
    print("ok: interchangeable")


def check_centred_labels(
    centred_labels: Callable[[Sequence[Tensor]], Sequence[Tensor]],
) -> None:
    """Each class's mean score, every room counting the same, is subtracted
    before the argmax, on a copy.

    >>> check_centred_labels(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: centred_labels returns nothing yet
    """
    rooms = [
        torch.tensor([[9.0, 2.0], [9.0, 1.0]]),
        torch.tensor([[9.0, -2.0]] * 4),
    ]
    before = [room.clone() for room in rooms]
    found = centred_labels(rooms)
    assert found is not None, "centred_labels returns nothing yet"
    assert [tuple(labels.shape) for labels in found] == [
        (2,),
        (4,),
    ], "one tensor of labels a room, one label a point"
    assert all(
        torch.equal(*pair) for pair in zip(rooms, before, strict=True)
    ), "work on a copy: the scores were changed"
    assert [labels.tolist() for labels in found] == [[1, 1], [0, 0, 0, 0]], (
        "expected [[1, 1], [0, 0, 0, 0]], found"
        f" {[labels.tolist() for labels in found]}: the mean of each class is"
        " taken over all rooms, not within one"
    )
    generator = torch.Generator().manual_seed(4)
    scores = [
        torch.randn(count, 5, generator=generator) + count / 10
        for count in (5, 50, 20)
    ]
    moved = [
        room + torch.tensor([0.0, 3.0, -2.0, 10.0, 1.0]) for room in scores
    ]
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            centred_labels(scores), centred_labels(moved), strict=True
        )
    ), "a constant added to a class in all rooms must not change any label"
    middle = torch.stack([room.mean(dim=0) for room in scores]).mean(dim=0)
    expected = [(room - middle).argmax(dim=1) for room in scores]
    assert all(
        torch.equal(a, b)
        for a, b in zip(centred_labels(scores), expected, strict=True)
    ), "every room counts the same, however many points it has"
    print("ok: centred_labels")
