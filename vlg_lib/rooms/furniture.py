"""Furniture from boxes. Each function builds one object in its own frame:
origin on the floor, back towards +y.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

Vector = tuple[float, float, float]
Interval = tuple[float, float]
Sizes = dict[str, tuple[Interval, Interval, Interval]]
"""Least and largest width, depth and height, in metres, of each kind."""

_TABLE_SIZES: Sizes = {
    "desk": ((1.2, 1.7), (0.65, 0.85), (0.71, 0.77)),
    "meeting": ((1.9, 2.9), (0.95, 1.25), (0.72, 0.77)),
    "dining": ((1.2, 1.7), (0.8, 0.95), (0.72, 0.77)),
    "coffee": ((0.8, 1.2), (0.5, 0.7), (0.38, 0.48)),
}
_CABINET_SIZES: Sizes = {
    "low": ((0.8, 1.7), (0.4, 0.52), (0.6, 1.05)),
    "bedside": ((0.4, 0.5), (0.36, 0.44), (0.45, 0.6)),
    "tall": ((0.9, 1.7), (0.5, 0.62), (1.8, 2.2)),
}


@dataclass(frozen=True)
class Part:
    """One box of an object: centre and half sizes in metres, yaw in radians
    about z, and what it is painted with.

    ``slot`` is "main" for the object's own colour, "shade" for a darker tone of
    it, or a key of ``FIXED_SLOTS``. ``glow`` is light that the surface gives
    off by itself (a bright window), 0 to 1.
    """

    center: Vector
    half: Vector
    slot: str = "main"
    yaw: float = 0.0
    glow: float = 0.0


@dataclass
class Furniture:
    """An object of the room: its name (a class of Rooms-12, or the word of an
    unlabelled thing) and its boxes.
    """

    name: str
    parts: list[Part]
    position: Vector = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    size: Vector = field(default=(0.0, 0.0, 0.0))

    def __post_init__(self) -> None:
        """Measure the bounding box (full sizes along x, y, z in the object's
        frame) from the parts.
        """
        x, y = 2 * np.max(
            [
                np.abs(part.center[:2]) + turned(*part.half[:2], part.yaw)
                for part in self.parts
            ],
            axis=0,
        )
        self.size = (
            float(x),
            float(y),
            float(max(part.center[2] + part.half[2] for part in self.parts)),
        )


def turned(x: float, y: float, yaw: float) -> Float[np.ndarray, "2"]:
    """Half sizes along the world's axes of a rectangle with half sizes x, y
    that is turned by ``yaw`` radians.
    """
    c, s = abs(np.cos(yaw)), abs(np.sin(yaw))
    return np.array([x * c + y * s, x * s + y * c])


def box(
    x: Interval, y: Interval, z: Interval, slot: str = "main", glow: float = 0.0
) -> Part:
    """A part from its extents (low, high) along x, y and z."""
    low, high = np.array([x[0], y[0], z[0]]), np.array([x[1], y[1], z[1]])
    center, half = (low + high) / 2, (high - low) / 2
    return Part(tuple(center.tolist()), tuple(half.tolist()), slot, glow=glow)


def _legs(
    width: float, depth: float, height: float, thickness: float, slot: str
) -> list[Part]:
    x, y = width / 2 - thickness, depth / 2 - thickness
    half = (thickness / 2, thickness / 2, height / 2)
    return [
        Part((sx * x, sy * y, height / 2), half, slot)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]


def _draw_size(
    rng: np.random.Generator, sizes: Sizes, kind: str
) -> tuple[float, ...]:
    """Width, depth and height of a piece of some kind.

    All kinds are drawn and one is kept, so that two kinds take as many random
    numbers: what comes after does not depend on the kind.
    """
    drawn = {
        name: tuple(rng.uniform(*limits) for limits in ranges)
        for name, ranges in sizes.items()
    }
    return drawn[kind]


def chair(rng: np.random.Generator) -> Furniture:
    """A chair with four legs, or an office chair on one column."""
    w = rng.uniform(0.42, 0.52)
    d = rng.uniform(0.42, 0.5)
    h = rng.uniform(0.43, 0.48)
    top = rng.uniform(0.85, 1.05)
    parts = [
        box((-w / 2, w / 2), (-d / 2, d / 2), (h - 0.06, h)),
        box((-w / 2, w / 2), (d / 2 - 0.06, d / 2), (h + 0.08, top)),
    ]
    if rng.random() < 0.45:
        parts += [box((-0.03, 0.03), (-0.03, 0.03), (0.06, h - 0.06), "metal")]
        parts += [
            Part((0, 0, 0.04), (0.28, 0.03, 0.03), "metal", yaw)
            for yaw in (0.0, np.pi / 2)
        ]
    else:
        parts += _legs(
            w, d, h - 0.06, 0.045, "shade" if rng.random() < 0.5 else "metal"
        )
    if rng.random() < 0.3:
        parts += [
            box(
                (s - 0.025, s + 0.025),
                (-d / 2, d / 2),
                (h + 0.16, h + 0.2),
                "shade",
            )
            for s in (-w / 2, w / 2)
        ]
    return Furniture("chair", parts)


def table(rng: np.random.Generator, kind: str = "desk") -> Furniture:
    """A desk, a large meeting or dining table, or a low coffee table."""
    width, depth, height = _draw_size(rng, _TABLE_SIZES, kind)
    slot = "metal" if rng.random() < 0.5 else "shade"
    parts = [
        box(
            (-width / 2, width / 2),
            (-depth / 2, depth / 2),
            (height - 0.05, height),
        )
    ]
    if rng.random() < 0.6:
        parts += _legs(width, depth, height - 0.05, 0.06, slot)
    else:
        parts += [
            box(
                (s - 0.025, s + 0.025),
                (-depth / 2 + 0.05, depth / 2 - 0.05),
                (0, height - 0.05),
                slot,
            )
            for s in (-width / 2 + 0.08, width / 2 - 0.08)
        ]
    if kind == "desk" and rng.random() < 0.5:
        parts += [
            box(
                (width / 2 - 0.5, width / 2 - 0.1),
                (-depth / 2 + 0.1, depth / 2 - 0.05),
                (0.1, height - 0.05),
                "shade",
            )
        ]
    return Furniture("table", parts)


def sofa(rng: np.random.Generator) -> Furniture:
    """A sofa of one to three seats with arms, a back and cushions."""
    seats = int(rng.integers(1, 4))
    width = 0.4 + 0.62 * seats
    depth = rng.uniform(0.82, 0.98)
    seat = rng.uniform(0.38, 0.45)
    arm, back = rng.uniform(0.55, 0.66), rng.uniform(0.76, 0.92)
    x, y = width / 2, depth / 2
    parts = [
        box((-x, x), (-y, y), (0.06, seat - 0.1)),
        box((-x, x), (y - 0.22, y), (0.06, back)),
        box((-x, -x + 0.18), (-y, y), (0.06, arm)),
        box((x - 0.18, x), (-y, y), (0.06, arm)),
    ]
    step = (width - 0.36) / seats
    for i in range(seats):
        left = -x + 0.18 + i * step
        parts += [
            box(
                (left + 0.01, left + step - 0.01),
                (-y - 0.02, y - 0.22),
                (seat - 0.1, seat),
            ),
            box(
                (left + 0.03, left + step - 0.03),
                (y - 0.34, y - 0.22),
                (seat, back - 0.06),
                "shade",
            ),
        ]
    return Furniture("sofa", parts)


def bookcase(rng: np.random.Generator) -> Furniture:
    """Open shelves with rows of books; books belong to the bookcase."""
    width = rng.uniform(0.8, 1.4)
    depth = rng.uniform(0.28, 0.38)
    height = rng.uniform(1.5, 2.15)
    shelves = int(rng.integers(4, 6))
    x, y = width / 2, depth / 2
    parts = [
        box((-x, x), (y - 0.02, y), (0, height), "shade"),
        box((-x, -x + 0.035), (-y, y), (0, height)),
        box((x - 0.035, x), (-y, y), (0, height)),
        box((-x, x), (-y, y), (height - 0.035, height)),
    ]
    step = (height - 0.1) / shelves
    for i in range(shelves):
        z = 0.05 + i * step
        parts.append(box((-x, x), (-y, y), (z, z + 0.03)))
        cut = rng.uniform(-0.3, 0.3) * width
        for low, high in ((-x + 0.04, cut), (cut, x - 0.04)):
            if rng.random() < 0.75 and high - low > 0.12:
                tall = rng.uniform(0.5, 0.85) * step
                parts.append(
                    box(
                        (low, high),
                        (-y + rng.uniform(0.03, 0.12), y - 0.02),
                        (z + 0.03, z + 0.03 + tall),
                        "book",
                    )
                )
    return Furniture("bookcase", parts)


def bed(rng: np.random.Generator) -> Furniture:
    """A single or double bed, its headboard towards the wall."""
    width = rng.choice([0.95, 1.45, 1.65]) + rng.uniform(-0.05, 0.05)
    length = rng.uniform(1.95, 2.1)
    top = rng.uniform(0.45, 0.6)
    x, y = width / 2, length / 2
    parts = [
        box((-x, x), (-y, y), (0.08, top - 0.22), "timber"),
        box(
            (-x + 0.03, x - 0.03),
            (-y + 0.03, y - 0.06),
            (top - 0.22, top - 0.03),
            "linen",
        ),
        box(
            (-x - 0.01, x + 0.01),
            (-y - 0.01, y - 0.55),
            (top - 0.24, top + 0.03),
        ),
        box(
            (-x, x), (y - 0.06, y), (0, top + rng.uniform(0.25, 0.6)), "timber"
        ),
    ]
    pillows = 1 if width < 1.2 else 2
    for i in range(pillows):
        center = (i - (pillows - 1) / 2) * width / 2
        parts.append(
            box(
                (center - 0.28, center + 0.28),
                (y - 0.48, y - 0.12),
                (top - 0.03, top + 0.09),
                "linen",
            )
        )
    return Furniture("bed", parts)


def cabinet(rng: np.random.Generator, kind: str = "low") -> Furniture:
    """A closed cabinet: a low sideboard, a bedside cabinet or a tall wardrobe,
    with doors and handles.
    """
    width, depth, height = _draw_size(rng, _CABINET_SIZES, kind)
    x, y = width / 2, depth / 2
    parts = [box((-x, x), (-y + 0.02, y), (0, height), "shade")]
    doors = max(1, round(width / 0.5))
    for i in range(doors):
        left = -x + i * width / doors
        right = left + width / doors
        parts.append(
            box(
                (left + 0.012, right - 0.012),
                (-y, -y + 0.03),
                (0.07, height - 0.03),
            )
        )
        handle = right - 0.06 if i % 2 == 0 else left + 0.06
        middle = height * 0.55
        parts.append(
            box(
                (handle - 0.012, handle + 0.012),
                (-y - 0.03, -y),
                (middle - 0.08, middle + 0.08),
                "metal",
            )
        )
    return Furniture("cabinet", parts)


def board(rng: np.random.Generator) -> Furniture:
    """A writing board with a frame and a tray, hanging on the wall (origin at
    the wall, below the board).
    """
    width = rng.uniform(1.3, 2.4)
    low = rng.uniform(0.85, 1.0)
    high = rng.uniform(1.85, 2.1)
    x = width / 2
    parts = [
        box((-x, x), (-0.05, 0), (low, high)),
        box((-x - 0.03, x + 0.03), (-0.06, 0), (high, high + 0.04), "metal"),
        box((-x - 0.03, x + 0.03), (-0.1, 0), (low - 0.04, low), "metal"),
        box((-x - 0.03, -x), (-0.06, 0), (low, high), "metal"),
        box((x, x + 0.03), (-0.06, 0), (low, high), "metal"),
    ]
    return Furniture("board", parts)


def window(rng: np.random.Generator) -> Furniture:
    """A window with a frame, a bar and a sill; its panes glow."""
    width = rng.uniform(0.9, 2.0)
    low = rng.uniform(0.75, 1.0)
    high = rng.uniform(1.9, 2.25)
    x = width / 2
    parts = [
        box((-x, x), (-0.02, 0), (low, high), glow=0.45),
        box((-x - 0.06, x + 0.06), (-0.06, 0), (high, high + 0.06), "frame"),
        box((-x - 0.08, x + 0.08), (-0.14, 0), (low - 0.05, low), "frame"),
        box((-x - 0.06, -x), (-0.06, 0), (low, high), "frame"),
        box((x, x + 0.06), (-0.06, 0), (low, high), "frame"),
        box((-0.025, 0.025), (-0.05, 0), (low, high), "frame"),
    ]
    return Furniture("window", parts)


def door(rng: np.random.Generator) -> Furniture:
    """A closed door: leaf, frame and handle."""
    x, high = rng.uniform(0.42, 0.5), rng.uniform(1.98, 2.12)
    parts = [
        box((-x, x), (-0.04, 0), (0, high)),
        box((-x - 0.08, -x), (-0.07, 0), (0, high + 0.08), "shade"),
        box((x, x + 0.08), (-0.07, 0), (0, high + 0.08), "shade"),
        box((-x - 0.08, x + 0.08), (-0.07, 0), (high, high + 0.08), "shade"),
        box((x - 0.16, x - 0.04), (-0.1, -0.04), (1.0, 1.04), "metal"),
    ]
    return Furniture("door", parts)


def plant(rng: np.random.Generator) -> Furniture:
    """A plant in a pot."""
    height = rng.uniform(0.6, 1.2)
    parts = [box((-0.14, 0.14), (-0.14, 0.14), (0, 0.3), "timber")]
    for low, size in ((0.3, 0.2), (0.5, 0.26), (0.72, 0.18)):
        parts.append(
            Part(
                (0, 0, (low + 0.12) * height / 0.9),
                (size, size, 0.12 * height),
                "main",
                rng.uniform(0, 1.5),
            )
        )
    return Furniture("plant", parts)


def lamp(rng: np.random.Generator) -> Furniture:
    """A standing lamp."""
    height = rng.uniform(1.3, 1.7)
    return Furniture(
        "lamp",
        [
            box((-0.15, 0.15), (-0.15, 0.15), (0, 0.03), "metal"),
            box((-0.02, 0.02), (-0.02, 0.02), (0.03, height - 0.28), "metal"),
            box(
                (-0.18, 0.18), (-0.18, 0.18), (height - 0.28, height), glow=0.35
            ),
        ],
    )


def screen(rng: np.random.Generator, width: float = 0.55) -> Furniture:
    """A computer screen or a television, standing on something."""
    height = 0.6 * width
    return Furniture(
        "screen",
        [
            box((-0.12, 0.12), (-0.08, 0.08), (0, 0.02)),
            box((-0.03, 0.03), (0, 0.04), (0.02, 0.15)),
            box((-width / 2, width / 2), (-0.03, 0.01), (0.1, 0.1 + height)),
        ],
    )


def carton(rng: np.random.Generator) -> Furniture:
    """A cardboard box."""
    x = rng.uniform(0.12, 0.24)
    y = rng.uniform(0.1, 0.18)
    h = rng.uniform(0.12, 0.35)
    return Furniture("box", [box((-x, x), (-y, y), (0, h))])


def waste_bin(rng: np.random.Generator) -> Furniture:
    """A waste bin."""
    return Furniture(
        "bin", [box((-0.14, 0.14), (-0.14, 0.14), (0, rng.uniform(0.3, 0.42)))]
    )


def rug(rng: np.random.Generator) -> Furniture:
    """A rug, 1.5 cm thick."""
    x, y = rng.uniform(0.7, 1.2), rng.uniform(0.5, 0.9)
    return Furniture("rug", [box((-x, x), (-y, y), (0, 0.015))])


def picture(rng: np.random.Generator) -> Furniture:
    """A framed picture on the wall."""
    x = rng.uniform(0.2, 0.4)
    h = rng.uniform(0.4, 0.6)
    low = rng.uniform(1.35, 1.55)
    frame = box(
        (-x - 0.03, x + 0.03),
        (-0.02, 0),
        (low - 0.03, low + h + 0.03),
        "timber",
    )
    return Furniture(
        "picture", [box((-x, x), (-0.03, 0), (low, low + h)), frame]
    )
