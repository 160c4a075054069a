"""open_clip's ViTs as dense vision-language models: read-outs of chapter 02,
whole frames, sliding windows.

Those with a class token or an average (of OpenAI, LAION, MetaCLIP, DFN, CLIPA)
and those that pool by attention (SigLIP, SigLIP 2). Their names are
``open_clip/MODEL/TAG/READOUT``, as
``open_clip/ViT-B-16-quickgelu/openai/naclip``: architecture and weights as
open_clip calls them, then one of
:data:`~vlg_lib.vision_language.readouts.READOUTS`. MODEL may also be
``hf-hub:ORGANISATION/REPOSITORY`` or ``local-dir:FOLDER``, which carry their
weights and have no TAG. Sizes and precision are :class:`OpenClipOptions`; where
a person types a name they may follow it:
``...naclip?short_side=336&window=224&dtype=float16``
(:func:`parse_options`).
"""

import difflib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import product
from pickle import UnpicklingError
from typing import Any
from urllib.parse import parse_qsl

import torch
from jaxtyping import Float, Real, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from vlg_lib.artifacts import StoreError, key_of
from vlg_lib.vision_language.base import (
    VisionLanguageModel,
    check_image,
    check_texts,
    hash_weights,
)
from vlg_lib.vision_language.readouts import NEED_QUERIES, READOUTS
from vlg_lib.vision_language.towers import (
    ClipTower,
    make_tower,
    pool_layer,
)

PROXY = "vit_base_patch16_224.dino"
"""The timm model that lends its attention unless told otherwise: DINO."""

_READOUT = "read-out (a name is open_clip/MODEL/TAG/READOUT)"

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class OpenClipOptions:
    """At which sizes and in which precision a model of open_clip looks at an
    image.
    """

    short_side: int | None = None
    """Pixels to which the shorter side of an image is resized, whole patches;
    None: what the model was trained on. The longer side follows the image's own
    aspect ratio."""
    window: int | None = None
    """Pixels of square windows, whole patches, that slide over the resized
    image by half their size; None: one pass over all of it."""
    batch: int = 4
    """How many windows pass the tower at a time; at least 1."""
    dtype: torch.dtype = torch.float32
    """What is computed in: torch.float16 or bfloat16 for half precision.
    Embeddings come out as float32 all the same."""
    proxy: str = PROXY
    """The timm ViT that lends its attention to the read-out ``proxyclip``; the
    others take no notice."""


def parse_options(query: str) -> OpenClipOptions:
    """The options that follow a model's name, as a person types them;
    ValueError for one that there is not, or that is not a number.

    >>> parse_options("window=224&dtype=bfloat16").window
    224
    >>> parse_options("") == OpenClipOptions()
    True
    """
    known = [option.name for option in fields(OpenClipOptions)]
    options: dict[str, Any] = {}
    typed = parse_qsl(query, strict_parsing=True) if query else []
    for option, value in typed:
        _check_known("option of an open_clip model", option, known)
        if option == "dtype":
            _check_known("dtype", value, _DTYPES)
            options[option] = _DTYPES[value]
        elif option == "proxy":
            options[option] = value
        elif value.isdecimal():
            options[option] = int(value)
        else:
            raise ValueError(
                f"expected a whole number for the option {option!r} of an"
                f" open_clip model, found {value!r}"
            )
    return OpenClipOptions(**options)


def blend_windows(
    length: int, window: int
) -> tuple[list[slice], Float[Tensor, "windows length"]]:
    """Half overlapping windows along one side of a grid, and the blending
    weight of each at every cell.

    Windows span ``window`` cells, or all ``length`` where there are fewer.
    Weights fall off linearly from a window's middle, are zero outside it, and
    sum to one at every cell (so do the products of those of two sides).

    >>> blend_windows(6, 4)[0]
    [slice(0, 4, None), slice(2, 6, None)]
    """
    span = min(window, length)
    steps = math.ceil((length - span) / max(span // 2, 1))
    starts = [
        round(i * (length - span) / max(steps, 1)) for i in range(steps + 1)
    ]
    rise = torch.arange(1.0, span + 1)
    weights = torch.zeros(len(starts), length)
    for row, start in zip(weights, starts, strict=True):
        row[start : start + span] = torch.minimum(rise, rise.flip(0))
    slices = [slice(start, start + span) for start in starts]
    return slices, weights / weights.sum(0)


class OpenClipModel(VisionLanguageModel):
    """An open_clip model with one read-out, frozen. Make it with
    ``create_model("open_clip/...")``.

    ``model``, ``tokenizer``: as open_clip makes them. ``name``: what
    ``create_model`` takes. ``readout``: one of READOUTS. ``proxy``: a timm ViT
    made with ``dynamic_img_size=True``, for the read-out ``proxyclip`` and no
    other. The modules are taken over: moved, converted and frozen where they
    are. ValueError for a tower that has no such read-out, for another proxy,
    and for sizes that are no whole patches.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[..., Tensor],
        name: str,
        readout: str = "maskclip",
        *,
        options: OpenClipOptions | None = None,
        proxy: nn.Module | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        options = OpenClipOptions() if options is None else options
        self._tower = make_tower(model.visual, name)
        _check_readout(name, readout, self._tower)
        _check_proxy(name, readout, proxy)
        _check_sizes(name, options, self._tower)
        self.name = name
        self.readout = readout
        self.dim = self._tower.dim
        self.stride = self._tower.patch
        self._short = (options.short_side or self._tower.side) // self.stride
        self._window = options.window and options.window // self.stride
        self._batch = options.batch
        self._dtype = options.dtype
        self._device = torch.device(device)
        self._model: Any = self._freeze(model)
        self._proxy: Any = proxy and self._freeze(proxy)
        self._tokenizer = tokenizer
        self._texts: dict[str, Tensor] = {}

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # weights are hashed where somebody asks
        """Of weights, architecture, read-out and sizes."""
        visual, proxy = self._model.visual, self._proxy
        sizes = [
            self.readout,
            self._short,
            self._window,
            str(self._dtype),
            visual.image_mean,
            visual.image_std,
        ]
        built = [
            repr(visual),
            repr(proxy),
            getattr(proxy, "pretrained_cfg", None),
        ]
        return key_of(
            sizes=sizes, built=built, weights=hash_weights(visual, proxy)
        )

    def _freeze(self, model: nn.Module) -> nn.Module:
        return model.to(self._device, self._dtype).eval().requires_grad_(False)

    @torch.no_grad()
    def dense_embeddings(
        self, image: UInt8[Tensor, "H W 3"]
    ) -> Float[Tensor, "h w D"]:
        """Unit embeddings (h, w, D), float32: a cell for each resized patch.

        Where windows overlap, the blended mean of theirs, scaled to unit
        length. ValueError where they are not finite.
        """
        check_image(image, self.stride)
        height, width = (
            max(1, round(self._short * side / min(image.shape[:2])))
            for side in image.shape[:2]
        )
        # bytes, and on the CPU, as the images that the towers learned from were
        # resized: in floats, pixels at edges would overshoot
        pixels = _resize(
            image.cpu().permute(2, 0, 1)[None], (height, width), self.stride
        )
        pixels = pixels.to(self._device).float() / 255
        sides = [
            blend_windows(length, self._window or length)
            for length in (height, width)
        ]
        places = list(product(*(slices for slices, _ in sides)))
        shares = [
            torch.outer(y, x)[..., None].to(self._device)
            for y, x in product(*(weights for _, weights in sides))
        ]
        p = self.stride
        crops = torch.cat(
            [
                pixels[:, :, y.start * p : y.stop * p, x.start * p : x.stop * p]
                for y, x in places
            ]
        )
        dense = torch.zeros(height, width, self.dim, device=self._device)
        embedded = (
            rows
            for part in crops.split(self._batch)
            for rows in self._embed(part)
        )
        for place, share, rows in zip(places, shares, embedded, strict=True):
            dense[place] += share[place] * rows
        if not bool(dense.isfinite().all()):
            raise ValueError(
                f"{self.name}: NaN or infinite embeddings; what overflows"
                " float16 may fit bfloat16"
            )
        return normalize(dense, dim=-1)

    def _embed(
        self, pixels: Float[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "B h w D"]:
        """Unit embeddings of the patches of windows with values in 0-1."""
        visual, proxy = self._model.visual, self._proxy
        normal = _standardize(pixels, visual.image_mean, visual.image_std)
        layer = self._tower.last_layer(visual, normal.to(self._dtype))
        if proxy is not None:
            same_grid = _resize(
                pixels, layer.grid, proxy.patch_embed.patch_size[0]
            )
            same_grid = _standardize(
                same_grid,
                proxy.pretrained_cfg["mean"],
                proxy.pretrained_cfg["std"],
            )
            features = proxy.forward_features(same_grid.to(self._dtype))[
                :, proxy.num_prefix_tokens :
            ]
            layer = replace(layer, proxy=features)
        patches = layer.head(READOUTS[self.readout](layer)[:, layer.prefix :])
        return normalize(patches.float(), dim=-1).unflatten(1, layer.grid)

    @torch.no_grad()
    def text_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "K D"]:
        """Unit embeddings (K, D), float32, one row a text; each text passes the
        tower once in the model's life.

        ValueError for an empty list, an empty text, a text that stands there
        twice, and one of more tokens than the tower reads.
        """
        check_texts(texts)
        new = [text for text in texts if text not in self._texts]
        if new:
            parts = self._tokens(new).to(self._device).split(64)
            rows = torch.cat(
                [self._model.encode_text(part) for part in parts]
            ).float()
            self._texts.update(zip(new, normalize(rows, dim=-1), strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def _tokens(self, texts: list[str]) -> Tensor:
        """The tokens of texts; ValueError for one that the context of the text
        tower cuts: what is said at its end would not count.
        """
        tokens = self._tokenizer(texts)
        context = tokens.shape[1]
        # with a place more there is one more of padding, unless a text needs it
        longer = self._tokenizer(texts, context_length=context + 1)
        padding = self._tokenizer([""], context_length=64).mode().values
        before, after = (
            (rows == padding).sum(dim=1) for rows in (tokens, longer)
        )
        for text, cut in zip(texts, (after == before).tolist(), strict=True):
            if cut:
                raise ValueError(
                    f"the text {text!r} has more than the {context} tokens that"
                    f" the text tower of {self.name} reads, and its end would"
                    " be cut off: shorten it"
                )
        return tokens


def _resize(
    pixels: Real[Tensor, "B 3 H W"], grid: tuple[int, int], patch: int
) -> Real[Tensor, "B 3 h w"]:
    return interpolate(
        pixels,
        size=(grid[0] * patch, grid[1] * patch),
        mode="bicubic",
        antialias=True,
    )


def _standardize(
    pixels: Tensor, mean: Sequence[float], deviation: Sequence[float]
) -> Tensor:
    return (
        pixels - pixels.new_tensor(mean)[:, None, None]
    ) / pixels.new_tensor(deviation)[:, None, None]


def _check_known(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=8, cutoff=0)
        raise ValueError(
            f"unknown {kind} {name!r}; the nearest of those known:"
            f" {', '.join(near)}"
        )


def check_weights(model: str, tag: str) -> None:
    """ValueError unless open_clip knows these weights of this model, trained
    with the model's own activation.

    OpenAI's CLIPs (and some others) were trained with x sigmoid(1.702 x), the
    "quick GELU". The plain names of their architectures have the exact GELU:
    the weights load, and every embedding is a little wrong.
    """
    import open_clip

    _check_known("open_clip model", model, open_clip.list_models())
    _check_known(
        f"weights of {model}",
        tag,
        open_clip.list_pretrained_tags_by_model(model),
    )
    quick = open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False)
    fix = f"{model}-quickgelu" if quick else model.removesuffix("-quickgelu")
    if fix != model and quick != open_clip.get_model_config(model).get(
        "quick_gelu", False
    ):
        raise ValueError(
            f"the weights {tag!r} were trained with another GELU than that of"
            f" {model!r}: use {fix!r}"
        )


def embedding_dim(name: str) -> int | None:
    """How many numbers embeddings have, from what follows ``open_clip/`` in a
    name; None for a hub or a folder, whose files say it. Nothing is downloaded;
    ValueError for a name that open_clip does not know.
    """
    import open_clip

    source, _, readout = name.partition("?")[0].rpartition("/")
    _check_known(_READOUT, readout, READOUTS)
    if ":" in source:
        return None
    model, _, tag = source.partition("/")
    check_weights(model, tag)
    config: Any = open_clip.get_model_config(model)
    return int(config["embed_dim"])


def load_open_clip(
    name: str,
    *,
    options: OpenClipOptions | None = None,
    device: str | torch.device = "cpu",
) -> OpenClipModel:
    """A model by what follows ``open_clip/`` in its name.

    ``options``: None for those that follow the name, or the default ones.
    Weights are kept in the Hugging Face cache and downloaded once. ValueError
    for a name that open_clip does not know, for weights of another activation,
    and for options told twice; StoreError where weights cannot be had or are
    damaged.
    """
    path, _, query = name.partition("?")
    if query and options is not None:
        raise ValueError(
            f"open_clip/{name}: found options in the name and as an argument;"
            " give them once"
        )
    options = parse_options(query) if options is None else options
    source, _, readout = path.rpartition("/")
    _check_known(_READOUT, readout, READOUTS)
    lender = options.proxy if readout == "proxyclip" else None
    try:
        model, tokenizer, proxy = _load(source, lender)
    except ImportError as error:
        raise ValueError(
            f"open_clip/{name}: its tokenizer needs another package ({error}):"
            " pip install 'vlg-lib[siglip]'"
        ) from error
    except (RuntimeError, OSError, SafetensorError, UnpicklingError) as error:
        raise StoreError(
            f"open_clip/{name}: could not be loaded ({error}). Weights are"
            " downloaded once into the Hugging Face cache: run this once with"
            " a network, or copy the cache of a machine that has them and set"
            " HF_HOME to it (and HF_HUB_OFFLINE=1, which fails at once instead"
            " of after a minute); fetch a damaged file again"
        ) from error
    return OpenClipModel(
        model,
        tokenizer,
        f"open_clip/{name}",
        readout,
        options=options,
        proxy=proxy,
        device=device,
    )


def _load(
    source: str, lender: str | None
) -> tuple[nn.Module, Callable[..., Tensor], nn.Module | None]:
    """The model of MODEL/TAG, or of a hub's or a folder's name, its tokenizer,
    and the timm model that lends its attention, if any.
    """
    import open_clip
    import timm

    if lender is not None:
        known = timm.list_models("vit_*")
        _check_known("timm model", lender.partition(".")[0], known)
    model_name, tag = source, None
    if ":" not in source:
        model_name, _, tag = source.partition("/")
        check_weights(model_name, tag)
    # Before the weights, lest they be downloaded in vain; but a hub's own
    # repository has to be there to say which.
    tokenizer = None
    if not model_name.startswith("hf-hub:"):
        tokenizer = open_clip.get_tokenizer(model_name)
    model = open_clip.create_model(model_name, tag, require_pretrained=True)
    if tokenizer is None:
        tokenizer = open_clip.get_tokenizer(model_name)
    if lender is None:
        return model, tokenizer, None
    proxy = timm.create_model(lender, pretrained=True, dynamic_img_size=True)
    return model, tokenizer, proxy


def _check_readout(name: str, readout: str, tower: ClipTower) -> None:
    _check_known("read-out", readout, READOUTS)
    if readout in NEED_QUERIES and tower.last_layer is pool_layer:
        raise ValueError(
            f"{name}: {readout!r} needs queries of patches, which a tower"
            " that pools does not have"
        )


def _check_proxy(name: str, readout: str, proxy: nn.Module | None) -> None:
    import timm

    if (readout == "proxyclip") != (proxy is not None):
        raise ValueError(
            f"{name}: the read-out 'proxyclip', and no other, needs a proxy"
            f" model; found {readout!r}"
        )
    fits = (
        isinstance(proxy, timm.models.VisionTransformer)
        and proxy.dynamic_img_size
    )
    if proxy is not None and not fits:
        raise ValueError(
            f"{name}: expected a timm VisionTransformer with dynamic_img_size"
            f" as proxy, found {type(proxy).__name__}"
        )


def _check_sizes(name: str, options: OpenClipOptions, tower: ClipTower) -> None:
    patch = tower.patch
    native = tower.side // patch * patch
    sides = (options.short_side or native, options.window or patch)
    whole = all(side >= 1 and side % patch == 0 for side in sides)
    if not whole or options.batch < 1:
        raise ValueError(
            f"{name}: expected sizes of whole patches of {patch} pixels and a"
            f" batch of 1 or more, found {sides} and {options.batch}"
        )
