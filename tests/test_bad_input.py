"""Bad input gives an error that names the file, what was expected, what was
found and the fix, or a counted skip."""

import json
import struct
import zlib

# past the run-time type checks, which only tests have, and which load a frame
# at random
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData, PlyElement
from small_scene import floor_frame, floor_scene

from vlg_lib.classes import ROOMS_12, get_class_set, own_class_set
from vlg_lib.data.frames import (
    LayoutError,
    open_frames,
    read_color,
    read_matrix,
)
from vlg_lib.data.layout import (
    read_point_labels,
    read_scene,
    scene_folders,
    write_scene,
)
from vlg_lib.data.ply import PlyError, read_points, write_points
from vlg_lib.pipeline.profiles import get_profile
from vlg_lib.scene import Frame, Scene

PNG_WITHOUT_PIXELS = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(content))
    + kind
    + content
    + struct.pack(">I", zlib.crc32(kind + content))
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", 32, 24, 8, 2, 0, 0, 0)),
        (b"IEND", b""),
    )
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good scene folder with four frames named 0 to 3."""
    scene = floor_scene(4)
    labels = torch.zeros(len(scene.points), dtype=torch.int64)
    write_scene(tmp_path / "scene", scene, point_labels=labels, provenance={})
    return tmp_path / "scene"


def change(folder: Path, **entries) -> None:
    path = folder / "scene.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def drop(folder: Path, key: str) -> None:
    path = folder / "scene.json"
    path.write_text(
        json.dumps(
            {k: v for k, v in json.loads(path.read_text()).items() if k != key}
        )
    )


class TestSingleFramesAreSkippedAndCounted:
    @pytest.mark.parametrize(
        ("file", "reason"),
        [
            ("color/2.png", "missing image"),
            ("depth/2.png", "missing depth"),
            ("pose/2.txt", "missing pose"),
        ],
    )
    def test_a_missing_file(self, folder, file, reason):
        (folder / file).unlink()
        scene = read_scene(folder)
        assert scene.skipped == {reason: 1}
        assert scene.frames.names == ("0", "1", "3")

    @pytest.mark.parametrize(
        ("part", "reason"),
        [("color", "unreadable image"), ("depth", "unreadable depth")],
    )
    @pytest.mark.parametrize(
        "content",
        [b"", b"not an image", b"\x89PNG\r\n\x1a\n", PNG_WITHOUT_PIXELS],
    )
    def test_an_image_that_is_none(self, folder, part, reason, content):
        (folder / part / "2.png").write_bytes(content)
        scene = read_scene(folder)
        assert scene.skipped == {reason: 1}
        assert len(list(scene.frames)) == 3

    @pytest.mark.parametrize(
        ("part", "reason"),
        [("color", "unreadable image"), ("depth", "unreadable depth")],
    )
    def test_an_image_that_is_cut_anywhere(self, folder, part, reason):
        path = folder / part / "2.png"
        whole = path.read_bytes()
        # the last 12 bytes only say "end"
        for length in range(0, len(whole) - 12, 7):
            path.write_bytes(whole[:length])
            assert read_scene(folder).skipped == {reason: 1}

    def test_an_image_with_a_flipped_byte(self, folder):
        path = folder / "color" / "2.png"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        assert read_scene(folder).skipped == {"unreadable image": 1}

    @pytest.mark.parametrize("number", ["nan", "-inf", "inf"])
    def test_a_pose_that_was_lost(self, folder, number):
        (folder / "pose" / "2.txt").write_text(
            f"{number} {number} {number} {number}\n" * 4
        )
        assert read_scene(folder).skipped == {"invalid pose": 1}

    @pytest.mark.parametrize(
        "pose",
        [
            "",
            "words",
            "1 0 0 0\n0 1 0 0\n0 0 1 0",
            "1 0 0 0\n0 1 0\n0 0 1 0\n0 0 0 1",
            "2 0 0 0\n0 2 0 0\n0 0 2 0\n0 0 0 1",
            "1 0 0 0\n0 1 0 0\n0 0 -1 0\n0 0 0 1",
            "1 0 0 0\n0 1 0 0\n0 0 1 0\n3 2 1 1",
        ],
        ids=[
            "empty",
            "words",
            "3x4",
            "ragged",
            "scaled",
            "mirrored",
            "transposed",
        ],
    )
    def test_a_pose_that_is_none(self, folder, pose):
        (folder / "pose" / "2.txt").write_text(pose)
        assert read_scene(folder).skipped == {"invalid pose": 1}

    def test_a_frame_that_vanished_altogether(self, folder):
        for part, suffix in (
            ("color", "png"),
            ("depth", "png"),
            ("pose", "txt"),
        ):
            (folder / part / f"1.{suffix}").unlink()
        assert read_scene(folder).skipped == {"missing frame": 1}

    def test_no_frame_left_is_an_error_that_counts(self, folder):
        for path in (folder / "pose").iterdir():
            path.write_text("nan " * 16)
        with pytest.raises(
            LayoutError,
            match=r"none of the 4 frames can be used \(4 x invalid pose\)",
        ):
            read_scene(folder)

    def test_no_frames_at_all_where_there_were_some(self, folder):
        for part in ("color", "depth", "pose"):
            for path in (folder / part).iterdir():
                path.unlink()
        with pytest.raises(
            LayoutError, match=r"no frames.*export the images again"
        ):
            read_scene(folder)

    def test_an_image_that_went_bad_after_opening_names_itself(self, folder):
        frames, _ = unwrap(open_frames)(folder)
        path = folder / "color" / "2.png"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(
            LayoutError,
            match=(
                r"color/2\.png: the image is cut short or damaged.*skip the"
                r" frame"
            ),
        ):
            frames[2]
        path.write_bytes(b"")
        with pytest.raises(
            LayoutError, match=r"color/2\.png: not an image.*skip the frame"
        ):
            frames[2]


class TestImages:
    def test_depth_of_another_size(self, folder):
        Image.fromarray(np.full((12, 16), 2000, np.uint16)).save(
            folder / "depth" / "1.png"
        )
        with pytest.raises(
            LayoutError,
            match=(
                r"depth/1\.png: expected 32 x 24 .* found 16 x 12;"
                r" .*vlg convert"
            ),
        ):
            read_scene(folder)

    def test_an_image_of_another_size(self, folder):
        Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(
            folder / "color" / "1.png"
        )
        with pytest.raises(
            LayoutError,
            match=r"color/1\.png: expected 32 x 24 .* found 16 x 12.*resample",
        ):
            read_scene(folder)

    def test_an_image_that_claims_four_billion_pixels(self, folder):
        path = folder / "color" / "1.png"
        Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(path, "JPEG")
        content = bytearray(path.read_bytes())
        # the frame header: length, bits, height, width
        start = content.index(b"\xff\xc0")
        content[start + 5 : start + 9] = b"\xff\xff\xff\xff"
        path.write_bytes(content)
        with pytest.raises(
            LayoutError, match=r"color/1\.png: not an image .*exceeds limit"
        ):
            read_color(path)
        assert read_scene(folder).skipped == {"unreadable image": 1}

    def test_depth_of_eight_bits(self, folder):
        Image.fromarray(np.full((24, 32), 200, np.uint8)).save(
            folder / "depth" / "1.png"
        )
        with pytest.raises(
            LayoutError,
            match=r"depth/1\.png: expected a 16-bit grey image, found .*'L'",
        ):
            unwrap(open_frames)(folder)[0][1]

    def test_colour_of_sixteen_bits(self, folder):
        Image.fromarray(np.full((24, 32), 200, np.uint16)).save(
            folder / "color" / "1.png"
        )
        with pytest.raises(
            LayoutError, match=r"color/1\.png: expected an 8-bit colour image"
        ):
            unwrap(open_frames)(folder)[0][1]

    def test_grey_and_transparent_images_become_rgb(self, folder):
        Image.fromarray(np.full((24, 32), 200, np.uint8)).save(
            folder / "color" / "1.png"
        )
        Image.fromarray(np.full((24, 32, 4), 100, np.uint8)).save(
            folder / "color" / "2.png"
        )
        frames = read_scene(folder).frames
        assert set(frames[1].color.flatten().tolist()) == {200}
        assert set(frames[2].color.flatten().tolist()) == {100}


class TestIntrinsics:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "20 0 15.5\n0 20 11.5\n",
                r"3x3 or 4x4 intrinsics matrix, found shape \(2, 3\)",
            ),
            (
                "20 20 15.5 11.5\n",
                r"3x3 or 4x4 intrinsics matrix, found shape \(1, 4\)",
            ),
            (
                "20 0 15.5\n0 20\n0 0 1\n",
                "expected rows of numbers, all of one length",
            ),
            ("", r"3x3 or 4x4 intrinsics matrix, found shape \(1, 0\)"),
            ("fx=20\n", "expected rows of numbers"),
            (
                "nan 0 15.5\n0 20 11.5\n0 0 1\n",
                "focal lengths must be positive",
            ),
            ("0 0 15.5\n0 20 11.5\n0 0 1\n", "focal lengths must be positive"),
            ("20 3 15.5\n0 20 11.5\n0 0 1\n", "skewed"),
        ],
    )
    def test_a_matrix_that_is_no_camera(self, folder, text, message):
        (folder / "intrinsic" / "intrinsic_color.txt").write_text(text)
        with pytest.raises(
            LayoutError, match=f"intrinsic_color.txt: .*{message}"
        ):
            read_scene(folder)

    def test_none_at_all(self, folder):
        (folder / "intrinsic" / "intrinsic_color.txt").unlink()
        with pytest.raises(
            LayoutError, match=r"intrinsic_color\.txt: no such file"
        ):
            read_scene(folder)

    def test_another_camera_for_depth(self, folder):
        path = folder / "intrinsic" / "intrinsic_depth.txt"
        path.write_text(path.read_text().replace("20.0", "21.0"))
        with pytest.raises(
            LayoutError,
            match=(
                r"intrinsic_depth\.txt: expected the intrinsics of"
                r" intrinsic_color"
            ),
        ):
            read_scene(folder)

    def test_text_that_is_not_text(self, tmp_path):
        path = tmp_path / "K.txt"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(
            LayoutError, match=r"K\.txt: expected rows of numbers"
        ):
            read_matrix(path)


class TestPly:
    def test_every_cut_file_is_refused(self, tmp_path):
        path = tmp_path / "points.ply"
        write_points(
            path,
            torch.rand(4, 3),
            torch.zeros(4, 3, dtype=torch.uint8),
            labels=torch.arange(4),
        )
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(PlyError, match=r"points\.ply: .*"):
                read_points(path)

    def test_a_cut_cloud_in_a_scene_names_the_file(self, folder):
        path = folder / "points.ply"
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(
            PlyError,
            match=r"points\.ply: not a whole PLY file .*make the file again",
        ):
            read_scene(folder)

    def test_a_missing_cloud(self, folder):
        (folder / "points.ply").unlink()
        with pytest.raises(PlyError, match=r"points\.ply: no such file"):
            read_scene(folder)

    def test_an_empty_cloud(self, folder):
        path = folder / "points.ply"
        nothing = torch.zeros(0, 3)
        with pytest.raises(ValueError, match="expected points of shape"):
            write_points(path, nothing, nothing.byte())
        vertices = np.zeros(0, [(name, "f4") for name in "xyz"])
        PlyData([PlyElement.describe(vertices, "vertex")]).write(path)
        with pytest.raises(
            PlyError, match=r"points\.ply: expected points .*, found none"
        ):
            read_scene(folder)

    def test_a_cloud_of_another_length(self, folder):
        write_points(
            folder / "points.ply",
            torch.zeros(3, 3),
            torch.zeros(3, 3, dtype=torch.uint8),
        )
        with pytest.raises(
            LayoutError, match=r"points\.ply: expected \d+ points .*, found 3"
        ):
            read_scene(folder)

    @pytest.mark.parametrize(
        ("properties", "message"),
        [
            (["float x", "float y", "float z"], "found no red green blue"),
            (["uchar red", "uchar green", "uchar blue"], "found no x y z"),
            (
                [
                    f"float {name}"
                    for name in ("x", "y", "z", "red", "green", "blue")
                ],
                "expected colours as uchar",
            ),
            (
                [
                    "list uchar int x",
                    "float y",
                    "float z",
                    "uchar red",
                    "uchar green",
                    "uchar blue",
                ],
                "found no x",
            ),
        ],
    )
    def test_points_without_coordinates_or_colours(
        self, tmp_path, properties, message
    ):
        path = tmp_path / "a.ply"
        names = [f"property {name}" for name in properties]
        row = (
            "1 0" + " 0" * (len(properties) - 1)
            if "list" in properties[0]
            else " ".join("0" * len(properties))
        )
        path.write_text(
            "\n".join(
                [
                    "ply",
                    "format ascii 1.0",
                    "element vertex 1",
                    *names,
                    "end_header",
                    row,
                    "",
                ]
            )
        )
        with pytest.raises(PlyError, match=message):
            read_points(path)

    def test_coordinates_that_are_not_finite(self, tmp_path):
        path = tmp_path / "a.ply"
        write_points(
            path,
            torch.tensor([[1.5, 0.0, 0.0]]),
            torch.zeros(1, 3, dtype=torch.uint8),
        )
        nan = np.float32("nan").tobytes()
        path.write_bytes(
            path.read_bytes().replace(np.float32(1.5).tobytes(), nan)
        )
        with pytest.raises(PlyError, match="finite coordinates"):
            read_points(path)

    @pytest.mark.parametrize(
        ("points", "colors", "labels", "message"),
        [
            (
                torch.tensor([[float("nan"), 0.0, 0.0]]),
                torch.zeros(1, 3),
                torch.zeros(1),
                "points must be finite in float32; 1 of them",
            ),
            (
                torch.zeros(2, 3),
                torch.zeros(1, 3),
                torch.zeros(2),
                "1 colours for 2 points",
            ),
            (
                torch.zeros(2, 3),
                torch.zeros(2, 3),
                torch.zeros(3),
                "3 values of 'label' for 2 points",
            ),
            (
                torch.zeros(1, 3),
                torch.zeros(1, 3),
                torch.tensor([2**40]),
                "32 bits",
            ),
        ],
    )
    def test_what_cannot_be_written_leaves_no_file(
        self, tmp_path, points, colors, labels, message
    ):
        with pytest.raises(ValueError, match=message):
            unwrap(write_points)(
                tmp_path / "a.ply",
                points,
                colors.to(torch.uint8),
                labels=labels,
            )
        assert list(tmp_path.iterdir()) == []


class TestPointLabels:
    def test_labels_of_another_length(self, folder):
        count = len(read_scene(folder).points)
        points, colors, _ = read_points(folder / "labels.ply")
        write_points(
            folder / "labels.ply",
            points[1:],
            colors[1:],
            labels=torch.zeros(count - 1, dtype=torch.int64),
        )
        message = (
            rf"labels\.ply: expected one label for each of the {count} points,"
            rf" found {count - 1}"
        )
        with pytest.raises(LayoutError, match=message):
            read_point_labels(folder)

    @pytest.mark.parametrize("label", [12, -2])
    def test_a_label_outside_the_class_set(self, folder, label):
        points, colors, extra = read_points(folder / "labels.ply")
        extra["label"][0] = label
        write_points(
            folder / "labels.ply", points, colors, labels=extra["label"]
        )
        with pytest.raises(
            LayoutError,
            match=(
                r"labels\.ply: expected labels from -1 \(none\) to 11 for class"
                r" set 'rooms-12'"
            ),
        ):
            read_point_labels(folder)

    def test_no_label_property(self, folder):
        points, colors, _ = read_points(folder / "labels.ply")
        write_points(folder / "labels.ply", points, colors)
        with pytest.raises(
            LayoutError, match=r"labels\.ply: expected an int property 'label'"
        ):
            read_point_labels(folder)

    def test_no_labels(self, folder):
        (folder / "labels.ply").unlink()
        read_scene(folder)
        with pytest.raises(
            LayoutError, match=r"labels\.ply: no such file; .*cannot be scored"
        ):
            read_point_labels(folder)


class TestManifest:
    def test_not_a_scene_folder(self, tmp_path):
        with pytest.raises(
            LayoutError,
            match=r"scene\.json: no such file: not a scene folder; a converter",
        ):
            read_scene(tmp_path / "nowhere")
        with pytest.raises(
            LayoutError, match=r"expected folders with a scene\.json"
        ):
            scene_folders(tmp_path)

    def test_cut_short(self, folder):
        (folder / "scene.json").write_text('{"format": ')
        with pytest.raises(LayoutError, match=r"scene\.json: not JSON"):
            read_scene(folder)

    @pytest.mark.parametrize(
        "content", ["[]", "{}", '{"format": "vlg-scene-99"}']
    )
    def test_of_another_format(self, folder, content):
        (folder / "scene.json").write_text(content)
        with pytest.raises(
            LayoutError, match='expected "format": "vlg-scene-1"'
        ):
            read_scene(folder)

    @pytest.mark.parametrize(
        "key",
        [
            "name",
            "class_set",
            "scene_labels",
            "depth_scale",
            "depth_missing",
            "skipped",
        ],
    )
    def test_without_an_entry(self, folder, key):
        drop(folder, key)
        with pytest.raises(
            LayoutError,
            match=rf"scene\.json: expected '{key}' to be .*, found None",
        ):
            read_scene(folder)

    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            (
                {"scene_labels": ["floor", "sofabed"]},
                (
                    r"unknown class 'sofabed' in class set 'rooms-12'; known:"
                    r" ceiling"
                ),
            ),
            (
                {"scene_labels": [3]},
                "expected 'scene_labels' to be a list of str, found \\[3\\]",
            ),
            (
                {"depth_missing": ["0"]},
                "expected 'depth_missing' to be a list of int",
            ),
            ({"scene_labels": "floor"}, "expected 'scene_labels' to be list"),
            (
                {"class_set": "rooms-13"},
                r"unknown class set 'rooms-13'; known: rooms-12",
            ),
            (
                {"class_set": {"names": ["floor", "floor", "chair"]}},
                "names a class twice",
            ),
            ({"class_set": {"names": []}}, "is empty"),
            ({"class_set": {"name": "own"}}, "names"),
            ({"class_set": {"names": 3}}, "scene.json: "),
            ({"depth_scale": 0}, "depth_scale .* must be positive, found 0"),
            ({"depth_scale": True}, "expected 'depth_scale'"),
        ],
    )
    def test_with_wrong_entries(self, folder, entries, message):
        change(folder, **entries)
        with pytest.raises(LayoutError, match=message):
            read_scene(folder)


class TestScenesThatCannotBeWritten:
    """Nothing is half-written: after an error the destination does not exist,
    or is what it was."""

    def check(
        self, tmp_path: Path, scene: Scene, message: str, **options
    ) -> None:
        with pytest.raises(ValueError, match=message):
            write_scene(tmp_path / "new", scene, provenance={}, **options)
        assert list(tmp_path.iterdir()) == []
        good = floor_scene(2)
        write_scene(tmp_path / "old", good, provenance={})
        with pytest.raises(ValueError, match=message):
            write_scene(tmp_path / "old", scene, provenance={}, **options)
        assert [path.name for path in tmp_path.iterdir()] == ["old"]
        assert len(read_scene(tmp_path / "old").frames) == 2

    def scene_with(self, last: Frame) -> Scene:
        scene = floor_scene(2)
        return Scene(
            "bad",
            scene.points,
            scene.colors,
            [*scene.frames, last],
            ROOMS_12,
            scene.scene_labels,
        )

    def test_an_invalid_pose(self, tmp_path):
        frame = floor_frame("9", 0.0, 0.0, 2.0)
        frame.camera_to_world[0, 0] = float("nan")
        self.check(
            tmp_path, self.scene_with(frame), "frame '9': the pose has NaN"
        )

    def test_an_image_that_does_not_fit_its_camera(self, tmp_path):
        frame = floor_frame("9", 0.0, 0.0, 2.0)
        frame = Frame(
            "9",
            frame.camera,
            frame.camera_to_world,
            frame.color[1:],
            frame.depth[1:],
        )
        self.check(
            tmp_path,
            self.scene_with(frame),
            "frame '9': images of .* for a camera of 32 x 24",
        )

    @pytest.mark.parametrize("bad", [-0.1, 65.6, float("inf"), float("nan")])
    def test_a_depth_that_does_not_fit_16_bits(self, tmp_path, bad):
        frame = floor_frame("9", 0.0, 0.0, 2.0)
        frame.depth[0, 0] = bad
        self.check(
            tmp_path,
            self.scene_with(frame),
            r"frame '9': depth must lie in 0 to 65\.535 m",
        )

    def test_two_cameras(self, tmp_path):
        frame = floor_frame(
            "9",
            0.0,
            0.0,
            2.0,
            type(floor_scene(1).frames[0].camera)(
                21.0, 20.0, 15.5, 11.5, 32, 24
            ),
        )
        self.check(
            tmp_path,
            self.scene_with(frame),
            "frame '9': all frames of a scene share one camera",
        )

    def test_depth_for_some_frames_only(self, tmp_path):
        frame = floor_frame("9", 0.0, 0.0, 2.0)
        frame = Frame("9", frame.camera, frame.camera_to_world, frame.color)
        self.check(tmp_path, self.scene_with(frame), "all or none have depth")

    @pytest.mark.parametrize(
        ("name", "message"),
        [("0", "two frames are named '0'"), ("../9", "must do as a file name")],
    )
    def test_names_that_collide_or_lead_elsewhere(
        self, tmp_path, name, message
    ):
        self.check(
            tmp_path, self.scene_with(floor_frame(name, 0.0, 0.0, 2.0)), message
        )

    def test_labels_of_another_length(self, tmp_path):
        self.check(
            tmp_path,
            floor_scene(1),
            "found 3",
            point_labels=torch.zeros(3, dtype=torch.int64),
        )

    @pytest.mark.parametrize("label", [-2, 12])
    def test_labels_outside_the_class_set(self, tmp_path, label):
        scene = floor_scene(1)
        labels = torch.full((len(scene.points),), label)
        self.check(
            tmp_path,
            scene,
            r"expected labels from -1 \(none\) to 11",
            point_labels=labels,
        )

    def test_a_scene_without_points(self):
        with pytest.raises(ValueError, match="has no points"):
            Scene(
                "empty",
                torch.zeros(0, 3),
                torch.zeros(0, 3, dtype=torch.uint8),
                (),
                ROOMS_12,
                ROOMS_12.mask([]),
            )


class TestNames:
    def test_an_unknown_class(self):
        with pytest.raises(
            ValueError,
            match=(
                r"unknown class 'sofabed' in class set 'rooms-12'; known:"
                r" .*sofa"
            ),
        ):
            ROOMS_12.mask(["floor", "sofabed"])

    def test_an_unknown_class_set(self):
        with pytest.raises(
            ValueError,
            match=(
                r"unknown class set 'rooms'; known: rooms-12, scannet-20,"
                r" s3dis-13"
            ),
        ):
            get_class_set("rooms")

    def test_an_unknown_profile(self, monkeypatch):
        with pytest.raises(
            ValueError,
            match=(
                r"unknown profile 'quick'; known: auto, fast, colab, book, full"
            ),
        ):
            get_profile("quick")
        monkeypatch.setenv("VLG_PROFILE", "quicker")
        with pytest.raises(ValueError, match="unknown profile 'quicker'"):
            get_profile()

    @pytest.mark.parametrize(
        ("names", "message"),
        [([], "is empty"), (["chair", "chair"], "names a class twice")],
    )
    def test_class_names_of_ones_own(self, names, message):
        with pytest.raises(ValueError, match=message):
            own_class_set(names)
