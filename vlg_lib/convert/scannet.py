r"""Convert ScanNet scenes into the layout that the library reads.

A folder of scans holds one folder a scene, as ScanNet's download script leaves
it (http://www.scan-net.org, its terms of use). Of scene0000_00 these files are
read, SCENE standing for its name::

    SCENE.sens                  the stream of colour, depth and poses; or,
                                exported from it, in any of the layouts of
                                :mod:`vlg_lib.convert.scannet_images`, with or
                                without depth
    SCENE_vh_clean_2.ply        the mesh, whose vertices are the points
    SCENE_vh_clean_2.labels.ply its NYU40 labels; or SCENE.aggregation.json and
                                SCENE_vh_clean_2.0.010000.segs.json, with
                                scannetv2-labels.combined.tsv; or none (test
                                scenes)
    SCENE_vh_clean_2.0.010000.segs.json
                                ScanNet's segments of the mesh, kept as the
                                scene's superpoints; or none
    SCENE.txt                   axisAlignment, for ``align``

On the command line::

    vlg convert scannet scans --out scannet/train \
        --split scannetv2_train.txt --jobs 8

Every scene has its own intrinsics (the published code uses one matrix for all).
Frames whose pose is lost (-inf) or whose images are damaged are left out and
counted. Points and poses stay in the scan's world, as published; with ``align``
both are turned so that walls lie along the axes. Scene labels (tags) are the
classes that point labels name, or come from a file of your own; they are
written once, here, and weakly supervised code sees nothing else.

A trained 3D network needs no images, and neither do stages 2 and 3 where fused
embeddings are given: with ``points_only`` the mesh is enough, and the .sens
file (most of the download) need not be there.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlg_lib.artifacts import hash_files
from vlg_lib.classes import SCANNET_20
from vlg_lib.convert.batch import Summary, chosen, convert_all, provenance
from vlg_lib.convert.frames import (
    Images,
    Shot,
    Shots,
    no_frames,
    usable,
    why_unusable,
)
from vlg_lib.convert.parsing import camera_of_matrix
from vlg_lib.convert.registration import (
    GridSize,
    check_size,
    size_text,
    target_camera,
)
from vlg_lib.convert.scannet_images import (
    color_camera,
    depth_camera,
    find_images,
)
from vlg_lib.convert.scannet_labels import (
    read_alignment,
    read_labels,
    read_segments,
)
from vlg_lib.convert.scene_labels import read_tags, tags_of
from vlg_lib.convert.sens import SensFile
from vlg_lib.data.frames import (
    LayoutError,
    natural_key,
    read_color,
    read_depth,
    read_matrix,
)
from vlg_lib.data.layout import read_manifest, write_scene
from vlg_lib.data.ply import read_points
from vlg_lib.geometry.poses import is_pose
from vlg_lib.scene import Scene

CONVERTER = "vlg convert scannet"
_DEPTH_SCALE = 1000.0  # of exported depth images; a .sens file names its own
_MISSING = (0, 65535)


@dataclass(frozen=True)
class ScannetSettings:
    """What decides how a scene comes out; stored with it, so that a run with
    others makes it again.
    """

    frame_skip: int = 20
    """Frames whose number is a multiple of it are taken."""
    size: GridSize = "depth"
    """The grid of the frames: "depth", "color" or (width, height)."""
    align: bool = False
    """Apply axisAlignment to points and poses."""
    least_points: int = 1
    """Points that a class needs to be a scene label."""
    ignore_extrinsics: bool = False
    """Take depth as registered to colour, whatever the stream says."""
    points_only: bool = False
    """No frames: the mesh is enough."""

    def __post_init__(self) -> None:
        if self.frame_skip < 1 or self.least_points < 1:
            raise ValueError(
                f"frame skip and least points must be positive, found {self}"
            )
        check_size(self.size)


@dataclass(frozen=True)
class ScannetSource:
    """Where things are, and which of the scenes are wanted."""

    scans: Path
    """Folder that holds one folder a scene."""
    images: Path | None = None
    """Another folder of exported frames by scene, instead of those in
    ``scans``."""
    tsv: Path | None = None
    """scannetv2-labels.combined.tsv, the translation of annotators' words, for
    aggregation files."""
    tags: Path | None = None
    """Scene labels typed by a person: lines "SCENE: class, class"."""
    scenes: tuple[str, ...] = ()
    """Names of scenes to convert; all where neither they nor a split are
    given."""
    split: Path | None = None
    """File of scenes to convert, one a line: scannetv2_val.txt."""


def convert_scannet(
    source: ScannetSource,
    out: Path,
    settings: ScannetSettings | None = None,
    *,
    jobs: int = 1,
    progress: bool = True,
) -> Summary:
    """Convert scenes into ``out/SCENE``, ``jobs`` at once; what was done, kept
    and failed.

    A scene that fails is named in the summary, and the others are converted all
    the same. ``progress``: whether to show a bar. ValueError where a setting or
    the source as a whole is wrong.
    """
    settings = settings or ScannetSettings()
    if source.tags is not None:
        read_tags(source.tags, SCANNET_20)  # wrong: one error, not one a scene
    names = chosen(scene_names(source.scans), source.scenes, source.split)
    summary = convert_all(
        names,
        partial(convert_scene, source=source, settings=settings),
        out,
        settings=_stored(source, settings),
        jobs=jobs,
        progress=progress,
    )
    summary.notes += _foreign_labels(summary)
    return summary


def _foreign_labels(summary: Summary) -> list[str]:
    """A note on the label ids that are none of NYU40's: how many points have
    each, and in which scenes.
    """
    points, scenes = Counter[str](), []
    for name in sorted({*summary.converted, *summary.kept}, key=natural_key):
        made = read_manifest(summary.out / name)["provenance"]
        if found := made.get("foreign_labels"):
            points.update(found)
            scenes.append(name)
    if not scenes:
        return []
    counts = ", ".join(f"{n} points of {label}" for label, n in points.items())
    return [
        f"label ids that are none of NYU40's (0 to 40): {counts}, in"
        f" {', '.join(scenes)}; taken as not annotated"
    ]


def _stored(source: ScannetSource, settings: ScannetSettings) -> dict[str, Any]:
    """What is stored of the settings, so that the next run can compare: with
    the content of the file of scene labels.
    """
    tags = "" if source.tags is None else hash_files(source.tags)
    return asdict(settings) | {"size": size_text(settings.size), "tags": tags}


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
    name: str, folder: Path, source: ScannetSource, settings: ScannetSettings
) -> None:
    """Write one scene; ValueError (LayoutError, SensError, PlyError) or OSError
    where it cannot be converted.
    """
    scan = source.scans / name
    points, colors, _ = read_points(scan / f"{name}_vh_clean_2.ply")
    labels, label_source, foreign = read_labels(scan, len(points), source.tsv)
    tags, tag_source = _scene_labels(name, source, labels, settings)
    segments = scan / f"{name}_vh_clean_2.0.010000.segs.json"
    pieces = read_segments(segments, len(points))
    alignment = _alignment(scan) if settings.align else None
    if alignment is not None:
        turned = points.double() @ alignment[:3, :3].T + alignment[:3, 3]
        points = turned.float()
    with ExitStack() as stack:
        frames, scale, kind = _open_frames(
            scan, source, settings, alignment, stack
        )
        write_scene(
            folder,
            Scene(
                name,
                points,
                colors,
                frames,
                SCANNET_20,
                tags,
                frames.skipped,
                pieces,
            ),
            point_labels=labels,
            provenance=provenance(
                CONVERTER,
                name,
                _stored(source, settings),
                {
                    "frames": kind,
                    "point_labels": label_source,
                    "scene_labels": tag_source,
                    "superpoints": "" if pieces is None else segments.name,
                    "foreign_labels": {str(k): n for k, n in foreign.items()},
                },
            ),
            depth_scale=scale,
            axis_alignment=alignment,
        )


def _alignment(scan: Path) -> Float[Tensor, "4 4"]:
    """The axis alignment of a scan; LayoutError where it has none."""
    path = scan / f"{scan.name}.txt"
    alignment = read_alignment(path)
    if alignment is None:
        raise LayoutError(
            f"{path}: no axisAlignment (test scenes have none); convert without"
            " --align"
        )
    return alignment


def _open_frames(
    scan: Path,
    source: ScannetSource,
    settings: ScannetSettings,
    alignment: Float[Tensor, "4 4"] | None,
    stack: ExitStack,
) -> tuple[Shots, float, str]:
    """The frames of a scan, the units a metre of its depth, and where they are
    from. A stream stays open until ``stack`` closes it.
    """
    if settings.points_only:
        return no_frames(), _DEPTH_SCALE, "none"
    stream = scan / f"{scan.name}.sens"
    if source.images is None and stream.is_file():
        sens = stack.enter_context(SensFile(stream))
        frames = sens_frames(sens, settings, alignment)
        return frames, sens.depth_scale, "sens"
    images = scan if source.images is None else source.images / scan.name
    frames = exported_frames(images, settings, alignment)
    return frames, _DEPTH_SCALE, "exported images"


def _scene_labels(
    name: str,
    source: ScannetSource,
    labels: Int[Tensor, " N"] | None,
    settings: ScannetSettings,
) -> tuple[Bool[Tensor, " K"], str]:
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
    sens: SensFile,
    settings: ScannetSettings,
    alignment: Float[Tensor, "4 4"] | None,
) -> Shots:
    """The frames of an open ``.sens`` file, in the aligned world where an
    alignment is given; the skipped ones are not read, those without pose are
    counted.
    """
    if not settings.ignore_extrinsics:
        _check_registered(sens.path, "color", sens.extrinsic_color)
        _check_registered(sens.path, "depth", sens.extrinsic_depth)
    color = camera_of_matrix(sens.path, sens.intrinsic_color, sens.color_size)
    depth = camera_of_matrix(sens.path, sens.intrinsic_depth, sens.depth_size)
    shots, skipped = [], Counter[str]()
    for index in range(0, len(sens), settings.frame_skip):
        pose = sens.poses[index]
        if not is_pose(pose):
            skipped["invalid pose"] += 1
            continue
        load = partial(_load_sens, sens, index)
        pose = _aligned(pose, alignment)
        shots.append(Shot(str(index), pose, color, depth, load))
    shots = usable(str(sens.path), shots, skipped)
    return Shots(shots, target_camera(color, depth, settings.size), skipped)


def _check_registered(path: Path, what: str, extrinsic: Tensor) -> None:
    if torch.allclose(extrinsic, torch.eye(4, dtype=torch.float64), atol=1e-4):
        return
    raise LayoutError(
        f"{path}: expected depth registered to colour (extrinsics are the"
        f" identity), found {extrinsic.tolist()} for {what}; register the depth"
        " images, or take them as they are with --ignore-extrinsics"
    )


def _load_sens(sens: SensFile, index: int) -> Images:
    return sens.color(index), sens.depth(index)


def exported_frames(
    folder: Path,
    settings: ScannetSettings,
    alignment: Float[Tensor, "4 4"] | None,
) -> Shots:
    """The frames of a folder of exported images, in the aligned world where an
    alignment is given; those without image, depth or pose are counted.
    """
    images = find_images(folder)
    colors, depths, poses = images.color, images.depth, images.pose
    names = sorted(
        (
            name
            for name in colors.keys() | depths.keys() | poses.keys()
            if int(name) % settings.frame_skip == 0
        ),
        key=natural_key,
    )
    first = next(
        (
            name
            for name in names
            if name in colors and (name in depths or not depths)
        ),
        None,
    )
    if first is None:
        raise LayoutError(
            f"{folder}: expected a .sens file, or exported frames color/0.jpg,"
            " depth/0.png, pose/0.txt (or another layout of"
            " vlg_lib.convert.scannet_images) with a number that is a multiple"
            f" of {settings.frame_skip}; found {len(colors)} colour and"
            f" {len(depths)} depth images"
        )
    color = color_camera(folder, colors[first])
    depth = color
    if depths:
        depth = depth_camera(folder, depths[first], color)
    shots, skipped = [], Counter[str]()
    for name in names:
        pose = read_matrix(poses[name]) if name in poses else None
        reason = why_unusable(
            colors.get(name), pose, depths.get(name), with_depth=bool(depths)
        )
        if reason is not None or pose is None:
            skipped[reason or "missing pose"] += 1
            continue
        load = partial(_load_exported, colors[name], depths.get(name))
        pose = _aligned(pose, alignment)
        shots.append(Shot(name, pose, color, depth, load))
    shots = usable(str(folder), shots, skipped)
    return Shots(shots, target_camera(color, depth, settings.size), skipped)


def _load_exported(color: Path, depth: Path | None) -> Images:
    if depth is None:
        return read_color(color), None
    return read_color(color), read_depth(depth, _DEPTH_SCALE, _MISSING)


def _aligned(
    pose: Float[Tensor, "4 4"], alignment: Float[Tensor, "4 4"] | None
) -> Float[Tensor, "4 4"]:
    return pose if alignment is None else alignment @ pose
