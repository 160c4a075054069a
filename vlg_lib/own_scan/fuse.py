"""A check with a known answer: the colours of the images fused onto the
points.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from vlg_lib.classes import UNLABELLED_COLOR
from vlg_lib.data.layout import read_scene
from vlg_lib.data.ply import write_points
from vlg_lib.fusion import FusionSettings, fuse_scene
from vlg_lib.geometry.visibility import Visibility
from vlg_lib.own_scan.diagnosis import color_correlation
from vlg_lib.viz import save_page3d


@dataclass(frozen=True)
class ScanReport:
    """What :func:`scan` found.

    ``correlation``: of fused and own colours over the seen points and the three
    channels, -1 to 1. ``seen``: the share of points that a frame sees.
    ``skipped``: frames left out by the reader, by reason.
    """

    points: int
    frames: int
    seen: float
    correlation: float
    skipped: dict[str, int]

    def __str__(self) -> str:
        left_out = (
            ", ".join(
                f"{count} x {reason}" for reason, count in self.skipped.items()
            )
            or "none"
        )
        return (
            f"{self.points} points, {self.frames} frames (left out:"
            f" {left_out}); {self.seen:.1%} of the points seen; correlation of"
            f" fused and own colours {self.correlation:.3f}"
        )


def scan(
    folder: Path,
    out: Path,
    visibility: Visibility | None = None,
    *,
    progress: bool = True,
) -> ScanReport:
    """Fuse the image colours of a scene and compare them with its points' own
    colours.

    Reads the scene in ``folder`` (the layout of :mod:`vlg_lib.data.layout`) and
    writes ``out/fused.ply`` (points with the fused colours, grey where no frame
    sees them, and ``views``, the number of frames) and ``out/scan.html`` (a
    page that needs no network). ValueError where the scene is wrong or no frame
    sees any point; then nothing is written.

    >>> from tempfile import TemporaryDirectory
    >>> from vlg_lib.rooms.scenes import make_rooms
    >>> size = {"views": 4, "width": 64, "height": 48, "progress": False}
    >>> with TemporaryDirectory() as root:
    ...     (folder,) = make_rooms(Path(root), [7], **size)
    ...     scan(folder, Path(root), progress=False).frames
    4
    """
    scene = read_scene(folder)
    fused = fuse_scene(
        scene,
        lambda image: image.float(),
        visibility,
        FusionSettings(normalize=False),
        progress=progress,
    )
    if not bool(fused.seen.any()):
        raise ValueError(
            f"{folder}: no frame sees any point; check the poses"
            " (camera-to-world?), intrinsics and depth scale"
        )
    colors = fused.embeddings.round().clamp(0, 255).to(torch.uint8)
    colors[~fused.seen] = torch.tensor(UNLABELLED_COLOR, dtype=torch.uint8)
    write_points(
        out / "fused.ply", scene.points, colors, views=fused.view_counts
    )
    title = f"{scene.name}: image colours fused onto the points"
    alt = (
        f"The {len(scene.points)} points of {scene.name}, each in the mean"
        " colour of the images that see it."
    )
    save_page3d(out / "scan.html", scene.points, colors, title=title, alt=alt)
    correlation = color_correlation(
        fused.embeddings[fused.seen], scene.colors[fused.seen]
    )
    seen = float(fused.seen.float().mean())
    return ScanReport(
        len(scene.points),
        len(scene.frames),
        seen,
        correlation,
        dict(scene.skipped),
    )
