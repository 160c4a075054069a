"""Checks of the exercises of chapter 11: the ceiling of a partition, the best
share of each class, soft against hard votes, one round with a planted error.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vlg_lib.metrics import accuracy
from vlg_lib.refine import select_share
from vlg_lib.superpoints import ceiling, soft_vote, vote


def check_best_accuracy(
    best_accuracy: Callable[[Tensor, Tensor], float],
) -> None:
    """The share of the points that the best vote over a partition gets right.

    >>> check_best_accuracy(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: best_accuracy returns nothing yet
    """
    truth = torch.tensor([0, 0, 1, 1, 1, 2])
    regions = torch.tensor([0, 0, 0, 1, 1, 1])
    found = best_accuracy(truth, regions)
    assert found is not None, "best_accuracy returns nothing yet"
    assert abs(found - 1) > 1e-6, (
        "1 would need pure regions: each region can have one label only"
    )
    assert abs(found - 4 / 6) < 1e-6, (
        f"two of three points are right in both regions: expected 4/6, found"
        f" {found:.3f}"
    )
    single = best_accuracy(truth, torch.arange(6))
    assert abs(single - 1) < 1e-6, (
        f"regions of one point each lose nothing: expected 1, found {single}"
    )
    generator = torch.Generator().manual_seed(3)
    for _ in range(10):
        truth = torch.randint(0, 4, (80,), generator=generator)
        regions = torch.randint(0, 9, (80,), generator=generator) * 7
        expected = accuracy(ceiling(truth, regions, 4))
        found = best_accuracy(truth, regions)
        assert abs(found - expected) < 1e-6, (
            f"random regions (their numbers have gaps): expected"
            f" {expected:.4f}, found {found:.4f}"
        )
    print("ok: best_accuracy")


def check_best_of_each_class(
    best_of_each_class: Callable[[Tensor, Tensor, float], Tensor],
) -> None:
    """The best share of the labels of each class, -1 in place of the others.

    >>> check_best_of_each_class(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: best_of_each_class returns nothing yet
    """
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    sure = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    half = best_of_each_class(labels, sure, 0.5)
    assert half is not None, "best_of_each_class returns nothing yet"
    found = half.tolist()
    assert found != [0, 0, 0, -1, -1, -1], (
        "that is the best half of all points: the class that is less sure has"
        " nothing left"
    )
    assert found == [0, 0, -1, -1, 1, -1], (
        f"expected [0, 0, -1, -1, 1, -1], found {found}"
    )
    with_gap = best_of_each_class(
        torch.tensor([-1, 2, 2, -1]), torch.tensor([1.0, 0.1, 0.2, 0.9]), 0.5
    ).tolist()
    assert with_gap == [-1, -1, 2, -1], (
        "points without a label are no class: they never get one here, and do"
        f" not count; found {with_gap}"
    )
    generator = torch.Generator().manual_seed(4)
    for share in (0.0, 0.3, 1.0):
        labels = torch.randint(-1, 4, (90,), generator=generator)
        sure = torch.rand(90, generator=generator)
        expected = select_share(labels, sure, share)
        assert torch.equal(best_of_each_class(labels, sure, share), expected), (
            f"random labels, a share of {share}: keep the whole part of share"
            " times the number of points of the class"
        )
    print("ok: best_of_each_class")


def check_outvoted(outvoted: Callable[[], Tensor]) -> None:
    """Three points whose hard and soft votes differ.

    >>> check_outvoted(lambda: None)
    Traceback (most recent call last):
        ...
    AssertionError: outvoted returns nothing yet
    """
    chances = outvoted()
    assert chances is not None, "outvoted returns nothing yet"
    chances = torch.as_tensor(chances, dtype=torch.float32)
    assert tuple(chances.shape) == (3, 2), (
        "expected the probabilities of two classes at three points, (3, 2);"
        f" found {tuple(chances.shape)}"
    )
    assert bool((chances > 0).all()), "probabilities lie above 0 here"
    assert torch.allclose(chances.sum(1), torch.ones(3), atol=1e-4), (
        "the probabilities of a point add up to 1"
    )
    region = torch.zeros(3, dtype=torch.int64)
    hard = vote(chances.argmax(1), region)
    soft, _ = soft_vote(chances, region)
    assert not torch.equal(hard, soft), (
        f"both votes say class {int(hard[0])}: let one point be very sure, and"
        " the other two hardly"
    )
    print("ok: outvoted")


def check_one_round(
    one_round: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> None:
    """The labels of the next round: network and stage 1 under the tags, voted.

    >>> check_one_round(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: one_round returns nothing yet
    """
    # One superpoint of a bed. Stage 1 says table, hardly; the network says bed
    # where it looks, and sofa, which is not in the room, where it is sure.
    scores = torch.tensor([[0.0, 2.0, 9.0], [0.0, 2.0, 9.0]])
    stage_1 = torch.tensor([[0.55, 0.45, 0.0], [0.55, 0.45, 0.0]])
    tags = torch.tensor([True, True, False])
    regions = torch.zeros(2, dtype=torch.int64)
    found = one_round(scores, stage_1, tags, regions)
    assert found is not None, "one_round returns nothing yet"
    assert int(found[0]) != 2, (
        "the third class is not in the room: mask before the softmax"
    )
    assert int(found[0]) == 1, (
        "the network is sure of the second class once the third is masked, and"
        " stage 1 wavers: together they say the second"
    )
    generator = torch.Generator().manual_seed(5)
    for _ in range(10):
        scores = 3 * torch.randn(40, 4, generator=generator)
        tags = torch.rand(4, generator=generator) < 0.7
        tags[0] = True
        stage_1 = torch.randn(40, 4, generator=generator)
        stage_1 = stage_1.masked_fill(~tags, -torch.inf).softmax(1)
        regions = torch.randint(0, 6, (40,), generator=generator)
        network = scores.masked_fill(~tags, -torch.inf).softmax(1)
        expected, _ = soft_vote((network + stage_1) / 2, regions)
        found = one_round(scores, stage_1, tags, regions)
        assert torch.equal(found, expected), (
            "random scores: expected the soft vote of the mean of both"
            f" probabilities; {int((found != expected).sum())} of 40 points"
            " differ"
        )
    print("ok: one_round")
