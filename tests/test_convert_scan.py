"""Scans of foreign formats, written by the tests themselves, come back as the
scene that they were."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import foreign_files
import numpy as np
import pytest
import torch
from convert_command import vlg_convert
from PIL import Image

from vlg_lib.classes import ROOMS_12
from vlg_lib.convert.depth_maps import is_whole_map, map_size, read_map
from vlg_lib.convert.formats.registry import FORMATS
from vlg_lib.convert.registration import common_camera
from vlg_lib.convert.scan import (
    ScanSettings,
    convert_one,
    convert_scans,
    open_scan,
)
from vlg_lib.data.depth_fusion import points_from_frames
from vlg_lib.data.layout import LayoutError, read_manifest, read_scene
from vlg_lib.data.ply import write_points
from vlg_lib.geometry.cameras import project, resize_camera
from vlg_lib.rooms.scenes import (
    make_room,
    render_frame,
    room_camera,
    room_poses,
)
from vlg_lib.scene import Camera, Frame, Scene

OWN = room_camera(64, 48)
WRITERS = {
    "7-scenes": (
        "7-scenes",
        foreign_files.write_seven_scenes,
        Camera(585.0, 585.0, 320.0, 240.0, 640, 480),
    ),
    "tum": (
        "tum",
        foreign_files.write_tum,
        Camera(525.0, 525.0, 319.5, 239.5, 640, 480),
    ),
    "replica": ("replica", foreign_files.write_replica, OWN),
    "open3d log": ("open3d", foreign_files.write_open3d_log, OWN),
    "open3d json": ("open3d", foreign_files.write_open3d_json, OWN),
    "record3d": ("record3d", foreign_files.write_record3d, OWN),
    "polycam": ("polycam", foreign_files.write_polycam, OWN),
    "arkitscenes": ("arkitscenes", foreign_files.write_arkitscenes, OWN),
    "nerfstudio": ("nerfstudio", foreign_files.write_nerfstudio, OWN),
    "colmap": ("colmap", foreign_files.write_colmap, OWN),
    "colmap dense": ("colmap", foreign_files.write_colmap_dense, OWN),
}


@cache
def room_frames(camera: Camera, views: int = 4) -> tuple[Frame, ...]:
    room = make_room(15_002)
    poses = room_poses(room, views)
    return tuple(
        render_frame(room, camera, pose, seed=i, name=str(i)).frame
        for i, pose in enumerate(poses)
    )


def scan_of(which: str, folder: Path) -> tuple[str, tuple[Frame, ...], float]:
    """Write a room in a format: (its name, the frames with the depth that its
    units can hold, depth units a metre)."""
    name, write, camera = WRITERS[which]
    frames = room_frames(resize_camera(camera, 64, 48))
    folder.mkdir(parents=True)
    scale = write(folder, frames)
    rounded = [
        replace(f, depth=((f.depth.double() * scale).round() / scale).float())
        for f in frames
    ]
    return name, tuple(rounded), scale


def converted(folder: Path, out: Path, form: str, **settings) -> Scene:
    chosen = ScanSettings(form, class_set="rooms-12", **settings)
    convert_one(folder.name, out, {folder.name: folder}, chosen)
    return read_scene(out)


@pytest.mark.parametrize("which", WRITERS)
def test_a_room_comes_back_as_it_was(which, tmp_path):
    form, frames, scale = scan_of(which, tmp_path / "data" / "scan")
    up = "y" if form in ("record3d", "polycam") else "z"
    scene = converted(
        tmp_path / "data" / "scan",
        tmp_path / "out",
        form,
        up=up,
        scene_labels=("floor", "wall"),
    )
    assert scene.skipped == {}
    assert scene.class_set.present(scene.scene_labels) == ("floor", "wall")
    assert len(scene.frames) == len(frames)
    for found, expected in zip(scene.frames, frames, strict=True):
        assert torch.equal(found.color, expected.color)
        assert torch.equal(found.depth, expected.depth)
        assert torch.allclose(
            found.camera_to_world, expected.camera_to_world, atol=1e-6
        )
        for key in ("fx", "fy", "cx", "cy"):
            assert getattr(found.camera, key) == pytest.approx(
                getattr(expected.camera, key), abs=1e-9
            )
    points, colors = points_from_frames(frames, 0.04)
    # digits of the poses move a point over an edge
    assert abs(len(scene.points) - len(points)) <= 0.002 * len(points)
    if len(points) == len(scene.points):
        assert (scene.points - points).abs().median() < 1e-5
        assert (scene.colors.int() - colors.int()).abs().float().median() == 0
    assert read_manifest(tmp_path / "out")["depth_scale"] == scale


def test_cameras_of_their_own_are_brought_onto_one(tmp_path):
    """Every second frame zooms in: what a pixel shows stays where the common
    camera says it is."""
    wide, near = (
        OWN,
        replace(OWN, fx=OWN.fx * 1.2, fy=OWN.fy * 1.2, cx=OWN.cx - 2),
    )
    frames = [
        (room_frames(wide), room_frames(near))[i % 2][i] for i in range(4)
    ]
    (tmp_path / "scan").mkdir()
    foreign_files.write_nerfstudio(tmp_path / "scan", frames, per_frame=True)
    _, shots = open_scan(tmp_path / "scan", ScanSettings("nerfstudio"))
    camera = shots.camera
    assert near.fx > camera.fx > wide.fx
    expected = room_frames(camera)
    for found, truth in zip(shots, expected, strict=True):
        assert found.camera == camera
        error = (found.depth - truth.depth).abs() / truth.depth.clamp(min=0.1)
        assert error.median() < 0.02  # the nearest pixel of another grid
        colors = torch.stack(
            [found.color.double().flatten(), truth.color.double().flatten()]
        )
        # images are noisy, and drawn anew
        assert torch.corrcoef(colors)[0, 1] > 0.8


def test_common_camera_by_hand():
    wide, near = (
        Camera(50.0, 50.0, 49.5, 39.5, 100, 80),
        Camera(100.0, 100.0, 49.5, 39.5, 100, 80),
    )
    common = common_camera([wide, near])
    # half the angle of the wide one
    assert (common.width, common.height, common.fx) == (75, 60, 75.0)
    assert common_camera([wide, wide]) == wide
    assert (common.cx, common.cy) == (37.0, 29.5)
    with pytest.raises(LayoutError, match="no direction of view"):
        common_camera([wide, replace(wide, cx=500.0)])


def turned_by_hand(frame: Frame, quarters: int) -> Frame:
    """A frame with its sensor lying on its side: each pixel is moved, and the
    camera turned about its axis."""
    camera, pose, color, depth = (
        frame.camera,
        frame.camera_to_world.double(),
        frame.color.numpy(),
        frame.depth.numpy(),
    )
    for _ in range(quarters):  # clockwise: what was on top is now on the right
        height, width = depth.shape
        grids = (
            np.empty((width, height, 3), np.uint8),
            np.empty((width, height), np.float32),
        )
        for v in range(height):
            grids[0][:, height - 1 - v], grids[1][:, height - 1 - v] = (
                color[v],
                depth[v],
            )
        color, depth = grids
        camera = Camera(
            camera.fy,
            camera.fx,
            height - 1 - camera.cy,
            camera.cx,
            height,
            width,
        )
        # its right is the old up
        pose = torch.cat([-pose[:, 1:2], pose[:, 0:1], pose[:, 2:]], dim=1)
    return Frame(
        frame.name,
        camera,
        pose,
        torch.from_numpy(color),
        torch.from_numpy(depth),
    )


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_images_on_their_side_are_turned_upright(tmp_path, quarters):
    """A phone was held another way: the same points, and the images as if it
    had been held upright."""
    camera = replace(OWN, fx=OWN.fx * 1.1, cx=OWN.cx - 3, cy=OWN.cy + 2)
    whole = [
        replace(f, depth=((f.depth.double() * 1000).round() / 1000).float())
        for f in room_frames(camera)
    ]
    lying = [turned_by_hand(frame, quarters) for frame in whole]
    (tmp_path / "scan").mkdir()
    foreign_files.write_arkitscenes(tmp_path / "scan", lying)
    scene = converted(tmp_path / "scan", tmp_path / "out", "arkitscenes")
    for found, expected in zip(scene.frames, whole, strict=True):
        assert torch.equal(found.color, expected.color)
        assert torch.equal(found.depth, expected.depth)
        assert torch.allclose(
            found.camera_to_world, expected.camera_to_world.double(), atol=1e-6
        )
        for key in ("fx", "fy", "cx", "cy"):
            assert getattr(found.camera, key) == pytest.approx(
                getattr(camera, key)
            )
    assert (
        read_manifest(tmp_path / "out")["provenance"]["turned"] == 90 * quarters
    )
    if quarters == 1:
        kept = converted(
            tmp_path / "scan", tmp_path / "kept", "arkitscenes", turn=0
        )
        assert torch.equal(kept.frames[0].color, lying[0].color)


def test_the_better_poses_of_polycam(tmp_path):
    (tmp_path / "scan").mkdir()
    foreign_files.write_polycam(
        tmp_path / "scan", room_frames(OWN), corrected=True
    )
    scene = converted(tmp_path / "scan", tmp_path / "out", "polycam", up="y")
    assert torch.allclose(
        scene.frames[2].camera_to_world,
        room_frames(OWN)[2].camera_to_world.double(),
        atol=1e-6,
    )


def test_units_of_colmap(tmp_path):
    _, frames, _ = scan_of("colmap", tmp_path / "scan")
    scene = converted(
        tmp_path / "scan", tmp_path / "out", "colmap", up="z", metres=2.0
    )
    assert torch.allclose(
        scene.frames[1].camera_to_world[:3, 3],
        2 * frames[1].camera_to_world[:3, 3],
        atol=1e-6,
    )
    assert torch.allclose(scene.frames[1].depth, 2 * frames[1].depth, atol=1e-6)
    pixels, depth = project(
        scene.points[:1],
        scene.frames[0].camera,
        scene.frames[0].camera_to_world,
    )
    assert pixels.isfinite().all()
    assert depth.isfinite().all()


def test_sparse_points_of_colmap_where_there_is_no_depth(tmp_path):
    scan_of("colmap", tmp_path / "scan")
    for path in (tmp_path / "scan" / "depth").iterdir():
        path.unlink()
    (tmp_path / "scan" / "depth").rmdir()
    scene = converted(tmp_path / "scan", tmp_path / "out", "colmap", up="z")
    assert scene.points.tolist() == [[i * 0.5, 1.0, -2.0] for i in range(1, 5)]
    assert scene.colors[:, 0].tolist() == [1, 2, 3, 4]
    assert scene.frames[0].depth is None


def test_a_simple_pinhole(tmp_path):
    (tmp_path / "scan").mkdir()
    foreign_files.write_colmap(tmp_path / "scan", room_frames(OWN), simple=True)
    assert next(FORMATS["colmap"].read(tmp_path / "scan")).camera == OWN


class TestLeftOut:
    def test_lost_tracking_and_missing_files_are_counted(self, tmp_path):
        form, _, _ = scan_of("7-scenes", tmp_path / "scan")
        np.savetxt(
            tmp_path / "scan" / "frame-000000.pose.txt",
            np.full((4, 4), -np.inf),
        )
        (tmp_path / "scan" / "frame-000001.depth.png").unlink()
        (tmp_path / "scan" / "frame-000002.color.png").write_bytes(b"none")
        scene = converted(tmp_path / "scan", tmp_path / "out", form, up="z")
        assert scene.skipped == {
            "invalid pose": 1,
            "missing depth": 1,
            "unreadable image": 1,
        }

    def test_an_image_without_a_pose_in_time(self, tmp_path):
        form, _, _ = scan_of("tum", tmp_path / "scan")
        lines = (tmp_path / "scan" / "groundtruth.txt").read_text().splitlines()
        (tmp_path / "scan" / "groundtruth.txt").write_text(
            "\n".join(lines[:-2])
        )
        scene = converted(tmp_path / "scan", tmp_path / "out", form)
        assert scene.skipped == {"invalid pose": 1}

    def test_images_between_two_poses_of_arkit(self, tmp_path):
        """Ten poses a second, and images that come in between."""
        scan_of("arkitscenes", tmp_path / "scan")
        path = tmp_path / "scan/41254925_frames/lowres_wide.traj"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
        scene = converted(tmp_path / "scan", tmp_path / "out", "arkitscenes")
        assert scene.skipped == {"invalid pose": 1}

    def test_every_second(self, tmp_path):
        form, _, _ = scan_of("replica", tmp_path / "a" / "scan")
        scene = converted(
            tmp_path / "a" / "scan", tmp_path / "out", form, every=2
        )
        assert scene.frames.names == ("frame000000", "frame000002")


class TestDepthMapsOfColmap:
    def test_a_map_by_hand(self, tmp_path):
        path = tmp_path / "a.jpg.geometric.bin"
        path.write_bytes(
            b"3&2&1&"
            + np.array([1.5, np.nan, 0.25, -1.0, np.inf, 2.0], "<f4").tobytes()
        )
        assert map_size(path) == (2, 3)
        assert read_map(path, 1000.0, ()).tolist() == [
            [1.5, 0.0, 0.25],
            [0.0, 0.0, 2.0],
        ]
        assert is_whole_map(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"3&2&1&" + bytes(20), "expected 2 x 3 numbers, found 5"),
            (b"3&2&3&" + bytes(72), "expected a depth map of COLMAP"),
            (b"0&2&1&", "expected a size of an image, found 0 x 2"),
            (b"\x89PNG", "expected a depth map of COLMAP"),
            (b"", "expected a depth map of COLMAP"),
        ],
    )
    def test_damaged_maps(self, tmp_path, content, message):
        path = tmp_path / "a.bin"
        path.write_bytes(content)
        assert not is_whole_map(path)
        with pytest.raises(LayoutError, match=message):
            read_map(path, 1000.0, ())

    def test_a_map_that_is_cut_short_costs_a_frame(self, tmp_path):
        scan_of("colmap dense", tmp_path / "scan")
        path = tmp_path / "scan/stereo/depth_maps/f1.png.geometric.bin"
        path.write_bytes(path.read_bytes()[:-8])
        scene = converted(tmp_path / "scan", tmp_path / "out", "colmap", up="z")
        assert scene.skipped == {"unreadable image": 1}


class TestErrors:
    def fails(self, which, tmp_path, message, spoil):
        form, _, _ = scan_of(which, tmp_path / "a" / "scan")
        spoil(tmp_path / "a" / "scan")
        with pytest.raises(LayoutError, match=message):
            converted(tmp_path / "a" / "scan", tmp_path / "out", form, up="z")
        assert not (tmp_path / "out").exists()

    def edit(self, name, old, new):
        def spoil(folder):
            text = (folder / name).read_text()
            assert old in text
            (folder / name).write_text(text.replace(old, new))

        return spoil

    def test_distorted_cameras_are_refused_with_the_mend(self, tmp_path):
        spoil = self.edit("sparse/0/cameras.txt", "7 PINHOLE", "7 OPENCV")
        self.fails(
            "colmap",
            tmp_path / "1",
            r"cameras\.txt, line 2: .*'OPENCV'.*image_undistorter",
            spoil,
        )
        spoil = self.edit("transforms.json", '"k1": 0.0', '"k1": 0.1')
        self.fails(
            "nerfstudio",
            tmp_path / "2",
            r"transforms\.json: a distorted camera .*k1.*undistort",
            spoil,
        )

    def test_poses_that_do_not_fit_the_images(self, tmp_path):
        shorter = lambda folder: (folder / "traj.txt").write_text(
            (folder / "traj.txt").read_text().split("\n", 1)[1]
        )
        self.fails(
            "replica",
            tmp_path / "1",
            r"traj\.txt: expected 4 lines, one an image, found 3",
            shorter,
        )

        def one_less(folder):
            for i, path in enumerate(sorted((folder / "color").iterdir())):
                path.rename(path.with_name(f"{'abcd'[i]}.png"))
            (folder / "color" / "d.png").unlink()

        self.fails(
            "open3d log",
            tmp_path / "2",
            "found 4 poses, 3 colour and 4 depth",
            one_less,
        )

    def test_an_image_of_another_shape(self, tmp_path):
        turned = lambda folder: Image.new("RGB", (48, 64)).save(
            folder / "images" / "f1.png"
        )
        self.fails(
            "nerfstudio",
            tmp_path,
            r"f1\.png: expected the shape of 64 x 48 pixels.*turned or cut",
            turned,
        )

    def test_a_name_that_leads_out_of_the_folder(self, tmp_path):
        spoil = self.edit(
            "transforms.json", "images/f1.png", "../../etc/f1.png"
        )
        self.fails(
            "nerfstudio",
            tmp_path,
            r"transforms\.json: expected names of files in",
            spoil,
        )

    def test_names_and_cameras_of_arkit(self, tmp_path):
        """Each costs its image; where it costs all of them, it is told."""

        def gone(folder):
            for path in folder.glob("*/lowres_wide_intrinsics/*"):
                path.unlink()

        self.fails(
            "arkitscenes",
            tmp_path / "1",
            r"4 x missing camera\).*41254925_3244\.123\.pincam: no such file,"
            r" nor of this time",
            gone,
        )

        def other(folder):
            for i, path in enumerate(folder.glob("*/lowres_wide/*")):
                path.rename(path.with_name(f"{'abcd'[i]}.png"))

        self.fails(
            "arkitscenes",
            tmp_path / "2",
            r"[a-d]\.png: expected a name that ends in a time",
            other,
        )

    def test_a_binary_model(self, tmp_path):
        gone = lambda folder: (folder / "sparse/0/images.txt").unlink()
        self.fails(
            "colmap",
            tmp_path,
            r"images\.txt: no such file; write the model as text",
            gone,
        )

    def test_settings_that_make_no_sense(self):
        for wrong in (
            {"format": "ply"},
            {"format": "tum", "every": 0},
            {"format": "tum", "metres": 0.0},
            {"format": "tum", "points": "mesh"},
            {"format": "tum", "turn": 45},
        ):
            with pytest.raises(
                ValueError,
                match=(
                    r"unknown format|must be positive|expected points to be"
                    r" one of"
                ),
            ):
                ScanSettings(**wrong)


class TestManyScans:
    def test_a_bad_scan_among_good_ones(self, tmp_path):
        scan_of("nerfstudio", tmp_path / "good")
        scan_of("nerfstudio", tmp_path / "bad")
        (tmp_path / "bad" / "transforms.json").write_text("{")
        chosen = ScanSettings(
            "nerfstudio",
            classes=("wall", "plant pot"),
            scene_labels=("wall",),
        )
        sources, out = [tmp_path / "good", tmp_path / "bad"], tmp_path / "out"
        result = convert_scans(sources, out, chosen, progress=False)
        assert list(result.failed) == ["bad"]
        assert "1 scenes converted, 0 kept, 1 failed" in str(result)
        assert "transforms.json: not JSON" in str(result)
        scene = read_scene(tmp_path / "out" / "good")
        assert scene.class_set.names == ("wall", "plant pot")
        again = convert_scans(sources, out, chosen, progress=False)
        assert "0 scenes converted, 1 kept, 1 failed" in str(again)

    def test_a_scene_of_an_earlier_release_is_kept(self, tmp_path):
        """The converter had another name; its settings are the same."""
        scan_of("nerfstudio", tmp_path / "scan")
        chosen = ScanSettings(
            "nerfstudio", cloud=tmp_path / "cloud.ply", every=2
        )
        write_points(
            tmp_path / "cloud.ply",
            torch.tensor([[1.0, 2.0, 3.0]]),
            torch.tensor([[9, 8, 7]], dtype=torch.uint8),
        )
        sources = [tmp_path / "scan"]
        convert_scans(sources, tmp_path / "out", chosen, progress=False)
        path = tmp_path / "out" / "scan" / "scene.json"
        manifest = json.loads(path.read_text())
        assert manifest["provenance"]["converter"] == "vlg convert nerfstudio"
        assert manifest["provenance"]["settings"] == {
            "format": "nerfstudio",
            "up": None,
            "every": 2,
            "cell": 0.04,
            "metres": 1.0,
            "depth_scale": None,
            "cloud": str(tmp_path / "cloud.ply"),
            "points": "average",
            "turn": None,
            "class_set": "scannet-20",
            "classes": [],
            "scene_labels": [],
        }
        manifest["provenance"]["converter"] = "data_scripts/convert_scan.py"
        path.write_text(json.dumps(manifest))
        again = convert_scans(sources, tmp_path / "out", chosen, progress=False)
        assert again.kept == ["scan"]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"scene_labels": ("sofabed",)}, "unknown class 'sofabed'"),
            ({"up": "w"}, "expected --up to be an axis"),
            ({"class_set": "none"}, "none"),
        ],
    )
    def test_wrong_settings(self, tmp_path, settings, message):
        with pytest.raises(ValueError, match=message):
            convert_scans(
                [tmp_path], tmp_path / "out", ScanSettings("tum", **settings)
            )

    def test_two_folders_of_one_name(self, tmp_path):
        for parent in ("a", "b"):
            (tmp_path / parent / "scan").mkdir(parents=True)
        with pytest.raises(ValueError, match="folders of different names"):
            convert_scans(
                [tmp_path / "a" / "scan", tmp_path / "b" / "scan"],
                tmp_path / "out",
                ScanSettings("tum"),
            )


class TestCommand:
    def test_a_bad_scan_among_good_ones(self, tmp_path):
        scan_of("nerfstudio", tmp_path / "good")
        scan_of("nerfstudio", tmp_path / "bad")
        (tmp_path / "bad" / "transforms.json").write_text("{")
        result = vlg_convert(
            "nerfstudio",
            tmp_path / "good",
            tmp_path / "bad",
            "--out",
            tmp_path / "out",
            "--classes",
            "wall, plant pot",
            "--tags",
            "wall",
        )
        assert result.exit_code == 1
        assert "1 scenes converted, 0 kept, 1 failed" in result.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--tags", "sofabed"], "unknown class 'sofabed'"),
            (["--up", "w"], "expected --up to be an axis"),
            (["--class-set", "none"], "none"),
        ],
    )
    def test_wrong_options(self, tmp_path, arguments, message):
        result = vlg_convert(
            "tum", tmp_path, "--out", tmp_path / "out", *arguments
        )
        assert result.exit_code == 2
        assert message in result.output


def test_the_class_set_of_a_scene(tmp_path):
    form, _, _ = scan_of("nerfstudio", tmp_path / "scan")
    assert (
        converted(tmp_path / "scan", tmp_path / "out", form).class_set
        == ROOMS_12
    )
    assert (
        json.loads((tmp_path / "out" / "scene.json").read_text())["provenance"][
            "settings"
        ]["format"]
        == "nerfstudio"
    )
