"""Dense CLIPs, on tiny open_clip models with random weights: read-outs by their
equations, sizes, windows, prompts."""

import json
import math
from copy import deepcopy
from inspect import unwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate, normalize

from vlg_lib.artifacts import StoreError
from vlg_lib.vision_language import VisionLanguageModel, create_model
from vlg_lib.vision_language.open_clip import (
    OpenClipModel,
    OpenClipOptions,
    blend_windows,
    check_weights,
)
from vlg_lib.vision_language.prompts import (
    NAME,
    class_embeddings,
    imagenet_templates,
)
from vlg_lib.vision_language.readouts import NEED_QUERIES, READOUTS
from vlg_lib.vision_language.towers import resize_positions

SIDE, PATCH, WIDTH, HEADS, DIM = 64, 16, 32, 2, 24
TEXT = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 16,
    "heads": 2,
    "layers": 1,
}
CLIP = {
    "embed_dim": DIM,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": SIDE,
        "patch_size": PATCH,
        "layers": 3,
        "width": WIDTH,
        "head_width": WIDTH // HEADS,
        "ls_init_value": 0.7,
    },
    "text_cfg": TEXT,
}
AVERAGE = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
CLIPA = CLIP | {"vision_cfg": CLIP["vision_cfg"] | AVERAGE}
SIGLIP = {
    "embed_dim": WIDTH,
    "custom_text": True,
    "vision_cfg": {
        "image_size": SIDE,
        "timm_model_name": "tiny_siglip",
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": TEXT,
}


def save_model(folder, settings, model_class):
    """A model of open_clip in the form of its own folders, every weight random:
    ones and zeros would hide mistakes."""
    model = model_class(
        **{
            key: value
            for key, value in settings.items()
            if key != "custom_text"
        }
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=generator), alpha=0.15
            )
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": settings})
    )
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"open_clip/local-dir:{folder}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three tiny models in folders, two tiny proxies, and images: open_clip and
    timm are slow to import, so once."""
    import open_clip
    import timm
    from timm.models import VisionTransformer, register_model

    @register_model
    def tiny_siglip(num_classes, global_pool, **_):
        sizes = {
            "img_size": SIDE,
            "patch_size": PATCH,
            "embed_dim": WIDTH,
            "depth": 2,
            "num_heads": HEADS,
        }
        return VisionTransformer(
            **sizes,
            class_token=False,
            num_classes=num_classes,
            global_pool=global_pool,
        )

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(1)
    sizes = {
        "img_size": 70,
        "patch_size": 14,
        "embed_dim": WIDTH,
        "depth": 2,
        "num_heads": HEADS,
        "num_classes": 0,
    }
    registers = VisionTransformer(
        **sizes,
        reg_tokens=4,
        no_embed_class=True,
        init_values=0.7,
        dynamic_img_size=True,
    )
    registers.pretrained_cfg = {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    return SimpleNamespace(
        clip=save_model(root / "clip", CLIP, open_clip.CLIP),
        clipa=save_model(root / "clipa", CLIPA, open_clip.CLIP),
        siglip=save_model(root / "siglip", SIGLIP, open_clip.CustomTextCLIP),
        proxy=timm.create_model(
            "test_vit", dynamic_img_size=True, num_classes=0
        ).eval(),
        registers=registers.eval(),
        loaded={},
        image=torch.randint(
            256, (SIDE, SIDE, 3), dtype=torch.uint8, generator=generator
        ),
        wide=torch.randint(
            256, (SIDE, 96, 3), dtype=torch.uint8, generator=generator
        ),
    )


def make(world, readout, family="clip", proxy=None, **options):
    """A model of the world with a read-out; its towers are loaded once, and
    copied where they are changed."""
    if family not in world.loaded:
        world.loaded[family] = create_model(
            f"{getattr(world, family)}/maskclip"
        )
    inner = world.loaded[family]
    towers = deepcopy(inner._model) if "dtype" in options else inner._model
    if readout == "proxyclip" and proxy is None:
        proxy = deepcopy(world.proxy) if "dtype" in options else world.proxy
    return OpenClipModel(
        towers,
        inner._tokenizer,
        "tiny",
        readout,
        proxy=proxy,
        options=OpenClipOptions(**options),
    )


def own_pixels(model, image):
    """What open_clip's own preprocessing makes of an image that has the right
    size."""
    return standardized(
        image, model._model.visual.image_mean, model._model.visual.image_std
    )


def standardized(image, mean, deviation):
    return (
        (image / 255 - torch.tensor(mean)) / torch.tensor(deviation)
    ).permute(2, 0, 1)[None]


def of_size(world, family, size):
    """open_clip's own image tower for images of one size, its position
    embeddings resized by open_clip."""
    import open_clip

    folder = getattr(world, family).removeprefix("open_clip/")
    return open_clip.create_model(folder, force_image_size=size).eval()


# --- the equations, in plain numpy


def arrays(module):
    return {
        name: value.detach().double().numpy()
        for name, value in module.state_dict().items()
    }


def layer_norm(x, weights, name, epsilon=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred
        / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def softmax(row):
    row = np.exp(row - row.max())
    return row / row.sum()


def proxy_weights(features):
    """ProxyCLIP's attention: row i, shares of the patches j."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = np.array([[a @ b for b in unit] for a in unit])
    rows = 3.0 * (cosines - 1.2 * cosines.mean())
    return np.array([softmax(np.where(row >= 0, row, -np.inf)) for row in rows])


def attention(readout, q, k, features, columns, prefix):
    """The weights (tokens, tokens) of one head; ``prefix`` tokens (the class
    token), then the patches row by row."""
    count, scale = len(k), math.sqrt(k.shape[1])
    if readout == "maskclip":
        return np.eye(count)
    if readout == "proxyclip":
        weights = np.zeros((count, count))
        weights[prefix:, prefix:] = proxy_weights(features)
        return weights
    rows = []
    for i in range(count):
        if readout == "tokens":
            rows.append(
                softmax(np.array([q[i] @ k[j] / scale for j in range(count)]))
            )
        if readout == "sclip":
            by_query = softmax(
                np.array([q[i] @ q[j] / scale for j in range(count)])
            )
            rows.append(
                by_query
                + softmax(np.array([k[i] @ k[j] / scale for j in range(count)]))
            )
        if readout == "clearclip":
            rows.append(
                softmax(np.array([q[i] @ q[j] / scale for j in range(count)]))
            )
        if readout == "naclip":
            row = np.array([k[i] @ k[j] / scale for j in range(count)])
            for j in range(prefix, count if i >= prefix else 0):
                (y, x), (v, u) = (
                    divmod(i - prefix, columns),
                    divmod(j - prefix, columns),
                )
                row[j] += math.exp(
                    -((y - v) ** 2 + (x - u) ** 2) / (2 * 5.0**2)
                )
            rows.append(softmax(row))
    return np.array(rows)


def mixed(readout, q, k, v, features, columns, prefix):
    """The values of all heads side by side, mixed head by head."""
    heads = [
        slice(start, start + WIDTH // HEADS)
        for start in range(0, WIDTH, WIDTH // HEADS)
    ]
    return np.concatenate(
        [
            attention(
                readout, q[:, head], k[:, head], features, columns, prefix
            )
            @ v[:, head]
            for head in heads
        ],
        1,
    )


def by_equation(readout, visual, pixels, features, columns):
    """Unit embeddings (patches, D) of one image of the tower's own size,
    through open_clip's own earlier blocks."""
    layers = len(visual.transformer.resblocks)
    settings = {
        "stop_early": True,
        "intermediates_only": True,
        "output_fmt": "NLC",
        "output_extra_tokens": True,
    }
    before = visual.forward_intermediates(
        pixels, indices=[layers - 2], **settings
    )
    x = torch.cat(
        [
            before["image_intermediates_prefix"][0],
            before["image_intermediates"][0],
        ],
        1,
    )[0]
    x = x.detach().double().numpy()
    block, outer = arrays(visual.transformer.resblocks[-1]), arrays(visual)
    projected = (
        layer_norm(x, block, "ln_1") @ block["attn.in_proj_weight"].T
        + block["attn.in_proj_bias"]
    )
    out = mixed(readout, *np.split(projected, 3, 1), features, columns, 1)
    out = out @ block["attn.out_proj.weight"].T + block["attn.out_proj.bias"]
    if readout in ("tokens", "maskclip", "sclip"):
        summed = x + block["ls_1.gamma"] * out
        hidden = (
            layer_norm(summed, block, "ln_2") @ block["mlp.c_fc.weight"].T
            + block["mlp.c_fc.bias"]
        )
        hidden = hidden / (1 + np.exp(-1.702 * hidden))  # The quick GELU.
        out = summed + block["ls_2.gamma"] * (
            hidden @ block["mlp.c_proj.weight"].T + block["mlp.c_proj.bias"]
        )
    out = (layer_norm(out, outer, "ln_post") @ outer["proj"])[1:]
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def by_pooling_equation(readout, visual, pixels, features, columns):
    """The same of a tower that pools: keys and values of the pooling head, then
    its MLP on every patch alone."""
    x = visual.trunk.forward_features(pixels)[0].detach().double().numpy()
    pool = arrays(visual.trunk.attn_pool)
    k, v = np.split(x @ pool["kv.weight"].T + pool["kv.bias"], 2, 1)
    out = (
        mixed(readout, k, k, v, features, columns, 0) @ pool["proj.weight"].T
        + pool["proj.bias"]
    )
    hidden = (
        layer_norm(out, pool, "norm", 1e-6) @ pool["mlp.fc1.weight"].T
        + pool["mlp.fc1.bias"]
    )
    # The exact GELU.
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    out = out + hidden @ pool["mlp.fc2.weight"].T + pool["mlp.fc2.bias"]
    return out / np.linalg.norm(out, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["image", "wide"])
@pytest.mark.parametrize(
    ("family", "readout"),
    [
        (family, readout)
        for family in ("clip", "clipa")
        for readout in sorted(READOUTS)
    ]
    + [
        ("siglip", readout)
        for readout in sorted(set(READOUTS) - set(NEED_QUERIES))
    ],
)
def test_every_read_out_is_its_equation(world, family, readout, kind):
    """On a square and on a wide grid: the second tells rows from columns."""
    model, image = make(world, readout, family), getattr(world, kind)
    picture = standardized(
        image,
        world.proxy.pretrained_cfg["mean"],
        world.proxy.pretrained_cfg["std"],
    )
    features = (
        world.proxy.get_intermediate_layers(picture, 1, norm=True)[0][0]
        .detach()
        .double()
        .numpy()
    )
    dense = model.dense_embeddings(image)
    rows, columns = (side // PATCH for side in image.shape[:2])
    assert dense.shape == (rows, columns, model.dim)
    visual = of_size(world, family, tuple(image.shape[:2])).visual
    equation = by_pooling_equation if family == "siglip" else by_equation
    expected = equation(
        readout, visual, own_pixels(model, image), features, columns
    )
    assert np.abs(dense.flatten(0, 1).numpy() - expected).max() < 2e-5


@pytest.mark.parametrize(("height", "width"), [(60, 90), (21, 40)])
def test_an_image_is_resized_as_open_clip_resizes_it(world, height, width):
    """Smaller and larger, black beside white: as Pillow does it, but for one of
    255 steps here and there. In floats, edges would be off by many."""
    generator = torch.Generator().manual_seed(0)
    image = 255 * torch.randint(
        2, (height, width, 3), dtype=torch.uint8, generator=generator
    )
    model, seen = make(world, "maskclip"), []

    def embed(pixels):
        seen.append(pixels)
        rows, columns = (side // PATCH for side in pixels.shape[2:])
        return torch.ones(1, rows, columns, DIM)

    model._embed = embed
    model.dense_embeddings(image)
    (pixels,) = seen
    # what open_clip's preprocessing calls, by way of torchvision
    expected = Image.fromarray(image.numpy()).resize(
        (pixels.shape[3], pixels.shape[2]), Image.Resampling.BICUBIC
    )
    expected = torch.from_numpy(np.array(expected)).permute(2, 0, 1)[None]
    assert (255 * pixels - expected).abs().max() <= 1.01


def test_a_proxy_with_registers_and_smaller_patches(world):
    """As DINOv2's: the image is resized to its patches of 14 pixels, and its
    class token and four registers go."""
    model = make(world, "proxyclip", proxy=world.registers)
    # No black and no white, so the resized image overshoots neither.
    image = world.wide // 2 + 64
    resized = interpolate(
        image.permute(2, 0, 1)[None].float(),
        size=(56, 84),
        mode="bicubic",
        antialias=True,
    )
    picture = standardized(
        resized[0].permute(1, 2, 0), *world.registers.pretrained_cfg.values()
    )
    tokens = (
        world.registers.forward_features(picture)[0].detach().double().numpy()
    )
    assert len(tokens) == 1 + 4 + 24
    visual, dense = (
        of_size(world, "clip", (SIDE, 96)).visual,
        model.dense_embeddings(image),
    )
    assert torch.allclose(dense.norm(dim=-1), torch.ones(4, 6), atol=1e-5)
    # Dropping fewer tokens than the five of the prefix would be seen.
    for first in range(6):
        expected = by_equation(
            "proxyclip",
            visual,
            own_pixels(model, image),
            tokens[first : first + 24],
            6,
        )
        apart = np.abs(dense.flatten(0, 1).numpy() - expected).max()
        assert apart < 2e-5 if first == 5 else apart > 0.01


def test_read_outs_differ(world):
    maps = [
        make(world, readout).dense_embeddings(world.image)
        for readout in READOUTS
    ]
    for i, first in enumerate(maps):
        for second in maps[:i]:
            assert float((first - second).abs().max()) > 0.01


def test_values_of_the_pooling_head_by_hand(world):
    """SigLIP, maskclip: what the head would say if an image were one patch
    alone."""
    model = make(world, "maskclip", "siglip")
    trunk = model._model.visual.trunk
    patches = trunk.forward_features(own_pixels(model, world.image))[0]
    alone = torch.stack(
        [trunk.attn_pool(patch[None, None])[0] for patch in patches]
    )
    assert torch.allclose(
        model.dense_embeddings(world.image).flatten(0, 1),
        normalize(alone, dim=1),
        atol=1e-5,
    )


# --- the towers are open_clip's own


@pytest.mark.parametrize("size", [(SIDE, SIDE), (48, 96), (80, 32)])
def test_standard_attention_reproduces_encode_image(world, size):
    """At the native size and, with positions resized, at others: against
    open_clip's own models of that size."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(2, 3, *size, generator=generator)
    for family in ("clip", "clipa", "siglip"):
        own, theirs = (
            make(world, "maskclip", family),
            of_size(world, family, size),
        )
        with torch.no_grad():
            layer = own._tower.last_layer(own._model.visual, pixels)
            if family == "clip":
                found = layer.head(READOUTS["tokens"](layer))[:, 0]
            # Its head, layer norm first, acts on the mean of the patches.
            elif family == "clipa":
                found = layer.head(
                    READOUTS["tokens"](layer)[:, 1:].mean(1, keepdim=True)
                )[:, 0]
            else:
                pool = own._model.visual.trunk.attn_pool
                query = pool.q_norm(
                    pool.q(pool.latent)
                    .unflatten(-1, (HEADS, -1))
                    .transpose(1, 2)
                )
                weights = (
                    query @ layer.key.mT / math.sqrt(WIDTH // HEADS)
                ).softmax(-1)
                found = layer.head(layer.mix(weights))[:, 0]
            assert torch.allclose(found, theirs.encode_image(pixels), atol=1e-5)


def test_positions_of_the_native_grid_are_untouched():
    positions = torch.randn(
        1 + 6, 3, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(resize_positions(positions, (2, 3), (2, 3)), positions)


def test_resized_positions_keep_their_axes():
    """A field that grows from column to column only: more columns, the same
    order, no difference between rows."""
    field = torch.arange(4.0).repeat(4)[:, None]
    resized = resize_positions(
        torch.cat([torch.tensor([[9.0]]), field]), (4, 4), (3, 8)
    )
    assert resized[0] == 9
    rows = resized[1:, 0].view(3, 8)
    assert torch.allclose(rows, rows[:1].expand(3, 8), atol=1e-5)
    assert bool((rows[0].diff() > 0).all())
    assert float(rows.mean()) == pytest.approx(1.5, abs=1e-4)


# --- whole frames and windows


@pytest.mark.parametrize("length", [1, 4, 5, 8, 9, 23])
@pytest.mark.parametrize("window", [1, 2, 5, 8])
def test_windows_cover_a_side_and_their_weights_sum_to_one(length, window):
    places, weights = blend_windows(length, window)
    assert weights.shape == (len(places), length)
    assert torch.allclose(weights.sum(0), torch.ones(length))
    for place, row in zip(places, weights, strict=True):
        assert place.stop - place.start == min(length, window)
        inside = torch.zeros(length, dtype=torch.bool)
        inside[place] = True
        assert torch.equal(row > 0, inside)
    starts = [place.start for place in places]
    assert max(np.diff(starts), default=0) <= max(window // 2, 1)


def test_frames_keep_their_aspect_ratio(world):
    dense = make(world, "naclip").dense_embeddings(world.wide)
    assert dense.shape == (4, 6, DIM)
    assert dense.dtype == torch.float32
    assert torch.allclose(dense.norm(dim=-1), torch.ones(4, 6), atol=1e-5)
    tall = world.wide.transpose(0, 1).contiguous()
    assert make(world, "naclip", short_side=32).dense_embeddings(
        tall
    ).shape == (3, 2, DIM)


def test_one_window_over_the_whole_image_changes_nothing(world):
    whole = make(world, "sclip").dense_embeddings(world.wide)
    assert torch.allclose(
        make(world, "sclip", window=96).dense_embeddings(world.wide),
        whole,
        atol=1e-6,
    )


@pytest.mark.parametrize("batch", [1, 4])
def test_two_windows_are_blended_by_hand(world, batch):
    whole = make(world, "clearclip")
    left, right = (
        whole.dense_embeddings(world.wide[:, x : x + SIDE]) for x in (0, 32)
    )
    expected = torch.zeros(4, 6, DIM)
    expected[:, :2], expected[:, 4:] = left[:, :2], right[:, 2:]
    # Tents of 1, 2, 2, 1: column 2 has 2 of the left window and 1 of the right
    # one, column 3 the reverse.
    expected[:, 2] = (2 * left[:, 2] + right[:, 0]) / 3
    expected[:, 3] = (left[:, 3] + 2 * right[:, 1]) / 3
    dense = make(world, "clearclip", window=SIDE, batch=batch).dense_embeddings(
        world.wide
    )
    assert torch.allclose(dense, normalize(expected, dim=-1), atol=1e-5)


def test_an_image_of_one_colour_has_embeddings(world):
    """All of the proxy's scores may be negative there, and a softmax over
    nothing is NaN."""
    model = make(world, "proxyclip")
    assert bool(
        model.dense_embeddings(
            torch.full((SIDE, SIDE, 3), 90, dtype=torch.uint8)
        )
        .isfinite()
        .all()
    )


@pytest.mark.parametrize("readout", sorted(READOUTS))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inside_float32_outside(world, dtype, readout):
    exact = make(world, readout)
    half = make(world, readout, dtype=dtype)
    for full, rounded in (
        (exact.dense_embeddings(world.wide), half.dense_embeddings(world.wide)),
        (exact.text_embeddings(["a chair"]), half.text_embeddings(["a chair"])),
    ):
        assert rounded.dtype == torch.float32
        assert torch.allclose(
            rounded.norm(dim=-1), torch.ones(rounded.shape[:-1]), atol=1e-5
        )
        assert float((full * rounded).sum(-1).min()) > 0.995
        assert not torch.equal(full, rounded)


def test_the_model_is_frozen_and_has_its_name(world):
    model = create_model(f"{world.clip}/naclip")
    assert isinstance(model, VisionLanguageModel)
    assert not isinstance(model, nn.Module)
    assert (model.name, model.dim, model.stride) == (
        f"{world.clip}/naclip",
        DIM,
        PATCH,
    )
    assert not model._model.training
    assert not any(
        parameter.requires_grad for parameter in model._model.parameters()
    )
    labels = model.segment(
        world.wide, model.text_embeddings(["a chair", "a floor"])
    )
    assert labels.shape == world.wide.shape[:2]


# --- texts


def test_texts_pass_the_tower_once(world):
    import open_clip

    model = make(world, "maskclip")
    asked = []
    inner = model._tokens
    model._tokens = lambda texts: (asked.extend(texts), inner(texts))[1]
    texts = ["a chair", "a table"]
    rows = model.text_embeddings(texts)
    with torch.no_grad():
        expected = model._model.encode_text(
            open_clip.get_tokenizer("ViT-B-16")(texts), normalize=True
        )
    assert torch.allclose(rows, expected, atol=1e-5)
    again = model.text_embeddings(["a lamp", "a table"])
    assert asked == ["a chair", "a table", "a lamp"]
    assert torch.equal(again[1], rows[1])


def test_a_text_that_the_context_would_cut_is_refused(world):
    """Two classes at the end of one long template got one embedding."""
    model = make(world, "maskclip")
    whole = "a thing seen by a camera " * 10
    rows = model.text_embeddings([f"{whole} chair", f"{whole} table"])
    assert not torch.equal(rows[0], rows[1])
    long = "a thing seen by a camera " * 16
    with pytest.raises(ValueError, match="camera chair' has more than the 77"):
        model.text_embeddings([f"{long}chair", f"{long}table"])


def test_a_text_that_just_fits_is_read(world):
    """75 words, and what stands before and after them: the 77 tokens. One more
    is one too many, also where the tokenizer chooses at random what to keep."""
    from open_clip.tokenizer import SimpleTokenizer

    model = make(world, "maskclip")
    words = ["chair"] * 74
    rows = model.text_embeddings(
        [" ".join([*words, last]) for last in ("chair", "table")]
    )
    assert not torch.equal(rows[0], rows[1])
    for kept in ("", "random", "simple"):
        model._tokenizer = SimpleTokenizer(reduction_mask=kept)
        with pytest.raises(ValueError, match=r"more than the 77 tokens"):
            model.text_embeddings([" ".join([*words, "chair", "lamp"])])


@pytest.mark.parametrize("after", [[], [1]])
def test_sentence_pieces_are_counted_as_those_of_siglip(world, after):
    """Their padding may be the mark of the end, and there may be none."""
    model = make(world, "maskclip")

    def tokens(texts, context_length=None):
        places = context_length or 8
        rows = []
        for text in texts:
            row = [2 + len(word) for word in text.split()]
            row = row[: places - len(after)] + after
            rows.append(row + [1] * (places - len(row)))
        return torch.tensor(rows)

    model._tokenizer = tokens
    fitting = ["word"] * (8 - len(after))
    assert model._tokens([" ".join(fitting), "a"]).shape == (2, 8)
    with pytest.raises(
        ValueError, match=r"the text 'word .* than the 8 tokens"
    ):
        model._tokens(["a", " ".join([*fitting, "more"])])


class Alphabet(VisionLanguageModel):
    """Texts become counts of their letters: averages can be worked out by
    hand."""

    name, dim, stride = "alphabet", 26, 1

    def dense_embeddings(self, image):
        raise NotImplementedError

    def text_embeddings(self, texts):
        counts = torch.tensor(
            [
                [float(text.count(chr(97 + letter))) for letter in range(26)]
                for text in texts
            ]
        )
        return normalize(counts, dim=1)


def test_class_embeddings_are_means_over_templates_and_synonyms():
    rows = class_embeddings(
        Alphabet(), ["ab", "c"], ["{name}", "{name}c"], {"ab": ["b"]}
    )
    a, b, c = torch.eye(26)[:3]
    one, two, three = 1.0, 2**-0.5, 3**-0.5
    first = (two * (a + b) + three * (a + b + c) + one * b + two * (b + c)) / 4
    assert torch.allclose(
        rows, torch.stack([first / first.norm(), c]), atol=1e-6
    )
    assert torch.allclose(
        class_embeddings(Alphabet(), ["ab"], NAME),
        (two * (a + b))[None],
        atol=1e-6,
    )


def test_the_eighty_templates(world):
    templates = imagenet_templates()
    assert len(set(templates)) == 80
    assert all(template.count("{name}") == 1 for template in templates)
    assert class_embeddings(
        make(world, "maskclip"), ["chair", "bed"], templates
    ).shape == (2, DIM)


@pytest.mark.parametrize(
    ("names", "templates", "synonyms", "message"),
    [
        ([], NAME, None, "at least one text"),
        (["bed", "bed"], NAME, None, r"every text once.*'bed'"),
        (
            ["bed", "sofa"],
            NAME,
            {"sofa": ["couch", "bed"]},
            r"every text once.*'bed'",
        ),
        (
            ["bed"],
            NAME,
            {"chair": ["seat"]},
            r"synonyms of bed; found \['chair'\]",
        ),
        (["bed"], ["a bed"], None, r"\{name\}.*found \['a bed'\]"),
        (["bed"], [], None, "at least one text"),
    ],
)
def test_prompts_that_cannot_be(names, templates, synonyms, message):
    with pytest.raises(ValueError, match=message):
        class_embeddings(Alphabet(), names, templates, synonyms)


@pytest.mark.parametrize("texts", [[], [""], ["a chair", "a chair"]])
def test_texts_that_cannot_be(world, texts):
    with pytest.raises(ValueError, match=r"at least one text|every text once"):
        make(world, "maskclip").text_embeddings(texts)


# --- wrong names, weights and sizes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "open_clip/ViT-B-16-quickgelu/openai",
            r"read-out.*'openai'.*maskclip",
        ),
        (
            "open_clip/ViT-B-16-quickgelu/openai/denseclip",
            r"read-out.*'denseclip'.*clearclip",
        ),
        (
            "open_clip/ViT-B16/openai/maskclip",
            r"open_clip model 'ViT-B16'.*ViT-B-16",
        ),
        (
            "open_clip/ViT-B-16-quickgelu/openia/maskclip",
            r"weights of ViT-B-16-quickgelu 'openia'.*openai",
        ),
        (
            "open_clip/ViT-B-16/openai/maskclip",
            r"another GELU.*use 'ViT-B-16-quickgelu'",
        ),
        (
            "open_clip",
            r"unknown.*small-attributes.*open_clip/MODEL/TAG/READOUT",
        ),
    ],
)
def test_names_that_are_not_known(name, message):
    with pytest.raises(ValueError, match=message):
        create_model(name)


def test_the_guard_of_the_activation_goes_both_ways(monkeypatch):
    import open_clip

    fixed = 0
    for model, tag in open_clip.list_pretrained():
        try:
            check_weights(model, tag)
        except ValueError as error:
            # The name that the message gives is right.
            check_weights(str(error).split("'")[-2], tag)
            fixed += 1
    assert 10 < fixed < 50
    monkeypatch.setattr(
        open_clip,
        "get_pretrained_cfg",
        lambda model, tag: {"quick_gelu": False},
    )
    with pytest.raises(ValueError, match="use 'ViT-B-16'"):
        check_weights("ViT-B-16-quickgelu", "openai")


def test_without_a_network_the_message_says_what_to_do(monkeypatch):
    import open_clip

    def refuse(*args, **options):
        raise FileNotFoundError("Failed to download file")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", refuse)
    with pytest.raises(
        StoreError,
        match=(
            r"openai/naclip: could not be loaded \(Failed to"
            r" download.*network.*HF_HOME"
        ),
    ):
        create_model("open_clip/ViT-B-16-quickgelu/openai/naclip")
    with pytest.raises(StoreError, match=r"could not be loaded.*not found"):
        create_model("open_clip/local-dir:nowhere/naclip")


def test_a_tokenizer_that_needs_another_package_is_asked_for_first(monkeypatch):
    import open_clip

    def refuse(*args, **options):
        raise ModuleNotFoundError("No module named 'transformers'")

    monkeypatch.setattr(open_clip, "get_tokenizer", refuse)
    monkeypatch.setattr(
        open_clip,
        "create_model",
        lambda *args, **options: pytest.fail("downloaded in vain"),
    )
    with pytest.raises(
        ValueError,
        match=(
            r"SigLIP/webli/maskclip: .*No module named 'transformers'\): pip"
            r" install"
        ),
    ):
        create_model("open_clip/ViT-B-16-SigLIP/webli/maskclip")


@pytest.mark.parametrize("readout", ["tokens", "sclip", "clearclip"])
def test_read_outs_unfit_for_a_pooling_tower(world, readout):
    with pytest.raises(
        ValueError, match=rf"{readout}.*needs queries of patches"
    ):
        make(world, readout, "siglip")


def test_towers_without_patch_tokens_are_refused(world):
    import open_clip

    settings = CLIP | {
        "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 8}
    }
    with pytest.raises(
        ValueError, match=r"a resnet: no dense read-out.*ModifiedResNet"
    ):
        OpenClipModel(open_clip.CLIP(**settings), list, "a resnet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 50}, "whole patches of 16"),
        ({"window": 40}, "whole patches of 16"),
        ({"window": -16}, "whole patches of 16"),
        ({"batch": 0}, "batch of 1 or more"),
    ],
)
def test_options_that_cannot_be(world, options, message):
    model = make(world, "maskclip")
    made = OpenClipOptions(**options)
    with pytest.raises(ValueError, match=message):
        OpenClipModel(model._model, model._tokenizer, "tiny", options=made)


def test_proxyclip_without_a_proxy_is_refused(world):
    model = make(world, "maskclip")
    with pytest.raises(ValueError, match="needs a proxy model"):
        OpenClipModel(model._model, model._tokenizer, "tiny", "proxyclip")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(60, 80, 3), r"uint8.*found torch\.float32"),
        (torch.full((60, 80, 3), torch.nan), r"uint8.*found torch\.float32"),
        (
            torch.zeros(60, 80, 4, dtype=torch.uint8),
            r"\(height, width, 3\), found \(60, 80, 4\)",
        ),
        (
            torch.zeros(60, 80, dtype=torch.uint8),
            r"\(height, width, 3\), found \(60, 80\)",
        ),
        (
            torch.zeros(3, 60, 80, dtype=torch.uint8),
            r"\(height, width, 3\), found \(3, 60, 80\)",
        ),
        (
            torch.zeros(8, 40, 3, dtype=torch.uint8),
            r"at least 16 x 16 pixels, found \(8, 40\)",
        ),
        (
            torch.zeros(40, 15, 3, dtype=torch.uint8),
            r"at least 16 x 16 pixels, found \(40, 15\)",
        ),
    ],
)
def test_wrong_images_are_refused(world, image, message):
    # Past the run-time type checks, which readers do not have.
    embed = unwrap(OpenClipModel.dense_embeddings)
    with pytest.raises(ValueError, match=message):
        embed(make(world, "maskclip"), image)


def test_nan_is_an_error(world):
    model = make(world, "maskclip", dtype=torch.float32)
    with torch.no_grad():
        model._model.visual.proj[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"NaN or infinite.*bfloat16"):
        model.dense_embeddings(world.image)
