"""Which way is up, by the world's axes, the cameras or the floor; and which
side of an image belongs on top.

The library's world has z up. A scan says in its format, or by its maker, which
of its axes points up (:func:`up_rotation` turns it), or nobody says so, and it
is found from how the cameras were held (:func:`level_up`) and then from the
floor (:func:`upright`). Poses are camera-to-world with camera axes right, down,
forward, as everywhere.
"""

import torch
from jaxtyping import Float
from torch import Tensor

AXES = ("x", "y", "z", "-x", "-y", "-z")
"""The names of the six directions along the axes of a world."""

TILT = 25.0
"""Degrees that the floor may be off the up direction that the cameras
suggest."""

CLEAR = 0.7
"""How far up (the cosine) a direction must point on average over the cameras to
be believed."""


def up_rotation(up: str) -> Float[Tensor, "4 4"]:
    """The 4x4 rotation (float64) that turns the axis ``up``, one of AXES, of a
    world onto z; the other axes follow in their cyclic order.

    It stands on the left of a camera-to-world pose. ValueError for another
    name.

    >>> point = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    >>> (up_rotation("y") @ point).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    if up not in AXES:
        raise ValueError(
            f"expected --up to be one of {', '.join(AXES)}, found {up!r}"
        )
    axis = "xyz".index(up[-1])
    rotation = torch.eye(4, dtype=torch.float64)
    rotation[:3, :3] = 0.0
    rotation[2, axis] = -1.0 if up.startswith("-") else 1.0
    rotation[0, (axis + 1) % 3] = 1.0
    rotation[1, :3] = torch.linalg.cross(rotation[2, :3], rotation[0, :3])
    return rotation


def rotation_to_z(up: Float[Tensor, " 3"]) -> Float[Tensor, "4 4"]:
    """The smallest 4x4 rotation (float64) that takes the unit vector ``up`` to
    z (half a turn about x for -z), by Rodrigues' formula.

    >>> up = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    >>> (rotation_to_z(up)[:3, :3] @ up).round(decimals=9).abs().tolist()
    [0.0, 0.0, 1.0]
    """
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    cosine = float(up[2])
    if cosine < -1 + 1e-9:
        return up_rotation("-z")
    x, y, w = torch.linalg.cross(up.double(), z).tolist()
    skew = torch.tensor(
        [[0.0, -w, y], [w, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64
    )
    rotation = torch.eye(4, dtype=torch.float64)
    rotation[:3, :3] += skew + skew @ skew / (1 + cosine)
    return rotation


def level_up(poses: Float[Tensor, "F 4 4"]) -> Float[Tensor, " 3"] | None:
    """The world's up direction, unit length, from poses: the rows of images are
    level wherever one looks.

    ``poses``: (F, 4, 4) camera-to-world. None where it does not show: the
    cameras hardly turn, or were not held level.

    >>> heads = torch.linspace(0, 6, 7, dtype=torch.float64)  # looking around
    >>> poses = torch.eye(4, dtype=torch.float64).repeat(7, 1, 1)
    >>> poses[:, 0, 0], poses[:, 1, 0] = heads.cos(), heads.sin()
    >>> poses[:, :3, 1] = torch.tensor([0.0, 0.0, -1.0])  # down is -z
    >>> poses[:, :3, 2] = torch.linalg.cross(poses[:, :3, 0], poses[:, :3, 1])
    >>> level_up(poses).round().abs().tolist()
    [0.0, 0.0, 1.0]
    """
    right, down, forward = poses[:, :3, :3].unbind(2)
    shares, axes = torch.linalg.eigh(right.T @ right / len(right))
    if shares[0] > 0.3 * shares[1] or shares[1] < 0.05:
        return None
    # people look down more than up
    above = (axes[:, 0] @ (-down - 0.5 * forward).T).sum()
    return axes[:, 0] * torch.sign(above)


def mean_up(poses: Float[Tensor, "F 4 4"]) -> Float[Tensor, " 3"]:
    """The images' up direction in the world, on average over (F, 4, 4)
    camera-to-world poses: (3,), not of unit length. People hold cameras
    upright, so it points to the sky.

    >>> mean_up(torch.eye(4, dtype=torch.float64)[None])[1].item()
    -1.0
    """
    return -poses[:, :3, 1].mean(dim=0)


def up_advice(poses: Float[Tensor, "F 4 4"]) -> str | None:
    """A hint where the cameras' own up direction says that another axis than z
    points up; None where all is well.

    ``poses``: (F, 4, 4) camera-to-world, in a world that should have z up.

    >>> advice = up_advice(torch.eye(4, dtype=torch.float64)[None])
    >>> advice.endswith("not z: is --up right?")
    True
    """
    mean = mean_up(poses)
    if int(mean.abs().argmax()) == 2 and mean[2] > 0:
        return None
    # no -0.0
    shown = [round(x, 2) + 0.0 for x in mean.tolist()]
    return (
        f"the images' up direction is on average {shown}, not z: is --up right?"
    )


def upright(
    poses: Float[Tensor, "F 4 4"], points: Float[Tensor, "N 3"]
) -> Float[Tensor, "4 4"]:
    """The 4x4 rotation (float64) that makes a world stand upright, z up.

    ``poses``: (F, 4, 4) camera-to-world. People hold cameras level, which tells
    up to a few degrees; then the largest plane of ``points`` (N, 3) that is
    nearly level is made level: floor, ceiling and tables agree on that.
    ValueError where the cameras do not show which way is up.

    >>> poses = torch.eye(4, dtype=torch.float64)[None]  # down is y
    >>> floor = torch.tensor([[0.0, 1, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]])
    >>> turned = floor.double() @ upright(poses, floor)[:3, :3].T
    >>> turned[:, 2].round().tolist()  # the floor is level, and below
    [-1.0, -1.0, -1.0, -1.0]
    """
    hint = level_up(poses)
    if hint is None:
        mean = mean_up(poses)
        if float(mean.norm()) < CLEAR:
            raise ValueError(
                "which way is up does not show (the cameras were not held"
                " level): say it with --up"
            )
        hint = mean / mean.norm()
    return rotation_to_z(level_normal(points.double(), hint))


def level_normal(
    points: Float[Tensor, "N 3"], hint: Float[Tensor, " 3"], trials: int = 500
) -> Float[Tensor, " 3"]:
    """The unit normal of the plane with most points within TILT degrees of
    ``hint``, by RANSAC (Fischler and Bolles, 1981) with a fixed seed.

    ``points``: (N, 3) float64, metres. A point belongs to a plane within 0.5 %
    of the cloud's diagonal. ``hint``, a unit vector (3,) float64, is returned
    where there is no such plane.

    >>> floor = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    >>> hint = torch.tensor([0.1, 0.0, 0.995], dtype=torch.float64)
    >>> level_normal(floor.double(), hint).abs().round().tolist()
    [0.0, 0.0, 1.0]
    """
    generator = torch.Generator().manual_seed(0)
    some = points[torch.randperm(len(points), generator=generator)[:3000]]
    near = 0.005 * float((some.amax(dim=0) - some.amin(dim=0)).norm())
    most, normal = 3, hint
    for _ in range(trials):
        a, b, c = some[torch.randint(len(some), (3,), generator=generator)]
        across = torch.linalg.cross(b - a, c - a)
        if not _is_near(across, hint):
            continue
        inliers = ((some - a) @ (across / across.norm())).abs() < near
        if int(inliers.sum()) <= most:
            continue
        fitted = _plane_normal(some[inliers])
        if _is_near(fitted, hint):
            most = int(inliers.sum())
            normal = fitted * torch.sign(fitted @ hint)
    return normal


def _plane_normal(points: Float[Tensor, "N 3"]) -> Float[Tensor, " 3"]:
    """The unit normal of the plane that fits points best; its sign is free."""
    centred = points - points.mean(dim=0)
    return torch.linalg.svd(centred, full_matrices=False)[2][2]


def _is_near(direction: Float[Tensor, " 3"], hint: Float[Tensor, " 3"]) -> bool:
    """Whether a direction, of any length and sign, lies within TILT of a unit
    vector.
    """
    cosine = (direction @ hint).abs() / direction.norm().clamp(min=1e-12)
    return bool(cosine > torch.tensor(TILT).deg2rad().cos())


def sideways(poses: Float[Tensor, "F 4 4"]) -> int:
    """How many quarter turns, counter-clockwise, make most images of a scan
    stand upright; 0 where it does not show.

    ``poses``: (F, 4, 4) camera-to-world in a world with z up. A side of the
    images that is above in the world belongs on top; where the cameras look
    straight down, or were held in many ways, no side is clearly above.

    >>> pose = torch.eye(4, dtype=torch.float64)
    >>> pose[:3, :3] = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    >>> sideways(pose[None])  # the images' right side points to the sky
    1
    """
    right, down = poses[:, 2, 0].mean(), poses[:, 2, 1].mean()
    # top, right, bottom, left: what comes to the top after k turns
    sides = torch.stack([-down, right, down, -right])
    k = int(sides.argmax())
    return k if float(sides[k]) > CLEAR else 0
