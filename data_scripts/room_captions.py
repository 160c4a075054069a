"""What can truly be said of a thing in a room, and sentences that say it, for
the training of the small models.

A sentence has a *meaning*: the facts that it claims. "A red chair by the wall"
claims a name, a colour and a place, so it is true of every region whose thing
is a chair, red, and by a wall. :func:`truths` says which sentences of a batch
are true of which regions: those are each other's positives. Some pairs of a
colour and a name are never said together (``HELD_OUT``), so that it can be
measured whether the model puts words together or knows phrases by heart.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from room_words import NAMES
from torch import Tensor

from vlg_lib.rooms.scenes import Room

USES = {
    "chair": "sit on",
    "sofa": "sit on",
    "bed": "sleep on",
    "table": "put things on",
    "bookcase": "store things in",
    "cabinet": "store things in",
    "box": "store things in",
    "board": "write on",
    "window": "look through",
    "door": "go through",
    "floor": "walk on",
    "rug": "walk on",
    "screen": "look at",
    "picture": "look at",
}

# Which measure of a thing decides, in metres, and what it is called up to the
# first limit and from the second one on.
SIZES: dict[str, tuple[str, float, str, float, str]] = {
    "table": ("across", 0.95, "small", 1.5, "large"),
    "sofa": ("across", 1.1, "small", 1.7, "large"),
    "bed": ("deep", 1.1, "narrow", 1.5, "wide"),
    "cabinet": ("high", 0.8, "low", 1.4, "tall"),
    "bookcase": ("high", 1.65, "low", 1.9, "tall"),
    "window": ("across", 1.1, "narrow", 1.5, "wide"),
    "board": ("across", 1.4, "narrow", 1.8, "wide"),
    "plant": ("high", 0.8, "small", 1.1, "tall"),
    "box": ("across", 0.3, "small", 0.42, "large"),
    "screen": ("across", 0.6, "small", 0.8, "large"),
}

LANDMARKS = ("window", "door", "bed", "sofa", "table", "bookcase", "board")
PLACES = (
    "on the wall",
    "by the wall",
    "in the corner",
    "in the middle",
    "on the table",
    *(f"near the {name}" for name in LANDMARKS),
)

HELD_OUT = frozenset(
    {
        ("red", "sofa"),
        ("white", "table"),
        ("blue", "bed"),
        ("brown", "cabinet"),
        ("green", "board"),
        ("orange", "chair"),
        ("beige", "bookcase"),
        ("grey", "floor"),
        ("yellow", "lamp"),
        ("beige", "door"),
    }
)
"""Pairs of a colour and a name that no sentence of the training says
together."""

TEMPLATES = (
    "{name}",
    "a {name}",
    "the {name}",
    "a {name} in a scene",
    "a {name} in the room",
    "a photo of a {name}",
    "there is a {name} in the scene",
    "a {color} {name}",
    "a {color} {name} in a room",
    "a photo of a {color} {name}",
    "a {material} {name}",
    "a {color} {material} {name}",
    "a {size} {name}",
    "a {size} {color} {name}",
    "a {name} {place}",
    "a {color} {name} {place}",
    "there is a {size} {name} {place}",
    "something {color}",
    "something {material}",
    "a {color} thing {place}",
    "something to {use}",
    "a {color} thing to {use}",
    "something to {use} {place}",
)
SLOTS = ("name", "color", "material", "size", "place", "use")
_FIELDS = {
    template: frozenset(re.findall(r"\{(\w+)\}", template))
    for template in TEMPLATES
}
NAME_ONLY_CHANCE = 0.5
SYNONYM_CHANCE = 0.2


@dataclass(frozen=True)
class Facts:
    """What is true of a thing. ``color`` is "" where nobody can tell (its hue
    was turned).
    """

    name: str
    color: str
    material: str
    sizes: tuple[str, ...] = ()
    places: tuple[str, ...] = ()

    def values(self, slot: str) -> tuple[str, ...]:
        """All that may be said in a slot."""
        if slot == "use":
            return (USES[self.name],) if self.name in USES else ()
        found: dict[str, tuple[str, ...]] = {
            "name": (self.name,),
            "color": (self.color,) if self.color else (),
            "material": (self.material,),
            "size": self.sizes,
            "place": self.places,
        }
        return found[slot]

    def without_color(self) -> "Facts":
        """The same thing with turned hues."""
        return replace(self, color="")


Meaning = dict[str, str]
"""What a sentence claims: a value for each slot that it fills."""


def room_facts(room: Room) -> list[Facts]:
    """The facts of every thing of a room, from the boxes it is made of."""
    reach = np.einsum("bij,bj->bi", np.abs(room.rotations), room.half_sizes)
    low = np.array(
        [
            (room.centers - reach)[room.instances == i].min(0)
            for i in range(len(room.things))
        ]
    )
    high = np.array(
        [
            (room.centers + reach)[room.instances == i].max(0)
            for i in range(len(room.things))
        ]
    )
    names = [thing.name for thing in room.things]
    return [
        Facts(
            thing.name,
            thing.color,
            thing.material,
            _sizes(thing.name, high[i] - low[i]),
            _places(i, names, low, high, room.size),
        )
        for i, thing in enumerate(room.things)
    ]


def _sizes(name: str, extent: Float[np.ndarray, "3"]) -> tuple[str, ...]:
    if name not in SIZES:
        return ()
    measure, small, little, large, much = SIZES[name]
    length = {
        "across": max(extent[:2]),
        "deep": min(extent[:2]),
        "high": extent[2],
    }[measure]
    return (little,) if length <= small else (much,) if length >= large else ()


def _places(
    thing: int,
    names: Sequence[str],
    low: Float[np.ndarray, "T 3"],
    high: Float[np.ndarray, "T 3"],
    size: tuple[float, float, float],
) -> tuple[str, ...]:
    """Where a thing is: at walls and corners, beside or on other things;
    nothing is said of the room's own surfaces.
    """
    if names[thing] in ("floor", "wall", "ceiling"):
        return ()
    gaps = np.sort(
        np.concatenate([low[thing, :2], np.array(size[:2]) - high[thing, :2]])
    )
    hangs = gaps[0] < 0.1 and low[thing, 2] > 0.4
    found = (
        ["on the wall"] if hangs else ["by the wall"] if gaps[0] < 0.3 else []
    )
    if gaps[1] < 0.45 and names[thing] not in ("window", "door"):
        found.append("in the corner")
    if gaps[0] > 0.8:
        found.append("in the middle")
    for other, name in enumerate(names):
        if name in LANDMARKS and name != names[thing]:
            apart = np.maximum(
                0,
                np.maximum(low[other] - high[thing], low[thing] - high[other]),
            )[:2]
            over = bool((apart == 0).all())
            if (
                name == "table"
                and over
                and low[thing, 2] > high[other, 2] - 0.1
            ):
                found.append("on the table")
            elif float(np.hypot(*apart)) < 0.5:
                found.append(f"near the {name}")
    return tuple(place for place in PLACES if place in found)


def caption(facts: Facts, draws: Sequence[float]) -> tuple[str, Meaning]:
    """A sentence about a thing and its meaning, from three random numbers in
    [0, 1).
    """
    kind, which, word = draws
    offered = {slot for slot in SLOTS if facts.values(slot)}
    if (facts.color, facts.name) in HELD_OUT and which < 0.5:
        # of a held-out pair either the colour is said, or the name
        offered -= {"color"}
    elif (facts.color, facts.name) in HELD_OUT:
        offered -= {"name"}
    plain = "name" in offered and kind < NAME_ONLY_CHANCE
    fitting = [
        t
        for t in TEMPLATES
        if _FIELDS[t] <= offered and (_FIELDS[t] == {"name"}) == plain
    ]
    template = fitting[int((which * 2 % 1) * len(fitting))]
    meaning = {}
    for slot in sorted(_FIELDS[template]):
        values = facts.values(slot)
        meaning[slot] = values[int(word * len(values))]
    return template.format(**meaning | _said(meaning, word)), meaning


def _said(meaning: Meaning, draw: float) -> Meaning:
    """A synonym in place of the name, sometimes."""
    synonyms = NAMES.get(meaning.get("name", ""), ())
    if not synonyms or draw >= SYNONYM_CHANCE:
        return {}
    return {"name": synonyms[int(draw / SYNONYM_CHANCE * len(synonyms))]}


def truths(
    facts: Sequence[Facts], meanings: Sequence[Meaning]
) -> Bool[Tensor, "R C"]:
    """Which meanings are true of which things: (R, C) bool, all slots at
    once.
    """
    true = torch.ones(len(facts), len(meanings), dtype=torch.bool)
    for slot in SLOTS:
        words = sorted(
            {meaning[slot] for meaning in meanings if slot in meaning}
        )
        offered = [set(thing.values(slot)) for thing in facts]
        holds = torch.tensor(
            [[True, *(word in values for word in words)] for values in offered],
            dtype=torch.bool,
        )
        place = {word: column for column, word in enumerate(words, start=1)}
        true &= holds[
            :,
            [
                place[meaning[slot]] if slot in meaning else 0
                for meaning in meanings
            ],
        ]
    return true
