"""Convert the rooms of S3DIS, with their images from 2D-3D-S, into the layout
that the library reads.

    python data_scripts/convert_s3dis.py Stanford3dDataset_v1.2 s3dis/train --images 2D-3D-S/noXYZ --areas 1,2,3,4,6
    python data_scripts/convert_s3dis.py Stanford3dDataset_v1.2 s3dis/test --images 2D-3D-S/noXYZ --areas 5

(the protocol of "Area 5": train on the others). ROOMS holds
``Area_1/conferenceRoom_1/Annotations/chair_1.txt``: the points of each object,
whose name is their class. The class ``stairs`` counts as clutter, as usual;
words that are no class give points without a label, and are counted. A room
without Annotations is read from its own text file and has no labels. There are
272 rooms: 44, 40, 23, 49, 68 and 48. Coordinates are those of the whole area.

Camera poses of 2D-3D-S are in that same world, so
``Stanford3dDataset_v1.2_Aligned_Version``, which turns each room about its
middle, is refused; with --undo-alignment it is turned back by
``Area_N/Area_N_alignmentAngle.txt``. Whatever the way, each room is checked
against its depth images before it is written, and refused where they contradict
it.

Without --images a room becomes a scene without frames (points and labels only).
"""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn.functional import pad

from vlg_lib.artifacts import hash_files
from vlg_lib.classes import IGNORE_LABEL, S3DIS_13
from vlg_lib.convert.batch import (
    chosen,
    convert_all,
    finish,
    one_line_errors,
    provenance,
    read_tags,
    tags_of,
)
from vlg_lib.convert.frames import given_size, no_frames
from vlg_lib.convert.s3dis_images import DEPTH_SCALE, agreement, room_frames
from vlg_lib.convert.s3dis_text import read_text
from vlg_lib.data.layout import LayoutError, write_scene
from vlg_lib.geometry.voxels import pack, quantize
from vlg_lib.scene import Scene

CONVERTER = "data_scripts/convert_s3dis.py"
ROOMS = {1: 44, 2: 40, 3: 23, 4: 49, 5: 68, 6: 48}
"""How many rooms an area has on disk: 272 in all (papers count 271)."""


@dataclass(frozen=True)
class Settings:
    """What decides how a room comes out; stored with it, so that a run with
    others makes it again.

    ``every``: take each n-th image of a camera. ``size``: of the frames,
    "depth" (as they are) or like "540x540". ``cell``: metres; one point is kept
    in each cell, all where it is 0. ``least_agreement``: see
    ``s3dis_images.agreement``. ``least_points``: points that make a class a
    scene label. ``tags``, ``images``: a hash of the file of scene labels, and
    whether there are images.
    """

    every: int = 1
    size: str = "depth"
    cell: float = 0.0
    undo_alignment: bool = False
    least_agreement: float = 0.5
    least_points: int = 1
    tags: str = ""
    images: bool = True

    def __post_init__(self) -> None:
        if (
            self.every < 1
            or self.least_points < 1
            or not 0 <= self.cell < math.inf
        ):
            raise ValueError(
                f"every, least points and cell must be positive, found {self}"
            )
        given_size(self.size)


@dataclass(frozen=True)
class Source:
    """Where things are: ``rooms``, the folder of areas of S3DIS; ``images``,
    that of 2D-3D-S; ``tags``, a file.
    """

    rooms: Path
    images: Path | None = None
    tags: Path | None = None


@dataclass(frozen=True)
class Room:
    """A room's points (N, 3) float32, colours (N, 3) uint8, labels (N,) int64
    or None, and what had to be fixed.
    """

    points: Tensor
    colors: Tensor
    labels: Tensor | None
    fixed: dict[str, int]


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


def read_room(folder: Path) -> Room:
    """Read a room of S3DIS; TextError or LayoutError, naming the file, where it
    is wrong.
    """
    annotations = sorted((folder / "Annotations").glob("*.txt"))
    files = annotations or sorted(folder.glob("*.txt"))
    files = [path for path in files if not path.name.startswith(".")]
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
    return Room(
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
    for line in path.read_text(errors="replace").splitlines():
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


def undo_alignment(points: Tensor, degrees: float) -> Tensor:
    """Turn an aligned room back about the middle of its bounding box: (N, 3)
    float32.

    Aligned, q = R (p - c) + c with R a turn about z by -degrees and c the
    middle of the *unaligned* room. With p' = R^T q, whose middle is c', all
    points are off by the same shift: c = R c', and p = p' + c - c'.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor(
        [[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], dtype=torch.float64
    )
    back = points.double() @ turn  # R^T q, for rows
    middle = (back.amin(0) + back.amax(0)) / 2
    return (back + turn @ middle - middle).float()


def thin(points: Tensor, cell: float) -> Tensor:
    """Indices of the first point in each cell of a grid, ascending; all points
    where ``cell`` is 0.
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
    source: Source,
    settings: Settings,
    rooms: dict[str, Path],
) -> None:
    """Write one room as a scene; ValueError (LayoutError, TextError) or OSError
    where it cannot be converted.
    """
    path = rooms[name]
    room = read_room(path)
    points = room.points
    if settings.undo_alignment:
        points = undo_alignment(points, alignment_angle(path.parent, path.name))
    keep = thin(points, settings.cell)
    points, labels = (
        points[keep],
        (None if room.labels is None else room.labels[keep]),
    )
    frames = no_frames()
    fit = None
    if source.images is not None:
        frames = room_frames(
            source.images,
            path.parent.name,
            path.name,
            settings.size,
            settings.every,
        )
        fit = agreement(points, frames)
        if fit < settings.least_agreement:
            raise LayoutError(
                f"{path}: only {100 * fit:.0f} % of its points lie where its"
                " depth images see a surface; is this the aligned version"
                " (--undo-alignment), or another area's images?"
                " --least-agreement 0 takes it as it is"
            )
    tags = S3DIS_13.mask([])
    if source.tags is not None:
        tags = read_tags(source.tags, S3DIS_13).get(name, tags)
    elif labels is not None:
        tags = tags_of(labels, S3DIS_13, settings.least_points)
    facts = {
        "agreement": fit,
        "scene_labels": "typed" if source.tags else "point labels",
        "faults": room.fixed,
    }
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
        provenance=provenance(CONVERTER, name, asdict(settings), **facts),
        depth_scale=DEPTH_SCALE,
    )


def choose_rooms(
    rooms: dict[str, Path], areas: str, scenes: str, split: Path | None
) -> list[str]:
    """The names of the rooms of some areas ("1,2"), or of those named or listed
    among them.
    """
    wanted = {
        f"Area_{word.strip()}" for word in areas.split(",") if word.strip()
    }
    unknown = wanted - {f"Area_{number}" for number in ROOMS}
    if unknown:
        raise ValueError(
            f"expected areas from 1 to 6, found {', '.join(sorted(unknown))}"
        )
    for number, count in ROOMS.items():
        found = sum(
            path.parent.name == f"Area_{number}" for path in rooms.values()
        )
        if found not in (0, count) and (
            not wanted or f"Area_{number}" in wanted
        ):
            typer.echo(
                f"note: {found} of the {count} rooms of Area_{number} are"
                " there",
                err=True,
            )
    return chosen(
        [
            name
            for name, path in rooms.items()
            if not wanted or path.parent.name in wanted
        ],
        scenes,
        split,
    )


def main(
    rooms: Annotated[
        Path,
        typer.Argument(
            help="Stanford3dDataset_v1.2: Area_1/conferenceRoom_1/..."
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(help="Folder that receives one scene folder a room."),
    ],
    images: Annotated[
        Path | None,
        typer.Option(help="2D-3D-S: area_1/data/pose, rgb, depth, ..."),
    ] = None,
    areas: Annotated[
        str,
        typer.Option(help="Areas to convert, such as 1,2,3,4,6; all without."),
    ] = "",
    scenes: Annotated[
        str,
        typer.Option(
            help="Rooms to convert, such as Area_1_office_1, comma-separated."
        ),
    ] = "",
    split: Annotated[
        Path | None, typer.Option(help="File of rooms, one a line.")
    ] = None,
    every: Annotated[int, typer.Option(help="Take each n-th image.")] = 1,
    size: Annotated[
        str,
        typer.Option(
            help="Size of the frames, such as 540x540; as they are without."
        ),
    ] = "depth",
    cell: Annotated[
        float,
        typer.Option(
            help="Keep one point in each cell of this many metres; 0: all."
        ),
    ] = 0.0,
    undo_alignment: Annotated[
        bool,
        typer.Option(help="ROOMS is the aligned version: turn rooms back."),
    ] = False,
    least_agreement: Annotated[
        float,
        typer.Option(help="Share of points that depth images must agree with."),
    ] = 0.5,
    tags: Annotated[
        Path | None,
        typer.Option(
            help="Scene labels of your own: lines 'ROOM: class, class'."
        ),
    ] = None,
    least_points: Annotated[
        int, typer.Option(help="Points that make a class a scene label.")
    ] = 1,
    jobs: Annotated[int, typer.Option(help="Rooms converted at once.")] = 1,
) -> None:
    """Convert the rooms of S3DIS, with their images, into the layout that the
    library reads.
    """
    with one_line_errors():
        if "aligned" in rooms.resolve().name.lower() and not undo_alignment:
            raise ValueError(
                f"{rooms}: camera poses do not fit the aligned version; convert"
                " Stanford3dDataset_v1.2, or turn the rooms back with"
                " --undo-alignment"
            )
        if tags is not None:
            # a wrong file is one error, not one a room
            read_tags(tags, S3DIS_13)
        settings = Settings(
            every,
            size,
            cell,
            undo_alignment,
            least_agreement,
            least_points,
            "" if tags is None else hash_files(tags),
            images is not None,
        )
        found = room_names(rooms)
        names = choose_rooms(found, areas, scenes, split)
        convert = partial(
            convert_room,
            source=Source(rooms, images, tags),
            settings=settings,
            rooms=found,
        )
        finish(
            convert_all(
                names, convert, out, settings=asdict(settings), jobs=jobs
            ),
            out,
        )


if __name__ == "__main__":
    typer.run(main)
