"""Frozen 2D vision-language models behind one interface: images to dense unit embeddings, texts to unit embeddings."""

import torch

from vlg_lib.vision_language.base import VisionLanguageModel
from vlg_lib.vision_language.small import SmallRegionModel

__all__ = ["VisionLanguageModel", "create_model", "list_models"]

_MODELS = {"small-region": SmallRegionModel}


def list_models() -> list[str]:
    """The names that :func:`create_model` knows."""
    return list(_MODELS)


def create_model(name: str = "small-region", *, device: str | torch.device = "cpu") -> VisionLanguageModel:
    """A frozen model by name, its weights loaded; ValueError naming the known models for any other name."""
    if name not in _MODELS:
        raise ValueError(f"unknown vision-language model {name!r}; known: {', '.join(_MODELS)}")
    return _MODELS[name](device=device)
