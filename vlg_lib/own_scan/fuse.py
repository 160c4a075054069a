"""A check with a known answer: image colours fused onto the points.

Stage 1 gathers, for each point, what the frames show there, and averages it
over the frames. With the colours as "embeddings" the result must be the colours
of the points; where it is not, poses, intrinsics or depth are wrong.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from vlg_lib.classes import UNLABELLED_COLOR
from vlg_lib.data.layout import read_scene
from vlg_lib.data.ply import write_points
from vlg_lib.fusion import FusionSettings, fuse_scene
from vlg_lib.geometry.visibility import Visibility
from vlg_lib.own_scan.correlation import color_correlation
from vlg_lib.scene import PointEmbeddings, Scene
from vlg_lib.viz import save_page3d


@dataclass(frozen=True)
class ColorReport:
    """What :func:`fuse_colors` found."""

    points: int
    """Points of the scene."""
    frames: int
    """Frames that were used."""
    seen: float
    """The share of points that a frame sees, 0 to 1."""
    correlation: float
    """Of fused and own colours over the seen points and the three channels, -1
    to 1."""
    skipped: dict[str, int]
    """Frames left out by the reader, by reason."""

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


def fuse_colors(
    folder: Path,
    out: Path,
    visibility: Visibility | None = None,
    *,
    progress: bool = True,
) -> ColorReport:
    """Fuse the image colours of a scene and compare them with its points' own
    colours.

    Reads the scene in ``folder`` (the layout of :mod:`vlg_lib.data.layout`) and
    writes ``out/fused.ply`` (points with the fused colours, grey where no frame
    sees them, and ``views``, the number of frames) and ``out/fused.html`` (a
    page that needs no network). ``visibility``: when a frame sees a point, None
    for the defaults. ValueError where the scene is wrong or no frame sees any
    point; then nothing is written.

    >>> import tempfile
    >>> from vlg_lib.data.layout import write_scene
    >>> from vlg_lib.rooms.scenes import room_scene
    >>> room, _ = room_scene(0, views=3, width=40, height=30)
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_scene(folder / "room", room, provenance={})
    >>> report = fuse_colors(folder / "room", folder, progress=False)
    >>> report.frames, report.correlation > 0.9
    (3, True)
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
    _write(scene, fused, out)
    return ColorReport(
        points=len(scene.points),
        frames=len(scene.frames),
        seen=float(fused.seen.float().mean()),
        correlation=color_correlation(
            fused.embeddings[fused.seen], scene.colors[fused.seen]
        ),
        skipped=dict(scene.skipped),
    )


def _write(scene: Scene, fused: PointEmbeddings, out: Path) -> None:
    """The points in their fused colours, as a file and as a page."""
    colors = _as_colors(fused)
    write_points(
        out / "fused.ply", scene.points, colors, views=fused.view_counts
    )
    save_page3d(
        out / "fused.html",
        scene.points,
        colors,
        title=f"{scene.name}: image colours fused onto the points",
        alt=(
            f"The {len(scene.points)} points of {scene.name}, each in the mean"
            " colour of the images that see it."
        ),
    )


def _as_colors(fused: PointEmbeddings) -> UInt8[Tensor, "N 3"]:
    """Mean colours as bytes, grey where no frame sees a point."""
    colors = fused.embeddings.round().clamp(0, 255).to(torch.uint8)
    colors[~fused.seen] = torch.tensor(UNLABELLED_COLOR, dtype=torch.uint8)
    return colors
