"""What the things of the procedural rooms are made of: colours, textures, and
the two palettes of the shift knob.

Other tables make other rooms of the same seeds: raise ``RECIPE`` in
:mod:`vlg_lib.rooms.scenes` with every change, so that stored rooms are made
again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Style:
    """How objects of one name look."""

    textures: tuple[str, ...]
    """Textures to draw from, each as likely as the others; a name that stands
    there twice is twice as likely."""
    source: Mapping[str, int]
    """Colour words with weights: the palette of the world that the small
    vision-language model saw."""
    target: Mapping[str, int]
    """The second palette, which the shift knob draws from."""
    pale: float = 0.0
    """How far the colour is mixed with white, 0 to 1: walls are paler than
    sofas."""


COLORS = {
    "white": (232, 230, 224),
    "cream": (226, 208, 170),
    "beige": (190, 154, 108),
    "brown": (118, 76, 46),
    "grey": (138, 139, 142),
    "black": (48, 47, 50),
    "red": (172, 50, 45),
    "orange": (212, 124, 52),
    "yellow": (214, 186, 78),
    "green": (72, 122, 72),
    "blue": (62, 94, 164),
    "purple": (120, 82, 142),
    "pink": (212, 150, 162),
}
"""The colour words, with their mean sRGB values (0-255)."""

MATERIALS = {
    "plain": "painted",
    "wood": "wooden",
    "tiles": "tiled",
    "stripes": "striped",
    "checker": "checked",
    "brick": "brick",
    "fabric": "fabric",
    "panels": "panelled",
}
"""The eight procedural textures (:mod:`vlg_lib.rooms.textures`), and the word
that a caption uses for each."""

TEXTURES = tuple(MATERIALS)
"""The textures in order: a texture index counts into this tuple."""

FIXED_SLOTS: dict[str, tuple[str, ...]] = {
    "metal": ("grey", "black"),
    "timber": ("brown", "beige"),
    "linen": ("white", "cream"),
    "leaf": ("green",),
    "book": (
        "red",
        "blue",
        "green",
        "yellow",
        "orange",
        "black",
        "purple",
        "white",
    ),
    "frame": ("white", "grey"),
}
"""Colours of parts that do not follow their object's palette: table legs,
pillows, books, window frames."""

# Informative but overlapping: every colour word of the source palette belongs
# to at least two classes; the target palette gives each class colours that are
# rarer on it, and more usual on others, in the source.
STYLES = {
    "ceiling": Style(
        textures=("plain", "plain", "panels"),
        source={"white": 8, "grey": 2},
        target={"cream": 4, "beige": 2, "pink": 2},
        pale=0.35,
    ),
    "floor": Style(
        textures=("wood", "wood", "tiles", "fabric", "checker"),
        source={"brown": 4, "beige": 3, "grey": 3},
        target={"green": 2, "blue": 2, "red": 1, "white": 2, "black": 1},
        pale=0.1,
    ),
    "wall": Style(
        textures=("plain", "plain", "plain", "stripes", "brick"),
        source={"cream": 4, "white": 3, "grey": 1, "green": 1},
        target={"blue": 2, "pink": 2, "orange": 2, "purple": 1, "beige": 2},
        pale=0.4,
    ),
    "window": Style(
        textures=("plain",),
        source={"blue": 7, "white": 3},
        target={"black": 3, "grey": 3, "green": 2, "orange": 1},
        pale=0.5,
    ),
    "door": Style(
        textures=("wood", "panels", "plain"),
        source={"brown": 5, "beige": 3, "white": 2},
        target={"blue": 3, "red": 2, "green": 2, "grey": 2},
        pale=0.1,
    ),
    "table": Style(
        textures=("wood", "wood", "plain"),
        source={"beige": 5, "brown": 3, "white": 2},
        target={"black": 3, "grey": 2, "red": 2, "blue": 1},
    ),
    "chair": Style(
        textures=("fabric", "plain", "fabric"),
        source={"blue": 4, "black": 3, "red": 2, "orange": 1},
        target={"green": 3, "white": 2, "beige": 2, "purple": 2},
    ),
    "sofa": Style(
        textures=("fabric", "fabric", "stripes"),
        source={"red": 3, "green": 3, "grey": 3, "brown": 1},
        target={"blue": 3, "cream": 2, "black": 2, "orange": 2},
    ),
    "bookcase": Style(
        textures=("wood", "wood", "plain"),
        source={"brown": 5, "white": 3, "beige": 2},
        target={"black": 3, "grey": 2, "red": 2, "blue": 2},
    ),
    "board": Style(
        textures=("plain",),
        source={"white": 6, "green": 3, "black": 1},
        target={"beige": 4, "blue": 2, "grey": 2, "red": 1},
    ),
    "bed": Style(
        textures=("stripes", "checker", "fabric", "plain"),
        source={"pink": 3, "blue": 3, "white": 3, "purple": 1},
        target={"grey": 3, "green": 2, "red": 2, "beige": 2},
    ),
    "cabinet": Style(
        textures=("plain", "panels", "wood"),
        source={"grey": 4, "white": 3, "beige": 2, "brown": 1},
        target={"blue": 2, "black": 2, "yellow": 2, "green": 2},
    ),
    "plant": Style(
        textures=("plain",),
        source={"green": 1},
        target={"green": 3, "purple": 1},
    ),
    "lamp": Style(
        textures=("plain", "fabric"),
        source={"yellow": 3, "white": 2},
        target={"red": 1, "blue": 1, "orange": 1},
        pale=0.3,
    ),
    "screen": Style(
        textures=("plain",),
        source={"black": 1},
        target={"grey": 1, "white": 1},
    ),
    "box": Style(
        textures=("plain", "stripes"),
        source={"beige": 2, "orange": 1},
        target={"blue": 1, "pink": 1},
    ),
    "bin": Style(
        textures=("plain",),
        source={"black": 1, "grey": 1},
        target={"red": 1, "green": 1},
    ),
    "rug": Style(
        textures=("stripes", "checker", "fabric"),
        source={"red": 2, "purple": 1, "blue": 1},
        target={"cream": 1, "black": 1},
    ),
    "picture": Style(
        textures=("stripes", "checker", "brick"),
        source={"orange": 1, "purple": 1, "yellow": 1},
        target={"blue": 1, "pink": 1},
    ),
}
"""The style of each name of an object."""


def draw_color(
    rng: np.random.Generator, weights: Mapping[str, int], pale: float = 0.0
) -> tuple[str, Float[np.ndarray, "3"]]:
    """Draw a colour word by weight, and an RGB value around its mean: (word,
    (3,) float32 in 0-1).
    """
    shares = np.array(list(weights.values())) / sum(weights.values())
    word = str(rng.choice(list(weights), p=shares))
    mean = np.array(COLORS[word], dtype=np.float32) / 255
    mean = mean + pale * (1 - mean)
    value = mean * rng.uniform(0.82, 1.14) + rng.normal(0, 0.035, 3)
    return word, np.clip(value, 0.03, 0.97).astype(np.float32)
