"""Scene labels of scenes that are converted: from point labels, from a file
that a person wrote, or from names in the settings.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vlg_lib.classes import (
    CLASS_SETS,
    ClassSet,
    get_class_set,
    own_class_set,
    split_names,
)
from vlg_lib.data.files import read_text


def known_classes(
    class_set: str, classes: Sequence[str], scene_labels: Sequence[str] = ()
) -> ClassSet:
    """The class set of scenes: of the names ``classes`` where there are any,
    else the known one called ``class_set``. One name that is a known set's is
    that set; any other is a set of one class.

    ValueError for an unknown or doubtful class set, and where one of
    ``scene_labels`` is none of its classes.

    >>> known_classes("rooms-12", ["cup", "plate"], ["cup"]).names
    ('cup', 'plate')
    """
    if len(classes) == 1 and classes[0] in CLASS_SETS:
        class_set, classes = classes[0], ()
    known = own_class_set(classes) if classes else get_class_set(class_set)
    known.mask(scene_labels)
    return known


def tags_of(
    point_labels: Int[Tensor, " N"], class_set: ClassSet, at_least: int = 1
) -> Bool[Tensor, " K"]:
    """Scene labels (K,) bool from point labels (N,): the classes that
    ``at_least`` points carry. Negative labels are none.

    >>> two = own_class_set(["cup", "plate"])
    >>> tags_of(torch.tensor([1, 1, -1, 0]), two, at_least=2).tolist()
    [False, True]
    """
    counts = torch.bincount(
        point_labels[point_labels >= 0], minlength=len(class_set)
    )
    return counts >= at_least


def read_tags(path: Path, class_set: ClassSet) -> dict[str, Tensor]:
    """Scene labels (K,) bool typed by a person, by scene: a file of lines
    ``SCENE: class, class``; "#" begins a comment line.

    ValueError naming the file and line for an unknown class, a scene given
    twice, or a line of another form.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; expected lines 'SCENE: class, class'"
        )
    tags: dict[str, Tensor] = {}
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, classes = (part.strip() for part in line.partition(":"))
        if not colon or name in tags:
            raise ValueError(
                f"{path}, line {number}: expected 'SCENE: class, class', each"
                f" scene once, found {line!r}"
            )
        try:
            tags[name] = class_set.mask(
                word for word in split_names(classes) if word
            )
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return tags
