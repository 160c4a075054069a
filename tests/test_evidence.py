"""What teaches each network, what a cell of the evidence holds, and the tables
that are made of cells: at the smallest size, and by hand."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY, WEAK, open_tiny_run
from torch.nn.functional import cross_entropy

from vlg_lib import baselines
from vlg_lib.artifacts import StoreError
from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.co_training import co_train, make_pieces
from vlg_lib.metrics import confusion, mean_iou
from vlg_lib.networks.point_network import point_scores
from vlg_lib.pipeline import evidence, experiments
from vlg_lib.pipeline.evidence import LABELS_2D, make_cell, read_cell
from vlg_lib.pipeline.evidence_table import (
    AGAINST,
    NAMES,
    PAIRS,
    read_evidence,
    tables,
)
from vlg_lib.pipeline.networks import NETWORKS, RELABELLING_AUGMENTATIONS
from vlg_lib.pipeline.profiles import get_profile
from vlg_lib.pipeline.run import Run
from vlg_lib.pipeline.teaching import LOSSES, STAGE_1, TEACHINGS, TRUTH
from vlg_lib.refine import best_class, select_share
from vlg_lib.superpoints import soft_vote, vote


@pytest.fixture
def run(tiny_run: Path) -> Run:
    return open_tiny_run(tiny_run)


def test_every_teaching_names_what_there_is() -> None:
    assert set(NETWORKS) <= set(TEACHINGS)
    for kind, taught in TEACHINGS.items():
        assert taught.loss in LOSSES, kind
        assert taught.labeller in {TRUTH, STAGE_1, *TEACHINGS}, kind
    assert set(NAMES) == {*LABELS_2D, *TEACHINGS}
    for method, others in AGAINST.items():
        assert {method, *others} <= set(NAMES)
    assert {method for pair in PAIRS for method in pair} <= set(NAMES)
    for experiment in experiments.EXPERIMENTS.values():
        assert set(experiment.methods) <= set(NAMES)


def test_what_a_network_needs_is_what_its_labellers_need() -> None:
    needs = {kind: taught.needs for kind, taught in TEACHINGS.items()}
    assert needs["supervised"] == "labels of all points"
    assert needs["cam"] == needs["cam-retrained"] == "tags"
    assert needs["openscene"] == needs["round-3-untagged"] == "images"
    assert needs["3dss-vlg"] == needs["co-trained"] == "images, tags"
    assert set(WEAK) == set(TEACHINGS) - {"supervised"}


@pytest.mark.parametrize("masked", [True, False])
def test_votes_and_selections_are_those_of_the_labels_of_stage_1(
    run: Run, masked: bool
) -> None:
    (room, *_) = run.scenes.split("train")
    chances = run.stages.probabilities(room, masked=masked)
    regions = run.stages.superpoints(room)
    assert torch.equal(
        run.stages.pseudo_labels(room, masked=masked).labels,
        chances.argmax(1).masked_fill(chances.sum(1) == 0, IGNORE_LABEL),
    )
    voted = run.networks.known_labels(
        "voted" if masked else "voted-untagged", room
    )
    assert torch.equal(voted, soft_vote(chances, regions)[0])
    if masked:
        assert not chances[:, ~room.scene_labels].any()
        confidence, labels = chances.max(1)
        labels = labels.masked_fill(confidence == 0, IGNORE_LABEL)
        selected = run.networks.known_labels("selected", room)
        best = select_share(labels, confidence, 0.3)
        assert torch.equal(selected, vote(best, regions))


@pytest.mark.parametrize(
    ("kind", "labeller"),
    [("round-2", "voted"), ("3dss-vlg-round-2", "3dss-vlg")],
)
def test_a_round_learns_what_its_network_and_stage_1_agree_on(
    run: Run, kind: str, labeller: str
) -> None:
    (room, *_) = run.scenes.split("train")
    network = run.networks.trained(labeller)
    embeds = TEACHINGS[labeller].loss == "cosine"
    scores = point_scores(
        network,
        room.points,
        room.colors,
        run.stages.text_embeddings() if embeds else None,
        augmentations=RELABELLING_AUGMENTATIONS,
        seed=run.seed,
    )
    if embeds:
        scores = scores / run.profile.pseudo_labels.temperature
    answers = scores.masked_fill(~room.scene_labels, -torch.inf).softmax(1)
    both = (answers + run.stages.probabilities(room)) / 2
    expected, _ = soft_vote(both, run.stages.superpoints(room))
    labels = run.networks.known_labels(kind, room)
    assert torch.equal(labels, expected)
    assert run.scenes.class_set.present(room.scene_labels)
    assert bool(room.scene_labels[labels[labels != IGNORE_LABEL]].all())


@pytest.mark.parametrize("masked", [True, False])
def test_the_second_labeller_is_that_of_all_training_rooms(
    run: Run, masked: bool
) -> None:
    rooms = run.scenes.split("train")
    pieces = [
        make_pieces(
            room.points,
            run.stages.superpoints(room),
            run.stages.probabilities(room, masked=masked),
            room.scene_labels if masked else None,
        )
        for room in rooms
    ]
    beliefs = co_train(pieces, run.profile.co_training, seed=run.seed)
    kind = "co-trained" if masked else "co-trained-untagged"
    run.networks.trained(kind)
    for room, part, own in zip(rooms, pieces, beliefs, strict=True):
        labels = run.networks.known_labels(kind, room)
        assert torch.equal(labels, best_class(own[part.index]).labels)
        if masked:
            assert bool(room.scene_labels[labels[labels >= 0]].all())


def test_a_round_that_was_stopped_goes_on_as_if_it_had_not_been(
    run: Run, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its second last step, after a state was kept."""
    steps = []

    def stopped(*given: Any, **options: Any) -> torch.Tensor:
        steps.append(1)
        if len(steps) == TINY.training.steps:
            raise KeyboardInterrupt
        return cross_entropy(*given, **options)

    undisturbed = run.networks.trained("round-2").state_dict()
    cache = tmp_path / "cache"
    shutil.copytree(tiny_run, cache)
    for kept in (cache / "network").glob("round-2-*"):
        kept.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(baselines, "cross_entropy", stopped)
        with pytest.raises(KeyboardInterrupt):
            open_tiny_run(cache).networks.trained("round-2")
    monkeypatch.setattr(
        baselines,
        "cross_entropy",
        lambda *given, **options: (
            steps.append(1) or cross_entropy(*given, **options)
        ),
    )
    steps.clear()
    continued = open_tiny_run(cache).networks.trained("round-2").state_dict()
    assert len(steps) == TINY.training.steps - TINY.checkpoint_every
    assert all(
        torch.equal(tensor, continued[name])
        for name, tensor in undisturbed.items()
    )


def test_cam_retrained_learns_what_cam_says_under_the_tags(run: Run) -> None:
    (room, *_) = run.scenes.split("train")
    answers = run.networks.probabilities("cam", room, room.scene_labels, 5)
    labels = run.networks.known_labels("cam-retrained", room)
    assert torch.equal(labels, answers.argmax(1))
    assert bool(room.scene_labels[labels].all())


def test_an_adapter_without_tags_is_another_and_is_kept_beside(
    run: Run, tiny_run: Path
) -> None:
    (room, *_) = run.scenes.split("train")
    with_tags, without = (
        run.stages.adapted_rows(room, masked=masked).embeddings
        for masked in (True, False)
    )
    assert not torch.equal(with_tags, without)
    found = {
        kind: run.networks.targets(kind, room)
        for kind in ("openscene", "3dss-vlg", "adapter-untagged")
    }
    assert torch.equal(found["3dss-vlg"], with_tags)
    assert torch.equal(found["adapter-untagged"], without)
    again = open_tiny_run(tiny_run)
    (same_room, *_) = again.scenes.split("train")
    assert torch.equal(
        again.stages.adapted_rows(same_room, masked=False).embeddings, without
    )
    for kind in ("voted", "supervised", "cam"):
        with pytest.raises(ValueError, match="learns classes"):
            run.networks.targets(kind, room)


def test_other_settings_remake_the_refined_labels_and_their_networks(
    run: Run, tiny_run: Path
) -> None:
    keys = {kind: run.networks.artifact(kind).key for kind in TEACHINGS}
    assert len(set(keys.values())) == len(TEACHINGS)
    coarser = replace(TINY, superpoints=replace(TINY.superpoints, scale=8.0))
    other = open_tiny_run(tiny_run, coarser).networks
    changed = {
        kind for kind in TEACHINGS if other.artifact(kind).key != keys[kind]
    }
    assert changed == {
        kind
        for kind in TEACHINGS
        if "round" in kind
        or kind.startswith(("voted", "selected", "co-trained"))
    }


@pytest.mark.parametrize("method", ["projection-masked", "voted"])
def test_a_cell_holds_one_confusion_a_room_and_is_made_once(
    run: Run, tmp_path: Path, method: str
) -> None:
    path = make_cell(run, method, tmp_path)
    cell = read_cell(path)
    assert cell.method == method
    assert cell.classes == run.scenes.class_set.names
    (room,) = run.scenes.split("test")
    truth = run.scenes.truth(room)
    if method == "voted":
        chances = run.networks.probabilities(
            method, room, augmentations=evidence.AUGMENTATIONS
        )
        one = run.networks.probabilities(method, room, augmentations=1)
        assert torch.equal(
            cell.matrices["one copy"][0],
            confusion(one.argmax(1), truth, len(cell.classes)),
        )
        assert cell.labels is not None
        assert int(cell.labels.sum()) == sum(
            int((run.scenes.truth(scene) != IGNORE_LABEL).sum())
            for scene in run.scenes.split("train")
        )
    else:
        chances = run.stages.probabilities(room, masked=True)
        assert cell.labels is None
        assert cell.fit is None
    labels = chances.argmax(1).masked_fill(chances.sum(1) == 0, IGNORE_LABEL)
    assert torch.equal(
        cell.matrices["plain"][0],
        confusion(labels, truth, len(cell.classes)),
    )
    voted, _ = soft_vote(chances, run.stages.superpoints(room))
    assert torch.equal(
        cell.matrices["voted"][0],
        confusion(voted, truth, len(cell.classes)),
    )
    assert cell.about["profile"]["name"] == "tiny"
    before = path.stat().st_mtime_ns
    assert make_cell(run, method, tmp_path).stat().st_mtime_ns == before


def test_unknown_methods_and_damaged_cells_are_refused(
    run: Run, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="unknown 3D network 'magic'"):
        make_cell(run, "magic", tmp_path)
    path = make_cell(run, "projection", tmp_path)
    found = json.loads(path.read_text())
    found["matrices"]["plain"] = ["1 2 3"]
    path.write_text(json.dumps(found))
    with pytest.raises(StoreError, match="expected the scores of a method"):
        read_cell(path)
    with pytest.raises(ValueError, match="no method has the seeds 7"):
        read_evidence(tmp_path / "nothing", [7])


def planted(folder: Path, shares: dict[str, list[float]]) -> None:
    """Cells of two classes: a method has a share of each class right, in each
    of two rooms, for the seeds 0 and 1."""
    for method, by_seed in shares.items():
        for seed, share in enumerate(by_seed):
            right = round(100 * share)
            room = f"{right} {100 - right} 0 {100 - right} {right} 0"
            cell = {
                "method": method,
                "seed": seed,
                "classes": ["floor", "wall"],
                "cpu_seconds": 1800,
                "matrices": {
                    reading: [room, room]
                    for reading in ("plain", "voted", "one copy")
                },
                "labels": room if method == "voted" else None,
                "fit": room if method in TEACHINGS else None,
            }
            path = folder / f"{method}-seed-{seed}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(cell))


def test_the_tables_are_means_over_seeds_and_shares_of_the_gap(
    tmp_path: Path,
) -> None:
    """An IoU of r right of 100 and as many wrong is r / (200 - r)."""
    planted(
        tmp_path / "main",
        {
            "projection": [0.5, 0.6],
            "voted": [0.7, 0.7],
            "round-2": [0.75, 0.75],
            "supervised": [0.9, 1.0],
            "cam": [0.2],  # one seed only: left out
        },
    )
    found = tables(read_evidence(tmp_path / "main", [0, 1]))
    rows = {row["row"]: row for row in found["rows"]}
    assert set(rows) == {
        f"{name}{end}"
        for name in (
            "projection",
            "voted labels",
            "voted labels, second round",
            "full supervision",
        )
        for end in ("", ", voted")
    }
    low = 100 * (50 / 150 + 60 / 140) / 2
    middle, high = 100 * 70 / 130, 100 * (90 / 110 + 1) / 2
    voted = rows["voted labels"]
    assert voted["miou"] == pytest.approx(middle, abs=0.01)
    assert voted["by_seed"] == pytest.approx([middle, middle], abs=0.01)
    assert voted["share_of_gap"] == pytest.approx(
        100 * (middle - low) / (high - low), abs=0.02
    )
    assert voted["interval"] == pytest.approx([middle, middle], abs=0.01)
    second = rows["voted labels, second round"]
    assert second["compared_with"] == "voted labels"
    gain = 100 * 75 / 125 - middle
    assert second["difference"] == pytest.approx(gain, abs=0.02)
    assert second["difference_interval"] == pytest.approx(
        [gain, gain], abs=0.02
    )
    # seeds that differ widen the interval, to their own scores at most
    ends = rows["projection"]["interval"]
    assert ends == pytest.approx([100 / 3, 300 / 7], abs=0.01)
    assert rows["projection"]["share_of_gap"] == 0
    assert rows["full supervision"]["share_of_gap"] == 100
    (learnt,) = [row for row in found["learnt"] if "label_miou" in row]
    assert learnt["label_miou"] == pytest.approx(middle, abs=0.01)
    assert learnt["coverage"] == 100
    assert found["cpu_hours"] == 4.0
    assert found["test_rooms"] == [2, 2]


def test_every_variant_of_an_experiment_is_another_run() -> None:
    """Two experiments may share a folder only where their runs are the same."""
    runs: dict[str, object] = {}
    for name, experiment in experiments.EXPERIMENTS.items():
        assert experiment.says.endswith((".", "?")), name
        for variant, profile in experiment.variants.items():
            assert runs.setdefault(variant, profile) == profile, variant
    profiles = list(runs.values())
    assert all(profiles.count(profile) == 1 for profile in profiles)
    book = experiments.EXPERIMENTS["main"].variants["main"]
    assert book.rooms.test == experiments.TEST_ROOMS
    assert replace(book, rooms=get_profile("book").rooms) == get_profile("book")


def test_an_experiment_continues_and_writes_its_tables(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = experiments.Experiment(
        "?", ("projection", "voted"), {"small": TINY}, (0,)
    )
    monkeypatch.setitem(experiments.EXPERIMENTS, "small", small)
    made = []

    def counted(run: Run, method: str, folder: Path) -> Path:
        made.append(method)
        return make_cell(run, method, folder)

    monkeypatch.setattr(experiments, "make_cell", counted)
    options = open_tiny_run(tiny_run).stages.options
    for methods in (["projection"], [], []):
        (table,) = experiments.run_experiment(
            "small", tmp_path, methods=methods, options=options
        )
    assert made == ["projection", "projection", "voted"]
    found = json.loads(table.read_text())
    cell = read_cell(tmp_path / "small" / "voted-seed-0.json")
    rows = {row["row"]: row["miou"] for row in found["rows"]}
    assert rows["voted labels"] == pytest.approx(
        100 * mean_iou(cell.matrices["plain"].sum(0)), abs=0.01
    )
