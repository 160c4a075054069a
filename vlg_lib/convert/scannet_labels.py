"""The labels of ScanNet: NYU40 ids, the twenty classes of the benchmark, and
where a scene's labels come from.
"""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Int64, Integer
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
    without a class and for 0, "not annotated".

    >>> to_scannet20(torch.tensor([0, 1, 39, 13, 40])).tolist()
    [-1, 0, 19, -1, -1]
    """
    table = torch.full((_LARGEST_ID + 1,), IGNORE_LABEL, dtype=torch.int64)
    table[list(NYU40_IDS)] = torch.arange(len(SCANNET_20))
    if len(nyu40) and not (
        int(nyu40.min()) >= 0 and int(nyu40.max()) <= _LARGEST_ID
    ):
        raise ValueError(
            f"expected NYU40 ids from 0 to 40, found {int(nyu40.min())} to"
            f" {int(nyu40.max())}"
        )
    return table[nyu40.long()]


def to_nyu40(labels: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """NYU40 ids (N,) int64 from class indices (N,); 0 where there is no class.

    >>> to_nyu40(torch.tensor([-1, 0, 12, 19])).tolist()
    [0, 1, 14, 39]
    """
    return torch.tensor([*NYU40_IDS, 0])[labels]


def read_labels(
    scene: Path, points: int, tsv: Path | None
) -> tuple[Int[Tensor, " N"] | None, str]:
    """The class indices (points,) of a scene folder and the name of the file
    that they come from; None, "" without.

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
            return None, ""
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
    try:
        return to_scannet20(ids), path.name
    except ValueError as error:
        raise LayoutError(f"{path}: {error}") from error


def read_tsv(path: Path) -> dict[str, int]:
    """The NYU40 id of each word that annotators used, from
    ``scannetv2-labels.combined.tsv``.
    """
    if not path.is_file():
        raise LayoutError(f"{path}: no such file")
    rows = csv.DictReader(
        path.read_text(encoding="utf-8", errors="replace").splitlines(),
        delimiter="\t",
    )
    try:
        return {row["raw_category"]: int(row["nyu40id"]) for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise LayoutError(
            f"{path}: expected tab-separated columns raw_category and nyu40id"
            f" ({error!r})"
        ) from error


def read_annotations(
    aggregation: Path, segments: Path, ids: dict[str, int]
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
            of_segment |= dict.fromkeys(
                (int(segment) for segment in group["segments"]),
                ids[group["label"]],
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
