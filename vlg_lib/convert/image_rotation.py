"""Scans whose images lie on their side, as phones store them: turned by quarter
turns, camera and pose with them.

A 2D model that learnt from upright photographs sees little in an image that
lies on its side.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from vlg_lib.convert.frames import Shot
from vlg_lib.scene import Camera

CLEAR = 0.7
"""How far up (the cosine) one side of the images must point on average, to be
taken for their upper side."""


def sideways(poses: Tensor) -> int:
    """How many quarter turns, counter-clockwise, make most images of a scan
    stand upright; 0 where it does not show.

    ``poses``: (F, 4, 4) camera-to-world in a world with z up. A side of the
    images that is above in the world belongs on top; where the cameras look
    straight down, or were held in many ways, no side is clearly above.
    """
    right, down = poses[:, 2, 0].mean(), poses[:, 2, 1].mean()
    # top, right, bottom, left: what comes to the top after k turns
    sides = torch.stack([-down, right, down, -right])
    k = int(sides.argmax())
    return k if float(sides[k]) > CLEAR else 0


def turned_camera(camera: Camera, turns: int) -> Camera:
    """The camera of images turned counter-clockwise by quarter turns (as
    ``torch.rot90`` turns them).

    >>> turned_camera(Camera(50.0, 60.0, 10.0, 20.0, 64, 48), 1)
    Camera(fx=60.0, fy=50.0, cx=20.0, cy=53.0, width=48, height=64)
    """
    for _ in range(turns % 4):
        camera = Camera(
            camera.fy,
            camera.fx,
            camera.cy,
            camera.width - 1 - camera.cx,
            camera.height,
            camera.width,
        )
    return camera


def turned_shot(shot: Shot, turns: int) -> Shot:
    """A frame with its images, both cameras and its pose turned; points that it
    sees stay where they are.
    """
    quarter = torch.eye(4, dtype=torch.float64)
    # its x axis is the old y, its y axis the old -x
    quarter[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    return replace(
        shot,
        camera_to_world=shot.camera_to_world
        @ torch.linalg.matrix_power(quarter, turns % 4),
        color_camera=turned_camera(shot.color_camera, turns),
        depth_camera=turned_camera(shot.depth_camera, turns),
        load=partial(_turned, shot.load, turns),
    )


def _turned(
    load: Callable[[], tuple[Tensor, Tensor | None]], turns: int
) -> tuple[Tensor, Tensor | None]:
    color, depth = load()
    return torch.rot90(color, turns).contiguous(), (
        None if depth is None else torch.rot90(depth, turns).contiguous()
    )
