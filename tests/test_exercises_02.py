"""The checks of chapter 02 accept the solutions and answer typical mistakes
with their hint."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from vlg_lib.exercises import chapter02 as exercises


def closest_words(pixels, words, temperature):
    cosines = normalize(pixels, dim=1) @ normalize(words, dim=1).T
    confidence, index = (cosines / temperature).softmax(dim=1).max(dim=1)
    return index, confidence


def ensemble(embeddings):
    return normalize(embeddings.mean(dim=0), dim=-1)


def neighbour_attention(keys, values, places, sigma):
    squared = (
        (places[:, None].float() - places[None].float()).square().sum(dim=-1)
    )
    scores = keys @ keys.T / math.sqrt(keys.shape[1]) + torch.exp(
        -squared / (2 * sigma**2)
    )
    return scores.softmax(dim=1) @ values


def with_positives(images, texts, classes, temperature):
    logits = images @ texts.T / temperature
    positive = (classes[:, None] == classes[None]).float()
    share = positive / positive.sum(dim=1, keepdim=True)
    rows = -(share * logits.log_softmax(dim=1)).sum(dim=1).mean()
    columns = -(share * logits.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (rows + columns) / 2


SOLUTIONS = [
    (exercises.check_closest_words, closest_words),
    (exercises.check_ensemble, ensemble),
    (exercises.check_neighbour_attention, neighbour_attention),
    (exercises.check_info_nce_with_positives, with_positives),
]


@pytest.mark.parametrize(("check", "solution"), SOLUTIONS)
def test_solution_passes(check, solution, capsys):
    check(solution)
    assert capsys.readouterr().out.startswith("ok: ")


@pytest.mark.parametrize(("check", "solution"), SOLUTIONS)
def test_stub_is_told_that_it_returns_nothing(check, solution):
    with pytest.raises(AssertionError, match="returns nothing yet"):
        check(lambda *arguments: None)


def no_unit_length(pixels, words, temperature):
    confidence, index = (
        (pixels @ words.T / temperature).softmax(dim=1).max(dim=1)
    )
    return index, confidence


def only_pixels_unit(pixels, words, temperature):
    words = words / words.norm()
    confidence, index = (
        (normalize(pixels, dim=1) @ words.T / temperature)
        .softmax(dim=1)
        .max(dim=1)
    )
    return index, confidence


def temperature_forgotten(pixels, words, temperature):
    return closest_words(pixels, words, 0.2)


def softmax_over_pixels(pixels, words, temperature):
    cosines = normalize(pixels, dim=1) @ normalize(words, dim=1).T
    shares = (cosines / temperature).softmax(dim=0)
    return cosines.argmax(dim=1), shares.max(dim=1).values


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (no_unit_length, "length 1"),
        (only_pixels_unit, "length 1"),
        (temperature_forgotten, "more confident"),
        (softmax_over_pixels, "divided by the temperature|length 1"),
    ],
)
def test_closest_words_mistakes(wrong, hint):
    with pytest.raises(AssertionError, match=hint):
        exercises.check_closest_words(wrong)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda e: e.mean(dim=0), "shorter than 1"),
        (lambda e: normalize(e.mean(dim=1), dim=-1), "expected shape"),
        (lambda e: normalize(e.mean(dim=0), dim=0), "length"),
        (lambda e: e[0], "expected \\(0.707"),
    ],
)
def test_ensemble_mistakes(wrong, hint):
    with pytest.raises(AssertionError, match=hint):
        exercises.check_ensemble(wrong)


def unscaled_keys(keys, values, places, sigma):
    return neighbour_attention(
        keys * keys.shape[1] ** 0.25, values, places, sigma
    )


def distance_not_squared(keys, values, places, sigma):
    distance = torch.cdist(places.float(), places.float())
    return (
        keys @ keys.T / math.sqrt(keys.shape[1])
        + torch.exp(-distance / (2 * sigma**2))
    ).softmax(dim=1) @ values


def softmax_over_listeners(keys, values, places, sigma):
    squared = (
        (places[:, None].float() - places[None].float()).square().sum(dim=-1)
    )
    scores = keys @ keys.T / math.sqrt(keys.shape[1]) + torch.exp(
        -squared / (2 * sigma**2)
    )
    return scores.softmax(dim=0) @ values


def no_keys(keys, values, places, sigma):
    return neighbour_attention(torch.zeros_like(keys), values, places, sigma)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (unscaled_keys, "square root"),
        (distance_not_squared, "0.729"),
        (softmax_over_listeners, "sum to 1"),
        (no_keys, "products of keys"),
    ],
)
def test_neighbour_attention_mistakes(wrong, hint):
    with pytest.raises(AssertionError, match=hint):
        exercises.check_neighbour_attention(wrong)


def plain(images, texts, classes, temperature):
    logits = images @ texts.T / temperature
    right = torch.arange(len(logits))
    return (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2


def rows_only(images, texts, classes, temperature):
    logits = images @ texts.T / temperature
    positive = (classes[:, None] == classes[None]).float()
    return (
        -(
            positive
            / positive.sum(dim=1, keepdim=True)
            * logits.log_softmax(dim=1)
        )
        .sum(dim=1)
        .mean()
    )


def all_positives_weigh_the_same(images, texts, classes, temperature):
    logits = images @ texts.T / temperature
    positive = classes[:, None] == classes[None]
    return (
        -(
            logits.log_softmax(dim=1)[positive].mean()
            + logits.T.log_softmax(dim=1)[positive].mean()
        )
        / 2
    )


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (plain, "mean over the positives"),
        (rows_only, "expected 0.116"),
        (all_positives_weigh_the_same, "average within a row"),
    ],
)
def test_info_nce_with_positives_mistakes(wrong, hint):
    with pytest.raises(AssertionError, match=hint):
        exercises.check_info_nce_with_positives(wrong)
