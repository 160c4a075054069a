"""What is wrong with a scan, found by measurement: the classic mistakes, each
with its fix.

Two frames of a scan show the same surfaces: a depth pixel of one, moved into
the other, must agree with the depth there. The points must lie where the frames
measure surfaces, and have the colours of the images. Where they do not, each
classic mistake (inverted poses, another unit, another camera convention ...) is
undone on trial, and the one whose undoing makes things fit is named. Tolerances
follow the depth, so that no unit is favoured.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Real
from torch import Tensor

from vlg_lib.data.frames import FrameFolder, read_matrix
from vlg_lib.data.layout import read_manifest, read_scene
from vlg_lib.geometry.cameras import (
    camera_to_world_points,
    project,
    resize_camera,
)
from vlg_lib.geometry.poses import check_pose, signed_permutations
from vlg_lib.geometry.upright import level_up
from vlg_lib.scene import Camera, Scene

GOOD, BELIEVED, BETTER, POOR = 0.8, 0.7, 0.15, 0.5
"""An agreement that needs no search for mistakes; to what, and by how much,
undoing a mistake must raise it to be believed; and below what it is a fault,
whether it has a name or not."""

PAIRS, PIXELS, POINTS = 16, 1000, 2500
"""How many pairs of frames, pixels of a frame and points are measured."""

_SIZES = (2.0, 0.5, 4.0, 0.25, 3.0, 1 / 3, 1.5, 2 / 3)
_UNITS = (0.001, 1000.0, 0.01, 100.0, 0.1, 10.0)
# units a metre, in use
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
_WORDS = (("right", "left"), ("down", "up"), ("forward", "backward"))
_USUAL = {"right, up, backward": " (OpenGL, ARKit, Blender)"}
_ADVICE = (
    "look for drift, images of another moment or scan, points of another world"
    " (aligned points with raw poses)"
)
_EYE = torch.eye(4, dtype=torch.float64)


class Finding(NamedTuple):
    """A fault in words, the measurement that shows it, and how to fix it."""

    fault: str
    measured: str
    fix: str

    def __str__(self) -> str:
        return (
            f"FAULT: {self.fault}\n  measured: {self.measured}\n  fix:"
            f" {self.fix}"
        )


@dataclass
class CheckReport:
    """What :func:`check` measured, 0 to 1, the faults that it found, and
    remarks.
    """

    measures: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{name}: {value:.3f}" for name, value in self.measures.items()
        ]
        lines += [
            *map(str, self.findings),
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(
            [*lines, *([] if self.findings else ["no fault found"])]
        )


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
    geometry: Geometry, alignment: Float[Tensor, "4 4"], depth_scale: float
) -> Iterator[Mistake]:
    """The mistakes of frames that are tried.

    ``alignment``: what ``scene.json`` says was applied to the source's world,
    after the mistake was made; ``depth_scale``: units a metre of the scene's
    depth images.

    >>> camera = Camera(100, 100, cx=79.5, cy=59.5, width=160, height=120)
    >>> straight = torch.eye(4, dtype=torch.float64)
    >>> geometry = Geometry(straight[None], camera)
    >>> next(frame_mistakes(geometry, straight, 1000.0)).fault[:22]
    'the poses are inverted'
    """
    poses, camera, size = (
        geometry.poses,
        geometry.camera,
        f"{geometry.camera.width} x {geometry.camera.height}",
    )
    fault = (
        "the poses are inverted: world-to-camera matrices where camera-to-world"
        " ones are expected"
    )
    for world in (_EYE,) if torch.equal(alignment, _EYE) else (_EYE, alignment):
        undone = replace(
            geometry,
            poses=world @ torch.linalg.inv(torch.linalg.inv(world) @ poses),
        )
        yield Mistake(
            1,
            fault,
            "invert each matrix (converter: --poses world-to-camera)",
            undone,
        )
    for axes in [
        swap for swap in signed_permutations()[1:] if torch.linalg.det(swap) > 0
    ]:
        found = ", ".join(
            _WORDS[int(row.abs().argmax())][int(row.sum() < 0)]
            for row in axes[:3, :3]
        )
        fault = (
            "swapped camera axes: expected right, down, forward, found"
            f" {found}{_USUAL.get(found, '')}"
        )
        fix = (
            "multiply each pose from the right by"
            f" {axes[:3, :3].int().tolist()} (converter: --camera-axes)"
        )
        yield Mistake(
            2 * (found in _USUAL),
            fault,
            fix,
            replace(geometry, poses=poses @ axes),
        )
    for scale in dict.fromkeys(
        [*_DEPTH_SCALES, *(depth_scale * k for k in (10.0, 0.1, 5.0, 0.2))]
    ):
        fault = (
            f"wrong depth scale: the depth is {scale / depth_scale:g} times"
            " what fits the poses"
        )
        fix = (
            f"set depth_scale in scene.json from {depth_scale:g} to {scale:g}"
            " (converter: --depth-scale), or give the "
        )
        fix += "poses' translations in metres, where the depth is right"
        yield Mistake(
            3, fault, fix, replace(geometry, factor=depth_scale / scale)
        )
    sizes = [
        (round(camera.width * k), round(camera.height * k)) for k in _SIZES
    ]
    # the size whose middle the principal point is
    middle = (round(2 * camera.cx + 1), round(2 * camera.cy + 1))
    for w, h in [*sizes, middle] if min(middle) > 0 else sizes:
        right = resize_camera(
            replace(camera, width=w, height=h), camera.width, camera.height
        )
        fault = (
            f"wrong intrinsics size: they are of images of {w} x {h} pixels,"
            f" not of {size}"
        )
        fix = (
            f"set fx {right.fx:.2f}, fy {right.fy:.2f}, cx {right.cx:.2f}, cy"
            f" {right.cy:.2f}"
        )
        yield Mistake(4, fault, fix, replace(geometry, camera=right))


def point_mistakes(
    geometry: Geometry, alignment: Float[Tensor, "4 4"]
) -> Iterator[Mistake]:
    """The mistakes of points against right frames that are tried; ``alignment``
    as in :func:`frame_mistakes`.
    """
    for turn, which in ((alignment, "poses"), (alignment.inverse(), "points")):
        fault = (
            f"of points and poses only the {which} are aligned (axis_alignment"
            " in scene.json)"
        )
        yield Mistake(
            5,
            fault,
            "align both or neither",
            replace(geometry, turn=turn @ geometry.turn),
        )
    for factor in _UNITS:
        turn = torch.diag(
            torch.tensor([factor] * 3 + [1.0], dtype=torch.float64)
        )
        fault = (
            f"wrong unit of the points: their numbers are {1 / factor:g} times"
            " metres"
        )
        yield Mistake(
            6,
            fault,
            f"scale the points by {factor:g}",
            replace(geometry, turn=turn @ geometry.turn),
        )
    yield Mistake(
        0,
        "red and blue are swapped",
        "swap them, in the points or the images",
        replace(geometry, bgr=True),
    )
    fault = "swapped axes: the world of the points is not that of the poses"
    for axes in signed_permutations()[1:]:
        new = ", ".join(
            "-"[: int(row.sum() < 0)] + "xyz"[int(row.abs().argmax())]
            for row in axes[:3, :3]
        )
        fix = (
            f"take {new} of the points for x, y, z; or give the poses the"
            " points' axes (converter: --up)"
        )
        yield Mistake(
            0, fault, fix, replace(geometry, turn=axes @ geometry.turn)
        )


Mistakes = Callable[[Geometry], Iterable[Mistake]]


class Evidence:
    """The measurements of one scene, on some 30 frames and some points chosen
    once; each takes a geometry to judge.

    An agreement is agree / (agree + in front): of the points that fall onto
    measured pixels, some agree with the depth there and some lie clearly in
    front of it, where the frame looks through them; those behind it may be
    hidden. Without depth images, the points' colours are correlated with the
    images' instead.
    """

    def __init__(self, scene: Scene, frames: FrameFolder) -> None:
        self.geometry = Geometry(frames.poses, frames.camera)
        self.pairs = frame_pairs(frames.poses, PAIRS)
        self.frames = {
            i: frames[i]
            for i in sorted({i for pair in self.pairs for i in pair}) or [0]
        }
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(scene.points), generator=generator)[:POINTS]
        self.points, self.colors = (
            scene.points[chosen].double(),
            scene.colors[chosen].double(),
        )
        depths = {
            i: torch.zeros(1, 1) if frame.depth is None else frame.depth
            for i, frame in self.frames.items()
        }
        self.pixels = {}
        for i, depth in depths.items():
            v, u = depth.nonzero()[
                torch.randperm(int((depth > 0).sum()), generator=generator)[
                    :PIXELS
                ]
            ].unbind(1)
            self.pixels[i] = torch.stack([u, v, depth[v, u]]).double()
        measured = torch.cat([pixels[2] for pixels in self.pixels.values()])
        self.median = float(measured.median()) if len(measured) else 0.0

    def between_frames(self, geometry: Geometry) -> float:
        """How well the depth of a frame agrees with that of another one, over
        all pairs, both ways.
        """
        both = [*self.pairs, *((j, i) for i, j in self.pairs)]
        return _agreement(
            [
                self._compare(self._surfaces(geometry, i), geometry, j)[0]
                for i, j in both
            ]
        )

    def _surfaces(self, geometry: Geometry, frame: int) -> Float[Tensor, "M 3"]:
        """The chosen pixels of a frame as world points."""
        (u, v, depth), camera = self.pixels[frame], geometry.camera
        z = depth * geometry.factor
        in_camera = torch.stack(
            [
                (u - camera.cx) / camera.fx * z,
                (v - camera.cy) / camera.fy * z,
                z,
            ],
            dim=1,
        )
        return camera_to_world_points(in_camera, geometry.poses[frame])

    def of_points(self, geometry: Geometry) -> float:
        """How well the points agree with the frames: geometric mean of depth
        and colours, where both are there.
        """
        depth, colors = self.depth_and_colors(geometry)
        colors = (
            depth
            if float(self.colors.std(dim=0).max()) < 1
            else max(colors, 0.0)
        )
        return float(depth * colors) ** 0.5 if self.median else colors

    def depth_and_colors(self, geometry: Geometry) -> tuple[float, float]:
        """The points' agreement with the depth; where it agrees, the
        correlation of their colours with the images'.
        """
        points, counts, own, shown = (
            camera_to_world_points(self.points, geometry.turn),
            [],
            [],
            [],
        )
        for i, frame in self.frames.items():
            count, indices, (u, v) = self._compare(points, geometry, i)
            own.append(self.colors[indices])
            shown.append(
                frame.color[v, u].flip(1) if geometry.bgr else frame.color[v, u]
            )
            counts.append(count)
        known = sum(map(len, own)) >= 100
        return _agreement(counts), (
            color_correlation(torch.cat(own), torch.cat(shown))
            if known
            else 0.0
        )

    def _compare(
        self, points: Tensor, geometry: Geometry, frame: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Counts (points, on measured pixels, agree, in front); which points
        agree, and their pixels (2, V).
        """
        camera, measured = geometry.camera, self.frames[frame].depth
        positions, z = project(points, camera, geometry.poses[frame])
        u, v = (positions + 0.5).floor().unbind(1)
        inside = (
            (z > 0)
            & (u >= 0)
            & (v >= 0)
            & (u < camera.width)
            & (v < camera.height)
        )
        (indices,) = inside.nonzero(as_tuple=True)
        u, v, z = u[indices].long(), v[indices].long(), z[indices]
        there = (
            z if measured is None else measured[v, u].double() * geometry.factor
        )
        slack = 0.01 * self.median * geometry.factor + 0.02 * there
        agree = (there > 0) & ((there - z).abs() <= slack)
        counts = [
            len(points),
            (there > 0).sum(),
            agree.sum(),
            ((there > 0) & (z < there - slack)).sum(),
        ]
        return (
            torch.tensor(counts, dtype=torch.float64),
            indices[agree],
            torch.stack([u, v])[:, agree],
        )


def _agreement(counts: Sequence[Tensor]) -> float:
    points, inside, agree, front = torch.stack(list(counts)).sum(dim=0).tolist()
    return (
        agree / (agree + front)
        if inside >= 0.02 * points and agree > 0.05 * inside
        else 0.0
    )


def color_correlation(
    first: Real[Tensor, "N 3"], second: Real[Tensor, "N 3"]
) -> float:
    """Pearson's correlation of two colourings of the same points, each channel
    less its mean, all channels together.
    """
    a, b = (
        colors.double() - colors.double().mean(dim=0)
        for colors in (first, second)
    )
    scale = a.norm() * b.norm()
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def frame_pairs(
    poses: Float[Tensor, "F 4 4"], count: int, degrees: float = 10.0
) -> list[tuple[int, int]]:
    """Pairs (i, j > i) spread over a sequence: j is the next frame turned by
    ``degrees``, else the last frame.

    Frames that hardly move agree whatever the mistake; no mistake that is tried
    changes the angle between two.
    """
    pairs = []
    for i in (
        torch.linspace(0, len(poses) - 2, min(count, len(poses) - 1))
        .round()
        .long()
        .tolist()
    ):
        cosine = (
            torch.einsum("ab,fab->f", poses[i, :3, :3], poses[i + 1 :, :3, :3])
            - 1
        ) / 2
        (turned,) = (cosine < torch.tensor(degrees).deg2rad().cos()).nonzero(
            as_tuple=True
        )
        pairs.append(
            (i, i + 1 + int(turned[0]) if len(turned) else len(poses) - 1)
        )
    return pairs


def check(folder: Path) -> CheckReport:
    """Measure whether a scene's frames agree with each other, with its points
    and their colours, and stand upright.

    Where they do not, the classic mistake whose undoing makes them agree is
    named. LayoutError, as from :func:`vlg_lib.data.layout.read_scene`, where
    the scene cannot be read at all.

    >>> from tempfile import TemporaryDirectory
    >>> from vlg_lib.rooms.scenes import make_rooms
    >>> size = {"views": 4, "width": 64, "height": 48, "progress": False}
    >>> with TemporaryDirectory() as root:
    ...     (folder,) = make_rooms(Path(root), [7], **size)
    ...     check(folder).findings
    []
    """
    manifest, broken = read_manifest(folder), _broken_poses(folder / "pose")
    if broken:
        return CheckReport(
            findings=[
                Finding(
                    "most matrices in pose/ are no poses",
                    broken,
                    "convert the scan again",
                )
            ]
        )
    scene = read_scene(folder)
    if not isinstance(scene.frames, FrameFolder):
        return CheckReport(
            notes=["the scene has no frames: there is nothing to compare"]
        )
    report, evidence = CheckReport(), Evidence(scene, scene.frames)
    alignment = torch.tensor(
        manifest.get("axis_alignment") or _EYE.tolist(), dtype=torch.float64
    )
    frames = partial(
        frame_mistakes, alignment=alignment, depth_scale=manifest["depth_scale"]
    )
    geometry = evidence.geometry
    points: Mistakes = partial(point_mistakes, alignment=alignment)
    if evidence.median and evidence.pairs:
        geometry = _judge(
            report, "between frames", evidence.between_frames, geometry, frames
        )
    else:
        # colours judge both
        points = lambda each: chain(
            frames(each), point_mistakes(each, alignment)
        )
    if not report.findings:
        geometry = _judge(
            report, "of points and frames", evidence.of_points, geometry, points
        )
    elif evidence.of_points(geometry) < GOOD:
        report.notes.append(
            "the points do not fit the fixed frames: convert again, then check"
            " again"
        )
    report.measures["correlation of colours"] = evidence.depth_and_colors(
        geometry
    )[1]
    _check_upright(report, geometry.poses)
    return report


def _judge(
    report: CheckReport,
    what: str,
    score: Callable[[Geometry], float],
    geometry: Geometry,
    mistakes: Mistakes,
) -> Geometry:
    """Put the agreement into the report; where it is low, the mistake (or two)
    whose undoing raises it most clearly.
    """
    now = report.measures[f"agreement {what}"] = score(geometry)
    found: list[Mistake] = []
    if now < GOOD:
        single = list(mistakes(geometry))
        best, found = max(
            ((score(mistake.undone), [mistake]) for mistake in single),
            key=lambda entry: entry[0],
        )
        if now < POOR and best < max(BELIEVED, now + BETTER):
            pairs = [
                [a, b]
                for a in single
                if a.order
                for b in mistakes(a.undone)
                if b.order > a.order
            ]
            best, found = max(
                ((score(pair[1].undone), pair) for pair in pairs),
                key=lambda entry: entry[0],
            )
        if best < max(BELIEVED, now + BETTER):
            found = []
    measured = f"agreement {what} {now:.3f}" + (
        f", and {best:.3f} with this undone" if found else ""
    )
    report.findings += [
        Finding(mistake.fault, measured, mistake.fix) for mistake in found
    ]
    if now < POOR and not found:
        report.findings.append(
            Finding(
                f"no agreement {what}; undoing no classic mistake fixes it",
                measured,
                _ADVICE,
            )
        )
    return found[-1].undone if found else geometry


def _check_upright(report: CheckReport, poses: Float[Tensor, "F 4 4"]) -> None:
    up = level_up(poses)
    if up is None:
        report.notes.append(
            "which way is up does not show: the cameras hardly turn, or were"
            " not held level"
        )
    elif float(up[2]) < 0.8:
        axis = ("-" if up[up.abs().argmax()] < 0 else "") + "xyz"[
            int(up.abs().argmax())
        ]
        measured = (
            "seen from the cameras, up is"
            f" ({', '.join(f'{x:.2f}' for x in up.tolist())})"
        )
        report.findings.append(
            Finding(
                f"swapped axes: {axis} points up, not z",
                measured,
                f"convert with --up {axis}",
            )
        )


def _broken_poses(folder: Path) -> str:
    """How many matrices are no poses, and why, where most are: a reader only
    leaves such frames out.
    """
    reasons, paths = Counter[str](), list(folder.glob("*.txt"))
    for path in paths:
        try:
            check_pose(read_matrix(path))
        except ValueError as error:
            reasons[str(error).removeprefix(f"{path}: ")] += 1
    count = reasons.total()
    return (
        f"{count} of {len(paths)}, mostly: {reasons.most_common(1)[0][0]}"
        if 2 * count > len(paths)
        else ""
    )
