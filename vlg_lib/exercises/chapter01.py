"""Checks of the exercises of chapter 01: the pinhole, an inverse pose, a zoomed
camera, and which way poses point.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from vlg_lib.rooms.scenes import (
    make_room,
    render_frame,
    room_camera,
    room_poses,
)
from vlg_lib.scene import Camera, Frame

_CAMERA = Camera(fx=100.0, fy=100.0, cx=79.5, cy=59.5, width=160, height=120)
_ODD_CAMERA = Camera(
    fx=210.0, fy=190.0, cx=75.0, cy=66.0, width=160, height=120
)


def _random_pose(seed: int) -> Tensor:
    """A rigid camera-to-world pose, float64."""
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(
        torch.randn(3, 3, generator=generator, dtype=torch.float64)
    )
    rotation[:, 0] *= torch.linalg.det(rotation)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation
    pose[:3, 3] = torch.randn(3, generator=generator, dtype=torch.float64)
    return pose


def check_pinhole(pinhole: Callable[[Tensor, Camera], Tensor]) -> None:
    """Right by hand, for cameras whose two focal lengths differ, and the same
    for a point twice as far and as large.

    >>> check_pinhole(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: pinhole returns nothing yet
    """
    answer = pinhole(torch.tensor([[0.5, -0.25, 2.0]]), _CAMERA)
    assert answer is not None, "pinhole returns nothing yet"
    answer = torch.as_tensor(answer)
    assert answer.shape == (1, 2), (
        "one (u, v) a point is needed: expected shape (1, 2), found"
        f" {tuple(answer.shape)}"
    )
    assert answer[0].tolist() == [104.5, 47.0], (
        f"the point by hand falls on (104.5, 47.0), found {answer[0].tolist()}"
    )
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        points = torch.rand(50, 3, generator=generator) + torch.tensor(
            [-0.5, -0.5, 0.5]
        )
        # float64 answers are right as well
        pixels = torch.as_tensor(pinhole(points, _ODD_CAMERA)).float()
        assert torch.allclose(
            torch.as_tensor(pinhole(2.0 * points, _ODD_CAMERA)).float(),
            pixels,
            atol=1e-3,
        ), (
            "a point twice as far away and twice as far to the side lies on the"
            " same ray: what is the division by?"
        )
        rays = (pixels - torch.tensor([75.0, 66.0])) / torch.tensor(
            [210.0, 190.0]
        )
        assert torch.allclose(rays * points[:, 2:], points[:, :2], atol=1e-4), (
            "wrong for a camera with fx = 210, fy = 190, cx = 75, cy = 66:"
            " which number belongs to u, and which to v?"
        )
    print("ok: pinhole")


def check_inverse_pose(inverse_pose: Callable[[Tensor], Tensor]) -> None:
    """Undoes a pose from both sides, and is a pose itself.

    >>> check_inverse_pose(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: inverse_pose returns nothing yet
    """
    for seed in range(5):
        pose = _random_pose(seed)
        before = pose.clone()
        answer = inverse_pose(pose)
        assert answer is not None, "inverse_pose returns nothing yet"
        answer = torch.as_tensor(answer)
        assert torch.equal(pose, before), (
            "the caller's pose was changed: work on a copy"
        )
        assert answer.shape == (4, 4), (
            f"a pose has shape (4, 4), found {tuple(answer.shape)}"
        )
        assert torch.allclose(
            answer[:3, :3].double() @ pose[:3, :3],
            torch.eye(3).double(),
            atol=1e-6,
        ), "the rotation is not undone: what is the inverse of a rotation?"
        centre = answer.double() @ pose[:, 3]
        assert torch.allclose(centre[:3], torch.zeros(3).double(), atol=1e-6), (
            "the camera's centre must come to the origin of the camera's"
            " frame: first shift, then rotate, and the shift is rotated too"
            f" (found {[round(x, 2) for x in centre[:3].tolist()]})"
        )
        assert answer[3].tolist() == [0, 0, 0, 1], (
            "the last row of a pose is 0 0 0 1"
        )
    print("ok: inverse_pose")


def check_zoomed_camera(zoomed_camera: Callable[..., Camera]) -> None:
    """The pixel found through the new camera is the one that the cut-out and
    enlarged image shows.

    >>> check_zoomed_camera(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: zoomed_camera returns nothing yet
    """
    for left, top, width, height, factor in (
        (40, 30, 80, 60, 2),
        (0, 0, 160, 120, 3),
        (10, 50, 32, 24, 5),
    ):
        answer = zoomed_camera(_ODD_CAMERA, left, top, width, height, factor)
        assert answer is not None, "zoomed_camera returns nothing yet"
        found = (answer.width, answer.height)
        assert found == (width * factor, height * factor), (
            f"the new image has another size, found {found}"
        )
        assert (answer.fx, answer.fy) == (
            _ODD_CAMERA.fx * factor,
            _ODD_CAMERA.fy * factor,
        ), (
            "enlarging an image makes the focal length (which is in pixels)"
            " longer by the same factor"
        )
        # Two rays, through the outer corners of the cut-out: they must reach
        # the corners of the new image.
        for name, old, new, start, size in (
            (
                "u",
                (_ODD_CAMERA.fx, _ODD_CAMERA.cx),
                (answer.fx, answer.cx),
                left,
                width,
            ),
            (
                "v",
                (_ODD_CAMERA.fy, _ODD_CAMERA.cy),
                (answer.fy, answer.cy),
                top,
                height,
            ),
        ):
            for corner, target in (
                (start - 0.5, -0.5),
                (start + size - 0.5, size * factor - 0.5),
            ):
                reached = (corner - old[1]) / old[0] * new[0] + new[1]
                assert abs(reached - target) < 1e-6, (
                    f"the edge of the cut-out at {name} = {corner} must become"
                    f" the edge of the new image, {name} = {target}, but falls"
                    f" on {reached:.3f}: cut first, and mind the half pixel"
                )
    print("ok: zoomed_camera")


def _two_frames(seed: int) -> tuple[Frame, Frame]:
    """Two photographs of a generated room: the second 20 degrees to the left
    and a step of 20 cm aside.
    """
    room, camera = make_room(500 + seed), room_camera(64, 48)
    pose = room_poses(room, 1)[0]
    moved = pose.clone()
    c, s = math.cos(math.radians(20)), math.sin(math.radians(20))
    moved[:3, :3] = (
        torch.tensor(
            [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=pose.dtype
        )
        @ pose[:3, :3]
    )
    moved[:3, 3] += 0.2 * pose[:3, 0]
    return (
        render_frame(room, camera, pose).frame,
        render_frame(room, camera, moved, seed=1).frame,
    )


def check_pose_direction(pose_direction: Callable[[Frame, Frame], str]) -> None:
    """Tells poses from inverted ones on photographs of several rooms.

    >>> check_pose_direction(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: pose_direction returns nothing yet
    """
    for seed in range(3):
        frames = _two_frames(seed)
        inverted = [
            replace(
                frame, camera_to_world=torch.linalg.inv(frame.camera_to_world)
            )
            for frame in frames
        ]
        for given, expected in (
            (frames, "camera-to-world"),
            (inverted, "world-to-camera"),
        ):
            answer = pose_direction(*given)
            assert answer is not None, "pose_direction returns nothing yet"
            assert answer in ("camera-to-world", "world-to-camera"), (
                f"one of the two names is needed, found {answer!r}"
            )
            assert answer == expected, (
                f"room {seed}: the matrices given are {expected}, the answer"
                f" was {answer!r}. Carry the pixels of one photograph into the"
                " other in both readings, and compare depths only where both"
                " have one"
            )
    print("ok: pose_direction")
