"""Class sets: names, prompts, palette, and the one ignore label."""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

IGNORE_LABEL = -1
"""The label of a point that has no class: not annotated, or not seen by any
view."""

UNLABELLED_COLOR = (190, 190, 190)
"""The colour of points with the ignore label, in every figure."""


@dataclass(frozen=True)
class ClassSet:
    """An ordered set of K classes. ``palette`` holds one RGB colour (0-255) a
    class, the same in every figure.

    >>> ROOMS_12.prompts("a {name} in a scene")[6]
    'a chair in a scene'
    >>> ROOMS_12.mask(["chair", "floor"]).sum()
    tensor(2)
    """

    name: str
    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"class set {self.name!r} is empty")
        if len(set(self.names)) != len(self.names):
            raise ValueError(
                f"class set {self.name!r} names a class twice: {self.names}"
            )
        if len(self.palette) != len(self.names):
            raise ValueError(
                f"class set {self.name!r} has {len(self.names)} names and"
                f" {len(self.palette)} colours"
            )

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Index of a class; ValueError naming the known classes otherwise."""
        if name not in self.names:
            raise ValueError(
                f"unknown class {name!r} in class set {self.name!r}; known:"
                f" {', '.join(self.names)}"
            )
        return self.names.index(name)

    def mask(self, present: Iterable[str]) -> Bool[Tensor, " K"]:
        """Scene labels as a boolean mask over the classes (M of the paper),
        from the names that are present.
        """
        mask = torch.zeros(len(self), dtype=torch.bool)
        mask[[self.index(name) for name in present]] = True
        return mask

    def present(self, mask: Bool[Tensor, " K"]) -> tuple[str, ...]:
        """The inverse of :meth:`mask`: the names of the classes that a mask
        marks.
        """
        return tuple(
            name
            for name, here in zip(self.names, mask.tolist(), strict=True)
            if here
        )

    def prompts(self, template: str = "{name}") -> tuple[str, ...]:
        """One text a class: bare names in stage 1 of the paper, ``"a {name} in
        a scene"`` at its evaluation.
        """
        return tuple(template.format(name=name) for name in self.names)

    def colors(self) -> UInt8[Tensor, "K 3"]:
        """The palette as a (K, 3) uint8 tensor."""
        return torch.tensor(self.palette, dtype=torch.uint8)


_TABLES = tomllib.loads(
    (Path(__file__).parent / "assets" / "class_sets.toml").read_text(
        encoding="utf8"
    )
)


def own_class_set(names: Sequence[str], name: str = "own") -> ClassSet:
    """A class set of any words, coloured from the common palette (repeated
    after 20 classes).

    >>> own_class_set(["cup", "plate"]).palette == SCANNET_20.palette[:2]
    True
    """
    palette = [
        tuple(color) for _, color in zip(names, cycle(_TABLES["palette"]))
    ]
    return ClassSet(name, tuple(names), tuple(palette))


CLASS_SETS = {
    name: own_class_set(names, name) for name, names in _TABLES["names"].items()
}
"""The class sets that the library knows, by name."""

ROOMS_12, SCANNET_20, S3DIS_13 = (
    CLASS_SETS[name] for name in ("rooms-12", "scannet-20", "s3dis-13")
)


def get_class_set(name: str) -> ClassSet:
    """A class set by name; ValueError naming the known ones otherwise."""
    if name not in CLASS_SETS:
        raise ValueError(
            f"unknown class set {name!r}; known: {', '.join(CLASS_SETS)}"
        )
    return CLASS_SETS[name]
