import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from vlg_lib.classes import IGNORE_LABEL, own_class_set
from vlg_lib.metrics import (
    accuracy,
    confusion,
    difference_interval,
    evaluate,
    interval,
    iou_per_class,
    mean_accuracy,
    mean_iou,
    seen_only,
)

CLASSES = own_class_set(["wall", "floor", "chair"])


def labels(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


# Ten points by hand: class 0 has 4 (3 right, 1 called class 1), class 1 has 4
# (2 right, 1 called 2, 1 unseen), class 2 has none, and two points have no true
# label.
TRUTH = labels(0, 0, 0, 0, 1, 1, 1, 1, -1, -1)
PREDICTED = labels(0, 0, 0, 1, 1, 1, 2, -1, 0, 2)
MATRIX = torch.tensor([[3, 1, 0, 0], [0, 2, 1, 1], [0, 0, 0, 0]])


def test_the_confusion_matrix_by_hand() -> None:
    assert torch.equal(confusion(PREDICTED, TRUTH, 3), MATRIX)


def test_the_three_conventions_by_hand() -> None:
    # class 0: 3 / (3 + 0 + 1); class 1: 2 / (2 + 1 + 2); class 2 is absent from
    # the truth and predicted once.
    present, scannet, openscene = (
        iou_per_class(MATRIX, name).tolist()
        for name in ("present", "scannet", "openscene")
    )
    assert present[:2] == pytest.approx([3 / 4, 2 / 5])
    assert math.isnan(present[2])
    assert scannet == pytest.approx([3 / 4, 2 / 5, 0])
    # the unseen point of class 1 is dropped
    assert openscene[:2] == pytest.approx([3 / 4, 2 / 4])
    assert mean_iou(MATRIX, "present") == pytest.approx((3 / 4 + 2 / 5) / 2)
    assert mean_iou(MATRIX, "scannet") == pytest.approx((3 / 4 + 2 / 5) / 3)
    # divided by K
    assert mean_iou(MATRIX, "openscene") == pytest.approx((3 / 4 + 2 / 4) / 3)


def test_a_class_whose_points_are_all_unseen() -> None:
    matrix = confusion(labels(-1, -1, 1), labels(0, 0, 1), 2)
    assert [
        mean_iou(matrix, name) for name in ("present", "scannet", "openscene")
    ] == [0.5, 0.5, 0.5]


def test_a_class_that_is_nowhere_counts_in_openscenes_divisor_alone() -> None:
    matrix = confusion(labels(0, 1), labels(0, 1), 3)
    assert mean_iou(matrix, "present") == mean_iou(matrix, "scannet") == 1.0
    assert mean_iou(matrix, "openscene") == pytest.approx(2 / 3)


def test_accuracies_by_hand() -> None:
    assert accuracy(MATRIX) == pytest.approx(5 / 8)
    assert mean_accuracy(MATRIX) == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert accuracy(seen_only(MATRIX)) == pytest.approx(5 / 7)


pairs = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60
)


@settings(deadline=None, max_examples=60)
@given(pairs)
def test_scores_agree_with_scikit_learn(drawn: list[tuple[int, int]]) -> None:
    predicted, truth = (list(column) for column in zip(*drawn, strict=True))
    matrix = confusion(labels(*predicted), labels(*truth), 5)
    assert (
        matrix[:, :5].tolist()
        == metrics.confusion_matrix(truth, predicted, labels=range(5)).tolist()
    )
    assert accuracy(matrix) == pytest.approx(
        metrics.accuracy_score(truth, predicted)
    )
    present, either = sorted(set(truth)), sorted(set(truth) | set(predicted))
    recall = metrics.recall_score(
        truth, predicted, labels=present, average="macro"
    )
    assert mean_accuracy(matrix) == pytest.approx(recall)
    for convention, counted in (("present", present), ("scannet", either)):
        expected = metrics.jaccard_score(
            truth, predicted, labels=counted, average="macro"
        )
        assert mean_iou(matrix, convention) == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(pairs, st.randoms())
def test_a_missing_prediction_never_helps_ours_and_point_order_never_matters(
    drawn: list, random
) -> None:
    predicted, truth = (labels(*column) for column in zip(*drawn, strict=True))
    missing = torch.where(
        torch.arange(len(truth)) % 2 == 0, IGNORE_LABEL, predicted
    )
    assert accuracy(confusion(missing, truth, 5)) <= accuracy(
        confusion(predicted, truth, 5)
    )
    order = list(range(len(truth)))
    random.shuffle(order)
    assert torch.equal(
        confusion(missing[order], truth[order], 5), confusion(missing, truth, 5)
    )


def test_evaluate_adds_up_rooms_and_separates_all_from_seen_points() -> None:
    halves = [PREDICTED[:5], PREDICTED[5:]], [TRUTH[:5], TRUTH[5:]]
    scores = evaluate(*halves, CLASSES)
    assert torch.equal(scores.confusion, MATRIX)
    assert scores.miou == pytest.approx((3 / 4 + 2 / 5) / 2)
    assert scores.coverage == pytest.approx(7 / 8)
    assert scores.iou == {
        "wall": pytest.approx(3 / 4),
        "floor": pytest.approx(2 / 5),
        "chair": None,
    }
    seen = evaluate(*halves, CLASSES, points="seen")
    assert seen.miou == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert seen.accuracy == pytest.approx(5 / 7)
    assert seen.coverage == pytest.approx(7 / 8)


def test_the_interval_draws_rooms() -> None:
    good, bad = (
        confusion(labels(0, 1), labels(0, 1), 2),
        confusion(labels(1, 0), labels(0, 1), 2),
    )
    assert interval([good, good, good]) == (1.0, 1.0)
    low, high = interval([good] * 8 + [bad] * 8, samples=400)
    assert 0 < low < mean_iou(good + bad) < high < 1
    assert interval([good, bad], seed=1) == interval([good, bad], seed=1)
    wide = interval([good, bad, good], level=0.95)
    narrow = interval([good, bad, good], level=0.2)
    assert narrow[1] - narrow[0] <= wide[1] - wide[0]


def test_a_paired_difference_forgets_what_both_share() -> None:
    # each room is hard or easy for both; one method is better by one point of
    # four in every room
    easy = [torch.tensor([[4, 0, 0], [0, 4, 0]])] * 6
    hard = [torch.tensor([[2, 2, 0], [2, 2, 0]])] * 6
    less = torch.tensor([[-1, 1, 0], [0, 0, 0]])
    better = [*easy, *hard]
    worse = [matrix + less for matrix in better]
    low, high = difference_interval([better], [worse])
    middle = mean_iou(sum(better)) - mean_iou(sum(worse))
    alone = interval(better)
    assert 0 < low <= middle <= high
    assert high - low < (alone[1] - alone[0]) / 4
    assert difference_interval([worse], [better]) == pytest.approx(
        (-high, -low)
    )


def test_a_paired_difference_is_a_mean_over_seeds() -> None:
    good = [torch.tensor([[4, 0, 0], [0, 4, 0]])] * 3
    half = [torch.tensor([[2, 0, 2], [0, 2, 2]])] * 3
    # .5 in one seed, none in the other
    found = difference_interval([good, good], [half, good])
    assert found == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize(
    ("first", "second"),
    [([], []), ([[]], [[]]), ([[1]], [[1, 2]]), ([[1]], [[1], [1]])],
)
def test_a_paired_difference_needs_pairs(first, second) -> None:
    room = torch.ones(2, 3, dtype=torch.int64)
    one, other = ([[room] * len(r) for r in m] for m in (first, second))
    with pytest.raises(ValueError, match="the same rooms of both"):
        difference_interval(one, other)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="3 predicted labels for 2 true"):
        confusion(labels(0, 0, 0), labels(0, 0), 2)
    with pytest.raises(
        ValueError, match="predicted labels span 0 to 2; expected -1"
    ):
        confusion(labels(0, 2), labels(0, 1), 2)
    with pytest.raises(ValueError, match="true labels span -2"):
        confusion(labels(0, 1), labels(0, -2), 2)
    with pytest.raises(
        ValueError,
        match="unknown convention 'voc'; known: present, scannet, openscene",
    ):
        mean_iou(MATRIX, "voc")
    with pytest.raises(ValueError, match="unknown choice of points 'visible'"):
        evaluate([PREDICTED], [TRUTH], CLASSES, points="visible")
    with pytest.raises(ValueError, match="1 rooms for the labels of 2"):
        evaluate([PREDICTED], [TRUTH, TRUTH], CLASSES)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate([labels(0)], [labels(-1)], CLASSES)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate([], [], CLASSES)
    with pytest.raises(ValueError, match="at least one room"):
        interval([])
    with pytest.raises(ValueError, match="between 0 and 1"):
        interval([MATRIX], level=95.0)
