r"""Convert the rooms of S3DIS, with their images from 2D-3D-S, into the layout
that the library reads.

::

    vlg convert s3dis Stanford3dDataset_v1.2 --out s3dis/train \
        --images 2D-3D-S/noXYZ --areas 1,2,3,4,6
    vlg convert s3dis Stanford3dDataset_v1.2 --out s3dis/test \
        --images 2D-3D-S/noXYZ --areas 5

(the protocol of "Area 5": train on the others). The folder of rooms holds
``Area_1/conferenceRoom_1/Annotations/chair_1.txt``: the points of each object,
whose name is their class. The class ``stairs`` counts as clutter, as usual;
words that are no class give points without a label, and are counted. A room
without Annotations is read from its own text file and has no labels. There are
272 rooms: 44, 40, 23, 49, 68 and 48. Coordinates are those of the whole area.

Camera poses of 2D-3D-S are in that same world, so
``Stanford3dDataset_v1.2_Aligned_Version``, which turns each room about its
middle, is refused; with ``undo_alignment`` it is turned back by
``Area_N/Area_N_alignmentAngle.txt``. Whatever the way, each room is checked
against its depth images before it is written, and refused where they contradict
it.

Without images a room becomes a scene without frames (points and labels only).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import pad

from vlg_lib.artifacts import hash_files
from vlg_lib.classes import IGNORE_LABEL, S3DIS_13
from vlg_lib.convert.batch import Summary, chosen, convert_all, provenance
from vlg_lib.convert.frames import no_frames
from vlg_lib.convert.registration import GridSize, check_size, size_text
from vlg_lib.convert.s3dis_images import DEPTH_SCALE, agreement, room_frames
from vlg_lib.convert.s3dis_text import read_text
from vlg_lib.convert.scene_labels import read_tags, tags_of
from vlg_lib.data.layout import LayoutError, write_scene
from vlg_lib.geometry.voxels import pack, quantize
from vlg_lib.scene import Scene

CONVERTER = "vlg convert s3dis"
ROOMS = {1: 44, 2: 40, 3: 23, 4: 49, 5: 68, 6: 48}
"""How many rooms an area has on disk: 272 in all (papers count 271)."""


@dataclass(frozen=True)
class S3disSettings:
    """What decides how a room comes out; stored with it, so that a run with
    others makes it again.
    """

    every: int = 1
    """Take each n-th image of a camera."""
    size: GridSize = "depth"
    """Of the frames: "depth" (as they are) or (width, height)."""
    cell: float = 0.0
    """Metres; one point is kept in each cell, all where it is 0."""
    undo_alignment: bool = False
    """The rooms are the aligned version: turn them back."""
    least_agreement: float = 0.5
    """Share of points that depth images must agree with, see
    ``s3dis_images.agreement``."""
    least_points: int = 1
    """Points that make a class a scene label."""

    def __post_init__(self) -> None:
        if (
            self.every < 1
            or self.least_points < 1
            or not 0 <= self.cell < math.inf
        ):
            raise ValueError(
                f"every, least points and cell must be positive, found {self}"
            )
        check_size(self.size)


@dataclass(frozen=True)
class S3disSource:
    """Where things are, and which of the rooms are wanted."""

    rooms: Path
    """The folder of areas, Stanford3dDataset_v1.2:
    Area_1/conferenceRoom_1/..."""
    images: Path | None = None
    """2D-3D-S: area_1/data/pose, rgb, depth, ...; without it rooms have no
    frames."""
    tags: Path | None = None
    """Scene labels typed by a person: lines "ROOM: class, class"."""
    areas: tuple[int, ...] = ()
    """Areas to convert, from 1 to 6; all without."""
    scenes: tuple[str, ...] = ()
    """Names of rooms to convert, such as Area_1_office_1; all where neither
    they nor a split are given."""
    split: Path | None = None
    """File of rooms to convert, one a line."""


def convert_s3dis(
    source: S3disSource,
    out: Path,
    settings: S3disSettings | None = None,
    *,
    jobs: int = 1,
    progress: bool = True,
) -> Summary:
    """Convert rooms into ``out/Area_N_ROOM``, ``jobs`` at once; what was done,
    kept and failed, with a note for each area of which rooms are missing.

    A room that fails is named in the summary, and the others are converted all
    the same. ``progress``: whether to show a bar. ValueError where a setting or
    the source as a whole is wrong.
    """
    settings = settings or S3disSettings()
    aligned = "aligned" in source.rooms.resolve().name.lower()
    if aligned and not settings.undo_alignment:
        raise ValueError(
            f"{source.rooms}: camera poses do not fit the aligned version;"
            " convert Stanford3dDataset_v1.2, or turn the rooms back with"
            " --undo-alignment"
        )
    if source.tags is not None:
        read_tags(source.tags, S3DIS_13)  # wrong: one error, not one a room
    rooms = room_names(source.rooms)
    wanted = rooms_of_areas(rooms, source.areas)
    summary = convert_all(
        chosen(wanted, source.scenes, source.split),
        partial(convert_room, source=source, settings=settings, rooms=rooms),
        out,
        settings=_stored(source, settings),
        jobs=jobs,
        progress=progress,
    )
    summary.notes += missing_rooms(rooms, source.areas)
    return summary


def _stored(source: S3disSource, settings: S3disSettings) -> dict[str, Any]:
    """What is stored of the settings, so that the next run can compare: with
    the content of the file of scene labels, and whether there are images.
    """
    return asdict(settings) | {
        "size": size_text(settings.size),
        "tags": "" if source.tags is None else hash_files(source.tags),
        "images": source.images is not None,
    }


def rooms_of_areas(
    rooms: Mapping[str, Path], areas: Sequence[int]
) -> list[str]:
    """The names of the rooms of some areas, of all where none are given;
    ValueError for an area that does not exist.

    >>> folders = [Path("Area_1/WC_1"), Path("Area_2/WC_1")]
    >>> rooms = {"_".join(folder.parts): folder for folder in folders}
    >>> rooms_of_areas(rooms, [2])
    ['Area_2_WC_1']
    """
    unknown = sorted(set(areas) - set(ROOMS))
    if unknown:
        raise ValueError(
            "expected areas from 1 to 6, found"
            f" {', '.join(f'Area_{area}' for area in unknown)}"
        )
    folders = {f"Area_{area}" for area in areas}
    return [
        name
        for name, path in rooms.items()
        if not folders or path.parent.name in folders
    ]


def missing_rooms(rooms: Mapping[str, Path], areas: Sequence[int]) -> list[str]:
    """A note for each of the areas (of all where none are given) that is there
    in part.
    """
    there = Counter(path.parent.name for path in rooms.values())
    return [
        f"{there[f'Area_{area}']} of the {count} rooms of Area_{area} are there"
        for area, count in ROOMS.items()
        if (not areas or area in areas)
        and there[f"Area_{area}"] not in (0, count)
    ]


@dataclass(frozen=True)
class AnnotatedRoom:
    """A room as its text files have it."""

    points: Float[Tensor, "N 3"]
    """float32, metres, in the world of the area, z up."""
    colors: UInt8[Tensor, "N 3"]
    """Of the points."""
    labels: Int[Tensor, " N"] | None
    """The class of each point; None where the room has no annotations."""
    fixed: dict[str, int]
    """What had to be fixed, and how often."""


def room_names(rooms: Path) -> dict[str, Path]:
    """The rooms by scene name (Area_1_conferenceRoom_1), in the order of areas
    and names; LayoutError without any.
    """
    folders = sorted(
        path
        for path in rooms.glob("Area_[1-6]/*")
        if path.is_dir() and any(path.rglob("*.txt"))
    )
    if not folders:
        raise LayoutError(
            f"{rooms}: expected folders Area_1/conferenceRoom_1 with text"
            " files, found none"
        )
    return {f"{folder.parent.name}_{folder.name}": folder for folder in folders}


def read_room(folder: Path) -> AnnotatedRoom:
    """Read a room of S3DIS; TextError or LayoutError, naming the file, where it
    is wrong.
    """
    annotations = sorted((folder / "Annotations").glob("*.txt"))
    files = annotations or sorted(folder.glob("*.txt"))
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise LayoutError(
            f"{folder}: expected Annotations/*.txt or {folder.name}.txt, found"
            " neither"
        )
    parts, fixed = [], Counter[str]()
    for path in files:
        points, colors, fixes = read_text(path)
        label = class_of(path.stem) if annotations else IGNORE_LABEL
        fixed["fixed line"] += fixes
        fixed["object of an unknown class"] += bool(
            annotations and label == IGNORE_LABEL
        )
        parts.append((points, colors, torch.full((len(points),), label)))
    points, colors, labels = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    return AnnotatedRoom(
        points,
        colors,
        labels if annotations else None,
        {key: count for key, count in fixed.items() if count},
    )


def class_of(name: str) -> int:
    """The class index of an object by its file name; IGNORE_LABEL for a word
    that is no class.

    >>> [class_of(name) for name in ("ceiling_1", "stairs_2", "lamp_1")]
    [0, 12, -1]
    """
    word = name.rpartition("_")[0]
    word = "clutter" if word == "stairs" else word
    return S3DIS_13.index(word) if word in S3DIS_13.names else IGNORE_LABEL


def alignment_angle(area: Path, room: str) -> float:
    """The angle of a room in degrees, from
    ``Area_N/Area_N_alignmentAngle.txt``; LayoutError where there is none.
    """
    path = area / f"{area.name}_alignmentAngle.txt"
    if not path.is_file():
        raise LayoutError(
            f"{path}: no such file; it is needed to undo the alignment"
        )
    for line in path.read_text("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == room:
            try:
                angle = float(words[1])
            except ValueError:
                angle = math.nan
            if not math.isfinite(angle):
                raise LayoutError(
                    f"{path}: expected an angle in degrees for {room}, found"
                    f" {words[1]!r}"
                )
            return angle
    raise LayoutError(f"{path}: no line for {room}")


def undo_alignment(
    points: Float[Tensor, "N 3"], degrees: float
) -> Float[Tensor, "N 3"]:
    """Turn an aligned room back about the middle of its bounding box: (N, 3)
    float32.

    Aligned, q = R (p - c) + c with R a turn about z by -degrees and c the
    middle of the *unaligned* room. With p' = R^T q, whose middle is c', all
    points are off by the same shift: c = R c', and p = p' + c - c'.
    """
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor(
        [[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], dtype=torch.float64
    )
    back = points.double() @ turn  # R^T q, for rows
    middle = (back.amin(0) + back.amax(0)) / 2
    return (back + turn @ middle - middle).float()


def thin(points: Float[Tensor, "N 3"], cell: float) -> Int[Tensor, " M"]:
    """Indices of the first point in each cell of a grid of ``cell`` metres,
    ascending; all points where ``cell`` is 0.

    >>> points = torch.tensor([[0.05, 0, 0], [0.25, 0, 0], [0.01, 0, 0]])
    >>> thin(points, 0.1).tolist()
    [0, 1]
    """
    if not cell:
        return torch.arange(len(points))
    _, of_point = torch.unique(
        pack(pad(quantize(points, cell), (1, 0))), return_inverse=True
    )
    first = torch.full((int(of_point.max()) + 1,), len(points))
    return (
        first.scatter_reduce(0, of_point, torch.arange(len(points)), "amin")
        .sort()
        .values
    )


def convert_room(
    name: str,
    folder: Path,
    source: S3disSource,
    settings: S3disSettings,
    rooms: Mapping[str, Path],
) -> None:
    """Write one room as a scene; ValueError (LayoutError, TextError) or OSError
    where it cannot be converted.

    ``rooms``: the folders of rooms by name.
    """
    path = rooms[name]
    room = read_room(path)
    points = room.points
    if settings.undo_alignment:
        points = undo_alignment(points, alignment_angle(path.parent, path.name))
    keep = thin(points, settings.cell)
    points = points[keep]
    labels = None if room.labels is None else room.labels[keep]
    frames, fit = no_frames(), None
    if source.images is not None:
        frames = room_frames(
            source.images,
            path.parent.name,
            path.name,
            settings.size,
            settings.every,
        )
        fit = agreement(points, frames)
        _check_agreement(path, fit, settings.least_agreement)
    tags = _scene_labels(name, source, labels, settings)
    write_scene(
        folder,
        Scene(
            name,
            points,
            room.colors[keep],
            frames,
            S3DIS_13,
            tags,
            frames.skipped,
        ),
        point_labels=labels,
        provenance=provenance(
            CONVERTER,
            name,
            _stored(source, settings),
            {
                "agreement": fit,
                "scene_labels": "typed" if source.tags else "point labels",
                "faults": room.fixed,
            },
        ),
        depth_scale=DEPTH_SCALE,
    )


def _check_agreement(room: Path, fit: float, least: float) -> None:
    if fit < least:
        raise LayoutError(
            f"{room}: only {100 * fit:.0f} % of its points lie where its"
            " depth images see a surface; is this the aligned version"
            " (--undo-alignment), or another area's images?"
            " --least-agreement 0 takes it as it is"
        )


def _scene_labels(
    name: str,
    source: S3disSource,
    labels: Int[Tensor, " N"] | None,
    settings: S3disSettings,
) -> Bool[Tensor, " K"]:
    none = S3DIS_13.mask([])
    if source.tags is not None:
        return read_tags(source.tags, S3DIS_13).get(name, none)
    if labels is None:
        return none
    return tags_of(labels, S3DIS_13, settings.least_points)
