"""Convert a posed RGB-D folder (your own scan) into the layout that the library
reads.

The source folder holds, under any names that the options give:

* ``images/``: colour images (PNG or JPEG); ``frame_list.txt`` beside it may
  name them, one a line, in order;
* ``depth/``: 16-bit PNG of the same stems, of the same or another size,
  registered to the colour images;
* ``K.txt``: the 3x3 or 4x4 intrinsics of the colour images;
* ``poses.txt``: one row of 16 numbers an image (a 4x4 matrix, row after row),
  or a folder of 4x4 text files by stem.

Colour is resampled onto the pixel grid of the depth images, with exact
intrinsics, so that the two share one camera. Points are averages of the
back-projected depth within grid cells (or, with ``--points tsdf`` and Open3D,
the surface of TSDF fusion), unless a point cloud is given. Frames that cannot
be used are left out and counted; nothing is written when the scan as a whole is
wrong.

    python data_scripts/convert_rgbd.py my_scan --out scenes/my_scan --up y \
        --classes "wall, floor, chair, desk" --scene-labels "wall, floor, desk"
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from tqdm.auto import tqdm

from vlg_lib.classes import ClassSet, get_class_set, own_class_set
from vlg_lib.convert.registration import CommonGrid, common_grid, resize_color
from vlg_lib.convert.tsdf import POINTS
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
from vlg_lib.geometry.poses import check_pose, up_rotation
from vlg_lib.scene import Camera, Frame, Scene


class PoseDirection(StrEnum):
    """What a pose matrix maps: the two conventions in use."""

    CAMERA_TO_WORLD = "camera-to-world"
    WORLD_TO_CAMERA = "world-to-camera"


class CameraAxes(StrEnum):
    """Where a camera's axes point: right-down-forward (OpenCV, ours) or
    right-up-backward (OpenGL, ARKit, Blender).
    """

    OPENCV = "opencv"
    OPENGL = "opengl"


class Up(StrEnum):
    """The axis of the source's world that points up."""

    X, Y, Z = "x", "y", "z"
    MINUS_X, MINUS_Y, MINUS_Z = "-x", "-y", "-z"


@dataclass(frozen=True)
class Source:
    """A posed RGB-D folder: the names inside it and the conventions of its
    numbers.

    ``depth_scale``: depth units a metre. ``depth_missing``: codes of "no
    depth". ``every``: take each n-th image.
    """

    folder: Path
    images: str = "images"
    depth: str = "depth"
    intrinsics: str = "K.txt"
    depth_intrinsics: str | None = None
    pose_file: str = "poses.txt"
    direction: PoseDirection = PoseDirection.CAMERA_TO_WORLD
    axes: CameraAxes = CameraAxes.OPENCV
    up: Up = Up.Z
    depth_scale: float = 1000.0
    depth_missing: tuple[int, ...] = (0, 65535)
    every: int = 1

    def __post_init__(self) -> None:
        if not self.depth_scale > 0 or self.every < 1:
            raise ValueError(
                "depth scale and every must be positive, found"
                f" {self.depth_scale} and {self.every}"
            )


@dataclass(frozen=True, eq=False)
class PosedImages(Sequence[Frame]):
    """The usable frames of a source folder, resampled to one grid when they are
    asked for.
    """

    colors: tuple[Path, ...]
    depths: tuple[Path, ...] | None
    poses: Tensor
    grid: CommonGrid
    depth_scale: float
    depth_missing: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.colors)

    def __getitem__(self, index: int) -> Frame:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        camera = self.grid.camera
        color = resize_color(read_color(self.colors[index]), self.grid)
        depth = None
        if self.depths is not None:
            left, top = self.grid.depth_left, self.grid.depth_top
            depth = read_depth(
                self.depths[index], self.depth_scale, self.depth_missing
            )
            depth = depth[top : top + camera.height, left : left + camera.width]
        name = self.colors[index].stem
        return Frame(name, camera, self.poses[index], color, depth)


def read_poses(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The 4x4 matrices by name, float64, from a file of 16 numbers a row or a
    folder of 4x4 text files, as they stand.

    A name without a file in the folder has no pose. LayoutError where the rows
    of a file do not fit the names.
    """
    if path.is_dir():
        files = {name: path / f"{name}.txt" for name in names}
        return {
            name: read_matrix(file)
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


def open_source(source: Source) -> tuple[PosedImages, Counter[str]]:
    """The usable frames of a source folder and the counts of those left out;
    LayoutError where the scan is wrong.
    """
    colors = _listed_images(source.folder, source.folder / source.images)
    matrices = read_poses(
        source.folder / source.pose_file, [path.stem for path in colors]
    )
    depth_folder: Path | None = source.folder / source.depth
    if depth_folder is not None and not depth_folder.is_dir():
        depth_folder = None
    taken = colors[:: source.every]
    reasons = {
        path: _why_unusable(path, depth_folder, matrices.get(path.stem))
        for path in taken
    }
    kept = [path for path, reason in reasons.items() if reason is None]
    skipped = Counter(
        reason for reason in reasons.values() if reason is not None
    )
    if not kept:
        counts = ", ".join(
            f"{count} x {reason}" for reason, count in skipped.items()
        )
        raise LayoutError(
            f"{source.folder}: none of its frames can be used ({counts})"
        )
    camera = _camera(
        source.folder / source.intrinsics, *_one_size(kept, image_size)
    )
    depths = (
        None
        if depth_folder is None
        else tuple(depth_folder / f"{path.stem}.png" for path in kept)
    )
    depth_camera = camera
    if depths is not None:
        height, width = _one_size(depths, depth_size)
        depth_camera = resize_camera(camera, width, height)
        if source.depth_intrinsics is not None:
            depth_camera = _camera(
                source.folder / source.depth_intrinsics, height, width
            )
    poses = torch.stack([matrices[path.stem] for path in kept])
    if source.direction == PoseDirection.WORLD_TO_CAMERA:
        poses = torch.linalg.inv(poses)
    if source.axes == CameraAxes.OPENGL:
        poses = poses @ torch.diag(
            torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=poses.dtype)
        )
    grid = common_grid(camera, depth_camera)
    frames = PosedImages(
        tuple(kept),
        depths,
        up_rotation(source.up) @ poses,
        grid,
        source.depth_scale,
        source.depth_missing,
    )
    return frames, skipped


def _listed_images(source: Path, folder: Path) -> list[Path]:
    """The images in order: as named in frame_list.txt, else in natural order of
    their names.
    """
    listing = source / "frame_list.txt"
    if listing.is_file():
        paths = [
            folder / line.strip()
            for line in listing.read_text().splitlines()
            if line.strip()
        ]
    else:
        found = folder.iterdir() if folder.is_dir() else ()
        paths = [
            path for path in found if path.suffix.lower() in COLOR_SUFFIXES
        ]
        paths.sort(key=lambda path: natural_key(path.stem))
    if not paths:
        raise LayoutError(
            f"{folder}: expected PNG or JPEG images, found none; name the"
            " folder with --images"
        )
    return paths


def _why_unusable(
    color: Path, depth_folder: Path | None, pose: Tensor | None
) -> str | None:
    """Why a frame must be left out, in words to count by; None where it can be
    used.
    """
    if not color.is_file():
        return "missing image"
    if not is_whole_image(color):
        return "unreadable image"
    if pose is None:
        return "missing pose"
    try:
        check_pose(pose)
    except ValueError:
        return "invalid pose"
    if depth_folder is not None:
        depth = depth_folder / f"{color.stem}.png"
        if not depth.is_file():
            return "missing depth"
        if not is_whole_image(depth):
            return "unreadable depth"
    return None


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


def _camera(path: Path, height: int, width: int) -> Camera:
    matrix = read_matrix(path)
    try:
        return Camera.from_matrix(matrix, width, height)
    except ValueError as error:
        raise LayoutError(f"{path}: {error}") from error


def convert(
    source: Source,
    out: Path,
    class_set: ClassSet,
    scene_labels: Sequence[str],
    *,
    cell: float = 0.04,
    cloud: Path | None = None,
    points_by: str = "average",
) -> Scene:
    """Write the scene of a source folder to ``out`` and return it.

    ``scene_labels``: names of the classes that the scene contains, typed by a
    person; empty where nobody looked. ``cell``: metres, for points made from
    depth by one of POINTS, ``points_by``; ``cloud``: a PLY of coloured points
    in the source's world instead. ValueError (LayoutError, PlyError) where the
    scan or a name is wrong; then nothing is written.
    """
    if points_by not in POINTS:
        raise ValueError(
            f"unknown way to make points {points_by!r}; known:"
            f" {', '.join(POINTS)}"
        )
    mask = class_set.mask(scene_labels)
    frames, skipped = open_source(source)
    if cloud is not None:
        points, colors, _ = read_points(cloud)
        points = (points.double() @ up_rotation(source.up)[:3, :3].T).float()
    elif frames.depths is None:
        raise LayoutError(
            f"{source.folder / source.depth}: no such folder; without depth,"
            " give the points with --cloud"
        )
    else:
        points, colors = POINTS[points_by](
            tqdm(frames, desc="points", unit="frame", disable=None), cell
        )
    scene = Scene(
        out.resolve().name,
        points,
        colors,
        frames,
        class_set,
        mask,
        dict(skipped),
    )
    provenance = {
        "converter": "data_scripts/convert_rgbd.py",
        "source": source.folder.resolve().name,
        "poses": str(source.direction),
        "camera_axes": str(source.axes),
        "up": str(source.up),
        "points": (
            cloud.name if cloud else f"{points_by} of depth, cells of {cell} m"
        ),
    }
    alignment = up_rotation(source.up)
    write_scene(
        out,
        scene,
        provenance=provenance,
        depth_scale=source.depth_scale,
        axis_alignment=alignment,
    )
    return scene


def up_advice(poses: Tensor) -> str | None:
    """A hint where the cameras' own up direction says that another axis than z
    points up; None where all is well.

    People hold cameras upright, so the mean of the image's up direction points
    to the sky.
    """
    mean = -poses[:, :3, 1].mean(dim=0)
    axis = int(mean.abs().argmax())
    if axis == 2 and mean[2] > 0:
        return None
    return (
        "the images' up direction is on average"
        f" {[round(x, 2) for x in mean.tolist()]}, not z: is --up right?"
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def main(
    source: Annotated[
        Path,
        typer.Argument(help="Folder with images, depth, intrinsics and poses."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Scene folder to write; an earlier scene there is replaced."
        ),
    ],
    classes: Annotated[
        str, typer.Option(help="Your own class names, comma-separated.")
    ] = "",
    class_set: Annotated[
        str, typer.Option(help="Or a known class set.")
    ] = "scannet-20",
    scene_labels: Annotated[
        str,
        typer.Option(help="Classes that the scene contains, comma-separated."),
    ] = "",
    images: Annotated[
        str, typer.Option(help="Folder of colour images in SOURCE.")
    ] = "images",
    depth: Annotated[
        str, typer.Option(help="Folder of 16-bit depth PNG of the same stems.")
    ] = "depth",
    intrinsics: Annotated[
        str, typer.Option(help="3x3 or 4x4 matrix of the colour images.")
    ] = "K.txt",
    depth_intrinsics: Annotated[
        str | None,
        typer.Option(
            help=(
                "The same for the depth images, where they are not a mere"
                " resize."
            )
        ),
    ] = None,
    pose_file: Annotated[
        str,
        typer.Option(help="File of 16 numbers a row, or folder of 4x4 files."),
    ] = "poses.txt",
    poses: Annotated[
        PoseDirection, typer.Option(help="What a pose matrix maps.")
    ] = PoseDirection.CAMERA_TO_WORLD,
    camera_axes: Annotated[
        CameraAxes,
        typer.Option(
            help="opencv: z forward; opengl: z backward, y up (ARKit, Blender)."
        ),
    ] = CameraAxes.OPENCV,
    up: Annotated[
        Up, typer.Option(help="The axis that points up in the source's world.")
    ] = Up.Z,
    depth_scale: Annotated[
        float,
        typer.Option(help="Depth units a metre: 1000 for mm, 5000 for TUM."),
    ] = 1000.0,
    depth_missing: Annotated[
        str, typer.Option(help="Depth codes for 'no depth', comma-separated.")
    ] = "0,65535",
    every: Annotated[int, typer.Option(help="Take each n-th image.")] = 1,
    cell: Annotated[
        float,
        typer.Option(help="Grid cell for the points made from depth, metres."),
    ] = 0.04,
    cloud: Annotated[
        Path | None, typer.Option(help="PLY of coloured points to use instead.")
    ] = None,
    points: Annotated[
        str,
        typer.Option(
            help="Points from depth: average, or tsdf (pip install open3d)."
        ),
    ] = "average",
) -> None:
    """Convert a posed RGB-D folder into the layout that the library reads."""
    try:
        known = (
            own_class_set(_names(classes))
            if classes
            else get_class_set(class_set)
        )
        codes = tuple(int(code) for code in _names(depth_missing))
        settings = Source(
            folder=source,
            images=images,
            depth=depth,
            intrinsics=intrinsics,
            depth_intrinsics=depth_intrinsics,
            pose_file=pose_file,
            direction=poses,
            axes=camera_axes,
            up=up,
            depth_scale=depth_scale,
            depth_missing=codes,
            every=every,
        )
        scene = convert(
            settings,
            out,
            known,
            _names(scene_labels),
            cell=cell,
            cloud=cloud,
            points_by=points,
        )
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    left_out = (
        ", ".join(
            f"{count} x {reason}" for reason, count in scene.skipped.items()
        )
        or "none"
    )
    typer.echo(
        f"{out}: {len(scene.points)} points, {len(scene.frames)} frames; left"
        f" out: {left_out}"
    )
    if isinstance(scene.frames, PosedImages) and (
        advice := up_advice(scene.frames.poses)
    ):
        typer.echo(f"note: {advice}", err=True)
    if not scene.scene_labels.any():
        typer.echo(
            f"note: no scene labels given; write them into {out / 'scene.json'}"
            " before weak supervision",
            err=True,
        )


if __name__ == "__main__":
    typer.run(main)
