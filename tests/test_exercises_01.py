"""Chapter 01's exercise checks pass the solution and fail typical wrong answers
with a hint."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vlg_lib.exercises import chapter01 as exercises
from vlg_lib.geometry.cameras import (
    crop_camera,
    project,
    resize_camera,
    unproject,
)
from vlg_lib.scene import Camera, Frame


def test_pinhole(capsys: pytest.CaptureFixture[str]) -> None:
    def solution(points: Tensor, camera: Camera) -> Tensor:
        x, y, z = points.unbind(-1)
        return torch.stack(
            [camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy],
            dim=-1,
        )

    def one_focal_length(points: Tensor, camera: Camera) -> Tensor:
        return solution(points, replace(camera, fy=camera.fx))

    def no_division(points: Tensor, camera: Camera) -> Tensor:
        return solution(
            torch.cat([points[:, :2] / 2, torch.ones(len(points), 1)], dim=1),
            camera,
        )

    exercises.check_pinhole(solution)
    assert "ok: pinhole" in capsys.readouterr().out
    # float64
    exercises.check_pinhole(
        lambda points, camera: project(points, camera, torch.eye(4))[0]
    )
    with pytest.raises(AssertionError, match="fx = 210, fy = 190"):
        exercises.check_pinhole(one_focal_length)
    with pytest.raises(AssertionError, match="division"):
        exercises.check_pinhole(no_division)
    with pytest.raises(AssertionError, match="by hand"):
        exercises.check_pinhole(
            lambda points, camera: solution(points, camera).flip(-1)
        )
    with pytest.raises(AssertionError, match="returns nothing"):
        exercises.check_pinhole(lambda points, camera: None)


def test_inverse_pose() -> None:
    def solution(pose: Tensor) -> Tensor:
        inverse = torch.eye(4, dtype=pose.dtype)
        inverse[:3, :3] = pose[:3, :3].T
        inverse[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
        return inverse

    def shift_not_rotated(pose: Tensor) -> Tensor:
        inverse = solution(pose)
        inverse[:3, 3] = -pose[:3, 3]
        return inverse

    def in_place(pose: Tensor) -> Tensor:
        pose[:3, :3] = pose[:3, :3].T.clone()
        return pose

    exercises.check_inverse_pose(solution)
    exercises.check_inverse_pose(torch.linalg.inv)
    with pytest.raises(AssertionError, match="shift is rotated"):
        exercises.check_inverse_pose(shift_not_rotated)
    with pytest.raises(AssertionError, match="inverse of a rotation"):
        exercises.check_inverse_pose(lambda pose: -pose)
    with pytest.raises(AssertionError, match="work on a copy"):
        exercises.check_inverse_pose(in_place)


def test_zoomed_camera() -> None:
    def solution(
        camera: Camera,
        left: int,
        top: int,
        width: int,
        height: int,
        factor: int,
    ) -> Camera:
        return resize_camera(
            crop_camera(camera, left, top, width, height),
            width * factor,
            height * factor,
        )

    def without_half_pixel(
        camera: Camera,
        left: int,
        top: int,
        width: int,
        height: int,
        factor: int,
    ) -> Camera:
        right = solution(camera, left, top, width, height, factor)
        return replace(
            right, cx=(camera.cx - left) * factor, cy=(camera.cy - top) * factor
        )

    def wrong_order(
        camera: Camera,
        left: int,
        top: int,
        width: int,
        height: int,
        factor: int,
    ) -> Camera:
        large = resize_camera(
            camera, camera.width * factor, camera.height * factor
        )
        return replace(
            large,
            cx=large.cx - left,
            cy=large.cy - top,
            width=width * factor,
            height=height * factor,
        )

    exercises.check_zoomed_camera(solution)
    for wrong in (without_half_pixel, wrong_order):
        with pytest.raises(AssertionError, match="edge of the cut-out"):
            exercises.check_zoomed_camera(wrong)
    with pytest.raises(AssertionError, match="another size"):
        exercises.check_zoomed_camera(
            lambda camera, *box: crop_camera(camera, *box[:4])
        )


def test_pose_direction() -> None:
    def solution(first: Frame, second: Frame) -> str:
        def agreement(invert: bool) -> float:
            one, other = (
                (
                    torch.linalg.inv(f.camera_to_world)
                    if invert
                    else f.camera_to_world
                )
                for f in (first, second)
            )
            points, _ = unproject(first.depth, first.camera, one)
            positions, z = project(points, second.camera, other)
            u, v = (positions + 0.5).floor().long().unbind(-1)
            inside = (
                (z > 0)
                & (u >= 0)
                & (u < second.camera.width)
                & (v >= 0)
                & (v < second.camera.height)
            )
            there = second.depth[v[inside], u[inside]]
            return float(
                ((there > 0) & ((there - z[inside]).abs() < 0.05)).sum()
            )

        return (
            "camera-to-world"
            if agreement(False) > agreement(True)
            else "world-to-camera"
        )

    exercises.check_pose_direction(solution)
    with pytest.raises(AssertionError, match="are world-to-camera"):
        exercises.check_pose_direction(lambda first, second: "camera-to-world")
    with pytest.raises(AssertionError, match="two names"):
        exercises.check_pose_direction(lambda first, second: "yes")
