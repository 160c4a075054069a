"""Poses, rotations and axes: the one home of every flip, inverse and upright
turn (chapter 01).
"""

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor


def check_pose(camera_to_world: Tensor, tolerance: float = 1e-3) -> None:
    """Raise ValueError saying what is wrong where a matrix is not a rigid 4x4
    camera-to-world pose.

    Every entry must be finite (ScanNet marks lost tracking with -inf), the last
    row 0 0 0 1, and the 3x3 block a rotation: R R^T = I within ``tolerance`` in
    each entry, without mirroring (det R > 0).
    """
    if tuple(camera_to_world.shape) != (4, 4):
        raise ValueError(
            "expected a 4x4 camera-to-world pose, found shape"
            f" {tuple(camera_to_world.shape)}"
        )
    pose = camera_to_world.double()
    if not bool(pose.isfinite().all()):
        raise ValueError(
            "the pose has NaN or infinite entries: tracking was lost in this"
            " frame, so leave it out"
        )
    if (
        pose[3] - pose.new_tensor([0.0, 0.0, 0.0, 1.0])
    ).abs().max() > tolerance:
        raise ValueError(
            f"the last row of a pose is 0 0 0 1, found {pose[3].tolist()}: is"
            " the matrix transposed?"
        )
    rotation = pose[:3, :3]
    error = float(
        (rotation @ rotation.T - torch.eye(3).to(rotation)).abs().max()
    )
    if error > tolerance:
        raise ValueError(
            f"the pose is not rigid: R R^T is off the identity by {error:.2g}"
            f" (allowed {tolerance:g})"
        )
    if torch.linalg.det(rotation) < 0:
        raise ValueError(
            "the pose mirrors the world (det R = -1): one axis has the wrong"
            " sign"
        )


def signed_permutations() -> list[Float[Tensor, "4 4"]]:
    """The 48 matrices that swap and flip three axes, the identity first; half
    of them are rotations.
    """
    flips = [
        torch.diag(torch.tensor([*signs, 1.0], dtype=torch.float64))
        for signs in product((1.0, -1.0), repeat=3)
    ]
    return [
        flip[[*order, 3]] for order in permutations(range(3)) for flip in flips
    ]


def level_up(poses: Float[Tensor, "F 4 4"]) -> Float[Tensor, " 3"] | None:
    """The world's up direction, unit length, from poses: the rows of images are
    level wherever one looks.

    None where it does not show: the cameras hardly turn, or were not held
    level.
    """
    right, down, forward = poses[:, :3, :3].unbind(2)
    shares, axes = torch.linalg.eigh(right.T @ right / len(right))
    if shares[0] > 0.3 * shares[1] or shares[1] < 0.05:
        return None
    return axes[:, 0] * torch.sign(
        (axes[:, 0] @ (-down - 0.5 * forward).T).sum()
    )


def rotation_matrix(
    yaw: float, roll: float = 0.0, pitch: float = 0.0
) -> Float[Tensor, "3 3"]:
    """R = Rz(yaw) Ry(pitch) Rx(roll), float32, angles in radians: ``points @
    R.T`` turns points.

    >>> (torch.tensor([[1.0, 0.0, 0.0]]) @ rotation_matrix(torch.pi / 2).T).round().int().tolist()
    [[0, 1, 0]]
    """
    # small letters: about the fixed axes, one after the other
    turn = Rotation.from_euler("xyz", [roll, pitch, yaw])
    return torch.from_numpy(turn.as_matrix()).float()


def up_rotation(up: str) -> Tensor:
    """The 4x4 rotation (float64) that turns the axis ``up`` ("x", "-y", ...) of
    a world onto z.

    >>> up_rotation("y") @ torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    tensor([0., 0., 1., 1.], dtype=torch.float64)
    """
    axis, sign = "xyz".index(up[-1]), -1.0 if up.startswith("-") else 1.0
    rotation = torch.eye(4, dtype=torch.float64)
    rotation[:3, :3] = 0.0
    rotation[2, axis] = sign
    rotation[0, (axis + 1) % 3] = 1.0
    rotation[1, :3] = torch.linalg.cross(rotation[2, :3], rotation[0, :3])
    return rotation


OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""From a camera's right, up, backward to right, down, forward, on the right of
a camera-to-world pose."""


def pose_from(
    quaternion: Sequence[float], translation: Sequence[float]
) -> Tensor:
    """A 4x4 pose (float64) from a quaternion x, y, z, w of any length and a
    translation; NaN where it has no length.
    """
    pose = torch.eye(4, dtype=torch.float64)
    if not np.isfinite(quaternion).all() or np.linalg.norm(quaternion) < 1e-6:
        return torch.full((4, 4), torch.nan, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(
        Rotation.from_quat(np.asarray(quaternion, dtype=np.float64)).as_matrix()
    )
    pose[:3, 3] = torch.tensor(translation, dtype=torch.float64)
    return pose


def inverse(pose: Tensor) -> Tensor:
    """World-to-camera from camera-to-world and back; what is no pose becomes
    NaN.
    """
    if (
        not bool(pose.isfinite().all())
        or abs(float(torch.linalg.det(pose))) < 1e-9
    ):
        return torch.full((4, 4), torch.nan, dtype=torch.float64)
    return torch.linalg.inv(pose)
