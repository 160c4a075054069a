"""Point clouds in PLY files: coordinates, colours and any further numbers a point carries."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from plyfile import PlyData, PlyElement, PlyParseError
from torch import Tensor

from vlg_lib.store import atomic_write

_AXES = ("x", "y", "z")
_CHANNELS = ("red", "green", "blue")


class PlyError(ValueError):
    """A PLY file is missing, cut short, or holds no coloured points; the message names the file and the mend."""


def write_points(
    path: Path,
    points: Float[Tensor, "N 3"],
    colors: UInt8[Tensor, "N 3"],
    labels: Shaped[Tensor, " N"] | None = None,
    **scalars: Shaped[Tensor, " N"],
) -> None:
    """Write a coloured point cloud as a binary little-endian PLY, whole or not at all.

    ``points``: (N, 3), any unit, stored as float32; ``colors``: (N, 3) uint8; ``labels``: (N,) whole numbers, stored as
    an int32 property ``label``; further keyword arguments: (N,) numbers, each a property of that name (float32 or
    int32). ValueError where a coordinate is not finite, a length differs, or a whole number needs more than 32 bits.
    """
    extra = {**({} if labels is None else {"label": labels}), **scalars}
    for name, values in extra.items():
        if len(values) != len(points):
            raise ValueError(f"{path}: {len(values)} values of {name!r} for {len(points)} points")
    if len(colors) != len(points):
        raise ValueError(f"{path}: {len(colors)} colours for {len(points)} points")
    if not bool(torch.isfinite(points).all()):
        raise ValueError(
            f"{path}: points must be finite; {int((~torch.isfinite(points)).any(1).sum())} of them are not"
        )
    columns = {name: points[:, i].numpy(force=True).astype("<f4") for i, name in enumerate(_AXES)}
    columns |= {name: colors[:, i].numpy(force=True) for i, name in enumerate(_CHANNELS)}
    columns |= {name: _as_property(path, name, values) for name, values in extra.items()}
    vertices = np.empty(len(points), dtype=[(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        vertices[name] = column
    with atomic_write(path) as file:
        PlyData([PlyElement.describe(vertices, "vertex")], text=False, byte_order="<").write(file)


def _as_property(path: Path, name: str, values: Tensor) -> np.ndarray:
    array = values.numpy(force=True)
    if array.dtype.kind == "f":
        return array.astype("<f4")
    limits = np.iinfo(np.int32)
    if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
        raise ValueError(f"{path}: values of {name!r} do not fit into 32 bits")
    return array.astype("<i4")


def read_points(path: Path) -> tuple[Float[Tensor, "N 3"], UInt8[Tensor, "N 3"], dict[str, Tensor]]:
    """Read a coloured point cloud: (points (N, 3) float32, colors (N, 3) uint8, further properties by name, each (N,)).

    Whole-number properties come back as int64 and others as float32. Other elements (the faces of a mesh) are left
    out. PlyError where the file is missing, cut short, not PLY, has no points, or has coordinates or colours that are
    missing, not finite, or of another type than expected.
    """
    if not path.is_file():
        raise PlyError(f"{path}: no such file")
    try:
        data = PlyData.read(str(path))  # mapped and copied below: read value by value, a room takes seconds
    except (PlyParseError, ValueError, OverflowError, MemoryError) as error:
        raise PlyError(f"{path}: not a whole PLY file ({error}); make the file again") from error
    if "vertex" not in data or len(data["vertex"].data) == 0:
        raise PlyError(f"{path}: expected points (an element 'vertex'), found none")
    vertices = data["vertex"].data
    names = [name for name in vertices.dtype.names or () if vertices[name].dtype.kind in "iuf"]
    missing = [name for name in (*_AXES, *_CHANNELS) if name not in names]
    if missing:
        raise PlyError(f"{path}: expected coloured points (x y z red green blue), found no {' '.join(missing)}")
    if any(vertices[name].dtype != np.uint8 for name in _CHANNELS):
        raise PlyError(f"{path}: expected colours as uchar (0-255), found {vertices['red'].dtype}; convert them")
    points = torch.from_numpy(np.stack([vertices[name] for name in _AXES], axis=1).astype(np.float32))
    if not bool(torch.isfinite(points).all()):
        raise PlyError(f"{path}: expected finite coordinates, found NaN or infinity; remove those points")
    colors = torch.from_numpy(np.stack([vertices[name] for name in _CHANNELS], axis=1))
    rest = [name for name in names if name not in (*_AXES, *_CHANNELS)]
    return points, colors, {name: _as_tensor(vertices[name]) for name in rest}


def _as_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))
