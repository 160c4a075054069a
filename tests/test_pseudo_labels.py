import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.pseudo_labels import (
    compute_logits,
    make_pseudo_labels,
    mask_logits,
)
from vlg_lib.scene import PointEmbeddings


def random_points(
    seed: int, points: int = 40, dim: int = 6, unseen: int = 5
) -> PointEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    embeddings = normalize(torch.randn(points, dim, generator=generator), dim=1)
    counts = torch.randint(
        1, 4, (points,), generator=generator, dtype=torch.int32
    )
    embeddings[:unseen] = 0
    counts[:unseen] = 0
    return PointEmbeddings(embeddings, counts)


def random_texts(seed: int, classes: int = 5, dim: int = 6) -> torch.Tensor:
    return normalize(
        torch.randn(
            classes, dim, generator=torch.Generator().manual_seed(seed + 1000)
        ),
        dim=1,
    )


def test_a_point_by_hand() -> None:
    points = PointEmbeddings(
        torch.tensor([[0.6, 0.8], [0.0, 0.0]]), torch.tensor([2, 0])
    )
    result = make_pseudo_labels(points, torch.eye(2), None, temperature=0.1)
    # logits 6 and 8: the softmax of the larger is 1 / (1 + e^-2)
    assert result.labels.tolist() == [1, IGNORE_LABEL]
    assert result.confidence.tolist() == pytest.approx(
        [0.8807970779778823, 0.0]
    )


def test_the_mask_overrules_similarity_and_makes_the_rest_certain() -> None:
    points = PointEmbeddings(torch.tensor([[0.6, 0.8]]), torch.tensor([1]))
    result = make_pseudo_labels(
        points, torch.eye(2), torch.tensor([True, False])
    )
    assert result.labels.tolist() == [0]
    # masked before the softmax: one candidate left
    assert result.confidence.tolist() == [1.0]


def test_logits_do_not_depend_on_lengths() -> None:
    texts = random_texts(0)
    points = random_points(0).embeddings
    torch.testing.assert_close(
        compute_logits(7 * points, 3 * texts, 0.05),
        compute_logits(points, texts, 0.05),
    )


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    present=st.lists(st.booleans(), min_size=5, max_size=5).filter(any),
)
def test_masked_labels_are_the_best_of_the_present_classes(
    seed: int, present: list[bool]
) -> None:
    points, texts, mask = (
        random_points(seed),
        random_texts(seed),
        torch.tensor(present),
    )
    result = make_pseudo_labels(points, texts, mask, temperature=0.05)
    cosines = points.embeddings @ texts.T
    for row, label, seen in zip(
        cosines.tolist(),
        result.labels.tolist(),
        points.seen.tolist(),
        strict=True,
    ):
        candidates = [
            value if here else -9.0
            for value, here in zip(row, present, strict=True)
        ]
        assert label == (
            candidates.index(max(candidates)) if seen else IGNORE_LABEL
        )


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    low=st.floats(0.01, 0.2),
    factor=st.floats(1.1, 5),
)
def test_temperature_changes_confidence_and_never_labels(
    seed: int, low: float, factor: float
) -> None:
    points, texts = random_points(seed), random_texts(seed)
    sharp = make_pseudo_labels(points, texts, None, temperature=low)
    soft = make_pseudo_labels(points, texts, None, temperature=low * factor)
    assert torch.equal(sharp.labels, soft.labels)
    assert bool((sharp.confidence >= soft.confidence - 1e-6).all())


def test_masked_classes_get_no_probability_and_the_others_sum_to_one() -> None:
    mask = torch.tensor([True, False, True, True, False])
    probabilities = mask_logits(
        compute_logits(random_points(3).embeddings, random_texts(3)), mask
    ).softmax(1)
    assert probabilities[:, ~mask].abs().max() == 0
    torch.testing.assert_close(
        probabilities.sum(1), torch.ones(len(probabilities))
    )


def test_a_full_mask_changes_nothing() -> None:
    points, texts = random_points(1), random_texts(1)
    full = make_pseudo_labels(points, texts, torch.ones(5, dtype=torch.bool))
    assert torch.equal(
        full.labels, make_pseudo_labels(points, texts, None).labels
    )


def test_an_empty_mask_and_a_bad_temperature_are_refused() -> None:
    points, texts = random_points(2), random_texts(2)
    with pytest.raises(ValueError, match="no class as present"):
        make_pseudo_labels(points, texts, torch.zeros(5, dtype=torch.bool))
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="above zero"):
            make_pseudo_labels(points, texts, None, temperature=temperature)
