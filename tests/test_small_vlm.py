import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vlg_lib.classes import ROOMS_12
from vlg_lib.data.rooms import make_room, render_frame, room_camera, room_poses, split_seeds
from vlg_lib.store import StoreError, load_tensors, save_tensors
from vlg_lib.vision_language import VisionLanguageModel, create_model, list_models
from vlg_lib.vision_language.small import WEIGHTS, SmallRegionModel, VisualTower
from vlg_lib.vision_language.small_words import COLORS, MATERIALS, NAMES, VOCABULARY, tokenize

SCRIPTS = Path(__file__).parents[1] / "data_scripts"


@pytest.fixture(scope="module")
def model():
    return create_model("small-region")


@pytest.fixture(scope="module")
def trainer():
    spec = importlib.util.spec_from_file_location("train_small_vlm", SCRIPTS / "train_small_vlm.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_small_vlm"] = module
    spec.loader.exec_module(module)
    return module


def picture(seed, view=0, width=160, height=120):
    room = make_room(split_seeds("vlm-held-out", seed + 1)[seed])
    return render_frame(room, room_camera(width, height), room_poses(room, view + 1)[view])


# --- words ------------------------------------------------------------------------------------------------------------


def test_tokens_by_hand():
    a, chair, end = VOCABULARY.index("a"), VOCABULARY.index("chair"), len(VOCABULARY) - 1
    assert tokenize(["A chair."])[0].tolist() == [a, chair, end] + [0] * 13
    assert tokenize(["chairs"])[0, 0] == chair
    assert tokenize(["boxes"])[0, 0] == VOCABULARY.index("box")


def test_every_class_template_and_synonym_is_known():
    words = {*ROOMS_12.names, *COLORS, *MATERIALS, *NAMES, *(s for synonyms in NAMES.values() for s in synonyms)}
    assert words <= set(VOCABULARY)
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    for template in ("{name}", "a {name}", "a {name} in a scene", "a photo of a {name} in a room"):
        tokenize(ROOMS_12.prompts(template))


@pytest.mark.parametrize("text", ["", "...", " ".join(["a"] * 16)])
def test_texts_of_no_or_too_many_words(text):
    with pytest.raises(ValueError, match="1 to 15 words"):
        tokenize([text])


def test_unknown_word_is_named(model):
    with pytest.raises(ValueError, match=r"'zebra' in 'a zebra'.*bookcase"):
        model.text_embeddings(["a chair", "a zebra"])


# --- the interface ----------------------------------------------------------------------------------------------------


def test_factory(model):
    assert list_models() == ["small-region"]
    assert isinstance(model, VisionLanguageModel)
    assert (model.name, model.dim, model.stride) == ("small-region", 64, 4)
    with pytest.raises(ValueError, match=r"unknown.*'clip'.*small-region"):
        create_model("clip")


@settings(max_examples=6, deadline=None)
@given(width=st.integers(32, 90), height=st.integers(32, 90))
def test_dense_embeddings_cover_the_image_with_unit_vectors(model, width, height):
    image = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dense = model.dense_embeddings(image)
    assert dense.shape == (math.ceil(height / 4), math.ceil(width / 4), 64)
    assert dense.dtype == torch.float32
    assert torch.allclose(dense.norm(dim=-1), torch.ones(dense.shape[:2]), atol=1e-5)
    assert torch.equal(dense, model.dense_embeddings(image))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(60, 80, 3), "uint8"),
        (torch.zeros(60, 80, dtype=torch.uint8), r"\(height, width, 3\)"),
        (torch.zeros(3, 60, 80, dtype=torch.uint8), r"\(height, width, 3\)"),
        (torch.zeros(20, 80, 3, dtype=torch.uint8), "32 x 32"),
    ],
)
def test_wrong_images_are_refused(image, message):
    # Outside the library's run-time type checks, which would answer first: the readers' own situation.
    from vlg_lib.vision_language.base import check_image

    with pytest.raises(ValueError, match=message):
        check_image(image, 32)


def test_text_embeddings_do_not_depend_on_their_neighbours(model):
    texts = ["a chair", "a wooden table in a room", "wall"]
    together = model.text_embeddings(texts)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    for row, text in zip(together, texts, strict=True):
        assert torch.allclose(model.text_embeddings([text])[0], row, atol=1e-5)
    with pytest.raises(ValueError, match="at least one"):
        model.text_embeddings([])


def test_the_model_is_frozen(model):
    assert not isinstance(model, nn.Module)
    assert not hasattr(model, "parameters")
    text = model.text_embeddings(["a chair"])
    dense = model.dense_embeddings(picture(0).frame.color)
    for module in (model._visual, model._text):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not dense.requires_grad
    assert not text.requires_grad
    weight = torch.ones(64, requires_grad=True)
    (dense @ (weight * text[0])).sum().backward()  # Frozen outputs still feed trainable modules.
    assert weight.grad is not None


def test_missing_and_foreign_weights(tmp_path):
    with pytest.raises(StoreError, match="no such file"):
        SmallRegionModel(tmp_path / "none.safetensors")
    save_tensors(tmp_path / "other.safetensors", {"visual.weight": torch.ones(2)})
    with pytest.raises(StoreError, match="small-region"):
        SmallRegionModel(tmp_path / "other.safetensors")


def test_segment_upsamples_and_takes_the_best_text():
    class Halves(VisionLanguageModel):
        name, dim, stride = "halves", 2, 4

        def dense_embeddings(self, image):
            dense = torch.zeros(2, 4, 2)
            dense[:, :2, 0] = 1
            dense[:, 2:, 1] = 1
            return dense

        def text_embeddings(self, texts):
            return torch.eye(2)

    labels = Halves().segment(torch.zeros(8, 16, 3, dtype=torch.uint8), torch.eye(2))
    assert labels.shape == (8, 16)
    assert (labels[:, :8] == 0).all()
    assert (labels[:, 8:] == 1).all()


# --- the shipped weights ----------------------------------------------------------------------------------------------


def test_weights_are_small_half_precision_and_documented():
    tensors, manifest = load_tensors(WEIGHTS)
    assert WEIGHTS.stat().st_size < 10_000_000
    assert all(tensor.dtype in (torch.float16, torch.int64) for tensor in tensors.values())
    card = WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")
    for fact in ("region", "shift", str(manifest["recipe"]["steps"]), manifest["torch"], manifest["open_clip"]):
        assert fact in card
    assert 1.3e6 < sum(parameter.numel() for parameter in VisualTower().parameters()) < 1.6e6


def test_the_model_segments_rooms_it_never_saw(model):
    texts = model.text_embeddings(ROOMS_12.prompts("a {name}"))
    right = total = 0
    for seed in range(6):
        rendered = picture(seed, view=1)
        predicted = model.segment(rendered.frame.color, texts)
        known = rendered.labels >= 0
        right += int((predicted == rendered.labels)[known].sum())
        total += int(known.sum())
    assert right / total > 0.75  # About 90 %; a shuffled vocabulary or a mirrored grid gives less than half.


def test_the_grid_lies_on_the_image(model):
    """The best alignment between the dense map and the true labels is no shift at all."""
    texts = model.text_embeddings(ROOMS_12.prompts("a {name}"))
    agreement = {}
    pictures = [picture(seed) for seed in range(4)]
    for shift in (-4, 0, 4):
        right = 0.0
        for rendered in pictures:
            predicted = model.segment(rendered.frame.color, texts).roll(shift, dims=1)[:, 8:-8]
            truth = rendered.labels[:, 8:-8]
            right += float((predicted == truth)[truth >= 0].float().mean())
        agreement[shift] = right
    assert agreement[0] == max(agreement.values())


# --- the trainer ------------------------------------------------------------------------------------------------------


def test_regions_stay_within_one_thing_and_are_not_tiny(trainer):
    generator = torch.Generator().manual_seed(3)
    things = torch.stack([picture(seed).instances.remainder(256) for seed in range(2)])
    things[0, :, :60] = 255  # Rays that left the room.
    regions, owners = trainer.cut_regions(things, generator, 3)
    assert regions.shape == (2, 30, 40)
    for number, (frame, thing) in enumerate(owners.tolist()):
        cells = regions == number
        assert int(cells.sum()) >= 3
        assert set(cells.nonzero()[:, 0].tolist()) == {frame}
        assert set(things[:, 1::4, 1::4][cells].tolist()) == {thing}
    assert 255 not in owners[:, 1].tolist()


def test_captions_name_the_thing_in_known_words(trainer):
    words = [("sofa", "red", "fabric")] * 200
    texts = trainer.captions(words, [False] * 200, torch.Generator().manual_seed(0))
    assert all("sofa" in text or "couch" in text for text in texts)
    assert 15 < sum("couch" in text for text in texts) < 70
    assert any("red" in text for text in texts)
    assert not any("blue" in text for text in texts)
    tokenize(texts)
    turned = trainer.captions(words, [True] * 200, torch.Generator().manual_seed(0))
    assert not any("red" in text.split() for text in turned)


def test_turned_hues_keep_grey_and_brightness(trainer):
    generator = torch.Generator().manual_seed(0)
    grey = torch.full((2, 3, 4, 4), 0.4)
    color = torch.tensor([0.5, 0.4, 0.3])[None, :, None, None].expand(2, 3, 4, 4)
    chosen = torch.tensor([True, False])
    assert torch.allclose(trainer.turn_hues(grey, chosen, generator), grey, atol=1e-6)
    turned = trainer.turn_hues(color, chosen, generator)
    assert torch.allclose(turned.mean(1), color.mean(1), atol=1e-6)
    assert torch.equal(turned[1], color[1])
    assert not torch.allclose(turned[0], color[0], atol=0.01)


def test_contrast_by_hand(trainer):
    """Two regions, two captions of other classes, similarity 1 on the diagonal: both ways ln(1 + e^-1)."""
    value = trainer.contrast(torch.eye(2), torch.eye(2))
    assert float(value) == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    same_class = torch.ones(2, 2)
    assert float(trainer.contrast(torch.zeros(2, 2), same_class)) == pytest.approx(math.log(2), abs=1e-6)


def test_region_means_by_hand(trainer):
    dense = torch.arange(8.0).view(1, 2, 2, 2)
    means = trainer.region_means(dense, torch.tensor([[[0, 0], [1, -1]]]), 2)
    assert means.tolist() == [[0.5, 4.5], [2.0, 6.0]]


def test_augmentation_moves_things_with_their_pixels(trainer):
    things = torch.zeros(16, 48, 64, dtype=torch.uint8)
    things[:, :, 32:] = 1
    images = things[..., None].expand(-1, -1, -1, 3) * 200
    moved, ids = trainer.augment(images, things, torch.zeros(16, dtype=torch.bool), torch.Generator().manual_seed(0))
    bright = moved.mean(1) > 0.3
    assert float((bright == (ids == 1)).float().mean()) > 0.97
    assert len({tuple(row.tolist()) for row in ids[:, 0]}) > 4


def test_a_finished_training_is_only_loaded(trainer, tmp_path):
    recipe = replace(trainer.PROFILES["fast"], rooms=2, views=2, width=64, height=48, steps=4, batch=2)
    recipe = replace(recipe, precision="float32")
    frames = trainer.load_frames(tmp_path, recipe, workers=1)
    assert frames.images.shape == (4, 48, 64, 3)
    (tmp_path / "whole").mkdir()
    towers, losses = trainer.train(recipe, frames, tmp_path / "whole")
    assert len(losses) == 4
    assert all(math.isfinite(value) for value in losses)
    lines = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    assert len(lines) == 4
    again, same = trainer.train(recipe, frames, tmp_path / "whole")
    assert same == losses
    for first, second in zip(towers.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(first, second)
