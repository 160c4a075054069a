import json
import math
import sys
from dataclasses import replace

import evaluate_small_vlm as evaluation
import pytest
import room_frames
import torch
import train_small_vlm as trainer
from room_captions import HELD_OUT, Facts, room_facts
from room_words import VOCABULARY

from vlg_lib.classes import ROOMS_12
from vlg_lib.rooms.scenes import (
    make_room,
    render_frame,
    room_camera,
    room_poses,
    split_seeds,
)
from vlg_lib.vision_language.small import SMALL_MODELS, SmallModel

TINY = replace(
    trainer.PROFILES["fast"],
    rooms=2,
    views=2,
    width=64,
    height=48,
    steps=4,
    batch=2,
    precision="float32",
)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return room_frames.load_frames(
        tmp_path_factory.mktemp("frames"), 2, 2, 64, 48, workers=1
    )


def frame_of(seed):
    room = make_room(split_seeds("vlm-held-out", seed + 1)[seed])
    return render_frame(room, room_camera(), room_poses(room, 1)[0])


def test_frames_know_their_rooms_and_things(frames):
    assert frames.images.shape == (4, 48, 64, 3)
    assert frames.rooms == [0, 0, 1, 1]
    for room, seed in enumerate(split_seeds("vlm-train", 2)):
        things = make_room(seed).things
        assert [(fact.name, fact.color) for fact in frames.facts[room]] == [
            (t.name, t.color) for t in things
        ]
        drawn = frames.things[2 * room : 2 * room + 2]
        assert int(drawn[drawn < 255].max()) < len(things)


def test_regions_stay_within_one_thing_and_are_not_tiny():
    generator = torch.Generator().manual_seed(3)
    things = torch.stack(
        [frame_of(seed).instances.remainder(256) for seed in range(2)]
    )
    things[0, :, :60] = 255  # Rays that left the room.
    regions, owners = room_frames.cut_regions(things, generator, 3)
    assert regions.shape == (2, 30, 40)
    for number, (frame, thing) in enumerate(owners.tolist()):
        cells = regions == number
        assert int(cells.sum()) >= 3
        assert set(cells.nonzero()[:, 0].tolist()) == {frame}
        assert set(things[:, 1::4, 1::4][cells].tolist()) == {thing}
    assert 255 not in owners[:, 1].tolist()


def test_turned_hues_keep_grey_and_brightness():
    generator = torch.Generator().manual_seed(0)
    grey = torch.full((2, 3, 4, 4), 0.4)
    color = torch.tensor([0.5, 0.4, 0.3])[None, :, None, None].expand(
        2, 3, 4, 4
    )
    chosen = torch.tensor([True, False])
    assert torch.allclose(
        room_frames.turn_hues(grey, chosen, generator), grey, atol=1e-6
    )
    turned = room_frames.turn_hues(color, chosen, generator)
    assert torch.allclose(turned.mean(1), color.mean(1), atol=1e-6)
    assert torch.equal(turned[1], color[1])
    assert not torch.allclose(turned[0], color[0], atol=0.01)


def test_augmentation_moves_things_with_their_pixels():
    things = torch.zeros(16, 48, 64, dtype=torch.uint8)
    things[:, :, 32:] = 1
    images, still = (
        things[..., None].expand(-1, -1, -1, 3) * 200,
        torch.zeros(16, dtype=torch.bool),
    )
    moved, ids = room_frames.augment(
        images, things, still, torch.Generator().manual_seed(0)
    )
    bright = moved.mean(1) > 0.3
    assert float((bright == (ids == 1)).float().mean()) > 0.97
    assert len({tuple(row.tolist()) for row in ids[:, 0]}) > 4


def test_contrast_by_hand():
    """Two regions, two captions of other classes, similarity 1 on the diagonal:
    both ways ln(1 + e^-1)."""
    value = trainer.contrast(torch.eye(2), torch.eye(2, dtype=torch.bool))
    assert float(value) == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    same_class = torch.ones(2, 2, dtype=torch.bool)
    assert float(
        trainer.contrast(torch.zeros(2, 2), same_class)
    ) == pytest.approx(math.log(2), abs=1e-6)


def test_a_row_without_a_true_sentence_is_no_question():
    similarity = torch.tensor([[1.0, 0.0], [0.3, 0.4], [0.0, 1.0]])
    true = torch.tensor([[True, False], [False, False], [False, True]])
    rows = -torch.log_softmax(similarity, 1)[[0, 2], [0, 1]].mean()
    columns = -torch.log_softmax(similarity.T, 1)[[0, 1], [0, 2]].mean()
    assert float(trainer.contrast(similarity, true)) == pytest.approx(
        float(rows + columns) / 2, abs=1e-6
    )


def test_region_means_by_hand():
    dense = torch.arange(8.0).view(1, 2, 2, 2)
    means = trainer.region_means(dense, torch.tensor([[[0, 0], [1, -1]]]), 2)
    assert means.tolist() == [[0.5, 4.5], [2.0, 6.0]]


def test_grounding_by_hand():
    """Two regions of similarity ln 3 and 0 at scale 1: weights 3/4 and 1/4,
    score 3/4 ln 3."""
    similarity = torch.tensor([[math.log(3)], [0.0], [0.5]])
    scores = trainer.grounded_scores(
        similarity, torch.tensor([0, 0, 2]), 3, torch.tensor(1.0)
    )
    # image 1 has no region
    assert scores[:, 0].tolist() == pytest.approx(
        [0.75 * math.log(3), 0.0, 0.5], abs=1e-6
    )


@pytest.mark.parametrize("scale", [1.0, 10.0, 30.0])
def test_grounding_is_the_published_sum(scale):
    """OpenSeg's grounding, for each image and word w: the sum over regions i of
    softmax_i(z_i . w) (z_i . w)."""
    generator = torch.Generator().manual_seed(0)
    similarity = 2 * torch.rand(30, 7, generator=generator) - 1
    # one image fits nothing
    similarity[:6], similarity[6:] = (
        similarity[:6].abs() / 5 - 1,
        similarity[6:].abs(),
    )
    owners = torch.arange(30) // 6
    found = trainer.grounded_scores(similarity, owners, 5, torch.tensor(scale))
    for image in range(5):
        for word in range(7):
            fits = [float(value) for value in similarity[owners == image, word]]
            powers = [math.exp(scale * value) for value in fits]
            direct = sum(
                power / sum(powers) * value
                for power, value in zip(powers, fits, strict=True)
            )
            assert float(found[image, word]) == pytest.approx(direct, abs=1e-5)


def test_batches_say_true_things(frames):
    """Of regions: what is true of the thing of each. Of images: what was said
    of each, and no held-out pair."""
    recipe = replace(TINY, batch=4, recolor=0.5)
    batch = trainer.make_batch(
        "region", frames, recipe, 0, torch.Generator().manual_seed(1)
    )
    assert batch.true.shape == (len(batch.frames), len(batch.columns))
    assert bool(batch.true.diagonal().all())
    assert int(batch.regions.max()) + 1 == len(batch.frames)
    grounded = trainer.make_batch(
        "grounded", frames, recipe, 0, torch.Generator().manual_seed(1)
    )
    assert grounded.true.shape == (4, len(grounded.columns))
    assert bool(grounded.true.any(0).all())  # every phrase was said of an image
    assert not bool(grounded.true.all())
    whole = trainer.make_batch(
        "clip", frames, recipe, 0, torch.Generator().manual_seed(1)
    )
    assert torch.equal(whole.true, torch.eye(4, dtype=torch.bool))
    for other in (grounded, whole):
        # the three kinds see the same frames
        assert torch.equal(other.images, batch.images)


def test_a_phrase_of_images_is_right_for_those_that_it_is_true_of():
    """By hand: two images, of a red chair and a white wall, and of a white
    chair. Which region is meant is not told."""
    facts = [
        Facts("chair", "red", "wooden"),
        Facts("wall", "white", "painted"),
        Facts("chair", "white", "fabric"),
    ]
    said = [
        ("something red", {"color": "red"}),
        ("a wall", {"name": "wall"}),
        ("a seat", {"name": "chair"}),
        ("something to sit on", {"use": "sit on"}),
    ]
    # the last two are regions of one thing
    owners = torch.tensor([[0, 0], [0, 1], [1, 2], [1, 2]])
    facts, generator = [*facts, facts[-1]], torch.Generator().manual_seed(0)
    phrases, true = trainer.image_phrases(facts, said, owners, 2, 4, generator)
    found = dict(zip(phrases, true.T.tolist(), strict=True))
    assert len(found) == 3  # of a thing one phrase is said
    assert found["something red"] == [True, False]
    assert found["a wall"] == [True, False]
    assert found.get("a seat", found.get("something to sit on")) == [True, True]


def test_a_sentence_names_things_of_its_image():
    """By hand: a thing is named once, in its colour where that is said; what
    has no name is left out."""
    said = [
        ("a red seat", {"name": "chair", "color": "red"}),
        ("something red", {"color": "red"}),
    ]
    said += [("the wall", {"name": "wall"}), ("a wall", {"name": "wall"})]
    owners = torch.tensor([[0, 0], [1, 0], [0, 1], [0, 1]])
    sentences = trainer.image_sentences(
        said, owners, 2, 4, torch.Generator().manual_seed(0)
    )
    assert sentences[0] in (
        "a room with a red chair a wall",
        "a room with a wall a red chair",
    )
    assert sentences[1] == "a room"
    short, _ = trainer.image_sentences(
        said, owners, 2, 1, torch.Generator().manual_seed(0)
    )
    assert short in ("a room with a red chair", "a room with a wall")


@pytest.mark.parametrize("kind", list(trainer.NAMES))
def test_a_stopped_training_continues_and_a_finished_one_is_only_loaded(
    frames, tmp_path, kind, monkeypatch
):
    monkeypatch.setattr(trainer, "CHECKPOINT_EVERY", 1)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir(), stopped.mkdir()
    towers, losses = trainer.train(kind, TINY, frames, whole)
    assert len(losses) == 4
    assert all(math.isfinite(value) for value in losses)
    plain = trainer.batch_loss

    def broken(kind, towers, batch, recipe):
        if batch.step == 2:
            raise KeyboardInterrupt
        return plain(kind, towers, batch, recipe)

    monkeypatch.setattr(trainer, "batch_loss", broken)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(kind, TINY, frames, stopped)
    monkeypatch.setattr(trainer, "batch_loss", plain)
    for folder in (stopped, whole):
        again, same = trainer.train(kind, TINY, frames, folder)
        lines = [
            json.loads(line)
            for line in (folder / "log.jsonl").read_text().splitlines()
        ]
        assert [line["step"] for line in lines] == [0, 1, 2, 3]
        assert same == losses
        for first, second in zip(
            towers.state_dict().values(),
            again.state_dict().values(),
            strict=True,
        ):
            assert torch.equal(first, second)


def test_another_recipe_is_another_training(tmp_path, monkeypatch):
    """What was stored for other settings is neither continued nor passed off as
    made with these."""
    sizes = (
        "--rooms 2 --views 2 --width 64 --height 48 --steps 1 --precision"
        " float32"
    )
    for batch in ("2", "4"):
        command = [
            "train_small_vlm.py",
            "clip",
            "--cache",
            str(tmp_path),
            "--batch",
            batch,
            *sizes.split(),
        ]
        monkeypatch.setattr(sys, "argv", command)
        trainer.main()
    assert len(list(tmp_path.glob("run-clip-*"))) == 2


def test_the_command_makes_weights_that_the_library_loads(
    tmp_path, monkeypatch, capsys
):
    sizes = (
        "--rooms 2 --views 2 --width 64 --height 48 --steps 2 --batch 2"
        " --precision float32"
    )
    for kind, name in (("clip", "small-clip"), ("grounded", "small-own")):
        out = (
            []
            if name == "small-clip"
            else ["--out", str(tmp_path / f"{name}.safetensors")]
        )
        command = [
            "train_small_vlm.py",
            kind,
            "--profile",
            "fast",
            "--cache",
            str(tmp_path),
            *sizes.split(),
            *out,
        ]
        monkeypatch.setattr(sys, "argv", command)
        trainer.main()
        assert f"{name}.safetensors: 3." in capsys.readouterr().out  # megabytes
        model = SmallModel(tmp_path / f"{name}.safetensors")
        assert (model.name, model.manifest["kind"]) == (name, kind)
        assert {tuple(pair) for pair in model.manifest["held_out"]} == HELD_OUT
        assert model.text_embeddings(
            ["something to sit on", "a red sofa near the window"]
        ).shape == (2, 64)
    assert {name: SMALL_MODELS[name] for name in trainer.NAMES.values()} == {
        n: k for k, n in trainer.NAMES.items()
    }


# --- what the models are scored by


def test_sentences_are_asked_of_a_model_that_knows_the_answers():
    # three views
    facts = 3 * [
        fact
        for seed in split_seeds("vlm-held-out", 5)
        for fact in room_facts(make_room(seed))
    ]
    asked = evaluation.sentences(facts)
    assert {
        "name",
        "pair",
        "pair, held out",
        "material",
        "size",
        "place",
        "use",
    } == set(asked)
    texts = [text for group in asked.values() for text in group]
    assert len(set(texts)) == len(texts)
    for group in asked.values():
        for meaning, true in group.values():
            brute = [
                all(
                    value in fact.values(slot)
                    for slot, value in meaning.items()
                )
                for fact in facts
            ]
            assert true.tolist() == brute
            assert sum(brute) >= evaluation.MIN_TRUE
    assert all(
        (meaning["color"], meaning["name"]) in HELD_OUT
        for meaning, _ in asked["pair, held out"].values()
    )

    class Knowing:
        """Each thing is the list of the sentences that are true of it; each
        sentence asks for its own place there."""

        name, vocabulary = "knowing", VOCABULARY

        def text_embeddings(self, wanted):
            return torch.stack(
                [
                    torch.tensor([float(text == other) for other in texts])
                    for text in wanted
                ]
            )

    things = torch.stack(
        [
            true.float()
            for group in asked.values()
            for _, true in group.values()
        ],
        dim=1,
    )
    rows = {
        row["sentences"]: row
        for row in evaluation.retrieval_scores(Knowing(), things, facts)
    }
    assert set(rows) == set(asked)
    assert {row["precision"] for row in rows.values()} == {100.0}
    for kind in ("pair", "pair, held out", "size", "place"):
        assert rows[kind]["chance"] < rows[kind]["name_alone"] < 100
    knowing = Knowing()
    knowing.vocabulary = tuple(set(VOCABULARY) - {"something"})
    assert "use" not in {
        row["sentences"]
        for row in evaluation.retrieval_scores(knowing, things, facts)
    }


def test_a_model_that_says_wall_everywhere_scores_the_walls():
    class Walls:
        name = "walls"

        def text_embeddings(self, texts):
            return torch.eye(len(texts))

        def segment(self, image, texts):
            return torch.full(image.shape[:2], ROOMS_12.index("wall"))

    (row,) = evaluation.dense_scores([Walls()], 0.5, 1, 2, 2, "a {name}")
    walls, known, classes = [0, 0], [0, 0], [set(), set()]
    for room, seed in enumerate(split_seeds("vlm-held-out", 2)):
        made = make_room(seed, shift=0.5)
        for view, pose in enumerate(room_poses(made, 2)):
            labels = render_frame(made, room_camera(), pose, seed=view).labels
            walls[room] += int((labels == ROOMS_12.index("wall")).sum())
            known[room] += int((labels >= 0).sum())
            classes[room] |= set(labels[labels >= 0].tolist())
    assert row["accuracy"] == pytest.approx(
        100 * sum(walls) / sum(known), abs=0.06
    )
    assert row["iou"]["wall"] == row["accuracy"]
    parts = [100 * walls[i] / known[i] / len(classes[i]) for i in (0, 1)]
    assert row["groups"] == pytest.approx(parts, abs=0.06)
    assert row["miou"] == pytest.approx(
        row["accuracy"] / len(classes[0] | classes[1]), abs=0.06
    )


@pytest.mark.parametrize(
    "figure",
    [{"shift": 0.5, "miou": 0.0}, {"sentences": "name", "precision": 0.0}],
)
def test_three_seeds_and_the_interval_of_their_mean(figure):
    asked, scored = figure
    rows = [
        figure | {"model": f"seed{s}", scored: value}
        for s, value in enumerate((60.0, 63.0, 66.0))
    ]
    row = evaluation.over_seeds("all", rows)
    # The standard error is 3 / sqrt(3); Student's 97.5 % point at two degrees
    # of freedom is 4.303 (any table).
    told = {
        "model": "all",
        asked: figure[asked],
        "seeds": 3,
        scored: 63.0,
        "each": [60.0, 63.0, 66.0],
    }
    assert row == told | {"low": 55.5, "high": 70.5}


def test_seeds_of_one_model_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv",
        ["evaluate_small_vlm.py", "small-clip", "--seeds-of", "small-clip"],
    )
    with pytest.raises(SystemExit):
        evaluation.main()
    assert (
        "--seeds-of asks for two models or more, found 1"
        in capsys.readouterr().err
    )
