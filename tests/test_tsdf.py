"""Points by TSDF fusion lie on the surfaces of a made room, nearer than
averages of the same noisy depth."""

import builtins
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from vlg_lib.convert.tsdf import tsdf_points
from vlg_lib.data.depth_fusion import points_from_frames
from vlg_lib.rooms.scenes import (
    make_room,
    render_frame,
    room_camera,
    room_poses,
)
from vlg_lib.scene import Frame

CELL = 0.04
ROOM = make_room(15_002)


@cache
def frames(noise: float) -> tuple[Frame, ...]:
    """Eight views of the room; every measured depth is off by a normal error of
    ``noise`` metres."""
    generator, camera = torch.Generator().manual_seed(0), room_camera(128, 96)
    views = [
        render_frame(ROOM, camera, pose, seed=i, name=str(i)).frame
        for i, pose in enumerate(room_poses(ROOM, 8))
    ]
    errors = [
        noise * torch.randn(view.depth.shape, generator=generator)
        for view in views
    ]
    return tuple(
        replace(v, depth=torch.where(v.depth > 0, v.depth + e, 0.0))
        for v, e in zip(views, errors, strict=True)
    )


def distances(points: torch.Tensor) -> np.ndarray:
    """Metres from each point to the nearest face of a box of the room, outside
    or inside."""
    nearest = np.full(len(points), np.inf)
    for center, half, rotation in zip(
        ROOM.centers, ROOM.half_sizes, ROOM.rotations, strict=True
    ):
        beyond = np.abs((points.double().numpy() - center) @ rotation) - half
        outside = np.linalg.norm(np.maximum(beyond, 0), axis=1)
        nearest = np.minimum(
            nearest,
            np.where(beyond.max(axis=1) > 0, outside, -beyond.max(axis=1)),
        )
    return nearest


def test_points_lie_on_the_surfaces():
    pytest.importorskip("open3d", reason="Open3D is an optional package")
    points, colors = tsdf_points(frames(0.0), CELL)
    off = distances(points)
    print(
        f"{len(points)} points, median {np.median(off) * 1000:.1f} mm, 95 %"
        f" {np.quantile(off, 0.95) * 1000:.1f} mm"
    )
    assert np.median(off) < 0.005  # half a pixel of error makes it 9 mm
    assert np.quantile(off, 0.95) < 0.025
    assert points.dtype == torch.float32
    assert colors.dtype == torch.uint8
    averages = points_from_frames(frames(0.0), CELL)[0]
    assert 0.5 < len(points) / len(averages) < 1.2


def test_noise_averages_out_across_the_surface():
    pytest.importorskip("open3d", reason="Open3D is an optional package")
    fused, averaged = (
        np.median(distances(make(frames(0.03), CELL)[0]))
        for make in (tsdf_points, points_from_frames)
    )
    print(
        f"noise of 30 mm: TSDF {fused * 1000:.1f} mm, averages"
        f" {averaged * 1000:.1f} mm"
    )
    assert fused < 0.75 * averaged


def test_colours_are_those_of_the_room():
    pytest.importorskip("open3d", reason="Open3D is an optional package")
    points, colors = tsdf_points(frames(0.0), CELL)
    known, truth = points_from_frames(frames(0.0), CELL)
    _, nearest = cKDTree(known.numpy()).query(points.numpy())
    both = torch.stack(
        [colors.double().flatten(), truth[nearest].double().flatten()]
    )
    assert torch.corrcoef(both)[0, 1] > 0.9


def test_what_is_not_there_is_said():
    pytest.importorskip("open3d", reason="Open3D is an optional package")
    view = frames(0.0)[0]
    with pytest.raises(ValueError, match="frame '0' has no depth map"):
        tsdf_points([replace(view, depth=None)], CELL)
    with pytest.raises(ValueError, match="no surface"):
        tsdf_points([replace(view, depth=torch.zeros_like(view.depth))], CELL)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModuleNotFoundError("No module named 'open3d'", name="open3d"),
            r"not installed here: pip install open3d \(or take --points",
        ),
        (
            ImportError("libGL.so.1: cannot open shared object file"),
            "installed here but cannot be imported; a library of the system",
        ),
    ],
)
def test_without_open3d_the_error_says_how_to_get_it(monkeypatch, error, words):
    whole = builtins.__import__

    def without(name, *arguments, **options):
        if name == "open3d":
            raise error
        return whole(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=words) as told:
        tsdf_points(frames(0.0), CELL)
    # installed or not: the reason is that of the import
    assert str(told.value).endswith(str(error))
