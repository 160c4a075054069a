"""Pooling, bags, the loss of tags, and what training from tags can find and
what it cannot, in worlds of few voxels."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vlg_lib.baselines import train_classifier
from vlg_lib.class_activation_maps import (
    POOLINGS,
    CamSettings,
    mil_loss,
    pool_scores,
    sub_clouds,
    train_mil,
)
from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.networks.point_network import (
    NetworkSettings,
    PointNetwork,
    point_scores,
)
from vlg_lib.training.augmentation import NO_AUGMENTATION
from vlg_lib.training.loop import FitSettings
from vlg_lib.training.point_batches import Cloud, TrainingSettings


def random_bags(
    members: int, classes: int, bags: int, seed: int
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = 5 * torch.randn(
        members, classes, generator=generator, dtype=torch.float64
    )
    return scores, torch.randint(bags, (members,), generator=generator)


ORACLES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "average": lambda part, r: part.mean(0),
    "max": lambda part, r: part.max(0),
    "log-sum-exp": (
        lambda part, r: (logsumexp(r * part, axis=0) - math.log(len(part))) / r
    ),
}


@settings(deadline=None, max_examples=40)
@given(
    members=st.integers(1, 60),
    classes=st.integers(1, 4),
    bags=st.integers(1, 8),
    pooling=st.sampled_from(POOLINGS),
    sharpness=st.floats(0.1, 20),
    seed=st.integers(0, 999),
)
def test_pooling_is_the_oracle_of_every_bag(
    members, classes, bags, pooling, sharpness, seed
):
    scores, bag = random_bags(members, classes, bags, seed)
    pooled = pool_scores(scores, bag, bags, pooling, sharpness)
    for index in range(bags):
        part = scores[bag == index].numpy()
        expected = (
            ORACLES[pooling](part, sharpness)
            if len(part)
            else np.zeros(classes)
        )
        np.testing.assert_allclose(pooled[index].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_order_of_members_and_the_names_of_bags_do_not_matter(pooling):
    scores, bag = random_bags(80, 3, 5, seed=0)
    pooled = pool_scores(scores, bag, 5, pooling)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        pool_scores(scores[order], bag[order], 5, pooling), pooled
    )
    torch.testing.assert_close(
        pool_scores(scores, 4 - bag, 5, pooling).flip(0), pooled
    )


def test_log_sum_exp_lies_between_average_and_maximum_and_reaches_both():
    scores, bag = random_bags(90, 4, 3, seed=2)
    average, largest = (
        pool_scores(scores, bag, 3, name) for name in ("average", "max")
    )
    before = average
    for sharpness in (0.01, 0.1, 1.0, 10.0):
        pooled = pool_scores(scores, bag, 3, "log-sum-exp", sharpness)
        assert bool((pooled > before).all())
        assert bool((pooled < largest).all())
        before = pooled
    torch.testing.assert_close(
        pool_scores(scores, bag, 3, "log-sum-exp", 1e-6),
        average,
        atol=1e-4,
        rtol=0,
    )
    torch.testing.assert_close(
        pool_scores(scores, bag, 3, "log-sum-exp", 1e4),
        largest,
        atol=1e-2,
        rtol=0,
    )


def test_who_is_taught():
    """The gradient of a bag's score: equal shares, the top member alone, or the
    softmax of the scores."""
    scores = torch.tensor([[3.0], [1.0], [0.0], [-2.0]], requires_grad=True)
    bag = torch.zeros(4, dtype=torch.int64)
    shares = {}
    for pooling in POOLINGS:
        (gradient,) = torch.autograd.grad(
            pool_scores(scores, bag, 1, pooling).sum(), scores
        )
        shares[pooling] = gradient[:, 0]
    torch.testing.assert_close(shares["average"], torch.full((4,), 0.25))
    torch.testing.assert_close(
        shares["max"], torch.tensor([1.0, 0.0, 0.0, 0.0])
    )
    torch.testing.assert_close(
        shares["log-sum-exp"], scores.detach()[:, 0].softmax(0)
    )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_large_scores_neither_overflow_nor_lose_their_gradient(pooling):
    scores = torch.tensor([[9e3], [-9e3]], requires_grad=True)
    pooled = pool_scores(scores, torch.zeros(2, dtype=torch.int64), 1, pooling)
    (gradient,) = torch.autograd.grad(pooled.sum(), scores)
    assert bool(pooled.isfinite().all())
    assert bool(gradient.isfinite().all())
    assert float(gradient.sum()) == pytest.approx(1.0)


def test_another_pooling_is_refused():
    with pytest.raises(
        ValueError,
        match="unknown pooling 'median'; known: average, max, log-sum-exp",
    ):
        pool_scores(
            torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), 1, "median"
        )


def test_sub_clouds_are_columns_of_one_cloud_each():
    # cloud 0, column (0, 0) twice, column (-1, 0); cloud 1, column (0, 0)
    coordinates = torch.tensor(
        [[0, 0, 0, 0], [0, 3, 3, 9], [0, -1, 0, 0], [1, 0, 0, 0]],
        dtype=torch.int32,
    )
    sub_cloud, cloud = sub_clouds(coordinates, 4)
    assert cloud[sub_cloud].tolist() == [0, 0, 0, 1]
    assert sub_cloud[0] == sub_cloud[1]
    assert len(set(sub_cloud.tolist())) == len(cloud) == 3


def test_the_loss_of_one_bag_by_hand():
    """Average pooling: scores 1 and 1. With the tags (yes, no): (log(1 + e^-1)
    + log(1 + e)) / 2 = 0.8133."""
    scores = torch.tensor([[4.0, 1.0], [0.0, 2.0], [0.0, 0.0], [0.0, 1.0]])
    coordinates = torch.tensor(
        [[0, x, 0, 0] for x in range(4)], dtype=torch.int32
    )
    tags = torch.tensor([[True, False]])
    loss = mil_loss(scores, coordinates, tags, pooling="average")
    assert float(loss) == pytest.approx(
        (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    )
    # The maximum: scores 4 and 2.
    loss = mil_loss(scores, coordinates, tags, pooling="max")
    assert float(loss) == pytest.approx(
        (math.log(1 + math.exp(-4)) + math.log(1 + math.e**2)) / 2
    )
    # Sub-clouds of two voxels: averages (2, 1.5) and (0, 0.5), of which the
    # maximum is (2, 1.5).
    loss = mil_loss(scores, coordinates, tags, pooling="max", cells=2)
    assert float(loss) == pytest.approx(
        (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1.5))) / 2
    )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_clouds_in_one_batch_do_not_touch(pooling):
    scores, cloud = random_bags(60, 3, 2, seed=5)
    coordinates = torch.stack(
        [
            cloud,
            torch.arange(60),
            torch.zeros(60).long(),
            torch.zeros(60).long(),
        ],
        1,
    )
    tags = torch.tensor([[True, False, True], [False, True, True]])
    for cells in (None, 7):
        both = mil_loss(scores, coordinates, tags, pooling=pooling, cells=cells)
        alone = []
        for index in range(2):
            own = coordinates[cloud == index].clone()
            own[:, 0] = 0
            alone.append(
                mil_loss(
                    scores[cloud == index],
                    own,
                    tags[index : index + 1],
                    pooling=pooling,
                    cells=cells,
                )
            )
        torch.testing.assert_close(both, torch.stack(alone).mean())


def test_one_sub_cloud_that_holds_the_room_averages_it():
    scores, cloud = random_bags(40, 3, 2, seed=6)
    coordinates = torch.stack(
        [
            cloud,
            torch.arange(40),
            torch.zeros(40).long(),
            torch.zeros(40).long(),
        ],
        1,
    )
    tags = torch.tensor([[True, False, True], [False, True, True]])
    for pooling in POOLINGS:
        torch.testing.assert_close(
            mil_loss(scores, coordinates, tags, pooling=pooling, cells=1000),
            mil_loss(scores, coordinates, tags, pooling="average"),
        )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_swapped_classes_with_equal_tags_give_the_same_loss(pooling):
    """Why no learner of tags can tell floor from wall where both are in every
    room (chapter 05)."""
    scores, cloud = random_bags(60, 3, 3, seed=7)
    coordinates = torch.stack(
        [
            cloud,
            torch.arange(60),
            torch.zeros(60).long(),
            torch.zeros(60).long(),
        ],
        1,
    )
    tags = torch.tensor(
        [[True, True, False], [True, True, True], [True, True, False]]
    )
    swapped = scores[:, [1, 0, 2]]
    torch.testing.assert_close(
        mil_loss(scores, coordinates, tags, pooling=pooling),
        mil_loss(swapped, coordinates, tags, pooling=pooling),
    )
    unequal = tags & torch.tensor(
        [[True, True, True], [False, True, True], [True, True, True]]
    )
    one, other = (
        mil_loss(part, coordinates, unequal, pooling=pooling)
        for part in (scores, swapped)
    )
    assert abs(float(one - other)) > 1e-3


# A world in which tags suffice, and one in which they do not: grey floor
# everywhere, a red block in half of the rooms.

GREY, RED = (120, 120, 120), (220, 20, 20)


def block_room(index: int, with_block: bool) -> tuple[Cloud, Tensor, Tensor]:
    """A floor of 12 x 12 voxels of 10 cm and perhaps a block on it: (cloud,
    tags (floor, block), true labels)."""
    generator = torch.Generator().manual_seed(index)
    grid = torch.cartesian_prod(
        torch.arange(12), torch.arange(12), torch.arange(1)
    )
    labels = torch.zeros(len(grid), dtype=torch.int64)
    if with_block:
        corner = torch.randint(0, 8, (2,), generator=generator)
        block = torch.cartesian_prod(
            torch.arange(4), torch.arange(4), torch.arange(1, 4)
        )
        grid = torch.cat(
            [
                grid,
                block + torch.cat([corner, torch.zeros(1, dtype=torch.int64)]),
            ]
        )
        labels = torch.cat([labels, torch.ones(len(block), dtype=torch.int64)])
    colors = torch.tensor([GREY, RED], dtype=torch.uint8)[labels]
    return (
        Cloud((grid + 0.5).float() * 0.1, colors),
        torch.tensor([True, with_block]),
        labels,
    )


SMALL = NetworkSettings(channels=2, voxel_size=0.1, output="scores")
# one small cloud may be a single voxel on the coarsest grid
ALONE = replace(SMALL, norm="instance")
BRIEF = TrainingSettings(
    steps=25,
    batch_rooms=4,
    crop=None,
    learning_rate=1e-2,
    augmentation=NO_AUGMENTATION,
)


@pytest.fixture(scope="module")
def trained():
    """A network that saw tags of eight rooms, and a room that it did not
    see."""
    rooms = [block_room(index, index % 2 == 0) for index in range(8)]
    network = PointNetwork(SMALL)
    losses = train_mil(
        network,
        [room[0] for room in rooms],
        [room[1] for room in rooms],
        CamSettings(BRIEF),
    )
    return network.eval(), losses, rooms


def test_a_class_that_comes_and_goes_is_found(trained):
    network, losses, _ = trained
    assert len(losses) == BRIEF.steps
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    cloud, _, labels = block_room(100, True)
    block = point_scores(network, cloud.points, cloud.colors)[:, 1]
    # The share of pairs (a block's point, a floor's point) in which the block
    # scores higher.
    assert (
        float((block[labels == 1][:, None] > block[labels == 0]).float().mean())
        > 0.8
    )


def test_a_crop_inherits_the_tags_of_its_room():
    """Crops of half a metre, most of them without the block: still the block is
    where its class scores highest."""
    rooms = [block_room(index, index % 2 == 0) for index in range(8)]
    network = PointNetwork(SMALL)
    crops = CamSettings(replace(BRIEF, crop=0.5, steps=40))
    losses = train_mil(
        network, [room[0] for room in rooms], [room[1] for room in rooms], crops
    )
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    cloud, _, labels = block_room(100, True)
    block = point_scores(network.eval(), cloud.points, cloud.colors)[:, 1]
    assert (
        float((block[labels == 1][:, None] > block[labels == 0]).float().mean())
        > 0.8
    )


def test_an_absent_class_is_pushed_down_everywhere(trained):
    network, _, _ = trained
    cloud, _, _ = block_room(101, False)
    block = point_scores(network, cloud.points, cloud.colors)[:, 1]
    pooled = pool_scores(
        block[:, None],
        torch.zeros(len(block), dtype=torch.int64),
        1,
        "log-sum-exp",
    )
    assert float(pooled) < 0
    with_block, _, _ = block_room(100, True)
    assert float(block.max()) < float(
        point_scores(network, with_block.points, with_block.colors)[:, 1].max()
    )


def test_a_class_in_every_room_is_called_everywhere(trained):
    """Nothing holds it back: it scores above zero on the block, too, where it
    is wrong."""
    network, _, _ = trained
    cloud, _, labels = block_room(100, True)
    floor = point_scores(network, cloud.points, cloud.colors)[:, 0]
    assert float((floor[labels == 1] > 0).float().mean()) > 0.9


def test_the_same_seed_gives_the_same_network_and_another_does_not(tmp_path):
    rooms = [block_room(index, index % 2 == 0) for index in range(4)]
    clouds, tags = [room[0] for room in rooms], [room[1] for room in rooms]
    brief = CamSettings(TrainingSettings(steps=3, batch_rooms=2, crop=None))
    runs = [
        train_mil(
            PointNetwork(SMALL),
            clouds,
            tags,
            brief,
            fit_settings=FitSettings(seed=seed),
        )
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]
    stored = tmp_path / "cam.safetensors"
    assert (
        train_mil(
            PointNetwork(SMALL),
            clouds,
            tags,
            brief,
            fit_settings=FitSettings(checkpoint=stored),
        )
        == runs[0]
    )
    assert stored.is_file()


def test_what_train_mil_refuses():
    cloud, tags, _ = block_room(0, True)
    whole = CamSettings(TrainingSettings(steps=1, crop=None))
    with pytest.raises(ValueError, match="scene labels of 2 rooms for 1 rooms"):
        train_mil(PointNetwork(SMALL), [cloud], [tags, tags], whole)
    with pytest.raises(
        ValueError, match=r"scene labels of \[3\] classes, the network scores 2"
    ):
        train_mil(
            PointNetwork(SMALL),
            [cloud],
            [torch.tensor([True, False, True])],
            whole,
        )
    embeddings = PointNetwork(NetworkSettings(channels=2, voxel_size=0.1))
    with pytest.raises(ValueError, match="this one gives embeddings"):
        train_mil(embeddings, [cloud], [tags], whole)
    with pytest.raises(ValueError, match="unknown pooling"):
        train_mil(
            PointNetwork(SMALL),
            [cloud],
            [tags],
            replace(whole, pooling="median"),
        )


def test_labels_for_every_point_teach_the_classifier_more():
    rooms = [block_room(index, index % 2 == 0) for index in range(8)]
    network = PointNetwork(SMALL)
    train_classifier(
        network, [room[0] for room in rooms], [room[2] for room in rooms], BRIEF
    )
    cloud, _, labels = block_room(100, True)
    predicted = point_scores(network, cloud.points, cloud.colors).argmax(1)
    assert float((predicted == labels).float().mean()) > 0.9


def test_a_batch_without_labels_costs_nothing():
    cloud, _, labels = block_room(0, True)
    unlabelled = torch.full_like(labels, IGNORE_LABEL)
    losses = train_classifier(
        PointNetwork(ALONE),
        [cloud, cloud],
        [labels, unlabelled],
        TrainingSettings(4, batch_rooms=1, crop=None),
    )
    assert all(math.isfinite(loss) for loss in losses)
    assert 0.0 in losses


def test_class_weights_weigh():
    """One step's loss: the weighted mean over the points, as torch's
    cross-entropy computes it."""
    cloud, _, labels = block_room(0, True)
    weights = torch.tensor([1.0, 5.0])
    once = TrainingSettings(
        1, batch_rooms=1, crop=None, augmentation=NO_AUGMENTATION
    )
    plain = train_classifier(PointNetwork(ALONE), [cloud], [labels], once)
    weighed = train_classifier(
        PointNetwork(ALONE), [cloud], [labels], once, class_weights=weights
    )
    equal = train_classifier(
        PointNetwork(ALONE),
        [cloud],
        [labels],
        once,
        class_weights=torch.tensor([3.0, 3.0]),
    )
    assert weighed != plain
    assert equal == pytest.approx(plain, rel=1e-5)


def test_what_train_classifier_refuses():
    cloud, _, labels = block_room(0, True)
    once = TrainingSettings(1, crop=None)
    with pytest.raises(ValueError, match="one label for each point"):
        train_classifier(PointNetwork(SMALL), [cloud], [labels[:-1]], once)
    with pytest.raises(ValueError, match="nothing to learn"):
        train_classifier(
            PointNetwork(SMALL),
            [cloud],
            [torch.full_like(labels, IGNORE_LABEL)],
            once,
        )
    with pytest.raises(
        ValueError, match="labels reach 2, the network scores 2 classes"
    ):
        train_classifier(PointNetwork(SMALL), [cloud], [labels + 1], once)
    with pytest.raises(ValueError, match="this one gives embeddings"):
        train_classifier(
            PointNetwork(NetworkSettings(channels=2, voxel_size=0.1)),
            [cloud],
            [labels],
            once,
        )


def test_the_loss_is_the_binary_cross_entropy_of_the_pooled_scores():
    scores, cloud = random_bags(30, 4, 2, seed=9)
    coordinates = torch.stack(
        [
            cloud,
            torch.arange(30),
            torch.zeros(30).long(),
            torch.zeros(30).long(),
        ],
        1,
    )
    tags = torch.tensor(
        [[True, False, True, False], [False, False, True, True]]
    )
    for pooling in POOLINGS:
        expected = binary_cross_entropy_with_logits(
            pool_scores(scores, cloud, 2, pooling), tags.double()
        )
        torch.testing.assert_close(
            mil_loss(scores, coordinates, tags, pooling=pooling), expected
        )
