"""Made rooms that look like scans: hand cases of each effect, and what holds of
all of them."""

import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlg_lib.networks.point_network import NetworkSettings, PointNetwork
from vlg_lib.training.augmentation import NO_AUGMENTATION
from vlg_lib.training.point_batches import (
    Cloud,
    TrainingSettings,
    draw_batch,
    train_network,
)
from vlg_lib.training.scan_like import (
    Scan,
    ScanLike,
    depth_noise,
    normals,
    scan_like,
)

SEEDS = st.integers(0, 100_000)
NOTHING = ScanLike(
    share=1.0,
    noise=0.0,
    drift=0.0,
    far=0.0,
    grazing=0.0,
    thinning=0.0,
    ceiling=0.0,
    cast=0.0,
    shading=0.0,
    clutter=0,
    strays=0.0,
)
"""Every cloud is changed, by nothing."""

ALWAYS = ScanLike(share=1.0)


def room(seed: int = 0, side: float = 8.0, count: int = 4000) -> Tensor:
    """Points of the floor, the ceiling and two walls, in this order."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator) * torch.tensor(
        [side, side, 2.5]
    )
    floor, ceiling, wall, other = points.split(count // 4)
    floor[:, 2], ceiling[:, 2], wall[:, 0], other[:, 1] = 0, 2.5, 0, 0
    return points


def of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scanned(
    amounts: ScanLike, seed: int = 0, points: Tensor | None = None
) -> Scan:
    points = room() if points is None else points
    return scan_like(points, torch.zeros_like(points), amounts, of(seed))


def lost(scan: Scan, points: Tensor) -> Tensor:
    """Which points of the cloud the scan lacks."""
    gone = torch.ones(len(points), dtype=torch.bool)
    gone[scan.origin[scan.origin >= 0]] = False
    return gone


@pytest.mark.parametrize("amounts", [NOTHING, replace(ALWAYS, share=0.0)])
def test_nothing_changes_nothing(amounts):
    points = room()
    colors = (2 * torch.rand(len(points), 3, generator=of(1)) - 1) ** 3
    scan = scan_like(points, colors, amounts, of(0))
    assert torch.equal(scan.points, points)
    assert torch.equal(scan.colors, colors)
    assert torch.equal(scan.origin, torch.arange(len(points)))


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_what_belongs_to_a_point_stays_with_it(seed):
    """Real points come first, in order, each once; a few decimetres from where
    they were; the rest are of no class, and no label is made up."""
    points = room(seed, count=800)
    labels = torch.arange(len(points))
    before = points.clone()
    scan = scanned(ALWAYS, seed, points)
    assert torch.equal(points, before)
    real = int((scan.origin >= 0).sum())
    assert bool((scan.origin[:real].diff() > 0).all())
    assert bool((scan.origin[real:] == -1).all())
    assert len(scan.points) == len(scan.colors) == len(scan.origin)
    moved = (scan.points[:real] - points[scan.origin[:real]]).norm(dim=1)
    assert float(moved.max()) < 0.8
    carried = scan.carry(labels, missing=-1)
    assert torch.equal(carried[:real], scan.origin[:real])
    assert bool((carried[real:] == -1).all())
    assert float(scan.colors.abs().max()) <= 1
    assert bool(scan.points.isfinite().all())


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_a_seed_draws_the_same_scan(seed):
    one, other = scanned(ALWAYS, seed), scanned(ALWAYS, seed)
    assert torch.equal(one.points, other.points)
    assert torch.equal(one.colors, other.colors)
    assert torch.equal(one.origin, other.origin)


def test_a_share_of_the_clouds_is_changed():
    changed = [
        len(scanned(replace(ALWAYS, share=0.75), seed).origin) != 4000
        for seed in range(40)
    ]
    assert 22 <= sum(changed) <= 38


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_hardly_any_points(count, seed):
    points = torch.full((count, 3), 2.0)
    scan = scanned(replace(ALWAYS, far=1.0, grazing=1.0), seed, points)
    known = scan.origin[scan.origin >= 0]
    assert len(known) >= min(count, 1)
    assert bool((scan.origin == -1).any()) <= (count > 0)
    assert bool(scan.points.isfinite().all())


def test_noise_by_hand():
    """Head-on at 0.4 m, at 2.4 m, and at 60 degrees at 1 m, where the second
    part is .0001 (60 / 30)^2."""
    found = depth_noise(
        torch.tensor([0.4, 2.4, 1.0]), torch.tensor([0, 0, math.pi / 3])
    )
    expected = [0.0012, 0.0012 + 0.0019 * 4, 0.0012 + 0.0019 * 0.36 + 0.0004]
    assert found.tolist() == pytest.approx(expected)
    # close by and along the surface it has bounds
    assert depth_noise(torch.zeros(1), torch.zeros(1)) == depth_noise(
        torch.tensor([0.4]), torch.zeros(1)
    )
    assert float(depth_noise(torch.ones(1), torch.tensor([1.57]))) < 0.02


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_normals_of_planes_by_hand(axis):
    """Of a floor they stand upright, of walls they lie along x or y; and of a
    tilted plane they are that plane's own."""
    points = torch.rand(3000, 3, generator=of(0))
    points[:, axis] = 0.1
    found = normals(points)
    assert float(found[:, axis].abs().min()) > 0.999
    assert torch.allclose(found.norm(dim=1), torch.ones(3000), atol=1e-5)
    points[:, axis] = points[:, (axis + 1) % 3]  # 45 degrees
    tilted = torch.zeros(3)
    tilted[axis], tilted[(axis + 1) % 3] = math.sqrt(0.5), -math.sqrt(0.5)
    assert float((normals(points) @ tilted).abs().median()) > 0.999


def test_noise_grows_with_the_distance():
    """Of a line of points along x, from its own middle on."""
    x = torch.linspace(0, 40, 4000)
    points = torch.stack([x, torch.zeros(4000), torch.zeros(4000)], dim=1)
    middle, end = [], []
    for seed in range(20):
        scan = scanned(replace(NOTHING, noise=1.0, sensors=1), seed, points)
        off = (scan.points - points).norm(dim=1)
        middle.append(off[1000:3000].mean())
        end.append(torch.cat([off[:200], off[-200:]]).mean())
    assert torch.stack(end).mean() > 3 * torch.stack(middle).mean()


def test_drift_moves_all_points_of_a_place_alike():
    scan = scanned(replace(NOTHING, drift=0.1, sensors=1))
    moved = scan.points - room()
    assert torch.allclose(moved, moved[:1].expand_as(moved), atol=1e-5)
    assert 0.01 < float(moved[0].norm()) < 0.5
    several = scanned(replace(NOTHING, drift=0.1, sensors=3))
    kinds = (several.points - room()).mul(1000).round().unique(dim=0)
    assert 2 <= len(kinds) <= 3 * 27  # rounding may split one


def test_holes_are_patches_and_lie_far_away():
    """Most points, and so the sensor, lie within a metre of the middle; a wall
    stands 9 m off, and is lost in patches."""
    middle = torch.rand(4000, 3, generator=of(0))
    wall = torch.rand(1000, 3, generator=of(1)) * torch.tensor([0, 4.0, 2.5])
    points = torch.cat([middle, wall + torch.tensor([9.0, 0, 0])])
    near, far, alike = [], [], []
    for seed in range(16):
        amounts = replace(NOTHING, far=1.0, sensors=1, reach=6.0)
        gone = lost(scanned(amounts, seed, points), points)
        near.append(gone[:4000].float().mean())
        far.append(gone[4000:].float().mean())
        nearest = torch.cdist(points[4000:], points[4000:]).fill_diagonal_(9)
        alike.append(gone[4000:] == gone[4000:][nearest.argmin(dim=1)])
    assert torch.stack(far).mean() > 3 * torch.stack(near).mean()
    assert torch.stack(alike).float().mean() > 0.9


def test_holes_lie_where_rays_graze():
    """The sensor stands over a small patch of floor, which it sees from above;
    along the floor 9 m off its rays run flat."""
    below = torch.rand(4000, 3, generator=of(0)) * torch.tensor([1, 1, 0])
    along = torch.rand(1000, 3, generator=of(1)) * torch.tensor([1, 4, 0])
    points = torch.cat([below, along + torch.tensor([9.0, 0, 0])])
    near, far = [], []
    for seed in range(16):
        amounts = replace(NOTHING, grazing=1.0, sensors=1)
        gone = lost(scanned(amounts, seed, points), points)
        near.append(gone[:4000].float().mean())
        far.append(gone[4000:].float().mean())
    assert torch.stack(far).mean() > 3 * torch.stack(near).mean()


def test_far_points_are_thinner():
    points = room(side=14.0, count=4000)
    gone = torch.stack(
        [
            lost(scanned(replace(NOTHING, thinning=1.0), seed, points), points)
            for seed in range(10)
        ]
    ).float()
    assert 0.1 < float(gone.mean()) < 0.9
    # all within 1.8 m of the sensor: (1.5 / 1.8)^2 = .69 is left, or more
    small = 0.2 * torch.rand(2000, 3, generator=of(0))
    for seed in range(10):
        close = scanned(replace(NOTHING, thinning=1.0), seed, small)
        assert len(close.origin) > 0.6 * len(small)


def test_a_ceiling_nobody_looked_at():
    points = room()
    for seed in range(20):
        scan = scanned(replace(NOTHING, ceiling=1.0), seed, points)
        gone = lost(scan, points)
        assert bool((points[gone][:, 2] > 1.8).all())
        assert bool(gone[points[:, 2] == 2.5].all())
        assert not bool(gone[points[:, 2] < 1.8].any())
    low = room() * torch.tensor([1.0, 1.0, 0.4])
    assert len(scanned(replace(NOTHING, ceiling=1.0), 0, low).origin) == 4000


def test_a_cast_and_a_shade_by_hand():
    """A cast scales each channel alike at all points; a shade scales all
    channels of a point alike, and black stays black."""
    points = room()
    grey = torch.zeros_like(points)  # 0.5 of white
    cast = scan_like(points, grey, replace(NOTHING, cast=0.2), of(0))
    assert len(cast.colors.unique(dim=0)) == 1
    gain = (cast.colors[0] + 1) / 2 / 0.5
    assert bool(((gain - 1).abs() <= 0.2 + 1e-6).all())
    assert len(gain.unique()) == 3
    shade = scan_like(points, grey, replace(NOTHING, shading=0.4), of(0))
    assert torch.equal(shade.colors[:, 0], shade.colors[:, 2])
    assert len(shade.colors.unique(dim=0)) > 100
    black = scan_like(points, grey - 1, replace(NOTHING, shading=0.4), of(0))
    assert bool((black.colors == -1).all())


def test_things_of_no_class_stand_on_the_room():
    points = room()
    for seed in range(20):
        scan = scanned(replace(NOTHING, clutter=5), seed, points)
        assert torch.equal(scan.points[:4000], points)
        things = scan.points[4000:]
        assert bool((scan.origin[4000:] == -1).all())
        if len(things):
            near = torch.cdist(things, points).amin(dim=1)
            assert float(near.max()) < 0.9
    counts = {
        len(scanned(replace(NOTHING, clutter=1), seed).origin) > 4000
        for seed in range(10)
    }
    assert counts == {True, False}


def test_strays_hang_before_what_was_seen():
    points = room(count=20_000)
    scan = scanned(replace(NOTHING, strays=0.1), 3, points)
    strays = scan.points[scan.origin == -1]
    assert 0 < len(strays) <= 2000
    assert bool((strays >= points.amin(0) - 1e-3).all())
    assert bool((strays <= points.amax(0) + 1e-3).all())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (name, value, "0 to 1")
        for name in ("share", "far", "grazing", "thinning", "ceiling")
        for value in (-0.1, 1.1, math.nan)
    ]
    + [
        ("cast", 2.0, "0 to 1"),
        ("shading", -1.0, "0 to 1"),
        ("strays", 1.5, "0 to 1"),
        ("sensors", 0, "1 or more"),
        ("reach", 1.0, "more than 1 m"),
        ("noise", -1.0, "0 or more"),
        ("drift", -1.0, "0 or more"),
        ("clutter", -1, "0 or more"),
    ],
)
def test_amounts_out_of_range_are_named(name, value, expected):
    with pytest.raises(ValueError, match=f"{name}: expected {expected}, found"):
        ScanLike(**{name: value})


def test_the_amounts_of_nothing_are_all_amounts():
    """A new amount must have its nothing here."""
    same = {"share", "sensors", "reach"}
    for entry in fields(ScanLike):
        assert entry.name in same or getattr(NOTHING, entry.name) == 0


NETWORK = NetworkSettings(
    channels=3, voxel_size=0.4, output="scores", norm="instance"
)
RECIPE = TrainingSettings(
    steps=2,
    batch_rooms=2,
    crop=None,
    augmentation=NO_AUGMENTATION,
    scan_like=replace(ALWAYS, clutter=8),
)


def clouds(weighed: bool = False) -> list[Cloud]:
    found = []
    for seed in range(3):
        points = room(seed, side=4.0, count=1200)
        weights = torch.zeros(len(points))
        weights[:10] = 1
        found.append(
            Cloud(
                points,
                torch.zeros_like(points).byte(),
                weights if weighed else None,
            )
        )
    return found


@pytest.mark.parametrize("crop", [None, 1.5])
def test_a_batch_says_where_its_real_points_come_from(crop):
    """What a batch gathers belongs to the points whose rows it has; points of
    no class are seen by the network, and nothing is asked about them."""
    network, rooms = PointNetwork(NETWORK), clouds(weighed=True)
    settings = replace(RECIPE, crop=crop)
    batch = draw_batch(network, rooms, settings, of(5))
    heights = batch.gather([cloud.points[:, 2] for cloud in rooms])
    assert len(heights) == len(batch.rows) == sum(map(len, batch.points))
    # the voxel of each point lies where the point does
    z = batch.inputs.coordinates[batch.rows.cpu()][:, 3] * NETWORK.voxel_size
    assert float((z - heights).abs().max()) < 1.2
    assert bool(
        (
            torch.bincount(batch.rows, minlength=len(batch.inputs.features))
            == 0
        ).any()
    )


def test_without_the_setting_nothing_is_drawn():
    """What is drawn is what was drawn before there was the setting: which
    rooms, then for each its augmentation and its place among the voxels."""
    network, rooms, generator = PointNetwork(NETWORK), clouds(), of(7)
    batch = draw_batch(
        network, rooms, replace(RECIPE, scan_like=None), generator
    )
    assert [len(part) for part in batch.points] == [1200, 1200]
    fresh = of(7)
    torch.randperm(3, generator=fresh)
    for _ in range(2):
        torch.rand(8, generator=fresh)
        torch.rand(1, generator=fresh)
        torch.randn(1200, 3, generator=fresh)
        torch.rand(3, generator=fresh)
    assert torch.equal(generator.get_state(), fresh.get_state())


def test_a_network_learns_from_scans():
    network, rooms = PointNetwork(NETWORK), clouds()
    losses = train_network(
        network,
        rooms,
        lambda outputs, batch: outputs[batch.rows].square().mean(),
        RECIPE,
    )
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
