import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlg_lib.classes import IGNORE_LABEL, ROOMS_12
from vlg_lib.data.layout import read_manifest, read_point_labels, read_scene
from vlg_lib.rooms import render as rooms_render
from vlg_lib.rooms.materials import STYLES, TEXTURES
from vlg_lib.rooms.plan import ROOM_KINDS, Room, Thing, kind_of
from vlg_lib.rooms.render import cast_rays, pixel_rays
from vlg_lib.rooms.scenes import (
    MIN_TAGGED_POINTS,
    make_room,
    make_rooms,
    render_frame,
    room_camera,
    room_poses,
    room_scene,
    split_seeds,
)
from vlg_lib.rooms.textures import texture_factor

seeds = st.integers(0, 10_000)


def boxes_room(boxes, light=(0.0, 0.0, 5.0), yaws=None):
    """A room of given (centre, half sizes) boxes, all plain white floors of one
    object each."""
    count = len(boxes)
    rotations = []
    for yaw in yaws or [0.0] * count:
        c, s = math.cos(yaw), math.sin(yaw)
        rotations.append([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return Room(
        seed=0,
        kind="office",
        shift=0.0,
        size=(4.0, 4.0, 3.0),
        light=np.array(light),
        centers=np.array([center for center, _ in boxes], dtype=float),
        half_sizes=np.array([half for _, half in boxes], dtype=float),
        rotations=np.array(rotations, dtype=float),
        classes=np.full(count, ROOMS_12.index("floor")),
        instances=np.arange(count),
        textures=np.zeros(count, dtype=np.int64),
        colors=np.full((count, 3), 0.5, dtype=np.float32),
        glow=np.zeros(count, dtype=np.float32),
        things=tuple(Thing("floor", "white", "painted") for _ in range(count)),
    )


@pytest.fixture(scope="module")
def scan():
    return room_scene(10_001, views=8, width=80, height=60)


# --- plans


def test_kinds_take_turns():
    assert [kind_of(i) for i in range(5)] == [
        "office",
        "meeting",
        "living",
        "bedroom",
        "office",
    ]
    assert [make_room(10_000 + i).kind for i in range(4)] == list(ROOM_KINDS)


@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_a_seed_gives_one_room(seed):
    first, second = make_room(seed), make_room(seed)
    for name in (
        "centers",
        "half_sizes",
        "rotations",
        "classes",
        "instances",
        "textures",
        "colors",
    ):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert first.things == second.things
    assert 30 <= len(first.centers) <= 130
    assert not np.array_equal(
        first.centers[:6], make_room(seed + 4).centers[:6]
    )


@settings(max_examples=4, deadline=None)
@given(seed=seeds)
def test_shift_recolours_and_moves_nothing(seed):
    source, half, target = (
        make_room(seed, shift=shift) for shift in (0.0, 0.5, 1.0)
    )
    for room in (half, target):
        assert np.array_equal(source.centers, room.centers)
        assert np.array_equal(source.textures, room.textures)
    for thing, before, after in zip(
        half.things, source.things, target.things, strict=True
    ):
        assert thing in (before, after)
        assert before.color in STYLES[thing.name].source
        assert after.color in STYLES[thing.name].target


def test_half_of_the_things_are_recoloured_at_shift_one_half():
    changed = total = 0
    for seed in range(8):
        source, half, target = (
            make_room(seed, shift=shift) for shift in (0.0, 0.5, 1.0)
        )
        for instance in range(len(source.things)):
            own = source.instances == instance
            if not np.array_equal(source.colors[own], target.colors[own]):
                total += 1
                changed += not np.array_equal(
                    source.colors[own], half.colors[own]
                )
    assert total > 80
    assert 0.38 < changed / total < 0.62


def test_objects_stand_in_the_room():
    for seed in range(8):
        room = make_room(seed)
        width, depth, height = room.size
        reach = np.abs(room.rotations) @ room.half_sizes[:, :, None]
        low, high = room.centers - reach[..., 0], room.centers + reach[..., 0]
        assert (low > [-0.15, -0.15, -0.15]).all()
        assert (high < [width + 0.15, depth + 0.15, height + 0.15]).all()


def test_plans_differ_in_what_they_hold():
    present = [
        {room.things[i].name for i in range(len(room.things))}
        for room in map(make_room, range(20))
    ]
    for name in ROOMS_12.names:
        count = sum(name in names for names in present)
        assert count == 20 if name in ("floor", "wall") else 2 <= count < 20, (
            name
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"kind": "cave"}, "cave"), ({"shift": 1.5}, "1.5")],
)
def test_make_room_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_room(0, **arguments)


def test_splits_share_no_room():
    splits = [
        split_seeds(split, 5_000, seed)
        for split, seed in [
            ("train", 0),
            ("test", 0),
            ("train", 1),
            ("test", 1),
            ("train", 89_999),
            ("vlm-train", 0),
            ("vlm-held-out", 0),
        ]
    ]
    assert len(set().union(*splits)) == 7 * 5_000
    assert split_seeds("train", 2, 0) == [10_000, 10_001]
    assert split_seeds("test", 2, 1) == [25_000, 25_001]


@pytest.mark.parametrize(
    "arguments",
    [("validation", 1, 0), ("train", 5_001, 0), ("test", 1, 90_000)],
)
def test_split_seeds_refuses(arguments):
    with pytest.raises(ValueError, match=r"unknown split|at most"):
        split_seeds(*arguments)


# --- rays


@pytest.mark.parametrize("exact", [False, True])
def test_rays_against_a_box_by_hand(exact):
    room = boxes_room(
        [((0, 0, 0), (1, 2, 1)), ((10, 0, 0), (1, 1, 1))],
        yaws=[0.0, math.pi / 4],
    )
    origins = np.array(
        [
            [-5.0, 0.3, 0.2],
            [-5.0, 0.3, 0.2],
            [0.1, 7, 0.1],
            [0, 0, 9],
            [5.0, 0.01, 0],
            [-5, 3, 0],
        ]
    )
    directions = np.array(
        [[1.0, 0, 0], [2, 0, 0], [0, -1, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0.0]]
    )
    t, boxes = cast_rays(room, origins, directions, exact=exact)
    corner = 5 - math.sqrt(2) + 0.01
    assert t == pytest.approx([4, 2, 5, math.inf, corner, math.inf], abs=1e-6)
    assert boxes.tolist() == [0, 0, 0, -1, 1, -1]


@settings(max_examples=6, deadline=None)
@given(seed=seeds)
def test_both_engines_see_the_same(seed):
    room = make_room(seed)
    origins, directions = pixel_rays(
        room_camera(40, 30), room_poses(room, 1)[0]
    )
    (t1, box1), (t2, box2) = (
        cast_rays(room, origins, directions, exact=exact)
        for exact in (False, True)
    )
    # At silhouettes single and double precision may fall on either side; on
    # touching faces either box may win.
    agree = np.isclose(t1, t2, atol=1e-3, rtol=0)
    assert agree.mean() > 0.995
    assert (box1 == box2).mean() > 0.95


# --- pictures


def test_pixel_rays_follow_the_camera():
    camera = room_camera(160, 120)
    assert camera.cx == 79.5
    assert 2 * math.degrees(math.atan(80 / camera.fx)) == pytest.approx(72)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    origins, directions = pixel_rays(camera, pose)
    assert origins[7].tolist() == [1, 2, 3]
    u, v = 17, 5
    assert directions[v * 160 + u] == pytest.approx(
        [(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0]
    )


@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_poses_are_rigid_and_stand_in_free_space(seed):
    room = make_room(seed)
    poses = room_poses(room, 6)
    assert len(poses) == 6
    for pose in poses:
        rotation = pose[:3, :3]
        assert torch.allclose(
            rotation.T @ rotation, torch.eye(3, dtype=torch.float64), atol=1e-12
        )
        assert float(torch.linalg.det(rotation)) == pytest.approx(1)
        assert rotation[2, 1] < 0  # The camera's y axis points down.
        position = pose[:3, 3].numpy()
        local = np.einsum("bji,bj->bi", room.rotations, position - room.centers)
        assert not (np.abs(local) < room.half_sizes).all(1).any()
        assert (position > 0).all()
        assert (position < room.size).all()


def test_no_view_from_inside_a_thing():
    # The block fills the western half.
    floor, block = ((2, 2, -0.1), (2, 2, 0.1)), ((1, 2, 1.5), (1, 2, 1.5))
    for pose in room_poses(boxes_room([floor, block]), 12):
        assert float(pose[0, 3]) > 2.0


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_depth_is_z_depth_of_the_surface_that_is_labelled(seed):
    room = make_room(seed)
    camera, pose = room_camera(64, 48), room_poses(room, 1)[0]
    rendered = render_frame(room, camera, pose, depth_noise=0.0)
    depth = rendered.frame.depth.double().numpy().ravel()
    v, u = np.divmod(np.arange(64 * 48), 64)
    local = np.stack(
        [
            (u - camera.cx) / camera.fx * depth,
            (v - camera.cy) / camera.fy * depth,
            depth,
        ],
        1,
    )
    world = local @ pose[:3, :3].numpy().T + pose[:3, 3].numpy()
    instances, labels = (
        rendered.instances.numpy().ravel(),
        rendered.labels.numpy().ravel(),
    )
    assert ((depth == 0) == (instances < 0)).all()
    for pixel in np.flatnonzero(depth > 0)[::37]:
        own = np.flatnonzero(room.instances == instances[pixel])
        offset = np.abs(
            np.einsum(
                "bji,bj->bi",
                room.rotations[own],
                world[pixel] - room.centers[own],
            )
        )
        distance = np.abs((offset - room.half_sizes[own]).max(1)).min()
        assert distance < 2e-3  # Depth is rounded to millimetres.
        name = room.things[instances[pixel]].name
        assert labels[pixel] == (
            ROOMS_12.index(name) if name in ROOMS_12.names else IGNORE_LABEL
        )


def test_pictures_are_repeatable_and_noisy():
    room = make_room(3)
    camera, pose = room_camera(64, 48), room_poses(room, 1)[0]
    first, second, other = (
        render_frame(room, camera, pose, seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(first.frame.color, second.frame.color)
    assert torch.equal(first.frame.depth, second.frame.depth)
    assert not torch.equal(first.frame.color, other.frame.color)
    exact = render_frame(room, camera, pose, depth_noise=0.0).frame.depth
    seen = exact > 0
    relative = (first.frame.depth - exact)[seen] / exact[seen]
    assert 0.002 < float(relative.std()) < 0.004
    assert torch.equal(
        (first.frame.depth * 1000).round() / 1000, first.frame.depth
    )


@pytest.mark.parametrize("embree", [False, True])
def test_a_blocker_throws_a_shadow(embree, monkeypatch):
    monkeypatch.setattr(rooms_render, "EMBREE", embree)
    floor, blocker = ((0, 0, -0.1), (5, 5, 0.1)), ((0, 0, 2.0), (0.5, 0.5, 0.1))
    room = boxes_room([floor, blocker], light=(0.0, 0.0, 3.0))
    pose = torch.tensor(
        [[1.0, 0, 0, 0], [0, 0, 1, -3], [0, -1, 0, 1.0], [0, 0, 0, 1]],
        dtype=torch.float64,
    )
    camera = room_camera(61, 61)
    rendered = render_frame(room, camera, pose, depth_noise=0.0)
    # The camera at height 1, 3 m south of the shadow, looks north: the row of
    # the floor point (0, 0, 0).
    row = round(camera.cy + camera.fy * 1 / 3)
    side = round(camera.cx + camera.fx * 2 / 3)
    middle = round(camera.cx)
    brightness = rendered.frame.color.float().mean(-1)
    assert rendered.instances[row, middle] == 0
    assert float(brightness[row, middle]) < 0.9 * float(brightness[row, side])


@pytest.mark.parametrize("embree", [False, True])
def test_what_is_behind_the_light_throws_no_shadow(embree, monkeypatch):
    monkeypatch.setattr(rooms_render, "EMBREE", embree)
    floor, ceiling = ((0, 0, -0.1), (5, 5, 0.1)), ((0, 0, 4.0), (5, 5, 0.1))
    down = torch.tensor(
        [[1.0, 0, 0, 1], [0, -1, 0, 1], [0, 0, -1, 2], [0, 0, 0, 1]],
        dtype=torch.float64,
    )
    open_room, closed_room = (
        boxes_room(boxes, light=(0.0, 0.0, 3.0))
        for boxes in ([floor], [floor, ceiling])
    )
    first, second = (
        render_frame(room, room_camera(9, 9), down).frame.color
        for room in (open_room, closed_room)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_are_mild_factors(name):
    rng = np.random.default_rng(0)
    u, v = rng.uniform(-3, 3, (2, 4000)).astype(np.float32)
    texture = np.full(4000, TEXTURES.index(name))
    factor = texture_factor(texture, u, v, np.full(4000, 4))
    assert 0.4 < factor.min() < factor.max() < 1.4
    assert factor.std() > 0.005
    assert np.array_equal(
        factor, texture_factor(texture, u, v, np.full(4000, 4))
    )


def test_stripes_by_hand():
    u = np.array([0.04, 0.12, 0.20], dtype=np.float32)
    factor = texture_factor(
        np.full(3, TEXTURES.index("stripes")),
        u,
        np.zeros(3, np.float32),
        np.zeros(3, np.int64),
    )
    assert factor.tolist() == pytest.approx([0.76, 1.06, 0.76])


# --- scans


def test_scan_is_whole(scan):
    scene, labels = scan
    assert len(scene.frames) == 8
    assert scene.points.shape == (len(labels), 3)
    assert scene.class_set is ROOMS_12
    assert labels.dtype == torch.int64
    cells = torch.unique(
        torch.floor(scene.points.double() / 0.04).long(), dim=0
    )
    # One point a 4 cm cell, up to rounding at the borders.
    assert len(cells) > 0.97 * len(labels)


def test_tags_are_the_classes_with_enough_points(scan):
    scene, labels = scan
    counts = torch.bincount(labels[labels >= 0], minlength=12)
    assert torch.equal(scene.scene_labels, counts >= MIN_TAGGED_POINTS)
    assert 3 <= int(scene.scene_labels.sum()) < 12


def test_floor_points_lie_on_the_floor(scan):
    scene, labels = scan
    heights = scene.points[labels == ROOMS_12.index("floor"), 2]
    assert float(heights.abs().quantile(0.95)) < 0.05


def test_scans_repeat():
    first, second = (
        room_scene(3, views=2, width=40, height=30) for _ in range(2)
    )
    assert torch.equal(first[0].points, second[0].points)
    assert torch.equal(first[0].colors, second[0].colors)
    assert torch.equal(first[1], second[1])


def test_rooms_on_disk(tmp_path):
    sizes = {
        "shift": 0.5,
        "views": 2,
        "width": 64,
        "height": 48,
        "progress": False,
    }
    folders = make_rooms(tmp_path, [10_000, 10_001], **sizes)
    scene, labels = room_scene(10_001, shift=0.5, views=2, width=64, height=48)
    stored = read_scene(folders[1])
    assert torch.equal(stored.points, scene.points)
    assert torch.equal(stored.scene_labels, scene.scene_labels)
    assert torch.equal(read_point_labels(folders[1]), labels)
    assert torch.equal(stored.frames[1].color, scene.frames[1].color)
    assert torch.allclose(
        stored.frames[1].depth, scene.frames[1].depth, atol=1e-6
    )
    assert read_manifest(folders[1])["provenance"]["seed"] == 10_001

    before = [folder.stat().st_mtime_ns for folder in folders]
    assert make_rooms(tmp_path, [10_000, 10_001], **sizes) == folders
    assert [folder.stat().st_mtime_ns for folder in folders] == before
    make_rooms(tmp_path, [10_001], **(sizes | {"shift": 0.0}))
    assert read_manifest(folders[1])["provenance"]["shift"] == 0.0
    assert folders[0].stat().st_mtime_ns == before[0]
