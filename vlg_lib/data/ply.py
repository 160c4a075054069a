"""Point clouds in PLY files: coordinates, colours and further numbers."""

import io
import itertools
import re
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
PACKED = ("rgba", "rgb")
"""One number for a whole colour, as PCL writes it."""

_MARK = b"\xef\xbb\xbf"
_LONGEST_HEADER = 2**16
_PROPERTY = re.compile(
    rb"[\r\n][ \t]*property[ \t]+(list[ \t]+\S+[ \t]+\S+|\S+)[ \t]+(\S+)"
)
_LOOKED_FOR = {
    name.encode()
    for name in (*AXES, *CHANNELS, *PACKED, "r", "g", "b", "label")
}
_KINDS = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
}
_WHOLE = re.compile(
    rb"([\r\n][ \t]*property[ \t]+)(%s)([ \t]+\S+)" % "|".join(_KINDS).encode()
)


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
        rows = _rows(path)
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
    if rows is None or len(rows) == 0:
        raise PlyError(
            f"{path}: expected points (an element 'vertex'), found none"
        )
    names = rows.dtype.names or ()
    return rows, {name for name in names if rows[name].dtype.kind in "iuf"}


def _rows(path: Path) -> np.ndarray | None:
    """The rows of the element ``vertex``; None where there is no such."""
    with PlyStream(path) as file:
        if not file.is_text:
            # mapped and copied later: read value by value, a room takes seconds
            return _vertices(PlyData.read(file))
        content = file.read()
    try:
        return _vertices(PlyData.read(io.BytesIO(content)))
    except PlyParseError:
        return _whole_numbers_as_floats(content)


def _vertices(data: PlyData) -> np.ndarray | None:
    return data["vertex"].data if "vertex" in data else None


def _whole_numbers_as_floats(content: bytes) -> np.ndarray | None:
    """The vertices of a text whose whole numbers are written "128.0"; the
    parser's error where they are none.
    """
    end = content.index(b"end_header")
    header = _WHOLE.sub(rb"\1double\3", content[:end])
    rows = _vertices(PlyData.read(io.BytesIO(header + content[end:])))
    if rows is None:
        return None
    kinds = {
        match[3].strip().decode(): np.dtype(_KINDS[match[2].decode()])
        for match in _WHOLE.finditer(_vertex_part(content[:end]))
    }
    columns = {}
    for name in rows.dtype.names or ():
        column, kind = rows[name], kinds.get(name)
        if kind is not None and column.dtype.kind == "f":
            limits = np.iinfo(kind)
            fits = (
                (column >= limits.min)
                & (column <= limits.max)
                & (column == np.rint(column))
            )
            if not fits.all():
                raise ValueError(
                    f"property {name!r} is declared as whole numbers from"
                    f" {limits.min} to {limits.max}, found"
                    f" {column[~fits][0]:g}"
                )
            column = column.astype(kind)
        columns[name] = column
    return np.rec.fromarrays(
        list(columns.values()),
        dtype=[(name, column.dtype) for name, column in columns.items()],
    )


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


def _vertex_part(header: bytes) -> bytes:
    """The lines of a header about the element ``vertex``."""
    parts = re.split(rb"[\r\n][ \t]*element[ \t]+(\S+)", header)
    return dict(zip(parts[1::2], parts[2::2], strict=True)).get(b"vertex", b"")


class PlyStream(io.BufferedReader):
    """A PLY file as the parser wants it, byte for byte at the same places, so
    that it can still be mapped.

    Files in use have what the parser refuses: other letters than those of ASCII
    in a comment (read as "?"), a byte-order mark before the first or after the
    last line of the header, two numbers of one name (the later one is renamed),
    and X for x (see :func:`_renamed`).
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        start = super().read(_LONGEST_HEADER)
        self._skip = len(_MARK) if start.startswith(_MARK) else 0
        end = start.find(b"end_header")
        body = end + len(b"end_header")
        while start[body : body + 1] in (b"\r", b"\n"):
            body += 1
        head = start[: max(0, body)] if end >= 0 else b""
        self.is_text = re.search(rb"[\r\n]format\s+ascii", head) is not None
        self._head = _renamed(
            bytes(byte if byte < 128 else ord("?") for byte in head)
        )
        if self.is_text and start.startswith(_MARK, body):
            self._head += b" " * len(_MARK)
        self.seek(self._skip)

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes, with the mended header in place of the file's."""
        begin = self.tell()
        data = super().read(size)
        if begin >= len(self._head):
            return data
        head = self._head[begin : begin + len(data)]
        return head + data[len(head) :]


def _renamed(header: bytes) -> bytes:
    """A header in which the numbers of an element have names of their own, at
    the same length: the second of two is renamed, and names that readers look
    for are lower case, unless there is such a one besides.
    """
    taken: set[bytes] = set()
    parts, at = [], 0
    lines = list(_PROPERTY.finditer(header))
    exact = {match[2] for match in lines}
    for match in lines:
        if b"element" in header[at : match.start()]:
            taken = set()
        name = match[2]
        if name.lower() in _LOOKED_FOR and name.lower() not in exact:
            name = name.lower()
        if name in taken:
            name = _other_name(name, taken)
        taken.add(name)
        parts += [header[at : match.start(2)], name]
        at = match.end(2)
    return b"".join([*parts, header[at:]])


def _other_name(name: bytes, taken: set[bytes]) -> bytes:
    """A name of the same length that is not taken."""
    for number in itertools.count(2):
        ending = str(number).encode()
        other = (
            name[: -len(ending)] + ending
            if len(ending) < len(name)
            else bytes([33 + number % 90]) * len(name)
        )
        if other not in taken or number > 1000:
            return other
    return name


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
    ValueError for all that :func:`read_points` would refuse or find changed: no
    point, a coordinate that is not finite, colours of another type, a length
    that differs, a whole number of more than 32 bits, labels that are not
    whole; then nothing is written.

    >>> from tempfile import TemporaryDirectory
    >>> points, colors = torch.rand(5, 3), torch.zeros(5, 3).byte()
    >>> with TemporaryDirectory() as root:
    ...     path = Path(root) / "cloud.ply"
    ...     write_points(path, points, colors, labels=torch.arange(5))
    ...     read_points(path)[2]["label"]
    tensor([0, 1, 2, 3, 4])
    """
    extra = {**({} if labels is None else {"label": labels}), **scalars}
    _check_points(path, points, colors)
    _check_header(path, extra, comments)
    for name, values in extra.items():
        if values.ndim != 1 or len(values) != len(points):
            raise ValueError(
                f"{path}: {len(values) if values.ndim else 0} values of"
                f" {name!r} for {len(points)} points"
            )
    columns = dict(zip(AXES, points.float().numpy(force=True).T, strict=True))
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


def _check_points(path: Path, points: Tensor, colors: Tensor) -> None:
    """ValueError where :func:`read_points` would refuse them, or find others
    than were given.
    """
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(
            f"{path}: expected points of shape (N, 3), one at least, found"
            f" {tuple(points.shape)}"
        )
    if points.is_complex() or points.dtype == torch.bool:
        raise ValueError(
            f"{path}: expected points as numbers, found {points.dtype}"
        )
    if len(colors) != len(points):
        raise ValueError(
            f"{path}: {len(colors)} colours for {len(points)} points"
        )
    if colors.dtype != torch.uint8 or colors.shape != points.shape:
        raise ValueError(
            f"{path}: expected colours of shape (N, 3), uint8 from 0 to 255,"
            f" found {tuple(colors.shape)} of {colors.dtype}{_to_bytes(colors)}"
        )
    finite = torch.isfinite(points.float())
    if not bool(finite.all()):
        raise ValueError(
            f"{path}: points must be finite in float32;"
            f" {int((~finite).any(1).sum())} of them are not"
        )


def _to_bytes(colors: Tensor) -> str:
    """How to turn colours of another type into bytes."""
    if colors.is_floating_point() and float(colors.nan_to_num().max()) <= 1.001:
        return "; give (colors * 255).round().byte()"
    if colors.is_floating_point():
        return "; give colors.round().clamp(0, 255).byte()"
    return (
        "; give vlg_lib.data.point_clouds.as_bytes(colors.numpy())[0] as a"
        " tensor"
    )


def _check_header(
    path: Path, extra: Mapping[str, Tensor], comments: Sequence[str]
) -> None:
    """ValueError where a name or a comment cannot stand in a header."""
    for name in extra:
        if not re.fullmatch(r"[!-~]+", name) or (
            name.lower().encode() in _LOOKED_FOR - {b"label"}
        ):
            raise ValueError(
                f"{path}: {name!r} cannot name a property beside {AXES} and"
                f" {CHANNELS}; take letters of ASCII without blanks"
            )
    for comment in comments:
        if not comment.isascii() or len(comment.splitlines()) > 1:
            raise ValueError(
                f"{path}: expected comments of one line in ASCII, found"
                f" {comment!r}; see label_comments"
            )


def _as_property(path: Path, name: str, values: Tensor) -> np.ndarray:
    if values.is_complex():
        raise ValueError(
            f"{path}: expected numbers of {name!r}, found {values.dtype}"
        )
    if values.is_floating_point():
        if name == "label":
            raise ValueError(
                f"{path}: expected labels as whole numbers, found"
                f" {values.dtype}; give labels.long()"
            )
        narrow = values.float()
        if not torch.equal(narrow.isinf(), values.isinf()):
            raise ValueError(
                f"{path}: values of {name!r} do not fit into float32"
            )
        return narrow.numpy(force=True)
    array = values.numpy(force=True)
    limits = np.iinfo(np.int32)
    if (
        array.size
        and not limits.min <= array.min() <= array.max() <= limits.max
    ):
        raise ValueError(f"{path}: values of {name!r} do not fit into 32 bits")
    return array.astype(np.int32)


def read_points(
    path: Path, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "N 3"], UInt8[Tensor, "N 3"], dict[str, Tensor]]:
    """Read a coloured point cloud: (points (N, 3) float32, colors (N, 3) uint8,
    further properties by name, each (N,)). ``dtype``: float64 for points that
    may be far from the origin, and are moved before they are stored.

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
    packed = packed_colors(vertices, names)
    found = {*names, *(CHANNELS if packed is not None else ())}
    missing = [name for name in (*AXES, *CHANNELS) if name not in found]
    if missing:
        raise PlyError(
            f"{path}: expected coloured points (x y z red green blue), found no"
            f" {' '.join(missing)}{splats_hint(names)}"
        )
    if packed is None and any(
        vertices[name].dtype != np.uint8 for name in CHANNELS
    ):
        raise PlyError(
            f"{path}: expected colours as uchar (0-255), found"
            f" {vertices['red'].dtype}; convert them"
        )
    points = torch.from_numpy(
        np.stack([vertices[name] for name in AXES], axis=1).astype(
            np.float64 if dtype == torch.float64 else np.float32
        )
    )
    if not bool(torch.isfinite(points).all()):
        raise PlyError(
            f"{path}: expected finite coordinates, found NaN or infinity;"
            " remove those points"
        )
    if packed is None:
        packed = np.stack([vertices[name] for name in CHANNELS], axis=1)
    colors = torch.from_numpy(packed)
    rest = [
        name
        for name in vertices.dtype.names or ()
        if name in names.difference(AXES, CHANNELS)
    ]
    return points, colors, {name: _as_tensor(vertices[name]) for name in rest}


def packed_colors(
    vertices: np.ndarray, names: set[str]
) -> UInt8[np.ndarray, "N 3"] | None:
    """The colours of points that have one 32-bit number for each, blue in its
    lowest byte, as PCL writes them (``uint rgba``, or ``float rgb``, whose bits
    are meant); None where there are none, or separate ones.

    >>> orange = np.array([(0xFFFF8000,)], [("rgba", "u4")])
    >>> packed_colors(orange, {"rgba"})
    array([[255, 128,   0]], dtype=uint8)
    """
    name = next((name for name in PACKED if name in names), None)
    if names.issuperset(CHANNELS) or name is None:
        return None
    column = np.ascontiguousarray(vertices[name])
    if column.dtype.itemsize != 4:
        return None
    bits = column.astype(column.dtype.newbyteorder("=")).view(np.uint32)
    return np.stack([bits >> 16, bits >> 8, bits], axis=1).astype(np.uint8)


def splats_hint(names: set[str]) -> str:
    """What to say of Gaussian splats, which are PLY files, too."""
    if "f_dc_0" not in names:
        return ""
    return (
        "; these are Gaussian splats (f_dc_0 ...), not measured points: export"
        " the point cloud that they were made from, or give each the colour 0.5"
        " + 0.2821 * f_dc and leave out those that are nearly transparent"
    )


def _as_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(
        array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    )
