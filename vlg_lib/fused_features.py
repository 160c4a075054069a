"""Fused embeddings of points, P^2D, as files: the book's own, and those that OpenScene published.

With such a file a scene needs neither images nor a 2D model: stages 2 and 3 start from it. The book's own is one
safetensors file a scene, NAME.safetensors, with ``embeddings`` (N, D) float16, zero where no view saw the point, and
``view_counts`` (N,) int32. Those of OpenScene (Peng et al., CVPR 2023) are NAME.pt with all points that a view saw, or
NAME_0.pt, NAME_1.pt, ... with random ones of them: each holds ``mask_full`` (N,) bool, True for the points that it has,
and ``feat``, float16, a row for each of these in their order.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from vlg_lib.scene import PointEmbeddings
from vlg_lib.store import StoreError, atomic_write, load_tensors


def read_fused(
    folder: Path, name: str, points: int, dim: int | None = None, *, normalize: bool = True
) -> PointEmbeddings:
    """The stored embeddings of the scene ``name``, which has ``points`` points, in either form.

    ``dim``: what the text embeddings have, None for any. Published rows are plain means over views: ``normalize``
    scales them to unit length; they do not say how many views saw a point, so ``view_counts`` is 1, or the number of
    files that hold it (whose rows are averaged). StoreError naming the file where one is missing, cut, foreign, of
    another scene or another 2D model.
    """
    own, whole = folder / f"{name}.safetensors", folder / f"{name}.pt"
    numbered = re.compile(re.escape(name) + r"_(0|[1-9]\d*)\.pt")
    parts = sorted(path for path in folder.glob("*.pt") if numbered.fullmatch(path.name))
    found = [*(path for path in (own, whole) if path.is_file()), *parts]
    if not found or len(found) > max(1, len(parts)):
        raise StoreError(
            f"{folder}: expected fused embeddings of scene {name!r} in one form ({own.name}, {whole.name}, or "
            f"{name}_0.pt, {name}_1.pt ...), found {[path.name for path in found]}"
        )
    if found == [own]:
        tensors = load_tensors(own)[0]
        rows, counts = (_take(own, tensors, part) for part in ("embeddings", "view_counts"))
        _check(own, counts.dtype == torch.int32 and counts.shape == (points,), f"view_counts ({points},) int32", counts)
        _check_rows(own, rows, points, dim)
        return PointEmbeddings(rows.float(), counts)
    counts, sums = torch.zeros(points, dtype=torch.int32), torch.empty(0)
    for path in found:
        rows, indices = _read_published(path, points, sums.shape[1] if sums.ndim == 2 else dim)
        sums = sums if sums.ndim == 2 else torch.zeros(points, rows.shape[1])
        sums.index_add_(0, indices, unit_length(rows.float()) if normalize else rows.float())
        counts[indices] += rows.any(dim=1).int()
    return PointEmbeddings(unit_length(sums) if normalize else sums / counts.clamp(min=1)[:, None], counts)


def write_fused(
    path: Path,
    blocks: Iterable[Float[Tensor, "_ D"]],
    view_counts: Int[Tensor, " N"],
    dim: int,
    manifest: Mapping[str, Any] | None = None,
) -> None:
    """Write the book's own file, atomically, from blocks of rows that together are the N points' embeddings.

    No more than a block is in memory. ValueError where they are not (N, ``dim``) or do not fit into half precision.
    """
    points = len(view_counts)
    ends = [2 * points * dim, 2 * points * dim + 4 * points]
    header = {
        "__metadata__": {"manifest": json.dumps(dict(manifest or {}), allow_nan=False)},
        "embeddings": {"dtype": "F16", "shape": [points, dim], "data_offsets": [0, ends[0]]},
        "view_counts": {"dtype": "I32", "shape": [points], "data_offsets": ends},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in blocks:
            half = block.half()
            if half.shape[1] != dim or not bool(half.isfinite().all()):
                raise ValueError(f"{path}: expected rows of {dim} numbers below 65,504, found {tuple(half.shape)}")
            file.write(half.cpu().numpy().tobytes())
        if file.tell() != 8 + len(text) + ends[0]:
            raise ValueError(f"{path}: expected {points} rows, found another number of them")
        file.write(view_counts.int().cpu().numpy().tobytes())


def _read_published(path: Path, points: int, dim: int | None) -> tuple[Tensor, Tensor]:
    """The rows of one published file, and the points that they belong to."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises for bytes that are no tensors
        raise StoreError(f"{path}: not a whole .pt file of torch tensors ({error}); fetch it again") from error
    content = content if isinstance(content, dict) else {}
    mask, rows = _take(path, content, "mask_full"), _take(path, content, "feat")
    if "mask" in content:
        raise StoreError(f"{path}: has 'mask' beside 'mask_full', an older form; fetch the newer one of these features")
    _check(path, mask.dtype == torch.bool and mask.shape == (points,), f"mask_full ({points},) bool", mask)
    _check_rows(path, rows, int(mask.sum()), dim)
    return rows, mask.nonzero()[:, 0]


def _take(path: Path, content: Mapping[Any, Any], name: str) -> Tensor:
    if not isinstance(content.get(name), Tensor):
        raise StoreError(f"{path}: expected a tensor {name!r}, found {sorted(map(str, content))}; is it another file?")
    tensor: Tensor = content[name]
    return tensor


def _check_rows(path: Path, rows: Tensor, count: int, dim: int | None) -> None:
    fits = rows.ndim == 2 and rows.is_floating_point() and len(rows) == count and dim in (None, rows.shape[1])
    _check(path, fits, f"embeddings ({count}, {dim or 'any'}) of floats", rows)
    _check(path, bool(rows.isfinite().all()), "finite embeddings, no NaN", rows)


def _check(path: Path, fits: bool, expected: str, found: Tensor) -> None:
    if not fits:
        raise StoreError(
            f"{path}: expected {expected}, found {tuple(found.shape)} {found.dtype}; take the points, in their order, "
            "and the 2D model that the file was made with, or make it again"
        )
