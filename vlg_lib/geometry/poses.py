"""Poses as 4x4 matrices: checks, inverses, rotations, camera axes (chapter 01).

A pose takes **camera to world**: the columns of its rotation are the camera's
right, down and forward in the world, and its last column is where the camera
stands. A change of the camera's own axes therefore stands on the right of a
pose, a change of the world on the left. Which way is up in a world is the
subject of :mod:`vlg_lib.geometry.upright`.
"""

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""From a camera's right, up, backward (OpenGL, Blender, ARKit) to right, down,
forward: (4, 4) float64, on the right of a camera-to-world pose. It is its own
inverse."""

_LEAST_LENGTH = 1e-6  # of a quaternion that says a direction
_LEAST_DETERMINANT = 1e-9  # of a matrix that can be inverted


def check_pose(
    camera_to_world: Float[Tensor, "..."], tolerance: float = 1e-3
) -> None:
    """Raise ValueError saying what is wrong where a matrix is not a rigid 4x4
    camera-to-world pose.

    Every entry must be finite (ScanNet marks lost tracking with -inf), the last
    row 0 0 0 1, and the 3x3 block a rotation: R R^T = I within ``tolerance`` in
    each entry, without mirroring (det R > 0).

    >>> check_pose(torch.eye(4))
    >>> check_pose(torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0])))
    Traceback (most recent call last):
    ...
    ValueError: the pose mirrors the world (det R = -1): ...
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
    last = pose.new_tensor([0.0, 0.0, 0.0, 1.0])
    if float((pose[3] - last).abs().max()) > tolerance:
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


def is_pose(matrix: Float[Tensor, "..."]) -> bool:
    """Whether :func:`check_pose` finds nothing wrong with a matrix.

    >>> is_pose(torch.eye(4)), is_pose(torch.eye(3)), is_pose(unknown_pose())
    (True, False, False)
    """
    try:
        check_pose(matrix)
    except ValueError:
        return False
    return True


def unknown_pose() -> Float[Tensor, "4 4"]:
    """What readers of foreign formats give for a frame without a pose: 4x4
    float64, all NaN. It is no pose, so such frames are left out and counted.

    >>> bool(unknown_pose().isnan().all())
    True
    """
    return torch.full((4, 4), torch.nan, dtype=torch.float64)


def inverse(pose: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
    """World-to-camera from camera-to-world and back; what has no inverse, or
    is not finite, becomes :func:`unknown_pose`.

    >>> pose = torch.eye(4, dtype=torch.float64)
    >>> pose[0, 3] = 2.0  # the camera stands at x = 2
    >>> inverse(pose)[0, 3].item()  # seen from it, the origin is at x = -2
    -2.0
    """
    if (
        not bool(pose.isfinite().all())
        or abs(float(torch.linalg.det(pose))) < _LEAST_DETERMINANT
    ):
        return unknown_pose()
    return torch.linalg.inv(pose)


def pose_from_quaternion(
    quaternion: Sequence[float], translation: Sequence[float]
) -> Float[Tensor, "4 4"]:
    """A 4x4 matrix, float64, from a quaternion **x, y, z, w** of any length and
    a translation; :func:`unknown_pose` where the quaternion has no length or is
    not finite.

    >>> half = 0.5**0.5  # a quarter turn about z
    >>> pose = pose_from_quaternion([0, 0, half, half], [1, 2, 3])
    >>> pose.round().int().tolist()
    [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    """
    numbers = np.asarray(quaternion, dtype=np.float64)
    if (
        not np.isfinite(numbers).all()
        or np.linalg.norm(numbers) < _LEAST_LENGTH
    ):
        return unknown_pose()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(Rotation.from_quat(numbers).as_matrix())
    pose[:3, 3] = torch.tensor(translation, dtype=torch.float64)
    return pose


def opengl_to_opencv(
    poses: Float[Tensor, "*views 4 4"],
) -> Float[Tensor, "*views 4 4"]:
    """Camera-to-world poses whose camera axes are right, up, backward (OpenGL,
    Blender, nerfstudio, ARKit) as poses with right, down, forward (OpenCV,
    COLMAP, this library).

    ``poses``: (..., 4, 4), of any floating dtype, which stays. The camera stays
    where it stands. Twice the function is no change, so it is the way back,
    too.

    >>> ours = opengl_to_opencv(torch.eye(4))  # looks along -z, as OpenGL does
    >>> ours[:3, 2].tolist()
    [0.0, 0.0, -1.0]
    >>> torch.equal(opengl_to_opencv(ours), torch.eye(4))
    True
    """
    return poses @ OPENGL.to(poses)


def signed_permutations() -> list[Float[Tensor, "4 4"]]:
    """The 48 matrices (float64) that swap and flip three axes, the identity
    first; half of them are rotations.

    >>> signs = [torch.linalg.det(each) > 0 for each in signed_permutations()]
    >>> len(signs), int(sum(signs))
    (48, 24)
    """
    flips = [
        torch.diag(torch.tensor([*signs, 1.0], dtype=torch.float64))
        for signs in product((1.0, -1.0), repeat=3)
    ]
    return [
        flip[[*order, 3]] for order in permutations(range(3)) for flip in flips
    ]


def rotation_matrix(
    yaw: float, roll: float = 0.0, pitch: float = 0.0
) -> Float[Tensor, "3 3"]:
    """R = Rz(yaw) Ry(pitch) Rx(roll), float32, angles in radians: ``points @
    R.T`` turns points.

    >>> quarter = rotation_matrix(torch.pi / 2)
    >>> (torch.tensor([[1.0, 0.0, 0.0]]) @ quarter.T).round().int().tolist()
    [[0, 1, 0]]
    """
    # small letters: about the fixed axes, one after the other
    turn = Rotation.from_euler("xyz", [roll, pitch, yaw])
    return torch.from_numpy(turn.as_matrix()).float()
