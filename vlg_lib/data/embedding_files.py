"""Fused embeddings of points, P^2D, in files: with one a scene needs neither
images nor a 2D model for stages 2 and 3.

One safetensors file a scene holds ``embeddings`` (N, D) float16, zero where no
view saw the point, and ``view_counts`` (N,) int32.
:mod:`vlg_lib.convert.openscene_features` makes such files from those that
OpenScene published.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlg_lib.artifacts import StoreError, atomic_write, load_tensors
from vlg_lib.scene import PointEmbeddings


def read_fused(
    path: Path, points: int, dim: int | None = None
) -> PointEmbeddings:
    """The stored embeddings of a scene of ``points`` points; ``dim`` is what
    the text embeddings have, None for any.

    StoreError naming the file where it is missing, cut or foreign, of another
    scene or of another 2D model.
    """
    tensors = load_tensors(path)[0]
    rows, counts = (
        tensors.get(name, torch.empty(0))
        for name in ("embeddings", "view_counts")
    )
    check(path, rows, (points, dim), (torch.float16,))
    check(path, counts, (points,), (torch.int32,))
    return PointEmbeddings(rows.float(), counts)


def check(
    path: Path,
    found: Tensor,
    shape: tuple[int | None, ...],
    dtypes: tuple[torch.dtype, ...],
) -> None:
    """StoreError unless a tensor of a file has a shape (None: any length) and a
    dtype, and only finite numbers.
    """
    sizes = [
        have == want or want is None
        for have, want in zip(found.shape, shape, strict=False)
    ]
    if found.ndim != len(shape) or not all(sizes) or found.dtype not in dtypes:
        raise StoreError(
            f"{path}: expected {shape} of {dtypes[0]}, found"
            f" {tuple(found.shape)} of {found.dtype}; take the points, in their"
            " order, and the 2D model that the file was made with, or make it"
            " again"
        )
    if not bool(found.isfinite().all()):
        raise StoreError(
            f"{path}: found NaN or infinite numbers; make or fetch it again"
        )


def write_fused(
    path: Path,
    blocks: Iterable[Float[Tensor, "_ D"]],
    view_counts: Int[Tensor, " N"],
    dim: int,
    manifest: Mapping[str, Any] | None = None,
) -> None:
    """Write such a file, atomically, from blocks of rows that together are the
    N points' embeddings.

    No more than a block is in memory. ValueError where they are not (N,
    ``dim``) or do not fit into half precision.
    """
    _check_counts(path, view_counts)
    points = len(view_counts)
    ends = [2 * points * dim, 2 * points * dim + 4 * points]
    header = {
        "__metadata__": {
            "manifest": json.dumps(dict(manifest or {}), allow_nan=False)
        },
        "embeddings": {
            "dtype": "F16",
            "shape": [points, dim],
            "data_offsets": [0, ends[0]],
        },
        "view_counts": {
            "dtype": "I32",
            "shape": [points],
            "data_offsets": ends,
        },
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in blocks:
            half = block.half()
            if (
                block.is_complex()
                or half.ndim != 2
                or half.shape[1] != dim
                or not bool(half.isfinite().all())
            ):
                raise ValueError(
                    f"{path}: expected rows of {dim} numbers below 65,504,"
                    f" found {tuple(block.shape)} of {block.dtype}"
                )
            file.write(half.cpu().numpy().tobytes())
        if file.tell() != 8 + len(text) + ends[0]:
            raise ValueError(
                f"{path}: expected {points} rows, found another number of them"
            )
        file.write(view_counts.int().cpu().numpy().tobytes())


def _check_counts(path: Path, view_counts: Tensor) -> None:
    """ValueError unless these are whole numbers of 32 bits, one a point."""
    whole = not (
        view_counts.is_floating_point()
        or view_counts.is_complex()
        or view_counts.dtype == torch.bool
    )
    if view_counts.ndim != 1 or not whole:
        raise ValueError(
            f"{path}: expected view counts (N,) as whole numbers, found"
            f" {tuple(view_counts.shape)} of {view_counts.dtype}"
        )
    limits = torch.iinfo(torch.int32)
    if len(view_counts) and not (
        limits.min
        <= int(view_counts.min())
        <= int(view_counts.max())
        <= limits.max
    ):
        raise ValueError(f"{path}: view counts do not fit into 32 bits")
