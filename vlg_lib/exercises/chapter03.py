"""Checks of the exercises of chapter 03: streaming means, votes, how many
views, and the view that does not fit.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def _one_buffer(rows: Tensor) -> Iterator[Tensor]:
    """Yield the rows one by one in a single buffer that is overwritten, as a
    camera driver does.
    """
    buffer = torch.empty(rows.shape[1])
    for row in rows:
        buffer.copy_(row)
        yield buffer
    buffer.fill_(torch.nan)


def check_running_mean(
    running_mean: Callable[[Iterator[Tensor]], Tensor],
) -> None:
    """Right by hand, for any number of frames, in any order, one in memory.

    >>> check_running_mean(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: running_mean returns nothing yet
    """
    answer = running_mean(
        _one_buffer(torch.tensor([[1.0, 0.0], [3.0, 4.0], [2.0, 2.0]]))
    )
    assert answer is not None, "running_mean returns nothing yet"
    answer = torch.as_tensor(answer).float()  # summing in float64 is as good
    assert not bool(answer.isnan().any()), (
        "the frames share one buffer, which is overwritten by the next one: do"
        " not keep a frame, add it up"
    )
    assert torch.allclose(answer, torch.tensor([2.0, 2.0])), (
        f"the example gives [2, 2], found {answer.tolist()}"
    )
    for seed in range(4):
        rows = torch.randn(
            1 + 6 * seed, 5, generator=torch.Generator().manual_seed(seed)
        )
        found = torch.as_tensor(running_mean(_one_buffer(rows))).float()
        assert torch.allclose(found, rows.mean(0), atol=1e-5), (
            f"for {len(rows)} frames the mean is off: does every frame carry"
            " the same weight in the end?"
        )
    print("ok: running_mean")


def _one_point(labels: list[int], classes: int) -> tuple[int, float]:
    given = [label for label in labels if label >= 0]
    if not given:
        return -1, 0.0
    counts = [given.count(k) for k in range(classes)]
    return counts.index(max(counts)), max(counts) / len(given)


def check_majority_vote(
    majority_vote: Callable[[Tensor, int], tuple[Tensor, Tensor]],
) -> None:
    """The winner has the most votes, blind views do not vote, and the share
    counts only those that voted.

    >>> check_majority_vote(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: majority_vote returns nothing yet
    """
    example = torch.tensor([[0, 2, -1], [0, -1, -1], [1, 2, -1]])
    answer = majority_vote(example, 3)
    assert answer is not None, "majority_vote returns nothing yet"
    assert len(answer) == 2, "return two tensors: the labels and the agreement"
    labels, agreement = answer
    assert tuple(labels.shape) == (3,), (
        f"one label a point: expected shape (3,), found {tuple(labels.shape)}"
    )
    assert int(labels[2]) == -1, (
        "the third point of the example was seen by no view: its label is -1"
    )
    assert float(agreement[2]) == 0, (
        "where nobody votes the agreement is 0, not NaN"
    )
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        votes = torch.randint(-1, 4, (2 + seed, 60), generator=generator)
        labels, agreement = majority_vote(votes.clone(), 4)
        for point, column in enumerate(votes.T.tolist()):
            _, share = _one_point(column, 4)
            best = [
                k
                for k in range(4)
                if column.count(k) == max(column.count(j) for j in range(4))
            ]
            seen = any(label >= 0 for label in column)
            assert int(labels[point]) in (best if seen else [-1]), (
                f"votes {column}: label {int(labels[point])} does not have the"
                " most votes (-1 is no vote)"
            )
            assert abs(float(agreement[point]) - share) < 1e-6, (
                f"votes {column}: the agreement is a share of the views that"
                f" saw the point, found {float(agreement[point]):.3f}"
            )
    print("ok: majority_vote")


def check_views_needed(
    views_needed: Callable[[float, float, float], float],
) -> None:
    """The answer is enough, one view fewer is not, and what views share cannot
    be averaged away.

    >>> check_views_needed(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: views_needed returns nothing yet
    """
    answer = views_needed(1.0, 0.0, 0.25)
    assert answer is not None, "views_needed returns nothing yet"
    assert answer == 4, (
        f"variance 1, independent views, target 1/4: 4 views, found {answer}"
    )
    assert views_needed(1.0, 0.5, 0.625) == 4, (
        "variance 1, correlation 1/2, target 5/8: 4 views"
    )
    for variance, correlation, target in (
        (4.0, 0.1, 0.9),
        (2.0, 0.3, 0.613),
        (1.0, 0.0, 0.013),
        (0.5, 0.5, 0.8),
    ):
        found = views_needed(variance, correlation, target)
        case = (
            f"variance {variance}, correlation {correlation}, target {target}"
        )
        assert found >= 1, f"{case}: at least one view is needed, found {found}"
        assert found < math.inf, f"{case}: a finite number of views is enough"
        assert found == int(found), (
            f"{case}: views come in whole numbers, found {found}"
        )
        enough, fewer = (
            variance * (correlation + (1 - correlation) / max(n, 0.5))
            for n in (found, found - 1)
        )
        assert enough <= target + 1e-12, (
            f"{case}: {found} views leave a variance of {enough:.3g}"
        )
        assert found == 1 or fewer > target, (
            f"{case}: one view fewer than {found} would do"
        )
    for impossible in ((1.0, 0.5, 0.5), (1.0, 0.5, 0.4)):
        assert views_needed(*impossible) == math.inf, (
            f"variance, correlation, target = {impossible}: which part of the"
            " variance stays for any number of views?"
        )
    print("ok: views_needed")


def _views(seed: int, bad: int) -> tuple[Tensor, Tensor]:
    """Unit embeddings (6 views, 80 points, 16) of which view ``bad`` looks at
    other points than it says.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.normalize(
        torch.randn(80, 16, generator=generator), dim=1
    )
    rows = torch.nn.functional.normalize(
        truth + 0.15 * torch.randn(6, 80, 16, generator=generator), dim=2
    )
    rows[bad] = rows[bad, torch.randperm(80, generator=generator)]
    saw = torch.rand(6, 80, generator=generator) < 0.7
    return rows * saw[..., None], saw


def check_odd_view(odd_view: Callable[[Tensor, Tensor], int]) -> None:
    """Finds the view that disagrees, also where it is long, where it sees
    little, and wherever it stands.

    >>> check_odd_view(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: odd_view returns nothing yet
    """
    for seed, bad in enumerate((0, 5, 2, 3)):
        rows, saw = _views(seed, bad)
        before = rows.clone()
        found = odd_view(rows, saw)
        assert found is not None, "odd_view returns nothing yet"
        assert torch.equal(rows, before), (
            "the caller's rows were changed: work on a copy"
        )
        assert int(found) == bad, (
            f"view {bad} shows other points than it says, but {int(found)} was"
            " named: compare a view with the others, without itself, and only"
            " at points that it saw"
        )
        fewer = saw.clone()
        # it sees little, so its *sum* of disagreements is small
        fewer[bad, 10:] = False
        assert int(odd_view(rows * fewer[..., None], fewer)) == bad, (
            "a view that sees few points can be the odd one: take a mean over"
            " the points that it saw, not a sum"
        )
        # a good view that sees nothing cannot be called odd
        fewer[(bad + 1) % 6] = False
        assert int(odd_view(rows * fewer[..., None], fewer)) == bad, (
            "a view that saw nothing has no opinion to be odd"
        )
    rows, saw = torch.zeros(4, 20, 2), torch.zeros(4, 20, dtype=torch.bool)
    # view 3 sees ten points that nobody else sees
    saw[:3, :10] = saw[3, :2] = saw[3, 10:] = True
    rows[..., 0] = saw.float()
    # view 2 is wrong at every second point
    rows[2, 1:10:2] = torch.tensor([0.0, 1.0])
    assert int(odd_view(rows, saw)) == 2, (
        "at a point that no other view saw there is nobody to agree with: it is"
        " no evidence for or against a view"
    )
    print("ok: odd_view")
