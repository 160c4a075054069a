"""Floor plans: a seed becomes a furnished room of oriented boxes, which is an
office, a meeting room, a living room or a bedroom.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vlg_lib.classes import IGNORE_LABEL, ROOMS_12
from vlg_lib.rooms import furniture as make
from vlg_lib.rooms.furniture import Furniture, Part, box, turned
from vlg_lib.rooms.materials import (
    FIXED_SLOTS,
    MATERIALS,
    STYLES,
    TEXTURES,
    draw_color,
)

ROOM_KINDS = ("office", "meeting", "living", "bedroom")

_SIZES = {
    "office": ((4.0, 6.0), (3.8, 5.2)),
    "meeting": ((4.6, 7.0), (4.0, 5.4)),
    "living": ((4.4, 6.2), (4.0, 5.6)),
    "bedroom": ((3.6, 5.0), (3.6, 4.8)),
}
_DOOR_CHANCE = {"office": 0.85, "meeting": 0.8, "living": 0.6, "bedroom": 0.85}
_BOARD_CHANCE = {"office": 0.6, "meeting": 0.9, "living": 0.0, "bedroom": 0.12}
_CEILING_CHANCE = 0.65
# A plan with fewer pieces of furniture is drawn again: nearly empty rooms teach
# nothing.
_MIN_BOXES = 40
_ATTEMPTS = 8


Area = tuple[float, float, float, float]
"""A footprint on the floor, in metres: x low, x high, y low, y high."""


def kind_of(index: int) -> str:
    """The kind of the room with a running number: the four kinds take turns, so
    that each is equally frequent.

    >>> [kind_of(seed) for seed in range(4)]
    ['office', 'meeting', 'living', 'bedroom']
    """
    return ROOM_KINDS[index % len(ROOM_KINDS)]


@dataclass(frozen=True)
class Thing:
    """An object of a room, as a caption would name it: ``name`` (a class, or an
    unlabelled word), colour, material.
    """

    name: str
    color: str
    material: str


@dataclass(frozen=True, eq=False)
class Room:
    """A room of B oriented boxes; box b belongs to the object
    ``things[instances[b]]``.

    ``centers, half_sizes``: (B, 3) float64, metres, world frame, z up.
    ``rotations``: (B, 3, 3), box to world. ``classes``: (B,) index into
    Rooms-12 or the ignore label. ``colors``: (B, 3) float32 in 0-1.
    ``textures``: (B,) index into ``TEXTURES``. ``glow``: (B,) float32.
    ``light``: (3,) the point light. ``size``: width, depth and height.
    """

    seed: int
    kind: str
    shift: float
    size: tuple[float, float, float]
    light: Float[np.ndarray, "3"]
    centers: Float[np.ndarray, "B 3"]
    half_sizes: Float[np.ndarray, "B 3"]
    rotations: Float[np.ndarray, "B 3 3"]
    classes: Int[np.ndarray, " B"]
    instances: Int[np.ndarray, " B"]
    textures: Int[np.ndarray, " B"]
    colors: Float[np.ndarray, "B 3"]
    glow: Float[np.ndarray, " B"]
    things: tuple[Thing, ...]

    @cached_property
    def embree(self) -> Any:
        """The room as an embree scene of 12 triangles a box, built once;
        ImportError where embreex is missing.
        """
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        corner = np.array(
            [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)],
            dtype=np.float64,
        )
        local = corner * self.half_sizes[:, None]
        turned_corners = np.einsum("bij,bkj->bki", self.rotations, local)
        corners = turned_corners + self.centers[:, None]
        # Two triangles a face, faces in the order -x, +x, -y, +y, -z, +z:
        # triangle // 2 % 6 is the face.
        quads = (
            (0, 1, 3, 2),
            (4, 5, 7, 6),
            (0, 1, 5, 4),
            (2, 3, 7, 6),
            (0, 2, 6, 4),
            (1, 3, 7, 5),
        )
        order = np.array(
            [
                [quad[i] for i in half]
                for quad in quads
                for half in ((0, 1, 2), (0, 2, 3))
            ]
        )
        scene = EmbreeScene()
        TriangleMesh(
            scene, corners[:, order].reshape(-1, 3, 3).astype(np.float32)
        )
        return scene


class _Plan:
    """A room being furnished: what stands where, so that nothing overlaps and
    nothing hides a door.
    """

    def __init__(self, rng: np.random.Generator, kind: str) -> None:
        self.rng = rng
        self.width, self.depth = (
            float(rng.uniform(*limits)) for limits in _SIZES[kind]
        )
        self.height = float(rng.uniform(2.5, 3.0))
        self.items: list[Furniture] = []
        self.taken: list[Area] = []
        self.hung: list[tuple[int, float, float]] = []

    def add(
        self,
        item: Furniture,
        x: float,
        y: float,
        z: float = 0.0,
        yaw: float = 0.0,
    ) -> None:
        item.position, item.yaw = (x, y, z), yaw
        self.items.append(item)

    def at_wall(
        self, wall: int, along: float, out: float
    ) -> tuple[float, float, float]:
        """(x, y, yaw) of a place ``along`` wall 0-3 (north, east, south, west)
        and ``out`` of it; +y faces the wall.
        """
        w, d = self.width, self.depth
        x, y = (
            (along, d - out),
            (w - out, d - along),
            (w - along, out),
            (out, along),
        )[wall]
        return x, y, -wall * np.pi / 2

    def stretches(
        self, half: float, margin: float, tries: int
    ) -> Iterator[tuple[int, float]]:
        """Random places (wall, along) for something that reaches ``half``
        metres to both sides along the wall.
        """
        for _ in range(tries):
            wall = int(self.rng.integers(4))
            length = (self.width, self.depth)[wall % 2]
            if length >= 2 * half + 0.2:
                yield (
                    wall,
                    float(
                        self.rng.uniform(half + margin, length - half - margin)
                    ),
                )

    def is_bare(self, wall: int, along: float, half: float) -> bool:
        """Whether nothing hangs on that stretch of wall."""
        return all(
            w != wall or along + half < low or along - half > high
            for w, low, high in self.hung
        )

    def fits(
        self, area: Area, gap: float = 0.06, besides: Area | None = None
    ) -> bool:
        """Whether a footprint is inside the room and free; ``besides``: a
        footprint that does not matter.
        """
        x0, x1, y0, y1 = area
        if x0 < 0 or y0 < 0 or x1 > self.width or y1 > self.depth:
            return False
        others = [other for other in self.taken if other != besides]
        return all(
            x1 + gap <= a or b + gap <= x0 or y1 + gap <= c or d + gap <= y0
            for a, b, c, d in others
        )

    @staticmethod
    def footprint(item: Furniture, x: float, y: float, yaw: float) -> Area:
        half_x, half_y = turned(
            item.size[0] / 2, item.size[1] / 2, yaw
        ).tolist()
        return x - half_x, x + half_x, y - half_y, y + half_y

    def put(self, item: Furniture, x: float, y: float, yaw: float) -> bool:
        """Put an item on the floor where it fits."""
        area = self.footprint(item, x, y, yaw)
        if self.fits(area):
            self.taken.append(area)
            self.add(item, x, y, yaw=yaw)
            return True
        return False

    def hang(self, item: Furniture) -> None:
        """Hang an item on a free stretch of wall; a door keeps floor free."""
        half = item.size[0] / 2 + 0.1
        for wall, along in self.stretches(half, 0.1, tries=20):
            if self.is_bare(wall, along, half):
                if item.name == "door":
                    x, y, _ = self.at_wall(wall, along, 0.45)
                    self.taken.append((x - 0.5, x + 0.5, y - 0.5, y + 0.5))
                self.hung.append((wall, along - half, along + half))
                x, y, yaw = self.at_wall(wall, along, 0.0)
                self.add(item, x, y, yaw=yaw)
                return

    def stand(self, item: Furniture, tries: int = 30) -> bool:
        """Stand an item with its back at a wall; tall ones keep clear of
        windows, boards and doors.
        """
        half = item.size[0] / 2
        return any(
            (item.size[2] <= 0.95 or self.is_bare(wall, along, half))
            and self.put(
                item, *self.at_wall(wall, along, item.size[1] / 2 + 0.02)
            )
            for wall, along in self.stretches(half, 0.03, tries)
        )

    def place(
        self,
        item: Furniture,
        margin: float = 0.3,
        tries: int = 30,
        turn: float = 0.12,
    ) -> bool:
        """Place an item freely in the room, nearly square to the walls."""
        for _ in range(tries):
            yaw = float(
                self.rng.integers(4) * np.pi / 2 + self.rng.uniform(-turn, turn)
            )
            x, y = (
                float(self.rng.uniform(margin, side - margin))
                for side in (self.width, self.depth)
            )
            if self.put(item, x, y, yaw):
                return True
        return False

    def perhaps(
        self,
        put: Callable[[Furniture], object],
        *options: tuple[float, Callable[[np.random.Generator], Furniture]],
    ) -> None:
        """Make each of some things with its chance, and put it somewhere: by
        ``stand``, ``hang`` or ``place``.
        """
        for chance, maker in options:
            if self.rng.random() < chance:
                put(maker(self.rng))

    def beside(
        self,
        item: Furniture,
        host: Furniture,
        along: float,
        out: float,
        turn: float,
    ) -> None:
        """Place an item in the frame of another (``along`` its x, ``out``
        before its front), turned to face it.
        """
        x, y = _before(host, along, out)
        yaw = float(host.yaw + np.pi + turn + self.rng.uniform(-0.3, 0.3))
        x0, x1, y0, y1 = self.footprint(item, x, y, yaw)
        # Chairs may be pushed under a table a little, but not through a wall.
        shrunk = (x0 + 0.08, x1 - 0.08, y0 + 0.08, y1 - 0.08)
        inside = min(x0, y0) > 0 and x1 < self.width and y1 < self.depth
        if inside and self.fits(
            shrunk, 0.0, self.footprint(host, *host.position[:2], host.yaw)
        ):
            self.taken.append(shrunk)
            self.add(item, x, y, yaw=yaw)

    def on_top(
        self,
        item: Furniture,
        host: Furniture,
        along: float = 0.0,
        back: float = 0.1,
    ) -> None:
        """Put a small item on another's top, turned to the host's front."""
        self.add(
            item,
            *_before(host, along, -back),
            host.size[2],
            float(host.yaw + self.rng.uniform(-0.2, 0.2)),
        )


def _before(host: Furniture, along: float, out: float) -> tuple[float, float]:
    """World x and y of a place in an item's frame: ``along`` its x, ``out``
    metres before its middle.
    """
    c, s = np.cos(host.yaw), np.sin(host.yaw)
    return float(host.position[0] + c * along + s * out), float(
        host.position[1] + s * along - c * out
    )


def _desk_with_chair(plan: _Plan) -> None:
    rng = plan.rng
    desk = make.table(rng, "desk")
    if plan.stand(desk):
        plan.beside(
            make.chair(rng),
            desk,
            float(rng.uniform(-0.2, 0.2)),
            desk.size[1] / 2 + 0.25,
            0.0,
        )
        if rng.random() < 0.8:
            plan.on_top(make.screen(rng), desk, float(rng.uniform(-0.25, 0.1)))
        if rng.random() < 0.4:
            plan.on_top(make.carton(rng), desk, 0.42, 0.0)


def _chairs_around(plan: _Plan, table: Furniture, chance: float) -> None:
    rng = plan.rng
    seats = max(1, int(table.size[0] / 0.75))
    for side, turn in ((1, 0.0), (-1, np.pi)):
        for i in range(seats):
            if rng.random() < chance:
                along = (i - (seats - 1) / 2) * table.size[0] / seats
                plan.beside(
                    make.chair(rng),
                    table,
                    along,
                    side * (table.size[1] / 2 + 0.18),
                    turn,
                )


def _office(plan: _Plan) -> None:
    rng = plan.rng
    for _ in range(int(rng.integers(2, 4))):
        _desk_with_chair(plan)
    plan.stand(make.bookcase(rng))
    plan.perhaps(
        plan.stand,
        (0.35, make.bookcase),
        (0.45, make.cabinet),
        (0.15, make.sofa),
        (0.6, make.waste_bin),
    )
    if rng.random() < 0.5:
        plan.stand(make.cabinet(rng, "tall" if rng.random() < 0.5 else "low"))


def _meeting(plan: _Plan) -> None:
    table = make.table(plan.rng, "meeting")
    if plan.place(table, margin=1.4, tries=60, turn=0.06):
        _chairs_around(plan, table, 0.75)
    plan.perhaps(
        plan.stand,
        (0.55, make.cabinet),
        (0.3, make.bookcase),
        (0.4, make.waste_bin),
        (0.3, make.chair),
    )
    plan.perhaps(plan.hang, (0.3, make.board))


def _living(plan: _Plan) -> None:
    rng = plan.rng
    sofa = make.sofa(rng)
    if plan.stand(sofa) and rng.random() < 0.75:
        plan.beside(
            make.table(rng, "coffee"), sofa, 0.0, sofa.size[1] / 2 + 0.65, 0.0
        )
    plan.perhaps(plan.stand, (0.5, make.sofa))
    if rng.random() < 0.7:
        television = make.cabinet(rng)
        if plan.stand(television) and rng.random() < 0.8:
            plan.on_top(make.screen(rng, 0.9), television, 0.0, 0.0)
    if rng.random() < 0.55:
        dining = make.table(rng, "dining")
        if plan.place(dining, margin=0.9):
            _chairs_around(plan, dining, 0.8)
    plan.perhaps(plan.stand, (0.7, make.bookcase), (0.3, make.bookcase))


def _bedroom(plan: _Plan) -> None:
    rng = plan.rng
    plan.stand(make.bed(rng), tries=60)
    plan.perhaps(plan.stand, (0.2, make.bed))
    for _ in range(int(rng.integers(1, 3))):
        plan.stand(make.cabinet(rng, "bedside"))
    if rng.random() < 0.75:
        plan.stand(make.cabinet(rng, "tall"))
    if rng.random() < 0.6:
        _desk_with_chair(plan)
    plan.perhaps(
        plan.stand, (0.35, make.bookcase), (0.25, make.chair), (0.12, make.sofa)
    )


_FURNISH: dict[str, Callable[[_Plan], None]] = {
    "office": _office,
    "meeting": _meeting,
    "living": _living,
    "bedroom": _bedroom,
}


def _furnish(plan: _Plan, kind: str) -> None:
    """Doors, windows and boards on the walls, then what the kind of room
    needs, then what any room may have.
    """
    rng = plan.rng
    plan.perhaps(plan.hang, (_DOOR_CHANCE[kind], make.door))
    for _ in range(int(rng.choice([0, 1, 2], p=[0.15, 0.5, 0.35]))):
        plan.hang(make.window(rng))
    plan.perhaps(plan.hang, (_BOARD_CHANCE[kind], make.board))
    _FURNISH[kind](plan)
    plan.perhaps(
        plan.place, (0.5, make.plant), (0.35, make.lamp), (0.4, make.carton)
    )
    plan.perhaps(plan.hang, (0.5, make.picture))
    if kind in ("living", "bedroom") and rng.random() < 0.6:
        rug = make.rug(rng)
        plan.add(
            rug,
            float(rng.uniform(1.3, plan.width - 1.3)),
            float(rng.uniform(1.3, plan.depth - 1.3)),
        )


def _shell(plan: _Plan, with_ceiling: bool) -> list[Furniture]:
    """Floor, walls and perhaps a ceiling, 12 cm thick, outside the room."""
    w, d, h, t = plan.width, plan.depth, plan.height, 0.12
    shell = [
        Furniture("floor", [box((-t, w + t), (-t, d + t), (-t, 0.0))]),
        Furniture(
            "wall",
            [
                box((-t, w + t), (d, d + t), (0.0, h)),
                box((-t, w + t), (-t, 0.0), (0.0, h)),
                box((w, w + t), (0.0, d), (0.0, h)),
                box((-t, 0.0), (0.0, d), (0.0, h)),
            ],
        ),
    ]
    if with_ceiling:
        shell.append(
            Furniture("ceiling", [box((-t, w + t), (-t, d + t), (h, h + t))])
        )
    return shell


def _paint(
    item: Furniture, rng: np.random.Generator, shift: float
) -> tuple[Thing, int, list[np.ndarray]]:
    """Draw an object's looks: caption words, texture, and one colour a part.

    Both palettes are always drawn from and ``shift`` only chooses, so that one
    seed at two shifts is the same room with some objects re-coloured: a paired
    comparison.
    """
    style = STYLES[item.name]
    texture = style.textures[int(rng.integers(len(style.textures)))]
    source = draw_color(rng, style.source, style.pale)
    target = draw_color(rng, style.target, style.pale)
    word, main = target if rng.random() < shift else source
    slots = {
        slot: dict.fromkeys(words, 1) for slot, words in FIXED_SLOTS.items()
    }
    fixed = {
        slot: draw_color(rng, weights)[1] for slot, weights in slots.items()
    }
    painted = {**fixed, "main": main, "shade": main * np.float32(0.78)}
    colors = []
    for part in item.parts:
        # Each row of books has a colour of its own.
        painted["book"] = draw_color(rng, slots["book"])[1]
        colors.append(painted[part.slot])
    thing = Thing(item.name, word, MATERIALS[texture])
    return thing, TEXTURES.index(texture), colors


def _to_world(item: Furniture, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """The centre (3,) and the rotation (3, 3) of a part in the room."""
    offset = _turn(item.yaw) @ np.array(part.center)
    return np.array(item.position) + offset, _turn(item.yaw + part.yaw)


def _turn(yaw: float) -> np.ndarray:
    """The rotation (3, 3) by ``yaw`` radians about z."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def make_room(seed: int, kind: str | None = None, shift: float = 0.0) -> Room:
    """Build the room of a seed: 44-95 oriented boxes or so, deterministic, the
    same plan at every shift.

    ``kind``: one of ``ROOM_KINDS`` (default: ``kind_of(seed)``). ``shift``:
    chance in [0, 1] that an object takes its colours from the second palette,
    which the small vision-language model never saw. ValueError for other
    values.

    >>> room = make_room(7)
    >>> room.kind, len(room.centers) >= 40
    ('bedroom', True)
    >>> make_room(7, shift=1.0).things[0].name == room.things[0].name
    True
    """
    kind = kind_of(seed) if kind is None else kind
    if kind not in ROOM_KINDS:
        raise ValueError(
            f"unknown room kind {kind!r}; known: {', '.join(ROOM_KINDS)}"
        )
    if not 0.0 <= shift <= 1.0:
        raise ValueError(
            f"shift is a share of objects and must be in [0, 1], found {shift}"
        )
    plan = _draw_plan(seed, kind)
    with_ceiling = bool(plan.rng.random() < _CEILING_CHANCE)
    light = np.array(
        [
            plan.width * plan.rng.uniform(0.35, 0.65),
            plan.depth * plan.rng.uniform(0.35, 0.65),
            plan.height - 0.3,
        ]
    )
    things: list[Thing] = []
    boxes: list[_Box] = []
    for instance, item in enumerate(_shell(plan, with_ceiling) + plan.items):
        # One stream an object, so that a change to one object's looks leaves
        # the others alone.
        rng = np.random.default_rng([seed, 7919, instance])
        thing, texture, colors = _paint(item, rng, shift)
        things.append(thing)
        boxes += _boxes(item, instance, texture, colors)
    return Room(
        seed=seed,
        kind=kind,
        shift=float(shift),
        size=(plan.width, plan.depth, plan.height),
        light=light,
        centers=np.stack([box.center for box in boxes]),
        half_sizes=np.stack([box.half_size for box in boxes]),
        rotations=np.stack([box.rotation for box in boxes]),
        classes=np.array([box.label for box in boxes], dtype=np.int64),
        instances=np.array([box.instance for box in boxes], dtype=np.int64),
        textures=np.array([box.texture for box in boxes], dtype=np.int64),
        colors=np.stack([box.color for box in boxes]).astype(np.float32),
        glow=np.array([box.glow for box in boxes], dtype=np.float32),
        things=tuple(things),
    )


def _draw_plan(seed: int, kind: str) -> _Plan:
    """The first furnished plan of a seed that has enough in it, or the last
    one.
    """
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, ROOM_KINDS.index(kind), attempt])
        plan = _Plan(rng, kind)
        _furnish(plan, kind)
        if sum(len(item.parts) for item in plan.items) >= _MIN_BOXES:
            break
    return plan


class _Box(NamedTuple):
    """One row of a :class:`Room`."""

    center: np.ndarray
    half_size: np.ndarray
    rotation: np.ndarray
    label: int
    instance: int
    texture: int
    color: np.ndarray
    glow: float


def _boxes(
    item: Furniture, instance: int, texture: int, colors: Sequence[np.ndarray]
) -> Iterator[_Box]:
    """The boxes of an object that stands in its room, one a part."""
    known = item.name in ROOMS_12.names
    label = ROOMS_12.index(item.name) if known else IGNORE_LABEL
    for part, color in zip(item.parts, colors, strict=True):
        center, rotation = _to_world(item, part)
        # Only the object's own colour carries its texture; legs, frames and
        # books are plain.
        own = texture if part.slot in ("main", "shade") else 0
        half_size = np.array(part.half)
        yield _Box(
            center, half_size, rotation, label, instance, own, color, part.glow
        )
