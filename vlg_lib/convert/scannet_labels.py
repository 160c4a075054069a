"""The labels of ScanNet: NYU40 ids, the twenty classes of the benchmark, and
where a scene's labels come from.
"""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64, Integer
from torch import Tensor

from vlg_lib.classes import IGNORE_LABEL, SCANNET_20
from vlg_lib.data.layout import LayoutError
from vlg_lib.data.ply import read_points

NYU40_IDS = (*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39)
"""The NYU40 ids of the benchmark's twenty classes, in the order of SCANNET_20;
the rest has no class."""

_LARGEST_ID = 40


def to_scannet20(nyu40: Integer[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Class indices (N,) int64 from NYU40 ids (N,): IGNORE_LABEL for ids
    without a class, for 0, "not annotated", and for what is no NYU40 id at all
    (see :func:`foreign_ids`).

    >>> to_scannet20(torch.tensor([0, 1, 39, 13, 40, 149])).tolist()
    [-1, 0, 19, -1, -1, -1]
    """
    table = torch.full((_LARGEST_ID + 1,), IGNORE_LABEL, dtype=torch.int64)
    table[list(NYU40_IDS)] = torch.arange(len(SCANNET_20))
    return table[nyu40.long().masked_fill(_is_foreign(nyu40), 0)]


def _is_foreign(nyu40: Integer[Tensor, " N"]) -> Bool[Tensor, " N"]:
    return (nyu40 < 0) | (nyu40 > _LARGEST_ID)


def foreign_ids(nyu40: Integer[Tensor, " N"]) -> dict[int, int]:
    """How many points have each id that is none of NYU40's, 0 to 40.

    Three scenes as published have such: 50 and 149 in scene0270_00,
    scene0270_02 and scene0384_00, words whose ids were never translated.
    Everybody takes these points as not annotated.

    >>> foreign_ids(torch.tensor([0, 1, 50, 149, 50]))
    {50: 2, 149: 1}
    """
    ids, counts = nyu40[_is_foreign(nyu40)].unique(return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def to_nyu40(labels: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """NYU40 ids (N,) int64 from class indices (N,); 0 where there is no class.

    >>> to_nyu40(torch.tensor([-1, 0, 12, 19])).tolist()
    [0, 1, 14, 39]
    """
    return torch.tensor([*NYU40_IDS, 0])[labels]


def read_labels(
    scene: Path, points: int, tsv: Path | None
) -> tuple[Int[Tensor, " N"] | None, str, dict[int, int]]:
    """The class indices (points,) of a scene folder, the name of the file that
    they come from, and how many points have an id that is none of NYU40's;
    None, "" and {} without.

    From ``SCENE_vh_clean_2.labels.ply`` where it exists, else from the
    annotations (``SCENE.aggregation.json`` over
    ``SCENE_vh_clean_2.0.010000.segs.json``, whose words ``tsv`` translates).
    LayoutError where they do not fit.
    """
    path = scene / f"{scene.name}_vh_clean_2.labels.ply"
    if path.is_file():
        _, _, extra = read_points(path)
        if "label" not in extra or extra["label"].is_floating_point():
            raise LayoutError(
                f"{path}: expected a whole-number property 'label', found"
                f" {sorted(extra) or 'none'}"
            )
        ids = extra["label"]
    else:
        path = scene / f"{scene.name}.aggregation.json"
        if not path.is_file():
            return None, "", {}
        if tsv is None:
            raise LayoutError(
                f"{path}: its words need scannetv2-labels.combined.tsv; name"
                " that file with --tsv"
            )
        ids = read_annotations(
            path,
            scene / f"{scene.name}_vh_clean_2.0.010000.segs.json",
            read_tsv(tsv),
        )
    if len(ids) != points:
        raise LayoutError(
            f"{path}: expected a label for each of the {points} points of the"
            f" mesh, found {len(ids)}"
        )
    return to_scannet20(ids), path.name, foreign_ids(ids)


def read_tsv(path: Path) -> dict[str, int | None]:
    """The NYU40 id of each word that annotators used, from
    ``scannetv2-labels.combined.tsv``; None for a word whose row has none, which
    matters only where a scene uses it (:func:`read_annotations`).
    """
    if not path.is_file():
        raise LayoutError(f"{path}: no such file")
    rows = csv.DictReader(
        path.read_text(encoding="utf-8-sig", errors="replace").splitlines(),
        delimiter="\t",
    )
    try:
        found = [(row["raw_category"], _id_of(row["nyu40id"])) for row in rows]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise LayoutError(
            f"{path}: expected tab-separated columns raw_category and nyu40id"
            f" ({error!r})"
        ) from error
    # a row may end before its word
    return {word: number for word, number in found if word}


def _id_of(text: str | None) -> int | None:
    """The number in a cell; None where it is empty or the row ends before."""
    return int(text) if text and text.strip() else None


def read_annotations(
    aggregation: Path, segments: Path, ids: dict[str, int | None]
) -> Int[Tensor, " N"]:
    """NYU40 ids (N,) from the objects of a scene (groups of segments with a
    word) and the segment of each point.

    Points outside all groups get 0. LayoutError for a word that ``ids`` does
    not know or files of another form.
    """
    of_segment: dict[int, int] = {}
    try:
        for group in _json(aggregation)["segGroups"]:
            if group["label"] not in ids:
                raise LayoutError(
                    f"{aggregation}: unknown word {group['label']!r}; use the"
                    " tsv of the same release"
                )
            number = ids[group["label"]]
            if number is None:
                raise LayoutError(
                    f"{aggregation}: the tsv has no nyu40id for the word"
                    f" {group['label']!r}; write it there, 0 for none"
                )
            of_segment |= dict.fromkeys(
                (int(segment) for segment in group["segments"]), number
            )
        found = _json(segments)["segIndices"]
        return torch.tensor(
            [of_segment.get(int(segment), 0) for segment in found],
            dtype=torch.int64,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, LayoutError):
            raise
        expected = "segGroups of label and segments, and segIndices"
        raise LayoutError(
            f"{aggregation}, {segments.name}: expected {expected} ({error!r})"
        ) from error


def read_segments(path: Path, points: int) -> Int64[Tensor, " points"] | None:
    """The segment of each vertex from ``SCENE_vh_clean_2.0.010000.segs.json``,
    ScanNet's own superpoints: (points,) int64 without gaps from 0; None where
    the file does not exist.

    LayoutError for another number of them and for files of another form.
    """
    if not path.is_file():
        return None
    segments = _json(path)
    found = segments.get("segIndices") if isinstance(segments, dict) else None
    if not isinstance(found, list) or not all(
        type(segment) is int and 0 <= segment < 2**63 for segment in found
    ):
        raise LayoutError(
            f"{path}: expected segIndices, a list of whole numbers from 0;"
            " download it again"
        )
    if len(found) != points:
        raise LayoutError(
            f"{path}: expected a segment for each of the {points} points of the"
            f" mesh, found {len(found)}; take mesh and segments of one release"
        )
    numbers = torch.tensor(found, dtype=torch.int64)
    return numbers.unique(return_inverse=True)[1]


def _json(path: Path) -> Any:
    if not path.is_file():
        raise LayoutError(f"{path}: no such file")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LayoutError(
            f"{path}: not JSON ({error}); download it again"
        ) from error


def read_alignment(path: Path) -> Float[Tensor, "4 4"] | None:
    """The 4x4 ``axisAlignment`` of ``SCENE.txt`` (float64), None where the file
    has none (as in the test scenes).

    It takes the scan's world to one whose axes lie along the walls. LayoutError
    where it is not a rigid motion.
    """
    if not path.is_file():
        raise LayoutError(f"{path}: no such file; it holds the axis alignment")
    for line in path.read_text("utf-8", "replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() != "axisAlignment":
            continue
        try:
            matrix = torch.tensor(
                [float(word) for word in value.split()], dtype=torch.float64
            ).view(4, 4)
            turn = matrix[:3, :3]
            rigid = torch.allclose(
                turn @ turn.T, torch.eye(3, dtype=torch.float64), atol=1e-3
            )
        except (ValueError, RuntimeError) as error:
            raise LayoutError(
                f"{path}: expected axisAlignment = 16 numbers, found"
                f" {value.strip()!r}"
            ) from error
        if not (
            rigid
            and bool(matrix.isfinite().all())
            and matrix[3].tolist() == [0, 0, 0, 1]
        ):
            raise LayoutError(
                f"{path}: expected axisAlignment to be a rotation and a shift,"
                f" found {value.strip()!r}"
            )
        return matrix
    return None
