"""Scenes on disk: what is written is what is read, and what is read is what the
library promises."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from plyfile import PlyData
from small_scene import CAMERA, floor_frame, floor_scene

import vlg_lib
from vlg_lib.artifacts import save_tensors
from vlg_lib.classes import IGNORE_LABEL, ROOMS_12, own_class_set
from vlg_lib.data.depth_fusion import VoxelAverager, points_from_frames
from vlg_lib.data.frames import FrameFolder, LayoutError, natural_key
from vlg_lib.data.layout import (
    read_point_labels,
    read_scene,
    scene_folders,
    write_scene,
)
from vlg_lib.data.ply import read_points, write_points
from vlg_lib.scene import Scene


def write(folder: Path, scene: Scene | None = None, **options) -> Path:
    write_scene(
        folder, scene or floor_scene(), provenance={"by": "test"}, **options
    )
    return folder


ZEROS = torch.zeros(floor_scene().points.shape[0], dtype=torch.int64)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"superpoints": ZEROS[:5]}, r"found torch.int64 \(5,\)"),
        ({"superpoints": ZEROS[:, None]}, "expected superpoints from 0, int64"),
        ({"superpoints": ZEROS - 1}, "expected superpoints from 0, int64"),
        ({"superpoints": ZEROS.float()}, "found torch.float32"),
        ({"pieces": ZEROS}, r"found torch.float32 \(0,\)"),
        ("cut", "convert the scene again"),
        ("gone", "convert the scene again"),
        ("elsewhere", "expected superpoints to be null or"),
    ],
)
def test_superpoints_that_do_not_fit(tmp_path, broken, message):
    folder = write(tmp_path / "a", replace(floor_scene(), superpoints=ZEROS))
    path, manifest = folder / "superpoints.safetensors", folder / "scene.json"
    if broken == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif broken == "gone":
        path.unlink()
    elif broken == "elsewhere":
        text = manifest.read_text()
        manifest.write_text(text.replace(path.name, f"../{path.name}"))
    else:
        save_tensors(path, broken)
    with pytest.raises(LayoutError, match=message) as raised:
        read_scene(folder)
    assert str(folder) in str(raised.value)


def test_a_scene_has_a_superpoint_for_each_point():
    scene = floor_scene()
    for pieces in (
        torch.zeros(3).long(),
        -torch.ones(len(scene.points)).long(),
    ):
        with pytest.raises((ValueError, TypeError)):
            replace(scene, superpoints=pieces)


class TestRoundTrip:
    def test_points_colours_and_labels_come_back_exactly(self, tmp_path):
        scene = floor_scene()
        labels = torch.arange(len(scene.points)) % 13 - 1
        folder = write(tmp_path / "a", scene, point_labels=labels)
        read = read_scene(folder)
        assert torch.equal(read.points, scene.points)
        assert torch.equal(read.colors, scene.colors)
        assert torch.equal(read.scene_labels, scene.scene_labels)
        assert torch.equal(read_point_labels(folder), labels)
        assert (read.name, read.class_set, read.skipped) == (
            "floor",
            ROOMS_12,
            {},
        )

    def test_superpoints_come_back_or_are_none(self, tmp_path):
        scene = floor_scene()
        pieces = torch.arange(len(scene.points)) // 7 * 2**33
        folder = write(tmp_path / "a", replace(scene, superpoints=pieces))
        found = read_scene(folder).superpoints
        assert torch.equal(found, pieces)
        assert found.dtype == torch.int64
        manifest = json.loads((folder / "scene.json").read_text())
        assert manifest["superpoints"] == "superpoints.safetensors"
        # written again without: nothing is left of them
        write(folder, scene)
        assert read_scene(folder).superpoints is None
        assert not (folder / "superpoints.safetensors").exists()

    def test_scenes_from_before_there_were_superpoints_are_read(self, tmp_path):
        folder = write(tmp_path / "a")
        manifest = json.loads((folder / "scene.json").read_text())
        del manifest["superpoints"]
        (folder / "scene.json").write_text(json.dumps(manifest))
        assert read_scene(folder).superpoints is None

    def test_frames_come_back_with_depth_to_half_a_millimetre(self, tmp_path):
        scene = floor_scene(3)
        noise = torch.rand(
            3,
            CAMERA.height,
            CAMERA.width,
            generator=torch.Generator().manual_seed(0),
        )
        for frame, offset in zip(scene.frames, noise, strict=True):
            frame.depth.add_(offset)
        read = read_scene(write(tmp_path / "a", scene))
        assert len(read.frames) == 3
        for before, after in zip(scene.frames, read.frames, strict=True):
            assert (after.name, after.camera) == (before.name, before.camera)
            assert torch.equal(after.color, before.color)
            assert torch.equal(after.camera_to_world, before.camera_to_world)
            assert (after.depth - before.depth).abs().max() <= 0.0005 + 1e-6
            assert after.depth.dtype == torch.float32

    def test_missing_depth_stays_missing(self, tmp_path):
        scene = floor_scene(1)
        scene.frames[0].depth[3, 4] = 0.0
        depth = read_scene(write(tmp_path / "a", scene)).frames[0].depth
        assert (depth == 0).nonzero().tolist() == [[3, 4]]

    def test_a_scene_without_depth(self, tmp_path):
        scene = floor_scene(2)
        frames = [
            type(frame)(
                frame.name, frame.camera, frame.camera_to_world, frame.color
            )
            for frame in scene.frames
        ]
        scene = Scene(
            scene.name,
            scene.points,
            scene.colors,
            frames,
            scene.class_set,
            scene.scene_labels,
        )
        folder = write(tmp_path / "a", scene)
        assert not (folder / "depth").exists()
        assert [frame.depth for frame in read_scene(folder).frames] == [
            None,
            None,
        ]

    def test_a_scene_without_frames(self, tmp_path):
        scene = floor_scene()
        scene = Scene(
            scene.name,
            scene.points,
            scene.colors,
            (),
            scene.class_set,
            scene.scene_labels,
        )
        assert len(read_scene(write(tmp_path / "a", scene)).frames) == 0

    def test_a_class_set_of_ones_own(self, tmp_path):
        own = own_class_set(["floor", "plant pot"])
        folder = write(
            tmp_path / "a", floor_scene(class_set=own, labels=["plant pot"])
        )
        read = read_scene(folder)
        assert read.class_set == own
        assert read.class_set.present(read.scene_labels) == ("plant pot",)

    def test_what_was_skipped_is_added_up(self, tmp_path):
        scene = floor_scene(3)
        scene = Scene(
            scene.name,
            scene.points,
            scene.colors,
            scene.frames,
            ROOMS_12,
            scene.scene_labels,
            {"invalid pose": 2},
        )
        folder = write(tmp_path / "a", scene)
        (folder / "pose" / "1.txt").write_text("-inf " * 16)
        (folder / "color" / "2.png").unlink()
        read = read_scene(folder)
        assert read.skipped == {"invalid pose": 3, "missing image": 1}
        assert read.frames.names == ("0",)

    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_any_numbers_in_a_ply(self, tmp_path_factory, data):
        count = data.draw(st.integers(1, 5))
        floats = st.lists(
            st.floats(width=32, allow_nan=False, allow_infinity=False),
            min_size=count,
            max_size=count,
        )
        bytes_ = st.lists(st.integers(0, 255), min_size=count, max_size=count)
        points = torch.tensor(
            [data.draw(floats) for _ in range(3)], dtype=torch.float32
        ).T
        colors = torch.tensor(
            [data.draw(bytes_) for _ in range(3)], dtype=torch.uint8
        ).T
        labels = torch.tensor(
            data.draw(
                st.lists(
                    st.integers(-(2**31), 2**31 - 1),
                    min_size=count,
                    max_size=count,
                )
            )
        )
        path = tmp_path_factory.mktemp("ply") / "a.ply"
        write_points(path, points, colors, labels=labels, weight=points[:, 0])
        read, read_colors, extra = read_points(path)
        assert torch.equal(read, points)
        assert torch.equal(read_colors, colors)
        assert torch.equal(extra["label"], labels)
        assert torch.equal(extra["weight"], points[:, 0])


class TestFilesOnDisk:
    """The files mean what the layout says, seen by other readers than our
    own."""

    def test_as_other_programs_see_it(self, tmp_path):
        scene = floor_scene(1)
        folder = write(
            tmp_path / "a",
            scene,
            point_labels=torch.full((len(scene.points),), IGNORE_LABEL),
        )
        depth = np.asarray(Image.open(folder / "depth" / "0.png"))
        assert depth.dtype == np.uint16
        assert (depth == 2000).all()  # two metres in millimetres
        assert np.array_equal(
            np.asarray(Image.open(folder / "color" / "0.png")),
            scene.frames[0].color.numpy(),
        )
        assert np.array_equal(
            np.loadtxt(folder / "pose" / "0.txt"),
            scene.frames[0].camera_to_world.numpy(),
        )
        expected = np.diag([20.0, 20.0, 1.0, 1.0])
        expected[:2, 2] = 15.5, 11.5
        for name in ("color", "depth"):
            assert np.array_equal(
                np.loadtxt(folder / "intrinsic" / f"intrinsic_{name}.txt"),
                expected,
            )
        header = PlyData.read(str(folder / "points.ply"))
        assert not header.text
        assert header.byte_order == "<"
        assert [p.name for p in header["vertex"].properties] == [
            "x",
            "y",
            "z",
            "red",
            "green",
            "blue",
        ]
        assert set(
            PlyData.read(str(folder / "labels.ply"))["vertex"]["label"]
        ) == {IGNORE_LABEL}

    def test_the_manifest_names_classes_and_what_made_the_scene(self, tmp_path):
        turn = torch.eye(4, dtype=torch.float64)
        manifest = json.loads(
            (
                write(tmp_path / "a", axis_alignment=turn) / "scene.json"
            ).read_text()
        )
        assert manifest["class_set"] == "rooms-12"
        assert manifest["scene_labels"] == ["floor", "chair"]
        assert (manifest["depth_scale"], manifest["depth_missing"]) == (
            1000.0,
            [0],
        )
        assert manifest["provenance"] == {"by": "test"}
        assert manifest["axis_alignment"] == turn.tolist()

    def test_point_labels_stand_in_no_file_that_read_scene_opens(
        self, tmp_path
    ):
        scene = floor_scene()
        labels = torch.zeros(len(scene.points), dtype=torch.int64)
        with_labels = write(tmp_path / "with", scene, point_labels=labels)
        without = write(tmp_path / "without", scene)
        names = {path.relative_to(without) for path in without.rglob("*")}
        assert {
            path.relative_to(with_labels) for path in with_labels.rglob("*")
        } - names == {Path("labels.ply")}
        for name in names:
            if (without / name).is_file():
                assert (without / name).read_bytes() == (
                    with_labels / name
                ).read_bytes()
        (with_labels / "labels.ply").write_bytes(b"not to be opened")
        assert torch.equal(read_scene(with_labels).points, scene.points)

    def test_a_scannet_export_reads_with_jpeg_and_codes(self, tmp_path):
        folder = write(tmp_path / "a", floor_scene(1))
        image = Image.open(folder / "color" / "0.png")
        (folder / "color" / "0.png").unlink()
        image.save(folder / "color" / "0.jpg", quality=95)
        codes = np.full((24, 32), 1024, np.uint16)
        codes[0, 0] = 65535
        Image.fromarray(codes).save(folder / "depth" / "0.png")
        manifest = json.loads((folder / "scene.json").read_text()) | {
            "depth_scale": 512,
            "depth_missing": [0, 65535],
        }
        (folder / "scene.json").write_text(json.dumps(manifest))
        frame = read_scene(folder).frames[0]
        assert frame.depth[0, 0] == 0
        assert (frame.depth.flatten()[1:] == 2.0).all()
        assert (
            frame.color.float() - torch.from_numpy(np.array(image)).float()
        ).abs().mean() < 8

    def test_a_mesh_with_faces_gives_its_vertices(self, tmp_path):
        path = tmp_path / "mesh.ply"
        rows = ["0 0 0 1 2 3", "1 0 0 4 5 6", "0 1 0 7 8 9"]
        properties = [f"property float {axis}" for axis in "xyz"]
        properties += [
            f"property uchar {channel}" for channel in ("red", "green", "blue")
        ]
        header = [
            "ply",
            "format ascii 1.0",
            "element vertex 3",
            *properties,
            "element face 1",
        ]
        path.write_text(
            "\n".join(
                [
                    *header,
                    "property list uchar int vertex_indices",
                    "end_header",
                    *rows,
                    "3 0 1 2",
                    "",
                ]
            )
        )
        points, colors, extra = read_points(path)
        assert points.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
        assert colors.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
        assert extra == {}


def test_only_the_evaluation_opens_the_door_to_point_labels():
    """`read_point_labels` is named in its own module and where results are
    scored, and so is the file."""
    library = Path(vlg_lib.__file__).parent
    named = {
        path.relative_to(library).as_posix()
        for path in library.rglob("*.py")
        if "read_point_labels" in path.read_text()
    }
    assert named <= {"data/layout.py", "pipeline/scenes.py"}
    opened = {
        path.relative_to(library).as_posix()
        for path in library.rglob("*.py")
        if "labels.ply" in path.read_text()
    }
    # The command line's help has a file of this name as an example. Converters
    # read files of this name that others made, and nothing of the method
    # imports a converter.
    converters = {path for path in opened if path.startswith("convert/")}
    assert opened - converters <= {"data/layout.py", "cli/own_scan.py"}
    # The scenes of a run ask when the file was written, and the description
    # of a scene whether there is one.
    asked = {
        path.relative_to(library).as_posix()
        for path in library.rglob("*.py")
        if re.search(r"LABELS", path.read_text())
    }
    assert asked <= {
        "data/layout.py",
        "pipeline/scenes.py",
        "own_scan/summary.py",
    }


class TestFrameFolder:
    def test_frames_come_in_natural_order_and_load_when_asked_for(
        self, tmp_path
    ):
        folder = write(tmp_path / "a", floor_scene(12))
        frames = read_scene(folder).frames
        assert isinstance(frames, FrameFolder)
        assert frames.names == tuple(str(i) for i in range(12))
        assert [frame.name for frame in frames] == list(frames.names)
        assert frames[-1].name == "11"
        assert [frame.name for frame in frames[2:8:3]] == ["2", "5"]
        assert torch.equal(
            frames[2:8:3].poses,
            torch.stack([frames[2].camera_to_world, frames[5].camera_to_world]),
        )
        with pytest.raises(IndexError):
            frames[12]
        (folder / "color" / "3.png").unlink()
        assert frames[4].name == "4"
        with pytest.raises(LayoutError, match=r"3\.png: no such file"):
            frames[3]

    def test_natural_order(self):
        assert sorted(["b10", "a", "b9", "10", "9", "b"], key=natural_key) == [
            "9",
            "10",
            "a",
            "b",
            "b9",
            "b10",
        ]


class TestReplacing:
    def test_an_earlier_scene_is_replaced_as_a_whole(self, tmp_path):
        folder = write(tmp_path / "a", floor_scene(4))
        write(folder, floor_scene(2))
        assert len(read_scene(folder).frames) == 2
        assert sorted(path.name for path in (folder / "color").iterdir()) == [
            "0.png",
            "1.png",
        ]
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_a_scene_read_from_the_folder_can_be_written_back_to_it(
        self, tmp_path
    ):
        folder = write(tmp_path / "a", floor_scene(3))
        write(folder, read_scene(folder))
        assert len(read_scene(folder).frames) == 3

    def test_a_folder_of_other_things_is_left_alone(self, tmp_path):
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "letter.txt").write_text("dear")
        with pytest.raises(LayoutError, match="choose another"):
            write(tmp_path / "home")
        assert (tmp_path / "home" / "letter.txt").read_text() == "dear"

    def test_scene_folders_in_natural_order_without_half_written_ones(
        self, tmp_path
    ):
        for name in ("room10", "room9", ".room11.123.part"):
            write(tmp_path / name, floor_scene(1))
        (tmp_path / "notes").mkdir()
        assert [folder.name for folder in scene_folders(tmp_path)] == [
            "room9",
            "room10",
        ]


class TestVoxelAverager:
    def test_by_hand(self):
        averager = VoxelAverager(grid=1.0, channels=1)
        averager.add(
            torch.tensor([[0.2, 0.5, 0.5], [-0.5, 0.5, 0.5]]),
            torch.tensor([[1.0], [10.0]]),
        )
        averager.add(torch.tensor([[0.6, 0.5, 0.5]]), torch.tensor([[4.0]]))
        points, values, counts = averager.result()
        assert torch.allclose(
            points, torch.tensor([[-0.5, 0.5, 0.5], [0.4, 0.5, 0.5]])
        )
        assert values.tolist() == [[10.0], [2.5]]
        assert counts.tolist() == [1, 2]

    @settings(max_examples=20, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        cuts=st.lists(st.integers(0, 200), max_size=3),
        grid=st.sampled_from([0.04, 0.3, 2.0]),
    )
    def test_against_a_dictionary_and_whatever_the_pieces(
        self, seed, cuts, grid
    ):
        generator = torch.Generator().manual_seed(seed)
        points = torch.randn(200, 3, generator=generator)
        values = torch.rand(200, 2, generator=generator)
        averager = VoxelAverager(grid, channels=2)
        edges = [0, *sorted(cuts), 200]
        for start, stop in pairwise(edges):
            averager.add(points[start:stop], values[start:stop])
        cells: dict = {}
        for point, value in zip(points.double(), values.double(), strict=True):
            cells.setdefault(
                tuple(torch.floor(point / grid).long().tolist()), []
            ).append(torch.cat([point, value]))
        expected = torch.stack(
            [torch.stack(cells[key]).mean(0) for key in sorted(cells)]
        )
        got_points, got_values, counts = averager.result()
        assert torch.allclose(
            torch.cat([got_points, got_values], 1).double(), expected, atol=1e-6
        )
        assert counts.tolist() == [len(cells[key]) for key in sorted(cells)]

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9])
    def test_points_that_cannot_be_are_refused(self, bad):
        with pytest.raises(
            ValueError,
            match=(
                r"NaN or infinite coordinate|points reach 1e\+09 m from the"
                r" origin"
            ),
        ):
            VoxelAverager(0.04, 0).add(
                torch.tensor([[bad, 0.0, 0.0]]), torch.zeros(1, 0)
            )

    @pytest.mark.parametrize("grid", [0.0, -1.0, float("nan")])
    def test_a_grid_has_a_size(self, grid):
        with pytest.raises(ValueError, match="grid size"):
            VoxelAverager(grid, 1)


class TestPointsFromFrames:
    def test_the_floor_comes_back(self):
        frames = [floor_frame(str(i), 0.3 * i, 0.0, 2.0) for i in range(3)]
        points, colors = points_from_frames(frames, 0.1)
        assert points[:, 2].abs().max() < 1e-6
        # Each 0.1 m pixel of the first view falls into a cell of its own; the
        # others add the strip they alone see.
        across = [
            round(float(edge), 4)
            for edge in (points[:, 0].min(), points[:, 0].max())
        ]
        assert across == [-1.55, 2.15]
        assert len(points) == 24 * (32 + 3 + 3)
        place = (points / 0.1).floor() * 0.1 + 0.05
        assert (points - place)[:, :2].abs().max() < 1e-5
        assert colors.dtype == torch.uint8

    def test_colour_is_the_mean_over_views(self):
        frames = [floor_frame(str(i), 0.0, 0.0, 2.0) for i in range(2)]
        frames[0].color.fill_(10)
        frames[1].color.fill_(21)
        _, colors = points_from_frames(frames, 0.1)
        assert set(colors.flatten().tolist()) == {16}  # 15.5 rounds to even

    def test_pixels_without_depth_give_no_point(self):
        frame = floor_frame("0", 0.0, 0.0, 2.0)
        frame.depth[:, 1:] = 0.0
        points, _ = points_from_frames([frame], 0.1)
        assert len(points) == 24
        frame.depth.zero_()
        with pytest.raises(ValueError, match="no pixel of any frame has depth"):
            points_from_frames([frame], 0.1)

    def test_frames_without_depth_are_refused(self):
        frame = floor_frame("7", 0.0, 0.0, 2.0)
        with pytest.raises(ValueError, match="frame '7' has no depth"):
            points_from_frames(
                [
                    type(frame)(
                        "7", frame.camera, frame.camera_to_world, frame.color
                    )
                ]
            )
