"""S3DIS and 2D-3D-S in, the library's layout out: text with its faults, rooms
and images, frames of the world."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from convert_command import vlg_convert
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import kill_and_go_on
from s3dis_files import FROM_5B, text_of, write_room, write_view

from vlg_lib.classes import IGNORE_LABEL, S3DIS_13
from vlg_lib.convert.batch import Summary
from vlg_lib.convert.s3dis import (
    ROOMS,
    S3disSettings,
    S3disSource,
    class_of,
    convert_s3dis,
    thin,
    undo_alignment,
)
from vlg_lib.convert.s3dis_images import AREA_5B, agreement
from vlg_lib.data.layout import read_manifest, read_point_labels, read_scene
from vlg_lib.fusion import fuse_scene
from vlg_lib.geometry.visibility import visible_points
from vlg_lib.pseudo_labels import make_pseudo_labels
from vlg_lib.rooms.scenes import room_scene
from vlg_lib.scene import Frame, Scene

SHIFT = np.array([20.0, -30.0, 0.0])  # rooms lie somewhere in their area


def room_parts(shift=SHIFT, views: int = 4):
    """A generated room moved into an area: its scene (poses and depth as
    2D-3D-S keeps them) and its objects."""
    room, labels = room_scene(11, views=views, width=48, height=36)
    names = [
        S3DIS_13.names[label % 13] if label >= 0 else "lamp"
        for label in range(-1, 12)
    ]
    points = np.round(room.points.numpy().astype(float) + shift, 3)
    objects, order = [], []
    for label in sorted(
        set(labels.tolist()), key=lambda label: names[label + 1]
    ):
        chosen = np.flatnonzero(labels.numpy() == label)
        objects.append(
            (
                f"{names[label + 1]}_1",
                points[chosen],
                room.colors.numpy()[chosen],
            )
        )
        order.append(chosen)
    frames = []
    for frame in room.frames:
        pose = frame.camera_to_world.clone()
        pose[:3, 3] += torch.from_numpy(shift)
        depth = ((frame.depth.double() * 512).round() / 512).float()
        depth[3, 4] = 0  # missing
        frames.append(Frame(frame.name, frame.camera, pose, frame.color, depth))
    order = np.concatenate(order)
    expected = torch.tensor(
        [class_of(f"{names[label + 1]}_1") for label in labels.tolist()]
    )[order]
    scene = Scene(
        "",
        torch.from_numpy(points[order]).float(),
        room.colors[order],
        frames,
        S3DIS_13,
        S3DIS_13.mask([]),
    )
    return scene, objects, expected


def write_dataset(
    root: Path,
    area: str = "Area_1",
    room: str = "office_1",
    parts=None,
    image_area: str = "area_1",
):
    scene, objects, _ = parts or room_parts()
    write_room(root / "rooms" / area / room, objects)
    to_images = np.linalg.inv(FROM_5B) if image_area == "area_5b" else np.eye(4)
    for number, frame in enumerate(scene.frames):
        write_view(
            root / "images" / image_area,
            f"{number:032x}",
            room,
            number,
            to_images @ frame.camera_to_world.numpy(),
            frame.camera.matrix.numpy(),
            frame.color.numpy(),
            frame.depth.numpy(),
        )
    return root / "rooms", root / "images"


def run(rooms: Path, out: Path, **given) -> Summary:
    """Convert; what is given goes to the source or to the settings."""
    parts = ("images", "tags", "areas", "scenes", "split")
    source = {name: given.pop(name) for name in parts if name in given}
    return convert_s3dis(
        S3disSource(rooms, **source),
        out,
        S3disSettings(**given),
        progress=False,
    )


def assert_same(found: Scene, expected: Scene) -> None:
    assert torch.equal(found.points, expected.points)
    assert torch.equal(found.colors, expected.colors)
    assert len(found.frames) == len(expected.frames)
    for one, other in zip(found.frames, expected.frames, strict=True):
        assert one.camera == other.camera
        assert torch.allclose(
            one.camera_to_world, other.camera_to_world, atol=1e-6
        )
        assert torch.equal(one.color, other.color)
        assert torch.equal(one.depth, other.depth)


class TestRooms:
    def test_a_room_comes_out_as_it_went_in_with_the_same_pseudo_labels(
        self, tmp_path
    ):
        expected, objects, labels = room_parts()
        rooms, images = write_dataset(tmp_path)
        result = run(rooms, tmp_path / "out", images=images)
        assert not result.failed, str(result)
        assert "note: 1 of the 44 rooms of Area_1 are there" in str(result)
        scene = read_scene(tmp_path / "out" / "Area_1_office_1")
        assert_same(scene, expected)
        assert torch.equal(
            read_point_labels(tmp_path / "out" / "Area_1_office_1"), labels
        )
        tags = S3DIS_13.mask(
            [
                S3DIS_13.names[label]
                for label in labels.unique().tolist()
                if label >= 0
            ]
        )
        assert torch.equal(scene.scene_labels, tags)
        facts = read_manifest(tmp_path / "out" / "Area_1_office_1")[
            "provenance"
        ]
        assert facts["agreement"] > 0.9
        assert ("lamp_1" in [name for name, *_ in objects]) == (
            facts["faults"] == {"object of an unknown class": 1}
        )
        text = torch.nn.functional.normalize(
            torch.randn(13, 3, generator=torch.Generator().manual_seed(0)),
            dim=1,
        )
        found, wanted = (
            make_pseudo_labels(
                fuse_scene(each, lambda image: image.float() - 127.0),
                text,
                tags,
                0.1,
            ).labels
            for each in (scene, expected)
        )
        assert torch.equal(found, wanted)
        assert len(found.unique()) > 2

    def test_the_two_halves_of_area_5_meet_in_one_world(self, tmp_path):
        """Some images of the room in area_5a, others in area_5b, each in its
        own frame."""
        expected, objects, labels = room_parts()
        write_dataset(
            tmp_path,
            "Area_5",
            "office_1",
            (expected, objects, labels),
            "area_5b",
        )
        for path in (tmp_path / "images" / "area_5b" / "data" / "pose").glob(
            "*frame_[02]_*"
        ):
            path.unlink()
        for number in (0, 2):
            frame = expected.frames[number]
            write_view(
                tmp_path / "images" / "area_5a",
                f"{number:032x}",
                "office_1",
                number,
                frame.camera_to_world.numpy(),
                frame.camera.matrix.numpy(),
                frame.color.numpy(),
                frame.depth.numpy(),
            )
        result = run(
            tmp_path / "rooms",
            tmp_path / "out",
            images=tmp_path / "images",
            areas=(5,),
        )
        assert not result.failed, str(result)
        scene = read_scene(tmp_path / "out" / "Area_5_office_1")
        order = sorted(range(4), key=lambda i: f"{i:032x}_{i}")
        assert [int(name.split("_")[1]) for name in scene.frames.names] == order
        assert_same(scene, expected)
        assert torch.allclose(AREA_5B, torch.from_numpy(FROM_5B))

    def test_images_of_another_world_are_refused(self, tmp_path):
        write_dataset(tmp_path, "Area_5", "office_1", image_area="area_5b")
        # the frame of 5b, unmoved
        (tmp_path / "images" / "area_5b").rename(
            tmp_path / "images" / "area_5a"
        )
        for path in (tmp_path / "images").rglob("*.json"):
            path.write_text(
                path.read_text().replace("office_1_5b", "office_1_5a")
            )
        result = run(
            tmp_path / "rooms",
            tmp_path / "out",
            images=tmp_path / "images",
        )
        assert result.failed
        assert (
            "of its points lie where its depth images see a surface; is this"
            " the aligned" in str(result)
        )
        assert not (tmp_path / "out" / "Area_5_office_1").exists()
        result = run(
            tmp_path / "rooms",
            tmp_path / "out",
            images=tmp_path / "images",
            least_agreement=0.0,
        )
        assert not result.failed, str(result)

    def test_the_aligned_version_is_refused_or_undone(self, tmp_path):
        expected, objects, _ = room_parts()
        everything = np.concatenate([points for _, points, _ in objects])
        middle = (everything.min(0) + everything.max(0)) / 2
        angle = math.radians(-25)
        turn = np.array(
            [
                [math.cos(angle), -math.sin(angle), 0],
                [math.sin(angle), math.cos(angle), 0],
                [0, 0, 1],
            ]
        )
        turned = [
            (name, (points - middle) @ turn.T + middle, colors)
            for name, points, colors in objects
        ]
        rooms, images = write_dataset(tmp_path, parts=(expected, turned, None))
        aligned = rooms.rename(
            tmp_path / "Stanford3dDataset_v1.2_Aligned_Version"
        )
        with pytest.raises(ValueError, match="do not fit the aligned version"):
            run(aligned, tmp_path / "out", images=images)
        secret = aligned.rename(tmp_path / "renamed")
        result = run(secret, tmp_path / "out", images=images)
        assert "is this the aligned version" in result.failed["Area_1_office_1"]
        undone = {"images": images, "undo_alignment": True}
        result = run(secret, tmp_path / "out", **undone)
        assert (
            "Area_1_alignmentAngle.txt: no such file"
            in result.failed["Area_1_office_1"]
        )
        (secret / "Area_1" / "Area_1_alignmentAngle.txt").write_text(
            "## Angles of Area_1 ##\n\noffice_10 7\noffice_1 25\n"
        )
        result = run(secret, tmp_path / "out", **undone)
        assert not result.failed, str(result)
        scene = read_scene(tmp_path / "out" / "Area_1_office_1")
        # millimetres were written
        assert (scene.points - expected.points).abs().max() < 2e-3
        for one, other in zip(scene.frames, expected.frames, strict=True):
            both = (
                len(visible_points(each.points, frame))
                for each, frame in ((scene, one), (expected, other))
            )
            assert next(both) == pytest.approx(next(both), rel=0.02)

    @given(st.floats(-360, 360), st.integers(0, 1000))
    @settings(max_examples=30, deadline=None)
    def test_undoing_an_alignment(self, degrees, seed):
        points = np.random.default_rng(seed).uniform(-30, 30, (50, 3))
        middle = (points.min(0) + points.max(0)) / 2
        angle = math.radians(-degrees)
        turn = np.array(
            [
                [math.cos(angle), -math.sin(angle), 0],
                [math.sin(angle), math.cos(angle), 0],
                [0, 0, 1],
            ]
        )
        aligned = (points - middle) @ turn.T + middle
        assert np.allclose(
            undo_alignment(torch.from_numpy(aligned), degrees).numpy(),
            points,
            atol=1e-4,
        )

    def test_faults_of_the_text_are_mended_and_counted(self, tmp_path):
        rooms, _ = write_dataset(tmp_path)
        path = next(
            (rooms / "Area_1" / "office_1" / "Annotations").glob("wall_1.txt")
        )
        text = path.read_bytes()
        first, rest = text.split(b"\n", 1)
        path.write_bytes(b"\x10".join(first.rsplit(b" ", 1)) + b"\r\n" + rest)
        stairs = rooms / "Area_1" / "office_1" / "Annotations" / "stairs_1.txt"
        stairs.write_bytes(text_of(np.zeros((2, 3)), np.zeros((2, 3), int)))
        (stairs.parent / ".DS_Store.txt").write_bytes(b"\x00")
        result = run(rooms, tmp_path / "out")
        assert not result.failed, str(result)
        folder = tmp_path / "out" / "Area_1_office_1"
        assert read_manifest(folder)["provenance"]["faults"]["fixed line"] == 1
        labels = read_point_labels(folder)
        scene = read_scene(folder)
        assert (
            labels[(scene.points == 0).all(1)].tolist()
            == [S3DIS_13.index("clutter")] * 2
        )
        assert len(scene.frames) == 0

    def test_a_room_without_annotations_has_no_labels(self, tmp_path):
        _, objects, _ = room_parts()
        write_room(
            tmp_path / "rooms" / "Area_6" / "copyRoom_1",
            objects,
            annotations=False,
        )
        folder = tmp_path / "rooms" / "Area_6" / "copyRoom_1"
        # as it is called in the data set
        (folder / "copyRoom_1.txt").rename(folder / "copy_Room_1.txt")
        assert not run(tmp_path / "rooms", tmp_path / "out").failed
        scene = read_scene(tmp_path / "out" / "Area_6_copyRoom_1")
        assert len(scene.points) == sum(len(points) for _, points, _ in objects)
        assert not scene.scene_labels.any()
        assert not (
            tmp_path / "out" / "Area_6_copyRoom_1" / "labels.ply"
        ).exists()

    def test_bad_rooms_among_good_ones_and_the_protocol_of_area_5(
        self, tmp_path
    ):
        parts = room_parts(views=1)
        for area, room in (
            ("Area_1", "office_1"),
            ("Area_2", "office_1"),
            ("Area_5", "WC_1"),
            ("Area_5", "WC_2"),
        ):
            write_room(tmp_path / "rooms" / area / room, parts[1])
        broken = (
            tmp_path
            / "rooms"
            / "Area_5"
            / "WC_1"
            / "Annotations"
            / "wall_1.txt"
        )
        broken.write_bytes(broken.read_bytes() + b"1.000 2.000\n")
        result = run(
            tmp_path / "rooms", tmp_path / "out", areas=(1, 2, 3, 4, 6)
        )
        assert not result.failed, str(result)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "Area_1_office_1",
            "Area_2_office_1",
        ]
        result = run(tmp_path / "rooms", tmp_path / "test", areas=(5,))
        assert "wall_1.txt, line" in result.failed["Area_5_WC_1"]
        assert "failed: Area_5_WC_1" in str(result)
        assert [path.name for path in (tmp_path / "test").iterdir()] == [
            "Area_5_WC_2"
        ]
        with pytest.raises(ValueError, match="areas from 1 to 6"):
            run(tmp_path / "rooms", tmp_path / "test", areas=(7,))
        assert sum(ROOMS.values()) == 272

    @pytest.mark.timeout(300)
    def test_a_conversion_that_is_killed_goes_on(self, tmp_path):
        parts, names = (
            room_parts(views=2),
            [f"office_{i}" for i in range(1, 31)],
        )
        for name in names:
            rooms, images = write_dataset(tmp_path, room=name, parts=parts)
        out, scenes = tmp_path / "out", [f"Area_1_{name}" for name in names]
        source = S3disSource(rooms, images)
        kill_and_go_on(partial(convert_s3dis, source, out), out, scenes, 2)


class TestImages:
    def test_what_cannot_be_used_is_counted(self, tmp_path):
        parts = room_parts(views=9)
        rooms, images = write_dataset(tmp_path, parts=parts)
        data = images / "area_1" / "data"
        poses = sorted((data / "pose").glob("*.json"))
        poses[0].write_text(poses[0].read_text()[:50])
        poses[1].write_text(
            poses[1].read_text().replace("office_1_1", "office_1_2")
        )
        poses[2].write_text(
            poses[2].read_text().replace(f"{2:032x}", f"{7:032x}")
        )
        skewed = json.loads(poses[3].read_text())
        skewed["camera_rt_matrix"][0][0] += 5
        poses[3].write_text(json.dumps(skewed))
        (data / "rgb" / poses[4].name.replace("pose.json", "rgb.png")).unlink()
        (
            data / "depth" / poses[5].name.replace("pose.json", "depth.png")
        ).unlink()
        path = data / "depth" / poses[6].name.replace("pose.json", "depth.png")
        path.write_bytes(path.read_bytes()[:-100])
        # another room's
        (
            data / "pose" / poses[7].name.replace("office_1", "office_10")
        ).write_text("{}")
        result = run(rooms, tmp_path / "out", images=images)
        assert not result.failed, str(result)
        scene = read_scene(tmp_path / "out" / "Area_1_office_1")
        assert scene.skipped == {
            "unreadable pose": 1,
            "pose of another room": 1,
            "pose of another camera": 1,
            "invalid pose": 1,
            "missing image": 1,
            "missing depth": 1,
            "unreadable image": 1,
        }
        assert [name.split("_")[1] for name in scene.frames.names] == ["7", "8"]

    def test_images_of_several_views_come_onto_one_grid(self, tmp_path):
        """A wider and a narrower image of one wall: what the median view shows
        is the same in all."""
        columns = np.mgrid[:36, :48][1]
        middle = np.diag([1.0, 1, 1, 1])
        points = np.array(
            [
                [x, y, 2.0]
                for x in np.linspace(-0.5, 0.5, 30)
                for y in np.linspace(-0.5, 0.5, 30)
            ]
        )
        write_room(
            tmp_path / "rooms" / "Area_1" / "hallway_1",
            [("wall_1", points, np.full((900, 3), 9))],
        )
        for number, focal in enumerate((40.0, 60.0, 80.0)):
            x = (columns - 23.5) / focal
            color = np.repeat(
                (127 + 100 * np.sin(3 * x))[..., None], 3, axis=2
            ).astype(np.uint8)
            camera = np.array([[focal, 0, 23.5], [0, focal, 17.5], [0, 0, 1]])
            write_view(
                tmp_path / "images" / "area_1",
                f"{number:032x}",
                "hallway_1",
                0,
                middle,
                camera,
                color,
                np.full((36, 48), 2.0),
            )
        result = run(
            tmp_path / "rooms",
            tmp_path / "out",
            images=tmp_path / "images",
        )
        assert not result.failed, str(result)
        scene = read_scene(tmp_path / "out" / "Area_1_hallway_1")
        assert scene.frames.camera.fx == 60.0
        wide, median, narrow = scene.frames
        assert (wide.color.float() - median.color.float()).abs()[
            2:-2, 2:-2
        ].max() <= 8
        # what the narrow image covers, but for its edge
        inner = (slice(7, 29), slice(8, 40))
        assert (narrow.color.float() - median.color.float()).abs()[
            inner
        ].max() <= 8
        beyond = narrow.color[18].float()  # where it ends, colour repeats
        assert (beyond[:6] - beyond[6]).abs().max() <= 1
        assert (beyond[42:] - beyond[41]).abs().max() <= 1
        assert (wide.depth == 2).all()
        assert (narrow.depth[5:31, 7:41] == 2).all()
        assert (narrow.depth[:3] == 0).all()
        assert (narrow.depth[:, -5:] == 0).all()

    def test_every_second_image_smaller(self, tmp_path):
        rooms, images = write_dataset(tmp_path)
        assert not run(
            rooms, tmp_path / "out", images=images, every=2, size=(24, 18)
        ).failed
        scene = read_scene(tmp_path / "out" / "Area_1_office_1")
        assert len(scene.frames) == 2
        assert scene.frames[0].color.shape == (18, 24, 3)
        assert agreement(scene.points, scene.frames) > 0.8

    def test_agreement_by_hand(self):
        """Of four points on one ray: behind the surface (hidden), on it, just
        off it, in front of it."""
        scene, _, _ = room_parts(views=1)
        frame = scene.frames[0]
        frame = Frame(
            "",
            frame.camera,
            torch.eye(4, dtype=torch.float64),
            frame.color,
            torch.full((36, 48), 2.0),
        )
        points = torch.tensor(
            [
                [0.0, 0, 3.0],
                [0, 0, 2.0],
                [0, 0, 2.05],
                [0, 0, 1.0],
                [0, 0, -1],
                [9, 0, 1],
            ]
        )
        assert agreement(points, [frame]) == pytest.approx(2 / 3)
        assert agreement(points[4:], [frame]) == 0


class TestThin:
    def test_the_first_point_of_each_cell_stays(self):
        points = torch.tensor(
            [
                [0.05, 0, 0],
                [0.25, 0, 0],
                [0.01, 0.01, 0],
                [-0.05, 0, 0],
                [0.21, 0, 0],
            ]
        )
        assert thin(points, 0.1).tolist() == [0, 1, 3]
        assert thin(points, 0.0).tolist() == [0, 1, 2, 3, 4]

    def test_labels_and_colours_stay_with_their_points(self, tmp_path):
        rooms, _ = write_dataset(tmp_path)
        run(rooms, tmp_path / "all")
        run(rooms, tmp_path / "few", cell=0.2)
        one, few = (
            read_scene(tmp_path / which / "Area_1_office_1")
            for which in ("all", "few")
        )
        true_labels = read_point_labels(tmp_path / "all" / one.name).tolist()
        labels = {
            tuple(point): label
            for point, label in zip(
                one.points.tolist(), true_labels, strict=True
            )
        }
        found = read_point_labels(tmp_path / "few" / one.name).tolist()
        assert 20 < len(few.points) < len(one.points) / 3
        assert [labels[tuple(point)] for point in few.points.tolist()] == found


def test_words_and_their_classes():
    assert [class_of(f"{name}_12") for name in S3DIS_13.names] == list(
        range(13)
    )
    assert (class_of("stairs_1"), class_of("lamp_1"), class_of("wall")) == (
        12,
        IGNORE_LABEL,
        IGNORE_LABEL,
    )


def test_rooms_of_an_earlier_release_are_kept(tmp_path):
    """The converter had another name; its settings are the same."""
    rooms, images = write_dataset(tmp_path)
    given = {"images": images, "size": (24, 18)}
    assert not run(rooms, tmp_path / "out", **given).failed
    path = tmp_path / "out" / "Area_1_office_1" / "scene.json"
    manifest = json.loads(path.read_text())
    assert manifest["provenance"]["converter"] == "vlg convert s3dis"
    assert manifest["provenance"]["settings"] == {
        "every": 1,
        "size": "24x18",
        "cell": 0.0,
        "undo_alignment": False,
        "least_agreement": 0.5,
        "least_points": 1,
        "tags": "",
        "images": True,
    }
    manifest["provenance"]["converter"] = "data_scripts/convert_s3dis.py"
    path.write_text(json.dumps(manifest))
    assert run(rooms, tmp_path / "out", **given).kept == ["Area_1_office_1"]


def test_numbers_that_no_float_holds_are_an_unreadable_pose(tmp_path):
    rooms, images = write_dataset(tmp_path)
    path = next((images / "area_1" / "data" / "pose").glob("*.json"))
    content = json.loads(path.read_text())
    content["camera_k_matrix"][0][0] = 10**400
    path.write_text(json.dumps(content))
    run(rooms, tmp_path / "out", images=images)
    scene = read_scene(tmp_path / "out" / "Area_1_office_1")
    assert scene.skipped == {"unreadable pose": 1}


def test_the_options_of_the_command(tmp_path):
    rooms, images = write_dataset(tmp_path)
    words = ["s3dis", rooms, "--out", tmp_path / "out"]
    result = vlg_convert(*words, "--areas", "7")
    assert (result.exit_code, "areas from 1 to 6" in result.output) == (2, True)
    result = vlg_convert(
        *words,
        "--images",
        images,
        "--areas",
        "1,2",
        "--every",
        2,
        "--size",
        "24x18",
        "--least-agreement",
        0,
    )
    assert result.exit_code == 0, result.output
    assert "note: 1 of the 44 rooms of Area_1 are there" in result.output
