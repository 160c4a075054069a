"""Convert ScanNet scenes into the layout that the library reads.

SCANS holds one folder a scene, as ScanNet's download script leaves it
(http://www.scan-net.org, its terms of use)::

    scene0000_00/scene0000_00.sens                  the stream of colour, depth and poses; or, exported from it,
                 color/0.jpg depth/0.png pose/0.txt intrinsic/intrinsic_color.txt intrinsic/intrinsic_depth.txt
                 scene0000_00_vh_clean_2.ply        the mesh, whose vertices are the points
                 scene0000_00_vh_clean_2.labels.ply its NYU40 labels; or scene0000_00.aggregation.json and
                 scene0000_00_vh_clean_2.0.010000.segs.json, with scannetv2-labels.combined.tsv; or none (test scenes)
                 scene0000_00.txt                   axisAlignment, for --align

    python data_scripts/convert_scannet.py scans scannet/train --split scannetv2_train.txt --jobs 8

Every scene has its own intrinsics (the published code uses one matrix for all).
Frames whose pose is lost (-inf) or whose images are damaged are left out and
counted. Points and poses stay in the scan's world, as published; with --align
both are turned so that walls lie along the axes. Scene labels (tags) are the
classes that point labels name, or come from a file of your own; they are
written once, here, and weakly supervised code sees nothing else.

A trained 3D network needs no images, and neither do stages 2 and 3 where fused
embeddings are given: with --points-only the mesh is enough, and the .sens file
(most of the download) need not be there.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from vlg_lib.artifacts import hash_files
from vlg_lib.classes import SCANNET_20
from vlg_lib.convert.batch import (
    chosen,
    convert_all,
    finish,
    one_line_errors,
    provenance,
    read_tags,
    tags_of,
)
from vlg_lib.convert.frames import (
    Shot,
    Shots,
    given_size,
    is_usable,
    no_frames,
    target_camera,
    usable,
)
from vlg_lib.convert.scannet_labels import read_alignment, read_labels
from vlg_lib.convert.sens import SensFile
from vlg_lib.data.frames import (
    COLOR_SUFFIXES,
    LayoutError,
    depth_size,
    image_size,
    natural_key,
    read_color,
    read_depth,
    read_matrix,
)
from vlg_lib.data.layout import write_scene
from vlg_lib.data.ply import read_points
from vlg_lib.scene import Camera, Scene

CONVERTER = "data_scripts/convert_scannet.py"
_DEPTH_SCALE = 1000.0  # of exported depth images; a .sens file names its own
_MISSING = (0, 65535)


@dataclass(frozen=True)
class Settings:
    """What decides how a scene comes out; stored with it, so that a run with
    others makes it again.

    ``frame_skip``: frames whose number is a multiple of it are taken. ``size``:
    see ``frames_on_grid.target_camera``. ``align``: apply axisAlignment to
    points and poses. ``least_points``: points that a class needs to be a scene
    label. ``tags``: a hash of the file of scene labels, where there is one.
    ``ignore_extrinsics``: take depth as registered to colour, whatever the
    stream says. ``points_only``: no frames.
    """

    frame_skip: int = 20
    size: str = "depth"
    align: bool = False
    least_points: int = 1
    tags: str = ""
    ignore_extrinsics: bool = False
    points_only: bool = False

    def __post_init__(self) -> None:
        if self.frame_skip < 1 or self.least_points < 1:
            raise ValueError(
                f"frame skip and least points must be positive, found {self}"
            )
        given_size(self.size)


@dataclass(frozen=True)
class Source:
    """Where things are: ``scans``, the folder of scenes; ``images``, another
    folder of exported frames by scene; ``tsv``, the translation of annotators'
    words; ``tags``, scene labels typed by a person.
    """

    scans: Path
    images: Path | None = None
    tsv: Path | None = None
    tags: Path | None = None


def scene_names(scans: Path) -> list[str]:
    """The scenes under a folder, in natural order: folders NAME that hold
    NAME_vh_clean_2.ply.
    """
    names = [
        path.name.removesuffix("_vh_clean_2.ply")
        for path in scans.glob("*/*_vh_clean_2.ply")
    ]
    names = sorted(
        (
            name
            for name in names
            if (scans / name / f"{name}_vh_clean_2.ply").is_file()
        ),
        key=natural_key,
    )
    if not names:
        raise LayoutError(
            f"{scans}: expected folders SCENE with SCENE_vh_clean_2.ply in"
            " them, found none"
        )
    return names


def convert_scene(
    name: str, folder: Path, source: Source, settings: Settings
) -> None:
    """Write one scene; ValueError (LayoutError, SensError, PlyError) or OSError
    where it cannot be converted.
    """
    scene = source.scans / name
    points, colors, _ = read_points(scene / f"{name}_vh_clean_2.ply")
    labels, label_source = read_labels(scene, len(points), source.tsv)
    tags, tag_source = _scene_labels(name, source, labels, settings)
    alignment = None
    if settings.align:
        alignment = read_alignment(scene / f"{name}.txt")
        if alignment is None:
            raise LayoutError(
                f"{scene / name}.txt: no axisAlignment (test scenes have none);"
                " convert without --align"
            )
        points = (
            points.double() @ alignment[:3, :3].T + alignment[:3, 3]
        ).float()
    with ExitStack() as stack:
        sens = scene / f"{name}.sens"
        if settings.points_only:
            frames, scale, kind = no_frames(), _DEPTH_SCALE, "none"
        elif source.images is None and sens.is_file():
            file = stack.enter_context(SensFile(sens))
            frames, scale, kind = (
                sens_frames(file, settings, alignment),
                file.depth_scale,
                "sens",
            )
        else:
            images = scene if source.images is None else source.images / name
            frames, scale, kind = (
                exported_frames(images, settings, alignment),
                _DEPTH_SCALE,
                "exported images",
            )
        facts = {
            "frames": kind,
            "point_labels": label_source,
            "scene_labels": tag_source,
        }
        write_scene(
            folder,
            Scene(
                name, points, colors, frames, SCANNET_20, tags, frames.skipped
            ),
            point_labels=labels,
            provenance=provenance(CONVERTER, name, asdict(settings), **facts),
            depth_scale=scale,
            axis_alignment=alignment,
        )


def _scene_labels(
    name: str, source: Source, labels: Tensor | None, settings: Settings
) -> tuple[Tensor, str]:
    """Scene labels (20,) bool and where they come from."""
    if source.tags is not None:
        typed = read_tags(source.tags, SCANNET_20)
        if name not in typed:
            raise LayoutError(f"{source.tags}: no line for scene {name}")
        return typed[name], source.tags.name
    if labels is None:
        return SCANNET_20.mask([]), "none"
    return tags_of(labels, SCANNET_20, settings.least_points), "point labels"


def sens_frames(
    sens: SensFile, settings: Settings, alignment: Tensor | None
) -> Shots:
    """The frames of an open ``.sens`` file; the skipped ones are not read,
    those without pose are counted.
    """
    for what in () if settings.ignore_extrinsics else ("color", "depth"):
        if not torch.allclose(
            getattr(sens, f"extrinsic_{what}"),
            torch.eye(4, dtype=torch.float64),
            atol=1e-4,
        ):
            raise LayoutError(
                f"{sens.path}: expected depth registered to colour (extrinsics"
                " are the identity), found"
                f" {getattr(sens, f'extrinsic_{what}').tolist()} for {what};"
                " register the depth images, or take them as they are with"
                " --ignore-extrinsics"
            )
    color = _camera(sens.path, sens.intrinsic_color, sens.color_size)
    depth = _camera(sens.path, sens.intrinsic_depth, sens.depth_size)
    shots, skipped = [], Counter[str]()
    for index in range(0, len(sens), settings.frame_skip):
        pose = sens.poses[index]
        if is_usable(pose):
            load = partial(_load_sens, sens, index)
            shots.append(
                Shot(str(index), _turned(pose, alignment), color, depth, load)
            )
        else:
            skipped["invalid pose"] += 1
    return Shots(
        usable(str(sens.path), shots, skipped),
        target_camera(color, depth, settings.size),
        skipped,
    )


def _load_sens(sens: SensFile, index: int) -> tuple[Tensor, Tensor]:
    return sens.color(index), sens.depth(index)


def exported_frames(
    folder: Path, settings: Settings, alignment: Tensor | None
) -> Shots:
    """The frames of a folder of exported images; those without image, depth or
    pose are counted.
    """
    colors = {
        path.stem: path
        for path in (folder / "color").glob("*.*")
        if path.suffix.lower() in COLOR_SUFFIXES
    }
    depths = {path.stem: path for path in (folder / "depth").glob("*.png")}
    poses = {path.stem: path for path in (folder / "pose").glob("*.txt")}
    names = [
        name
        for name in colors.keys() | depths.keys() | poses.keys()
        if name.isdecimal()
    ]
    names = sorted(
        (name for name in names if int(name) % settings.frame_skip == 0),
        key=natural_key,
    )
    first = next(
        (name for name in names if name in colors and name in depths), None
    )
    if first is None:
        raise LayoutError(
            f"{folder}: expected a .sens file, or exported frames color/0.jpg,"
            " depth/0.png, pose/0.txt with a number that is a multiple of"
            f" {settings.frame_skip}; found {len(colors)} colour and"
            f" {len(depths)} depth images"
        )
    color = _exported_camera(folder, "color", image_size(colors[first]))
    depth = _exported_camera(folder, "depth", depth_size(depths[first]))
    shots, skipped = [], Counter[str]()
    for name in names:
        pose = read_matrix(poses[name]) if name in poses else None
        if name not in colors:
            skipped["missing image"] += 1
        elif name not in depths:
            skipped["missing depth"] += 1
        elif pose is None:
            skipped["missing pose"] += 1
        elif not is_usable(pose):
            skipped["invalid pose"] += 1
        else:
            load = partial(_load_exported, colors[name], depths[name])
            shots.append(
                Shot(name, _turned(pose, alignment), color, depth, load)
            )
    return Shots(
        usable(str(folder), shots, skipped),
        target_camera(color, depth, settings.size),
        skipped,
    )


def _load_exported(color: Path, depth: Path) -> tuple[Tensor, Tensor]:
    return read_color(color), read_depth(depth, _DEPTH_SCALE, _MISSING)


def _exported_camera(folder: Path, what: str, size: tuple[int, int]) -> Camera:
    path = folder / "intrinsic" / f"intrinsic_{what}.txt"
    return _camera(path, read_matrix(path), size)


def _camera(path: Path, matrix: Tensor, size: tuple[int, int]) -> Camera:
    try:
        return Camera.from_matrix(matrix, width=size[1], height=size[0])
    except ValueError as error:
        raise LayoutError(f"{path}: {error}") from error


def _turned(pose: Tensor, alignment: Tensor | None) -> Tensor:
    return pose if alignment is None else alignment @ pose


def main(
    scans: Annotated[
        Path, typer.Argument(help="Folder that holds one folder a scene.")
    ],
    out: Annotated[
        Path, typer.Argument(help="Folder that receives one scene folder each.")
    ],
    scenes: Annotated[
        str,
        typer.Option(
            help=(
                "Scenes to convert, comma-separated; all where nothing is said."
            )
        ),
    ] = "",
    split: Annotated[
        Path | None,
        typer.Option(help="File of scenes, one a line: scannetv2_val.txt."),
    ] = None,
    frame_skip: Annotated[
        int,
        typer.Option(help="Take frames whose number is a multiple of this."),
    ] = 20,
    size: Annotated[
        str,
        typer.Option(
            help="Grid of the frames: depth, color, or a size like 320x240."
        ),
    ] = "depth",
    align: Annotated[
        bool, typer.Option(help="Apply axisAlignment to points and poses.")
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Exported frames by scene, instead of those in SCANS."
        ),
    ] = None,
    tsv: Annotated[
        Path | None,
        typer.Option(
            help="scannetv2-labels.combined.tsv, for aggregation files."
        ),
    ] = None,
    tags: Annotated[
        Path | None,
        typer.Option(
            help="Scene labels of your own: lines 'SCENE: class, class'."
        ),
    ] = None,
    least_points: Annotated[
        int, typer.Option(help="Points that make a class a scene label.")
    ] = 1,
    ignore_extrinsics: Annotated[
        bool,
        typer.Option(help="Take depth as registered to colour in any case."),
    ] = False,
    points_only: Annotated[
        bool, typer.Option(help="No frames: the mesh is enough.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Scenes converted at once.")] = 1,
) -> None:
    """Convert ScanNet scenes into the layout that the library reads."""
    with one_line_errors():
        if tags is not None:
            # a wrong file is one error, not one a scene
            read_tags(tags, SCANNET_20)
        tags_hash = "" if tags is None else hash_files(tags)
        settings = Settings(
            frame_skip,
            size,
            align,
            least_points,
            tags_hash,
            ignore_extrinsics,
            points_only,
        )
        source = Source(scans, images, tsv, tags)
        names = chosen(scene_names(scans), scenes, split)
        convert = partial(convert_scene, source=source, settings=settings)
        finish(
            convert_all(
                names, convert, out, settings=asdict(settings), jobs=jobs
            ),
            out,
        )


if __name__ == "__main__":
    typer.run(main)
