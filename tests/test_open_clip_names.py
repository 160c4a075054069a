"""Names with options, and what cannot be loaded: each a message that names the
cause and the fix."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from timm.models import ResNet, VisionTransformer
from timm.models.resnet import BasicBlock

from vlg_lib.artifacts import StoreError
from vlg_lib.vision_language import create_model, weights_key
from vlg_lib.vision_language.open_clip import (
    OpenClipModel,
    OpenClipOptions,
    parse_options,
)
from vlg_lib.vision_language.openseg import OpenSegModel
from vlg_lib.vision_language.prompts import split_synonyms, split_templates

SETTINGS = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "layers": 2,
        "width": 32,
        "head_width": 16,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}
PICTURE = torch.randint(
    256,
    (40, 60, 3),
    dtype=torch.uint8,
    generator=torch.Generator().manual_seed(0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": SETTINGS})
    )
    save_file(
        open_clip.CLIP(**SETTINGS).state_dict(),
        folder / "open_clip_model.safetensors",
    )
    return folder


def make(readout="maskclip", quick_gelu=False, proxy=None, **options):
    torch.manual_seed(0)
    model = open_clip.CLIP(**SETTINGS, quick_gelu=quick_gelu)
    model.visual.image_mean = model.visual.image_std = (0.5, 0.5, 0.5)
    return OpenClipModel(
        model,
        list,
        "tiny",
        readout,
        proxy=proxy,
        options=OpenClipOptions(**options),
    )


def proxy(dynamic_img_size=True):
    torch.manual_seed(0)
    sizes = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
    }
    model = VisionTransformer(**sizes, dynamic_img_size=dynamic_img_size)
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return model


def test_options_in_a_name_are_those_of_the_call(folder):
    name = f"open_clip/local-dir:{folder}/naclip"
    by_name = create_model(
        f"{name}?short_side=48&window=32&dtype=bfloat16&batch=2"
    )
    options = OpenClipOptions(
        short_side=48, window=32, dtype=torch.bfloat16, batch=2
    )
    by_call = create_model(name, options=options)
    found = by_name.dense_embeddings(PICTURE)
    assert found.shape == (6, 9, 24)
    assert torch.equal(found, by_call.dense_embeddings(PICTURE))
    assert by_name.name.endswith(
        "naclip?short_side=48&window=32&dtype=bfloat16&batch=2"
    )
    proxy = "vit_base_patch14_dinov2.lvd142m"
    assert parse_options(f"proxy={proxy}") == OpenClipOptions(proxy=proxy)
    assert parse_options("") == OpenClipOptions()


def test_options_are_told_once_and_to_a_model_that_has_some(folder):
    options = OpenClipOptions(window=32)
    name = f"open_clip/local-dir:{folder}/naclip?window=32"
    with pytest.raises(ValueError, match="in the name and as an argument"):
        create_model(name, options=options)
    with pytest.raises(ValueError, match=r"'small-clip' takes no options"):
        create_model("small-clip", options=options)


def test_fingerprints_differ_where_embeddings_may():
    """Another read-out, size, window, precision or proxy, and other weights;
    equal models have equal ones."""
    other = make()
    with torch.no_grad():
        other._model.visual.conv1.weight[0, 0, 0, 0] += 1
    lent, another = proxy(), proxy()
    with torch.no_grad():
        another.pos_embed.add_(1)
    models = [
        make(),
        make("sclip"),
        make(short_side=48),
        make(window=16),
        make(dtype=torch.bfloat16),
        other,
        make("proxyclip", proxy=lent),
        make("proxyclip", proxy=another),
        make(quick_gelu=True),
    ]
    assert len({model.fingerprint for model in models}) == len(models)
    assert make(batch=1).fingerprint == make().fingerprint
    small = [
        create_model(name).fingerprint
        for name in ("small-attributes", "small-grounded")
    ]
    assert small[0] != small[1]


def test_the_fingerprint_of_openseg_is_that_of_its_files(tmp_path, monkeypatch):
    monkeypatch.delenv("VLG_OPENSEG", raising=False)
    nothing = create_model("openseg").fingerprint
    (tmp_path / "saved_model.pb").write_bytes(b"one")
    one = OpenSegModel(tmp_path).fingerprint
    (tmp_path / "saved_model.pb").write_bytes(b"another")
    another = OpenSegModel(tmp_path).fingerprint
    assert len({nothing, one, another}) == 3


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "windows=224",
            "unknown option of an open_clip model 'windows'.*window",
        ),
        (
            "window=big",
            "expected a whole number for the option 'window'.*'big'",
        ),
        (
            "window=-14",
            "expected a whole number for the option 'window'.*'-14'",
        ),
        ("dtype=half", "unknown dtype 'half'.*float16"),
        ("window", "bad query field: 'window'"),
    ],
)
def test_options_that_are_none(query, message):
    with pytest.raises(ValueError, match=message):
        create_model(f"open_clip/ViT-B-16-quickgelu/openai/naclip?{query}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, r"a batch of 1 or more, found \(32, 8\) and 0"),
        ({"window": 12}, "whole patches of 8 pixels"),
        (
            {"readout": "proxyclip", "proxy": ResNet(BasicBlock, (1, 1, 1, 1))},
            "as proxy, found ResNet",
        ),
        (
            {"readout": "proxyclip", "proxy": proxy(dynamic_img_size=False)},
            "with dynamic_img_size as proxy",
        ),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("name", ["vit_nonsense", "resnet18"])
def test_proxies_that_are_no_vit_of_timm(folder, name):
    with pytest.raises(ValueError, match=rf"unknown timm model '{name}'.*vit_"):
        create_model(f"open_clip/local-dir:{folder}/proxyclip?proxy={name}")


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_weights_that_are_damaged(folder, tmp_path, damage):
    (tmp_path / "open_clip_config.json").write_text(
        (folder / "open_clip_config.json").read_text()
    )
    whole = (folder / "open_clip_model.safetensors").read_bytes()
    broken = {
        "cut": whole[: len(whole) // 2],
        "foreign": b"\x89PNG" * 50,
        "empty": b"",
    }[damage]
    (tmp_path / "open_clip_model.safetensors").write_bytes(broken)
    with pytest.raises(
        StoreError,
        match=r"maskclip: could not be loaded.*fetch a damaged file again",
    ):
        create_model(f"open_clip/local-dir:{tmp_path}/maskclip")


def test_a_hub_that_cannot_be_reached_is_named_as_the_cause(monkeypatch):
    """Its repository says which tokenizer it needs, so an absent tokenizer
    package is not blamed."""

    def unreachable(*_, **__):
        raise FileNotFoundError(
            "Failed to download file (open_clip_config.json)"
        )

    monkeypatch.setattr(
        open_clip.factory, "download_pretrained_from_hf", unreachable
    )
    with pytest.raises(
        StoreError, match=r"could not be loaded \(.*HF_HUB_OFFLINE"
    ):
        create_model("open_clip/hf-hub:laion/CLIP-ViT-B-32/maskclip")


def test_texts_that_name_templates_and_synonyms():
    assert split_templates("a {name}") == ("a {name}",)
    assert len(split_templates("imagenet")) == 80
    assert split_synonyms("") == {}
    assert split_synonyms("sofa=couch;") == {"sofa": ("couch",)}


def test_other_weights_of_one_name_are_told_without_loading_them(
    tmp_path, monkeypatch
):
    named = f"open_clip/local-dir:{tmp_path}/naclip?window=16"
    monkeypatch.setenv("VLG_OPENSEG", str(tmp_path))
    before = [weights_key(name) for name in (named, "openseg")]
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"other weights")
    after = [weights_key(name) for name in (named, "openseg")]
    assert before[0] == before[1] != after[0] == after[1]
    assert weights_key("small-clip") != weights_key("small-attributes") != ""
    # its tag says which
    assert weights_key("open_clip/ViT-B-16-quickgelu/openai/naclip") == ""
