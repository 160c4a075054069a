"""Stage 3: the cosine loss, class weights, and a network that learns what its
targets say."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.distill import (
    class_weights,
    cosine_loss,
    distill,
    weighed_cosine_loss,
)
from vlg_lib.networks.point_network import (
    NetworkSettings,
    PointNetwork,
    point_scores,
)
from vlg_lib.training.augmentation import NO_AUGMENTATION
from vlg_lib.training.loop import FitSettings
from vlg_lib.training.point_batches import Cloud, TrainingSettings


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# Three points, the first two in one voxel. The voxel of two has the vector (0,
# 2), the other one (0, 1).
VECTORS = torch.tensor([[0.0, 2.0], [0.0, 1.0]])
ROWS = torch.tensor([0, 0, 1])
TARGETS = torch.tensor([[1.0, 0.0], [0.28, 0.96], [3.0, 4.0]])


def test_cosine_loss_of_three_points_by_hand() -> None:
    # Cosines 0, 0.96 and 0.8: lengths do not matter.
    assert float(cosine_loss(VECTORS[ROWS], TARGETS)) == pytest.approx(
        (1.0 + 0.04 + 0.2) / 3
    )


def test_its_gradient_by_hand() -> None:
    vectors = VECTORS.clone().requires_grad_()
    cosine_loss(vectors[ROWS], TARGETS).backward()
    # - (the part of the summed unit targets that is at right angles to the
    # vector) / (its length, and 3 points)
    expected = torch.tensor([[-1.28 / (2 * 3), 0.0], [-0.6 / 3, 0.0]])
    torch.testing.assert_close(vectors.grad, expected)


def test_points_of_a_voxel_share_a_row() -> None:
    assert float(cosine_loss(VECTORS, TARGETS, rows=ROWS)) == pytest.approx(
        1.24 / 3
    )
    weights = torch.tensor([3.0, 0.5, 1.0])
    assert float(cosine_loss(VECTORS, TARGETS, weights, ROWS)) == pytest.approx(
        (3 + 0.5 * 0.04 + 0.2) / 4.5
    )
    vectors = VECTORS.clone().requires_grad_()
    cosine_loss(vectors, TARGETS, rows=ROWS).backward()
    torch.testing.assert_close(
        vectors.grad, torch.tensor([[-1.28 / 6, 0.0], [-0.6 / 3, 0.0]])
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_rows_say_the_same_as_repeated_vectors(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors, targets = (
        torch.randn(5, 3, generator=generator),
        torch.randn(12, 3, generator=generator),
    )
    targets[torch.rand(12, generator=generator) < 0.3] = 0
    rows = torch.randint(0, 5, (12,), generator=generator)
    weights = torch.rand(12, generator=generator)
    for w in (None, weights):
        shared, repeated = (
            cosine_loss(vectors, targets, w, rows),
            cosine_loss(vectors[rows], targets, w),
        )
        torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=1e-5)


def test_a_point_without_target_does_not_count() -> None:
    targets = torch.cat([TARGETS, torch.zeros(2, 2)])
    predicted = torch.cat(
        [VECTORS[ROWS], torch.tensor([[-5.0, 1.0], [0.0, 0.0]])]
    ).requires_grad_()
    loss = cosine_loss(predicted, targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.24 / 3)
    assert bool((predicted.grad[3:] == 0).all())


def test_without_any_target_the_loss_is_zero_and_harmless() -> None:
    predicted = torch.ones(3, 4, requires_grad=True)
    loss = cosine_loss(predicted, torch.zeros(3, 4))
    loss.backward()
    assert float(loss.detach()) == 0
    assert bool((predicted.grad == 0).all())


def test_weights_count_relative_to_each_other() -> None:
    distances = torch.tensor([1.0, 0.04, 0.2])
    weights = torch.tensor([3.0, 0.0, 1.0])
    assert float(cosine_loss(VECTORS[ROWS], TARGETS, weights)) == pytest.approx(
        (3 * 1.0 + 0.2) / 4
    )
    assert float(
        cosine_loss(VECTORS[ROWS], TARGETS, 10 * weights)
    ) == pytest.approx((3 * 1.0 + 0.2) / 4)
    assert float(
        cosine_loss(VECTORS[ROWS], TARGETS, torch.ones(3))
    ) == pytest.approx(float(distances.mean()))


def test_the_weight_of_a_point_without_target_does_not_count() -> None:
    targets = TARGETS * torch.tensor([[1.0], [0.0], [1.0]])
    loss = cosine_loss(VECTORS[ROWS], targets, torch.tensor([1.0, 100.0, 1.0]))
    assert float(loss) == pytest.approx((1.0 + 0.2) / 2)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 5))
def test_the_best_vector_of_a_voxel_is_the_mean_direction_of_its_targets(
    seed: int, points: int, dim: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # lengths of targets must not matter
    lengths = 0.1 + 5 * torch.rand(points, 1, generator=generator)
    units = normalize(torch.randn(points, dim, generator=generator), dim=1)
    mean = units.mean(dim=0)
    best = cosine_loss(mean.expand(points, dim), lengths * units)
    # what no vector can go below
    assert float(best) == pytest.approx(1 - float(mean.norm()), abs=1e-5)
    for other in torch.randn(20, dim, generator=generator):
        assert (
            float(cosine_loss(other.expand(points, dim), lengths * units))
            >= float(best) - 1e-6
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_cosine_loss_agrees_with_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted, targets = torch.randn(2, 7, 3, generator=generator)
    targets[torch.rand(7, generator=generator) < 0.3] = 0
    weights = torch.rand(7, generator=generator) + 0.1
    total, count = 0.0, 0.0
    for a, b, w in zip(
        predicted.tolist(), targets.tolist(), weights.tolist(), strict=True
    ):
        if any(b):
            cosine = (
                sum(x * y for x, y in zip(a, b, strict=True))
                / math.hypot(*a)
                / math.hypot(*b)
            )
            total, count = total + w * (1 - cosine), count + w
    assert float(cosine_loss(predicted, targets, weights)) == pytest.approx(
        total / count if count else 0, abs=1e-5
    )


def test_class_weights_by_hand() -> None:
    # Shares 1/2, 1/8 and 3/8, not counting the ignored label: weights
    # proportional to 1 / sqrt of them.
    labels = [
        torch.tensor([0, 0, 0, 0, 2]),
        torch.tensor([1, 2, IGNORE_LABEL, 2]),
    ]
    found = class_weights(labels, classes=5)
    plain = torch.tensor([math.sqrt(2), math.sqrt(8), math.sqrt(8 / 3)])
    expected = plain / (plain @ torch.tensor([0.5, 0.125, 0.375]))
    torch.testing.assert_close(found[:3], expected)
    assert found[3:].tolist() == [0.0, 0.0]
    assert found.dtype == torch.float32


def test_the_mean_weight_of_the_labelled_points_is_one() -> None:
    labels = (
        torch.randint(
            0, 6, (500,), generator=torch.Generator().manual_seed(0)
        ).square()
        // 7
    )
    weights = class_weights([labels], classes=6)
    assert float(weights[labels].mean()) == pytest.approx(1)


def test_class_weights_without_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="no point has a label"):
        class_weights([torch.full((4,), IGNORE_LABEL)], classes=3)


# Training, on a room that can be told apart by colour: a red floor and a blue
# wall ----------------------------------


def tiny_room(seed: int) -> tuple[Cloud, Tensor]:
    """A red floor of class 0 and a blue wall of class 1, in metres; (cloud,
    labels)."""
    generator = torch.Generator().manual_seed(seed)
    flat, upright = torch.rand(2, 80, 3, generator=generator) * 3
    flat[:, 2], upright[:, 0] = 0.0, 0.0
    labels = torch.arange(2).repeat_interleave(80)
    colors = torch.tensor([[200, 40, 40], [40, 40, 200]], dtype=torch.uint8)[
        labels
    ]
    return Cloud(torch.cat([flat, upright]), colors), labels


WORDS = torch.eye(4)[:2]
TINY = NetworkSettings(channels=4, voxel_size=0.6)


def train(
    norm: str = "batch", steps: int = 16, **options: object
) -> tuple[PointNetwork, list[float]]:
    rooms = [tiny_room(seed) for seed in range(3)]
    network = PointNetwork(
        NetworkSettings(channels=4, voxel_size=0.6, norm=norm), seed=1
    )
    recipe = TrainingSettings(
        steps=steps, batch_rooms=2, crop=None, learning_rate=1e-2
    )
    targets = [(3 * WORDS[labels]).half() for _, labels in rooms]
    losses = distill(
        network,
        [cloud for cloud, _ in rooms],
        targets,
        recipe,
        fit_settings=FitSettings(**options),
    )  # type: ignore[arg-type]
    return network, losses


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_tiny_problem_is_learnt(norm: str) -> None:
    network, losses = train(norm)
    assert len(losses) == 16
    assert losses[-1] < 0.3 < 0.6 < losses[0]
    assert not network.training
    # the running statistics of 16 steps are not yet those of a room
    if norm == "instance":
        cloud, labels = tiny_room(9)
        predicted = point_scores(
            network, cloud.points, cloud.colors, WORDS
        ).argmax(dim=1)
        # half of the points lie on either
        assert float((predicted == labels).float().mean()) > 0.75


def test_the_seed_of_the_batches_decides() -> None:
    assert train(steps=2, seed=1)[1] == train(steps=2, seed=1)[1]
    assert train(steps=2, seed=1)[1] != train(steps=2, seed=2)[1]


def test_a_point_of_weight_zero_teaches_nothing() -> None:
    # All walls lie: their targets are the floor's. With weight 0 for them the
    # loss is that of the floors alone.
    rooms = [tiny_room(seed) for seed in range(2)]
    recipe = TrainingSettings(
        steps=1, batch_rooms=2, crop=None, augmentation=NO_AUGMENTATION
    )
    losses = []
    for word_of_walls in (WORDS[0], WORDS[1]):
        targets = [
            torch.where(labels[:, None] == 0, WORDS[0], word_of_walls)
            for _, labels in rooms
        ]
        weights = [(labels == 0).float() for _, labels in rooms]
        network = PointNetwork(TINY, seed=1)
        losses += distill(
            network,
            [cloud for cloud, _ in rooms],
            targets,
            recipe,
            weights=weights,
        )
    assert losses[0] == losses[1]


def test_a_run_that_was_stopped_continues_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, losses = train(steps=4)
    path, calls = tmp_path / "network.safetensors", []

    def stops(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return weighed_cosine_loss(*tensors)

    monkeypatch.setattr("vlg_lib.distill.weighed_cosine_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        train(steps=4, checkpoint=path, checkpoint_every=2)
    resumed, resumed_losses = train(
        steps=4, checkpoint=path, checkpoint_every=2
    )
    # the two steps since the checkpoint, and no more
    assert len(calls) == 4 + 2
    assert resumed_losses == losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_bad_input_is_named() -> None:
    cloud, labels = tiny_room(0)
    target, recipe = WORDS[labels], TrainingSettings(steps=1)
    network = PointNetwork(TINY)
    with pytest.raises(ValueError, match="gives scores"):
        distill(
            PointNetwork(NetworkSettings(channels=4, output="scores")),
            [cloud],
            [target],
            recipe,
        )
    with pytest.raises(ValueError, match="targets of 2 rooms for 1 rooms"):
        distill(network, [cloud], [target, target], recipe)
    with pytest.raises(
        ValueError, match=r"room 0: targets of shape \(160, 2\) for 160 points"
    ):
        distill(network, [cloud], [target[:, :2]], recipe)
    with pytest.raises(
        ValueError, match=r"room 0: targets of shape \(159, 4\) for 160 points"
    ):
        distill(network, [cloud], [target[1:]], recipe)
    with pytest.raises(ValueError, match="no point of any room has a target"):
        distill(network, [cloud], [torch.zeros_like(target)], recipe)
    with pytest.raises(ValueError, match="no point of any room has a target"):
        distill(network, [], [], recipe)
