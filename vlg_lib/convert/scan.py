r"""Scans of any format of posed images become scene folders; one bad scan does
not stop the others. The readers are in :mod:`vlg_lib.convert.formats`.

::

    vlg convert tum rgbd_dataset_freiburg1_desk --out scenes --every 10
    vlg convert nerfstudio kitchen garage --out scenes --jobs 2 \
        --classes "wall, floor, chair, desk" --tags "wall, floor, desk"

Each source becomes OUT/NAME. A scan that is there with the same settings is
kept by the next run. The readers stand in ``formats/``, one small file a
format; what is common is here: frames that cannot be used are left out and
counted, images are resampled onto one camera, the world is turned upright,
images that lie on their side are turned too, and where neither a cloud nor the
format brings points, they are averages of the depth in grid cells, or the
surface that TSDF fusion finds. ``vlg check OUT/NAME`` says whether it all fits.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vlg_lib.classes import ClassSet
from vlg_lib.convert.batch import Summary, convert_all, provenance
from vlg_lib.convert.depth_maps import (
    check_packages,
    is_whole_map,
    map_size,
    read_map,
)
from vlg_lib.convert.formats.base import LeftOut, PosedImage
from vlg_lib.convert.formats.registry import FORMATS
from vlg_lib.convert.frames import (
    Images,
    Shot,
    Shots,
    none_usable,
    usable,
    why_unusable,
)
from vlg_lib.convert.image_rotation import turned_camera, turned_shot
from vlg_lib.convert.origin import moved, with_offset, world_offset
from vlg_lib.convert.parsing import camera_of
from vlg_lib.convert.registration import common_camera
from vlg_lib.convert.scene_labels import known_classes
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
from vlg_lib.geometry.upright import AXES, sideways, up_rotation, upright
from vlg_lib.scene import Camera, Scene

MISSING = (65535,)
"""A depth code that means "no depth" in all these formats, besides 0: 7-Scenes
says so, elsewhere it is the largest."""

Cloud = tuple[Float[Tensor, "N 3"], UInt8[Tensor, "N 3"]]
"""Points, metres, and their colours."""


@dataclass(frozen=True)
class ScanSettings:
    """What decides how a scan is converted; stored with it, so that a run with
    others makes it again.
    """

    format: str
    """The name of a format, one of ``registry.FORMATS``."""
    up: str | None = None
    """The axis of the source's world that points up ("z", "-y"), "auto" (from
    cameras and floor) or None (what the format says)."""
    every: int = 1
    """Take each n-th image."""
    cell: float = 0.04
    """Grid cell for the points made from depth, metres."""
    metres: float = 1.0
    """Metres in a unit of the source's world and depth (COLMAP has its own)."""
    depth_scale: float | None = None
    """Depth units a metre, instead of the format's."""
    cloud: Path | None = None
    """PLY of coloured points in the source's world to use instead."""
    points: str = "average"
    """How points are made from depth, one of ``tsdf.POINTS``."""
    camera: tuple[float, ...] | None = None
    """fx, fy, cx, cy in pixels, with centres at integers, and then the width
    and height of the images that they are of (without: each image's own size),
    instead of the camera that the format says or assumes."""
    turn: int | None = None
    """Degrees, counter-clockwise, to turn the images by; None: what makes them
    stand upright."""
    class_set: str = "scannet-20"
    """The name of a known class set."""
    classes: tuple[str, ...] = ()
    """Class names of your own, instead."""
    scene_labels: tuple[str, ...] = ()
    """Classes that the scenes contain, typed by a person; empty where nobody
    looked."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(
                f"unknown format {self.format!r}; known: {', '.join(FORMATS)}"
            )
        if self.up not in (None, "auto", *AXES):
            raise ValueError(
                "expected --up to be an axis (z, -y, ...) or auto, found"
                f" {self.up!r}"
            )
        sizes = (self.cell, self.metres, self.depth_scale or 1.0)
        if self.every < 1 or not min(sizes) > 0:
            raise ValueError(
                "every, cell, metres and the depth scale must be positive"
            )
        if self.camera is not None and (
            len(self.camera) not in (4, 6)
            or not all(math.isfinite(number) for number in self.camera)
        ):
            raise ValueError(
                "expected --camera to be fx,fy,cx,cy or"
                f" fx,fy,cx,cy,width,height, found {list(self.camera)}"
            )
        turns = (None, 0, 90, 180, 270)
        if self.points not in POINTS or self.turn not in turns:
            raise ValueError(
                f"expected points to be one of {', '.join(POINTS)} and a turn"
                f" of 0, 90, 180 or 270 degrees, found {self.points!r} and"
                f" {self.turn}"
            )

    @property
    def stored(self) -> dict[str, Any]:
        """What ``scene.json`` keeps; a camera only where one was typed, as in
        scenes of earlier releases.
        """
        values = asdict(self)
        if self.camera is None:
            del values["camera"]
        return values

    def known_classes(self) -> ClassSet:
        """The class set of the scenes; ValueError for an unknown or doubtful
        one, and for unknown scene labels.
        """
        return known_classes(self.class_set, self.classes, self.scene_labels)


def convert_scans(
    sources: Sequence[Path],
    out: Path,
    settings: ScanSettings,
    *,
    jobs: int = 1,
    progress: bool = True,
) -> Summary:
    """Convert the folders of scans into ``out/NAME``, ``jobs`` at the same
    time; what was done, kept and failed.

    A scan that fails is named in the summary, and the others are converted all
    the same. ``progress``: whether to show a bar. ValueError where a setting is
    wrong, or two folders have one name.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as out:
    ...     missing, settings = Path("no such scan"), ScanSettings("tum")
    ...     found = convert_scans(
    ...         [missing], Path(out), settings, progress=False
    ...     )
    failed: no such scan: no such scan/rgb.txt: no such file
    >>> list(found.failed)
    ['no such scan']
    """
    settings.known_classes()  # a wrong name is one error, not one a scan
    by_name = {folder.resolve().name: folder for folder in sources}
    if len(by_name) != len(sources):
        raise ValueError(
            "expected folders of different names, found"
            f" {', '.join(map(str, sources))}"
        )
    return convert_all(
        list(by_name),
        partial(convert_one, sources=by_name, settings=settings),
        out,
        settings=settings.stored,
        jobs=jobs,
        progress=progress,
    )


def convert_one(
    name: str, out: Path, sources: dict[str, Path], settings: ScanSettings
) -> None:
    """Convert the scan of a name into the scene folder ``out``; ValueError
    where it cannot be, with nothing there.

    ``sources``: the folders of scans by name.
    """
    folder = sources[name]
    class_set = settings.known_classes()
    images, frames = open_scan(folder, settings)
    given = _given_points(folder, images, settings)
    offset = world_offset(frames.poses)
    frames = moved(frames, offset)
    if given is not None:
        metric = settings.metres * given[0].double() - offset
        given = metric.float(), given[1]
    up = settings.up or FORMATS[settings.format].up
    alignment = _alignment(up, frames, given, settings)
    frames, turns = _stood_upright(frames, alignment, settings)
    if given is None:
        points, colors = POINTS[settings.points](frames, settings.cell)
    else:
        turned = given[0].double() @ alignment[:3, :3].T
        points, colors = turned.float(), given[1]
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
            f"vlg convert {settings.format}",
            name,
            settings.stored,
            {"up": up, "turned": 90 * turns, **_told(images, frames)},
        ),
        depth_scale=_depth_scale(images, settings),
        axis_alignment=with_offset(alignment, offset),
        world_offset=alignment[:3, :3] @ offset,
    )


def _told(
    images: Sequence[PosedImage], frames: Shots
) -> dict[str, dict[str, str] | list[str]]:
    """What to tell of a scan besides counts: what was assumed, and the first
    image that was left out for each reason.
    """
    remarks = list(dict.fromkeys(im.remark for im in images if im.remark))
    told: dict[str, dict[str, str] | list[str]] = {}
    if remarks:
        told["assumed"] = remarks
    if frames.first:
        told["left_out"] = dict(frames.first)
    return told


def open_scan(
    folder: Path, settings: ScanSettings
) -> tuple[list[PosedImage], Shots]:
    """The images of a scan that are taken, and the frames of those that can be
    used, in the source's axes, in metres; the others are counted.

    LayoutError where a file of the scan is wrong, an image has not its camera's
    shape, or no frame can be used.
    """
    left_out = _LeftOutImages()
    taken = _taken_images(folder, settings, left_out)
    shots, last = [], "there are no others"
    for image in taken:
        found = _shot_or_reason(image, settings.metres)
        if isinstance(found, Shot):
            shots.append(found)
        else:
            left_out.add(found)
            last = found.what
    if not shots:
        raise none_usable(str(folder), left_out.counts, last)
    shots = usable(str(folder), shots, left_out.counts, left_out.first)
    camera = common_camera([shot.depth_camera for shot in shots])
    return taken, Shots(shots, camera, left_out.counts, left_out.first)


@dataclass(frozen=True)
class _LeftOutImages:
    """Images of a scan that are not used."""

    counts: Counter[str] = field(default_factory=Counter)
    """How many, by reason."""
    first: dict[str, str] = field(default_factory=dict)
    """The first of each reason."""

    def add(self, image: LeftOut) -> None:
        """Count an image, and remember it where it is the first."""
        self.counts[image.reason] += 1
        self.first.setdefault(image.reason, image.what)


def _taken_images(
    folder: Path, settings: ScanSettings, left_out: _LeftOutImages
) -> list[PosedImage]:
    """Each n-th image of a scan, those aside that its reader left out;
    LayoutError where there is none, or they do not go together.
    """
    form = FORMATS[settings.format]
    found = list(form.read(folder))[:: settings.every]
    taken = []
    for item in found:
        if isinstance(item, LeftOut):
            left_out.add(item)
        else:
            taken.append(_with_settings(item, settings))
    if not found:
        raise LayoutError(f"{folder}: expected {form.needs}, found no image")
    if not taken:
        last = list(left_out.first.values())[-1]
        raise none_usable(str(folder), left_out.counts, last)
    _check_names(folder, taken)
    _check_depth_scale(folder, taken)
    if not any(image.depth for image in taken):
        return taken
    for image in taken:
        if image.depth is None:
            left_out.add(LeftOut("missing depth", f"{image.color}: no depth"))
        else:
            check_packages(image.depth)
    return [image for image in taken if image.depth is not None]


def _with_settings(image: PosedImage, settings: ScanSettings) -> PosedImage:
    """An image with what a person said of it."""
    if settings.depth_scale is not None:
        image = replace(image, depth_scale=settings.depth_scale)
    if settings.camera is None:
        return image
    remark = "" if "--camera" in image.remark else image.remark
    camera = _typed_camera(image, settings.camera)
    return replace(image, camera=camera, depth_camera=None, remark=remark)


def _typed_camera(image: PosedImage, numbers: tuple[float, ...]) -> Camera:
    """The camera that a person typed: fx, fy, cx, cy, and the width and height
    of the images that these are of, or else of this one.
    """
    fx, fy, cx, cy, *size = numbers
    width, height = size or (image.camera.width, image.camera.height)
    if not size and is_whole_image(image.color):
        height, width = image_size(image.color)
    return camera_of(Path("--camera"), fx, fy, cx, cy, width, height)


def _check_names(folder: Path, taken: Sequence[PosedImage]) -> None:
    names = Counter(image.name for image in taken)
    name, count = names.most_common(1)[0]
    if count > 1:
        raise LayoutError(
            f"{folder}: expected images of different names, found {count} of"
            f" the name {name!r}; rename one or take it away"
        )


def _check_depth_scale(folder: Path, taken: Sequence[PosedImage]) -> None:
    if any(image.depth and image.depth_scale is None for image in taken):
        raise LayoutError(
            f"{folder}: it has depth images, but does not say their unit"
            " (integer_depth_scale); give units a metre with --depth-scale,"
            " such as 1000 for mm"
        )


def _shot_or_reason(image: PosedImage, metres: float) -> Shot | LeftOut:
    """The frame of an image, or why it cannot be used."""
    depth = image.depth
    reason = why_unusable(
        image.color, image.pose, depth, with_depth=depth is not None
    )
    if reason is not None:
        what = depth if reason == "missing depth" else image.color
        return LeftOut(reason, f"{what}: {reason}")
    if not is_whole_image(image.color):
        return LeftOut("unreadable image", f"{image.color}: not a whole image")
    size = None
    if depth is not None:
        if not is_whole_map(depth, image.depth_size):
            return LeftOut("unreadable image", f"{depth}: not a whole image")
        try:
            size = map_size(depth, image.depth_size)
        except LayoutError as error:
            return LeftOut("unreadable image", str(error))
    return _shot(image, metres, size)


def _shot(
    image: PosedImage, metres: float, depth_size: tuple[int, int] | None
) -> Shot:
    """The frame of an image, with its pose in metres; ``depth_size``: (height,
    width).
    """
    pose = image.pose.clone()
    pose[:3, 3] *= metres
    camera = _camera_of_image(image)
    depth_camera = camera
    if depth_size is not None:
        height, width = depth_size
        own = image.depth_camera or camera
        depth_camera = resize_camera(own, width, height)
    load = partial(_load, image, metres)
    return Shot(image.name, pose, camera, depth_camera, load)


def _camera_of_image(image: PosedImage) -> Camera:
    """The camera at the size that the image really has: a smaller copy is
    allowed, another shape is not.
    """
    height, width = image_size(image.color)
    camera = image.camera
    off = abs(width * camera.height - height * camera.width)
    if off > 0.02 * width * camera.height:
        raise LayoutError(
            f"{image.color}: expected the shape of {camera.width} x"
            f" {camera.height} pixels, as its camera says, found {width} x"
            f" {height}; was the image turned or cut?"
        )
    return resize_camera(camera, width, height)


def _load(image: PosedImage, metres: float) -> Images:
    color = read_color(image.color)
    if image.depth is None:
        return color, None
    scale = image.depth_scale or 1000.0
    depth = read_map(image.depth, scale, MISSING, image.depth_size)
    return color, depth * metres


def _given_points(
    folder: Path, images: Sequence[PosedImage], settings: ScanSettings
) -> Cloud | None:
    """Points in the source's world and unit that need not be made from depth:
    those of a cloud, or of the format where it has no depth; None otherwise.
    """
    if settings.cloud is not None:
        points, colors, _ = read_points(settings.cloud, torch.float64)
        return points, colors
    if images[0].depth is not None:
        return None
    read = FORMATS[settings.format].points
    if read is None:
        raise LayoutError(
            f"{folder}: no depth images; give the points with --cloud"
        )
    return read(folder)


def _alignment(
    up: str, frames: Shots, given: Cloud | None, settings: ScanSettings
) -> Float[Tensor, "4 4"]:
    """The rotation from the source's world to one with z up."""
    if up != "auto":
        return up_rotation(up)
    if given is not None:
        return upright(frames.poses, given[0])
    # a rough cloud of about a dozen frames shows the floor
    step = max(1, len(frames) // 12)
    some = (frames[i] for i in range(0, len(frames), step))
    return upright(frames.poses, points_from_frames(some, 4 * settings.cell)[0])


def _stood_upright(
    frames: Shots, alignment: Float[Tensor, "4 4"], settings: ScanSettings
) -> tuple[Shots, int]:
    """The frames in the aligned world, with their images turned by quarters,
    and by how many.
    """
    shots = [
        replace(shot, camera_to_world=alignment @ shot.camera_to_world)
        for shot in frames.shots
    ]
    frames = replace(frames, shots=shots)
    turns = (
        sideways(frames.poses) if settings.turn is None else settings.turn // 90
    )
    turned = replace(
        frames,
        shots=[turned_shot(shot, turns) for shot in shots],
        camera=turned_camera(frames.camera, turns),
    )
    return turned, turns


def _depth_scale(images: Sequence[PosedImage], settings: ScanSettings) -> float:
    """Units a metre of the depth that is written: the source's, where all its
    images have one.
    """
    scales = {image.depth_scale or 1000.0 for image in images}
    return scales.pop() / settings.metres if len(scales) == 1 else 1000.0
