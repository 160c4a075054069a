"""Checks of the exercises of chapter 02: closest words, prompt ensembles,
neighbour attention, several positives.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

_ATOL = 1e-5


def _close(found: Tensor, expected: Tensor, atol: float = _ATOL) -> bool:
    return found.shape == expected.shape and bool(
        torch.allclose(found, expected, atol=atol)
    )


def check_closest_words(
    closest_words: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]],
) -> None:
    """Right by hand; lengths of the inputs do not matter; the choice ignores
    the temperature, the confidence not.

    >>> check_closest_words(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: closest_words returns nothing yet
    """
    answer = closest_words(
        torch.tensor([[2.0, 0.0], [3.0, 4.0]]),
        torch.tensor([[1.0, 0.0], [0.0, 5.0]]),
        0.2,
    )
    assert answer is not None, "closest_words returns nothing yet"
    two = "two things are returned: the words and the confidences"
    assert isinstance(answer, tuple), two
    assert len(answer) == 2, two
    index, confidence = (torch.as_tensor(part) for part in answer)
    assert index.shape == confidence.shape == (2,), (
        "one word and one confidence a pixel are needed"
    )
    assert index.tolist() == [0, 1], (
        f"the example's words are 0 and 1, found {index.tolist()}"
    )
    assert _close(
        confidence.float(), torch.tensor([0.993307, 0.731059]), 1e-3
    ), (
        "the example's confidences are 0.993 and 0.731, found"
        f" {[round(c, 3) for c in confidence.tolist()]}: is the dot product"
        " taken between vectors of length 1, and divided by the temperature?"
    )
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(50, 8, generator=generator)
    words = torch.randn(7, 8, generator=generator)
    index, confidence = closest_words(pixels, words, 0.1)
    lengths = 0.1 + 9 * torch.rand(50, 1, generator=generator)
    longer = closest_words(
        lengths * pixels, words * torch.linspace(0.2, 5, 7)[:, None], 0.1
    )
    length = (
        "longer vectors with the same directions changed the answer: a cosine"
        " does not depend on length"
    )
    assert torch.equal(longer[0], index), length
    assert _close(longer[1], confidence, 1e-4), length
    colder, sure = closest_words(pixels, words, 0.01)
    assert torch.equal(colder, index), (
        "another temperature changed the chosen words: it must not"
    )
    assert bool(
        (sure >= confidence - _ATOL).all()
        and sure.mean() > confidence.mean() + 0.05
    ), "a lower temperature must make each choice more confident"
    assert bool(
        (confidence >= 1 / 7 - _ATOL).all() and (confidence <= 1 + _ATOL).all()
    ), "the share of the best of 7 words lies between 1/7 and 1"
    print("ok: closest_words")


def check_ensemble(ensemble: Callable[[Tensor], Tensor]) -> None:
    """One unit vector a class, whatever the order of the templates; a single
    template is left as it is.

    >>> check_ensemble(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: ensemble returns nothing yet
    """
    answer = ensemble(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    assert answer is not None, "ensemble returns nothing yet"
    assert answer.shape == (1, 2), (
        "one vector a class is needed: expected shape (1, 2), found"
        f" {tuple(answer.shape)}"
    )
    assert _close(answer.norm(dim=-1), torch.ones(1), 1e-4), (
        f"the example's vector has length {float(answer.norm()):.3f}: a mean of"
        " unit vectors is shorter than 1"
    )
    assert _close(answer, torch.full((1, 2), 0.5**0.5), 1e-4), (
        f"expected (0.707, 0.707), found {answer[0].tolist()}"
    )
    texts = normalize(
        torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(3)), dim=-1
    )
    answer = ensemble(texts)
    assert answer.shape == (3, 6), (
        "five templates, three classes: expected (3, 6), found"
        f" {tuple(answer.shape)}"
    )
    assert _close(answer.norm(dim=-1), torch.ones(3), 1e-4), (
        "each *class* has a vector of length 1: mind the axis"
    )
    assert _close(ensemble(texts.flip(0)), answer, 1e-4), (
        "the order of the templates must not matter"
    )
    assert _close(ensemble(texts[:1]), texts[0], 1e-4), (
        "with one template its own vectors come back"
    )
    assert bool(((answer[None] * texts).sum(-1).mean(0) > 0).all()), (
        "the ensemble points away from its templates"
    )
    print("ok: ensemble")


def check_neighbour_attention(
    neighbour_attention: Callable[[Tensor, Tensor, Tensor, float], Tensor],
) -> None:
    """Right by hand; weights sum to 1; the key products are scaled; near
    patches count more than far ones.

    >>> check_neighbour_attention(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: neighbour_attention returns nothing yet
    """
    places = torch.tensor([[0, 0], [0, 3]])
    answer = neighbour_attention(torch.zeros(2, 4), torch.eye(2), places, 1.0)
    assert answer is not None, "neighbour_attention returns nothing yet"
    assert answer.shape == (2, 2), (
        "one output a patch is needed: expected shape (2, 2), found"
        f" {tuple(answer.shape)}"
    )
    near = 1 / (1 + math.exp(math.exp(-4.5) - 1))
    expected = torch.tensor([[near, 1 - near], [1 - near, near]])
    assert _close(answer, expected, 1e-3), (
        "the example gives about (0.729, 0.271) for the first patch, found"
        f" {[round(x, 3) for x in answer[0].tolist()]}"
    )
    generator = torch.Generator().manual_seed(4)
    keys = torch.randn(12, 9, generator=generator)
    values = torch.randn(12, 5, generator=generator)
    grid = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    same = neighbour_attention(keys, torch.full((12, 5), 0.7), grid, 1.5)
    assert _close(same, torch.full((12, 5), 0.7), 1e-4), (
        "where all values are equal the outputs must equal them: the weights of"
        " one listener sum to 1"
    )
    far = neighbour_attention(keys, values, 1000 * grid, 1.5)
    alone = torch.stack(
        [
            (keys @ key / 3 + (torch.arange(12) == i)).softmax(0) @ values
            for i, key in enumerate(keys)
        ]
    )
    assert _close(far, alone, 1e-4), (
        "with all other patches very far away only the products of keys decide"
        " about them, divided by the square root of the keys' length, and the"
        " patch itself keeps its bonus of 1"
    )
    wide = neighbour_attention(torch.zeros(12, 9), values, grid, 1e4)
    assert _close(wide, values.mean(0).expand(12, 5), 1e-3), (
        "with equal keys and a very wide bonus all count the same"
    )
    answer = neighbour_attention(keys, values, grid, 1.5)
    order = torch.randperm(12, generator=generator)
    shuffled = neighbour_attention(keys[order], values[order], grid[order], 1.5)
    assert _close(shuffled, answer[order], 1e-4), (
        "only keys and places may matter, not the order of the patches"
    )
    print("ok: neighbour_attention")


def check_info_nce_with_positives(
    loss: Callable[[Tensor, Tensor, Tensor, float], Tensor],
) -> None:
    """Right by hand, InfoNCE where all classes differ, symmetric in the towers,
    blind to the order of pairs.

    >>> check_info_nce_with_positives(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: info_nce_with_positives returns nothing yet
    """
    pictures, captions = torch.eye(2), torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    answer = loss(pictures, captions, torch.tensor([0, 1]), 0.2)
    assert answer is not None, "info_nce_with_positives returns nothing yet"
    assert abs(float(answer) - 0.116264) < 1e-3, (
        "two pairs of different classes are the chapter's example: expected"
        f" 0.116, found {float(answer):.3f}"
    )
    both = float(loss(pictures, captions, torch.tensor([5, 5]), 0.2))
    assert abs(both - 1.616264) < 1e-3, (
        f"two pairs of one class: expected 1.616, found {both:.3f}: is it the"
        " mean over the positives of each row?"
    )
    generator = torch.Generator().manual_seed(5)
    images = normalize(torch.randn(9, 6, generator=generator), dim=1)
    texts = normalize(torch.randn(9, 6, generator=generator), dim=1)
    classes = torch.tensor([0, 1, 0, 2, 2, 0, 3, 1, 7])
    whole = float(loss(images, texts, classes, 0.1))
    assert abs(float(loss(texts, images, classes, 0.1)) - whole) < 1e-4, (
        "exchanging the towers changed the loss: rows and columns count alike"
    )
    order = torch.randperm(9, generator=generator)
    assert (
        abs(
            float(loss(images[order], texts[order], classes[order], 0.1))
            - whole
        )
        < 1e-4
    ), "the order of the pairs must not matter"
    rows = [
        -float(
            (images[i] @ texts.T / 0.1)
            .log_softmax(0)[classes == classes[i]]
            .mean()
        )
        - float(
            (texts[i] @ images.T / 0.1)
            .log_softmax(0)[classes == classes[i]]
            .mean()
        )
        for i in range(9)
    ]
    assert abs(whole - sum(rows) / 18) < 1e-4, (
        "rows with different numbers of positives must weigh the same: average"
        " within a row first, then over rows"
    )
    print("ok: info_nce_with_positives")
