"""The frames of a scan that is converted: one lazy list for every format, each
frame loaded when it is asked for and brought onto one grid, unusable ones left
out and counted.

A converter describes each frame as a :class:`Shot`: name, pose, cameras and how
to load its images. What cannot be used is counted by reason, in the words of
:func:`why_unusable` and :func:`usable`. :class:`Shots` then gives frames of one
camera (see :mod:`vlg_lib.convert.registration`).
"""

from collections import Counter
from collections.abc import (
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import pad

from vlg_lib.convert.registration import (
    common_grid,
    depth_on_grid,
    resize_color,
)
from vlg_lib.data.files import is_there
from vlg_lib.data.frames import LayoutError
from vlg_lib.geometry.poses import is_pose
from vlg_lib.scene import Camera, Frame

Images = tuple[UInt8[Tensor, "height width 3"], Float[Tensor, "h w"] | None]
"""Colour, and depth in metres (None where the source has no depth)."""


@dataclass(frozen=True)
class Shot:
    """One frame of a source."""

    name: str
    """Its name in the scene; different for every frame."""
    camera_to_world: Float[Tensor, "4 4"]
    """Its pose, float64, in the world of the scene."""
    color_camera: Camera
    """Of the colour image."""
    depth_camera: Camera
    """Of the depth image, registered to the other (one centre, one
    orientation); the same where there is no depth."""
    load: Callable[[], Images]
    """Reads the images; ValueError where they are damaged."""


@dataclass(frozen=True, eq=False)
class Shots(Sequence[Frame]):
    """Shots as frames of one camera, each loaded when it is asked for."""

    shots: Sequence[Shot]
    """What the frames are made of, in their order."""
    camera: Camera
    """Of all frames; colour is resampled onto its pixels, depth looked up."""
    skipped: Counter[str]
    """How many frames of the source were left out, by reason."""
    first: Mapping[str, str] = field(default_factory=dict)
    """The first that was left out, by reason: file and what is wrong."""

    def __len__(self) -> int:
        return len(self.shots)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        """Load one frame; ValueError where an image went bad since."""
        shot = self.shots[index]
        color, depth = _load(shot)
        if depth is not None:
            depth = depth_on_grid(depth, shot.depth_camera, self.camera)
        return Frame(
            shot.name,
            self.camera,
            shot.camera_to_world,
            color_on_grid(color, shot.color_camera, self.camera),
            depth,
        )

    @property
    def poses(self) -> Float[Tensor, "F 4 4"]:
        """The poses of all frames, camera-to-world, float64."""
        if not self.shots:
            return torch.zeros(0, 4, 4, dtype=torch.float64)
        return torch.stack([shot.camera_to_world for shot in self.shots])


def no_frames() -> Shots:
    """Of a scene without images: points, and labels where there are any.

    >>> len(no_frames())
    0
    """
    return Shots([], Camera(1.0, 1.0, 0.0, 0.0, 1, 1), Counter())


def why_unusable(
    color: Path | None,
    pose: Float[Tensor, "rows columns"] | None,
    depth: Path | None = None,
    *,
    with_depth: bool = True,
) -> str | None:
    """Why a frame must be left out, in words to count by; None where its files
    are there and its matrix is a pose (no image is read).

    ``color``, ``depth``: files, None where the source names none. ``pose``: as
    the source has it, None where there is none. ``with_depth``: whether the
    other frames have depth.

    >>> why_unusable(None, torch.eye(4))
    'missing image'
    """
    if color is None or not is_there(color):
        return "missing image"
    if pose is None:
        return "missing pose"
    if not is_pose(pose):
        return "invalid pose"
    if with_depth and (depth is None or not is_there(depth)):
        return "missing depth"
    return None


def usable(
    source: str,
    shots: Iterable[Shot],
    skipped: Counter[str],
    first: MutableMapping[str, str] | None = None,
) -> list[Shot]:
    """The shots whose images load; the others are added to ``skipped`` as
    "unreadable image", and the first of them to ``first``. LayoutError naming
    ``source`` where none is left.

    Each image is decoded here once and once more when it is written, so that a
    scene knows its frames from the start and one damaged image among thousands
    costs a frame and not the scene.
    """
    kept, last = [], "there are no others"
    for shot in shots:
        try:
            _load(shot)
        except ValueError as error:
            skipped["unreadable image"] += 1
            last = str(error)
            if first is not None:
                first.setdefault("unreadable image", last)
        else:
            kept.append(shot)
    if not kept:
        raise none_usable(source, skipped, last)
    return kept


def none_usable(source: str, skipped: Counter[str], last: str) -> LayoutError:
    """The error of a scan whose frames were all left out; ``last``: what the
    last of them said.
    """
    return LayoutError(
        f"{source}: none of its frames can be used ({counts_text(skipped)});"
        f" {last}"
    )


def counts_text(counts: Counter[str]) -> str:
    """What was left out and how often, in words.

    >>> counts_text(Counter({"invalid pose": 2})), counts_text(Counter())
    ('2 x invalid pose', 'none')
    """
    parts = [f"{count} x {reason}" for reason, count in counts.items()]
    return ", ".join(parts) or "none"


def _load(shot: Shot) -> Images:
    color, depth = shot.load()
    _check_size(shot, color, shot.color_camera)
    if depth is not None:
        _check_size(shot, depth, shot.depth_camera)
    return color, depth


def _check_size(shot: Shot, image: Tensor, camera: Camera) -> None:
    height, width = image.shape[:2]
    if (height, width) != (camera.height, camera.width):
        raise LayoutError(
            f"frame {shot.name}: expected {camera.width} x {camera.height}"
            f" pixels, found {width} x {height}; all images of a scan share one"
            " size"
        )


def color_on_grid(
    color: UInt8[Tensor, "h w 3"], camera: Camera, target: Camera
) -> UInt8[Tensor, "height width 3"]:
    """A colour image of ``camera`` at the pixels of ``target``, a registered
    camera; what lies outside the image repeats its nearest edge.

    >>> camera = Camera(2.0, 2.0, 0.5, 0.0, 2, 1)
    >>> wider = Camera(2.0, 2.0, 1.5, 0.0, 4, 1)
    >>> color = torch.tensor([[[10, 10, 10], [20, 20, 20]]], dtype=torch.uint8)
    >>> color_on_grid(color, camera, wider)[0, :, 0].tolist()
    [10, 10, 20, 20]
    """
    part = common_grid(camera, target)
    color = resize_color(color, part)
    left, top = part.depth_left, part.depth_top
    right = target.width - left - part.camera.width
    bottom = target.height - top - part.camera.height
    if not any((left, right, top, bottom)):
        return color
    planes = color.permute(2, 0, 1)[None].float()
    padded = pad(planes, (left, right, top, bottom), mode="replicate")[0]
    return padded.permute(1, 2, 0).to(torch.uint8).contiguous()
