import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import TINY, contents, same, scores

from vlg_lib.artifacts import StoreError, read_json, write_json
from vlg_lib.classes import IGNORE_LABEL, ROOMS_12
from vlg_lib.data.embedding_files import write_fused
from vlg_lib.data.layout import LayoutError
from vlg_lib.metrics import evaluate
from vlg_lib.networks.point_network import point_scores
from vlg_lib.pipeline import networks, stages, table
from vlg_lib.pipeline.networks import NETWORKS
from vlg_lib.pipeline.profiles import get_profile
from vlg_lib.pipeline.run import run
from vlg_lib.pipeline.scenes import default_cache
from vlg_lib.pipeline.table import ROWS, Experiment
from vlg_lib.vision_language.small import SmallModel


def open_tiny(folder: Path, profile=TINY, **options) -> Experiment:
    return Experiment.open(
        profile, folder=folder, device="cpu", progress=False, **options
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    open_tiny(folder).table()
    return folder


def test_the_table_has_every_row_and_says_what_it_measured(cache: Path) -> None:
    rows = open_tiny(cache).table()
    assert [row["row"] for row in rows] == list(ROWS)
    for row in rows:
        assert 0 <= row["miou_low"] <= row["miou_high"] <= 100
        assert (
            0
            <= min(row["miou"], row["miou_train"])
            <= max(row["accuracy"], row["accuracy_train"])
            <= 100
        )
    seconds = {row["row"]: row["seconds"] for row in rows}
    assert 0 < seconds["projection"] < seconds["adapter"]  # which contains it


def test_the_rows_are_the_scores_of_what_the_methods_return(
    cache: Path,
) -> None:
    experiment = open_tiny(cache)
    rows = {row["row"]: row for row in experiment.table()}
    train, test = experiment.scenes("train"), experiment.scenes("test")
    masked = evaluate(
        [experiment.pseudo_labels(scene).labels for scene in train],
        [experiment.truth(s) for s in train],
        ROOMS_12,
    )
    assert rows["projection + scene mask"]["miou_train"] == pytest.approx(
        100 * masked.miou
    )
    assert rows["projection + scene mask"]["accuracy_train"] == pytest.approx(
        100 * masked.accuracy
    )
    adapted = [
        (
            experiment.adapted(s).embeddings @ experiment.text_embeddings().T
        ).argmax(1)
        for s in test
    ]
    unseen = [~experiment.fused(scene).seen for scene in test]
    adapted = [
        labels.masked_fill(hidden, IGNORE_LABEL)
        for labels, hidden in zip(adapted, unseen, strict=True)
    ]
    expected = evaluate(
        adapted, [experiment.truth(scene) for scene in test], ROOMS_12
    )
    # ties of rounding
    assert rows["adapter"]["miou"] == pytest.approx(
        100 * expected.miou, abs=0.05
    )
    truth = torch.cat([experiment.truth(scene) for scene in train])
    commonest = int(truth[truth >= 0].bincount().argmax())
    (test_truth,) = [experiment.truth(scene) for scene in test]
    share = float((test_truth[test_truth >= 0] == commonest).double().mean())
    assert rows["majority class"]["accuracy"] == pytest.approx(100 * share)


def test_the_rows_of_3d_networks_are_what_their_networks_predict(
    cache: Path,
) -> None:
    experiment = open_tiny(cache)
    rows = {row["row"]: row for row in experiment.table()}
    (room,) = experiment.scenes("test")
    for row, kind in {
        "CAM": "cam",
        "OpenScene": "openscene",
        "cross-entropy": "cross-entropy",
        "3DSS-VLG": "3dss-vlg",
        "full supervision": "supervised",
    }.items():
        expected = evaluate(
            [experiment.predict_3d(kind, room)],
            [experiment.truth(room)],
            ROOMS_12,
        )
        assert rows[row]["miou"] == pytest.approx(100 * expected.miou), row
        assert rows[row]["accuracy"] == pytest.approx(
            100 * expected.accuracy
        ), row


def test_a_table_of_some_networks_is_a_part_of_the_whole_and_trains_no_other(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scores(open_tiny(cache).table())
    monkeypatch.setattr(networks, "train_mil", None)
    part = scores(
        open_tiny(cache, replace(TINY, cam_steps=99)).table(["3dss-vlg"])
    )
    assert part == [
        row
        for row in whole
        if row["row"]
        not in ("CAM", "OpenScene", "cross-entropy", "full supervision")
    ]


@pytest.mark.parametrize("kind", NETWORKS)
def test_each_network_is_taught_by_what_it_is_said_to_be(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The lesson that reaches the training function, against the stage that it
    must come from."""
    lessons = []

    def taught(network, clouds, lesson, settings, **options):
        lessons.append((clouds, lesson, settings))
        raise InterruptedError

    for name in ("distill", "train_classifier", "train_mil"):
        monkeypatch.setattr(networks, name, taught)
    experiment = open_tiny(
        cache, replace(TINY, network_steps=9, cam_steps=9, cam_crop=1.2)
    )
    with pytest.raises(InterruptedError):
        experiment.network(kind)
    ((clouds, lesson, settings),) = lessons
    rooms = experiment.scenes("train")
    expected = {
        "cam": lambda room: room.scene_labels,
        "openscene": lambda room: experiment.fused(room).embeddings.half(),
        "cross-entropy": lambda room: experiment.pseudo_labels(room).labels,
        "3dss-vlg": lambda room: experiment.adapted(room).embeddings.half(),
        "supervised": experiment.truth,
    }[kind]
    assert all(
        torch.equal(part, expected(room))
        for part, room in zip(lesson, rooms, strict=True)
    )
    assert all(
        torch.equal(cloud.points, room.points)
        for cloud, room in zip(clouds, rooms, strict=True)
    )
    assert settings.crop == (1.2 if kind == "cam" else TINY.network_crop)
    # All but CAM, which knows no class of a point, look at rare classes as
    # often as at frequent ones.
    for cloud, labels in zip(
        clouds, (experiment._balance(kind, room) for room in rooms), strict=True
    ):
        if kind == "cam":
            assert cloud.sampling_weights is None
        else:
            assert bool(
                (cloud.sampling_weights[labels == IGNORE_LABEL] == 0).all()
            )
            floor, rare = (
                float(cloud.sampling_weights[labels == k].mean())
                for k in (
                    labels[labels >= 0]
                    .bincount()
                    .argsort(descending=True)[
                        [0, int((labels[labels >= 0].bincount() > 0).sum()) - 1]
                    ]
                    .tolist()
                )
            )
            assert rare > 2 * floor


def test_the_mask_does_not_hurt_on_training_rooms(cache: Path) -> None:
    rows = {row["row"]: row for row in open_tiny(cache).table()}
    assert (
        rows["projection + scene mask"]["accuracy_train"]
        >= rows["projection"]["accuracy_train"]
    )


def test_the_adapter_learns_the_pseudo_labels_of_its_rooms(cache: Path) -> None:
    losses = open_tiny(cache).adapter_losses()
    assert len(losses) == TINY.adapter_steps
    assert sum(losses[-10:]) < sum(losses[:10])


def test_what_is_stored_is_not_made_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = open_tiny(cache).table()
    for module, name in (
        (stages, "fuse_scene"),
        (stages, "make_pseudo_labels"),
        (stages, "train_adapter"),
        (networks, "train_mil"),
        (networks, "train_classifier"),
        (networks, "distill"),
        (table, "score"),
        (stages.vision_language, "create_model"),
    ):
        monkeypatch.setattr(module, name, None)  # calling one would raise
    experiment = open_tiny(cache)
    assert experiment.table() == expected
    assert experiment.fused(experiment.scenes("test")[0]).seen.any()


def test_the_first_answer_equals_the_stored_one(tmp_path: Path) -> None:
    first, again = open_tiny(tmp_path), open_tiny(tmp_path)
    scene = first.scenes()[0]
    assert torch.equal(
        first.fused(scene).embeddings, again.fused(again.scenes()[0]).embeddings
    )


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(),
    reason="needs Linux's list of mapped files",
)
def test_trainings_read_their_lessons_from_mapped_files(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a training is given of every point and dimension is a file in half
    precision, not a copy in memory."""
    given: dict[str, list[torch.Tensor]] = {}

    def taught(kind: str):
        def keep(learner, first, second, *settings, **options):
            given[kind] = (
                [room.embeddings for room, _ in first]
                if kind == "adapter"
                else list(second)
            )
            raise InterruptedError

        return keep

    experiment = open_tiny(cache, replace(TINY, network_steps=9))
    experiment.adapter()
    monkeypatch.setattr(networks, "distill", taught("network"))
    for kind in ("openscene", "3dss-vlg"):
        with pytest.raises(InterruptedError):
            experiment.network(kind)
        mapped = Path("/proc/self/maps").read_text()
        folder = "fused" if kind == "openscene" else "adapted"
        assert all(
            f"{cache}/{folder}/{room.name}" in mapped
            for room in experiment.scenes()
        ), kind
        assert all(part.dtype == torch.float16 for part in given.pop("network"))
    monkeypatch.setattr(stages, "train_adapter", taught("adapter"))
    with pytest.raises(InterruptedError):
        open_tiny(cache, replace(TINY, adapter_steps=9)).adapter()
    assert all(part.dtype == torch.float16 for part in given["adapter"])


def test_settings_remake_what_depends_on_them_and_nothing_else(
    cache: Path,
) -> None:
    base = open_tiny(cache)
    room = base.scenes()[0]
    # setting -> do the keys of the fused embeddings, pseudo labels and adapter
    # change?
    cases = {
        "shift": (0.0, (True, True, True)),
        "depth_slack": (0.2, (True, True, True)),
        "temperature": (0.1, (False, True, True)),
        "prompt_template": ("{name}", (False, True, True)),
        "synonyms": ("sofa = couch", (False, True, True)),
        "adapter_steps": (60, (False, False, True)),
    }
    for name, (value, expected) in cases.items():
        other = open_tiny(cache, replace(TINY, **{name: value}))
        other_room = other.scenes()[0]
        changed = (
            base._fused_key(room) != other._fused_key(other_room),
            base._pseudo_key(room) != other._pseudo_key(other_room),
            base._adapter_path() != other._adapter_path(),
        )
        assert changed == expected, name


def test_templates_and_synonyms_are_averaged(cache: Path) -> None:
    experiment = open_tiny(
        cache,
        replace(
            TINY,
            prompt_template="a {name} | the {name}",
            synonyms="sofa = couch",
        ),
    )
    plain = experiment.model().text_embeddings(
        [f"{a} {word}" for word in ("sofa", "couch") for a in ("a", "the")]
    )
    found = experiment.text_embeddings()[ROOMS_12.index("sofa")]
    assert torch.allclose(
        found, plain.mean(0) / plain.mean(0).norm(), atol=1e-6
    )
    single = open_tiny(cache).text_embeddings()
    assert torch.allclose(
        single,
        experiment.model().text_embeddings(ROOMS_12.prompts("a {name}")),
        atol=1e-6,
    )


def test_kept_frames_pass_the_model_once_for_all_settings(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_tiny(cache)
    (room,) = made.scenes("test")
    shutil.copytree(made._folder_of(room), tmp_path / "scenes" / room.name)
    asked, embed = [], SmallModel.dense_embeddings
    monkeypatch.setattr(
        SmallModel,
        "dense_embeddings",
        lambda self, image: (asked.append(1), embed(self, image))[1],
    )
    found = []
    for slack, limit, calls in (
        (TINY.depth_slack, 0.1, 1),
        (0.5, 0.1, 1),
        (TINY.depth_slack, 0.0, 2),
    ):
        sizes, folder = replace(TINY, depth_slack=slack), tmp_path / "cache"
        experiment = open_tiny(
            folder, sizes, scenes_folder=tmp_path / "scenes", keep_gb=limit
        )
        found.append(experiment.fused(experiment.scenes("test")[0]))
        assert len(asked) == calls * TINY.views
    kept, other, plain = found
    assert not torch.equal(kept.view_counts, other.view_counts)
    # each frame was rounded to half precision
    assert torch.allclose(kept.embeddings, plain.embeddings, atol=2e-3)
    assert len(list((tmp_path / "cache" / "frames").iterdir())) == TINY.views


def test_without_any_point_label_every_weakly_supervised_checkpoint_is_the_same(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weak supervision: no pseudo label, adapter or weakly supervised network
    depends on a file of point labels."""
    labelled = contents(open_tiny(cache))
    experiment = open_tiny(tmp_path)
    experiment.scenes("train"), experiment.scenes("test")
    removed = [path.unlink() for path in tmp_path.rglob("labels.ply")]
    assert len(removed) == 3
    unlabelled = contents(open_tiny(tmp_path))
    assert {name for name in labelled if name not in unlabelled} == {
        n for n in labelled if n.endswith("labels.ply")
    }
    assert [
        name
        for name, value in unlabelled.items()
        if not same(value, labelled[name])
    ] == []
    for of_truth in (
        lambda: open_tiny(tmp_path).network("supervised"),
        lambda: open_tiny(tmp_path).table(),
    ):
        with pytest.raises(LayoutError, match=r"labels\.ply: no such file"):
            of_truth()


def test_scenes_of_a_folder_run_like_made_rooms(
    cache: Path, tmp_path: Path
) -> None:
    made = open_tiny(cache)
    for split in ("train", "test"):
        for scene in made.scenes(split):
            shutil.copytree(
                made._folder_of(scene), tmp_path / "scenes" / split / scene.name
            )
    rows = run(
        "layout",
        TINY,
        0,
        tmp_path / "out",
        scenes_folder=tmp_path / "scenes",
        cache_folder=tmp_path / "cache",
        device="cpu",
        progress=False,
    )
    assert scores(rows) == scores(made.table())
    assert read_json(tmp_path / "out" / "table.json") == rows
    assert read_json(tmp_path / "out" / "run.json")["profile"]["name"] == "tiny"
    flat = open_tiny(
        tmp_path / "cache", scenes_folder=tmp_path / "scenes" / "test"
    )
    assert [scene.name for scene in flat.scenes("train")] == [
        scene.name for scene in flat.scenes("test")
    ]


def test_the_published_protocol_runs_on_scenes_of_a_folder(
    cache: Path, tmp_path: Path
) -> None:
    """With its switches as published, and the sizes of a test."""
    made = open_tiny(cache)
    for split in ("train", "test"):
        for scene in made.scenes(split):
            shutil.copytree(
                made._folder_of(scene), tmp_path / "scenes" / split / scene.name
            )
    small = replace(
        get_profile("paper-scannet"),
        teacher="small-attributes",
        adapter_steps=20,
        network="MinkUNetSmall",
        network_steps=2,
        voxel_size=0.2,
        augmentations=2,
        checkpoint_every=10,
    )
    experiment = open_tiny(
        tmp_path / "cache", small, scenes_folder=tmp_path / "scenes"
    )
    rows = {row["row"]: row for row in experiment.table(["3dss-vlg"])}
    (room,) = experiment.scenes("test")
    plain = experiment.fused(room).embeddings
    # means of views, not brought to length one
    assert float(plain[plain.any(dim=1)].norm(dim=1).min()) < 0.99
    network, texts = (
        experiment.network("3dss-vlg"),
        experiment.text_embeddings("a {name} in a scene"),
    )
    assert not torch.equal(texts, experiment.text_embeddings())
    labels = point_scores(
        network, room.points, room.colors, texts, augmentations=2
    ).argmax(1)
    expected = evaluate(
        [labels], [experiment.truth(room)], ROOMS_12, convention="openscene"
    )
    assert rows["3DSS-VLG"]["miou"] == pytest.approx(100 * expected.miou)
    assert network.settings.height is False


def test_fused_embeddings_of_a_folder_take_the_place_of_the_images(
    cache: Path, tmp_path: Path
) -> None:
    made = open_tiny(cache)
    for scene in made.scenes("train"):
        folder = Path(
            shutil.copytree(
                made._folder_of(scene), tmp_path / "scenes" / scene.name
            )
        )
        fused = made.fused(scene)
        write_fused(
            tmp_path / "fused" / f"{scene.name}.safetensors",
            [fused.embeddings],
            fused.view_counts,
            64,
        )
        for part in ("color", "depth", "pose"):
            shutil.rmtree(folder / part)
        write_json(
            folder / "scene.json",
            read_json(folder / "scene.json") | {"frames": 0},
        )
    given = {
        "scenes_folder": tmp_path / "scenes",
        "fused_folder": tmp_path / "fused",
    }
    experiment = open_tiny(tmp_path / "cache", **given)
    rows, expected = (
        {row["row"]: row for row in e.table(["3dss-vlg"])}
        for e in (experiment, made)
    )
    for name in ("projection", "adapter", "3DSS-VLG"):
        assert rows[name]["miou_train"] == pytest.approx(
            expected[name]["miou_train"]
        )
    next((tmp_path / "fused").iterdir()).unlink()
    with pytest.raises(
        StoreError,
        match=(
            r"room-\d+\.safetensors: no such file: a folder of fused embeddings"
            r" has one"
        ),
    ):
        open_tiny(tmp_path / "cache", **given).table()


def test_a_changed_image_of_a_folder_is_noticed_and_a_changed_label_is_not(
    cache: Path, tmp_path: Path
) -> None:
    made = open_tiny(cache)
    room = made.scenes("test")[0]
    folder = Path(
        shutil.copytree(made._folder_of(room), tmp_path / "scenes" / room.name)
    )
    experiment = open_tiny(tmp_path, scenes_folder=tmp_path / "scenes")
    key = experiment._fused_key(experiment.scenes()[0])
    (folder / "labels.ply").unlink()
    assert experiment._fused_key(experiment.scenes()[0]) == key
    next((folder / "color").iterdir()).touch()
    assert experiment._fused_key(experiment.scenes()[0]) != key


def test_scenes_without_tags_and_with_other_classes_are_refused(
    cache: Path, tmp_path: Path
) -> None:
    made = open_tiny(cache)
    for scene in made.scenes("train"):
        shutil.copytree(made._folder_of(scene), tmp_path / scene.name)
    first, second = sorted(tmp_path.iterdir())
    manifest = read_json(first / "scene.json")
    write_json(first / "scene.json", manifest | {"scene_labels": []})
    with pytest.raises(
        ValueError, match=r"room-10000: scene\.json names no class"
    ):
        open_tiny(tmp_path / "cache", scenes_folder=tmp_path).scenes()
    write_json(
        first / "scene.json",
        manifest | {"class_set": "s3dis-13", "scene_labels": ["floor"]},
    )
    with pytest.raises(ValueError, match="have different classes"):
        open_tiny(tmp_path / "cache", scenes_folder=tmp_path).text_embeddings()
    write_json(first / "scene.json", manifest | {"name": second.name})
    with pytest.raises(
        ValueError, match=f"two scenes are named '{second.name}'"
    ):
        open_tiny(tmp_path / "cache", scenes_folder=tmp_path).scenes()


def test_bad_scenes_are_named_when_stage_1_of_the_others_is_done(
    cache: Path, tmp_path: Path
) -> None:
    made = open_tiny(cache)
    rooms = made.scenes("train") + made.scenes("test")
    for scene in rooms:
        shutil.copytree(
            made._folder_of(scene), tmp_path / "scenes" / scene.name
        )
    first, second = (tmp_path / "scenes" / scene.name for scene in rooms[:2])
    (first / "points.ply").write_bytes(
        (first / "points.ply").read_bytes()[:900]
    )
    experiment = open_tiny(
        tmp_path / "cache", scenes_folder=tmp_path / "scenes"
    )
    with pytest.raises(
        ValueError, match=rf"{first.name}/points\.ply: not a whole PLY file"
    ):
        experiment.table()
    assert [
        path.name.split("-")[1]
        for path in sorted((tmp_path / "cache" / "fused").iterdir())
    ] == [
        scene.name.split("-")[1]
        for scene in sorted(rooms[1:], key=lambda scene: scene.name)
    ]
    shutil.rmtree(tmp_path / "cache" / "fused")
    shutil.copy(made._folder_of(rooms[0]) / "points.ply", first / "points.ply")
    for split in ("train", "test"):
        experiment.scenes(split)
    next((second / "color").iterdir()).unlink()  # after it was listed
    with pytest.raises(ValueError, match=r"color/\d+\.png: no such file"):
        experiment.table()
    assert len(list((tmp_path / "cache" / "fused").iterdir())) == len(rooms) - 1

    (first / "points.ply").write_bytes(
        (first / "points.ply").read_bytes()[:900]
    )
    (second / "scene.json").write_text("{")
    experiment = open_tiny(
        tmp_path / "cache", scenes_folder=tmp_path / "scenes"
    )
    with pytest.raises(
        ValueError,
        match=r"(?s)points\.ply: not a whole PLY file.*scene\.json: not JSON",
    ):
        experiment.scenes()
    shutil.rmtree(second)
    shutil.copy(made._folder_of(rooms[0]) / "points.ply", first / "points.ply")
    assert len(experiment.scenes()) == len(rooms) - 1  # fixed: read again


def test_bad_arguments_are_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown profile 'huge'"):
        Experiment.open("huge")
    with pytest.raises(ValueError, match="whole number from 0, found -1"):
        Experiment.open(TINY, -1)
    with pytest.raises(
        ValueError, match="unknown source 'scannet'; known: rooms, layout"
    ):
        run("scannet", TINY, 0, tmp_path)
    with pytest.raises(ValueError, match="needs a folder of scenes"):
        run("layout", TINY, 0, tmp_path)
    with pytest.raises(ValueError, match="source 'rooms' takes none"):
        run("rooms", TINY, 0, tmp_path, scenes_folder=tmp_path)
    with pytest.raises(LayoutError, match="found none"):
        open_tiny(tmp_path, scenes_folder=tmp_path).scenes()
    experiment = open_tiny(cache)
    with pytest.raises(
        ValueError, match="unknown split 'val'; known: train, test"
    ):
        experiment.scenes("val")
    with pytest.raises(ValueError, match="not one of this experiment"):
        open_tiny(cache).fused(experiment.scenes()[0])
    assert list(tmp_path.iterdir()) == []


def test_the_cache_folder_follows_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VLG_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    assert Experiment.open(TINY).folder == tmp_path
    monkeypatch.delenv("VLG_CACHE")
    assert default_cache() == Path.home() / ".cache" / "vlg_lib"


def test_bars_are_silent_in_the_fast_profile_and_on_request() -> None:
    assert not Experiment.open("fast").progress
    assert Experiment.open("book").progress
    assert not Experiment.open("book", progress=False).progress
