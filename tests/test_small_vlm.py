import hashlib
import math
from inspect import unwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transformer import TextTransformer
from torch import nn

from vlg_lib.artifacts import StoreError, load_tensors, save_tensors
from vlg_lib.classes import ROOMS_12
from vlg_lib.rooms.scenes import (
    make_room,
    render_frame,
    room_camera,
    room_poses,
    split_seeds,
)
from vlg_lib.vision_language import (
    VisionLanguageModel,
    create_model,
    list_models,
)
from vlg_lib.vision_language.small import (
    SMALL_MODELS,
    WEIGHTS,
    SmallModel,
    VisualTower,
)
from vlg_lib.vision_language.small_tokenizer import tokenize

SHIPPED = [
    name for name in SMALL_MODELS if (WEIGHTS / f"{name}.safetensors").is_file()
]


@pytest.fixture(scope="module")
def model():
    return create_model("small-attributes")


def picture(seed, view=0, width=160, height=120):
    room = make_room(split_seeds("vlm-held-out", seed + 1)[seed])
    return render_frame(
        room, room_camera(width, height), room_poses(room, view + 1)[view]
    )


# --- words


WORDS = ("<pad>", "a", "chair", "box", "glass", "<end>")


def test_tokens_by_hand():
    assert tokenize(["A chair."], WORDS)[0].tolist() == [1, 2, 5] + [0] * 13
    assert tokenize(["chairs", "boxes", "glass"], WORDS)[:, 0].tolist() == [
        2,
        3,
        4,
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_class_is_known_in_every_template_of_the_book(name):
    model = create_model(name)
    assert set(ROOMS_12.names) <= set(model.vocabulary)
    for template in (
        "{name}",
        "a {name}",
        "a {name} in a scene",
        "a photo of a {name} in a room",
    ):
        assert model.text_embeddings(ROOMS_12.prompts(template)).shape == (
            12,
            64,
        )


@pytest.mark.parametrize("text", ["", "...", " ".join(["a"] * 16)])
def test_texts_of_no_or_too_many_words(text):
    with pytest.raises(ValueError, match="1 to 15 words"):
        tokenize([text], WORDS)


def test_unknown_word_is_named(model):
    with pytest.raises(ValueError, match=r"'zebra' in 'a zebra'.*bookcase"):
        model.text_embeddings(["a chair", "a zebra"])


# --- the interface


def test_factory(model):
    assert list_models() == SHIPPED
    assert "small-attributes" in SHIPPED
    assert isinstance(model, VisionLanguageModel)
    assert (model.name, model.dim, model.stride) == ("small-attributes", 64, 4)
    with pytest.raises(ValueError, match=r"unknown.*'clip'.*small-attributes"):
        create_model("clip")
    with pytest.raises(
        ValueError, match=r"unknown.*'small-clip/naclip'.*small-clip, openseg"
    ):
        # read-outs are for towers that end in attention
        create_model("small-clip/naclip")


@settings(max_examples=6, deadline=None)
@given(width=st.integers(32, 90), height=st.integers(32, 90))
def test_dense_embeddings_cover_the_image_with_unit_vectors(
    model, width, height
):
    image = torch.randint(
        256,
        (height, width, 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    dense = model.dense_embeddings(image)
    assert dense.shape == (math.ceil(height / 4), math.ceil(width / 4), 64)
    assert dense.dtype == torch.float32
    assert torch.allclose(
        dense.norm(dim=-1), torch.ones(dense.shape[:2]), atol=1e-5
    )
    assert torch.equal(dense, model.dense_embeddings(image))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(60, 80, 3), "uint8"),
        # NaN has no place in whole numbers
        (torch.full((60, 80, 3), torch.nan), "uint8"),
        (torch.zeros(60, 80, 4, dtype=torch.uint8), r"\(height, width, 3\)"),
        (torch.zeros(60, 80, dtype=torch.uint8), r"\(height, width, 3\)"),
        (torch.zeros(3, 60, 80, dtype=torch.uint8), r"\(height, width, 3\)"),
        (torch.zeros(20, 80, 3, dtype=torch.uint8), "32 x 32"),
    ],
)
def test_wrong_images_are_refused(image, message):
    # Past the library's run-time type checks, which would answer first: the
    # readers' own situation.
    for name in SHIPPED:
        embed = unwrap(SmallModel.dense_embeddings)
        with pytest.raises(ValueError, match=message):
            embed(create_model(name), image)


def test_text_embeddings_do_not_depend_on_their_neighbours(model):
    texts = ["a chair", "a wooden table in a room", "wall"]
    together = model.text_embeddings(texts)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    for row, text in zip(together, texts, strict=True):
        assert torch.allclose(model.text_embeddings([text])[0], row, atol=1e-5)
    for texts, message in (
        ([], "at least one"),
        ([" "], "none of them empty"),
        (["bed", "bed"], r"twice: \['bed'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            model.text_embeddings(texts)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_text_tower_is_that_of_open_clip(name):
    model = SmallModel(WEIGHTS / f"{name}.safetensors")
    theirs = TextTransformer(
        context_length=16,
        vocab_size=len(model.vocabulary),
        width=96,
        heads=4,
        layers=2,
        output_dim=64,
    )
    theirs.load_state_dict(
        {
            name.removeprefix("text."): tensor.float()
            for name, tensor in load_tensors(WEIGHTS / f"{name}.safetensors")[
                0
            ].items()
            if name.startswith("text.")
        }
    )
    texts = ["wall", "a red chair", "a room with a sofa and a brown table"]
    with torch.no_grad():
        expected = nn.functional.normalize(
            theirs.eval()(tokenize(texts, model.vocabulary)), dim=1
        )
    torch.testing.assert_close(
        model.text_embeddings(texts), expected, atol=1e-6, rtol=0
    )


def test_the_model_is_frozen(model):
    assert not isinstance(model, nn.Module)
    assert not hasattr(model, "parameters")
    text = model.text_embeddings(["a chair"])
    dense = model.dense_embeddings(picture(0).frame.color)
    for module in (model._visual, model._text):
        assert not module.training
        assert not any(
            parameter.requires_grad for parameter in module.parameters()
        )
    assert not dense.requires_grad
    assert not text.requires_grad
    weight = torch.ones(64, requires_grad=True)
    # Frozen outputs still feed trainable modules.
    (dense @ (weight * text[0])).sum().backward()
    assert weight.grad is not None


def test_missing_and_foreign_weights(tmp_path, monkeypatch):
    with pytest.raises(
        StoreError,
        match=(
            r"none\.safetensors: no such file; train it: .*train_small_vlm.py"
            r" KIND"
        ),
    ):
        SmallModel(tmp_path / "none.safetensors")
    monkeypatch.setattr(
        "vlg_lib.vision_language._SMALL",
        {name: tmp_path / f"{name}.safetensors" for name in SMALL_MODELS},
    )
    assert list_models() == []
    with pytest.raises(
        StoreError,
        match=r"small-grounded\.safetensors.*train_small_vlm.py grounded --out",
    ):
        create_model("small-grounded")
    save_tensors(
        tmp_path / "other.safetensors", {"visual.weight": torch.ones(2)}
    )
    with pytest.raises(
        StoreError,
        match=r"other\.safetensors: not the weights of a small model",
    ):
        SmallModel(tmp_path / "other.safetensors")
    content = (WEIGHTS / "small-attributes.safetensors").read_bytes()
    for length in (0, 7, 4000, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        with pytest.raises(
            StoreError, match=r"cut\.safetensors: not a whole safetensors file"
        ):
            SmallModel(tmp_path / "cut.safetensors")


def test_weights_without_their_words_are_refused(tmp_path):
    tensors, manifest = load_tensors(WEIGHTS / "small-attributes.safetensors")
    del manifest["vocabulary"]
    save_tensors(tmp_path / "wordless.safetensors", tensors, manifest)
    with pytest.raises(StoreError, match=r"wordless\.safetensors.*vocabulary"):
        SmallModel(tmp_path / "wordless.safetensors")


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

    labels = Halves().segment(
        torch.zeros(8, 16, 3, dtype=torch.uint8), torch.eye(2)
    )
    assert labels.shape == (8, 16)
    assert (labels[:, :8] == 0).all()
    assert (labels[:, 8:] == 1).all()


# --- the shipped weights


def test_the_tensors_of_the_default_teacher_never_change():
    """Every number of the book hangs on them. The file may change: its manifest
    holds words about them."""
    tensors, _ = load_tensors(WEIGHTS / "small-attributes.safetensors")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    assert digest.hexdigest()[:16] == "a792461542708466"


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_small_half_precision_and_documented(name):
    path = WEIGHTS / f"{name}.safetensors"
    tensors, manifest = load_tensors(path)
    assert all(
        tensor.dtype in (torch.float16, torch.int64)
        for tensor in tensors.values()
    )
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    for fact in (
        name,
        "shift",
        str(manifest["recipe"]["steps"]),
        manifest["torch"],
        manifest["open_clip"],
        manifest["commit"][:7],
        f"{len(manifest['vocabulary'])} words and marks",
    ):
        assert fact in card, f"{fact!r} is missing in the card of {name}"


def test_the_weights_are_small_together():
    assert (
        sum(path.stat().st_size for path in WEIGHTS.glob("*.safetensors"))
        < 15_000_000
    )
    assert (
        1.3e6
        < sum(parameter.numel() for parameter in VisualTower().parameters())
        < 1.6e6
    )


def test_the_model_segments_rooms_it_never_saw(model):
    texts = model.text_embeddings(ROOMS_12.prompts("a {name}"))
    right = total = 0
    for seed in range(4):
        rendered = picture(seed, view=1)
        predicted = model.segment(rendered.frame.color, texts)
        known = rendered.labels >= 0
        right += int((predicted == rendered.labels)[known].sum())
        total += int(known.sum())
    # About 90 %; a shuffled vocabulary or a mirrored grid gives less than half.
    assert right / total > 0.75


def test_the_grid_lies_on_the_image(model):
    """The best alignment between the dense map and the true labels is no shift
    at all."""
    texts = model.text_embeddings(ROOMS_12.prompts("a {name}"))
    agreement = {}
    pictures = [picture(seed) for seed in range(3)]
    for shift in (-4, 0, 4):
        right = 0.0
        for rendered in pictures:
            predicted = model.segment(rendered.frame.color, texts).roll(
                shift, dims=1
            )[:, 8:-8]
            truth = rendered.labels[:, 8:-8]
            right += float((predicted == truth)[truth >= 0].float().mean())
        agreement[shift] = right
    assert agreement[0] == max(agreement.values())
