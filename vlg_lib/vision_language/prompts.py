"""From class names to one embedding a class: prompt templates and synonyms,
averaged.

CLIP learnt from captions, so it knows "a photo of a chair." better than "chair"
(Radford et al., 2021, Sec. 3.1.4), and a class is whatever people call it. Each
prompt gives a direction; their mean is the class's.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from vlg_lib.classes import split_names
from vlg_lib.vision_language.base import VisionLanguageModel, check_texts

NAME = "{name}"
SCENE = "a {name} in a scene"
"""The templates of the paper: stage 1 takes the bare name, its evaluation
``SCENE``."""
IMAGENET = "imagenet"
"""What stands for CLIP's 80 templates where templates are named in one text."""


@dataclass(frozen=True)
class TeacherSettings:
    """The frozen 2D vision-language model."""

    name: str = "small-attributes"
    """What :func:`vlg_lib.vision_language.create_model` takes. The paper:
    ``openseg``."""


@dataclass(frozen=True)
class PromptSettings:
    """What stands for a class: all prompts of a class are averaged
    (:func:`class_embeddings`).
    """

    templates: tuple[str, ...] = ("a {name}",)
    """Texts with ``{name}`` where a class name goes. The paper's stage 1: the
    bare name, ``{name}``."""
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further names of some classes, by class name."""


def imagenet_templates() -> tuple[str, ...]:
    """CLIP's 80 templates for ImageNet, with ``{name}`` where the name goes."""
    # Slow to import: only where they are asked for.
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{name}") for template in OPENAI_IMAGENET_TEMPLATES)


def split_templates(text: str) -> tuple[str, ...]:
    """The templates that one text names: one, several with ``|`` between them,
    or ``imagenet`` for CLIP's 80.

    >>> split_templates("a {name} | a photo of a {name}")
    ('a {name}', 'a photo of a {name}')
    """
    return (
        imagenet_templates()
        if text == IMAGENET
        else tuple(part.strip() for part in text.split("|"))
    )


def join_templates(templates: Sequence[str]) -> str:
    """Templates as one text, which :func:`split_templates` takes apart: the
    form that the file of a network holds.

    >>> join_templates(("a {name}", "a photo of a {name}"))
    'a {name} | a photo of a {name}'
    """
    return " | ".join(templates)


def split_synonyms(text: str) -> dict[str, tuple[str, ...]]:
    """Further names of classes, from one text.

    >>> split_synonyms("sofa = couch, settee; cabinet = cupboard")
    {'sofa': ('couch', 'settee'), 'cabinet': ('cupboard',)}
    """
    entries = [
        entry.partition("=")[::2]
        for entry in unicodedata.normalize("NFC", text).split(";")
        if entry.strip()
    ]
    return {name.strip(): split_names(words) for name, words in entries}


def class_embeddings(
    model: VisionLanguageModel,
    names: Sequence[str],
    templates: str | Sequence[str] = SCENE,
    synonyms: Mapping[str, Sequence[str]] | None = None,
) -> Float[Tensor, "K D"]:
    """F^C: one unit embedding a class, the mean over its names and synonyms in
    all templates, at unit length again.

    ``templates``: a list, or a text as :func:`split_templates` takes it.
    ``synonyms``: more names of some classes. ValueError for an empty list, a
    template without ``{name}``, synonyms of a class that is not in ``names``,
    and a name that two classes share: no model could tell them apart.

    >>> from vlg_lib.vision_language import create_model
    >>> model = create_model("small-attributes")
    >>> synonyms = {"sofa": ["couch"]}
    >>> class_embeddings(model, ["chair", "sofa"], "a {name}", synonyms).shape
    torch.Size([2, 64])
    """
    templates = (
        split_templates(templates) if isinstance(templates, str) else templates
    )
    synonyms = synonyms or {}
    check_texts(templates)
    wrong = [text for text in templates if "{name}" not in text] + sorted(
        set(synonyms) - set(names)
    )
    if wrong:
        raise ValueError(
            "expected templates with {name} and synonyms of"
            f" {', '.join(names)}; found {wrong}"
        )
    groups = [(name, *synonyms.get(name, ())) for name in names]
    check_texts([word for group in groups for word in group])
    prompts = [
        text.replace("{name}", word)
        for group in groups
        for word in group
        for text in templates
    ]
    parts = model.text_embeddings(prompts).split(
        [len(group) * len(templates) for group in groups]
    )
    return normalize(torch.stack([part.mean(0) for part in parts]), dim=1)
