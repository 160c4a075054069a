"""Frozen 2D vision-language models behind one interface: images to dense unit
embeddings, texts to unit embeddings.
"""

import os
from pathlib import Path

import torch

from vlg_lib.artifacts import hash_files
from vlg_lib.vision_language.base import VisionLanguageModel, hash_folder
from vlg_lib.vision_language.open_clip import (
    OpenClipOptions,
    embedding_dim,
    load_open_clip,
)
from vlg_lib.vision_language.openseg import OpenSegModel
from vlg_lib.vision_language.small import SMALL_MODELS, WEIGHTS, SmallModel

__all__ = [
    "OpenClipOptions",
    "VisionLanguageModel",
    "create_model",
    "list_models",
    "model_dim",
    "weights_key",
]

_SMALL = {name: WEIGHTS / f"{name}.safetensors" for name in SMALL_MODELS}
_FAMILIES = {"open_clip": load_open_clip}


def list_models() -> list[str]:
    """The models whose weights come with the book. Those of
    ``open_clip/MODEL/TAG/READOUT`` are downloaded.

    >>> list_models()
    ['small-attributes', 'small-grounded', 'small-clip']
    """
    return [name for name, weights in _SMALL.items() if weights.is_file()]


def weights_key(name: str) -> str:
    """What tells apart two models of one name without loading either; "" where
    the name says which weights they are.

    A hash of the file of a small model; of names, sizes and times of the files
    in the folder of OpenSeg (VLG_OPENSEG) or of
    ``open_clip/local-dir:FOLDER/READOUT``.
    """
    if name in _SMALL:
        return hash_files(_SMALL[name]) if _SMALL[name].is_file() else ""
    if name == "openseg":
        folder = os.environ.get("VLG_OPENSEG", "")
    else:
        path = name.partition("local-dir:")[2].partition("?")[0]
        folder = path.rpartition("/")[0]
    return hash_folder(Path(folder)) if folder else ""


def create_model(
    name: str = "small-attributes",
    *,
    device: str | torch.device = "cpu",
    options: OpenClipOptions | None = None,
) -> VisionLanguageModel:
    """A frozen model by name, its weights loaded.

    The small models come with the book: ``small-attributes``,
    ``small-grounded`` and ``small-clip``. ``open_clip/MODEL/TAG/READOUT``, such
    as ``open_clip/ViT-B-16-quickgelu/openai/naclip``, is a ViT of open_clip;
    ``options`` are its sizes and precision, which may also be typed after the
    name: ``.../naclip?window=224``. ``openseg`` is the paper's, see
    :class:`~vlg_lib.vision_language.openseg.OpenSegModel`. ValueError naming
    the known models for any other name, and for options of a model that has
    none.

    >>> model = create_model("small-attributes")
    >>> model.dense_embeddings(torch.zeros(120, 160, 3).byte()).shape
    torch.Size([30, 40, 64])
    """
    family, _, rest = name.partition("/")
    if rest and family in _FAMILIES:
        return _FAMILIES[family](rest, device=device, options=options)
    if options is not None:
        raise ValueError(
            f"the model {name!r} takes no options, found {options}"
        )
    if name in _SMALL:
        return SmallModel(_SMALL[name], device)
    if name == "openseg":
        return OpenSegModel(device=device)
    raise _unknown(name)


def model_dim(name: str) -> int | None:
    """How many numbers the embeddings of a model have, from its name: nothing
    is loaded. None where only its files say it (open_clip's ``hf-hub:`` and
    ``local-dir:``); ValueError as in :func:`create_model`.

    >>> model_dim("openseg"), model_dim("small-attributes")
    (768, 64)
    """
    family, _, rest = name.partition("/")
    if rest and family in _FAMILIES:
        return embedding_dim(rest)
    if name in _SMALL:
        return SmallModel.dim
    if name == "openseg":
        return OpenSegModel.dim
    raise _unknown(name)


def _unknown(name: str) -> ValueError:
    known = [*_SMALL, "openseg", "open_clip/MODEL/TAG/READOUT"]
    return ValueError(
        f"unknown vision-language model {name!r}; known: {', '.join(known)}"
    )
