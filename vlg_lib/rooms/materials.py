"""What the things of the procedural rooms are made of: colours, textures, and
the two palettes of the shift knob.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

_TABLES = tomllib.loads(
    (Path(__file__).parent.parent / "assets" / "rooms.toml").read_text(
        encoding="utf8"
    )
)


@dataclass(frozen=True)
class Style:
    """How objects of one name look: textures to draw from, and colour words
    with weights in the two palettes.

    ``source`` is the palette of the world that the small vision-language model
    saw; ``target`` is the second palette, which the shift knob draws from.
    ``pale`` mixes the colour with white (walls are never as dark as sofas).
    """

    textures: list[str]
    source: dict[str, int]
    target: dict[str, int]
    pale: float = 0.0


COLORS: dict[str, list[int]] = _TABLES["colors"]
"""The colour words, with their mean sRGB values (0-255)."""

MATERIALS: dict[str, str] = _TABLES["materials"]
"""The eight procedural textures (see ``rooms_texture``), and the word that a
caption uses for each."""

TEXTURES = tuple(MATERIALS)
"""The textures in order: a texture index counts into this tuple."""

STYLES = {name: Style(**style) for name, style in _TABLES["styles"].items()}
"""The style of each name of an object."""

FIXED_SLOTS: dict[str, list[str]] = _TABLES["fixed_slots"]
"""Colours of parts that do not follow their object's palette: table legs,
pillows, books, window frames."""


def draw_color(
    rng: np.random.Generator, weights: dict[str, int], pale: float = 0.0
) -> tuple[str, Float[np.ndarray, "3"]]:
    """Draw a colour word by weight, and an RGB value around its mean: (word,
    (3,) float32 in 0-1).
    """
    word = str(
        rng.choice(
            list(weights),
            p=np.array(list(weights.values())) / sum(weights.values()),
        )
    )
    mean = np.array(COLORS[word], dtype=np.float32) / 255
    mean = mean + pale * (1 - mean)
    value = mean * rng.uniform(0.82, 1.14) + rng.normal(0, 0.035, 3)
    return word, np.clip(value, 0.03, 0.97).astype(np.float32)
