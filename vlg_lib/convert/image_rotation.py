"""Scans whose images lie on their side, as phones store them: turned by quarter
turns, camera and pose with them.

A 2D model that learnt from upright photographs sees little in an image that
lies on its side. How many turns a scan needs is found by
:func:`vlg_lib.geometry.upright.sideways`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from vlg_lib.convert.frames import Images, Shot
from vlg_lib.scene import Camera


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
    """A frame with its images, both cameras and its pose turned
    counter-clockwise by quarter turns; points that it sees stay where they are.
    """
    # its x axis is the old y, its y axis the old -x
    quarter = torch.eye(4, dtype=torch.float64)
    quarter[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turn = torch.linalg.matrix_power(quarter, turns % 4)
    return replace(
        shot,
        camera_to_world=shot.camera_to_world @ turn,
        color_camera=turned_camera(shot.color_camera, turns),
        depth_camera=turned_camera(shot.depth_camera, turns),
        load=partial(_turned, shot.load, turns),
    )


def _turned(load: Callable[[], Images], turns: int) -> Images:
    color, depth = load()
    color = torch.rot90(color, turns).contiguous()
    if depth is not None:
        depth = torch.rot90(depth, turns).contiguous()
    return color, depth
