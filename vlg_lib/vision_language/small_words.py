"""The words that the small model knows, and how a text becomes token numbers.

open_clip's own vocabulary has 49,408 entries, 20 MB of embeddings; the small model's world needs about a hundred.
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

CONTEXT_LENGTH = 16

NAMES: dict[str, tuple[str, ...]] = {
    "ceiling": (), "floor": ("ground",), "wall": (), "window": (), "door": (), "table": ("desk",), "chair": ("seat",),
    "sofa": ("couch",), "bookcase": ("bookshelf", "shelf"), "board": ("whiteboard", "blackboard"), "bed": (),
    "cabinet": ("cupboard", "wardrobe"), "plant": (), "lamp": (), "screen": ("monitor", "television"),
    "box": ("carton",), "bin": ("basket",), "rug": ("carpet",), "picture": ("painting",),
}  # fmt: skip
"""The names of things with their synonyms: the twelve classes of Rooms-12 and seven things that have no class there."""

COLORS = ("white", "cream", "beige", "brown", "grey", "black", "red", "orange", "yellow", "green", "blue", "purple",
          "pink")  # fmt: skip
MATERIALS = ("painted", "wooden", "tiled", "striped", "checked", "brick", "fabric", "panelled")
_OTHER = ("a", "an", "the", "this", "that", "some", "in", "of", "on", "at", "with", "and", "there", "is", "photo",
          "image", "view", "part", "scene", "room", "house", "office", "bedroom", "indoor")  # fmt: skip

_PAD = "<pad>"
_END = "<end>"
_SYNONYMS = tuple(synonym for synonyms in NAMES.values() for synonym in synonyms)
VOCABULARY: tuple[str, ...] = (_PAD, *_OTHER, *COLORS, *MATERIALS, *NAMES, *_SYNONYMS, _END)
"""All tokens. Padding is number 0 and the end mark has the largest number, where open_clip's text tower pools."""

_NUMBERS = {word: number for number, word in enumerate(VOCABULARY)}


def tokenize(texts: Sequence[str]) -> Int[Tensor, "K context"]:
    """Token numbers (K, 16) int64 of K texts: lower-cased words, then the end mark, then padding.

    A plural whose singular is known counts as the singular. ValueError, naming the word and the vocabulary, for an
    unknown word; for a text without words; and for one of more than 15 words.
    """
    tokens = torch.zeros(len(texts), CONTEXT_LENGTH, dtype=torch.int64)
    for row, text in enumerate(texts):
        numbers = [_number(word, text) for word in re.findall(r"[^\s.,;:!?\"'()\-]+", text.lower())]
        if not 0 < len(numbers) < CONTEXT_LENGTH:
            raise ValueError(f"expected a text of 1 to {CONTEXT_LENGTH - 1} words, found {len(numbers)} in {text!r}")
        tokens[row, : len(numbers) + 1] = torch.tensor([*numbers, _NUMBERS[_END]])
    return tokens


def _number(word: str, text: str) -> int:
    for candidate in (word, word.removesuffix("s"), word.removesuffix("es")):
        if candidate in _NUMBERS:
            return _NUMBERS[candidate]
    known = ", ".join(VOCABULARY[1:-1])
    raise ValueError(f"the small model does not know the word {word!r} in {text!r}; it knows: {known}")
