"""The classic mistakes of a scan, each with its name, its fix and the geometry
with it undone.

Undoing one on trial and measuring again (:mod:`vlg_lib.own_scan.evidence`)
shows whether it was made.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.geometry.cameras import resize_camera
from vlg_lib.geometry.poses import signed_permutations
from vlg_lib.scene import Camera

_SIZES = (2.0, 0.5, 4.0, 0.25, 3.0, 1 / 3, 1.5, 2 / 3)
"""Image sizes that intrinsics may be of, in sizes of the images."""

_UNITS = (0.001, 1000.0, 0.01, 100.0, 0.1, 10.0)
"""What the points' numbers may have to be scaled by."""

_DEPTH_SCALES = (
    1000.0,
    5000.0,
    4000.0,
    6553.5,
    512.0,
    256.0,
    10000.0,
    100.0,
    10.0,
    1.0,
    1e6,
)
"""Depth units a metre that are in use."""

_SHARP = 0.03
"""How far, as a share, a fitted depth scale may lie from the true one where
depth is clean."""

_BLUNT = 0.2
"""The same where depth is that of a sensor: so a usual scale this near is tried
beside the fitted one, and the frames decide."""

_WORDS = (("right", "left"), ("down", "up"), ("forward", "backward"))
_USUAL = {"right, up, backward": " (OpenGL, ARKit, Blender)"}
_EYE = torch.eye(4, dtype=torch.float64)


@dataclass(frozen=True)
class Geometry:
    """A scene's geometry, as it is or with a mistake undone.

    ``poses``: (F, 4, 4) camera-to-world; ``factor``: on the depth; ``turn``:
    (4, 4), on the points; ``bgr``: whether red and blue of the images change
    places.
    """

    poses: Float[Tensor, "F 4 4"]
    camera: Camera
    factor: float = 1.0
    turn: Float[Tensor, "4 4"] = _EYE
    bgr: bool = False


class Mistake(NamedTuple):
    """A classic mistake: its name and fix, and the geometry with it undone.

    ``order``: mistakes of a lower number are undone first where there are two;
    those of 0 are only tried alone.
    """

    order: int
    fault: str
    fix: str
    undone: Geometry


def frame_mistakes(
    geometry: Geometry,
    alignment: Float[Tensor, "4 4"],
    depth_scale: float,
    poses_given: str = "camera-to-world",
    fit: Callable[[Geometry], float | None] | None = None,
) -> Iterator[Mistake]:
    """The mistakes of frames that are tried.

    ``alignment``: what ``scene.json`` says was applied to the source's world,
    after the mistake was made; ``depth_scale``: units a metre of the scene's
    depth images; ``poses_given``: what the converter was told that a pose maps,
    so that the fix says the other; ``fit``: the factor on the depth that fits a
    geometry best, None where it does not show.

    >>> camera = Camera(100, 100, cx=79.5, cy=59.5, width=160, height=120)
    >>> straight = torch.eye(4, dtype=torch.float64)
    >>> geometry = Geometry(straight[None], camera)
    >>> next(frame_mistakes(geometry, straight, 1000.0)).fault[:22]
    'the poses are inverted'
    """
    yield from inverted_poses(geometry, alignment, poses_given)
    yield from swapped_camera_axes(geometry)
    yield from wrong_depth_scale(
        geometry, depth_scale, None if fit is None else fit(geometry)
    )
    yield from wrong_intrinsics(geometry)


def point_mistakes(
    geometry: Geometry, alignment: Float[Tensor, "4 4"]
) -> Iterator[Mistake]:
    """The mistakes of points against right frames that are tried; ``alignment``
    as in :func:`frame_mistakes`.
    """
    yield from one_sided_alignment(geometry, alignment)
    yield from wrong_unit(geometry)
    yield from swapped_colors(geometry)
    yield from swapped_world_axes(geometry)


def inverted_poses(
    geometry: Geometry,
    alignment: Float[Tensor, "4 4"],
    poses_given: str = "camera-to-world",
) -> Iterator[Mistake]:
    """Poses that map the world to the camera, inverted before or after the
    alignment.

    >>> camera = Camera(100.0, 100.0, 79.5, 59.5, width=160, height=120)
    >>> poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    >>> eye = torch.eye(4, dtype=torch.float64)
    >>> (mistake,) = inverted_poses(Geometry(poses, camera), eye)
    >>> mistake.fix
    'invert each matrix (vlg convert rgbd: --poses world-to-camera)'
    """
    inverted = poses_given == "world-to-camera"
    other = "camera-to-world" if inverted else "world-to-camera"
    worlds = (_EYE,) if torch.equal(alignment, _EYE) else (_EYE, alignment)
    for world in worlds:
        in_source = torch.linalg.inv(world) @ geometry.poses
        yield Mistake(
            1,
            "the poses are inverted: world-to-camera matrices where"
            " camera-to-world ones are expected",
            f"invert each matrix (vlg convert rgbd: --poses {other})",
            replace(geometry, poses=world @ torch.linalg.inv(in_source)),
        )


def swapped_camera_axes(geometry: Geometry) -> Iterator[Mistake]:
    """Camera axes of another program: the 23 other right-handed ones."""
    for axes in signed_permutations()[1:]:
        if torch.linalg.det(axes) < 0:
            continue
        found = ", ".join(
            _WORDS[int(row.abs().argmax())][int(row.sum() < 0)]
            for row in axes[:3, :3]
        )
        yield Mistake(
            2 * (found in _USUAL),
            "swapped camera axes: expected right, down, forward, found"
            f" {found}{_USUAL.get(found, '')}",
            "multiply each pose from the right by"
            f" {axes[:3, :3].int().tolist()} (vlg convert rgbd: --camera-axes)",
            replace(geometry, poses=geometry.poses @ axes),
        )


def wrong_depth_scale(
    geometry: Geometry, depth_scale: float, fitted: float | None = None
) -> Iterator[Mistake]:
    """Depth in another unit: the one that fits, where a factor on the depth was
    ``fitted``, and that of those in use which is as near as a fit may be off;
    else all those in use, and factors of 5 and 10.
    """
    scales = [
        *_DEPTH_SCALES,
        *(depth_scale * k for k in (10.0, 0.1, 5.0, 0.2)),
    ]
    if fitted is not None:
        found = depth_scale / fitted
        nearest = min(scales, key=lambda scale: abs(math.log(scale / found)))
        off = abs(math.log(nearest / found))
        scales = [nearest] if off < _BLUNT else []
        if off >= _SHARP:
            scales.append(float(f"{found:.3g}"))
    for scale in dict.fromkeys(scales):
        yield Mistake(
            3,
            f"wrong depth scale: the depth is {scale / depth_scale:g} times"
            " what fits the poses",
            f"set depth_scale in scene.json from {depth_scale:g} to {scale:g}"
            " (vlg convert: --depth-scale), or give the poses' translations in"
            " metres, where the depth is right",
            replace(geometry, factor=depth_scale / scale),
        )


def wrong_intrinsics(geometry: Geometry) -> Iterator[Mistake]:
    """Intrinsics of images of another size: usual ratios, and the size whose
    middle the principal point is.
    """
    camera = geometry.camera
    sizes = [
        (round(camera.width * k), round(camera.height * k)) for k in _SIZES
    ]
    middle = (round(2 * camera.cx + 1), round(2 * camera.cy + 1))
    for width, height in [*sizes, middle] if min(middle) > 0 else sizes:
        right = resize_camera(
            replace(camera, width=width, height=height),
            camera.width,
            camera.height,
        )
        yield Mistake(
            4,
            f"wrong intrinsics size: they are of images of {width} x {height}"
            f" pixels, not of {camera.width} x {camera.height}",
            f"set fx {right.fx:.2f}, fy {right.fy:.2f}, cx {right.cx:.2f}, cy"
            f" {right.cy:.2f}",
            replace(geometry, camera=right),
        )


def one_sided_alignment(
    geometry: Geometry, alignment: Float[Tensor, "4 4"]
) -> Iterator[Mistake]:
    """An alignment that was applied to the points or the poses alone."""
    for turn, which in ((alignment, "poses"), (alignment.inverse(), "points")):
        yield Mistake(
            5,
            f"of points and poses only the {which} are aligned (axis_alignment"
            " in scene.json)",
            "align both or neither",
            replace(geometry, turn=turn @ geometry.turn),
        )


def wrong_unit(geometry: Geometry) -> Iterator[Mistake]:
    """Points in millimetres, centimetres ..."""
    for factor in _UNITS:
        scale = torch.tensor([factor] * 3 + [1.0], dtype=torch.float64)
        yield Mistake(
            6,
            f"wrong unit of the points: their numbers are {1 / factor:g} times"
            " metres",
            f"scale the points by {factor:g}",
            replace(geometry, turn=torch.diag(scale) @ geometry.turn),
        )


def swapped_colors(geometry: Geometry) -> Iterator[Mistake]:
    """Red for blue, in the points or in the images."""
    yield Mistake(
        0,
        "red and blue are swapped",
        "swap them, in the points or the images",
        replace(geometry, bgr=True),
    )


def swapped_world_axes(geometry: Geometry) -> Iterator[Mistake]:
    """Points in another world than the poses: all swaps and flips of axes."""
    for axes in signed_permutations()[1:]:
        new = ", ".join(
            "-"[: int(row.sum() < 0)] + "xyz"[int(row.abs().argmax())]
            for row in axes[:3, :3]
        )
        yield Mistake(
            0,
            "swapped axes: the world of the points is not that of the poses",
            f"take {new} of the points for x, y, z; or give the poses the"
            " points' axes (vlg convert: --up)",
            replace(geometry, turn=axes @ geometry.turn),
        )
