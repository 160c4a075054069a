"""Checks of the exercises of chapter 00: masked choice, what tags are worth."""

from collections.abc import Callable

import torch
from torch import Tensor

_SCORES = torch.tensor([[0.4, 0.7, 0.1], [0.9, 0.3, 0.2], [0.2, 0.6, 0.5]])
_TAGS = torch.tensor([True, False, True])


def _random_scene(seed: int) -> tuple[Tensor, Tensor]:
    """Scores of 200 points for 6 classes, negative ones among them, and tags
    with at least one True.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(200, 6, generator=generator) - 1.0
    tags = torch.rand(6, generator=generator) < 0.5
    tags[seed % 6] = True
    return scores, tags


def check_masked_choice(
    masked_choice: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Every choice has its tag, no possible word scores higher, and the scores
    are left as they were.

    >>> check_masked_choice(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: masked_choice returns nothing yet
    """
    answer = masked_choice(_SCORES.clone(), _TAGS)
    assert answer is not None, "masked_choice returns nothing yet"
    answer = torch.as_tensor(answer)
    assert answer.shape == (3,), (
        "one index a row is needed: expected shape (3,), found"
        f" {tuple(answer.shape)}"
    )
    assert answer.tolist() == [0, 0, 2], (
        f"the example by hand gives [0, 0, 2], found {answer.tolist()}"
    )
    for seed in range(5):
        scores, tags = _random_scene(seed)
        before = scores.clone()
        choice = torch.as_tensor(masked_choice(scores, tags))
        assert torch.equal(scores, before), (
            "the caller's scores were changed: work on a copy"
        )
        assert bool(tags[choice].all()), (
            "a word without a tag was chosen: what if all possible scores are"
            " negative?"
        )
        best = torch.stack([row[tags].max() for row in scores])
        assert torch.equal(scores.gather(1, choice[:, None])[:, 0], best), (
            "a possible word with a higher score exists"
        )
    print("ok: masked_choice")


def check_silenced(silenced: Callable[[Tensor, Tensor], float]) -> None:
    """The share is right by hand, 0 when all tags are set, and counts points
    rather than classes.

    >>> check_silenced(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: silenced returns nothing yet
    """
    answer = silenced(_SCORES, _TAGS)
    assert answer is not None, "silenced returns nothing yet"
    assert abs(float(answer) - 2 / 3) < 1e-6, (
        f"two of three points change in the example, found {float(answer):.3f}"
    )
    for seed in range(5):
        scores, tags = _random_scene(seed)
        assert (
            float(silenced(scores, torch.ones(6, dtype=torch.bool))) == 0.0
        ), "with every tag set nothing is silenced"
        expected = sum(
            not bool(tags[int(row.argmax())]) for row in scores
        ) / len(scores)
        assert abs(float(silenced(scores, tags)) - expected) < 1e-6, (
            "look at the tag of each point's *best* word"
        )
    print("ok: silenced")


def check_best_absence(
    best_absence: Callable[[Tensor, Tensor, list[int]], int],
) -> None:
    """Right where one absence repairs most points, and only classes of the list
    are considered.

    >>> check_best_absence(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: best_absence returns nothing yet
    """
    scores = torch.tensor(
        [[0.9, 0.5, 0.1], [0.8, 0.1, 0.5], [0.1, 0.3, 0.9], [0.2, 0.9, 0.1]]
    )
    truth = torch.tensor([1, 2, 1, 1])
    answer = best_absence(scores, truth, [0, 2])
    assert answer is not None, "best_absence returns nothing yet"
    assert int(answer) == 0, (
        "without class 0 three points are right, without class 2 two; found"
        f" class {int(answer)}"
    )
    assert int(best_absence(scores, truth, [2])) == 2, (
        "only the classes in `absent` may be chosen"
    )
    # Class 0 takes more points than class 2, but only the points of class 2
    # have a right second-best word.
    scores = torch.tensor(
        [
            [0.9, 0.1, 0.2, 0.5],
            [0.9, 0.1, 0.2, 0.5],
            [0.1, 0.5, 0.9, 0.2],
            [0.1, 0.9, 0.5, 0.2],
        ]
    )
    answer = best_absence(scores, torch.tensor([1, 1, 1, 1]), [0, 2])
    assert int(answer) == 2, (
        "a silenced word may hand its points to another wrong word: count the"
        " right points"
    )
    for seed in range(5):
        scores, _ = _random_scene(seed)
        truth, absent = torch.arange(200) % 3, [3, 4, 5]
        right = [
            int(
                (
                    scores.index_fill(1, torch.tensor(k), -9e9).argmax(dim=1)
                    == truth
                ).sum()
            )
            for k in absent
        ]
        answer = int(best_absence(scores, truth, absent))
        assert answer in absent, "only the classes in `absent` may be chosen"
        assert right[answer - 3] == max(right), (
            "another absence leaves more points right: is each class removed"
            " alone, with all others still possible?"
        )
    print("ok: best_absence")
