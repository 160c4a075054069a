"""Scans as people have them: values that one program writes and another does
not, names with gaps, files of other systems, single damaged files. What is
whole is kept, and the rest is counted."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import foreign_files
import numpy as np
import pytest
import torch
from convert_command import vlg_convert
from PIL import Image
from small_scene import floor_frame, floor_scene, write_rgbd
from test_convert_scan import OWN, WRITERS, converted, room_frames, scan_of

from vlg_lib.convert.formats.registry import FORMATS
from vlg_lib.convert.formats.rgbd_folder import convert_rgbd_folder
from vlg_lib.convert.scan import ScanSettings, convert_scans, open_scan
from vlg_lib.data.files import read_text
from vlg_lib.data.frames import LayoutError, is_whole_image
from vlg_lib.data.layout import read_manifest, read_scene, write_scene
from vlg_lib.scene import Camera, Scene

MARK = b"\xef\xbb\xbf"
JUNK = b"\0\5\x16\7" + bytes(78)


def to_jpeg(path: Path) -> Path:
    other = path.with_suffix(".jpg")
    Image.open(path).convert("RGB").save(other, quality=95)
    path.unlink()
    return other


def cut(path: Path) -> None:
    """Within the image data: the header stays whole."""
    path.write_bytes(path.read_bytes()[:-150])


def edited(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def of(which: str, tmp_path: Path, **settings) -> Scene:
    """The scene of the scan in ``tmp_path / "a" / "scan"``."""
    form = WRITERS[which][0]
    settings.setdefault("up", "z")
    return converted(
        tmp_path / "a" / "scan", tmp_path / "out", form, **settings
    )


class TestValuesThatAFileCarries:
    def ngp(self, tmp_path, scale=10 / 65535, **extra):
        """As instant-ngp's recorder writes it."""
        scan = tmp_path / "a" / "scan"
        scan_of("nerfstudio", scan)

        def change(content):
            content.update(integer_depth_scale=scale, **extra)
            for frame in content["frames"]:
                frame["depth_path"] = frame.pop("depth_file_path")
                path = scan / frame["depth_path"]
                codes = np.array(Image.open(path)) * (65.535 / 10)
                Image.fromarray(codes.round().astype(np.uint16)).save(path)

        edited(scan / "transforms.json", change)
        return scan

    def test_depth_of_instant_ngp(self, tmp_path):
        self.ngp(tmp_path)
        scene = of("nerfstudio", tmp_path)
        truth = room_frames(OWN)
        for found, expected in zip(scene.frames, truth, strict=True):
            assert torch.allclose(found.depth, expected.depth, atol=1e-3)
        manifest = read_manifest(tmp_path / "out")
        assert manifest["depth_scale"] == pytest.approx(6553.5)

    def test_depth_without_a_unit_is_asked_for(self, tmp_path):
        scan = self.ngp(tmp_path)
        edited(
            scan / "transforms.json",
            lambda content: content.pop("integer_depth_scale"),
        )
        with pytest.raises(LayoutError, match=r"does not say.*--depth-scale"):
            of("nerfstudio", tmp_path)
        scene = of("nerfstudio", tmp_path, depth_scale=6553.5)
        expected = room_frames(OWN)[0].depth
        assert torch.allclose(scene.frames[0].depth, expected, atol=1e-3)

    @pytest.mark.parametrize("scale", [0, -0.1, float("nan"), 1e-320])
    def test_depth_scales_that_are_none(self, tmp_path, scale):
        self.ngp(tmp_path, scale)
        with pytest.raises(LayoutError, match="a positive integer_depth_scale"):
            of("nerfstudio", tmp_path)

    @pytest.mark.parametrize("place", ["file", "frame"])
    def test_fields_of_view_in_degrees(self, tmp_path, place):
        """90 degrees over 64 pixels are 32 px; over 48 pixels, 24."""
        scan = tmp_path / "a" / "scan"
        scan_of("nerfstudio", scan)

        def change(content):
            fl_x = content.pop("fl_x")
            content.pop("fl_y")
            if place == "frame":  # which says otherwise than the file
                content.update(fl_x=fl_x, fl_y=fl_x)
            for target in [content] if place == "file" else content["frames"]:
                target.update(x_fov=90, y_fov=90)

        edited(scan / "transforms.json", change)
        image = next(FORMATS["nerfstudio"].read(scan))
        assert image.camera.fx == pytest.approx(32)
        assert image.camera.fy == pytest.approx(24)

    def test_two_focal_lengths_that_differ(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        scan_of("nerfstudio", scan)
        edited(scan / "transforms.json", lambda c: c.update(x_fov=150))
        with pytest.raises(LayoutError, match=r"fl_x is .* x_fov means"):
            of("nerfstudio", tmp_path)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("k3", 0.01),
            ("k5", 0.01),
            ("is_fisheye", True),
            ("ftheta_p0", 1.0),
            ("equirectangular", True),
            ("rolling_shutter", [0, 0.1, 0, 0]),
            ("camera_model", "OPENCV_FISHEYE"),
        ],
    )
    def test_lenses_are_refused(self, tmp_path, key, value):
        scan = tmp_path / "a" / "scan"
        scan_of("nerfstudio", scan)
        edited(scan / "transforms.json", lambda c: c.update({key: value}))
        with pytest.raises(LayoutError, match="a distorted camera"):
            of("nerfstudio", tmp_path)

    def test_poses_in_a_unit_that_depth_does_not_share(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        scan_of("nerfstudio", scan)
        edited(scan / "transforms.json", lambda c: c.update(applied_scale=0.5))
        with pytest.raises(LayoutError, match=r"applied_scale is 0\.5"):
            of("nerfstudio", tmp_path)

    def tum(self, tmp_path, name="scan"):
        """A camera of 607 px at 640 x 480, at 96 x 72."""
        camera = Camera(91.05, 91.05, 47.0, 35.0, 96, 72)
        scan = tmp_path / "a" / name
        scan.mkdir(parents=True)
        foreign_files.write_tum(scan, room_frames(camera))
        return scan, camera

    def test_the_camera_of_tum_is_said_when_it_is_assumed(self, tmp_path):
        scan, _ = self.tum(tmp_path)
        result = convert_scans(
            [scan], tmp_path / "out", ScanSettings("tum"), progress=False
        )
        assert "525 px at 640 x 480" in str(result)
        assert "--camera" in str(result)

    def test_nothing_is_said_of_the_cameras_of_the_data_set(self, tmp_path):
        scan, _ = self.tum(tmp_path, "rgbd_dataset_freiburg2_desk")
        result = convert_scans(
            [scan], tmp_path / "out", ScanSettings("tum"), progress=False
        )
        assert "note" not in str(result)

    @pytest.mark.parametrize("how", ["calibration", "option", "whole option"])
    def test_another_camera_in_the_form_of_tum(self, tmp_path, how):
        scan, camera = self.tum(tmp_path)
        options = []
        if how == "calibration":
            (scan / "calibration.txt").write_text("91.05 91.05 47 35\n")
        elif how == "option":
            options = ["--camera", "91.05,91.05,47,35"]
        else:  # the centre moves with the pixels' edges: 6.667 times as large
            options = ["--camera", "607,607,316.1667,236.1667,640,480"]
        out = tmp_path / "out"
        result = vlg_convert("tum", scan, "--out", out, "--quiet", *options)
        assert result.exit_code == 0, result.output
        assert "note" not in result.output
        found = read_scene(out / "scan").frames.camera
        for key in ("fx", "fy", "cx", "cy"):
            expected = getattr(camera, key)
            assert getattr(found, key) == pytest.approx(expected, abs=1e-3)

    def test_a_calibration_with_distortion_is_refused(self, tmp_path):
        scan, _ = self.tum(tmp_path)
        (scan / "calibration.txt").write_text("91 91 47 35 0.1 0 0 0\n")
        with pytest.raises(LayoutError, match=r"calibration\.txt: .*undistort"):
            list(FORMATS["tum"].read(scan))

    @pytest.mark.parametrize("words", ["1,2,3", "a,b,c,d", "1,2,3,nan"])
    def test_a_camera_that_is_none(self, tmp_path, words):
        result = vlg_convert(
            "tum", tmp_path, "--out", tmp_path / "out", "--camera", words
        )
        assert result.exit_code == 2
        assert "--camera" in result.output

    def test_a_camera_for_each_pose_of_record3d(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        scan_of("record3d", scan)
        own = [[50.0 + i, 51.0, 31.0, 23.0] for i in range(4)]
        path = scan / "metadata.json"
        edited(path, lambda c: c.update(perFrameIntrinsicCoeffs=own))
        (scan / "rgb/1.png").unlink()
        found = [
            i for i in FORMATS["record3d"].read(scan) if hasattr(i, "pose")
        ]
        assert [image.camera.fx for image in found] == [50.0, 52.0, 53.0]
        edited(path, lambda c: c.update(perFrameIntrinsicCoeffs=own[:3]))
        with pytest.raises(LayoutError, match="perFrameIntrinsicCoeffs"):
            list(FORMATS["record3d"].read(scan))

    def test_polycam_without_sizes(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        scan.mkdir(parents=True)
        foreign_files.write_polycam(scan, room_frames(OWN), corrected=True)
        for path in (scan / "keyframes/corrected_cameras").iterdir():
            edited(path, lambda c: (c.pop("width"), c.pop("height")))
        scene = of("polycam", tmp_path, up="y")
        assert len(scene.frames) == 4
        assert scene.frames.camera.fx == pytest.approx(OWN.fx)

    def test_the_sensor_of_bundlefusion(self, tmp_path):
        """A camera, a depth camera and a depth unit of its own."""
        scan = tmp_path / "a" / "scan"
        scan.mkdir(parents=True)
        foreign_files.write_seven_scenes(scan, room_frames(OWN))
        k = f"{OWN.fx} 0 {OWN.cx} 0 0 {OWN.fy} {OWN.cy} 0 0 0 1 0 0 0 0 1"
        depth_k = k.replace(str(OWN.fx), str(OWN.fx * 1.01))
        (scan / "info.txt").write_text(
            "m_versionNumber = 4\nm_sensorName = Kinect\n"
            "m_colorWidth = 64\nm_colorHeight = 48\n"
            "m_depthWidth = 64\nm_depthHeight = 48\nm_depthShift = 500\n"
            f"m_calibrationColorIntrinsic = {k}\n"
            "m_calibrationColorExtrinsic = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n"
            f"m_calibrationDepthIntrinsic = {depth_k}\n"
        )
        image = next(FORMATS["7-scenes"].read(scan))
        assert (image.camera, image.depth_scale) == (OWN, 500.0)
        assert image.depth_camera.fx == pytest.approx(OWN.fx * 1.01)
        assert image.remark == ""
        text = (scan / "info.txt").read_text()
        (scan / "info.txt").write_text(
            text.replace("= 1 0 0 0 0", "= 1 0 0 0.05 0")
        )
        with pytest.raises(LayoutError, match="not the identity"):
            list(FORMATS["7-scenes"].read(scan))


class TestNumbersInNames:
    @pytest.mark.parametrize(
        ("which", "gone", "left"),
        [
            ("record3d", ["rgb/1.png", "depth/1.png"], [0, 2, 3]),
            ("record3d", ["rgb/0.png", "depth/0.png"], [1, 2, 3]),
            ("record3d", ["rgb/3.png"], [0, 1, 2]),
            (
                "replica",
                ["results/frame000001.png", "results/depth000001.png"],
                [0, 2, 3],
            ),
            ("open3d log", ["color/00001.png", "depth/00001.png"], [0, 2, 3]),
            ("open3d log", ["color/00000.png"], [1, 2, 3]),
            ("open3d log", ["depth/00003.png"], [0, 1, 2]),
            ("open3d json", ["image/2.png", "depth/2.png"], [0, 1, 3]),
        ],
    )
    def test_an_image_is_missing(self, tmp_path, which, gone, left):
        scan = tmp_path / "a" / "scan"
        _, frames, _ = scan_of(which, scan)
        for name in gone:
            (scan / name).unlink()
        scene = of(which, tmp_path, up="y" if which == "record3d" else "z")
        assert sum(scene.skipped.values()) == 1
        self.same_poses(scene, [frames[i] for i in left])

    def same_poses(self, scene, frames):
        assert len(scene.frames) == len(frames)
        for found, expected in zip(scene.frames, frames, strict=True):
            assert torch.allclose(
                found.camera_to_world,
                expected.camera_to_world.double(),
                atol=1e-6,
            )
            assert torch.equal(found.color, expected.color)

    def test_a_pose_of_a_log_is_missing(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        _, frames, _ = scan_of("open3d log", scan)
        path = scan / "trajectory.log"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:5] + lines[10:]))
        scene = of("open3d log", tmp_path)
        assert scene.skipped == {"missing pose": 1}
        self.same_poses(scene, [frames[i] for i in (0, 2, 3)])

    def test_redwoods_names_count_from_one(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        _, frames, _ = scan_of("open3d log", scan)
        for part in ("color", "depth"):
            for i, path in reversed(
                list(enumerate(sorted((scan / part).iterdir())))
            ):
                path.rename(path.with_name(f"{i + 1:06d}-{33366 * i:012d}.png"))
        (scan / "color" / "000004-000000100098.png").unlink()
        (scan / "depth" / "000004-000000100098.png").unlink()
        self.same_poses(of("open3d log", tmp_path), frames[:3])

    def test_a_null_pose_of_record3d(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        scan_of("record3d", scan)

        def change(content):
            content["poses"][2] = None

        edited(scan / "metadata.json", change)
        scene = of("record3d", tmp_path, up="y")
        assert scene.skipped == {"missing pose": 1}

    def test_poses_in_order_where_numbers_cannot_be_theirs(self, tmp_path):
        """Someone cut the list of poses to the images that are left."""
        scan = tmp_path / "a" / "scan"
        _, frames, _ = scan_of("record3d", scan)
        (scan / "rgb/1.png").unlink()
        edited(scan / "metadata.json", lambda c: c["poses"].pop(1))
        scene = of("record3d", tmp_path, up="y")
        self.same_poses(scene, [frames[i] for i in (0, 2, 3)])
        (remark,) = read_manifest(tmp_path / "out")["provenance"]["assumed"]
        assert "2.png is taken for number 1, in order" in remark

    @pytest.mark.parametrize("which", ["record3d", "replica"])
    def test_nothing_is_guessed_where_a_pose_is_missing(self, tmp_path, which):
        scan = tmp_path / "a" / "scan"
        scan_of(which, scan)
        if which == "record3d":
            edited(scan / "metadata.json", lambda c: c["poses"].pop(1))
        else:
            lines = (scan / "traj.txt").read_text().splitlines(keepends=True)
            (scan / "traj.txt").write_text("".join(lines[:1] + lines[2:]))
        with pytest.raises(LayoutError, match=r"expected .*4.* found 3"):
            of(which, tmp_path)


class TestOneBadItem:
    @pytest.mark.parametrize(
        ("which", "part", "reason"),
        [
            ("polycam", "keyframes/cameras", "missing camera"),
            (
                "arkitscenes",
                "41254925_frames/lowres_wide_intrinsics",
                "missing camera",
            ),
        ],
    )
    def test_a_missing_camera_is_named_once(
        self, tmp_path, which, part, reason
    ):
        scan = tmp_path / "a" / "scan"
        scan_of(which, scan)
        gone = sorted((scan / part).iterdir())[1]
        gone.unlink()
        form = WRITERS[which][0]
        result = convert_scans(
            [scan], tmp_path / "out", ScanSettings(form), progress=False
        )
        assert result.skipped == {reason: 1}
        assert str(result).count(f"note: scan: 1 x {reason}, first {scan}") == 1
        assert len(read_scene(tmp_path / "out" / "scan").frames) == 3

    def test_a_frame_without_depth(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        scan_of("nerfstudio", scan)
        edited(
            scan / "transforms.json",
            lambda c: c["frames"][1].pop("depth_file_path"),
        )
        scene = of("nerfstudio", tmp_path)
        assert scene.skipped == {"missing depth": 1}
        assert len(scene.frames) == 3

    def test_truncated_jpegs_in_a_plain_folder(self, tmp_path):
        frames = [floor_frame(str(i), 0.2 * i, 0.1 * i, 2.0) for i in range(4)]
        source = write_rgbd(tmp_path / "scan", frames)
        images = [to_jpeg(p) for p in sorted((source / "images").iterdir())]
        cut(images[2])
        result = convert_rgbd_folder(source, tmp_path / "out", progress=False)
        assert result.skipped == {"unreadable image": 1}
        assert result.frames == 3

    def test_truncated_jpegs_in_a_scene(self, tmp_path):
        folder = tmp_path / "scene"
        write_scene(folder, floor_scene(6), provenance={"converter": "x"})
        images = [to_jpeg(p) for p in sorted((folder / "color").iterdir())]
        cut(images[2])
        scene = read_scene(folder)
        assert scene.skipped["unreadable image"] == 1
        assert [len(frame.name) > 0 for frame in scene.frames] == [True] * 5

    @pytest.mark.parametrize(
        "kind", ["png", "jpg", "progressive", "tiff", "bmp"]
    )
    def test_whole_images(self, tmp_path, kind):
        """Cut anywhere behind its header, it is not whole."""
        noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
        path = tmp_path / f"a.{kind.replace('progressive', 'jpeg')}"
        options = {"progressive": True} if kind == "progressive" else {}
        Image.fromarray(noise).save(path, **options)
        assert is_whole_image(path)
        whole = path.read_bytes()
        for share in (0.3, 0.6, 0.9, 0.99):
            path.write_bytes(whole[: int(share * len(whole))])
            assert not is_whole_image(path), share

    @pytest.mark.parametrize(
        ("which", "file", "reason"),
        [
            ("tum", "groundtruth.txt", "invalid pose"),
            ("tum", "rgb.txt", "unreadable line"),
            ("tum", "depth.txt", "missing depth"),
            ("replica", "traj.txt", "invalid pose"),
            ("open3d log", "trajectory.log", "invalid pose"),
            (
                "arkitscenes",
                "41254925_frames/lowres_wide.traj",
                "invalid pose",
            ),
        ],
    )
    def test_a_list_whose_last_line_is_cut(self, tmp_path, which, file, reason):
        scan = tmp_path / "a" / "scan"
        scan_of(which, scan)
        path = scan / file
        *lines, last = path.read_text().splitlines()
        if file == "groundtruth.txt":  # another pose, 10 ms before this one
            del lines[-1]
        path.write_text("\n".join([*lines, last.split()[0]]))
        scene = of(which, tmp_path)
        assert scene.skipped == {reason: 1}
        assert len(scene.frames) == 3

    def test_depth_of_eight_bits_among_others(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        scan_of("nerfstudio", scan)
        Image.new("L", (64, 48), 9).save(scan / "depths/f1.png")
        assert of("nerfstudio", tmp_path).skipped == {"unreadable image": 1}


class TestColmap:
    def lines(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        _, frames, _ = scan_of("colmap", scan)
        path = scan / "sparse/0/images.txt"
        head, *lines = path.read_text().splitlines()
        return path, head, lines, frames

    @pytest.mark.parametrize(
        "form",
        ["one line", "blanks", "comments", "blank first", "no last line"],
    )
    def test_forms_of_text_models(self, tmp_path, form):
        path, head, lines, frames = self.lines(tmp_path)
        pairs = list(zip(lines[::2], lines[1::2], strict=True))
        text = {
            "one line": [head, *lines[::2]],
            "blanks": [head, *(w for a, b in pairs for w in (a, b, "", ""))],
            "comments": [head, *(w for a, b in pairs for w in ("# x", a, b))],
            "blank first": [head, "", *lines],
            "no last line": [head, *lines[:-1]],
        }[form]
        path.write_text("\n".join(text) + "\n")
        scene = of("colmap", tmp_path)
        assert scene.skipped == {}
        TestNumbersInNames().same_poses(scene, frames)

    def test_a_bad_line_costs_an_image(self, tmp_path):
        path, head, lines, _ = self.lines(tmp_path)
        lines[2] = lines[2].replace(" 7 ", " seven ")
        path.write_text("\n".join([head, *lines]) + "\n")
        scene = of("colmap", tmp_path)
        assert scene.skipped == {"unreadable line": 1}
        left_out = read_manifest(tmp_path / "out")["provenance"]["left_out"]
        assert "images.txt, line 4" in left_out["unreadable line"]

    def test_names_with_blanks(self, tmp_path):
        path, _, _, _ = self.lines(tmp_path)
        path.write_text(path.read_text().replace("f1.png", "my  photo 1.png"))
        scan = tmp_path / "a" / "scan"
        for part in ("images", "depth"):
            (scan / part / "f1.png").rename(scan / part / "my  photo 1.png")
        assert len(of("colmap", tmp_path).frames) == 4

    def test_binary_models(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        scan.mkdir(parents=True)
        frames = room_frames(OWN)
        foreign_files.write_colmap_binary(scan, frames)
        assert next(FORMATS["colmap"].read(scan)).camera == OWN
        TestNumbersInNames().same_poses(of("colmap", tmp_path), frames)
        points, colors = FORMATS["colmap"].points(scan)
        assert points.tolist() == [[i * 0.5, 1.0, -2.0] for i in range(1, 5)]
        assert colors.tolist() == [[i, 20, 30] for i in range(1, 5)]

    @pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
    def test_cut_binary_models(self, tmp_path, name):
        scan = tmp_path / "a" / "scan"
        scan.mkdir(parents=True)
        foreign_files.write_colmap_binary(scan, room_frames(OWN))
        path = scan / f"sparse/0/{name}.bin"
        whole = path.read_bytes()
        for content in (
            *(whole[:size] for size in range(0, len(whole), 5)),
            whole + b"\0",
            bytes(64),
            b"\xff" * 64,
        ):
            path.write_bytes(content)
            with pytest.raises(LayoutError) as told:
                all_of_colmap(scan)
            assert f"{name}.bin: no whole binary model" in str(told.value)
            assert "colmap model_converter --output_type TXT" in str(told.value)

    def test_distorted_binary_cameras(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        scan.mkdir(parents=True)
        foreign_files.write_colmap_binary(scan, room_frames(OWN))
        (scan / "sparse/0/cameras.bin").write_bytes(
            struct.pack("<QIiQQ8d", 1, 7, 4, 64, 48, *range(1, 9))
        )
        with pytest.raises(LayoutError, match=r"'OPENCV'.*image_undistorter"):
            list(FORMATS["colmap"].read(scan))

    def test_photometric_depth_maps(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        scan_of("colmap dense", scan)
        for path in (scan / "stereo/depth_maps").iterdir():
            path.rename(
                path.with_name(path.name.replace("geometric", "photometric"))
            )
        chosen = ScanSettings("colmap", up="z")
        result = convert_scans([scan], tmp_path / "o", chosen, progress=False)
        assert len(read_scene(tmp_path / "o" / "scan").frames) == 4
        assert "its depth maps are photometric" in str(result)


def all_of_colmap(scan):
    list(FORMATS["colmap"].read(scan))
    FORMATS["colmap"].points(scan)


class TestFilesOfOtherSystems:
    @pytest.mark.parametrize("which", WRITERS)
    def test_files_of_an_operating_system(self, tmp_path, which):
        scan = tmp_path / "a" / "scan"
        scan_of(which, scan)
        for path in [p for p in scan.rglob("*.*") if p.is_file()]:
            (path.parent / f"._{path.name}").write_bytes(JUNK)
        for folder in [scan, *(p for p in scan.rglob("*") if p.is_dir())]:
            for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
                (folder / name).write_bytes(JUNK)
        scene = of(which, tmp_path)
        assert (len(scene.frames), scene.skipped) == (4, {})

    @pytest.mark.parametrize("which", WRITERS)
    def test_byte_order_marks(self, tmp_path, which):
        scan = tmp_path / "a" / "scan"
        scan_of(which, scan)
        texts = (".txt", ".json", ".log", ".traj", ".pincam")
        marked = [p for p in scan.parent.rglob("*") if p.suffix in texts]
        assert marked
        for path in marked:
            path.write_bytes(MARK + path.read_bytes())
        scene = of(which, tmp_path)
        assert (len(scene.frames), scene.skipped) == (4, {})

    def test_utf_16(self, tmp_path):
        (tmp_path / "K.txt").write_text("50 0 3\n", encoding="utf-16")
        assert read_text(tmp_path / "K.txt") == "50 0 3\n"

    @pytest.mark.parametrize("which", WRITERS)
    def test_endings_in_upper_case(self, tmp_path, which):
        scan = tmp_path / "a" / "scan"
        scan_of(which, scan)
        for path in list(scan.rglob("*.png")):
            path.rename(path.with_suffix(".PNG"))
        scene = of(which, tmp_path)
        assert (len(scene.frames), scene.skipped) == (4, {})

    def test_a_scene_with_endings_in_upper_case(self, tmp_path):
        folder = tmp_path / "scene"
        write_scene(folder, floor_scene(3), provenance={"converter": "x"})
        for path in [*folder.glob("color/*"), *folder.glob("depth/*")]:
            path.rename(path.with_suffix(".PNG"))
        assert [frame.name for frame in read_scene(folder).frames]

    def test_a_plain_folder(self, tmp_path):
        frames = [floor_frame(str(i), 0.2 * i, 0.1 * i, 2.0) for i in range(4)]
        source = write_rgbd(tmp_path / "scan", frames)
        for name in ("K.txt", "poses.txt"):
            (source / name).write_bytes(MARK + (source / name).read_bytes())
        (source / "images" / "._0.png").write_bytes(JUNK)
        for path in list((source / "depth").iterdir()):
            path.rename(path.with_suffix(".PNG"))
        result = convert_rgbd_folder(source, tmp_path / "out", progress=False)
        assert (result.frames, result.skipped) == (4, {})

    @pytest.mark.parametrize("kind", ["backslashes", "stamps", "no ending"])
    def test_names_in_json(self, tmp_path, kind):
        scan = tmp_path / "a" / "scan"
        scan_of("nerfstudio", scan)

        def change(content):
            for i, frame in enumerate(content["frames"]):
                name = frame["file_path"]
                if kind == "backslashes":
                    frame["file_path"] = name.replace("/", "\\")
                elif kind == "stamps":
                    frame["file_path"] = f"./images/16466250{i}.774"
                    other = scan / f"images/16466250{i}.774.png"
                    (scan / name).rename(other)
                else:
                    frame["file_path"] = name.removesuffix(".png")

        edited(scan / "transforms.json", change)
        scene = of("nerfstudio", tmp_path)
        assert (len(scene.frames), scene.skipped) == (4, {})


class TestLayoutsOfOthers:
    @pytest.mark.parametrize("form", ["jpg", "inside", "pgm"])
    def test_names_of_7_scenes(self, tmp_path, form):
        scan = tmp_path / "a" / "scan"
        inner = scan / "seq-01" if form == "inside" else scan
        scan_of("7-scenes", inner)
        for path in list(inner.iterdir()):
            if form == "jpg" and path.name.endswith(".color.png"):
                to_jpeg(path)
            if form == "pgm" and path.name.endswith(".depth.png"):
                Image.open(path).save(path.with_suffix(".pgm"))
                path.unlink()
        scene = of("7-scenes", tmp_path)
        assert (len(scene.frames), scene.skipped) == (4, {})

    def test_splits_of_nerf_synthetic(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        scan_of("nerfstudio", scan)
        content = json.loads((scan / "transforms.json").read_text())
        (scan / "transforms.json").unlink()
        for split, part in (("train", slice(0, 3)), ("val", slice(3, 4))):
            part_of = content | {"frames": content["frames"][part]}
            path = scan / f"transforms_{split}.json"
            path.write_text(json.dumps(part_of))
        assert len(of("nerfstudio", tmp_path).frames) == 4

    def exr(self, scan):
        package = pytest.importorskip("OpenEXR")
        header = {
            "compression": package.ZIP_COMPRESSION,
            "type": package.scanlineimage,
        }
        for path in list((scan / "depth").iterdir()):
            metres = np.array(Image.open(path)).astype(np.float32) / 1000
            metres[0, 0] = np.nan
            with package.File(header, {"Y": metres}) as file:
                file.write(str(path.with_suffix(".exr")))
            path.unlink()

    def test_exr_depth_of_record3d(self, tmp_path):
        scan = tmp_path / "a" / "scan"
        _, frames, _ = scan_of("record3d", scan)
        self.exr(scan)
        path = scan / "depth/3.exr"
        path.write_bytes(path.read_bytes()[:-99])
        scene = of("record3d", tmp_path, up="y")
        assert scene.skipped == {"unreadable image": 1}
        expected = frames[1].depth.clone()
        expected[0, 0] = 0
        assert torch.allclose(scene.frames[1].depth, expected, atol=1e-6)

    def r3d(self, scan, pack):
        """An .r3d as it unpacks."""
        _, frames, _ = scan_of("record3d", scan)
        (scan / "rgbd").mkdir()
        edited(scan / "metadata.json", lambda c: c.update(dw=64, dh=48))
        (scan / "metadata.json").rename(scan / "metadata")
        for i, frame in enumerate(frames):
            (scan / f"rgb/{i}.png").rename(scan / f"rgbd/{i}.png")
            packed = pack(frame.depth.numpy().astype("<f4").tobytes())
            (scan / f"rgbd/{i}.depth").write_bytes(packed)
            (scan / f"rgbd/{i}.conf").write_bytes(b"")
        return frames

    def test_an_unpacked_r3d(self, tmp_path):
        package = pytest.importorskip("liblzfse")
        scan = tmp_path / "a" / "scan"
        frames = self.r3d(scan, package.compress)
        path = scan / "rgbd/2.depth"
        path.write_bytes(path.read_bytes()[:-9])
        scene = of("record3d", tmp_path, up="y")
        assert scene.skipped == {"unreadable image": 1}
        assert torch.allclose(scene.frames[1].depth, frames[1].depth, atol=6e-4)

    @pytest.mark.parametrize("package", ["OpenEXR", "pyliblzfse"])
    def test_the_package_that_is_missing_is_named(
        self, tmp_path, monkeypatch, package
    ):
        module = {"pyliblzfse": "liblzfse"}.get(package, package)
        monkeypatch.setitem(__import__("sys").modules, module, None)
        scan = tmp_path / "a" / "scan"
        if package == "OpenEXR":
            scan_of("record3d", scan)
            for path in list((scan / "depth").iterdir()):
                path.rename(path.with_suffix(".exr"))
        else:
            self.r3d(scan, bytes)
        with pytest.raises(LayoutError, match=f"pip install {package}"):
            of("record3d", tmp_path, up="y")

    def test_a_packed_r3d_says_how_to_unpack_it(self, tmp_path):
        (tmp_path / "scan.r3d").write_bytes(b"PK")
        with pytest.raises(LayoutError, match="zip archive: unpack it"):
            open_scan(tmp_path / "scan.r3d", ScanSettings("record3d"))


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_bytes(b"a page of text\n" * 9),
    "renamed": lambda path: path.rename(path.with_name("zz" + path.suffix)),
}


def parts_of(which: str, scan: Path) -> list[list[Path]]:
    """The files of which there is one an image: by folder and kind."""
    parts: dict[str, list[Path]] = {}
    for path in sorted(p for p in scan.rglob("*") if p.is_file()):
        whole_name = which in ("7-scenes", "colmap dense")
        kind = path.name.split(".", 1)[-1] if whole_name else path.suffix
        first = path.name[:5] if which == "replica" else ""
        parts.setdefault(f"{path.parent}{kind}{first}", []).append(path)
    return [paths for paths in parts.values() if len(paths) == 4]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", WRITERS)
def test_a_sweep_of_damages(tmp_path, which, damage):
    """One file of those that each image has is damaged: that image is left out
    and counted, and the others stay what they were."""
    form = WRITERS[which][0]
    scan_of(which, tmp_path / "whole" / "scan")
    count = len(parts_of(which, tmp_path / "whole" / "scan"))
    assert count >= 2
    for number in range(count):
        scan = tmp_path / str(number) / "scan"
        _, frames, _ = scan_of(which, scan)
        damaged = parts_of(which, scan)[number][1]
        DAMAGES[damage](damaged)
        _, found = open_scan(scan, ScanSettings(form))
        what = (damaged.name, dict(found.skipped))
        assert len(found) == 3, what
        assert 1 <= sum(found.skipped.values()) <= 2, what
        for one, i in zip(found, (0, 2, 3), strict=True):
            assert torch.equal(one.color, frames[i].color), what
            assert torch.equal(one.depth, frames[i].depth), what
