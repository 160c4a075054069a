"""Frozen 2D vision-language models behind one interface: images to dense unit embeddings, texts to unit embeddings."""

from typing import Any

import torch

from vlg_lib.vision_language.base import VisionLanguageModel
from vlg_lib.vision_language.clip_dense import load_open_clip
from vlg_lib.vision_language.openseg import OpenSegModel
from vlg_lib.vision_language.small import SmallRegionModel

__all__ = ["VisionLanguageModel", "create_model", "list_models"]

_MODELS = {"small-region": SmallRegionModel}
_FOUND = {"openseg": OpenSegModel}
_FAMILIES = {"open_clip": load_open_clip}


def list_models() -> list[str]:
    """The models that come with the book. Those of ``open_clip/MODEL/TAG/READOUT`` are downloaded."""
    return list(_MODELS)


def create_model(
    name: str = "small-region", *, device: str | torch.device = "cpu", **options: Any
) -> VisionLanguageModel:
    """A frozen model by name, its weights loaded; ValueError naming the known models for any other name.

    ``small-region`` comes with the book. ``open_clip/MODEL/TAG/READOUT``, such as
    ``open_clip/ViT-B-16-quickgelu/openai/naclip``, is any ViT of open_clip; ``options`` are those of
    :func:`~vlg_lib.vision_language.clip_dense.load_open_clip`. ``openseg`` is the paper's, see
    :class:`~vlg_lib.vision_language.openseg.OpenSegModel`.
    """
    family, _, rest = name.partition("/")
    if rest and family in _FAMILIES:
        return _FAMILIES[family](rest, device=device, **options)
    models = {**_MODELS, **_FOUND}
    if name not in models:
        known = [*models, "open_clip/MODEL/TAG/READOUT"]
        raise ValueError(f"unknown vision-language model {name!r}; known: {', '.join(known)}")
    return models[name](device=device, **options)
