"""A room written in each format of one's own scans and converted back has the
same points and the same pseudo labels.

The same for ScanNet, S3DIS and 2D-3D-S, where points come from files and are
equal to the last bit, stands in their own tests (``TestRoundTrip`` of
test_convert_scannet.py, the first of ``TestRooms`` in test_convert_s3dis.py).
Here points are made from depth, and some fall into the next cell of the grid
because formats round the digits of poses."""

from dataclasses import replace

import pytest
import torch
from scipy.spatial import KDTree
from small_scene import write_rgbd
from test_convert_scan import OWN, WRITERS, converted, room_frames, scan_of

from vlg_lib.classes import ROOMS_12
from vlg_lib.convert.formats.rgbd_folder import (
    RgbdSettings,
    convert_rgbd_folder,
)
from vlg_lib.data.depth_fusion import points_from_frames
from vlg_lib.data.layout import read_scene
from vlg_lib.fusion import fuse_scene
from vlg_lib.pseudo_labels import make_pseudo_labels
from vlg_lib.scene import Scene

TAGS = ("wall", "floor", "table", "chair", "sofa")
CELL = 0.1


def pseudo_labels(scene: Scene) -> torch.Tensor:
    """Pseudo labels where colours are embeddings and words are random
    vectors."""
    text = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    fused = fuse_scene(scene, lambda image: image.float() - 127.0)
    return make_pseudo_labels(
        fused,
        torch.nn.functional.normalize(text, dim=1),
        scene.scene_labels,
        0.1,
    ).labels


def assert_same_labels(found: Scene, frames) -> None:
    points, colors = points_from_frames(frames, CELL)
    expected = Scene("", points, colors, frames, ROOMS_12, ROOMS_12.mask(TAGS))
    assert torch.equal(found.scene_labels, expected.scene_labels)
    distances, nearest = KDTree(points.numpy()).query(found.points.numpy())
    assert abs(len(found.points) - len(points)) <= 0.005 * len(points)
    same_place = torch.from_numpy(distances < 1e-4)
    assert float(same_place.float().mean()) > 0.98
    labels = pseudo_labels(expected)[nearest]
    equal = pseudo_labels(found) == labels
    assert float(equal[same_place].float().mean()) > 0.998
    assert len(labels.unique()) >= 4


@pytest.mark.parametrize("which", WRITERS)
def test_a_format_keeps_the_pseudo_labels(which, tmp_path):
    form, frames, _ = scan_of(which, tmp_path / "data" / "scan")
    up = "y" if form in ("record3d", "polycam") else "z"
    scene = converted(
        tmp_path / "data" / "scan",
        tmp_path / "out",
        form,
        up=up,
        cell=CELL,
        scene_labels=TAGS,
    )
    assert_same_labels(scene, frames)


def test_a_plain_folder_keeps_the_pseudo_labels(tmp_path):
    frames = [
        replace(f, depth=((f.depth.double() * 1000).round() / 1000).float())
        for f in room_frames(OWN)
    ]
    folder = write_rgbd(tmp_path / "scan", frames)
    chosen = RgbdSettings(class_set="rooms-12", scene_labels=TAGS, cell=CELL)
    convert_rgbd_folder(folder, tmp_path / "out", chosen)
    assert_same_labels(read_scene(tmp_path / "out"), frames)
