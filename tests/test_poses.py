"""Poses as matrices: what is one, inverses, quaternions, and the one flip
between the camera axes of two worlds of programs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import vlg_lib
from vlg_lib.geometry.poses import (
    OPENGL,
    inverse,
    is_pose,
    opengl_to_opencv,
    pose_from_quaternion,
    rotation_matrix,
    signed_permutations,
    unknown_pose,
)

NUMBERS = st.floats(-10, 10)


def some_pose(seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(
        Rotation.from_quat(rng.normal(size=4)).as_matrix()
    )
    pose[:3, 3] = torch.from_numpy(rng.normal(size=3))
    return pose


class TestOpenGl:
    def test_by_hand(self):
        """A camera at (2, 0, 1) that looks along x, up is z: its third axis
        points backward, its second up."""
        found = torch.tensor(
            [[0, 0, -1, 2], [-1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]],
            dtype=torch.float64,
        )
        ours = opengl_to_opencv(found)
        right, down, forward = ours[:3, :3].unbind(1)
        assert right.tolist() == [0, -1, 0]
        assert down.tolist() == [0, 0, -1]
        assert forward.tolist() == [1, 0, 0]
        assert ours[:3, 3].tolist() == [2, 0, 1]

    def test_twice_is_nothing_and_a_batch_is_each(self):
        poses = torch.stack([some_pose(seed) for seed in range(6)])
        assert torch.equal(opengl_to_opencv(opengl_to_opencv(poses)), poses)
        assert torch.equal(
            opengl_to_opencv(poses.view(2, 3, 4, 4))[1, 2],
            opengl_to_opencv(poses[5]),
        )
        assert is_pose(opengl_to_opencv(poses[0]))
        assert opengl_to_opencv(poses.float()).dtype == torch.float32

    def test_the_flip_is_written_once(self):
        """Nowhere else in the library: a sign that is typed again is a sign
        that can be wrong."""
        root = Path(vlg_lib.__file__).parent
        flip = re.compile(r"\[1(?:\.0)?, -1(?:\.0)?, -1(?:\.0)?(?:, 1|\])")
        found = {
            path.relative_to(root).as_posix(): len(flip.findall(text))
            for path in root.rglob("*.py")
            if flip.search(text := path.read_text())
        }
        assert found == {"geometry/poses.py": 1}
        assert torch.equal(OPENGL @ OPENGL, torch.eye(4, dtype=torch.float64))


class TestInverse:
    def test_there_and_back(self):
        pose = some_pose(3)
        assert torch.allclose(
            inverse(pose) @ pose, torch.eye(4, dtype=torch.float64), atol=1e-12
        )

    @pytest.mark.parametrize(
        "matrix",
        [
            torch.zeros(4, 4, dtype=torch.float64),
            torch.full((4, 4), -torch.inf, dtype=torch.float64),
            unknown_pose(),
        ],
    )
    def test_what_has_none(self, matrix):
        assert bool(inverse(matrix).isnan().all())
        assert not is_pose(inverse(matrix))


class TestQuaternion:
    @given(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS))
    def test_of_any_length(self, quaternion):
        pose = pose_from_quaternion(quaternion, (1.0, 2.0, 3.0))
        x, y, z, w = quaternion
        length = float(np.linalg.norm(quaternion))
        assert is_pose(pose) == (length >= 1e-6)
        if length > 1e-3:
            x, y, z, w = (part / length for part in quaternion)
            # the first column, as it stands in every text book
            expected = [
                1 - 2 * (y * y + z * z),
                2 * (x * y + z * w),
                2 * (x * z - y * w),
            ]
            assert pose[:3, 0].tolist() == pytest.approx(expected, abs=1e-9)
            assert pose[:3, 3].tolist() == [1, 2, 3]

    def test_numbers_that_are_none(self):
        assert not is_pose(pose_from_quaternion((0, 0, 0, np.nan), (0, 0, 0)))
        assert not is_pose(pose_from_quaternion((0, 0, 0, 0), (0, 0, 0)))
        assert not is_pose(pose_from_quaternion((0, 0, 0, 1), (np.inf, 0, 0)))


def test_signed_permutations_are_all_different_and_begin_with_none():
    matrices = signed_permutations()
    assert torch.equal(matrices[0], torch.eye(4, dtype=torch.float64))
    assert len({tuple(each.flatten().tolist()) for each in matrices}) == 48
    assert sum(is_pose(each) for each in matrices) == 24


def test_rotations_about_one_axis_each():
    points = torch.eye(3)
    quarter = torch.pi / 2
    for turn, expected in (
        (rotation_matrix(quarter), [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
        (rotation_matrix(0, roll=quarter), [[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
        (rotation_matrix(0, pitch=quarter), [[0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    ):
        assert (points @ turn.T).round().int().tolist() == expected
