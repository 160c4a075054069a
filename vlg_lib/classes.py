"""Class sets: names, prompts, palette, and the one ignore label."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

IGNORE_LABEL = -1
"""The label of a point without a class: not annotated, or seen by no view."""

UNLABELLED_COLOR = (190, 190, 190)
"""The colour of points with the ignore label, in every figure."""


@dataclass(frozen=True)
class ClassSet:
    """An ordered set of K classes.

    >>> ROOMS_12.prompts("a {name} in a scene")[6]
    'a chair in a scene'
    >>> ROOMS_12.mask(["chair", "floor"]).sum()
    tensor(2)
    """

    name: str
    """What the set is called in files and on the command line."""
    names: tuple[str, ...]
    """The K classes in order, each a word that a text tower can embed."""
    palette: tuple[tuple[int, int, int], ...]
    """One RGB colour (0-255) a class, the same in every figure."""

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"class set {self.name!r} is empty")
        if not all(name.strip() for name in self.names):
            raise ValueError(
                f"class set {self.name!r} has a class without a name:"
                f" {self.names}"
            )
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
        """The inverse of :meth:`mask`: the names of the classes it marks."""
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


# Found by a search that maximises the smallest CIEDE2000 distance between any
# two of the first twelve, then of all twenty, over normal vision and simulated
# protanopia, deuteranopia and tritanopia (tests/test_classes.py).
# fmt: off
PALETTE = (
    (255, 220, 255), (180, 100, 0), (160, 140, 160), (100, 255, 200),
    (140, 0, 0), (0, 180, 120), (120, 80, 200), (60, 120, 100),
    (80, 40, 60), (180, 220, 80), (160, 140, 255), (60, 20, 140),
    (220, 140, 0), (180, 180, 255), (80, 80, 60), (100, 100, 120),
    (120, 120, 180), (160, 120, 80), (180, 40, 80), (60, 80, 140),
)
# fmt: on
"""The twenty colours (RGB, 0-255) that all class sets share: class k has colour
k in every figure."""


def own_class_set(
    names: Sequence[str], name: str = "own", *, like: ClassSet | None = None
) -> ClassSet:
    """A class set of any words, coloured from the common palette (repeated
    after 20 classes).

    ``like``: a class set whose classes keep their colours; other words get
    those that it leaves.

    >>> own_class_set(["cup", "plate"]).palette == SCANNET_20.palette[:2]
    True
    >>> own_class_set(["cup", "floor"], like=SCANNET_20).palette[1]
    (180, 100, 0)
    """
    kept: dict[str, tuple[int, int, int]] = {}
    if like is not None:
        kept = dict(zip(like.names, like.palette, strict=True))
    free = [color for color in PALETTE if color not in kept.values()]
    colors = cycle(free or PALETTE)
    palette = tuple(
        kept[word] if word in kept else next(colors) for word in names
    )
    return ClassSet(name, tuple(names), palette)


def split_names(text: str) -> tuple[str, ...]:
    """The names in a text with commas between, those of Chinese, Japanese and
    Arabic keyboards too; a name may be empty.

    A letter with an accent is one character (NFC), however it was typed: two
    spellings that look alike would be two classes.

    >>> split_names("wall, shower curtain")
    ('wall', 'shower curtain')
    >>> split_names("椅子，墙") == split_names("椅子、墙") == ("椅子", "墙")
    True
    """
    return tuple(
        name.strip()
        for name in re.split("[,，、،]", unicodedata.normalize("NFC", text))
    )


ROOMS_12 = own_class_set(
    (
        "ceiling",
        "floor",
        "wall",
        "window",
        "door",
        "table",
        "chair",
        "sofa",
        "bookcase",
        "board",
        "bed",
        "cabinet",
    ),
    "rooms-12",
)
"""The classes of the procedural rooms."""

SCANNET_20 = own_class_set(
    (
        "wall",
        "floor",
        "cabinet",
        "bed",
        "chair",
        "sofa",
        "table",
        "door",
        "window",
        "bookshelf",
        "picture",
        "counter",
        "desk",
        "curtain",
        "refrigerator",
        "shower curtain",
        "toilet",
        "sink",
        "bathtub",
        "other",
    ),
    "scannet-20",
)
"""The 20 classes of the ScanNet benchmark, in its order."""

S3DIS_13 = own_class_set(
    (
        "ceiling",
        "floor",
        "wall",
        "beam",
        "column",
        "window",
        "door",
        "table",
        "chair",
        "sofa",
        "bookcase",
        "board",
        "clutter",
    ),
    "s3dis-13",
)
"""The 13 classes of S3DIS, in its order."""

CLASS_SETS = {
    class_set.name: class_set for class_set in (ROOMS_12, SCANNET_20, S3DIS_13)
}
"""The class sets that the library knows, by name."""


def get_class_set(name: str) -> ClassSet:
    """A class set by name; ValueError naming the known ones otherwise.

    >>> get_class_set("scannet-20").names[:3]
    ('wall', 'floor', 'cabinet')
    """
    if name not in CLASS_SETS:
        raise ValueError(
            f"unknown class set {name!r}; known: {', '.join(CLASS_SETS)}"
        )
    return CLASS_SETS[name]
