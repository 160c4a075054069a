"""The frames of a scan that is converted: loaded one at a time, brought onto
one grid, damaged ones left out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlg_lib.convert.registration import (
    common_grid,
    depth_on_grid,
    resize_color,
)
from vlg_lib.data.layout import LayoutError
from vlg_lib.geometry.cameras import resize_camera
from vlg_lib.geometry.poses import check_pose
from vlg_lib.scene import Camera, Frame


@dataclass(frozen=True)
class Shot:
    """One frame of a source: its pose (4, 4) camera-to-world, its two
    registered cameras, and how to load its images.

    ``load`` gives colour (H, W, 3) uint8 and depth (h, w) float32 metres (None
    where the source has no depth), or raises ValueError where they are damaged.
    """

    name: str
    camera_to_world: Tensor
    color_camera: Camera
    depth_camera: Camera
    load: Callable[[], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class Shots(Sequence[Frame]):
    """Shots as frames of one ``camera``, each loaded when it is asked for;
    ``skipped`` counts what was left out.
    """

    shots: Sequence[Shot]
    camera: Camera
    skipped: Counter[str]

    def __len__(self) -> int:
        return len(self.shots)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        shot = self.shots[index]
        color, depth = _load(shot)
        if depth is not None:
            depth = depth_on_grid(depth, shot.depth_camera, self.camera)
        return Frame(
            shot.name,
            self.camera,
            shot.camera_to_world,
            color_on_grid(color, shot, self.camera),
            depth,
        )


def no_frames() -> Shots:
    """Of a scene without images: points, and labels where there are any."""
    return Shots([], Camera(1.0, 1.0, 0.0, 0.0, 1, 1), Counter())


def usable(
    source: str, shots: Iterable[Shot], skipped: Counter[str]
) -> list[Shot]:
    """The shots whose images load; the others are added to ``skipped``.
    LayoutError where none is left.

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
        else:
            kept.append(shot)
    if not kept:
        counts = ", ".join(
            f"{count} x {reason}" for reason, count in skipped.items()
        )
        raise LayoutError(
            f"{source}: none of its frames can be used ({counts}); {last}"
        )
    return kept


def _load(shot: Shot) -> tuple[Tensor, Tensor | None]:
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


def color_on_grid(color: Tensor, shot: Shot, camera: Camera) -> Tensor:
    """A colour image at the pixels of ``camera``; what lies outside the image
    repeats its nearest edge.
    """
    part = common_grid(shot.color_camera, camera)
    color = resize_color(color, part)
    left, top = part.depth_left, part.depth_top
    right, bottom = (
        camera.width - left - part.camera.width,
        camera.height - top - part.camera.height,
    )
    if not any((left, right, top, bottom)):
        return color
    planes = color.permute(2, 0, 1)[None].float()
    return (
        pad(planes, (left, right, top, bottom), mode="replicate")[0]
        .permute(1, 2, 0)
        .to(torch.uint8)
        .contiguous()
    )


def target_camera(color: Camera, depth: Camera, size: str) -> Camera:
    """The camera of the converted frames.

    ``size``: "depth" (the grid of the depth images, as far as colour covers it:
    depth stays as it is), "color" (the grid of the colour images) or "320x240"
    (the colour images resampled). ValueError for anything else.
    """
    if size == "depth":
        return common_grid(color, depth).camera
    if size == "color":
        return color
    width, height = given_size(size)
    return resize_camera(color, width, height)


def given_size(size: str) -> tuple[int, int]:
    """(width, height) of a size like "320x240"; (0, 0) for "depth" and "color";
    ValueError for anything else.
    """
    if size in ("depth", "color"):
        return 0, 0
    width, _, height = size.partition("x")
    if not (
        width.isdecimal()
        and height.isdecimal()
        and 0 < int(width) <= 16384
        and 0 < int(height) <= 16384
    ):
        raise ValueError(
            f"expected a size like 320x240, 'depth' or 'color', found {size!r}"
        )
    return int(width), int(height)


def is_usable(pose: Tensor) -> bool:
    """Whether a matrix is a pose; ScanNet marks lost tracking with -inf."""
    try:
        check_pose(pose)
    except ValueError:
        return False
    return True
