"""Checks of the exercises of chapter 12: axes of another program, the unit of a
depth image, which way is up.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def _poses(count: int, generator: torch.Generator) -> Tensor:
    """Random rigid matrices, (count, 4, 4) float64."""
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    turns = torch.linalg.qr(
        torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)
    )[0]
    poses[:, :3, :3] = (
        turns * torch.sign(torch.linalg.det(turns))[:, None, None]
    )
    poses[:, :3, 3] = torch.randn(
        count, 3, generator=generator, dtype=torch.float64
    )
    return poses


def check_from_opengl(from_opengl: Callable[[Tensor], Tensor]) -> None:
    """The camera stays where it is, its x axis stays, and what was up and
    backward is down and forward.

    >>> check_from_opengl(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: from_opengl returns nothing yet
    """
    for pose in _poses(10, torch.Generator().manual_seed(0)):
        kept = pose.clone()
        found = from_opengl(pose)
        assert found is not None, "from_opengl returns nothing yet"
        assert torch.equal(pose, kept), (
            "the matrix that came in has changed: work on a copy"
        )
        assert torch.allclose(found[:3, 3], pose[:3, 3]), (
            "the camera has moved. Its place is the last column: on which side"
            " must the flip stand to leave it alone?"
        )
        assert torch.allclose(found[:3, 0], pose[:3, 0]), (
            "right is right in both conventions: the first column stays"
        )
        assert torch.allclose(found[:3, 1], -pose[:3, 1]), (
            "their second axis points up, ours down"
        )
        assert torch.allclose(found[:3, 2], -pose[:3, 2]), (
            "their third axis points backward, ours forward"
        )
        assert torch.allclose(from_opengl(found), pose), (
            "twice the flip is no flip"
        )
    print("ok: from_opengl")


def check_depth_scale(depth_scale: Callable[[Tensor, Tensor], float]) -> None:
    """The unit that lays most codes onto the expected depths, in spite of
    missing pixels and of wrong ones.

    >>> check_depth_scale(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: depth_scale returns nothing yet
    """
    generator = torch.Generator().manual_seed(1)
    for expected in (1000.0, 5000.0, 4000.0, 512.0):
        metres = 1 + 3 * torch.rand(400, generator=generator)
        codes = (metres * expected).round().long()
        codes[:80] = 0
        found = depth_scale(codes, metres)
        assert found is not None, "depth_scale returns nothing yet"
        assert found == expected, (
            f"one pixel in five has no depth (code 0): expected {expected:g},"
            f" found {found:g}; what does a missing pixel say about the unit?"
        )
        # something stands where the model has nothing
        codes[80:150] = codes[80:150] * 3
        found = depth_scale(codes, metres)
        assert found == expected, (
            f"some pixels show other things than expected: wanted {expected:g},"
            f" found {found:g}; a mean follows a few wild values, and what does"
            " not?"
        )
    print("ok: depth_scale")


def check_up_axis(up_axis: Callable[[Tensor], str]) -> None:
    """The name of the axis that points up, for worlds turned all six ways and
    cameras that look down a little.

    >>> check_up_axis(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: up_axis returns nothing yet
    """
    generator = torch.Generator().manual_seed(2)
    for name in ("x", "y", "z", "-x", "-y", "-z"):
        up = torch.zeros(3, dtype=torch.float64)
        up["xyz".index(name[-1])] = -1.0 if name[0] == "-" else 1.0
        side = torch.roll(up.abs(), 1)
        poses = torch.eye(4, dtype=torch.float64).repeat(12, 1, 1)
        for i, pose in enumerate(poses):
            heading = torch.tensor(2 * torch.pi * i / 12, dtype=torch.float64)
            level = heading.cos() * side + heading.sin() * torch.linalg.cross(
                up, side
            )
            tilt = 0.6 * torch.rand(1, generator=generator, dtype=torch.float64)
            forward = tilt.cos() * level - tilt.sin() * up
            right = torch.linalg.cross(level, up)
            pose[:3, :3] = torch.stack(
                [right, torch.linalg.cross(forward, right), forward], dim=1
            )
            pose[:3, 3] = torch.randn(
                3, generator=generator, dtype=torch.float64
            )
        found = up_axis(poses)
        assert found is not None, "up_axis returns nothing yet"
        opposite = name[1:] if name[0] == "-" else f"-{name}"
        assert found != opposite, (
            f"expected {name!r}, found {found!r}: image rows count downwards,"
            " so y points ..."
        )
        assert found == name, (
            f"expected {name!r}, found {found!r}: which column of a pose is the"
            " image's own down?"
        )
    print("ok: up_axis")
