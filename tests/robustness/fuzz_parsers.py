"""Malformed inputs for every parser of foreign files: valid bytes, broken at
random, must give the documented error.

``test_fuzz_parsers.py`` runs 500 inputs a parser; ``fuzz.py`` runs many over
all parsers, with limits of time and memory."""

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from s3dis_files import text_of, write_view
from scannet_files import (
    ALIGNMENT,
    CLASSES,
    POINTS,
    floor_shots,
    info_text,
    mesh_bytes,
    sens_bytes,
    write_annotations,
    write_tsv,
)

from vlg_lib.classes import SCANNET_20
from vlg_lib.convert.s3dis import alignment_angle
from vlg_lib.convert.s3dis_images import _open
from vlg_lib.convert.s3dis_text import TextError, read_text
from vlg_lib.convert.scannet_labels import (
    read_alignment,
    read_annotations,
    read_tsv,
)
from vlg_lib.convert.scene_labels import read_tags
from vlg_lib.convert.sens import SensError, SensFile
from vlg_lib.data.frames import LayoutError, read_matrix
from vlg_lib.data.ply import PlyError, read_points

OPERATIONS = ("flip", "delete", "insert", "double", "cut", "number", "swap")
NUMBERS = (
    b"-1",
    b"1e999",
    b"nan",
    b"99999999999",
    b"0",
    b"",
    b"\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"[" * 50,
)
Edit = tuple[str, float, float, int]
"""An operation, where (0 to 1), how far (0 to 1), and a number that it may
use."""


@dataclass(frozen=True)
class Parser:
    """A parser of one kind of file: valid files, the call, and the error that
    it documents for all others."""

    name: str
    valid: Sequence[bytes]
    parse: Callable[[Path], object]
    error: type[Exception]
    file: str


def mutate(data: bytes, edits: Sequence[Edit]) -> bytes:
    """Valid bytes after some edits."""
    out = bytearray(data)
    for operation, where, far, number in edits:
        at = int(where * (len(out) + 1))
        end = min(len(out), at + 1 + int(far * 40))
        if operation == "flip" and at < len(out):
            out[at] ^= 1 << number % 8
        elif operation == "delete":
            del out[at:end]
        elif operation == "insert":
            out[at:at] = bytes(
                (number * (i + 1)) % 256 for i in range(1 + number % 9)
            )
        elif operation == "double":
            out[at:at] = out[at:end]
        elif operation == "cut":
            del out[at:]
        elif operation == "number":
            out[at : at + number % 5] = NUMBERS[number % len(NUMBERS)]
        elif operation == "swap":
            other = int(far * len(out))
            out[at:end], out[other : other + 4] = (
                out[other : other + 4],
                out[at:end],
            )
    return bytes(out)


def random_edits(rng: random.Random) -> list[Edit]:
    count = rng.choice((1, 1, 1, 2, 3, 8))
    return [
        (rng.choice(OPERATIONS), rng.random(), rng.random(), rng.randrange(256))
        for _ in range(count)
    ]


def _read_sens(path: Path) -> None:
    with SensFile(path) as sens:
        for index in range(len(sens)):
            for read in (sens.color, sens.depth):
                # one damaged frame does not hide the next
                with contextlib.suppress(SensError):
                    read(index)


def _read_pose(path: Path) -> object:
    return _open(path, "area_5b", "office_1")


def parsers(folder: Path) -> list[Parser]:
    """All parsers, with valid files made in ``folder``, which also holds what
    some read beside the file."""
    shots = [
        (pose, color[::4, ::4].copy(), codes[::3, ::4].copy())
        for pose, color, codes in floor_shots(2)
    ]
    streams = [
        sens_bytes(
            shots, np.eye(4), np.eye(4), color_kind=color, depth_kind=depth
        )
        for color, depth in (
            ("jpeg", "zlib_ushort"),
            ("png", "zlib_ushort"),
            ("raw", "raw_ushort"),
        )
    ]
    colors = np.arange(18).reshape(6, 3)
    meshes = [
        mesh_bytes(POINTS, colors, labels, ascii=text)
        for text in (0, 1)
        for labels in (None, np.array(CLASSES))
    ]
    scene = folder / "scene0000_00"
    scene.mkdir()
    write_annotations(
        scene, [("wall", [7]), ("floor", [3, 5])], [7, 3, 5, 6, 8, 99]
    )
    aggregation, segments = (
        scene / "scene0000_00.aggregation.json",
        scene / "scene0000_00_vh_clean_2.0.010000.segs.json",
    )
    ids = {"wall": 1, "floor": 2}
    tsv = write_tsv(folder / "a.tsv", [("wall", 1), ("floor", 2)]).read_bytes()
    pose = write_view(
        folder / "area_5b",
        "a" * 32,
        "office_1",
        3,
        np.eye(4),
        np.diag([20.0, 20.0, 1.0]),
        np.zeros((8, 8, 3), np.uint8),
        np.ones((8, 8)),
    )
    text = text_of(
        np.linspace(-30, 30, 60).reshape(20, 3), np.arange(60).reshape(20, 3)
    )
    angles = b"## Angles ##\n\noffice_1 90\noffice_2 15\n"
    matrix = b"1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
    return [
        Parser(".sens", streams, _read_sens, SensError, "a.sens"),
        Parser("PLY", meshes, read_points, PlyError, "a.ply"),
        Parser(
            "SCENE.txt",
            [info_text(ALIGNMENT).encode()],
            read_alignment,
            LayoutError,
            "a.txt",
        ),
        Parser("labels.combined.tsv", [tsv], read_tsv, LayoutError, "a.tsv"),
        Parser(
            "aggregation.json",
            [aggregation.read_bytes()],
            lambda path: read_annotations(path, segments, ids),
            LayoutError,
            "a.json",
        ),
        Parser(
            "segs.json",
            [segments.read_bytes()],
            lambda path: read_annotations(aggregation, path, ids),
            LayoutError,
            "a.json",
        ),
        Parser("4x4 matrix", [matrix], read_matrix, LayoutError, "a.txt"),
        Parser(
            "S3DIS text",
            [text, text.replace(b" ", b"\t")],
            read_text,
            TextError,
            "a.txt",
        ),
        Parser(
            "2D-3D-S pose",
            [pose.read_bytes()],
            _read_pose,
            NotImplementedError,
            str(pose),
        ),
        Parser(
            "alignmentAngle.txt",
            [angles],
            lambda path: alignment_angle(path.parent, "office_1"),
            LayoutError,
            "Area_1/Area_1_alignmentAngle.txt",
        ),
        Parser(
            "scene labels",
            [b"a: wall, floor\n# b\nc: bed\n"],
            lambda path: read_tags(path, SCANNET_20),
            ValueError,
            "tags.txt",
        ),
    ]


def attempt(parser: Parser, folder: Path, data: bytes) -> bool:
    """Whether the parser read the bytes (True) or refused them with its own
    error; other errors pass through."""
    path = folder / parser.file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    try:
        parser.parse(path)
    except parser.error as error:
        if parser.error is not ValueError and type(error) is ValueError:
            raise
        return False
    return True
