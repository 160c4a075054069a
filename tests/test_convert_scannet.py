"""ScanNet in, the library's layout out: every number of files that the test
wrote itself, and what goes wrong."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from convert_command import vlg_convert
from killing import kill_and_go_on
from PIL import Image
from scannet_files import (
    ALIGNMENT,
    COLOR_CAMERA,
    DEPTH_CAMERA,
    INDICES,
    LOST,
    POINTS,
    camera_matrix,
    floor_shots,
    matrix,
    mesh_bytes,
    sens_bytes,
    write_annotations,
    write_exported,
    write_scan,
    write_tsv,
)
from small_scene import floor_frame

from vlg_lib.classes import SCANNET_20
from vlg_lib.convert.batch import Summary
from vlg_lib.convert.scannet import (
    ScannetSettings,
    ScannetSource,
    convert_scannet,
)
from vlg_lib.convert.scannet_labels import (
    NYU40_IDS,
    read_alignment,
    to_nyu40,
    to_scannet20,
)
from vlg_lib.convert.sens import SensFile
from vlg_lib.data.layout import (
    LayoutError,
    read_manifest,
    read_point_labels,
    read_scene,
)
from vlg_lib.fusion import fuse_scene
from vlg_lib.geometry.cameras import resize_camera
from vlg_lib.geometry.visibility import visible_points
from vlg_lib.pseudo_labels import make_pseudo_labels
from vlg_lib.rooms.scenes import room_scene
from vlg_lib.scene import Camera, Frame, Scene


def run(scans: Path, out: Path, *, jobs: int = 1, **given) -> Summary:
    """Convert; what is given goes to the source or to the settings."""
    parts = ("images", "tsv", "tags", "scenes", "split")
    source = {name: given.pop(name) for name in parts if name in given}
    return convert_scannet(
        ScannetSource(scans, **source),
        out,
        ScannetSettings(**given),
        jobs=jobs,
        progress=False,
    )


def converted(
    scans: Path, out: Path, *, name: str = "scene0000_00", **given
) -> Scene:
    result = run(scans, out, frame_skip=1, **given)
    assert not result.failed, str(result)
    return read_scene(out / name)


def in_another_layout(folder, layout, shots):
    """Rename what ScanNet's exporter has written."""
    intrinsic = folder / "intrinsic"
    if layout == "25k":
        for what in ("color", "depth"):
            (intrinsic / f"intrinsic_{what}.txt").rename(
                folder / f"intrinsics_{what}.txt"
            )
    elif layout == "openscene":
        (intrinsic / "intrinsic_color.txt").rename(
            folder.parent / "intrinsics.txt"
        )
        (intrinsic / "intrinsic_depth.txt").unlink()
    elif layout == "no depth":
        shutil.rmtree(folder / "depth")
    else:
        info = []
        for what in ("color", "depth"):
            path = intrinsic / f"intrinsic_{what}.txt"
            numbers = " ".join(path.read_text().split())
            name = f"m_calibration{what.capitalize()}Intrinsic"
            info.append(f"{name} = {numbers}")
        for name, _, color, codes in shots:
            number = int(name)
            posed = layout == "posed_images"
            stem = f"{number:05}" if posed else f"frame-{number:06}"
            kinds = (
                (".jpg", ".png", ".txt")
                if posed
                else (".color.jpg", ".depth.pgm", ".pose.txt")
            )
            Image.fromarray(color).save(folder / (stem + kinds[0]), quality=95)
            depth = folder / "depth" / f"{name}.png"
            if posed:
                depth.rename(folder / (stem + kinds[1]))
            else:
                head = f"P5\n{codes.shape[1]} {codes.shape[0]}\n65535\n"
                (folder / (stem + kinds[1])).write_bytes(
                    head.encode() + codes.astype(">u2").tobytes()
                )
            (folder / "pose" / f"{name}.txt").rename(folder / (stem + kinds[2]))
        if layout == "posed_images":
            (intrinsic / "intrinsic_color.txt").rename(folder / "intrinsic.txt")
        else:
            (folder / "_info.txt").write_text("\n".join(info) + "\n")
        for part in ("color", "depth", "pose", "intrinsic"):
            shutil.rmtree(folder / part)


class TestScene:
    def test_a_scan_comes_out_as_it_went_in(self, tmp_path):
        write_scan(tmp_path / "scans")
        scene = converted(tmp_path / "scans", tmp_path / "out")
        assert scene.frames.names == ("0", "1", "2", "3", "4")
        assert np.array_equal(scene.points.numpy(), POINTS)
        assert (
            read_point_labels(tmp_path / "out" / "scene0000_00").tolist()
            == INDICES
        )
        assert scene.class_set.present(scene.scene_labels) == (
            "wall",
            "floor",
            "other",
        )
        for frame, (pose, _, codes) in zip(
            scene.frames, floor_shots(), strict=True
        ):
            assert frame.camera == DEPTH_CAMERA
            assert np.array_equal(
                frame.camera_to_world.numpy(), pose.astype(np.float32)
            )
            expected = torch.from_numpy(
                np.where(codes == 65535, 0, codes) / 1000
            ).float()
            assert torch.equal(frame.depth, expected)
            floor = floor_frame(
                "", float(pose[0, 3]), float(pose[1, 3]), 2.0, DEPTH_CAMERA
            )
            assert (frame.color.float() - floor.color.float())[
                1:-1, 1:-1
            ].abs().max() <= 3
        facts = read_manifest(tmp_path / "out" / "scene0000_00")["provenance"]
        assert facts["point_labels"] == "scene0000_00_vh_clean_2.labels.ply"
        assert facts["settings"]["frame_skip"] == 1

    def test_each_scene_has_its_own_camera(self, tmp_path):
        write_scan(tmp_path / "scans")
        other = write_scan(tmp_path / "scans", "scene0000_01")
        stream = sens_bytes(
            floor_shots(),
            matrix(50, 50, 31.5, 23.5),
            matrix(25, 25, 15.5, 11.5),
        )
        (other / "scene0000_01.sens").write_bytes(stream)
        first = converted(tmp_path / "scans", tmp_path / "out")
        second = read_scene(tmp_path / "out" / "scene0000_01")
        assert first.frames.camera.fx == 20.0
        assert second.frames.camera == Camera(25.0, 25.0, 15.5, 11.5, 32, 24)

    @pytest.mark.parametrize("size", ["color", (16, 12), (40, 30)])
    def test_other_grids(self, tmp_path, size):
        write_scan(tmp_path / "scans")
        scene = converted(tmp_path / "scans", tmp_path / "out", size=size)
        expected = (
            COLOR_CAMERA
            if size == "color"
            else resize_camera(COLOR_CAMERA, *size)
        )
        assert scene.frames.camera == expected
        for frame in scene.frames:
            x, y = (float(frame.camera_to_world[i, 3]) for i in (0, 1))
            floor = floor_frame("", x, y, 2.0, expected)
            assert (frame.color.float() - floor.color.float())[
                1:-1, 1:-1
            ].abs().max() <= 4
            assert torch.equal(frame.depth[2:], floor.depth[2:])

    def test_skipped_frames_are_not_decoded(self, tmp_path):
        folder = write_scan(tmp_path / "scans")
        stream = bytearray((folder / "scene0000_00.sens").read_bytes())
        with SensFile(folder / "scene0000_00.sens") as sens:
            for index in (1, 3):
                begin = int(sens._offsets[index])
                stream[begin : begin + 200] = bytes(200)
        (folder / "scene0000_00.sens").write_bytes(stream)
        assert not run(
            tmp_path / "scans", tmp_path / "out", frame_skip=2
        ).failed
        scene = read_scene(tmp_path / "out" / "scene0000_00")
        assert (scene.frames.names, scene.skipped) == (("0", "2", "4"), {})

    def test_lost_poses_and_damaged_images_are_counted(self, tmp_path):
        shots = floor_shots()
        shots[1] = (LOST, *shots[1][1:])
        shots[2] = (*shots[2][:2], shots[2][2][:5])
        shots[3] = (np.full((4, 4), np.nan), *shots[3][1:])
        write_scan(tmp_path / "scans", shots=shots)
        scene = converted(tmp_path / "scans", tmp_path / "out")
        assert scene.frames.names == ("0", "4")
        assert scene.skipped == {"invalid pose": 2, "unreadable image": 1}

    def test_a_scale_of_its_own(self, tmp_path):
        write_scan(tmp_path / "scans", depth_shift=5000.0)
        depth = converted(tmp_path / "scans", tmp_path / "out").frames[0].depth
        assert depth[0, :3].tolist() == pytest.approx([0, 0, 1234 / 5000])
        assert depth[5, 5] == pytest.approx(2000 / 5000)

    def test_points_and_poses_turn_together(self, tmp_path):
        write_scan(tmp_path / "scans")
        raw = converted(tmp_path / "scans", tmp_path / "raw")
        turned = converted(tmp_path / "scans", tmp_path / "turned", align=True)
        expected = POINTS @ ALIGNMENT[:3, :3].T + ALIGNMENT[:3, 3]
        assert np.allclose(turned.points.numpy(), expected, atol=1e-6)
        assert np.allclose(
            turned.frames.poses[2].numpy(),
            ALIGNMENT @ raw.frames.poses[2].numpy(),
            atol=1e-12,
        )
        for before, after in zip(raw.frames, turned.frames, strict=True):
            assert torch.equal(
                visible_points(raw.points, before).indices,
                visible_points(turned.points, after).indices,
            )
        assert len(visible_points(raw.points, raw.frames[0])) > 0
        assert (
            read_manifest(tmp_path / "turned" / "scene0000_00")[
                "axis_alignment"
            ]
            == ALIGNMENT.tolist()
        )
        assert (
            read_manifest(tmp_path / "raw" / "scene0000_00")["axis_alignment"]
            is None
        )

    def test_depth_that_is_not_registered_is_refused(self, tmp_path):
        write_scan(tmp_path / "scans", extrinsic=ALIGNMENT)
        result = run(tmp_path / "scans", tmp_path / "out", frame_skip=1)
        assert result.failed
        assert "expected depth registered to colour" in str(result)
        scene = converted(
            tmp_path / "scans", tmp_path / "out", ignore_extrinsics=True
        )
        assert len(scene.frames) == 5

    def test_exported_frames_give_the_scene_of_the_stream(self, tmp_path):
        write_scan(tmp_path / "scans")
        exported = [(str(i), *shot) for i, shot in enumerate(floor_shots())]
        write_exported(
            tmp_path / "images" / "scene0000_00",
            exported,
            camera_matrix(COLOR_CAMERA),
            camera_matrix(DEPTH_CAMERA),
        )
        first = converted(tmp_path / "scans", tmp_path / "a")
        second = converted(
            tmp_path / "scans", tmp_path / "b", images=tmp_path / "images"
        )
        assert second.frames.camera == first.frames.camera
        assert torch.allclose(
            first.frames.poses, second.frames.poses, atol=1e-7
        )
        for one, other in zip(first.frames, second.frames, strict=True):
            assert (one.name, one.depth.tolist()) == (
                other.name,
                other.depth.tolist(),
            )
            assert torch.equal(one.color, other.color)

    @pytest.mark.parametrize(
        "layout", ["25k", "openscene", "posed_images", "c++", "no depth"]
    )
    def test_layouts_of_exported_frames(self, tmp_path, layout):
        """Each holds the frames that ScanNet's own exporter writes."""
        scans = tmp_path / "scans"
        folder = write_scan(scans)
        (folder / "scene0000_00.sens").unlink()
        images = tmp_path / "images" / "scene0000_00"
        matrices = camera_matrix(COLOR_CAMERA), camera_matrix(DEPTH_CAMERA)
        shots = [(str(20 * i), *shot) for i, shot in enumerate(floor_shots())]
        write_exported(tmp_path / "plain" / "scene0000_00", shots, *matrices)
        write_exported(images, shots, *matrices)
        in_another_layout(images, layout, shots)
        first = converted(scans, tmp_path / "a", images=tmp_path / "plain")
        scene = converted(scans, tmp_path / "b", images=tmp_path / "images")
        assert [int(name) for name in scene.frames.names] == [0, 20, 40, 60, 80]
        if layout == "no depth":
            assert scene.frames[0].depth is None
            assert scene.frames[0].camera.width == COLOR_CAMERA.width
            return
        for found, expected in zip(scene.frames, first.frames, strict=True):
            assert torch.equal(found.depth, expected.depth)
            assert torch.equal(found.camera_to_world, expected.camera_to_world)
            different = (found.color.int() - expected.color.int()).abs()
            assert float(different.float().mean()) < 8

    def test_shared_intrinsics_of_another_size(self, tmp_path):
        folder = write_scan(tmp_path / "scans")
        (folder / "scene0000_00.sens").unlink()
        shots = [(str(i), *shot) for i, shot in enumerate(floor_shots())]
        wrong = 10 * camera_matrix(COLOR_CAMERA)
        wrong[2:, 2:] /= 10
        write_exported(folder, shots, wrong, camera_matrix(DEPTH_CAMERA))
        (folder / "intrinsic" / "intrinsic_color.txt").rename(
            tmp_path / "scans" / "intrinsics.txt"
        )
        result = run(tmp_path / "scans", tmp_path / "out")
        assert "give those of this size" in str(result)

    def test_exported_frames_that_are_missing_or_wrong(self, tmp_path):
        folder = write_scan(tmp_path / "scans")
        (folder / "scene0000_00.sens").unlink()
        exported = [
            (str(20 * i), *shot)
            for i, shot in enumerate(floor_shots() + floor_shots(2))
        ]
        exported[1] = ("20", LOST, *exported[1][2:])
        exported[6] = (
            "120",
            exported[6][1],
            exported[6][2][:10],
            exported[6][3],
        )
        write_exported(
            folder,
            exported,
            camera_matrix(COLOR_CAMERA),
            camera_matrix(DEPTH_CAMERA),
            ".jpg",
        )
        (folder / "color" / "40.jpg").unlink()
        (folder / "depth" / "60.png").unlink()
        (folder / "pose" / "80.txt").unlink()
        (folder / "color" / "7.jpg").write_bytes(
            b"not taken: no multiple of 20"
        )
        result = run(tmp_path / "scans", tmp_path / "out")
        assert not result.failed, str(result)
        scene = read_scene(tmp_path / "out" / "scene0000_00")
        assert scene.frames.names == ("0", "100")
        assert scene.skipped == {
            "invalid pose": 1,
            "missing image": 1,
            "missing depth": 1,
            "missing pose": 1,
            "unreadable image": 1,
        }


class TestLabels:
    def test_annotations_and_the_tsv_say_what_the_labels_say(self, tmp_path):
        folder = write_scan(tmp_path / "scans", labels=False)
        write_annotations(
            folder,
            [
                ("wall", [7]),
                ("office floor", [3]),
                ("person", [5, 6]),
                ("thing", [8]),
            ],
            [7, 3, 5, 6, 8, 99],
        )
        tsv = write_tsv(
            tmp_path / "a.tsv",
            [("wall", 1), ("office floor", 2), ("person", 31), ("thing", 39)],
        )
        scene = converted(tmp_path / "scans", tmp_path / "out", tsv=tsv)
        assert (
            read_point_labels(tmp_path / "out" / "scene0000_00").tolist()
            == INDICES
        )
        assert scene.class_set.present(scene.scene_labels) == (
            "wall",
            "floor",
            "other",
        )

    def test_the_segments_of_the_mesh_are_the_superpoints(self, tmp_path):
        folder = write_scan(tmp_path / "scans")
        write_annotations(folder, [], [70, 3, 70, 2**40, 3, 3])
        (folder / "scene0000_00.aggregation.json").unlink()
        scene = converted(tmp_path / "scans", tmp_path / "out")
        assert scene.superpoints.tolist() == [1, 0, 1, 2, 0, 0]
        made = read_manifest(tmp_path / "out" / "scene0000_00")
        assert made["provenance"]["superpoints"] == (
            "scene0000_00_vh_clean_2.0.010000.segs.json"
        )

    def test_without_segments_there_are_no_superpoints(self, tmp_path):
        write_scan(tmp_path / "scans")
        scene = converted(tmp_path / "scans", tmp_path / "out")
        assert scene.superpoints is None

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"segIndices": [1, 2, 3]}', "each of the 6 points of the mesh"),
            ('{"segIndices": [1, 2, 3, 4, 5, 1.5]}', "list of whole numbers"),
            ('{"segIndices": [1, 2, 3, 4, 5, -6]}', "list of whole numbers"),
            ('{"segIndices": [1, 2, 3, 4, 5, true]}', "list of whole numbers"),
            ('{"segIndices": "123456"}', "list of whole numbers"),
            ("[1, 2, 3, 4, 5, 6]", "list of whole numbers"),
            ('{"segIndices": [1, 2', "not JSON"),
        ],
    )
    def test_segments_that_do_not_fit(self, tmp_path, content, message):
        folder = write_scan(tmp_path / "scans")
        path = folder / "scene0000_00_vh_clean_2.0.010000.segs.json"
        path.write_text(content)
        result = run(tmp_path / "scans", tmp_path / "out", frame_skip=1)
        (error,) = result.failed.values()
        assert message in error
        assert "segs.json" in error

    def test_ids_that_are_none_are_not_annotated_and_named_once(self, tmp_path):
        """50 and 149 stand in three of ScanNet's training scenes."""
        scans, out = tmp_path / "scans", tmp_path / "out"
        for name in ("scene0270_00", "scene0384_00"):
            folder = write_scan(scans, name)
            (folder / f"{name}_vh_clean_2.labels.ply").write_bytes(
                mesh_bytes(
                    POINTS,
                    np.zeros((6, 3), int),
                    np.array([1, 2, 50, 149, 39, 50]),
                )
            )
        write_scan(scans, "scene0001_00")
        for counts in ("3 scenes converted", "3 kept"):
            result = run(scans, out)
            assert (counts in str(result), result.failed) == (True, {})
            assert result.notes == [
                "label ids that are none of NYU40's (0 to 40): 4 points of 50,"
                " 2 points of 149, in scene0270_00, scene0384_00; taken as not"
                " annotated"
            ]
        labels = read_point_labels(out / "scene0270_00").tolist()
        assert labels == [0, 1, -1, -1, 19, -1]

    def test_a_word_without_an_id_matters_where_it_is_used(self, tmp_path):
        folder = write_scan(tmp_path / "scans", labels=False)
        write_annotations(
            folder, [("wall", [1]), ("floor", [2])], [1, 1, 2, 2, 2, 3]
        )
        tsv = write_tsv(tmp_path / "a.tsv", [("wall", 1), ("floor", 2)])
        blank = "203\tpaper cutter\tpaper cutter\t1\t\t\t\n204\tshort\n205\n"
        tsv.write_text(tsv.read_text() + blank)
        converted(tmp_path / "scans", tmp_path / "out", tsv=tsv)
        labels = read_point_labels(tmp_path / "out" / "scene0000_00").tolist()
        assert labels == [0, 0, 1, 1, 1, -1]
        write_annotations(folder, [("paper cutter", [1])], [1] * 6)
        result = run(tmp_path / "scans", tmp_path / "again", tsv=tsv)
        assert "no nyu40id for the word 'paper cutter'" in str(result)

    def test_every_class_has_the_id_of_the_benchmark(self):
        names = dict(zip(SCANNET_20.names, NYU40_IDS, strict=True))
        assert (
            names["bookshelf"],
            names["desk"],
            names["shower curtain"],
            names["bathtub"],
        ) == (10, 14, 28, 36)
        everything = torch.arange(41)
        labels = to_scannet20(everything)
        assert int((labels >= 0).sum()) == 20
        assert torch.equal(
            to_nyu40(labels)[labels >= 0], everything[labels >= 0]
        )
        assert to_nyu40(labels)[labels < 0].unique().tolist() == [0]

    def test_a_scene_without_labels_and_tags_of_a_person(self, tmp_path):
        write_scan(tmp_path / "scans", labels=False)
        scene = converted(tmp_path / "scans", tmp_path / "a")
        assert not scene.scene_labels.any()
        with pytest.raises(LayoutError, match="no point labels"):
            read_point_labels(tmp_path / "a" / "scene0000_00")
        (tmp_path / "tags.txt").write_text("scene0000_00: chair, toilet\n")
        scene = converted(
            tmp_path / "scans", tmp_path / "a", tags=tmp_path / "tags.txt"
        )
        assert scene.class_set.present(scene.scene_labels) == (
            "chair",
            "toilet",
        )

    def test_classes_of_few_points_are_no_scene_labels(self, tmp_path):
        write_scan(tmp_path / "scans")
        scene = converted(tmp_path / "scans", tmp_path / "a", least_points=2)
        assert not scene.scene_labels.any()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("axisAlignment = 1 2 3", "= 16 numbers"),
            ("axisAlignment = " + "2 " * 16, "a rotation and a shift"),
        ],
    )
    def test_alignments_that_are_none(self, tmp_path, text, message):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(LayoutError, match=message):
            read_alignment(tmp_path / "a.txt")
        (tmp_path / "a.txt").write_text("sceneType = Office")
        assert read_alignment(tmp_path / "a.txt") is None


class TestManyScenes:
    def test_bad_scenes_among_good_ones(self, tmp_path):
        scans, out = tmp_path / "scans", tmp_path / "out"
        for i in range(6):
            write_scan(scans, f"scene000{i}_00")
        stream = scans / "scene0001_00" / "scene0001_00.sens"
        stream.write_bytes(stream.read_bytes()[:-1000])
        mesh = scans / "scene0002_00" / "scene0002_00_vh_clean_2.ply"
        mesh.write_bytes(mesh.read_bytes()[:300])
        labels = scans / "scene0003_00" / "scene0003_00_vh_clean_2.labels.ply"
        labels.write_bytes(
            mesh_bytes(
                POINTS[:5], np.zeros((5, 3), int), np.array([1, 2, 3, 4, 5])
            )
        )
        (scans / "scene0004_00" / "scene0004_00.sens").write_bytes(
            sens_bytes(
                [(LOST, *shot[1:]) for shot in floor_shots()],
                np.eye(4),
                np.eye(4),
            )
        )
        result = run(scans, out, frame_skip=2)
        assert len(result.failed) == 4
        assert "2 scenes converted, 0 kept, 4 failed" in str(result)
        for name, what in (
            ("scene0001_00", "scene0001_00.sens: cut short in frame 4 of 5"),
            (
                "scene0002_00",
                "scene0002_00_vh_clean_2.ply: not a whole PLY file",
            ),
            ("scene0003_00", "expected a label for each of the 6 points"),
            (
                "scene0004_00",
                "none of its frames can be used (3 x invalid pose)",
            ),
        ):
            assert any(
                name in line and what in line
                for line in str(result).splitlines()
            ), what
        assert sorted(path.name for path in out.iterdir()) == [
            "scene0000_00",
            "scene0005_00",
        ]

    def test_a_split_and_scenes_that_are_not_there(self, tmp_path):
        for i in range(3):
            write_scan(tmp_path / "scans", f"scene000{i}_00")
        (tmp_path / "val.txt").write_text("scene0002_00\nscene0000_00\n")
        assert not run(
            tmp_path / "scans", tmp_path / "out", split=tmp_path / "val.txt"
        ).failed
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "scene0000_00",
            "scene0002_00",
        ]
        with pytest.raises(ValueError, match="first 'scene0007_00'"):
            run(
                tmp_path / "scans",
                tmp_path / "out",
                scenes=("scene0002_00", "scene0007_00"),
            )
        with pytest.raises(ValueError, match="found none"):
            run(tmp_path, tmp_path / "out")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"frame_skip": 0}, "must be positive"),
            ({"size": "640"}, "size like 320x240"),
            ({"size": (0, 240)}, "size like 320x240"),
            ({"jobs": 0}, "jobs"),
        ],
    )
    def test_settings_that_make_no_sense(self, tmp_path, given, message):
        write_scan(tmp_path / "scans")
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "scans", tmp_path / "out", **given)

    def test_scenes_of_an_earlier_release_are_kept(self, tmp_path):
        """The converter had another name; its settings are the same."""
        write_scan(tmp_path / "scans")
        (tmp_path / "tags.txt").write_text("scene0000_00: chair\n")
        given = {"size": (16, 12), "tags": tmp_path / "tags.txt"}
        converted(tmp_path / "scans", tmp_path / "out", **given)
        path = tmp_path / "out" / "scene0000_00" / "scene.json"
        manifest = json.loads(path.read_text())
        made = manifest["provenance"]
        assert made["converter"] == "vlg convert scannet"
        assert len(made["settings"].pop("tags")) > 8
        assert made["settings"] == {
            "frame_skip": 1,
            "size": "16x12",
            "align": False,
            "least_points": 1,
            "ignore_extrinsics": False,
            "points_only": False,
        }
        manifest = json.loads(path.read_text())
        manifest["provenance"]["converter"] = "data_scripts/convert_scannet.py"
        path.write_text(json.dumps(manifest))
        again = run(tmp_path / "scans", tmp_path / "out", frame_skip=1, **given)
        assert again.kept == ["scene0000_00"]

    @pytest.mark.timeout(300)
    def test_a_conversion_that_is_killed_goes_on(self, tmp_path):
        scans, out = tmp_path / "scans", tmp_path / "out"
        names = [f"scene00{i:02d}_00" for i in range(30)]
        for name in names:
            write_scan(scans, name)
        convert = partial(
            convert_scannet,
            ScannetSource(scans),
            out,
            ScannetSettings(frame_skip=1),
        )
        kill_and_go_on(convert, out, names, 5)


class TestCommand:
    def test_a_split_and_scenes_that_are_not_there(self, tmp_path):
        for i in range(3):
            write_scan(tmp_path / "scans", f"scene000{i}_00")
        result = vlg_convert(
            "scannet",
            tmp_path / "scans",
            "--out",
            tmp_path / "out",
            "--only",
            "scene0002_00,scene0007_00",
        )
        assert (result.exit_code, "first 'scene0007_00'" in result.output) == (
            2,
            True,
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--every", 0], "must be positive"),
            (["--size", "640"], "size like 320x240"),
            (["--jobs", 0], "jobs"),
        ],
    )
    def test_settings_that_make_no_sense(self, tmp_path, options, message):
        write_scan(tmp_path / "scans")
        result = vlg_convert(
            "scannet", tmp_path / "scans", "--out", tmp_path / "out", *options
        )
        assert (result.exit_code, message in result.output) == (
            2,
            True,
        ), result.output


class TestRoundTrip:
    def test_a_room_through_scannet_files_gives_the_same_pseudo_labels(
        self, tmp_path
    ):
        room, labels = room_scene(7, views=3, width=64, height=48)
        shots, frames = [], []
        for frame in room.frames:
            pose = frame.camera_to_world.float()  # as a stream keeps it
            codes = (frame.depth.double() * 1000).round()
            shots.append(
                (
                    pose.numpy(),
                    frame.color.numpy(),
                    codes.numpy().astype(np.uint16),
                )
            )
            frames.append(
                Frame(
                    frame.name,
                    frame.camera,
                    pose.double(),
                    frame.color,
                    (codes / 1000).float(),
                )
            )
        ids = np.where(
            labels.numpy() >= 0, np.array(NYU40_IDS)[labels.numpy()], 0
        )
        folder = tmp_path / "scans" / "scene0700_00"
        folder.mkdir(parents=True)
        camera = camera_matrix(frames[0].camera)
        (folder / f"{folder.name}.sens").write_bytes(
            sens_bytes(shots, camera, camera)
        )
        for what, values in (("", None), (".labels", ids)):
            mesh = mesh_bytes(room.points.numpy(), room.colors.numpy(), values)
            (folder / f"{folder.name}_vh_clean_2{what}.ply").write_bytes(mesh)
        scene = converted(
            tmp_path / "scans", tmp_path / "out", name=folder.name
        )
        back = read_point_labels(tmp_path / "out" / folder.name)
        assert torch.equal(back, labels)
        text = torch.nn.functional.normalize(
            torch.randn(20, 3, generator=torch.Generator().manual_seed(0)),
            dim=1,
        )
        expected = Scene(
            "", room.points, room.colors, frames, SCANNET_20, scene.scene_labels
        )
        found, wanted = (
            make_pseudo_labels(
                fuse_scene(each, lambda image: image.float() - 127.0),
                text,
                each.scene_labels,
                0.1,
            )
            for each in (scene, expected)
        )
        assert torch.equal(found.labels, wanted.labels)
        assert torch.allclose(found.confidence, wanted.confidence, atol=1e-5)
        assert len(found.labels.unique()) > 2
