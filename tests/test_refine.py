"""Selection, votes, thresholds and label models, against slow copies of their
definitions, cases by hand, and data with a planted truth."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.refine import (
    VOTES,
    Refinement,
    best_class,
    class_thresholds,
    dawid_skene,
    majority,
    masked_softmax,
    refine,
    select_share,
    select_sure,
    suspected_errors,
)
from vlg_lib.superpoints import vote


@st.composite
def labelled(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of up to four classes, some missing, and confidences with ties."""
    count = draw(st.integers(0, 30))
    labels = draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count))
    sure = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    return torch.tensor(labels, dtype=torch.int64), torch.tensor(sure) / 4


def slow_selection(
    labels: list[int], sure: list[float], percent: int, by_class: bool
) -> list[int]:
    """Sort each group and cut it, point by point."""
    groups: dict[int, list[int]] = {}
    for point, label in enumerate(labels):
        if label >= 0:
            groups.setdefault(label if by_class else 0, []).append(point)
    kept = set()
    for points in groups.values():
        best = sorted(points, key=lambda point: (-sure[point], point))
        kept |= set(best[: percent * len(points) // 100])
    return [label if i in kept else -1 for i, label in enumerate(labels)]


@given(labelled(), st.integers(0, 100), st.booleans())
def test_a_selection_keeps_the_best_share_of_each_group(
    given_labels: tuple[torch.Tensor, torch.Tensor],
    percent: int,
    by_class: bool,
) -> None:
    labels, sure = given_labels
    chosen = select_share(labels, sure, percent / 100, by_class)
    assert chosen.tolist() == slow_selection(
        labels.tolist(), sure.tolist(), percent, by_class
    )


@given(labelled())
def test_a_share_of_one_keeps_all_and_of_none_keeps_none(
    given_labels: tuple[torch.Tensor, torch.Tensor],
) -> None:
    labels, sure = given_labels
    assert torch.equal(select_share(labels, sure, 1.0), labels)
    assert (select_share(labels, sure, 0.0) == IGNORE_LABEL).all()


def test_one_threshold_for_all_starves_the_class_that_is_never_sure() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    sure = torch.cat([torch.full((90,), 0.9), torch.full((10,), 0.4)])
    together = select_share(labels, sure, 0.5, by_class=False)
    by_class = select_share(labels, sure, 0.5)
    assert together[labels == 1].eq(IGNORE_LABEL).all()
    assert int((by_class == 1).sum()) == 5
    assert int((together != IGNORE_LABEL).sum()) == 50


@pytest.mark.parametrize("kind", VOTES)
def test_a_refinement_is_a_selection_and_a_vote(kind: str) -> None:
    chances = torch.rand(
        60, 3, generator=torch.Generator().manual_seed(0)
    ).softmax(1)
    regions = torch.arange(60) // 6
    found = refine(chances, regions, Refinement(0.5, vote=kind))
    kept = select_share(chances.argmax(1), chances.max(1).values, 0.5)
    if kind == "none":
        expected = kept
    elif kind == "soft":
        expected = torch.full_like(kept, IGNORE_LABEL)
        for region in regions.unique():
            voters = (regions == region) & (kept != IGNORE_LABEL)
            if voters.any():
                expected[regions == region] = chances[voters].mean(0).argmax()
    else:
        counts = "counts" if "counts" in kind else "ignored"
        expected = vote(kept, regions, unlabelled=counts)
    assert torch.equal(found.labels, expected)
    # a label has some confidence, no label has none
    assert torch.equal(found.labels == IGNORE_LABEL, found.confidence == 0)


def test_the_text_and_the_release_of_dbgroup_differ_in_coverage() -> None:
    chances = torch.tensor([[0.9, 0.1]] + [[0.6, 0.4]] * 3)
    regions = torch.zeros(4, dtype=torch.int64)
    text, release = (
        refine(chances, regions, Refinement(0.25, vote=kind)).labels.tolist()
        for kind in ("hard", "hard, unlabelled counts")
    )
    assert text == [0, 0, 0, 0]
    assert release == [-1, -1, -1, -1]


def test_points_that_nobody_saw_stay_without_a_label_unless_others_speak() -> (
    None
):
    chances = torch.tensor([[0.0, 0.0], [0.2, 0.8], [0.0, 0.0]])
    regions = torch.tensor([0, 0, 1])
    assert best_class(chances).labels.tolist() == [-1, 1, -1]
    assert refine(chances, regions).labels.tolist() == [1, 1, -1]
    nothing = refine(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert nothing.labels.shape == (0,)


def test_a_share_of_nothing_labels_no_point() -> None:
    chances = torch.rand(20, 3).softmax(1)
    for kind in VOTES:
        found = refine(
            chances, torch.arange(20) // 4, Refinement(0.0, vote=kind)
        )
        assert (found.labels == IGNORE_LABEL).all()


def test_bad_settings_and_lengths_are_refused() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Refinement(share)
    with pytest.raises(ValueError, match="unknown vote 'loud'; known: none"):
        Refinement(vote="loud")
    labels = torch.tensor([0, 1])
    for call in (
        lambda: select_share(labels, torch.ones(3), 0.5),
        lambda: class_thresholds(labels, torch.ones(3), 2),
        lambda: select_sure(labels, torch.ones(3), torch.ones(2)),
        lambda: suspected_errors(labels, torch.ones(3, 2)),
    ):
        with pytest.raises(ValueError, match="2 labels and 3 points"):
            call()
    with pytest.raises(ValueError, match="NaN or infinity"):
        refine(torch.full((2, 2), torch.nan), labels)
    with pytest.raises(ValueError, match="between 0 and 1, found 2"):
        class_thresholds(labels, torch.ones(2), 2, highest=2)
    with pytest.raises(ValueError, match="votes span 0 to 1; expected -1"):
        majority(labels[:, None], classes=1)
    for iterations, smoothing in ((0, 1.0), (5, 0.0)):
        with pytest.raises(ValueError, match="one iteration or more"):
            dawid_skene(
                labels[:, None], 2, iterations=iterations, smoothing=smoothing
            )
    with pytest.raises(ValueError, match="labels reach 1"):
        suspected_errors(labels, torch.ones(2, 1))


def test_scores_become_probabilities_among_the_classes_of_the_scene() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0]])
    tags = torch.tensor([False, True, True])
    found = masked_softmax(scores, tags)
    expected = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    assert found[0, 0] == 0
    assert found[0, 1:].tolist() == pytest.approx(expected.tolist())
    assert masked_softmax(scores.half()).dtype == torch.float32


def test_thresholds_follow_how_often_a_class_is_sure() -> None:
    labels = torch.tensor([0] * 8 + [1] * 4 + [2] * 4 + [-1])
    sure = torch.tensor([0.9] * 8 + [0.9, 0.9, 0.5, 0.5] + [0.3] * 4 + [0.99])
    found = class_thresholds(labels, sure, classes=4, highest=0.8)
    assert found.tolist() == pytest.approx([0.8, 0.2, 0.0, 0.0])
    kept = select_sure(labels, sure, found)
    # all that are sure, and all of the class that never is
    assert kept.tolist() == labels.tolist()
    unsure = class_thresholds(labels, torch.zeros(17), classes=4)
    assert unsure.tolist() == pytest.approx([0.8] * 4)


def slow_dawid_skene(
    votes: np.ndarray, classes: int, iterations: int, smoothing: float
) -> np.ndarray:
    """The definition, number by number."""
    points, labellers = votes.shape
    beliefs = np.zeros((points, classes))
    for i in range(points):
        for said in votes[i]:
            if said >= 0:
                beliefs[i, said] += 1
        if beliefs[i].sum():
            beliefs[i] /= beliefs[i].sum()
    labelled = beliefs.sum(1) > 0
    for _ in range(iterations):
        prior = np.array(
            [
                (beliefs[:, k].sum() + smoothing)
                / (labelled.sum() + classes * smoothing)
                for k in range(classes)
            ]
        )
        confusions = np.zeros((labellers, classes, classes))
        for j in range(labellers):
            for true in range(classes):
                for said in range(classes):
                    confusions[j, true, said] = smoothing + sum(
                        beliefs[i, true]
                        for i in range(points)
                        if votes[i, j] == said
                    )
                confusions[j, true] /= confusions[j, true].sum()
        for i in range(points):
            likely = prior.copy()
            for j in range(labellers):
                if votes[i, j] >= 0:
                    likely *= confusions[j, :, votes[i, j]]
            beliefs[i] = likely / likely.sum() * labelled[i]
    return beliefs


@given(st.data())
def test_dawid_and_skene_agree_with_their_definition(
    data: st.DataObject,
) -> None:
    rows = data.draw(
        st.lists(
            st.lists(st.integers(-1, 2), min_size=3, max_size=3),
            min_size=1,
            max_size=8,
        )
    )
    votes = np.array(rows)
    found = dawid_skene(torch.from_numpy(votes), 3, iterations=4, smoothing=0.5)
    expected = slow_dawid_skene(votes, 3, 4, 0.5)
    assert np.allclose(found.probabilities.numpy(), expected, atol=1e-5)
    assert torch.allclose(found.confusions.sum(-1), torch.ones(()))


def test_a_label_model_learns_whom_to_believe() -> None:
    """One good labeller against three that err independently and often: the
    majority follows the many, the model the one who is right."""
    draws = np.random.default_rng(0)
    truth = draws.integers(0, 4, 4000)

    def labeller(share_right: float) -> np.ndarray:
        right = draws.random(len(truth)) < share_right
        return np.where(right, truth, draws.integers(0, 4, len(truth)))

    votes = torch.from_numpy(
        np.stack([labeller(share) for share in (0.95, 0.4, 0.4, 0.4)], axis=1)
    )
    found = dawid_skene(votes, 4)
    by_model, by_majority = (
        float((chances.argmax(1).numpy() == truth).mean())
        for chances in (found.probabilities, majority(votes, 4))
    )
    assert by_model > 0.93 > by_majority + 0.05
    believed = found.confusions.diagonal(dim1=1, dim2=2).mean(1)
    assert believed.argmax() == 0


def test_labels_that_a_network_contradicts_are_suspected() -> None:
    """Planted errors, against the definition in a loop."""
    draws = np.random.default_rng(1)
    truth = draws.integers(0, 3, 300)
    given_labels = truth.copy()
    wrong = draws.choice(300, 40, replace=False)
    given_labels[wrong] = (given_labels[wrong] + 1) % 3
    chances = np.full((300, 3), 0.15) + 0.05 * draws.random((300, 3))
    chances[np.arange(300), truth] += 0.55
    chances /= chances.sum(1, keepdims=True)
    usual = [chances[given_labels == k, k].mean() for k in range(3)]
    expected = np.zeros(300, dtype=bool)
    for i in range(300):
        believed = [k for k in range(3) if chances[i, k] >= usual[k]]
        if believed:
            best = max(believed, key=lambda k: (chances[i, k], -k))
            expected[i] = best != given_labels[i]
    found = suspected_errors(
        torch.from_numpy(given_labels), torch.from_numpy(chances)
    )
    assert found.numpy().tolist() == expected.tolist()
    assert found.numpy()[wrong].mean() > 0.9
    without = torch.full((300,), IGNORE_LABEL)
    assert not suspected_errors(without, torch.from_numpy(chances)).any()
