"""From class names to one embedding a class: prompt templates and synonyms, averaged.

CLIP learnt from captions, so it knows "a photo of a chair." better than "chair" (Radford et al., 2021, Sec. 3.1.4), and
a class is whatever people call it. Each prompt gives a direction; their mean is the class's.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from vlg_lib.vision_language.base import VisionLanguageModel, check_texts

NAME = ("{name}",)
SCENE = ("a {name} in a scene",)
"""The templates of the paper: stage 1 takes the bare name, its evaluation ``SCENE``."""


def imagenet_templates() -> tuple[str, ...]:
    """CLIP's 80 templates for ImageNet, with ``{name}`` where the name goes."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES  # Slow to import: only where they are asked for.

    return tuple(template("{name}") for template in OPENAI_IMAGENET_TEMPLATES)


def class_embeddings(
    model: VisionLanguageModel,
    names: Sequence[str],
    templates: Sequence[str] = SCENE,
    synonyms: Mapping[str, Sequence[str]] | None = None,
) -> Float[Tensor, "K D"]:
    """F^C: one unit embedding a class, the mean over its names and synonyms in all templates, at unit length again.

    ``synonyms``: more names of some classes. ValueError for an empty list, a template without ``{name}``, synonyms of a
    class that is not in ``names``, and a name that two classes share: no model could tell them apart.
    """
    synonyms = synonyms or {}
    check_texts(templates)
    wrong = [text for text in templates if "{name}" not in text] + sorted(set(synonyms) - set(names))
    if wrong:
        raise ValueError(f"expected templates with {{name}} and synonyms of {', '.join(names)}; found {wrong}")
    groups = [(name, *synonyms.get(name, ())) for name in names]
    check_texts([word for group in groups for word in group])
    prompts = [text.replace("{name}", word) for group in groups for word in group for text in templates]
    parts = model.text_embeddings(prompts).split([len(group) * len(templates) for group in groups])
    return normalize(torch.stack([part.mean(0) for part in parts]), dim=1)
