"""What the things of the procedural rooms are made of: colours, textures, and the two palettes of the shift knob."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

COLORS: dict[str, tuple[int, int, int]] = {
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

MATERIALS = {"plain": "painted", "wood": "wooden", "tiles": "tiled", "stripes": "striped", "checker": "checked",
             "brick": "brick", "fabric": "fabric", "panels": "panelled"}  # fmt: skip
"""The eight procedural textures (see ``rooms_texture``), and the word that a caption uses for each."""

TEXTURES = tuple(MATERIALS)
"""The textures in order: a texture index counts into this tuple."""


@dataclass(frozen=True)
class Style:
    """How objects of one name look: textures to draw from, and colour words with weights in the two palettes.

    ``source`` is the palette of the world that the small vision-language model saw; ``target`` is the second palette,
    which the shift knob draws from. ``pale`` mixes the colour with white (walls are never as dark as sofas).
    """

    textures: tuple[str, ...]
    source: dict[str, int]
    target: dict[str, int]
    pale: float = 0.0


# Informative but overlapping: every colour word of the source palette belongs to at least two classes. The target
# palette gives each class colours that are rarer on it, and more usual on others, in the source.
STYLES: dict[str, Style] = {
    "ceiling": Style(("plain", "plain", "panels"), {"white": 8, "grey": 2}, {"cream": 4, "beige": 2, "pink": 2}, 0.35),
    "floor": Style(("wood", "wood", "tiles", "fabric", "checker"), {"brown": 4, "beige": 3, "grey": 3},
                   {"green": 2, "blue": 2, "red": 1, "white": 2, "black": 1}, 0.1),
    "wall": Style(("plain", "plain", "plain", "stripes", "brick"), {"cream": 4, "white": 3, "grey": 1, "green": 1},
                  {"blue": 2, "pink": 2, "orange": 2, "purple": 1, "beige": 2}, 0.4),
    "window": Style(("plain",), {"blue": 7, "white": 3}, {"black": 3, "grey": 3, "green": 2, "orange": 1}, 0.5),
    "door": Style(("wood", "panels", "plain"), {"brown": 5, "beige": 3, "white": 2},
                  {"blue": 3, "red": 2, "green": 2, "grey": 2}, 0.1),
    "table": Style(("wood", "wood", "plain"), {"beige": 5, "brown": 3, "white": 2},
                   {"black": 3, "grey": 2, "red": 2, "blue": 1}),
    "chair": Style(("fabric", "plain", "fabric"), {"blue": 4, "black": 3, "red": 2, "orange": 1},
                   {"green": 3, "white": 2, "beige": 2, "purple": 2}),
    "sofa": Style(("fabric", "fabric", "stripes"), {"red": 3, "green": 3, "grey": 3, "brown": 1},
                  {"blue": 3, "cream": 2, "black": 2, "orange": 2}),
    "bookcase": Style(("wood", "wood", "plain"), {"brown": 5, "white": 3, "beige": 2},
                      {"black": 3, "grey": 2, "red": 2, "blue": 2}),
    "board": Style(("plain",), {"white": 6, "green": 3, "black": 1}, {"beige": 4, "blue": 2, "grey": 2, "red": 1}),
    "bed": Style(("stripes", "checker", "fabric", "plain"), {"pink": 3, "blue": 3, "white": 3, "purple": 1},
                 {"grey": 3, "green": 2, "red": 2, "beige": 2}),
    "cabinet": Style(("plain", "panels", "wood"), {"grey": 4, "white": 3, "beige": 2, "brown": 1},
                     {"blue": 2, "black": 2, "yellow": 2, "green": 2}),
    "plant": Style(("plain",), {"green": 1}, {"green": 3, "purple": 1}),
    "lamp": Style(("plain", "fabric"), {"yellow": 3, "white": 2}, {"red": 1, "blue": 1, "orange": 1}, 0.3),
    "screen": Style(("plain",), {"black": 1}, {"grey": 1, "white": 1}),
    "box": Style(("plain", "stripes"), {"beige": 2, "orange": 1}, {"blue": 1, "pink": 1}),
    "bin": Style(("plain",), {"black": 1, "grey": 1}, {"red": 1, "green": 1}),
    "rug": Style(("stripes", "checker", "fabric"), {"red": 2, "purple": 1, "blue": 1}, {"cream": 1, "black": 1}),
    "picture": Style(("stripes", "checker", "brick"), {"orange": 1, "purple": 1, "yellow": 1}, {"blue": 1, "pink": 1}),
}  # fmt: skip

FIXED_SLOTS: dict[str, tuple[str, ...]] = {
    "metal": ("grey", "black"),
    "timber": ("brown", "beige"),
    "linen": ("white", "cream"),
    "leaf": ("green",),
    "book": ("red", "blue", "green", "yellow", "orange", "black", "purple", "white"),
    "frame": ("white", "grey"),
}
"""Colours of parts that do not follow their object's palette: table legs, pillows, books, window frames."""


def draw_color(
    rng: np.random.Generator, weights: dict[str, int], pale: float = 0.0
) -> tuple[str, Float[np.ndarray, "3"]]:
    """Draw a colour word by weight, and an RGB value around its mean: (word, (3,) float32 in 0-1)."""
    word = str(rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))
    mean = np.array(COLORS[word], dtype=np.float32) / 255
    mean = mean + pale * (1 - mean)
    value = mean * rng.uniform(0.82, 1.14) + rng.normal(0, 0.035, 3)
    return word, np.clip(value, 0.03, 0.97).astype(np.float32)
