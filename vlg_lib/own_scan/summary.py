"""What a scene folder holds, in a few lines: frames, sizes, units, ranges, what
was left out, classes and scene labels.
"""

from pathlib import Path

import torch
from torch import Tensor

from vlg_lib.data.frames import FrameFolder
from vlg_lib.data.layout import (
    LABELS,
    read_manifest,
    read_scene,
    read_world_offset,
)

SAMPLE = 16
"""How many frames, spread over the scene, the range of depth is taken from."""


def describe(folder: Path) -> str:
    """Describe the scene in ``folder``, one fact a line. LayoutError, as from
    ``read_scene``, where it is wrong.

    >>> from tempfile import TemporaryDirectory
    >>> from vlg_lib.rooms.scenes import make_rooms
    >>> size = {"views": 4, "width": 64, "height": 48, "progress": False}
    >>> with TemporaryDirectory() as root:
    ...     (folder,) = make_rooms(Path(root), [7], **size)
    ...     print(describe(folder).splitlines()[2])
    frames:        4
    """
    manifest, scene, about = read_manifest(folder), read_scene(folder), {}
    if isinstance(scene.frames, FrameFolder):
        camera = scene.frames.camera
        focal = (
            f"fx {camera.fx:.2f}, fy {camera.fy:.2f}, cx {camera.cx:.2f}, cy"
            f" {camera.cy:.2f}"
        )
        about["camera"] = f"{camera.width} x {camera.height} pixels, {focal}"
        about |= {
            "cameras stand": _box(scene.frames.poses[:, :3, 3]),
            "depth": _depth(scene.frames),
        }
    facts = {
        "scene": f"{scene.name} ({folder})",
        "points": f"{len(scene.points)}, {_box(scene.points)}",
        "frames": str(len(scene.frames)),
        **about,
        **_offset(folder),
        "left out": (
            ", ".join(
                f"{count} x {reason}" for reason, count in scene.skipped.items()
            )
            or "none"
        ),
        "classes": (
            f"{scene.class_set.name}: {', '.join(scene.class_set.names)}"
        ),
        "scene labels": (
            ", ".join(scene.class_set.present(scene.scene_labels))
            or "none: write them into scene.json"
        ),
        "point labels": (
            "yes, for evaluation" if (folder / LABELS).is_file() else "none"
        ),
        "superpoints": (
            "none, so they are computed"
            if scene.superpoints is None
            else f"{len(scene.superpoints.unique())}, of the data set"
        ),
        "made by": str(
            manifest["provenance"].get(
                "converter", manifest["provenance"].get("source", "not said")
            )
        ),
    }
    return "\n".join(f"{name + ':':14} {fact}" for name, fact in facts.items())


def _offset(folder: Path) -> dict[str, str]:
    """Where the scene's origin lies in its source, where that is elsewhere."""
    offset = read_world_offset(folder)
    if not bool(offset.any()):
        return {}
    numbers = ", ".join(f"{number:.3f}" for number in offset.tolist())
    return {"origin": f"({numbers}) m in the source's world, z up"}


def _box(points: Tensor) -> str:
    """The extent of points, metres."""
    low, high = points.amin(dim=0).tolist(), points.amax(dim=0).tolist()
    return "metres: " + ", ".join(
        f"{axis} {a:.2f} to {b:.2f}"
        for axis, a, b in zip("xyz", low, high, strict=True)
    )


def _depth(frames: FrameFolder) -> str:
    """Units and range of depth, over some frames."""
    if frames.depth_scale is None:
        return "none"
    chosen = range(0, len(frames), -(-len(frames) // SAMPLE))
    maps = torch.cat(
        [
            depth.flatten()
            for i in chosen
            if (depth := frames[i].depth) is not None
        ]
    )
    measured, unit = maps[maps > 0], f"{frames.depth_scale:g} units a metre"
    if len(measured) == 0:
        return f"{unit}; all missing"
    low, middle, high = measured.min(), measured.median(), measured.max()
    return (
        f"{unit}; {low:.3f} to {high:.3f} m, median {middle:.3f} m;"
        f" {1 - len(measured) / len(maps):.1%} missing"
    )
