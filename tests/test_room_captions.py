"""Captions of the rooms are true: every sentence is checked against the boxes
of its room, by code of its own."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from room_captions import (
    HELD_OUT,
    PLACES,
    SIZES,
    SLOTS,
    TEMPLATES,
    USES,
    Facts,
    caption,
    room_facts,
    truths,
)
from room_words import COLORS, MATERIALS, NAMES, VOCABULARY

from vlg_lib.rooms.plan import Thing
from vlg_lib.rooms.scenes import make_room, split_seeds
from vlg_lib.vision_language.small_tokenizer import tokenize

CANONICAL = {
    said: name for name, synonyms in NAMES.items() for said in (name, *synonyms)
}


def claims(text):
    """What a sentence claims, read from its words alone."""
    found = {}
    place = next(
        (place for place in PLACES if text.endswith(f" {place}")), None
    )
    if place:
        found["place"], text = place, text.removesuffix(place)
    use = next((use for use in USES.values() if f"to {use}" in text), None)
    if use:
        found["use"], text = use, text.replace(f"to {use}", "")
    words = (
        text.replace(" in a room", "")
        .replace(" in the room", "")
        .replace(" in the scene", "")
        .split()
    )
    sizes = {word for row in SIZES.values() for word in (row[2], row[4])}
    for slot, known in (
        ("color", COLORS),
        ("material", MATERIALS),
        ("size", sizes),
        ("name", CANONICAL),
    ):
        here = [word for word in words if word in known]
        assert len(here) <= 1, text
        if here:
            found[slot] = CANONICAL[here[0]] if slot == "name" else here[0]
    return found


def corners(room, thing):
    """All corners of all boxes of a thing."""
    return np.array(
        [
            room.centers[box]
            + room.rotations[box] @ (np.array(signs) * room.half_sizes[box])
            for box in np.flatnonzero(room.instances == thing)
            for signs in product((-1, 1), repeat=3)
        ]
    )


def gap(low, high, other_low, other_high):
    return max(0.0, other_low - high, low - other_high)


def is_true(room, thing, slot, value):
    """Whether one claim about a thing holds, from the corners of its boxes."""
    what, points = room.things[thing], corners(room, thing)
    low, high = points.min(0), points.max(0)
    if slot in ("name", "color", "material"):
        return value == getattr(what, slot)
    if slot == "use":
        return USES.get(what.name) == value
    if slot == "size":
        measure, small, little, large, much = SIZES[what.name]
        sides = sorted((high - low)[:2])
        length = {
            "across": sides[1],
            "deep": sides[0],
            "high": (high - low)[2],
        }[measure]
        return (value == little and length <= small + 1e-9) or (
            value == much and length >= large - 1e-9
        )
    to_walls = sorted(
        [low[0], low[1], room.size[0] - high[0], room.size[1] - high[1]]
    )
    if value in ("on the wall", "by the wall"):
        return to_walls[0] < (0.1 if value == "on the wall" else 0.3)
    if value == "in the corner":
        return to_walls[1] < 0.45
    if value == "in the middle":
        return to_walls[0] > 0.8
    landmark = (
        "table" if value == "on the table" else value.removeprefix("near the ")
    )
    for other, named in enumerate(room.things):
        if other != thing and named.name == landmark:
            there = corners(room, other)
            apart = [
                gap(low[i], high[i], there[:, i].min(), there[:, i].max())
                for i in (0, 1)
            ]
            if (
                value == "on the table"
                and apart == [0, 0]
                and low[2] > there[:, 2].max() - 0.1
            ):
                return True
            if value != "on the table" and np.hypot(*apart) < 0.5:
                return True
    return False


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 100_000), draw=st.integers(0, 2**31))
def test_every_sentence_is_true_of_its_thing(seed, draw):
    room = make_room(seed)
    draws = np.random.default_rng(draw).random((len(room.things), 3))
    for thing, (facts, numbers) in enumerate(
        zip(room_facts(room), draws, strict=True)
    ):
        text, meaning = caption(facts, numbers)
        assert claims(text) == meaning, text
        for slot, value in meaning.items():
            assert is_true(room, thing, slot, value), (
                f"{text!r}: {slot} of thing {thing} in room {seed}"
            )


def test_facts_are_all_that_is_true_and_nothing_else():
    """Both ways, but for what the facts leave out on purpose: near the table
    that a thing stands on, and walls."""
    for seed in range(4):
        room = make_room(seed)
        for thing, facts in enumerate(room_facts(room)):
            for size in (
                {SIZES[facts.name][i] for i in (2, 4)}
                if facts.name in SIZES
                else ()
            ):
                assert (size in facts.sizes) == is_true(
                    room, thing, "size", size
                )
            for place in PLACES:
                if place in facts.places:
                    assert is_true(room, thing, "place", place), (
                        seed,
                        thing,
                        place,
                    )
                elif (
                    place.startswith("near")
                    and not place.endswith(facts.name)
                    and facts.places
                ):
                    on_it = (
                        place == "near the table"
                        and "on the table" in facts.places
                    )
                    assert on_it or not is_true(room, thing, "place", place), (
                        seed,
                        thing,
                        place,
                    )


def test_facts_by_hand():
    """A room of 5 x 4 m: a table in its middle with a box on it, a picture on a
    wall, a bed in a corner, a lamp."""
    boxes = [  # name, centre, half sizes
        ("table", (2.5, 2, 0.4), (0.8, 0.4, 0.4)),
        ("box", (2.6, 2, 0.9), (0.1, 0.1, 0.1)),
        ("picture", (2.5, 0.02, 1.5), (0.3, 0.02, 0.3)),
        ("bed", (1.0, 3.2, 0.3), (0.95, 0.75, 0.3)),
        ("floor", (2.5, 2, -0.1), (2.5, 2, 0.1)),
        ("lamp", (4.5, 2, 0.8), (0.1, 0.1, 0.8)),
    ]
    room = SimpleNamespace(
        centers=np.array([center for _, center, _ in boxes]),
        half_sizes=np.array([half for *_, half in boxes]),
        rotations=np.tile(np.eye(3), (len(boxes), 1, 1)),
        instances=np.arange(len(boxes)),
        size=(5.0, 4.0, 2.5),
        things=[Thing(name, "red", "wooden") for name, *_ in boxes],
    )
    facts = {fact.name: fact for fact in room_facts(room)}
    assert facts["table"].sizes == ("large",)
    # which is 5 cm away
    assert facts["table"].places == ("in the middle", "near the bed")
    assert facts["box"].places == ("in the middle", "on the table")
    assert facts["picture"].places == ("on the wall",)
    assert facts["bed"].places == (
        "by the wall",
        "in the corner",
        "near the table",
    )
    assert facts["bed"].sizes == ("wide",)
    assert facts["floor"].places == ()
    # 0.4 m from a wall: neither by it nor in the middle
    assert facts["lamp"].places == ()


def test_meanings_are_true_of_those_things_that_have_all_facts():
    facts = [fact for seed in range(3) for fact in room_facts(make_room(seed))]
    facts[::4] = [fact.without_color() for fact in facts[::4]]
    draws = np.random.default_rng(0).random((len(facts), 3))
    meanings = [
        caption(fact, draw)[1] for fact, draw in zip(facts, draws, strict=True)
    ]
    table = truths(facts, meanings)
    assert table.shape == (len(facts), len(meanings))
    assert bool(table.diagonal().all())  # what is said of a thing is true of it
    for (row, fact), (column, meaning) in product(
        enumerate(facts), enumerate(meanings)
    ):
        assert bool(table[row, column]) == all(
            value in fact.values(slot) for slot, value in meaning.items()
        )
    assert 0.005 < float(table.float().mean()) < 0.2


def test_held_out_pairs_are_never_said_but_their_words_are():
    """Neither in the words of a sentence (synonyms included) nor in its
    meaning, from which image captions are made."""
    facts = [
        fact
        for seed in split_seeds("vlm-train", 24)
        for fact in room_facts(make_room(seed))
    ]
    held = [fact for fact in facts if (fact.color, fact.name) in HELD_OUT]
    assert len({(fact.color, fact.name) for fact in held}) >= 8
    said = set()
    for fact, draws in zip(
        held * 40,
        np.random.default_rng(0).random((40 * len(held), 3)),
        strict=True,
    ):
        text, meaning = caption(fact, draws)
        assert (meaning.get("color"), meaning.get("name")) not in HELD_OUT
        read = claims(text)
        assert (read.get("color"), read.get("name")) not in HELD_OUT, text
        said |= {
            (slot, read[slot]) for slot in ("color", "name") if slot in read
        }
    for color, name in {(fact.color, fact.name) for fact in held}:
        assert ("color", color) in said
        assert ("name", name) in said


def test_every_sentence_is_of_known_words_and_every_template_is_used():
    facts = [fact for seed in range(12) for fact in room_facts(make_room(seed))]
    draws = np.random.default_rng(1).random((len(facts), 3))
    texts = [
        caption(fact, draw)[0] for fact, draw in zip(facts, draws, strict=True)
    ]
    tokenize(texts, VOCABULARY)
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    used = {slot for text in texts for slot in claims(text)}
    assert used == set(SLOTS)
    openings = {template.split("{")[0] for template in TEMPLATES}
    assert openings == {
        opening
        for opening in openings
        if any(text.startswith(opening) for text in texts)
    }
    # synonyms
    assert any(
        CANONICAL[word] != word
        for text in texts
        for word in text.split()
        if word in CANONICAL
    )


def test_a_thing_whose_hue_was_turned_has_no_colour():
    fact = Facts(
        "sofa", "red", "fabric", ("large",), ("by the wall",)
    ).without_color()
    draws = torch.rand(
        300, 3, generator=torch.Generator().manual_seed(0)
    ).tolist()
    assert not any("color" in caption(fact, draw)[1] for draw in draws)
    assert not any("red" in caption(fact, draw)[0].split() for draw in draws)
    assert truths([fact], [{"color": "red"}, {"name": "sofa"}]).tolist() == [
        [False, True]
    ]


@pytest.mark.parametrize(("color", "name"), sorted(HELD_OUT))
def test_held_out_pairs_are_of_known_words_and_occur_in_rooms(color, name):
    assert color in COLORS
    assert name in NAMES
