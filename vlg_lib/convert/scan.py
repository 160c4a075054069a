"""Convert scans of foreign formats into the layout that the library reads; one
bad scan does not stop the others.

    python data_scripts/convert_scan.py tum rgbd_dataset_freiburg1_desk --out scenes --every 10
    python data_scripts/convert_scan.py nerfstudio kitchen garage --out scenes --jobs 2 \
        --classes "wall, floor, chair, desk" --scene-labels "wall, floor, desk"

Each SOURCE becomes OUT/NAME. A scan that is there with the same settings is
kept by the next run. The readers stand in ``scan_formats.py``, one small
function a format; what is common is here: frames that cannot be used are left
out and counted, images are resampled onto one camera, the world is turned
upright, images that lie on their side are turned too, and where neither
``--cloud`` nor the format brings points, they are averages of the depth in grid
cells, or the surface that TSDF fusion finds (``--points tsdf``). ``python -m
vlg_lib check OUT/NAME`` says whether it all fits.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from torch import Tensor

from vlg_lib.classes import ClassSet, get_class_set, own_class_set
from vlg_lib.convert.batch import (
    convert_all,
    finish,
    one_line_errors,
    provenance,
)
from vlg_lib.convert.depth_maps import is_whole_map, map_size, read_map
from vlg_lib.convert.formats.base import PosedImage
from vlg_lib.convert.formats.registry import FORMATS
from vlg_lib.convert.frames import Shot, Shots, is_usable, usable
from vlg_lib.convert.image_rotation import sideways, turned_camera, turned_shot
from vlg_lib.convert.tsdf import POINTS
from vlg_lib.data.depth_fusion import points_from_frames
from vlg_lib.data.frames import (
    LayoutError,
    image_size,
    is_whole_image,
    read_color,
)
from vlg_lib.data.layout import write_scene
from vlg_lib.data.ply import read_points
from vlg_lib.geometry.cameras import resize_camera
from vlg_lib.geometry.poses import up_rotation
from vlg_lib.geometry.upright import upright
from vlg_lib.scene import Camera, Scene

MISSING = (65535,)
"""A depth code that means "no depth" in all these formats, besides 0: 7-Scenes
says so, elsewhere it is the largest."""


@dataclass(frozen=True)
class Settings:
    """What decides how a scan is converted.

    ``up``: an axis ("z", "-y"), "auto" (from cameras and floor) or None (what
    the format says). ``every``: take each n-th image. ``cell``: metres, of
    points made from depth. ``metres``: of one unit of the source's world and
    depth. ``depth_scale``: units a metre instead of the format's. ``cloud``: a
    PLY in the source's world. ``points``: how points are made from depth, one
    of POINTS. ``turn``: degrees, counter-clockwise, to turn the images by;
    None: what makes them stand upright.
    """

    format: str
    up: str | None = None
    every: int = 1
    cell: float = 0.04
    metres: float = 1.0
    depth_scale: float | None = None
    cloud: str | None = None
    points: str = "average"
    turn: int | None = None
    class_set: str = "scannet-20"
    classes: tuple[str, ...] = ()
    scene_labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(
                f"unknown format {self.format!r}; known: {', '.join(FORMATS)}"
            )
        if (
            self.every < 1
            or not min(self.cell, self.metres, self.depth_scale or 1.0) > 0
        ):
            raise ValueError(
                "every, cell, metres and the depth scale must be positive"
            )
        if self.points not in POINTS or self.turn not in (
            None,
            0,
            90,
            180,
            270,
        ):
            raise ValueError(
                f"expected points to be one of {', '.join(POINTS)} and a turn"
                f" of 0, 90, 180 or 270 degrees, found {self.points!r} and"
                f" {self.turn}"
            )

    def known_classes(self) -> ClassSet:
        """The class set of the scenes; ValueError for an unknown or doubtful
        one, and for unknown scene labels.
        """
        known = (
            own_class_set(self.classes)
            if self.classes
            else get_class_set(self.class_set)
        )
        known.mask(self.scene_labels)
        return known


def common_camera(cameras: Sequence[Camera]) -> Camera:
    """A camera that sees what all see: that of all where they are equal, else
    with the median focal length.

    ValueError where some of them look past each other.
    """
    if len(set(cameras)) == 1:
        return cameras[0]
    fx, fy = (
        median(getattr(camera, name) for camera in cameras)
        for name in ("fx", "fy")
    )
    left = max((-0.5 - each.cx) / each.fx for each in cameras)
    right = min((each.width - 0.5 - each.cx) / each.fx for each in cameras)
    top = max((-0.5 - each.cy) / each.fy for each in cameras)
    bottom = min((each.height - 0.5 - each.cy) / each.fy for each in cameras)
    width, height = (
        int((right - left) * fx + 1e-6),
        int((bottom - top) * fy + 1e-6),
    )
    if min(width, height) < 1:
        raise LayoutError(
            "the cameras of this scan share no direction of view: convert them"
            " apart"
        )
    return Camera(fx, fy, -left * fx - 0.5, -top * fy - 0.5, width, height)


def open_scan(
    folder: Path, settings: Settings
) -> tuple[list[PosedImage], Shots]:
    """The images of a scan that can be used, and their frames in the source's
    axes, in metres; the others are counted.

    LayoutError where a file of the scan is wrong, an image has not its camera's
    shape, or no frame can be used.
    """
    taken = list(FORMATS[settings.format].read(folder))[:: settings.every]
    if not taken:
        raise LayoutError(
            f"{folder}: expected {FORMATS[settings.format].holds}, found no"
            " image"
        )
    if settings.depth_scale is not None:
        taken = [
            image._replace(depth_scale=settings.depth_scale) for image in taken
        ]
    names, skipped, shots = {image.name for image in taken}, Counter[str](), []
    if (
        len(names) < len(taken)
        or len({image.depth is None for image in taken}) > 1
    ):
        raise LayoutError(
            f"{folder}: expected images of different names, all or none of them"
            " with depth"
        )
    for image in taken:
        reason = _why_unusable(image)
        if reason is not None:
            skipped[reason] += 1
            continue
        pose, camera = image.pose.clone(), _camera_of_image(image)
        pose[:3, 3] *= settings.metres
        height, width = (
            (camera.height, camera.width)
            if image.depth is None
            else map_size(image.depth)
        )
        load = partial(_load, image, settings.metres)
        shots.append(
            Shot(
                image.name,
                pose,
                camera,
                resize_camera(camera, width, height),
                load,
            )
        )
    shots = usable(str(folder), shots, skipped)
    return taken, Shots(
        shots, common_camera([shot.depth_camera for shot in shots]), skipped
    )


def _load(image: PosedImage, metres: float) -> tuple[Tensor, Tensor | None]:
    color = read_color(image.color)
    return color, (
        None
        if image.depth is None
        else read_map(image.depth, image.depth_scale, MISSING) * metres
    )


def _why_unusable(image: PosedImage) -> str | None:
    """Why a frame must be left out, in words to count by; None where it can be
    used.
    """
    if not image.color.is_file():
        return "missing image"
    if not is_usable(image.pose):
        return "invalid pose"
    if image.depth is not None and not image.depth.is_file():
        return "missing depth"
    whole = is_whole_image(image.color) and (
        image.depth is None or is_whole_map(image.depth)
    )
    return None if whole else "unreadable image"


def _camera_of_image(image: PosedImage) -> Camera:
    """The camera at the size that the image really has: a smaller copy is
    allowed, another shape is not.
    """
    height, width = image_size(image.color)
    camera = image.camera
    if (
        abs(width * camera.height - height * camera.width)
        > 0.02 * width * camera.height
    ):
        raise LayoutError(
            f"{image.color}: expected the shape of {camera.width} x"
            f" {camera.height} pixels, as its camera says, found {width} x"
            f" {height}; was the image turned or cut?"
        )
    return resize_camera(camera, width, height)


def convert_one(
    name: str, out: Path, sources: dict[str, Path], settings: Settings
) -> None:
    """Convert the scan of a name into the scene folder ``out``; ValueError
    where it cannot be, with nothing there.
    """
    folder, form, class_set = (
        sources[name],
        FORMATS[settings.format],
        settings.known_classes(),
    )
    images, frames = open_scan(folder, settings)
    given: tuple[Tensor, Tensor] | None = None
    if settings.cloud is not None:
        given = read_points(Path(settings.cloud))[:2]
    elif images[0].depth is None:
        if form.points is None:
            raise LayoutError(
                f"{folder}: no depth images; give the points with --cloud"
            )
        given = form.points(folder)
    up = settings.up or form.up
    if up == "auto":
        some = (
            frames[i] for i in range(0, len(frames), max(1, len(frames) // 12))
        )
        rough = (
            given[0]
            if given
            else points_from_frames(some, 4 * settings.cell)[0]
        )
        alignment = upright(
            torch.stack([shot.camera_to_world for shot in frames.shots]), rough
        )
    else:
        alignment = up_rotation(up)
    upright_shots = [
        replace(shot, camera_to_world=alignment @ shot.camera_to_world)
        for shot in frames.shots
    ]
    turns = sideways(
        torch.stack([shot.camera_to_world for shot in upright_shots])
    )
    turns = turns if settings.turn is None else settings.turn // 90
    shots = [turned_shot(shot, turns) for shot in upright_shots]
    frames = replace(
        frames, shots=shots, camera=turned_camera(frames.camera, turns)
    )
    points, colors = given or POINTS[settings.points](frames, settings.cell)
    if given:
        points = (
            settings.metres * points.double() @ alignment[:3, :3].T
        ).float()
    scales = {image.depth_scale for image in images}
    write_scene(
        out,
        Scene(
            name,
            points,
            colors,
            frames,
            class_set,
            class_set.mask(settings.scene_labels),
            dict(frames.skipped),
        ),
        provenance=provenance(
            "data_scripts/convert_scan.py",
            name,
            asdict(settings),
            up=up,
            turned=90 * turns,
        ),
        depth_scale=(
            scales.pop() / settings.metres if len(scales) == 1 else 1000.0
        ),
        axis_alignment=alignment,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def main(
    format: Annotated[
        str, typer.Argument(help=f"One of: {', '.join(FORMATS)}.")
    ],
    sources: Annotated[list[Path], typer.Argument(help="Folders of scans.")],
    out: Annotated[Path, typer.Option(help="Folder for the scene folders.")],
    classes: Annotated[
        str, typer.Option(help="Your own class names, comma-separated.")
    ] = "",
    class_set: Annotated[
        str, typer.Option(help="Or a known class set.")
    ] = "scannet-20",
    scene_labels: Annotated[
        str,
        typer.Option(help="Classes that the scenes contain, comma-separated."),
    ] = "",
    up: Annotated[
        str | None,
        typer.Option(
            help="x, -y, ... or auto: by cameras and floor [the format's]."
        ),
    ] = None,
    every: Annotated[int, typer.Option(help="Take each n-th image.")] = 1,
    cell: Annotated[
        float,
        typer.Option(help="Grid cell for the points made from depth, metres."),
    ] = 0.04,
    metres: Annotated[
        float,
        typer.Option(
            help="Metres in a unit of the source (COLMAP has its own)."
        ),
    ] = 1.0,
    depth_scale: Annotated[
        float | None,
        typer.Option(help="Depth units a metre [what the format says]."),
    ] = None,
    cloud: Annotated[
        Path | None, typer.Option(help="PLY of coloured points to use instead.")
    ] = None,
    points: Annotated[
        str,
        typer.Option(
            help="Points from depth: average, or tsdf (pip install open3d)."
        ),
    ] = "average",
    turn: Annotated[
        int | None,
        typer.Option(
            help="Turn images, degrees counter-clockwise [till they stand]."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Scans at the same time.")] = 1,
) -> None:
    """Convert scans of a foreign format into the layout that the library
    reads.
    """
    with one_line_errors():
        settings = Settings(
            format,
            up,
            every,
            cell,
            metres,
            depth_scale,
            None if cloud is None else str(cloud),
            points,
            turn,
            class_set,
            _names(classes),
            _names(scene_labels),
        )
        settings.known_classes()
        if up not in (None, "auto", "x", "y", "z", "-x", "-y", "-z"):
            raise ValueError(
                "expected --up to be an axis (z, -y, ...) or auto, found"
                f" {up!r}"
            )
        by_name = {folder.resolve().name: folder for folder in sources}
        if len(by_name) != len(sources):
            raise ValueError(
                "expected folders of different names, found"
                f" {', '.join(map(str, sources))}"
            )
        convert = partial(convert_one, sources=by_name, settings=settings)
        summary = convert_all(
            list(by_name), convert, out, settings=asdict(settings), jobs=jobs
        )
    finish(summary, out)


if __name__ == "__main__":
    typer.run(main)
