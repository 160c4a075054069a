r"""A posed RGB-D folder (your own scan), turned into the layout that the
library reads.

The source folder holds, under any names that the settings give:

* ``images/``: colour images (PNG or JPEG); ``frame_list.txt`` beside it may
  name them, one a line, in order;
* ``depth/``: 16-bit PNG of the same stems, of the same or another size,
  registered to the colour images;
* ``K.txt``: the 3x3 or 4x4 intrinsics of the colour images;
* ``poses.txt``: one row of 16 numbers an image (a 4x4 matrix, row after row),
  or a folder of 4x4 text files by stem.

Colour is resampled onto the pixel grid of the depth images, with exact
intrinsics, so that the two share one camera. Points are averages of the
unprojected depth within grid cells (or, with ``points="tsdf"`` and Open3D, the
surface of TSDF fusion), unless a point cloud is given. Frames that cannot be
used are left out and counted; nothing is written when the scan as a whole is
wrong.

::

    vlg convert rgbd my_scan --out scenes --up y \
        --classes "wall, floor, chair, desk" --tags "wall, floor, desk"
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from vlg_lib.classes import ClassSet
from vlg_lib.convert.formats.base import Key
from vlg_lib.convert.frames import (
    Images,
    Shot,
    Shots,
    counts_text,
    none_usable,
    usable,
    why_unusable,
)
from vlg_lib.convert.origin import moved, with_offset, world_offset
from vlg_lib.convert.parsing import camera_of_matrix
from vlg_lib.convert.registration import target_camera
from vlg_lib.convert.scene_labels import known_classes
from vlg_lib.convert.tsdf import POINTS
from vlg_lib.data.files import existing, files_in, read_text
from vlg_lib.data.frames import (
    COLOR_SUFFIXES,
    LayoutError,
    depth_size,
    image_size,
    is_whole_image,
    natural_key,
    read_color,
    read_depth,
    read_matrix,
)
from vlg_lib.data.layout import write_scene
from vlg_lib.data.ply import read_points
from vlg_lib.geometry.cameras import resize_camera
from vlg_lib.geometry.poses import opengl_to_opencv, unknown_pose
from vlg_lib.geometry.upright import AXES, up_advice, up_rotation
from vlg_lib.scene import Camera, Scene

CONVERTER = "vlg convert rgbd"

KEYS = (
    Key("images", "read", "PNG or JPEG; --images"),
    Key("frame_list.txt", "read", "names of images, one a line"),
    Key("depth", "read", "16-bit PNG of the same stems; --depth"),
    Key("K.txt", "read", "3x3 or 4x4; --intrinsics"),
    Key("poses.txt", "read", "16 numbers an image, in order; --pose-file"),
    Key("poses/NAME.txt", "read", "4x4 of the image NAME; --pose-file"),
    Key("other files", "ignored", "nothing else is looked for"),
)
"""What lies in such a folder; a person says its conventions."""

POSES = ("camera-to-world", "world-to-camera")
"""What a pose matrix maps: the two conventions in use."""

CAMERA_AXES = ("opencv", "opengl")
"""Where a camera's axes point: right, down, forward (OpenCV, ours) or right,
up, backward (OpenGL, ARKit, Blender)."""


@dataclass(frozen=True)
class RgbdSettings:
    """The names inside a posed RGB-D folder, the conventions of its numbers,
    and what its scene becomes.
    """

    images: str = "images"
    """Folder of colour images."""
    depth: str = "depth"
    """Folder of 16-bit depth PNG of the same stems; it may be missing where
    ``cloud`` is given."""
    intrinsics: str = "K.txt"
    """File of the 3x3 or 4x4 matrix of the colour images."""
    depth_intrinsics: str | None = None
    """The same for the depth images, where they are not a mere resize."""
    pose_file: str = "poses.txt"
    """File of 16 numbers a row, or folder of 4x4 files."""
    poses: str = "camera-to-world"
    """What a pose matrix maps, one of POSES."""
    camera_axes: str = "opencv"
    """Where the cameras' axes point, one of CAMERA_AXES."""
    up: str = "z"
    """The axis that points up in the source's world: "z", "-y", ..."""
    depth_scale: float = 1000.0
    """Depth units a metre: 1000 for mm, 5000 for TUM."""
    depth_missing: tuple[int, ...] = (0, 65535)
    """Depth codes for "no depth"."""
    every: int = 1
    """Take each n-th image."""
    cell: float = 0.04
    """Grid cell for the points made from depth, metres."""
    cloud: Path | None = None
    """PLY of coloured points in the source's world to use instead."""
    points: str = "average"
    """How points are made from depth, one of ``tsdf.POINTS``."""
    class_set: str = "scannet-20"
    """The name of a known class set."""
    classes: tuple[str, ...] = ()
    """Class names of your own, instead."""
    scene_labels: tuple[str, ...] = ()
    """Classes that the scene contains, typed by a person; empty where nobody
    looked."""

    def __post_init__(self) -> None:
        if not self.depth_scale > 0 or self.every < 1:
            raise ValueError(
                "depth scale and every must be positive, found"
                f" {self.depth_scale} and {self.every}"
            )
        for option, value, known in (
            ("--poses", self.poses, POSES),
            ("--camera-axes", self.camera_axes, CAMERA_AXES),
            ("--up", self.up, AXES),
            ("--points", self.points, POINTS),
        ):
            if value not in known:
                raise ValueError(
                    f"expected {option} to be one of {', '.join(known)}, found"
                    f" {value!r}"
                )

    def known_classes(self) -> ClassSet:
        """The class set of the scene; ValueError for an unknown or doubtful
        one, and for unknown scene labels.
        """
        return known_classes(self.class_set, self.classes, self.scene_labels)


@dataclass(frozen=True)
class ConvertedScene:
    """What a conversion of one folder did; printed, it is the counts and the
    notes, one a line.
    """

    out: Path
    """The scene folder."""
    points: int
    """How many points the scene has."""
    frames: int
    """How many frames it has."""
    skipped: Counter[str]
    """Frames left out, by reason."""
    notes: list[str] = field(default_factory=list)
    """What to look at."""

    @property
    def failed(self) -> dict[str, str]:
        """Always empty: a folder that cannot be converted is an error."""
        return {}

    @property
    def headline(self) -> str:
        """The counts in one line."""
        return (
            f"{self.out}: {self.points} points, {self.frames} frames; left out:"
            f" {counts_text(self.skipped)}"
        )

    def __str__(self) -> str:
        return "\n".join(
            [self.headline, *(f"note: {note}" for note in self.notes)]
        )


def convert_rgbd_folder(
    folder: Path,
    out: Path,
    settings: RgbdSettings | None = None,
    *,
    progress: bool = True,
) -> ConvertedScene:
    """Convert a posed RGB-D folder into the scene folder ``out``; an earlier
    scene there is replaced.

    ``progress``: whether to show a bar. ValueError (LayoutError, PlyError)
    where the scan or a setting is wrong; then nothing is written.
    """
    settings = settings or RgbdSettings()
    class_set = settings.known_classes()
    frames = open_folder(folder, settings)
    offset = world_offset(frames.poses)
    frames = moved(frames, offset)
    points, colors = _points(folder, frames, settings, progress, offset)
    scene = Scene(
        out.resolve().name,
        points,
        colors,
        frames,
        class_set,
        class_set.mask(settings.scene_labels),
        dict(frames.skipped),
    )
    write_scene(
        out,
        scene,
        provenance={
            "converter": CONVERTER,
            "source": folder.resolve().name,
            **_conventions(settings),
        },
        depth_scale=settings.depth_scale,
        axis_alignment=with_offset(
            up_rotation(settings.up),
            up_rotation(settings.up)[:3, :3].T @ offset,
        ),
        world_offset=offset,
    )
    return ConvertedScene(
        out,
        len(points),
        len(frames),
        frames.skipped,
        _notes(scene, frames, out),
    )


def open_folder(folder: Path, settings: RgbdSettings) -> Shots:
    """The usable frames of a source folder in a world with z up, and the counts
    of those left out; LayoutError where the scan is wrong.
    """
    colors = _listed_images(folder, folder / settings.images)
    matrices = read_poses(
        folder / settings.pose_file, [path.stem for path in colors]
    )
    has_depth = (folder / settings.depth).is_dir()
    kept, skipped = [], Counter[str]()
    for color in colors[:: settings.every]:
        depth = existing(
            folder / settings.depth / f"{color.stem}.png", (".png",)
        )
        files = color, depth if has_depth else None
        reason = _why_unusable(*files, matrices.get(color.stem))
        if reason is None:
            kept.append(files)
        else:
            skipped[reason] += 1
    if not kept:
        raise none_usable(str(folder), skipped, "there are no others")
    cameras = _cameras(folder, settings, kept)
    shots = [
        Shot(
            color.stem,
            _pose(matrices[color.stem], settings),
            *cameras,
            partial(_load, color, depth, settings),
        )
        for color, depth in kept
    ]
    shots = usable(str(folder), shots, skipped)
    return Shots(shots, target_camera(*cameras, "depth"), skipped)


def read_poses(
    path: Path, names: Sequence[str]
) -> dict[str, Float[Tensor, "rows columns"]]:
    """The 4x4 matrices by name, float64, from a file of 16 numbers a row or a
    folder of 4x4 text files, as they stand.

    A name without a file in the folder has no pose, and one whose file is no
    matrix has :func:`~vlg_lib.geometry.poses.unknown_pose`. LayoutError where
    the rows of a file do not fit the names.
    """
    if path.is_dir():
        files = {name: path / f"{name}.txt" for name in names}
        return {
            name: _matrix_or_unknown(file)
            for name, file in files.items()
            if file.is_file()
        }
    rows = read_matrix(path)
    if rows.shape[1] != 16 or len(rows) != len(names):
        raise LayoutError(
            f"{path}: expected {len(names)} rows of 16 numbers, one for each"
            f" image in order, found {len(rows)} rows of {rows.shape[1]}; name"
            " the images that have poses in frame_list.txt"
        )
    return dict(zip(names, rows.view(-1, 4, 4), strict=True))


def _matrix_or_unknown(path: Path) -> Float[Tensor, "rows columns"]:
    try:
        return read_matrix(path)
    except LayoutError:
        return unknown_pose()


def _listed_images(source: Path, folder: Path) -> list[Path]:
    """The images in order: as named in frame_list.txt, else in natural order of
    their names.
    """
    listing = source / "frame_list.txt"
    if listing.is_file():
        names = [line.strip() for line in read_text(listing).splitlines()]
        paths = [
            existing(folder / name.replace("\\", "/"), COLOR_SUFFIXES)
            for name in names
            if name
        ]
    else:
        paths = files_in(folder, COLOR_SUFFIXES)
        paths.sort(key=lambda path: natural_key(path.stem))
    if not paths:
        raise LayoutError(
            f"{folder}: expected PNG or JPEG images, found none; name the"
            " folder with --images"
        )
    return paths


def _why_unusable(
    color: Path, depth: Path | None, pose: Tensor | None
) -> str | None:
    """Why a frame must be left out; None where it can be used. ``depth``: None
    where the scan has none.
    """
    reason = why_unusable(color, pose, depth, with_depth=depth is not None)
    if reason is None and not is_whole_image(color):
        return "unreadable image"
    if reason is None and depth is not None and not is_whole_image(depth):
        return "unreadable depth"
    return reason


def _cameras(
    folder: Path,
    settings: RgbdSettings,
    kept: Sequence[tuple[Path, Path | None]],
) -> tuple[Camera, Camera]:
    """The camera of the colour images, and that of the depth images; the same
    where there are none.
    """
    size = _one_size([color for color, _ in kept], image_size)
    path = folder / settings.intrinsics
    camera = camera_of_matrix(path, read_matrix(path), size)
    depths = [depth for _, depth in kept if depth is not None]
    if not depths:
        return camera, camera
    size = _one_size(depths, depth_size)
    if settings.depth_intrinsics is None:
        height, width = size
        return camera, resize_camera(camera, width, height)
    path = folder / settings.depth_intrinsics
    return camera, camera_of_matrix(path, read_matrix(path), size)


def _one_size(
    paths: Sequence[Path], size_of: Callable[[Path], tuple[int, int]]
) -> tuple[int, int]:
    size = size_of(paths[0])
    for path in paths[1:]:
        found = size_of(path)
        if found != size:
            raise LayoutError(
                f"{path}: expected (height, width) {size} like {paths[0].name},"
                f" found {found}; all images of a scan share one size: leave"
                " the others out"
            )
    return size


def _pose(
    matrix: Float[Tensor, "4 4"], settings: RgbdSettings
) -> Float[Tensor, "4 4"]:
    """Camera-to-world in our conventions of a matrix as the source has it."""
    pose = matrix
    if settings.poses == "world-to-camera":
        pose = torch.linalg.inv(pose)
    if settings.camera_axes == "opengl":
        pose = opengl_to_opencv(pose)
    return up_rotation(settings.up) @ pose


def _load(color: Path, depth: Path | None, settings: RgbdSettings) -> Images:
    image = read_color(color)
    if depth is None:
        return image, None
    return image, read_depth(
        depth, settings.depth_scale, settings.depth_missing
    )


def _points(
    folder: Path,
    frames: Shots,
    settings: RgbdSettings,
    progress: bool,
    offset: Float[Tensor, "3"],
) -> tuple[Float[Tensor, "N 3"], UInt8[Tensor, "N 3"]]:
    """The points of the scene, in a world with z up, and their colours."""
    if settings.cloud is not None:
        points, colors, _ = read_points(settings.cloud, torch.float64)
        turn = up_rotation(settings.up)[:3, :3]
        return (points @ turn.T - offset).float(), colors
    if not (folder / settings.depth).is_dir():
        raise LayoutError(
            f"{folder / settings.depth}: no such folder; without depth, give"
            " the points with --cloud"
        )
    shown = tqdm(
        frames, "points", unit="frame", disable=None if progress else True
    )
    return POINTS[settings.points](shown, settings.cell)


def _conventions(settings: RgbdSettings) -> dict[str, str]:
    """What ``scene.json`` says about the source."""
    made = f"{settings.points} of depth, cells of {settings.cell} m"
    return {
        "poses": settings.poses,
        "camera_axes": settings.camera_axes,
        "up": settings.up,
        "points": settings.cloud.name if settings.cloud else made,
    }


def _notes(scene: Scene, frames: Shots, out: Path) -> list[str]:
    notes = []
    if advice := up_advice(frames.poses):
        notes.append(advice)
    if not scene.scene_labels.any():
        notes.append(
            f"no scene labels given; write them into {out / 'scene.json'}"
            " before weak supervision"
        )
    return notes
