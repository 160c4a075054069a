"""Point clouds in PLY files: coordinates, colours and further numbers."""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from plyfile import PlyData, PlyElement, PlyParseError
from torch import Tensor

from vlg_lib.artifacts import atomic_write
from vlg_lib.classes import IGNORE_LABEL, ClassSet

AXES = ("x", "y", "z")
CHANNELS = ("red", "green", "blue")


class PlyError(ValueError):
    """A PLY file is missing, cut short, or holds no such points as expected;
    the message names it and the fix.
    """


def read_columns(path: Path) -> tuple[np.ndarray, set[str]]:
    """The points of any PLY file as a structured array, memory mapped where the
    file allows; the names of its numbers.

    PlyError where the file is missing, cut short, not PLY, or has no points.
    """
    if not path.is_file():
        found = "a folder, not a file" if path.is_dir() else "no such file"
        raise PlyError(f"{path}: {found}")
    try:
        # mapped and copied later: read value by value, a room takes seconds
        with _AsciiHeader(path) as file:
            data = PlyData.read(file)
    except (
        PlyParseError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise PlyError(
            f"{path}: not a whole PLY file ({error}); make the file again"
            " (MeshLab and CloudCompare write PLY)"
        ) from error
    if "vertex" not in data or len(data["vertex"].data) == 0:
        raise PlyError(
            f"{path}: expected points (an element 'vertex'), found none"
        )
    rows = data["vertex"].data
    names = rows.dtype.names or ()
    return rows, {name for name in names if rows[name].dtype.kind in "iuf"}


def write_columns(
    path: Path, columns: Mapping[str, np.ndarray], comments: Sequence[str] = ()
) -> None:
    """Write points, a column for each property, as a binary little-endian PLY,
    whole or not at all.
    """
    little_endian = [
        (name, column.dtype.newbyteorder("<"))
        for name, column in columns.items()
    ]
    element = PlyElement.describe(
        np.rec.fromarrays(list(columns.values()), dtype=little_endian), "vertex"
    )
    with atomic_write(path) as file:
        PlyData([element], text=False, byte_order="<", comments=comments).write(
            file
        )


def label_comments(class_set: ClassSet) -> list[str]:
    r"""The names of labels for the header of a PLY file, which takes ASCII
    only: other letters by their numbers, ``\u6905``, and a backslash twice.
    :func:`read_label_names` reads them.

    >>> from vlg_lib.classes import own_class_set
    >>> label_comments(own_class_set(["cup", "plate"]))
    ['label -1 none', 'label 0 cup', 'label 1 plate']
    """
    lines = [
        f"label {IGNORE_LABEL} none",
        *(f"label {i} {name}" for i, name in enumerate(class_set.names)),
    ]
    return [line.encode("unicode_escape").decode() for line in lines]


def read_label_names(path: Path) -> dict[int, str]:
    """The names of labels that the comments of a PLY file give, by number:
    ``comment label 0 wall`` names label 0. Empty where there are none.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as root:
    ...     path = Path(root) / "cloud.ply"
    ...     write_columns(path, {"x": np.zeros(1)}, ["label 0 wall"])
    ...     read_label_names(path)
    {0: 'wall'}
    """
    names: dict[int, str] = {}
    with path.open("rb") as file:
        for line in file:
            words = line.strip().split(maxsplit=3)
            if words[:1] == [b"end_header"]:
                break
            if words[:2] == [b"comment", b"label"] and len(words) == 4:
                number = words[2].removeprefix(b"-")
                if number.isdigit():
                    names[int(words[2])] = _unescaped(words[3])
    return names


def _unescaped(name: bytes) -> str:
    """A name as :func:`label_comments` wrote it, or as another program did."""
    for encoding in ("unicode_escape" if name.isascii() else "utf-8", "utf-8"):
        with suppress(UnicodeDecodeError):
            return name.decode(encoding)
    return name.decode("latin-1")


class _AsciiHeader(io.BufferedReader):
    """A PLY file in whose header other letters than those of ASCII, in a
    comment, read as "?": plyfile takes no others.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._length = super().read(2**16).find(b"end_header")
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        begin = self.tell()
        data = super().read(size)
        if begin < self._length:
            return bytes(byte if byte < 128 else ord("?") for byte in data)
        return data


def write_points(
    path: Path,
    points: Float[Tensor, "N 3"],
    colors: UInt8[Tensor, "N 3"],
    labels: Shaped[Tensor, " N"] | None = None,
    comments: Sequence[str] = (),
    **scalars: Shaped[Tensor, " N"],
) -> None:
    """Write a coloured point cloud as binary little-endian PLY, atomically.

    ``points``: (N, 3), any unit, stored as float32; ``colors``: (N, 3) uint8;
    ``labels``: (N,) whole numbers, stored as an int32 property ``label``;
    ``comments``: lines for the header (:func:`label_comments`); further keyword
    arguments: (N,) numbers, each a property of that name (float32 or int32).
    ValueError where a coordinate is not finite, a length differs, or a whole
    number needs more than 32 bits.

    >>> from tempfile import TemporaryDirectory
    >>> points, colors = torch.rand(5, 3), torch.zeros(5, 3).byte()
    >>> with TemporaryDirectory() as root:
    ...     path = Path(root) / "cloud.ply"
    ...     write_points(path, points, colors, labels=torch.arange(5))
    ...     read_points(path)[2]["label"]
    tensor([0, 1, 2, 3, 4])
    """
    extra = {**({} if labels is None else {"label": labels}), **scalars}
    for name, values in extra.items():
        if len(values) != len(points):
            raise ValueError(
                f"{path}: {len(values)} values of {name!r} for {len(points)}"
                " points"
            )
    if len(colors) != len(points):
        raise ValueError(
            f"{path}: {len(colors)} colours for {len(points)} points"
        )
    if not bool(torch.isfinite(points).all()):
        raise ValueError(
            f"{path}: points must be finite;"
            f" {int((~torch.isfinite(points)).any(1).sum())} of them are not"
        )
    columns = dict(
        zip(AXES, points.numpy(force=True).astype(np.float32).T, strict=True)
    )
    columns |= dict(zip(CHANNELS, colors.numpy(force=True).T, strict=True))
    write_columns(
        path,
        columns
        | {
            name: _as_property(path, name, values)
            for name, values in extra.items()
        },
        comments,
    )


def _as_property(path: Path, name: str, values: Tensor) -> np.ndarray:
    array = values.numpy(force=True)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    limits = np.iinfo(np.int32)
    if (
        array.size
        and not limits.min <= array.min() <= array.max() <= limits.max
    ):
        raise ValueError(f"{path}: values of {name!r} do not fit into 32 bits")
    return array.astype(np.int32)


def read_points(
    path: Path,
) -> tuple[Float[Tensor, "N 3"], UInt8[Tensor, "N 3"], dict[str, Tensor]]:
    """Read a coloured point cloud: (points (N, 3) float32, colors (N, 3) uint8,
    further properties by name, each (N,)).

    Whole-number properties come back as int64 and others as float32. Other
    elements (the faces of a mesh) are left out. PlyError where the file is
    missing, cut short, not PLY, has no points, or has coordinates or colours
    that are missing, not finite, or of another type than expected.

    >>> from tempfile import TemporaryDirectory
    >>> points, colors = torch.rand(5, 3), torch.zeros(5, 3).byte()
    >>> with TemporaryDirectory() as root:
    ...     write_points(Path(root) / "cloud.ply", points, colors)
    ...     found, _, further = read_points(Path(root) / "cloud.ply")
    >>> found.equal(points), further
    (True, {})
    """
    vertices, names = read_columns(path)
    missing = [name for name in (*AXES, *CHANNELS) if name not in names]
    if missing:
        raise PlyError(
            f"{path}: expected coloured points (x y z red green blue), found no"
            f" {' '.join(missing)}"
        )
    if any(vertices[name].dtype != np.uint8 for name in CHANNELS):
        raise PlyError(
            f"{path}: expected colours as uchar (0-255), found"
            f" {vertices['red'].dtype}; convert them"
        )
    points = torch.from_numpy(
        np.stack([vertices[name] for name in AXES], axis=1).astype(np.float32)
    )
    if not bool(torch.isfinite(points).all()):
        raise PlyError(
            f"{path}: expected finite coordinates, found NaN or infinity;"
            " remove those points"
        )
    colors = torch.from_numpy(
        np.stack([vertices[name] for name in CHANNELS], axis=1)
    )
    rest = [
        name
        for name in vertices.dtype.names or ()
        if name in names.difference(AXES, CHANNELS)
    ]
    return points, colors, {name: _as_tensor(vertices[name]) for name in rest}


def _as_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(
        array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    )
