import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import REFINED, TINY, contents, quiet, room_folder, same, scores

from vlg_lib.artifacts import StoreError, read_json, write_json
from vlg_lib.classes import IGNORE_LABEL, ROOMS_12
from vlg_lib.data.embedding_files import write_fused
from vlg_lib.data.layout import LayoutError
from vlg_lib.metrics import evaluate
from vlg_lib.networks.point_network import point_scores
from vlg_lib.pipeline import cache as cache_module
from vlg_lib.pipeline import networks, stages, table
from vlg_lib.pipeline.cache import Cache, default_cache
from vlg_lib.pipeline.networks import NETWORKS
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import Profile, get_profile
from vlg_lib.pipeline.run import Run, open_run, run_pipeline
from vlg_lib.pipeline.scenes import Scenes
from vlg_lib.pipeline.table import ROWS
from vlg_lib.rooms.scenes import room_scene
from vlg_lib.superpoints import SuperpointSettings, superpoints
from vlg_lib.vision_language.prompts import PromptSettings, TeacherSettings
from vlg_lib.vision_language.small import SmallModel


def open_tiny(folder: Path, profile=TINY, **options) -> Run:
    return open_run(profile, options=quiet(folder, **options))


def learning(network_steps: int, **cam) -> Profile:
    """The tiny profile with other trainings of 3D networks."""
    return replace(
        TINY,
        training=replace(TINY.training, steps=network_steps),
        cam=replace(TINY.cam, training=replace(TINY.cam.training, **cam)),
    )


@pytest.fixture
def cache(tiny_run: Path) -> Path:
    return tiny_run


def test_the_table_has_every_row_and_says_what_it_measured(cache: Path) -> None:
    rows = open_tiny(cache).table.rows()
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
    run = open_tiny(cache)
    rows = {row["row"]: row for row in run.table.rows()}
    train, test = run.scenes.split("train"), run.scenes.split("test")
    masked = evaluate(
        [run.stages.pseudo_labels(scene).labels for scene in train],
        [run.scenes.truth(s) for s in train],
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
            run.stages.adapted(s).embeddings @ run.stages.text_embeddings().T
        ).argmax(1)
        for s in test
    ]
    unseen = [~run.stages.fused(scene).seen for scene in test]
    adapted = [
        labels.masked_fill(hidden, IGNORE_LABEL)
        for labels, hidden in zip(adapted, unseen, strict=True)
    ]
    expected = evaluate(
        adapted, [run.scenes.truth(scene) for scene in test], ROOMS_12
    )
    # ties of rounding
    assert rows["adapter"]["miou"] == pytest.approx(
        100 * expected.miou, abs=0.05
    )
    truth = torch.cat([run.scenes.truth(scene) for scene in train])
    commonest = int(truth[truth >= 0].bincount().argmax())
    (test_truth,) = [run.scenes.truth(scene) for scene in test]
    share = float((test_truth[test_truth >= 0] == commonest).double().mean())
    assert rows["majority class"]["accuracy"] == pytest.approx(100 * share)


def test_the_row_of_the_vote_is_a_vote_of_the_probabilities(
    cache: Path,
) -> None:
    run = open_tiny(cache)
    rows = {row["row"]: row for row in run.table.rows()}
    (room,) = run.scenes.split("test")
    fused, texts = run.stages.fused(room), run.stages.text_embeddings()
    # by hand: the sum of the softmax over the seen points of each superpoint
    shares = (fused.embeddings @ texts.T / 0.05).softmax(1)
    shares[~fused.seen] = 0
    pieces = superpoints(room.points, room.colors)
    labels = torch.full((len(pieces),), IGNORE_LABEL)
    for piece in pieces.unique():
        inside = pieces == piece
        if bool(fused.seen[inside].any()):
            labels[inside] = shares[inside].double().sum(0).argmax()
    expected = evaluate([labels], [run.scenes.truth(room)], ROOMS_12)
    row = rows["projection + superpoint vote"]
    assert row["miou"] == pytest.approx(100 * expected.miou)
    assert row["accuracy"] == pytest.approx(100 * expected.accuracy)
    made = [
        run.cache.manifest(run.stages.superpoints_artifact(scene)).seconds
        for scene in run.scenes.all()
    ]
    assert row["seconds"] >= sum(made) > 0


def test_superpoints_are_made_once_and_again_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, _ = room_scene(3, views=2, width=40, height=30)
    scenes = Scenes.in_memory([room], [room])
    run = open_run(TINY, options=quiet(tmp_path), scenes=scenes)
    made = run.stages.superpoints(room)
    assert torch.equal(made, superpoints(room.points, room.colors))
    assert run.cache.manifest(run.stages.superpoints_artifact(room)).name == (
        room.name
    )
    finer = replace(TINY, superpoints=SuperpointSettings(scale=0.05, least=3))
    other = open_run(finer, options=quiet(tmp_path), scenes=scenes)
    assert int(other.stages.superpoints(room).max()) > int(made.max())
    monkeypatch.setattr("vlg_lib.pipeline.stages.superpoints_of", None)
    assert torch.equal(run.stages.superpoints(room), made)


def test_the_rows_of_3d_networks_are_what_their_networks_predict(
    cache: Path,
) -> None:
    run = open_tiny(cache)
    rows = {row["row"]: row for row in run.table.rows()}
    (room,) = run.scenes.split("test")
    for row, kind in {
        "CAM": "cam",
        "OpenScene": "openscene",
        "cross-entropy": "cross-entropy",
        "3DSS-VLG": "3dss-vlg",
        "full supervision": "supervised",
    }.items():
        expected = evaluate(
            [run.networks.predict(kind, room)],
            [run.scenes.truth(room)],
            ROOMS_12,
        )
        assert rows[row]["miou"] == pytest.approx(100 * expected.miou), row
        assert rows[row]["accuracy"] == pytest.approx(
            100 * expected.accuracy
        ), row


def test_a_table_of_some_networks_is_a_part_of_the_whole_and_trains_no_other(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scores(open_tiny(cache).table.rows())
    monkeypatch.setattr(networks, "train_mil", None)
    part = scores(
        open_tiny(cache, learning(8, steps=99)).table.rows(["3dss-vlg"])
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
    run = open_tiny(cache, learning(9, steps=9, crop=1.2))
    with pytest.raises(InterruptedError):
        run.networks.trained(kind)
    ((clouds, lesson, settings),) = lessons
    rooms = run.scenes.split("train")
    expected = {
        "cam": lambda room: room.scene_labels,
        "openscene": lambda room: run.stages.fused(room).embeddings.half(),
        "cross-entropy": lambda room: run.stages.pseudo_labels(room).labels,
        "3dss-vlg": lambda room: run.stages.adapted(room).embeddings.half(),
        "supervised": run.scenes.truth,
    }[kind]
    assert all(
        torch.equal(part, expected(room))
        for part, room in zip(lesson, rooms, strict=True)
    )
    assert all(
        torch.equal(cloud.points, room.points)
        for cloud, room in zip(clouds, rooms, strict=True)
    )
    recipe = settings.training if kind == "cam" else settings
    assert recipe.crop == (1.2 if kind == "cam" else TINY.training.crop)
    # All but CAM, which knows no class of a point, look at rare classes as
    # often as at frequent ones.
    for cloud, labels in zip(
        clouds,
        (run.networks.known_labels(kind, room) for room in rooms),
        strict=True,
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
    rows = {row["row"]: row for row in open_tiny(cache).table.rows()}
    assert (
        rows["projection + scene mask"]["accuracy_train"]
        >= rows["projection"]["accuracy_train"]
    )


def test_the_adapter_learns_the_pseudo_labels_of_its_rooms(cache: Path) -> None:
    losses = open_tiny(cache).stages.adapter_losses()
    assert len(losses) == TINY.adapter.steps
    assert sum(losses[-10:]) < sum(losses[:10])


def test_what_is_stored_is_not_made_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = open_tiny(cache).table.rows()
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
    run = open_tiny(cache)
    assert run.table.rows() == expected
    assert run.stages.fused(run.scenes.split("test")[0]).seen.any()


def test_the_first_answer_equals_the_stored_one(tmp_path: Path) -> None:
    first, again = open_tiny(tmp_path), open_tiny(tmp_path)
    scene = first.scenes.split("train")[0]
    assert torch.equal(
        first.stages.fused(scene).embeddings,
        again.stages.fused(again.scenes.split("train")[0]).embeddings,
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

    run = open_tiny(cache, learning(9))
    assert run.stages.adapter is not None
    monkeypatch.setattr(networks, "distill", taught("network"))
    for kind in ("openscene", "3dss-vlg"):
        with pytest.raises(InterruptedError):
            run.networks.trained(kind)
        mapped = Path("/proc/self/maps").read_text()
        folder = "fused" if kind == "openscene" else "adapted"
        assert all(
            f"{cache}/{folder}/{room.name}" in mapped
            for room in run.scenes.split("train")
        ), kind
        assert all(part.dtype == torch.float16 for part in given.pop("network"))
    monkeypatch.setattr(stages, "train_adapter", taught("adapter"))
    longer = replace(TINY, adapter=replace(TINY.adapter, steps=9))
    with pytest.raises(InterruptedError):
        open_tiny(cache, longer).stages.adapter_losses()
    assert all(part.dtype == torch.float16 for part in given["adapter"])


def test_settings_remake_what_depends_on_them_and_nothing_else(
    cache: Path,
) -> None:
    base = open_tiny(cache)
    room = base.scenes.split("train")[0]
    # setting -> do the keys of the fused embeddings, pseudo labels and adapter
    # change?
    cases = {
        ("rooms", "shift"): (0.0, (True, True, True)),
        ("visibility", "slack"): (0.2, (True, True, True)),
        ("fusion", "max_memory"): (10**9, (False, False, False)),
        ("pseudo_labels", "temperature"): (0.1, (False, True, True)),
        ("prompts", "templates"): (("{name}",), (False, True, True)),
        ("prompts", "synonyms"): ({"sofa": ("couch",)}, (False, True, True)),
        ("adapter", "steps"): (60, (False, False, True)),
    }
    for (part, name), (value, expected) in cases.items():
        changed_part = replace(getattr(TINY, part), **{name: value})
        other = open_tiny(cache, replace(TINY, **{part: changed_part}))
        other_room = other.scenes.split("train")[0]
        changed = (
            base.stages.fused_artifact(room).key
            != other.stages.fused_artifact(other_room).key,
            base.stages.pseudo_labels_artifact(room).key
            != other.stages.pseudo_labels_artifact(other_room).key,
            base.stages.adapter_artifact.key
            != other.stages.adapter_artifact.key,
        )
        assert changed == expected, (part, name)


def test_templates_and_synonyms_are_averaged(cache: Path) -> None:
    words = PromptSettings(("a {name}", "the {name}"), {"sofa": ("couch",)})
    run = open_tiny(cache, replace(TINY, prompts=words))
    plain = run.stages.model.text_embeddings(
        [f"{a} {word}" for word in ("sofa", "couch") for a in ("a", "the")]
    )
    found = run.stages.text_embeddings()[ROOMS_12.index("sofa")]
    assert torch.allclose(
        found, plain.mean(0) / plain.mean(0).norm(), atol=1e-6
    )
    single = open_tiny(cache).stages.text_embeddings()
    assert torch.allclose(
        single,
        run.stages.model.text_embeddings(ROOMS_12.prompts("a {name}")),
        atol=1e-6,
    )


def test_kept_frames_pass_the_model_once_for_all_settings(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_tiny(cache)
    (room,) = made.scenes.split("test")
    shutil.copytree(room_folder(made, room), tmp_path / "scenes" / room.name)
    asked, embed = [], SmallModel.dense_embeddings
    monkeypatch.setattr(
        SmallModel,
        "dense_embeddings",
        lambda self, image: (asked.append(1), embed(self, image))[1],
    )
    found = []
    for slack, limit, calls in (
        (TINY.visibility.slack, 0.1, 1),
        (0.5, 0.1, 1),
        (TINY.visibility.slack, 0.0, 2),
    ):
        visibility = replace(TINY.visibility, slack=slack)
        sizes = replace(TINY, visibility=visibility)
        folder = tmp_path / "cache"
        run = open_tiny(
            folder, sizes, scenes_folder=tmp_path / "scenes", keep_gb=limit
        )
        found.append(run.stages.fused(run.scenes.split("test")[0]))
        assert len(asked) == calls * TINY.rooms.views
    kept, other, plain = found
    assert not torch.equal(kept.view_counts, other.view_counts)
    # each frame was rounded to half precision
    assert torch.allclose(kept.embeddings, plain.embeddings, atol=2e-3)
    assert (
        len(list((tmp_path / "cache" / "frames").iterdir())) == TINY.rooms.views
    )


def test_without_any_point_label_every_weakly_supervised_checkpoint_is_the_same(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weak supervision: no pseudo label, adapter or weakly supervised network
    depends on a file of point labels."""
    kinds = (*NETWORKS[:-1], *REFINED)
    labelled = contents(open_tiny(cache), kinds)
    run = open_tiny(tmp_path)
    run.scenes.split("train"), run.scenes.split("test")
    removed = [path.unlink() for path in tmp_path.rglob("labels.ply")]
    assert len(removed) == 3
    unlabelled = contents(open_tiny(tmp_path), kinds)
    assert {name for name in labelled if name not in unlabelled} == {
        n for n in labelled if n.endswith("labels.ply")
    }
    assert [
        name
        for name, value in unlabelled.items()
        if not same(value, labelled[name])
    ] == []
    for of_truth in (
        lambda: open_tiny(tmp_path).networks.trained("supervised"),
        lambda: open_tiny(tmp_path).table.rows(),
    ):
        with pytest.raises(LayoutError, match=r"labels\.ply: no such file"):
            of_truth()


def test_scenes_of_a_folder_run_like_made_rooms(
    cache: Path, tmp_path: Path
) -> None:
    made = open_tiny(cache)
    for split in ("train", "test"):
        for scene in made.scenes.split(split):
            shutil.copytree(
                room_folder(made, scene),
                tmp_path / "scenes" / split / scene.name,
            )
    options = quiet(tmp_path / "cache", scenes_folder=tmp_path / "scenes")
    rows = run_pipeline("layout", TINY, 0, tmp_path / "out", options)
    assert scores(rows) == scores(made.table.rows())
    assert read_json(tmp_path / "out" / "table.json") == rows
    assert read_json(tmp_path / "out" / "run.json")["profile"]["name"] == "tiny"
    flat = open_tiny(
        tmp_path / "cache", scenes_folder=tmp_path / "scenes" / "test"
    )
    assert [scene.name for scene in flat.scenes.split("train")] == [
        scene.name for scene in flat.scenes.split("test")
    ]


def test_the_published_protocol_runs_on_scenes_of_a_folder(
    cache: Path, tmp_path: Path
) -> None:
    """With its switches as published, and the sizes of a test."""
    made = open_tiny(cache)
    for split in ("train", "test"):
        for scene in made.scenes.split(split):
            shutil.copytree(
                room_folder(made, scene),
                tmp_path / "scenes" / split / scene.name,
            )
    paper = get_profile("paper-scannet")
    small = replace(
        paper,
        teacher=TeacherSettings("small-attributes"),
        adapter=replace(paper.adapter, steps=20),
        network=replace(
            paper.network, architecture="MinkUNetSmall", voxel_size=0.2
        ),
        training=replace(paper.training, steps=2),
        evaluation=replace(paper.evaluation, augmentations=2),
        checkpoint_every=10,
    )
    run = open_tiny(
        tmp_path / "cache", small, scenes_folder=tmp_path / "scenes"
    )
    rows = {row["row"]: row for row in run.table.rows(["3dss-vlg"])}
    (room,) = run.scenes.split("test")
    plain = run.stages.fused(room).embeddings
    # means of views, not brought to length one
    assert float(plain[plain.any(dim=1)].norm(dim=1).min()) < 0.99
    network, texts = (
        run.networks.trained("3dss-vlg"),
        run.stages.text_embeddings(("a {name} in a scene",)),
    )
    assert not torch.equal(texts, run.stages.text_embeddings())
    labels = point_scores(
        network, room.points, room.colors, texts, augmentations=2
    ).argmax(1)
    expected = evaluate(
        [labels], [run.scenes.truth(room)], ROOMS_12, convention="openscene"
    )
    assert rows["3DSS-VLG"]["miou"] == pytest.approx(100 * expected.miou)
    assert network.settings.height is False


def test_fused_embeddings_of_a_folder_take_the_place_of_the_images(
    cache: Path, tmp_path: Path
) -> None:
    made = open_tiny(cache)
    for scene in made.scenes.split("train"):
        folder = Path(
            shutil.copytree(
                room_folder(made, scene), tmp_path / "scenes" / scene.name
            )
        )
        fused = made.stages.fused(scene)
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
    run = open_tiny(tmp_path / "cache", **given)
    rows, expected = (
        {row["row"]: row for row in e.table.rows(["3dss-vlg"])}
        for e in (run, made)
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
        open_tiny(tmp_path / "cache", **given).table.rows()


def test_a_changed_image_of_a_folder_is_noticed_and_a_changed_label_is_not(
    cache: Path, tmp_path: Path
) -> None:
    made = open_tiny(cache)
    room = made.scenes.split("test")[0]
    folder = Path(
        shutil.copytree(
            room_folder(made, room), tmp_path / "scenes" / room.name
        )
    )
    run = open_tiny(tmp_path, scenes_folder=tmp_path / "scenes")
    key = run.stages.fused_artifact(run.scenes.split("train")[0]).key
    (folder / "labels.ply").unlink()
    assert run.stages.fused_artifact(run.scenes.split("train")[0]).key == key
    next((folder / "color").iterdir()).touch()
    assert run.stages.fused_artifact(run.scenes.split("train")[0]).key != key


def test_scenes_without_tags_and_with_other_classes_are_refused(
    cache: Path, tmp_path: Path
) -> None:
    made = open_tiny(cache)
    for scene in made.scenes.split("train"):
        shutil.copytree(room_folder(made, scene), tmp_path / scene.name)
    first, second = sorted(tmp_path.iterdir())
    manifest = read_json(first / "scene.json")
    write_json(first / "scene.json", manifest | {"scene_labels": []})
    with pytest.raises(
        ValueError, match=r"room-10000: scene\.json names no class"
    ):
        open_tiny(tmp_path / "cache", scenes_folder=tmp_path).scenes.split(
            "train"
        )
    write_json(
        first / "scene.json",
        manifest | {"class_set": "s3dis-13", "scene_labels": ["floor"]},
    )
    with pytest.raises(ValueError, match="have different classes"):
        open_tiny(
            tmp_path / "cache", scenes_folder=tmp_path
        ).stages.text_embeddings()
    write_json(first / "scene.json", manifest | {"name": second.name})
    with pytest.raises(
        ValueError, match=f"two scenes are named '{second.name}'"
    ):
        open_tiny(tmp_path / "cache", scenes_folder=tmp_path).scenes.split(
            "train"
        )


def test_bad_scenes_are_named_when_stage_1_of_the_others_is_done(
    cache: Path, tmp_path: Path
) -> None:
    made = open_tiny(cache)
    rooms = made.scenes.split("train") + made.scenes.split("test")
    for scene in rooms:
        shutil.copytree(
            room_folder(made, scene), tmp_path / "scenes" / scene.name
        )
    first, second = (tmp_path / "scenes" / scene.name for scene in rooms[:2])
    (first / "points.ply").write_bytes(
        (first / "points.ply").read_bytes()[:900]
    )
    run = open_tiny(tmp_path / "cache", scenes_folder=tmp_path / "scenes")
    with pytest.raises(
        ValueError, match=rf"{first.name}/points\.ply: not a whole PLY file"
    ):
        run.table.rows()
    assert [
        path.name.split("-")[1]
        for path in sorted((tmp_path / "cache").glob("fused/*.safetensors"))
    ] == [
        scene.name.split("-")[1]
        for scene in sorted(rooms[1:], key=lambda scene: scene.name)
    ]
    shutil.rmtree(tmp_path / "cache" / "fused")
    shutil.copy(
        room_folder(made, rooms[0]) / "points.ply", first / "points.ply"
    )
    for split in ("train", "test"):
        run.scenes.split(split)
    next((second / "color").iterdir()).unlink()  # after it was listed
    with pytest.raises(ValueError, match=r"color/\d+\.png: no such file"):
        run.table.rows()
    fused = list((tmp_path / "cache").glob("fused/*.safetensors"))
    assert len(fused) == len(rooms) - 1

    (first / "points.ply").write_bytes(
        (first / "points.ply").read_bytes()[:900]
    )
    (second / "scene.json").write_text("{")
    run = open_tiny(tmp_path / "cache", scenes_folder=tmp_path / "scenes")
    with pytest.raises(
        ValueError,
        match=r"(?s)points\.ply: not a whole PLY file.*scene\.json: not JSON",
    ):
        run.scenes.split("train")
    shutil.rmtree(second)
    shutil.copy(
        room_folder(made, rooms[0]) / "points.ply", first / "points.ply"
    )
    assert len(run.scenes.split("train")) == len(rooms) - 1  # fixed: read again


def test_bad_arguments_are_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown profile 'huge'"):
        open_run("huge")
    with pytest.raises(ValueError, match="whole number from 0, found -1"):
        open_run(TINY, -1)
    with pytest.raises(
        ValueError, match="unknown source 'scannet'; known: rooms, layout"
    ):
        run_pipeline("scannet", TINY, 0, tmp_path)
    with pytest.raises(ValueError, match="needs a folder of scenes"):
        run_pipeline("layout", TINY, 0, tmp_path)
    with pytest.raises(ValueError, match="source 'rooms' takes none"):
        run_pipeline(
            "rooms", TINY, 0, tmp_path, RunOptions(scenes_folder=tmp_path)
        )
    with pytest.raises(LayoutError, match="found none"):
        open_tiny(tmp_path, scenes_folder=tmp_path).scenes.split("train")
    run = open_tiny(cache)
    with pytest.raises(
        ValueError, match="unknown split 'val'; known: train, test"
    ):
        run.scenes.split("val")
    with pytest.raises(ValueError, match="not one of this run"):
        open_tiny(cache).stages.fused(run.scenes.split("train")[0])
    assert list(tmp_path.iterdir()) == []


def test_the_cache_folder_follows_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VLG_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    assert open_run(TINY).cache.folder == tmp_path
    monkeypatch.delenv("VLG_CACHE")
    assert default_cache() == Path.home() / ".cache" / "vlg_lib"


def test_bars_are_silent_in_the_fast_profile_and_on_request() -> None:
    assert not open_run("fast").stages.progress
    assert open_run("book").stages.progress
    assert not open_run(
        "book", options=RunOptions(progress=False)
    ).stages.progress


def test_scenes_in_memory_run_like_those_of_their_folders(
    cache: Path, tmp_path: Path
) -> None:
    made = open_tiny(cache)
    splits = {name: made.scenes.split(name) for name in ("train", "test")}
    labels = {room.name: made.scenes.truth(room) for room in made.scenes.all()}
    scenes = Scenes.in_memory(**splits, point_labels=labels)
    run = open_run(TINY, options=quiet(tmp_path), scenes=scenes)
    assert scores(run.table.rows()) == scores(made.table.rows())
    assert not list(tmp_path.glob("rooms-*"))


def test_the_key_of_a_scene_in_memory_follows_its_points_and_frames(
    cache: Path,
) -> None:
    (room,) = open_tiny(cache).scenes.split("test")
    frames = list(room.frames)
    turned = replace(frames[0], color=255 - frames[0].color)
    keys = [
        Scenes.in_memory([scene], []).key(scene)
        for scene in (
            room,
            replace(room, frames=frames),
            replace(room, frames=[turned, *frames[1:]]),
            replace(room, points=room.points + 1),
            replace(room, scene_labels=torch.ones_like(room.scene_labels)),
        )
    ]
    same_room, same_again, other_frame, other_points, other_tags = keys
    assert same_room == same_again == other_tags
    assert len({same_room, other_frame, other_points}) == 3
    named = Scenes.in_memory([room], [], keys={room.name: "mine"})
    assert named.key(room) == "mine"


def test_scenes_in_memory_without_tags_names_or_labels_are_refused(
    cache: Path,
) -> None:
    rooms = open_tiny(cache).scenes.split("train")
    bare = replace(
        rooms[0], scene_labels=torch.zeros_like(rooms[0].scene_labels)
    )
    with pytest.raises(ValueError, match=r"room-10000' has no scene labels"):
        Scenes.in_memory([bare], [])
    with pytest.raises(ValueError, match="two scenes are named 'room-10000'"):
        Scenes.in_memory([rooms[0], replace(rooms[0])], [])
    with pytest.raises(ValueError, match="at least one scene to learn from"):
        Scenes.in_memory([], rooms)
    scenes = Scenes.in_memory([rooms[0]], [])
    with pytest.raises(LayoutError, match="has no point labels"):
        scenes.truth(rooms[0])
    assert scenes.truth_key(rooms[0]) is None
    with pytest.raises(ValueError, match="not one of this run"):
        scenes.key(rooms[1])


def test_the_manifest_of_an_artefact_is_read_without_its_tensors(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_tiny(cache)
    room = run.scenes.split("train")[0]
    artifacts = [
        run.stages.fused_artifact(room),
        run.stages.pseudo_labels_artifact(room),
        run.stages.adapter_artifact,
        run.networks.artifact("3dss-vlg"),
    ]
    monkeypatch.setattr(cache_module, "load_tensors", None)
    for artifact in artifacts:
        manifest = run.cache.manifest(artifact)
        told = (manifest.stage, manifest.name, manifest.key)
        assert told == (artifact.stage, artifact.name, artifact.key)
        assert manifest.seconds > 0
        path = run.cache.path(artifact).with_suffix(".json")
        assert read_json(path)["seconds"] == manifest.seconds
    steps = [run.cache.manifest(artifact).step for artifact in artifacts]
    assert steps == [None, None, TINY.adapter.steps, TINY.training.steps]


def test_an_artefact_without_its_manifest_or_its_tensors_is_not_finished(
    cache: Path, tmp_path: Path
) -> None:
    run = open_tiny(cache)
    artifact = run.stages.fused_artifact(run.scenes.split("train")[0])
    copied = Cache(tmp_path)
    copied.path(artifact).parent.mkdir()
    shutil.copy(run.cache.path(artifact), copied.path(artifact))
    assert artifact in run.cache
    assert artifact not in copied
    shutil.copy(
        run.cache.manifest_path(artifact), copied.manifest_path(artifact)
    )
    assert artifact in copied
    copied.path(artifact).unlink()
    assert artifact not in copied
    write_json(copied.manifest_path(artifact), {"seconds": 1})
    with pytest.raises(StoreError, match="expected a manifest of this library"):
        copied.manifest(artifact)
    copied.manifest_path(artifact).unlink()
    with pytest.raises(StoreError, match="no such file"):
        copied.manifest(artifact)
