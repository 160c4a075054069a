"""Which way is up: the axis that is told, the cameras that were held level, the
floor; and the side of an image that belongs on top."""

import math

import numpy as np
import pytest
import torch

from vlg_lib.data.depth_fusion import points_from_frames
from vlg_lib.geometry.upright import (
    AXES,
    level_normal,
    level_up,
    mean_up,
    rotation_to_z,
    sideways,
    up_advice,
    up_rotation,
    upright,
)
from vlg_lib.rooms.scenes import (
    make_room,
    render_frame,
    room_camera,
    room_poses,
)

CAMERA = room_camera(64, 48)


def room_frames(views):
    room = make_room(15_002)
    return [
        render_frame(room, CAMERA, pose, seed=i, name=str(i)).frame
        for i, pose in enumerate(room_poses(room, views))
    ]


def held_level() -> torch.Tensor:
    """A camera that looks along y in a world with z up."""
    pose = torch.eye(4, dtype=torch.float64)
    # image down is world -z
    pose[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    return pose


def looking_around(tilt: float = 0.3, views: int = 12) -> torch.Tensor:
    """Cameras held level that turn about z and look down a little."""
    poses = []
    for i in range(views):
        heading = 2 * math.pi * i / views
        forward = torch.tensor(
            [
                math.cos(heading) * math.cos(tilt),
                math.sin(heading) * math.cos(tilt),
                -math.sin(tilt),
            ],
            dtype=torch.float64,
        )
        right = torch.tensor(
            [math.sin(heading), -math.cos(heading), 0.0], dtype=torch.float64
        )
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = torch.stack(
            [right, torch.linalg.cross(forward, right), forward], dim=1
        )
        poses.append(pose)
    return torch.stack(poses)


@pytest.mark.parametrize("up", AXES)
def test_it_is_a_rotation_that_takes_the_axis_to_z(up):
    rotation = up_rotation(up)
    axis = torch.zeros(4, dtype=torch.float64)
    axis["xyz".index(up[-1])] = -1.0 if up.startswith("-") else 1.0
    assert (rotation @ axis).tolist() == [0, 0, 1, 0]
    assert torch.equal(rotation @ rotation.T, torch.eye(4, dtype=torch.float64))
    assert torch.linalg.det(rotation) == 1
    assert torch.equal(up_rotation("z"), torch.eye(4, dtype=torch.float64))


def test_an_axis_that_is_none():
    with pytest.raises(
        ValueError, match="--up to be one of x, y, z, -x, -y, -z, found 'w'"
    ):
        up_rotation("w")


def test_a_world_without_up_is_turned_upright(tmp_path):
    """A room in a world turned at random comes back with z up: the floor is
    level to half a degree."""
    turn = torch.from_numpy(
        np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    )
    turn = turn * torch.sign(torch.linalg.det(turn))
    frames = room_frames(6)
    poses = [f.camera_to_world.double().clone() for f in frames]
    for pose in poses:
        pose[:3] = turn @ pose[:3]
    points = points_from_frames(frames, 0.1)[0].double() @ turn.T
    back = upright(torch.stack(poses), points)[:3, :3] @ turn
    assert math.degrees(math.acos(min(1.0, float(back[2, 2])))) < 0.5


def test_turning_up_to_z():
    for up in (
        [0.0, 0.0, 1.0],
        [0.0, 0.0, -1.0],
        [0.6, 0.0, 0.8],
        [0.0, -1.0, 0.0],
    ):
        turn = rotation_to_z(torch.tensor(up, dtype=torch.float64))[:3, :3]
        assert torch.allclose(
            turn @ torch.tensor(up, dtype=torch.float64),
            torch.tensor([0.0, 0, 1]).double(),
        )
        assert torch.allclose(
            turn @ turn.T, torch.eye(3, dtype=torch.float64), atol=1e-12
        )
        assert torch.linalg.det(turn) == pytest.approx(1)


def test_a_floor_beside_a_larger_wall():
    """The plane must be nearly level: a wall with more points does not count, a
    tilted hint is corrected."""
    generator = torch.Generator().manual_seed(1)
    floor = torch.rand(
        400, 3, generator=generator, dtype=torch.float64
    ) * torch.tensor([4.0, 4.0, 0.01])
    wall = torch.rand(
        900, 3, generator=generator, dtype=torch.float64
    ) * torch.tensor([0.01, 4.0, 4.0])
    hint = torch.tensor(
        [0.0, math.sin(0.2), math.cos(0.2)], dtype=torch.float64
    )
    assert float(level_normal(torch.cat([floor, wall]), hint)[2]) > 0.9995


def test_advice_where_people_would_walk_on_walls():
    upright = torch.eye(4, dtype=torch.float64)
    # image down is world -z
    upright[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert up_advice(upright[None]) is None
    assert "is --up right?" in up_advice(up_rotation("y")[None] @ upright)
    assert "is --up right?" in up_advice(up_rotation("-z")[None] @ upright)


@pytest.mark.parametrize("up", AXES)
def test_level_cameras_show_the_axis(up):
    """Worlds turned all six ways: the rows of the images stay level."""
    turned = up_rotation(up).T @ looking_around()
    expected = up_rotation(up)[2, :3]
    assert torch.allclose(level_up(turned), expected, atol=1e-9)
    assert float(mean_up(turned) @ expected) > 0.9


def test_a_camera_that_does_not_turn_shows_nothing():
    assert level_up(held_level()[None].repeat(5, 1, 1)) is None


def test_cameras_held_in_all_ways_do_not_show_which_way_is_up():
    poses = torch.stack([held_level() @ up_rotation(up).T for up in AXES])
    with pytest.raises(ValueError, match="say it with --up"):
        upright(poses, torch.rand(20, 3))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_side_that_belongs_on_top(turns):
    """The sensor turned clockwise: as many turns counter-clockwise put it
    right."""
    quarter = torch.eye(4, dtype=torch.float64)
    quarter[:2, :2] = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    turn = torch.linalg.matrix_power(quarter, turns)
    assert sideways(looking_around() @ turn) == turns


def test_no_side_is_above_where_cameras_look_straight_down():
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    assert sideways(pose[None]) == 0
