"""Made rooms that look like scans: what a sensor that walks through a room
does to its points and colours.

Made rooms are clean: every surface is met, evenly and in its own place, in
plain light, and there is nothing in them but what they are about. A scan has
noise and holes that grow with the distance and at grazing angles, a ceiling
that nobody looked at, more points here than there, a cast and a shade over its
colours, and things of no class. A network that never met these in training
meets them first in a real room (chapter 12).

Where the sensor stood is drawn anew each time; what happens to a point depends
on its place, its colour and the surface around it, on no label and no image.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Generator, Tensor

from vlg_lib.geometry.voxels import voxelize

SURFACE = 0.2
"""The side of the cells whose points tell where a surface faces, metres."""

PATCH = 0.25
"""The side of the cells that holes are made of, metres."""

SPACING = 0.04
"""The distance between the points of a thing of no class, metres."""

_NEAREST = 0.4
_STEEPEST = math.radians(80)
_LOWEST_CUT = 1.8


@dataclass(frozen=True)
class ScanLike:
    """How much like a scan a cloud may become. Every amount is the largest of
    its kind; what a cloud gets is drawn evenly between none and it. ValueError
    for an amount out of range.

    >>> ScanLike(share=2.0)
    Traceback (most recent call last):
    ValueError: share: expected 0 to 1, found 2.0
    """

    share: float = 0.75
    """How many of the clouds are changed; 0 to 1. The others stay as they
    are."""
    sensors: int = 6
    """Places that the sensor stood at; from 1. A point is seen from the nearest
    one."""
    reach: float = 6.0
    """The distance at which as much is lost as ever is, metres, above 1."""
    noise: float = 1.0
    """Noise along the ray, as a multiple of what was measured of a Kinect:
    :func:`depth_noise`. From 0."""
    drift: float = 0.015
    """The standard deviation of how far off all points of one place of the
    sensor lie, along each axis: a wall seen twice is there twice. Metres, from
    0."""
    far: float = 0.5
    """The share of the patches lost at ``reach`` and beyond; none are lost up
    to 1 m. 0 to 1."""
    grazing: float = 0.5
    """The share of the patches lost where the ray runs along the surface; none
    are lost where it meets it head-on. 0 to 1."""
    thinning: float = 0.6
    """The share of single points lost far away: density falls with the square
    of the distance, from 1.5 m on, down to this. 0 to 1."""
    ceiling: float = 0.4
    """How often nothing above some height was looked at, drawn between 1.8 m
    and the highest point; 0 to 1."""
    cast: float = 0.15
    """The largest relative change of each colour channel, either way; 0 to
    1."""
    shading: float = 0.4
    """How much darker the far end of the room is than the place of a light, and
    how much darker or brighter all of it; 0 to 1."""
    clutter: int = 6
    """Things of no class that stand on what is there; from 0."""
    strays: float = 0.002
    """Points that hang in the air between the sensor and what it saw, as a
    share of all; 0 to 1."""

    def __post_init__(self) -> None:
        for name in (
            "share",
            "far",
            "grazing",
            "thinning",
            "ceiling",
            "cast",
            "shading",
            "strays",
        ):
            _check(name, getattr(self, name), "0 to 1", 0, 1)
        _check("sensors", self.sensors, "1 or more", 1)
        _check("reach", self.reach, "more than 1 m", math.nextafter(1, 2))
        for name in ("noise", "drift", "clutter"):
            _check(name, getattr(self, name), "0 or more", 0)


def _check(
    name: str, value: float, expected: str, low: float, high: float = math.inf
) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {expected}, found {value}")


@dataclass(frozen=True)
class Scan:
    """A cloud as a sensor might have met it: M points, of which the first come
    from the cloud, in its order, and the rest are of no class.

    ``points``: (M, 3) float32, metres. ``colors``: (M, 3) float32 in [-1, 1].
    ``origin``: (M,) int64, the index of each point in the cloud, -1 for a point
    of no class.
    """

    points: Float[Tensor, "M 3"]
    colors: Float[Tensor, "M 3"]
    origin: Int64[Tensor, " M"]

    def carry(
        self, values: Shaped[Tensor, "N ..."], missing: float
    ) -> Shaped[Tensor, "M ..."]:
        """What belongs to the points of the cloud, at the points of the scan;
        ``missing`` at those of no class.

        >>> empty = torch.zeros(2, 3)
        >>> scan = Scan(empty, empty, torch.tensor([1, -1]))
        >>> scan.carry(torch.tensor([4, 5]), missing=-1).tolist()
        [5, -1]
        """
        carried = values.new_full(
            (len(self.origin), *values.shape[1:]), missing
        )
        known = self.origin >= 0
        carried[known] = values[self.origin[known]]
        return carried


@dataclass(frozen=True)
class _Sight:
    """How each of N points is seen: from which place, along which unit vector,
    from how far, and at which angle to its surface's normal (radians).
    """

    sensor: Int64[Tensor, " N"]
    ray: Float[Tensor, "N 3"]
    distance: Float[Tensor, " N"]
    angle: Float[Tensor, " N"]


def scan_like(
    points: Float[Tensor, "N 3"],
    colors: Float[Tensor, "N 3"],
    settings: ScanLike,
    generator: Generator,
) -> Scan:
    """A cloud as a sensor that walked through it might have met it.

    ``points``: metres, z up. ``colors``: in [-1, 1]. The tensors given stay as
    they are; a generator in the same state draws the same scan. No points give
    no points, and a cloud of which nothing would be left keeps all.

    >>> points, colors = torch.rand(50, 3), torch.zeros(50, 3)
    >>> left_alone = ScanLike(share=0.0)
    >>> scan = scan_like(points, colors, left_alone, Generator())
    >>> torch.equal(scan.points, points), len(scan.origin)
    (True, 50)
    """
    everything = torch.arange(len(points))
    if not len(points) or _draw(generator) >= settings.share:
        return Scan(points, colors, everything)
    sight = _look(points, settings.sensors, generator)
    kept = _kept(points, sight, settings, generator)
    if not bool(kept.any()):
        kept = torch.ones_like(kept)
    moved = _moved(points, sight, settings, generator)
    tinted = _tinted(points, colors, settings, generator)
    met = everything[kept]
    extra = _strays(moved, tinted, sight, met, settings.strays, generator)
    extra += _clutter(moved[met], settings.clutter, generator)
    return Scan(
        torch.cat([moved[met], *(places for places, _ in extra)]),
        torch.cat([tinted[met], *(shades for _, shades in extra)]),
        torch.cat(
            [
                met,
                *(torch.full((len(places),), -1) for places, _ in extra),
            ]
        ),
    )


def depth_noise(
    distance: Float[Tensor, " N"], angle: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """The standard deviation of a depth, metres, as Nguyen, Izadi and Lovell
    measured it of a Kinect (3DIMPVT 2012).

    ``distance``: metres; they measured from 0.8 to 3. ``angle``: between the
    ray and the surface's normal, radians; taken as 80 degrees at most, for the
    noise of a surface along the ray has no bound.

    >>> depth_noise(torch.tensor([0.4, 2.4]), torch.zeros(2)).tolist()
    [0.0012000000569969416, 0.008799999952316284]
    """
    distance = distance.clamp(min=_NEAREST)
    angle = angle.clamp(max=_STEEPEST)
    steep = (angle / (math.pi / 2 - angle)).square()
    return (
        0.0012
        + 0.0019 * (distance - _NEAREST).square()
        + 0.0001 * steep / distance.sqrt()
    )


def normals(points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Where the surface around each point faces, up to its sign: a unit vector,
    the same for all points of a cell of side :data:`SURFACE`.

    Coarse, and quick enough for every step of a training.

    >>> side = 0.05 * torch.arange(20)
    >>> floor = torch.cartesian_prod(side, side, torch.zeros(1))
    >>> bool((normals(floor)[:, 2].abs() > 0.99).all())
    True
    """
    cells = voxelize(points, SURFACE)
    offsets = points - cells.to_points(cells.average(points))
    products = (offsets[:, :, None] * offsets[:, None, :]).flatten(1)
    spread = cells.average(products).reshape(-1, 3, 3)
    # eigenvalues come in order: the first direction is the thinnest
    return cells.to_points(torch.linalg.eigh(spread).eigenvectors[:, :, 0])


def _draw(generator: Generator, low: float = 0.0, high: float = 1.0) -> float:
    drawn = float(torch.rand(1, generator=generator))
    return low + (high - low) * drawn


def _floor(points: Float[Tensor, "N 3"]) -> float:
    """The height that a hundredth of the points lies below."""
    rank = max(1, math.ceil(0.01 * len(points)))
    return float(points[:, 2].kthvalue(rank).values)


def _look(
    points: Float[Tensor, "N 3"], sensors: int, generator: Generator
) -> _Sight:
    """Places of a sensor at head height, over points of the cloud, drawn in
    towards its middle; and how they see the points.
    """
    below = torch.randint(len(points), (sensors,), generator=generator)
    middle = points.median(dim=0).values
    places = middle + 0.7 * (points[below] - middle)
    height = 1.2 + 0.6 * torch.rand(sensors, generator=generator)
    places[:, 2] = _floor(points) + height
    sensor = torch.cdist(points, places).argmin(dim=1)
    ray = points - places[sensor]
    distance = torch.linalg.vector_norm(ray, dim=1)
    ray = ray / distance.clamp(min=1e-6)[:, None]
    across = (normals(points) * ray).sum(dim=1).abs().clamp(max=1)
    return _Sight(sensor, ray, distance, torch.arccos(across))


def _kept(
    points: Float[Tensor, "N 3"],
    sight: _Sight,
    settings: ScanLike,
    generator: Generator,
) -> Bool[Tensor, " N"]:
    """Which points the sensor has met at all."""
    away = ((sight.distance - 1) / (settings.reach - 1)).clamp(0, 1)
    along = 1 - torch.cos(sight.angle)
    lost = 1 - (1 - _draw(generator, 0, settings.far) * away) * (
        1 - _draw(generator, 0, settings.grazing) * along
    )
    cells = voxelize(points + torch.rand(3, generator=generator), PATCH)
    patches = torch.rand(len(cells), generator=generator)
    kept = cells.to_points(patches) >= lost
    least = 1 - _draw(generator, 0, settings.thinning)
    density = (1.5 / sight.distance.clamp(min=1.5)).square().clamp(min=least)
    kept &= torch.rand(len(points), generator=generator) < density
    never_looked_up = _draw(generator) < settings.ceiling
    cut = _draw(generator)
    if never_looked_up:
        low = _floor(points) + _LOWEST_CUT
        high = max(low, float(points[:, 2].max()))
        kept &= points[:, 2] <= low + cut * (high - low)
    return kept


def _moved(
    points: Float[Tensor, "N 3"],
    sight: _Sight,
    settings: ScanLike,
    generator: Generator,
) -> Float[Tensor, "N 3"]:
    """The points where the sensor took them to be."""
    noise = _draw(generator, 0, settings.noise) * depth_noise(
        sight.distance, sight.angle
    )
    noise = noise * torch.randn(len(points), generator=generator)
    drift = settings.drift * torch.randn(
        settings.sensors, 3, generator=generator
    )
    return points + noise[:, None] * sight.ray + drift[sight.sensor]


def _tinted(
    points: Float[Tensor, "N 3"],
    colors: Float[Tensor, "N 3"],
    settings: ScanLike,
    generator: Generator,
) -> Float[Tensor, "N 3"]:
    """The colours under a light that stands over one point, through a camera
    with a cast.
    """
    gain = 1 + settings.cast * (2 * torch.rand(3, generator=generator) - 1)
    exposure = 1 + settings.shading * _draw(generator, -1, 1)
    dark = _draw(generator, 0, settings.shading)
    light = points[int(torch.randint(len(points), (1,), generator=generator))]
    away = torch.linalg.vector_norm((points - light)[:, :2], dim=1)
    away = away / away.max().clamp(min=1e-6)
    shade = exposure * (1 - dark * away)
    # black is 0 to a light, and -1 to a network
    lit = (colors + 1) / 2 * gain * shade[:, None]
    changed = 2 * lit.clamp(0, 1) - 1
    untouched = settings.cast == 0 and settings.shading == 0
    return colors if untouched else changed


def _strays(
    points: Float[Tensor, "N 3"],
    colors: Float[Tensor, "N 3"],
    sight: _Sight,
    met: Int64[Tensor, " M"],
    share: float,
    generator: Generator,
) -> list[tuple[Float[Tensor, "S 3"], Float[Tensor, "S 3"]]]:
    """Points that hang between the sensor and what it saw, and their
    colours.
    """
    count = int(_draw(generator, 0, share) * len(met))
    seen = met[torch.randint(len(met), (count,), generator=generator)]
    back = torch.rand(count, generator=generator) * sight.distance[seen]
    return [(points[seen] - back[:, None] * sight.ray[seen], colors[seen])]


def _clutter(
    points: Float[Tensor, "N 3"], most: int, generator: Generator
) -> list[tuple[Float[Tensor, "_ 3"], Float[Tensor, "_ 3"]]]:
    """The skins of boxes and of round things that stand on points of the cloud,
    each in a colour of its own.
    """
    count = int(torch.randint(most + 1, (1,), generator=generator))
    return [_thing(points, generator) for _ in range(count)]


def _thing(
    points: Float[Tensor, "N 3"], generator: Generator
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    foot = points[int(torch.randint(len(points), (1,), generator=generator))]
    radii = 0.06 + 0.3 * torch.rand(3, generator=generator)
    area = 4 * math.pi * float(radii.prod()) ** (2 / 3)
    skin = torch.randn(
        int(area / SPACING**2) + 1, 3, generator=generator
    ).clamp(-3, 3)
    # the largest coordinate of a box's skin is 1, the length of a ball's
    norm = math.inf if _draw(generator) < 0.5 else 2
    size = torch.linalg.vector_norm(skin, norm, dim=1, keepdim=True)
    places = foot + radii * (skin / size.clamp(min=1e-6))
    places[:, 2] += radii[2]
    color = 2 * torch.rand(3, generator=generator) - 1
    speckle = 0.1 * torch.randn(skin.shape, generator=generator)
    return places, (color + speckle).clamp(-1, 1)
