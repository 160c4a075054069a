"""Point clouds of any origin from PLY files, read tolerantly, and labelled
clouds written back row by row.

:mod:`vlg_lib.data.ply` is strict, for the library's own files. Here colours may
be bytes, 16-bit numbers or floats, coordinates of any type, units and axes, and
single points may be broken: they are counted, and keep their row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor

from vlg_lib.classes import IGNORE_LABEL, UNLABELLED_COLOR, ClassSet
from vlg_lib.data.ply import (
    AXES,
    CHANNELS,
    PlyError,
    label_comments,
    packed_colors,
    read_columns,
    splats_hint,
    write_columns,
)
from vlg_lib.geometry.upright import up_rotation
from vlg_lib.geometry.voxels import LIMIT

COLOR_NAMES = (
    CHANNELS,
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
GREY = 128

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
"""Metres in each unit."""


@dataclass(frozen=True)
class CloudFile:
    """What a file says of its N points, in its own units and axes.

    ``axes``: the columns x, y, z, of the file's types, memory mapped where the
    file allows. ``colors``: (N, 3) uint8, zero where not usable. ``usable``:
    (N,) whether a point's coordinates and colours are finite; ``skipped``: how
    many are not, by reason. ``color_scale``: how the colours were understood.
    ``notes``: what looks odd.
    """

    axes: tuple[np.ndarray, ...]
    colors: UInt8[Tensor, "N 3"]
    usable: Bool[Tensor, " N"]
    skipped: dict[str, int]
    color_scale: str
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.colors)

    def positions(self) -> Float[Tensor, "N 3"]:
        """The coordinates as float64, which those of a national grid need."""
        return torch.from_numpy(
            np.stack([axis.astype(np.float64) for axis in self.axes], axis=1)
        )


def read_cloud(path: Path, *, use_color: bool = True) -> CloudFile:
    """Read the points of a PLY file, binary or text, with colours of any scale;
    without ``use_color`` all are grey.

    PlyError where the file is missing, empty, cut or not PLY, has no points or
    none with finite numbers, or has no colours, or such of no known scale (see
    :func:`as_bytes`).
    """
    vertices, names = read_columns(path)
    if not names.issuperset(AXES):
        missing = " ".join(name for name in AXES if name not in names)
        raise PlyError(f"{path}: expected points (x y z), found no {missing}")
    axes = tuple(vertices[name] for name in AXES)
    finite = np.logical_and.reduce([np.isfinite(axis) for axis in axes])
    skipped = {"coordinate not finite": int((~finite).sum())}
    if use_color:
        found = next(
            (
                channels
                for channels in COLOR_NAMES
                if names.issuperset(channels)
            ),
            None,
        )
        packed = packed_colors(vertices, names) if found is None else None
        if found is None and packed is None:
            if hint := splats_hint(names):
                raise PlyError(f"{path}: expected colours, found none{hint}")
            raise PlyError(
                f"{path}: expected colours (red green blue), found none; the"
                " network was trained with colours: scan with colour, or take"
                " mid-grey for all points and expect worse labels (--no-color)"
            )
        values = (
            packed
            if packed is not None
            else np.stack([vertices[name] for name in found or ()], axis=1)
        )
        colored = np.isfinite(values).all(axis=1)
        skipped["colour not finite"] = int((finite & ~colored).sum())
        usable = finite & colored
    else:
        values, usable = np.full((len(finite), 3), GREY, np.uint8), finite
    if not usable.any():
        raise PlyError(
            f"{path}: expected points with finite coordinates and colours,"
            f" found none among {len(usable)}"
        )
    colors = np.zeros(values.shape, np.uint8)
    try:
        colors[usable], scale, notes = as_bytes(values[usable])
    except ValueError as error:
        raise PlyError(f"{path}: {error}") from error
    if not use_color:
        scale = "none: mid-grey for all points"
        notes = ["no colours were used: the labels rest on shape alone"]
    counted = {reason: count for reason, count in skipped.items() if count}
    return CloudFile(
        axes,
        torch.from_numpy(colors),
        torch.from_numpy(usable),
        counted,
        scale,
        notes,
    )


def as_bytes(
    colors: Shaped[np.ndarray, "N 3"],
) -> tuple[Shaped[np.ndarray, "N 3"], str, list[str]]:
    """Finite colours of any scale as uint8: (colours, their scale, oddities).

    Bytes stay as they are. Floats up to 1 are shares of full brightness; other
    numbers up to 255 are bytes, and up to 65535 are 16-bit. ValueError for
    negative colours and for larger ones.

    >>> as_bytes(np.array([[0.0, 0.5, 1.0]]))[:2]
    (array([[  0, 128, 255]], dtype=uint8), 'floats 0-1')
    >>> as_bytes(np.array([[0, 514, 65535]], np.uint16))[:2]
    (array([[  0,   2, 255]], dtype=uint8), '16-bit')
    """
    lowest, highest = float(colors.min()), float(colors.max())
    if lowest < -0.001 or highest > 65535:
        raise ValueError(
            f"expected colours in 0-1, 0-255 or 0-65535, found {lowest:g} to"
            f" {highest:g}; convert them to 0-255"
        )
    notes = (
        ["all points have the same colour"]
        if len(colors) > 1 and bool((colors == colors[0]).all())
        else []
    )
    if colors.dtype == np.uint8:
        if len(colors) > 1 and highest == 1:
            notes.append(
                "colours are 0 or 1 of 255: they were probably lost in a"
                " conversion from floats"
            )
        return colors, "bytes 0-255", notes
    if colors.dtype.kind == "f" and highest <= 1.001:
        scale, factor = "floats 0-1", 255.0
    elif highest <= 255:
        whole = colors.dtype.kind in "iu"
        scale = "whole numbers 0-255" if whole else "floats 0-255"
        factor = 1.0
        if whole:
            notes.append(
                f"colours have more than 8 bits but reach only {highest:g}:"
                " taken as 0-255"
            )
    else:
        scale, factor = "16-bit", 1 / 257
    scaled = np.rint(np.clip(colors * factor, 0, 255)).astype(np.uint8)
    return scaled, scale, notes


def metric_points(
    file: CloudFile, units: str | None, up: str, voxel_size: float
) -> tuple[Float[Tensor, "M 3"], Bool[Tensor, " N"], list[float], list[str]]:
    """The usable points in metres, z up, near the origin: (points float32,
    which of the N rows, size, notes).

    The cloud's middle is moved to the origin, which changes no prediction and
    keeps float32 exact enough. Points farther from it than the voxel grid
    reaches are left out. ``size``: of the cloud without its outermost
    hundredths, in metres. ValueError where it contradicts the units that nobody
    gave.
    """
    positions = file.positions()[file.usable] @ up_rotation(up)[:3, :3].T
    low, middle, high = torch.from_numpy(
        np.percentile(positions.numpy(), [1, 50, 99], axis=0)
    )
    factor = units_factor((high - low).tolist(), units)
    positions = positions * factor
    middle = middle * factor
    size = ((high - low) * factor).tolist()
    near = ((positions - middle).abs() < LIMIT // 2 * voxel_size).all(dim=1)
    usable = file.usable.clone()
    usable[file.usable] = near
    small = len(positions) > 1 and max(size) < 0.3
    notes = (
        [f"the cloud is only {max(size):g} m wide: are the units right?"]
        if small
        else []
    )
    return (positions[near] - middle).float(), usable, size, notes


def units_factor(size: Sequence[float], units: str | None) -> float:
    """Metres in a unit of a cloud whose sides are ``size``; None means metres,
    where that is likely, or a ValueError.

    >>> units_factor([420.0, 310.0, 250.0], "cm")
    0.01
    """
    if units is not None:
        return UNITS[units]
    if max(size) > 150:
        name, guess = (
            ("millimetres", "mm") if max(size) > 1000 else ("centimetres", "cm")
        )
        sides = " x ".join(f"{side:.4g}" for side in size)
        raise ValueError(
            f"the cloud measures {sides} units, which looks like {name}: pass"
            f" --units {guess} (or --units m if it is that large)"
        )
    return 1.0


def write_labelled(
    path: Path,
    axes: tuple[np.ndarray, ...],
    labels: Int64[Tensor, " N"],
    scores: Float[Tensor, " N"],
    class_set: ClassSet,
) -> None:
    """Write x y z as they came, the colour of each point's class, ``label``
    (int32) and ``score`` (float32); atomic.

    The names of the classes stand in the header as comments, ``label 0 wall``
    and so on; -1 is no label. ValueError where a label names no class, or the
    lengths differ; then nothing is written.
    """
    if (labels.ndim, scores.ndim) != (1, 1) or (
        labels.dtype != torch.int64 or not scores.is_floating_point()
    ):
        raise ValueError(
            f"{path}: expected labels (N,) int64 and scores (N,) float, found"
            f" {tuple(labels.shape)} of {labels.dtype} and"
            f" {tuple(scores.shape)} of {scores.dtype}"
        )
    lengths = {*map(len, axes), len(labels), len(scores)}
    if len(lengths) > 1 or not len(labels):
        raise ValueError(
            f"{path}: expected x, y, z, a label and a score for each point,"
            f" found {sorted(lengths)} of them"
        )
    if not (
        int(labels.min()) >= IGNORE_LABEL and int(labels.max()) < len(class_set)
    ):
        raise ValueError(
            f"{path}: expected labels from {IGNORE_LABEL} (none) to"
            f" {len(class_set) - 1}, found {int(labels.min())} to"
            f" {int(labels.max())}"
        )
    palette = np.array([UNLABELLED_COLOR, *class_set.palette], np.uint8)[
        labels.numpy() - IGNORE_LABEL
    ]
    columns = dict(zip(AXES, axes, strict=True)) | dict(
        zip(CHANNELS, palette.T, strict=True)
    )
    columns |= {
        "label": labels.numpy().astype(np.int32),
        "score": scores.float().numpy(),
    }
    write_columns(path, columns, label_comments(class_set))
