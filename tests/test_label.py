"""The commands fuse and label: colours fused from the frames are those of the
points, where the geometry is right."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_scene import floor_frame, floor_scene
from typer.testing import CliRunner

from vlg_lib.classes import ROOMS_12, SCANNET_20
from vlg_lib.cli import app, main
from vlg_lib.data.layout import write_scene
from vlg_lib.data.ply import read_label_names, read_points, write_points
from vlg_lib.networks.point_network import PointNetwork, load_network
from vlg_lib.own_scan.correlation import color_correlation
from vlg_lib.own_scan.fuse import fuse_colors
from vlg_lib.own_scan.label import label_scan, train_on_scan
from vlg_lib.own_scan.predict import choose_classes
from vlg_lib.pipeline import networks
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import get_profile
from vlg_lib.rooms.scenes import room_scene
from vlg_lib.scene import Scene
from vlg_lib.superpoints import superpoints
from vlg_lib.vision_language import create_model


@pytest.fixture
def scene() -> Scene:
    return floor_scene(5)


def written(scene: Scene, folder):
    write_scene(folder, scene, provenance={})
    return folder


def test_the_floor_gets_its_own_colours(scene, tmp_path):
    report = fuse_colors(
        written(scene, tmp_path / "a"), tmp_path / "out", progress=False
    )
    assert (report.points, report.frames, report.skipped) == (
        len(scene.points),
        5,
        {},
    )
    assert report.seen == 1.0
    assert report.correlation > 0.99
    points, colors, extra = read_points(tmp_path / "out" / "fused.ply")
    assert torch.equal(points, scene.points)
    assert (colors.float() - scene.colors.float()).abs().mean() < 3
    assert extra["views"].min() >= 1
    assert extra["views"].max() == 5


def test_unseen_points_are_grey_and_left_out_of_the_correlation(
    scene, tmp_path
):
    # beside every view; behind every camera
    far = torch.tensor([[50.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    points, colors = (
        torch.cat([scene.points, far]),
        torch.cat([scene.colors, torch.tensor([[255, 0, 0]] * 2).byte()]),
    )
    more = Scene(
        "more", points, colors, scene.frames, ROOMS_12, scene.scene_labels
    )
    plain = fuse_colors(
        written(scene, tmp_path / "a"), tmp_path / "out", progress=False
    )
    report = fuse_colors(
        written(more, tmp_path / "b"), tmp_path / "out", progress=False
    )
    assert report.seen == pytest.approx(1 - 2 / len(points))
    assert report.correlation == plain.correlation
    _, colors, extra = read_points(tmp_path / "out" / "fused.ply")
    assert colors[-2:].tolist() == [[190, 190, 190]] * 2
    assert extra["views"][-2:].tolist() == [0, 0]


def test_wrong_poses_show(scene, tmp_path):
    """Points from one set of poses, frames with another: the fused colours are
    those of other places."""
    shifted = [
        floor_frame(frame.name, 0.25 * i + 1.0, 0.1 * i, 2.0)
        for i, frame in enumerate(scene.frames)
    ]
    frames = [
        type(good)(
            good.name, good.camera, bad.camera_to_world, good.color, good.depth
        )
        for good, bad in zip(scene.frames, shifted, strict=True)
    ]
    wrong = Scene(
        "wrong",
        scene.points,
        scene.colors,
        frames,
        ROOMS_12,
        scene.scene_labels,
    )
    assert (
        fuse_colors(
            written(wrong, tmp_path / "a"), tmp_path / "out", progress=False
        ).correlation
        < 0.8
    )


def test_the_page_stands_alone(scene, tmp_path):
    fuse_colors(
        written(scene, tmp_path / "a"), tmp_path / "out", progress=False
    )
    page = (tmp_path / "out" / "fused.html").read_text(encoding="utf8")
    assert "floor: image colours fused onto the points" in page
    without_plotly = re.sub(r"(?s)<script>.{100000,}?</script>", "", page)
    assert not re.search(
        r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", without_plotly
    )


def test_no_frame_sees_anything(scene, tmp_path):
    frames = [floor_frame("0", 0.0, 0.0, 2.0)]
    frames[0].camera_to_world[:3, 3] += 100
    lost = Scene(
        "lost", scene.points, scene.colors, frames, ROOMS_12, scene.scene_labels
    )
    folder = written(lost, tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"no frame sees any point; check the poses"
    ):
        fuse_colors(folder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_no_frames(scene, tmp_path):
    bare = Scene(
        "bare", scene.points, scene.colors, (), ROOMS_12, scene.scene_labels
    )
    with pytest.raises(ValueError, match="no frames to fuse"):
        fuse_colors(
            written(bare, tmp_path / "a"), tmp_path / "out", progress=False
        )


def test_the_report_in_words(scene, tmp_path):
    (written(scene, tmp_path / "a") / "pose" / "1.txt").write_text("nan " * 16)
    text = str(fuse_colors(tmp_path / "a", tmp_path / "out", progress=False))
    assert "4 frames (left out: 1 x invalid pose)" in text
    assert re.search(
        r"correlation of fused and own colours (0\.99|1\.00)\d?", text
    )


def test_as_a_command(scene, tmp_path):
    folder = written(scene, tmp_path / "a")
    result = CliRunner().invoke(
        app, ["fuse", str(folder), "--out", str(tmp_path / "out"), "--quiet"]
    )
    assert result.exit_code == 0, result.output
    assert f"{len(scene.points)} points, 5 frames" in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "fused.html",
        "fused.ply",
    ]


def test_the_command_names_a_folder_that_is_no_scene(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        "sys.argv",
        ["vlg", "fuse", str(tmp_path), "--out", str(tmp_path / "out")],
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert (
        "scene.json: no such file: not a scene folder"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_correlation_against_numpy(seed):
    generator = torch.Generator().manual_seed(seed)
    own = torch.randint(0, 256, (30, 3), generator=generator, dtype=torch.uint8)
    fused = own.float() + 40 * torch.randn(30, 3, generator=generator)
    one = color_correlation(
        fused[:, :1].expand(-1, 3), own[:, :1].expand(-1, 3)
    )
    assert one == pytest.approx(
        np.corrcoef(fused[:, 0].numpy(), own[:, 0].numpy())[0, 1], abs=1e-6
    )
    flat = [
        (x.double() - x.double().mean(0)).flatten().numpy()
        for x in (fused, own)
    ]
    assert color_correlation(fused, own) == pytest.approx(
        np.corrcoef(*flat)[0, 1], abs=1e-9
    )
    assert color_correlation(fused * 0.3 + 7, own) == pytest.approx(
        color_correlation(fused, own), abs=1e-5
    )


def test_one_colour_correlates_with_nothing():
    assert (
        color_correlation(
            torch.ones(4, 3), torch.randint(0, 256, (4, 3), dtype=torch.uint8)
        )
        == 0.0
    )


def test_labels_from_tags(tmp_path):
    """A made room and its true tags: the labels are mostly right, and only tags
    are given."""
    room, truth = room_scene(15_001, views=6, width=80, height=60)
    tags = room.class_set.present(room.scene_labels)
    folder = written(room, tmp_path / "a")
    arguments = [
        "label",
        str(folder),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
        "--tags",
        ", ".join(tags),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "small-attributes knows the book's made rooms only" in result.output
    _, colors, extra = read_points(tmp_path / "out" / "labelled.ply")
    seen = extra["label"] >= 0
    assert (
        float((extra["label"] == truth)[seen & (truth >= 0)].float().mean())
        > 0.5
    )
    assert {
        room.class_set.names[label]
        for label in extra["label"][seen].unique().tolist()
    } <= set(tags)
    assert torch.equal(
        colors[seen], room.class_set.colors()[extra["label"][seen]]
    )
    assert bool((extra["score"][seen] > 1 / len(tags) - 1e-6).all())


def test_a_vote_gives_each_superpoint_one_label(tmp_path):
    """As a command: pieces of the scan, or those that its data set ships."""
    room, _ = room_scene(15_001, views=6, width=80, height=60)
    shipped = (room.points[:, 2] * 4).long().clamp(min=0)
    for name, pieces, kept in (
        ("own", superpoints(room.points, room.colors), None),
        ("shipped", shipped, shipped),
    ):
        folder = written(replace(room, superpoints=kept), tmp_path / name)
        labels = {}
        for out, more in (("plain", []), ("voted", ["--vote"])):
            words = ["label", str(folder), "--out", str(tmp_path / name / out)]
            result = CliRunner().invoke(app, [*words, "--quiet", *more])
            assert result.exit_code == 0, result.output
            path = tmp_path / name / out / "labelled.ply"
            labels[out] = read_points(path)[2]["label"]
        assert not torch.equal(labels["plain"], labels["voted"])
        for piece in pieces.unique():
            assert len(labels["voted"][pieces == piece].unique()) == 1
    # unseen points get the label of the seen ones of their piece
    assert (labels["voted"] < 0).sum() <= (labels["plain"] < 0).sum()


def test_tags_of_ones_own(tmp_path):
    """Words outside the scene's class set make a class set of their own; words
    outside the teacher's are refused."""
    room = room_scene(15_001, views=2, width=80, height=60)[0]
    folder = written(room, tmp_path / "a")
    counts = label_scan(
        folder, tmp_path / "out", ["floor", "red"], progress=False
    )
    assert list(counts) == ["floor", "red", "not seen"]
    assert sum(counts.values()) == len(room.points)
    with pytest.raises(ValueError, match="zebra"):
        label_scan(
            folder, tmp_path / "other", ["floor", "zebra"], progress=False
        )
    assert not (tmp_path / "other").exists()


FAST = get_profile("fast")
TINY = replace(
    FAST,
    name="tiny",
    adapter=replace(FAST.adapter, steps=20, points_per_room=500),
    network=replace(FAST.network, voxel_size=0.2),
    training=replace(FAST.training, steps=32, crop=None, learning_rate=0.01),
    checkpoint_every=15,
)
QUIET = RunOptions(device="cpu", progress=False)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory,
) -> Iterator[tuple[Path, Scene, torch.Tensor, dict[str, int]]]:
    """A made room without labels or tags on disk, trained on from the tags that
    are typed."""
    root = tmp_path_factory.mktemp("trained")
    room, truth = room_scene(15_001, views=4, width=80, height=60)
    tags = room.class_set.present(room.scene_labels)
    nothing = replace(room, scene_labels=torch.zeros_like(room.scene_labels))
    write_scene(root / "a", nothing, provenance={})
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLG_CACHE", str(root / "cache"))
        yield (
            root,
            room,
            truth,
            train_on_scan(root / "a", root / "out", tags, TINY, QUIET),
        )


def test_training_on_one_scan(trained):
    """Stage 1 as without training; the 3D network labels every point among the
    tags, and has learnt something."""
    root, room, truth, found = trained
    tags = room.class_set.present(room.scene_labels)
    label_scan(root / "a", root / "plain", tags, progress=False)
    first, last = (
        read_points(root / "out" / f"{name}.ply")[2]["label"]
        for name in ("labelled", "trained")
    )
    # kept as halves
    assert (
        first == read_points(root / "plain" / "labelled.ply")[2]["label"]
    ).float().mean() > 0.999
    assert found == {
        name: int((last == room.class_set.index(name)).sum()) for name in tags
    } | {"not seen": 0}
    classes = [truth == room.class_set.index(name) for name in tags]
    recall = [
        float((last[c] == truth[c]).float().mean()) for c in classes if c.any()
    ]
    print(
        f"mean recall {sum(recall) / len(recall):.3f}, of one class for all"
        f" {1 / len(recall):.3f}"
    )
    assert sum(recall) > 1.5  # one class for all points, whichever, makes 1
    assert (root / "out" / "trained.html").is_file()


def test_a_vote_after_training_changes_what_is_written_alone(
    trained, tmp_path, monkeypatch
):
    root, room, _, _ = trained
    monkeypatch.setenv("VLG_CACHE", str(root / "cache"))
    tags = room.class_set.present(room.scene_labels)
    train_on_scan(root / "a", tmp_path, tags, TINY, QUIET, vote=True)
    pieces = superpoints(room.points, room.colors)
    for name in ("labelled", "trained"):
        before, after = (
            read_points(folder / f"{name}.ply")[2]["label"]
            for folder in (root / "out", tmp_path)
        )
        assert not torch.equal(before, after)
        for piece in pieces.unique():
            assert len(after[pieces == piece].unique()) == 1
    networks = [
        load_network(folder / "network.safetensors")[0].state_dict()
        for folder in (root / "out", tmp_path)
    ]
    for name, weight in networks[0].items():
        assert torch.equal(weight, networks[1][name]), name


def test_the_network_of_a_scan_labels_another_cloud(trained, tmp_path):
    root, room, _, _ = trained
    other = room_scene(15_005, views=3, width=80, height=60)[0]
    write_points(tmp_path / "cloud.ply", other.points, other.colors)
    arguments = [
        str(tmp_path / "cloud.ply"),
        "--checkpoint",
        str(root / "out" / "network.safetensors"),
        "--quiet",
    ]
    result = CliRunner().invoke(
        app, ["predict", *arguments, "--out", str(tmp_path / "labels.ply")]
    )
    assert result.exit_code == 0, result.output
    assert set(
        read_points(tmp_path / "labels.ply")[2]["label"].tolist()
    ) <= set(range(len(room.class_set)))
    words = CliRunner().invoke(
        app,
        [
            "predict",
            *arguments,
            "--out",
            str(tmp_path / "b.ply"),
            "--classes",
            "floor,red",
        ],
    )
    # a network of embeddings takes any words that its teacher knows
    assert words.exit_code == 0, words.output


def test_a_training_on_a_scan_goes_on_where_it_was(
    trained, tmp_path, monkeypatch
):
    """Stopped before stage 3 and run again: the network is as without the stop,
    and another run trains nothing."""
    root, room, _, _ = trained
    tags = room.class_set.present(room.scene_labels)

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    def run(name: str) -> PointNetwork:
        monkeypatch.setenv("VLG_CACHE", str(tmp_path / "cache" / name))
        few = replace(TINY, training=replace(TINY.training, steps=3))
        train_on_scan(root / "a", tmp_path / name, tags, few, QUIET)
        return load_network(tmp_path / name / "network.safetensors")[0]

    whole = run("whole")
    with monkeypatch.context() as patched:
        patched.setattr(networks, "distill", stop)
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    assert list((tmp_path / "cache" / "stopped" / "adapter").iterdir())
    assert not (tmp_path / "stopped" / "network.safetensors").exists()
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            whole.parameters(), run("stopped").parameters(), strict=True
        )
    )
    monkeypatch.setattr(networks, "distill", stop)
    run("stopped")


def test_the_command_trains(trained, tmp_path, monkeypatch):
    root, room, _, found = trained
    monkeypatch.setattr(
        "vlg_lib.pipeline.profiles.get_profile", lambda name: TINY
    )
    tags = ",".join(room.class_set.present(room.scene_labels))
    arguments = [
        "label",
        str(root / "a"),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
        "--train",
    ]
    result = CliRunner().invoke(app, [*arguments, "--tags", tags])
    assert result.exit_code == 0, result.output
    assert (
        "labels:"
        f" {', '.join(f'{name} {count}' for name, count in found.items())}"
        in result.output
    )
    assert {
        "labelled.ply",
        "trained.ply",
        "trained.html",
        "network.safetensors",
    } <= {path.name for path in (tmp_path / "out").iterdir()}
    without = CliRunner().invoke(app, arguments)
    assert without.exit_code == 2
    assert "labels come from tags" in without.output


def in_scannet_classes(folder: Path) -> Path:
    """A made room whose scene.json names ScanNet's classes, most of which the
    small model has never heard of."""
    room, _ = room_scene(15_001, views=4, width=64, height=48)
    tags = SCANNET_20.mask(["floor", "wall"])
    scene = replace(room, class_set=SCANNET_20, scene_labels=tags)
    write_scene(folder, scene, provenance={})
    return folder


def test_only_the_words_that_are_typed_must_be_known(tmp_path):
    folder = in_scannet_classes(tmp_path / "a")
    tags = ["floor", "wall", "chair", "table"]
    counts = label_scan(folder, tmp_path / "out", tags, progress=False)
    assert [*counts] == ["wall", "floor", "chair", "table", "not seen"]
    _, colors, extra = read_points(tmp_path / "out" / "labelled.ply")
    labels = extra["label"]
    for name in tags:  # indices of the scene's own classes
        assert int((labels == SCANNET_20.index(name)).sum()) == counts[name]
    seen = labels >= 0
    assert torch.equal(colors[seen], SCANNET_20.colors()[labels[seen]])
    with pytest.raises(ValueError, match="counter"):
        label_scan(folder, tmp_path / "out", ["counter"], progress=False)


def test_a_network_of_its_own_needs_no_other_words(tmp_path):
    folder = in_scannet_classes(tmp_path / "a")
    options = RunOptions(tmp_path / "cache", device="cpu", progress=False)
    counts = train_on_scan(
        folder, tmp_path / "out", ["wall", "chair"], TINY, options
    )
    labels = read_points(tmp_path / "out" / "trained.ply")[2]["label"]
    for name in ("wall", "chair"):
        found = int((labels == SCANNET_20.index(name)).sum())
        assert found == counts[name]
    network, about = load_network(tmp_path / "out" / "network.safetensors")
    assert about["class_set"]["names"] == ["wall", "chair"]
    # and what it labels elsewhere has the same colours
    asked = choose_classes(network, about, None, "network")
    assert asked.class_set.palette == tuple(
        SCANNET_20.palette[SCANNET_20.index(name)] for name in ("wall", "chair")
    )


def test_a_class_has_one_color_whatever_words_stand_beside_it(tmp_path):
    folder = in_scannet_classes(tmp_path / "a")
    label_scan(folder, tmp_path / "out", ["screen", "wall"], progress=False)
    path = tmp_path / "out" / "labelled.ply"
    assert read_label_names(path)[1] == "wall"
    _, colors, extra = read_points(path)
    walls = colors[extra["label"] == 1].unique(dim=0)
    assert walls.tolist() == [list(SCANNET_20.palette[0])]


def test_the_model_runs_where_one_says(tmp_path, monkeypatch):
    folder = in_scannet_classes(tmp_path / "a")
    devices = []

    def spy(name, **given):
        devices.append(given.get("device"))
        return create_model(name)

    monkeypatch.setattr("vlg_lib.own_scan.label.create_model", spy)
    tags = ["floor", "wall"]
    label_scan(folder, tmp_path, tags, device="cpu", progress=False)
    assert devices == [torch.device("cpu")]
    with pytest.raises(ValueError, match="'cuda:99' is not here"):
        label_scan(folder, tmp_path, tags, device="cuda:99", progress=False)
