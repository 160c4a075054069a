"""How rooms become batches, and how any loss is trained on them: tiny rooms,
coarse voxels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vlg_lib.artifacts import StoreError
from vlg_lib.geometry.voxels import quantize
from vlg_lib.networks.point_network import (
    NetworkSettings,
    PointNetwork,
    point_features,
    scaled_colors,
)
from vlg_lib.training.augmentation import NO_AUGMENTATION
from vlg_lib.training.loop import FitSettings
from vlg_lib.training.point_batches import (
    Cloud,
    CloudBatch,
    TrainingSettings,
    draw_batch,
    train_network,
)

RECIPE = TrainingSettings(steps=4, batch_rooms=2, crop=None, learning_rate=5e-3)
SETTINGS = NetworkSettings(channels=3, voxel_size=0.4, output="scores")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def room(seed: int, count: int = 120) -> Cloud:
    generator = torch.Generator().manual_seed(seed)
    points = (
        torch.rand(count, 3, generator=generator)
        * torch.tensor([3.0, 2.0, 2.0])
        - 1
    )
    return Cloud(
        points,
        torch.randint(
            0, 256, (count, 3), generator=generator, dtype=torch.uint8
        ),
    )


ROOMS = [room(seed, 100 + 10 * seed) for seed in range(4)]


def network(seed: int = 0, norm: str = "batch") -> PointNetwork:
    return PointNetwork(replace(SETTINGS, norm=norm), seed=seed)


def drawn(seed: int, settings: TrainingSettings = RECIPE) -> CloudBatch:
    return draw_batch(
        network(), ROOMS, settings, torch.Generator().manual_seed(seed)
    )


def colour_loss(outputs: Tensor, batch: CloudBatch) -> Tensor:
    """Tell the colour of each point."""
    wanted = batch.gather([scaled_colors(cloud.colors) for cloud in ROOMS])
    return (outputs[batch.rows] - wanted).square().mean()


def same(one: CloudBatch, other: CloudBatch) -> bool:
    return (
        one.clouds == other.clouds
        and all(
            torch.equal(a, b)
            for a, b in zip(one.points, other.points, strict=True)
        )
        and torch.equal(one.inputs.features, other.inputs.features)
        and torch.equal(one.inputs.coordinates, other.inputs.coordinates)
    )


def test_the_generator_alone_decides_on_a_batch() -> None:
    torch.manual_seed(1)
    first = drawn(5)
    torch.manual_seed(2)
    assert same(first, drawn(5))
    assert not same(first, drawn(6))


def test_rooms_are_drawn_without_repetition_and_all_get_their_turn() -> None:
    batches = [drawn(seed).clouds for seed in range(30)]
    assert all(len(set(clouds)) == 2 for clouds in batches)
    assert {cloud for clouds in batches for cloud in clouds} == {0, 1, 2, 3}


def test_a_batch_larger_than_the_set_takes_every_room_once() -> None:
    assert sorted(drawn(0, replace(RECIPE, batch_rooms=9)).clouds) == [
        0,
        1,
        2,
        3,
    ]


def test_whole_rooms_keep_all_their_points() -> None:
    batch = drawn(0)
    for cloud, points in zip(batch.clouds, batch.points, strict=True):
        assert points.tolist() == list(range(len(ROOMS[cloud].points)))
    assert len(batch.rows) == sum(len(points) for points in batch.points)


def test_crops_are_parts_of_rooms() -> None:
    batch = drawn(1, replace(RECIPE, crop=1.2))
    for cloud, points in zip(batch.clouds, batch.points, strict=True):
        assert 0 < len(points) < len(ROOMS[cloud].points)
        sides = ROOMS[cloud].points[points][:, :2]
        # Turned and scaled by up to a tenth, a square of 1.2 m reaches no
        # further than its diagonal.
        assert float(torch.pdist(sides).max()) <= 1.2 * 2**0.5 / 0.9 + 1e-4


def test_crops_are_centred_where_the_chances_are() -> None:
    cloud = ROOMS[0]
    corner = (cloud.points[:, :2] < -0.5).all(dim=1)
    likely = Cloud(cloud.points, cloud.colors, corner.float())
    settings = replace(
        RECIPE, batch_rooms=1, crop=0.2, augmentation=NO_AUGMENTATION
    )
    for seed in range(5):
        batch = draw_batch(
            network(), [likely], settings, torch.Generator().manual_seed(seed)
        )
        assert bool((cloud.points[batch.points[0]][:, :2] < -0.5 + 0.1).all())


def test_gather_agrees_with_a_loop() -> None:
    batch = drawn(2, replace(RECIPE, crop=1.5))
    values = [
        torch.randn(
            len(cloud.points), 5, generator=torch.Generator().manual_seed(7)
        )
        for cloud in ROOMS
    ]
    found = batch.gather(values)
    expected = [
        values[cloud][int(point)]
        for cloud, points in zip(batch.clouds, batch.points, strict=True)
        for point in points
    ]
    assert torch.equal(found, torch.stack(expected))
    labels = batch.gather([torch.arange(len(cloud.points)) for cloud in ROOMS])
    assert torch.equal(labels, torch.cat(batch.points))


def test_each_point_finds_its_own_voxel() -> None:
    # Nothing changed but the shift within a voxel, which the brute force below
    # has to find again.
    settings = replace(RECIPE, augmentation=NO_AUGMENTATION)
    batch = drawn(3, settings)
    start = 0
    for number, (cloud, points) in enumerate(
        zip(batch.clouds, batch.points, strict=True)
    ):
        rows = batch.rows[start : start + len(points)]
        start += len(points)
        coordinates = batch.inputs.coordinates[rows]
        assert bool((coordinates[:, 0] == number).all())
        # Points of one voxel lie within a voxel of each other, and two voxels
        # apart points lie apart.
        own = ROOMS[cloud].points[points]
        gap = (own[:, None] - own[None]).abs()
        steps = (coordinates[:, None, 1:] - coordinates[None, :, 1:]).abs()
        assert bool((gap <= (steps + 1) * 0.4 + 1e-4).all())
        assert bool((gap >= (steps - 1) * 0.4 - 1e-4).all())


def test_a_voxel_carries_the_mean_of_its_points() -> None:
    batch = drawn(4, replace(RECIPE, augmentation=NO_AUGMENTATION))
    features = torch.cat(
        [
            point_features(
                ROOMS[cloud].points, scaled_colors(ROOMS[cloud].colors), True
            )[points]
            for cloud, points in zip(batch.clouds, batch.points, strict=True)
        ]
    )
    for row in range(0, len(batch.inputs.features), 7):
        torch.testing.assert_close(
            batch.inputs.features[row], features[batch.rows == row].mean(dim=0)
        )


def test_the_same_room_is_voxelised_anew_each_time() -> None:
    settings = replace(RECIPE, batch_rooms=1, augmentation=NO_AUGMENTATION)
    one = draw_batch(
        network(), ROOMS[:1], settings, torch.Generator().manual_seed(0)
    )
    other = draw_batch(
        network(), ROOMS[:1], settings, torch.Generator().manual_seed(1)
    )
    still = quantize(ROOMS[0].points, 0.4)
    together = [len(batch.rows.unique()) for batch in (one, other)]
    assert not torch.equal(one.rows, other.rows)
    assert all(
        abs(count - len(still.unique(dim=0))) < 0.5 * len(still)
        for count in together
    )


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_loss_of_a_tiny_problem_falls(norm: str) -> None:
    model = network(norm=norm)
    recipe = replace(
        RECIPE, steps=12, schedule="constant", augmentation=NO_AUGMENTATION
    )
    losses = train_network(model, ROOMS, colour_loss, recipe)
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


@pytest.mark.parametrize(("precision", "steps"), [("bf16", 2), ("fp16", 1)])
def test_in_mixed_precision_the_losses_are_nearly_those_of_float32(
    precision: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later steps differ: in float16 the scaler leaves out the first, while it
    looks for its scale, and in bfloat16 what was rounded adds up."""
    recipe = replace(RECIPE, steps=3, schedule="constant")
    expected = train_network(network(), ROOMS, colour_loss, recipe)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    losses = train_network(network(), ROOMS, colour_loss, recipe)
    assert losses != expected
    assert losses[:steps] == pytest.approx(expected[:steps], rel=0.05)


def test_a_stopped_run_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, path = network(), tmp_path / "run.safetensors"
    losses = train_network(whole, ROOMS, colour_loss, RECIPE)
    calls = []

    def stops(outputs: Tensor, batch: CloudBatch) -> Tensor:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return colour_loss(outputs, batch)

    with pytest.raises(KeyboardInterrupt):
        train_network(
            network(),
            ROOMS,
            stops,
            RECIPE,
            FitSettings(checkpoint=path, checkpoint_every=2),
        )
    # Whatever weights it starts from: those of the checkpoint count.
    resumed = network(seed=9)
    assert (
        train_network(
            resumed,
            ROOMS,
            colour_loss,
            RECIPE,
            FitSettings(checkpoint=path, checkpoint_every=2),
        )
        == losses
    )
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    recipe = replace(RECIPE, steps=1)
    train_network(
        network(), ROOMS, colour_loss, recipe, FitSettings(checkpoint=path)
    )
    with pytest.raises(StoreError, match="another run"):
        train_network(
            network(),
            ROOMS,
            colour_loss,
            recipe,
            FitSettings(checkpoint=path, seed=1),
        )
    with pytest.raises(StoreError, match="another model"):
        train_network(
            network(norm="instance"),
            ROOMS,
            colour_loss,
            recipe,
            FitSettings(checkpoint=path),
        )


def test_the_gradient_is_clipped() -> None:
    recipe = replace(RECIPE, steps=1, weight_decay=0.0, max_grad_norm=1e-9)
    seen: list[float] = []
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, closure: None = None) -> None:
        gradients = [
            p.grad.norm()
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        seen.append(float(torch.stack(gradients).norm()))
        original(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        train_network(network(), ROOMS, colour_loss, recipe)
    assert seen[0] <= 1e-9 * 1.01


def test_without_rooms_nothing_can_be_learnt() -> None:
    with pytest.raises(ValueError, match="no room to train on"):
        train_network(network(), [], colour_loss, RECIPE)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    def broken(outputs: Tensor, batch: CloudBatch) -> Tensor:
        return outputs.sum() * torch.nan

    with pytest.raises(ValueError, match="the loss is nan at step 0"):
        train_network(network(), ROOMS, broken, RECIPE)


def test_a_cloud_with_nan_points_is_named() -> None:
    bad = Cloud(ROOMS[0].points.clone(), ROOMS[0].colors)
    bad.points[3, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite coordinate"):
        draw_batch(network(), [bad], RECIPE, torch.Generator().manual_seed(0))


def test_a_network_in_training_is_handed_back_for_use() -> None:
    model = network()
    train_network(model, ROOMS, colour_loss, replace(RECIPE, steps=1))
    assert not any(
        module.training
        for module in model.modules()
        if isinstance(module, nn.BatchNorm1d)
    )


def voxel_counts(settings: TrainingSettings) -> list[int]:
    """How many voxels the steps of a training saw."""
    seen: list[int] = []

    def loss(outputs: Tensor, batch: CloudBatch) -> Tensor:
        seen.append(len(outputs))
        return colour_loss(outputs, batch)

    train_network(network(norm="instance"), ROOMS, loss, settings)
    return seen


def test_the_first_steps_see_coarser_voxels() -> None:
    fine = replace(RECIPE, steps=5, batch_rooms=1)
    half = replace(fine, coarse=0.5, coarse_factor=2.0)
    counts, fewer = voxel_counts(fine), voxel_counts(half)
    # steps 0, 1 and 2 come before 2.5; rooms of some 40 voxels
    assert all(a > 1.5 * b for a, b in zip(counts[:3], fewer, strict=False))
    assert counts[3:] == fewer[3:]


def test_coarse_voxels_have_the_size_that_is_asked_for() -> None:
    whole = replace(RECIPE, steps=1, coarse=1.0, coarse_factor=2.0)
    same = replace(SETTINGS, voxel_size=0.8)
    expected = train_network(
        PointNetwork(same, seed=0),
        ROOMS,
        colour_loss,
        replace(RECIPE, steps=1),
    )
    found = train_network(network(), ROOMS, colour_loss, whole)
    assert found == expected


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_optimizer_learns(optimizer: str) -> None:
    recipe = replace(
        RECIPE, steps=40, batch_rooms=4, learning_rate=1e-2, optimizer=optimizer
    )
    losses = train_network(network(norm="instance"), ROOMS, colour_loss, recipe)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; known: adamw, muon"),
        ({"coarse": 1.5}, "a share of coarse steps from 0 to 1"),
        ({"coarse_factor": 0.0}, "a factor above 0"),
    ],
)
def test_recipes_out_of_range_are_refused(wrong, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainingSettings(steps=1, **wrong)
