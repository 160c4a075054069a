"""Augmentation is a similarity of space and a change of colour within limits;
crops are square columns."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlg_lib.geometry.poses import rotation_matrix
from vlg_lib.training.augmentation import (
    NO_AUGMENTATION,
    Augmentation,
    augment,
    crop,
)

SEEDS = st.integers(0, 100_000)


def cloud(seed: int, count: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, 3, generator=generator) * 3,
        2 * torch.rand(count, 3, generator=generator) - 1,
    )


def changed(seed: int, augmentation: Augmentation) -> tuple[Tensor, Tensor]:
    return augment(
        *cloud(seed), augmentation, torch.Generator().manual_seed(seed)
    )


def test_no_augmentation_is_the_identity() -> None:
    points, colors = changed(3, NO_AUGMENTATION)
    assert torch.equal(points, cloud(3)[0])
    assert torch.equal(colors, cloud(3)[1])


def test_the_cloud_itself_stays_as_it_is() -> None:
    points, colors = cloud(0)
    before = points.clone(), colors.clone()
    augment(points, colors, Augmentation(), torch.Generator().manual_seed(0))
    assert torch.equal(points, before[0])
    assert torch.equal(colors, before[1])


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_all_distances_scale_alike(seed: int) -> None:
    points, _ = changed(seed, Augmentation())
    ratios = torch.pdist(points.double()) / torch.pdist(cloud(seed)[0].double())
    assert float(ratios.min()) >= 0.9 - 1e-4
    assert float(ratios.max()) <= 1.1 + 1e-4
    assert float(ratios.max() - ratios.min()) < 1e-4


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_without_tilt_heights_only_scale(seed: int) -> None:
    before = cloud(seed)[0][:, 2]
    after = changed(seed, replace(Augmentation(), tilt=0.0))[0][:, 2]
    factor = float(after[0] / before[0])
    assert 0.9 - 1e-4 <= factor <= 1.1 + 1e-4  # and positive: up stays up
    torch.testing.assert_close(after, factor * before, atol=1e-4, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0, 0.3))
def test_a_tilt_stays_within_its_limit(seed: int, tilt: float) -> None:
    only_tilt = replace(NO_AUGMENTATION, tilt=tilt)
    up, _ = augment(
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.zeros(1, 3),
        only_tilt,
        torch.Generator().manual_seed(seed),
    )
    # about x and about y, each at most this far
    assert float(up[0, 2]) >= math.cos(tilt) ** 2 - 1e-5


def test_flips_mirror_half_of_the_clouds() -> None:
    basis = torch.eye(3)
    flips = []
    for seed in range(200):
        points, _ = augment(
            basis,
            torch.zeros(3, 3),
            Augmentation(),
            torch.Generator().manual_seed(seed),
        )
        flips.append(float(torch.linalg.det(points.double())) < 0)
    assert 70 < sum(flips) < 130


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_without_flip_nothing_is_mirrored(seed: int) -> None:
    points, _ = augment(
        torch.eye(3),
        torch.zeros(3, 3),
        replace(Augmentation(), flip=0.0),
        torch.Generator().manual_seed(seed),
    )
    assert float(torch.linalg.det(points)) > 0


def test_turns_go_all_around() -> None:
    only_turn = replace(NO_AUGMENTATION, turn=math.pi)
    east = torch.tensor([[1.0, 0.0, 0.0]])
    ends = [
        augment(
            east, torch.zeros(1, 3), only_turn, torch.Generator().manual_seed(s)
        )[0][0]
        for s in range(300)
    ]
    angles = torch.stack([torch.atan2(end[1], end[0]) for end in ends])
    quarters = torch.histc(angles, bins=4, min=-math.pi, max=math.pi)
    assert float(quarters.min()) > 45  # 75 each are expected


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0, 3), st.floats(0, 3), st.floats(0, 3))
def test_colours_stay_in_their_range(
    seed: int, gain: float, offset: float, noise: float
) -> None:
    _, colors = changed(
        seed, replace(Augmentation(), gain=gain, offset=offset, noise=noise)
    )
    assert colors.shape == (40, 3)
    assert -1 <= float(colors.min()) <= float(colors.max()) <= 1


def test_gain_is_of_a_channel_and_offset_of_all() -> None:
    colors = torch.full((5, 3), 0.5)
    gained = augment(
        torch.zeros(5, 3),
        colors,
        replace(NO_AUGMENTATION, gain=0.1),
        torch.Generator().manual_seed(1),
    )[1]
    assert bool((gained == gained[0]).all())
    assert len(gained[0].unique()) == 3
    assert float((gained / 0.5 - 1).abs().max()) <= 0.1 + 1e-6
    moved = augment(
        torch.zeros(5, 3),
        colors,
        replace(NO_AUGMENTATION, offset=0.1),
        torch.Generator().manual_seed(1),
    )[1]
    assert len(moved.unique()) == 1
    assert 0 < abs(float(moved[0, 0]) - 0.5) <= 0.1 + 1e-6


def test_the_generator_decides() -> None:
    assert torch.equal(
        changed(5, Augmentation())[0], changed(5, Augmentation())[0]
    )
    other = augment(
        *cloud(5), Augmentation(), torch.Generator().manual_seed(6)
    )[0]
    assert not torch.equal(changed(5, Augmentation())[0], other)


@pytest.mark.parametrize(
    ("angles", "start", "end"),
    [
        ((math.pi / 2, 0, 0), (1, 0, 0), (0, 1, 0)),
        ((0, math.pi / 2, 0), (0, 1, 0), (0, 0, 1)),
        ((0, 0, math.pi / 2), (0, 0, 1), (1, 0, 0)),
        ((math.pi / 2, math.pi / 2, 0), (0, 0, 1), (1, 0, 0)),
    ],
)
def test_rotation_matrix_by_hand(
    angles: tuple, start: tuple, end: tuple
) -> None:
    turned = rotation_matrix(*angles) @ torch.tensor(start, dtype=torch.float32)
    torch.testing.assert_close(
        turned, torch.tensor(end, dtype=torch.float32), atol=1e-6, rtol=0
    )


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0.1, 8))
def test_a_crop_is_a_square_column_around_one_of_the_points(
    seed: int, size: float
) -> None:
    points, _ = cloud(seed)
    kept = crop(points, size, torch.Generator().manual_seed(seed))
    assert len(kept) >= 1
    assert kept.tolist() == sorted(set(kept.tolist()))
    sides = points[kept][:, :2].amax(dim=0) - points[kept][:, :2].amin(dim=0)
    assert float(sides.max()) <= size + 1e-4
    # Brute force: the same as for one of the points as centre.
    columns = [
        [
            i
            for i, p in enumerate(points.tolist())
            if max(abs(p[0] - c[0]), abs(p[1] - c[1])) <= size / 2 + 1e-9
        ]
        for c in points.tolist()
    ]
    assert kept.tolist() in columns


def test_a_crop_reaches_from_floor_to_ceiling_and_a_large_one_takes_all() -> (
    None
):
    points = torch.tensor(
        [[0.0, 0.0, -50.0], [0.1, 0.1, 50.0], [9.0, 0.0, 0.0]]
    )
    centred_on_first = next(
        kept
        for seed in range(50)
        if len(kept := crop(points, 1.0, torch.Generator().manual_seed(seed)))
        == 2
    )
    assert centred_on_first.tolist() == [0, 1]
    assert crop(points, 40.0, torch.Generator().manual_seed(0)).tolist() == [
        0,
        1,
        2,
    ]


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_a_point_without_a_chance_is_never_the_centre(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.arange(6).float()[:, None] * torch.tensor([[10.0, 0.0, 0.0]])
    sampling_weights = (torch.rand(6, generator=generator) < 0.4).float()
    kept = crop(points, 1.0, generator, sampling_weights)
    # the points lie far apart: a crop holds its centre alone
    assert len(kept) == 1
    assert float(sampling_weights[kept]) == 1 or not bool(
        sampling_weights.any()
    )


def test_chances_are_kept() -> None:
    points = torch.arange(3).float()[:, None] * torch.tensor([[10.0, 0.0, 0.0]])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat(
        [
            crop(points, 1.0, generator, torch.tensor([1.0, 0.0, 3.0]))
            for _ in range(400)
        ]
    )
    first, never, last = torch.bincount(drawn, minlength=3).tolist()
    assert never == 0
    assert 2.2 < last / first < 4.2
