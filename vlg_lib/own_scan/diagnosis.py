"""What is wrong with a scan, found by measurement: the classic mistakes, each
with its fix.

Where frames, points and colours do not agree
(:mod:`vlg_lib.own_scan.evidence`), each classic mistake
(:mod:`vlg_lib.own_scan.mistakes`) is undone on trial, and the one whose undoing
makes things fit is named.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.data.frames import FrameFolder, read_matrix
from vlg_lib.data.layout import read_manifest, read_scene
from vlg_lib.geometry.poses import check_pose
from vlg_lib.geometry.upright import level_up
from vlg_lib.own_scan.evidence import Evidence
from vlg_lib.own_scan.mistakes import (
    Geometry,
    Mistake,
    frame_mistakes,
    point_mistakes,
)
from vlg_lib.scene import Scene

GOOD = 0.8
"""An agreement that needs no search for mistakes."""
BELIEVED = 0.7
"""To what undoing a mistake must raise the agreement to be believed."""
BETTER = 0.15
"""By how much it must raise it."""
POOR = 0.5
"""Below what an agreement is a fault, whether it has a name or not."""

_ADVICE = (
    "look for drift, images of another moment or scan, points of another world"
    " (aligned points with raw poses)"
)


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


Mistakes = Callable[[Geometry], Iterable[Mistake]]


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
        fault = "most matrices in pose/ are no poses"
        return CheckReport(
            findings=[Finding(fault, broken, "convert the scan again")]
        )
    scene = read_scene(folder)
    if not isinstance(scene.frames, FrameFolder):
        return CheckReport(
            notes=["the scene has no frames: there is nothing to compare"]
        )
    return _check_frames(scene, scene.frames, manifest)


def _check_frames(
    scene: Scene, frames: FrameFolder, manifest: dict[str, Any]
) -> CheckReport:
    """Judge the frames, then the points against them, then what is up."""
    report, evidence = CheckReport(), Evidence(scene, frames)
    of_frames, of_points = _candidates(manifest, evidence)
    geometry = evidence.geometry
    if evidence.median and evidence.pairs:
        geometry = _judge(
            report,
            "between frames",
            evidence.between_frames,
            geometry,
            of_frames,
        )
        if not report.findings and _any_scale_fits(evidence):
            report.notes.append(
                "too little overlap to tell the depth scale: depth of half and"
                " of twice the length would fit the frames, too (a flat wall"
                " seen head-on, or a camera that hardly moves)"
            )
    else:
        # without depth, colours judge both
        of_points = _both(of_frames, of_points)
    if not report.findings:
        geometry = _judge(
            report,
            "of points and frames",
            evidence.of_points,
            geometry,
            of_points,
        )
    elif evidence.of_points(geometry) < GOOD:
        report.notes.append(
            "the points do not fit the frames with their fault undone: convert"
            " again, then check again"
        )
    colors = evidence.depth_and_colors(geometry)[1]
    report.measures["correlation of colours"] = colors
    _check_upright(report, geometry.poses)
    return report


def _any_scale_fits(evidence: Evidence) -> bool:
    """Whether the frames would agree as well with other depths."""
    return all(
        evidence.between_frames(replace(evidence.geometry, factor=factor))
        >= GOOD
        for factor in (0.5, 2.0)
    )


def _candidates(
    manifest: dict[str, Any], evidence: Evidence
) -> tuple[Mistakes, Mistakes]:
    """The mistakes of frames and those of points, with what ``scene.json`` says
    of the scene's making.
    """
    aligned = manifest.get("axis_alignment") or torch.eye(4).tolist()
    alignment = torch.tensor(aligned, dtype=torch.float64)
    made = manifest["provenance"]
    settings = made.get("settings") or {}
    poses = made.get("poses") or settings.get("poses") or "camera-to-world"
    of_frames = partial(
        frame_mistakes,
        alignment=alignment,
        depth_scale=manifest["depth_scale"],
        poses_given=poses,
        fit=evidence.fitted_factor if evidence.median else None,
    )
    return of_frames, partial(point_mistakes, alignment=alignment)


def _both(first: Mistakes, second: Mistakes) -> Mistakes:
    return lambda geometry: chain(first(geometry), second(geometry))


def _judge(
    report: CheckReport,
    what: str,
    score: Callable[[Geometry], float],
    geometry: Geometry,
    mistakes: Mistakes,
) -> Geometry:
    """Put the agreement into the report; where it is low, the mistake (or two)
    whose undoing raises it most clearly.

    Returns the geometry with them undone.
    """
    now = report.measures[f"agreement {what}"] = score(geometry)
    best, found = _search(now, score, geometry, mistakes)
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


def _search(
    now: float,
    score: Callable[[Geometry], float],
    geometry: Geometry,
    mistakes: Mistakes,
) -> tuple[float, Sequence[Mistake]]:
    """The agreement with the best mistake undone, and this mistake; two, where
    agreement is poor and one does not explain it. None that is not believed.
    """
    if now >= GOOD:
        return now, []
    enough = max(BELIEVED, now + BETTER)
    single = list(mistakes(geometry))
    best, found = _best(score, [[mistake] for mistake in single])
    if now < POOR and best < enough:
        best, found = _best(
            score,
            [
                [first, second]
                for first in single
                if first.order
                for second in mistakes(first.undone)
                if second.order > first.order
            ],
        )
    return (best, found) if best >= enough else (best, [])


def _best(
    score: Callable[[Geometry], float], candidates: list[list[Mistake]]
) -> tuple[float, Sequence[Mistake]]:
    """The candidate (one mistake, or two) after whose last undoing things fit
    best, and how well.
    """
    scored = [(score(each[-1].undone), each) for each in candidates]
    return max(scored, key=lambda entry: entry[0])


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
