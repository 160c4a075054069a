"""Scans in the coordinates of a country (hundreds of kilometres from the
origin) come out as they would at the origin, and go back to where they were."""

import json

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement
from small_scene import write_rgbd
from test_convert_scan import OWN, converted, room_frames, scan_of

from vlg_lib.convert.formats.rgbd_folder import (
    RgbdSettings,
    convert_rgbd_folder,
)
from vlg_lib.data.layout import read_manifest, read_scene, read_world_offset
from vlg_lib.own_scan.diagnosis import check
from vlg_lib.own_scan.label import label_scan

OFFSET = np.array([500000.123, 4000000.456, 100.789])


def write_doubles(path, points, colors):
    rows = np.zeros(
        len(points),
        [(axis, "f8") for axis in "xyz"]
        + [(name, "u1") for name in ("red", "green", "blue")],
    )
    for i, axis in enumerate("xyz"):
        rows[axis] = points[:, i]
    for i, name in enumerate(("red", "green", "blue")):
        rows[name] = colors[:, i]
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))


def moved_away(folder):
    """Move the cameras of a nerfstudio folder."""
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    for frame in content["frames"]:
        matrix = np.array(frame["transform_matrix"])
        matrix[:3, 3] += OFFSET
        frame["transform_matrix"] = matrix.tolist()
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("with_cloud", [False, True])
def test_a_scan_far_from_the_origin(tmp_path, with_cloud):
    near, far = tmp_path / "near" / "scan", tmp_path / "far" / "scan"
    scan_of("nerfstudio", near)
    scan_of("nerfstudio", far)
    moved_away(far)
    options = [{"up": "z"}, {"up": "z"}]
    if with_cloud:
        scene = converted(near, tmp_path / "first", "nerfstudio", up="z")
        for i, offset in enumerate((np.zeros(3), OFFSET)):
            cloud = tmp_path / f"{i}.ply"
            write_doubles(cloud, scene.points.numpy() + offset, scene.colors)
            options[i]["cloud"] = cloud
    a = converted(near, tmp_path / "a", "nerfstudio", **options[0])
    b = converted(far, tmp_path / "b", "nerfstudio", **options[1])
    assert read_world_offset(tmp_path / "a").tolist() == [0, 0, 0]
    found = read_world_offset(tmp_path / "b")
    assert np.abs(found.numpy() - OFFSET).max() < 10
    own = torch.from_numpy(OFFSET) - found
    assert torch.allclose(
        b.frames.poses[:, :3, 3], a.frames.poses[:, :3, 3] + own, atol=1e-6
    )
    if with_cloud:
        assert torch.allclose(
            b.points.double(), a.points.double() + own, atol=1e-5
        )
    report = check(tmp_path / "b")
    assert report.findings == []
    assert report.measures["agreement of points and frames"] > 0.95
    alignment = torch.tensor(
        read_manifest(tmp_path / "b")["axis_alignment"],
        dtype=torch.float64,
    )
    assert torch.allclose(-alignment[:3, 3], found)


def test_a_posed_folder_and_what_is_labelled(tmp_path):
    frames = [
        type(frame)(
            frame.name,
            frame.camera,
            frame.camera_to_world
            + torch.nn.functional.pad(
                torch.from_numpy(OFFSET)[:, None], (3, 0, 0, 1)
            ),
            frame.color,
            frame.depth,
        )
        for frame in room_frames(OWN)
    ]
    folder = write_rgbd(tmp_path / "scan", frames)
    chosen = RgbdSettings(class_set="rooms-12", scene_labels=("wall", "floor"))
    convert_rgbd_folder(folder, tmp_path / "scene", chosen)
    scene = read_scene(tmp_path / "scene")
    assert float(scene.points.abs().max()) < 20
    assert check(tmp_path / "scene").findings == []
    label_scan(
        tmp_path / "scene", tmp_path / "out", ["wall", "floor"], progress=False
    )
    rows = PlyData.read(tmp_path / "out" / "labelled.ply")["vertex"].data
    written = np.stack([rows[axis] for axis in "xyz"], axis=1)
    offset = read_world_offset(tmp_path / "scene").numpy()
    assert np.abs(written - (scene.points.numpy() + offset)).max() < 1e-6
