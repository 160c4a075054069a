"""Chapter 12's exercise checks pass the solution and fail typical wrong answers
with a hint."""

import pytest
import torch
from torch import Tensor

from vlg_lib.exercises import chapter12 as exercises

FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
SCALES = torch.tensor([1000.0, 5000.0, 4000.0, 512.0])


def median_scale(codes: Tensor, metres: Tensor) -> float:
    ratio = (codes[codes > 0] / metres[codes > 0]).median()
    return float(SCALES[(SCALES / ratio).log().abs().argmin()])


def up_axis(poses: Tensor, sign: float = -1.0, column: int = 1) -> str:
    mean = sign * poses[:, :3, column].mean(dim=0)
    axis = int(mean.abs().argmax())
    return ("-" if mean[axis] < 0 else "") + "xyz"[axis]


def test_from_opengl(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_from_opengl(lambda pose: pose @ FLIP)
    assert "ok: from_opengl" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="the camera has moved"):
        exercises.check_from_opengl(lambda pose: FLIP @ pose)
    with pytest.raises(AssertionError, match="third axis points backward"):
        exercises.check_from_opengl(
            lambda pose: (
                pose @ torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0])).double()
            )
        )
    with pytest.raises(AssertionError, match="has changed"):
        exercises.check_from_opengl(lambda pose: pose.mul_(2))
    with pytest.raises(AssertionError, match="returns nothing yet"):
        exercises.check_from_opengl(lambda pose: None)


def test_depth_scale(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_depth_scale(median_scale)
    assert "ok: depth_scale" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="a mean follows a few"):
        exercises.check_depth_scale(
            lambda c, m: round(float((c[c > 0] / m[c > 0]).mean()) / 10) * 10.0
        )
    with pytest.raises(AssertionError, match="what does a missing"):
        exercises.check_depth_scale(
            lambda c, m: float(c.float().mean() / m.mean())
        )
    with pytest.raises(AssertionError, match="returns nothing yet"):
        exercises.check_depth_scale(lambda codes, metres: None)


def test_up_axis(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_up_axis(up_axis)
    assert "ok: up_axis" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="image rows count downwards"):
        exercises.check_up_axis(lambda poses: up_axis(poses, sign=1.0))
    with pytest.raises(AssertionError, match="which column"):
        exercises.check_up_axis(lambda poses: "y")
    with pytest.raises(AssertionError, match="returns nothing yet"):
        exercises.check_up_axis(lambda poses: None)
