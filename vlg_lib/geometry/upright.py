"""Which way is up in a scan whose world says nothing of it: from how cameras
are held, then from the floor.
"""

import torch
from torch import Tensor

from vlg_lib.geometry.poses import level_up

TILT = 25.0
"""Degrees that the floor may be off the up direction that the cameras
suggest."""


def upright(poses: Tensor, points: Tensor) -> Tensor:
    """The 4x4 rotation (float64) that makes a world stand upright, z up.

    ``poses``: (F, 4, 4) camera-to-world. People hold cameras level, which tells
    up to a few degrees; then the largest plane of ``points`` (N, 3) that is
    nearly level is made level: floor, ceiling and tables agree on that.
    ValueError where the cameras do not show which way is up.
    """
    hint = level_up(poses)
    if hint is None:
        mean = -poses[:, :3, 1].mean(dim=0)
        if float(mean.norm()) < 0.7:
            raise ValueError(
                "which way is up does not show (the cameras were not held"
                " level): say it with --up"
            )
        hint = mean / mean.norm()
    return rotation_to_z(level_normal(points.double(), hint))


def level_normal(points: Tensor, hint: Tensor, trials: int = 500) -> Tensor:
    """The unit normal of the plane with most points within TILT degrees of
    ``hint`` (RANSAC with a fixed seed).

    A point belongs to a plane within 0.5 % of the cloud's diagonal. ``hint``
    itself where there is no such plane.
    """
    generator = torch.Generator().manual_seed(0)
    some = points[torch.randperm(len(points), generator=generator)[:3000]]
    near = 0.005 * float((some.amax(dim=0) - some.amin(dim=0)).norm())
    best, normal = 3, hint
    for _ in range(trials):
        a, b, c = some[torch.randint(len(some), (3,), generator=generator)]
        across = torch.linalg.cross(b - a, c - a)
        if not _within(across, hint):
            continue
        inliers = ((some - a) @ (across / across.norm())).abs() < near
        if int(inliers.sum()) > best:
            plane = some[inliers]
            fitted = torch.linalg.svd(
                plane - plane.mean(dim=0), full_matrices=False
            )[2][2]
            if _within(fitted, hint):
                best, normal = (
                    int(inliers.sum()),
                    fitted * torch.sign(fitted @ hint),
                )
    return normal


def _within(direction: Tensor, hint: Tensor) -> bool:
    cosine = (direction @ hint).abs() / direction.norm().clamp(min=1e-12)
    return bool(cosine > torch.tensor(TILT).deg2rad().cos())


def rotation_to_z(up: Tensor) -> Tensor:
    """The smallest 4x4 rotation (float64) that takes the unit vector ``up`` to
    z (half a turn about x for -z).
    """
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    rotation, axis, cosine = (
        torch.eye(4, dtype=torch.float64),
        torch.linalg.cross(up.double(), z),
        float(up[2]),
    )
    if cosine < -1 + 1e-9:
        return torch.diag(
            torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
        )
    x, y, w = axis.tolist()
    skew = torch.tensor(
        [[0.0, -w, y], [w, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64
    )
    rotation[:3, :3] += skew + skew @ skew / (1 + cosine)  # Rodrigues' formula
    return rotation
