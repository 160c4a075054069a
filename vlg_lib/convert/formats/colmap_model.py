"""The files of a COLMAP model, text and binary: cameras, images, points as they
stand there.

Text as COLMAP reads it: blank and comment lines anywhere, and also images
without their second line (of 2D points), as scripts write them. Binary:
little-endian, a count and then records, as COLMAP's page on output formats and
its ``reconstruction_io_binary.cc`` have it.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlg_lib.data.files import read_text
from vlg_lib.data.frames import LayoutError

AS_TEXT = "write the model as text (colmap model_converter --output_type TXT)"
"""What to do with a model that cannot be read."""

MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}
"""Names and numbers of parameters of the models of cameras, by their number in
a binary file (COLMAP 3.12, ``src/colmap/sensor/models.h``)."""

_MOST = 10**9


@dataclass(frozen=True)
class ModelCamera:
    """A camera of the model."""

    where: str
    """File, and line where there are lines."""
    model: str
    """"PINHOLE" and so on."""
    numbers: tuple[float, ...]
    """Width, height, and then its parameters."""


@dataclass(frozen=True)
class ModelImage:
    """An image of the model; ``error`` where its line is no such thing."""

    where: str
    """File, and line where there are lines."""
    numbers: tuple[float, ...]
    """qw qx qy qz tx ty tz, world to camera."""
    camera: int
    """The number of its camera."""
    name: str
    """Of its file."""
    error: str = ""
    """What is wrong with it; "" where nothing is."""


def read_cameras(model: Path) -> dict[int, ModelCamera]:
    """The cameras of the model in a folder by their numbers, from
    ``cameras.bin`` where it is there, as COLMAP prefers it, else
    ``cameras.txt``; LayoutError where the file is missing, cut or foreign.
    """
    path = model / "cameras.bin"
    return _binary_cameras(path) if path.is_file() else _text_cameras(model)


def read_images(model: Path) -> Iterator[ModelImage]:
    """The images of the model in a folder, as :func:`read_cameras`."""
    path = model / "images.bin"
    return _binary_images(path) if path.is_file() else _text_images(model)


def read_points(model: Path) -> list[tuple[float, ...]]:
    """x, y, z, red, green, blue of the points, as :func:`read_cameras`."""
    path = model / "points3D.bin"
    return _binary_points(path) if path.is_file() else _text_points(model)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is neither blank nor a comment."""
    if not path.is_file():
        raise LayoutError(f"{path}: no such file; {AS_TEXT}")
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        line = line.strip()
        if line and not line.startswith("#"):
            yield number, line


def _floats(words: list[str]) -> tuple[float, ...] | None:
    """Words as numbers; None where one is none."""
    try:
        return tuple(float(word) for word in words)
    except ValueError:
        return None


def _text_cameras(model: Path) -> dict[int, ModelCamera]:
    path = model / "cameras.txt"
    cameras = {}
    for number, line in _lines(path):
        key, *words = line.split()
        numbers = _floats(words[1:])
        if not key.isdigit() or numbers is None:
            raise LayoutError(
                f"{path}, line {number}: expected CAMERA_ID MODEL WIDTH HEIGHT"
                f" and parameters, found {line[:60]!r}"
            )
        where = f"{path}, line {number}"
        cameras[int(key[:18])] = ModelCamera(
            where, words[0] if words else "", numbers
        )
    return cameras


def _text_images(model: Path) -> Iterator[ModelImage]:
    path = model / "images.txt"
    awaits_points, empty = False, True
    for number, line in _lines(path):
        if awaits_points and _is_points(line):
            awaits_points = False
            continue
        yield _text_image(f"{path}, line {number}", line)
        awaits_points, empty = True, False
    if empty:
        raise LayoutError(f"{path}: expected lines of images, found none")


def _is_points(line: str) -> bool:
    """Whether a line after that of an image holds its 2D points: numbers only,
    three a point, though a cut line has fewer. An image has ten words or more.
    """
    words = line.split()
    return _floats(words) is not None and len(words) != 10


def _text_image(where: str, line: str) -> ModelImage:
    # the name is the rest of the line, with its blanks
    parts = re.split(r"[ \t]+", line, maxsplit=9)
    numbers = _floats(parts[1:8])
    error = ""
    if len(parts) < 10:
        error = f"expected 10 words, found {len(parts)}"
    elif numbers is None or not parts[8].isdigit():
        error = f"expected numbers of a pose and a camera, found {line[:60]!r}"
    if error:
        return ModelImage(where, (), -1, "", f"{where}: {error}")
    return ModelImage(where, numbers or (), int(parts[8][:18]), parts[9])


def _text_points(model: Path) -> list[tuple[float, ...]]:
    path = model / "points3D.txt"
    rows: list[tuple[float, ...]] = []
    for number, line in _lines(path):
        values = _floats(line.split()[1:7])
        if values is None or len(values) != 6:
            raise LayoutError(
                f"{path}, line {number}: expected POINT3D_ID X Y Z R G B,"
                f" found {line[:60]!r}"
            )
        rows.append(values)
    return rows


class _Reader:
    """Reads a binary file from its begin; LayoutError where it ends too
    soon.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.content, self.at = path, path.read_bytes(), 0

    def take(self, form: str) -> tuple[float, ...]:
        """The values of a form of ``struct``, little-endian."""
        end = self.at + struct.calcsize("<" + form)
        if end > len(self.content):
            raise self.error(f"it ends after {len(self.content)} bytes")
        values = struct.unpack_from("<" + form, self.content, self.at)
        self.at = end
        return values

    def count(self, size: int) -> int:
        """A count of records of ``size`` bytes each or more."""
        (count,) = self.take("Q")
        if count * size > len(self.content) - self.at:
            raise self.error(f"it ends before its {int(count)} records")
        return int(count)

    def word(self) -> str:
        """Text to the next zero byte."""
        end = self.content.find(b"\0", self.at)
        if end < 0:
            raise self.error("a name does not end")
        text = self.content[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return text

    def skip(self, size: int) -> None:
        """Go on by some bytes that are there."""
        if self.at + size > len(self.content):
            raise self.error(f"it ends after {len(self.content)} bytes")
        self.at += size

    def end(self, records: int) -> None:
        """Check that there were records, and nothing after them."""
        if not records:
            raise self.error("it has no record")
        if self.at != len(self.content):
            raise self.error(
                f"{len(self.content) - self.at} bytes follow its records"
            )

    def error(self, what: str) -> LayoutError:
        """The error that says what is wrong with the file."""
        return LayoutError(
            f"{self.path}: no whole binary model of COLMAP, {what}; copy it"
            f" again, or {AS_TEXT}"
        )


def _binary_cameras(path: Path) -> dict[int, ModelCamera]:
    reader, cameras = _Reader(path), {}
    for _ in range(reader.count(24)):
        key, kind, width, height = reader.take("IiQQ")
        if kind not in MODELS or width > _MOST or height > _MOST:
            raise reader.error(f"a camera of the unknown model {int(kind)}")
        name, count = MODELS[int(kind)]
        parameters = reader.take(f"{count}d")
        cameras[int(key)] = ModelCamera(
            str(path), name, (float(width), float(height), *parameters)
        )
    reader.end(len(cameras))
    return cameras


def _binary_images(path: Path) -> Iterator[ModelImage]:
    reader, images = _Reader(path), []
    for _ in range(reader.count(73)):
        _, *pose, camera = reader.take("I7dI")
        name = reader.word()
        # x, y and the number of a 3D point, for each 2D point
        reader.skip(24 * reader.count(24))
        images.append(ModelImage(str(path), tuple(pose), int(camera), name))
    reader.end(len(images))
    return iter(images)


def _binary_points(path: Path) -> list[tuple[float, ...]]:
    reader, rows = _Reader(path), []
    for _ in range(reader.count(51)):
        _, *row, _ = reader.take("Q3d3Bd")
        # the number of an image and of its 2D point, for each view
        reader.skip(8 * reader.count(8))
        rows.append(tuple(float(value) for value in row))
    reader.end(len(rows))
    return rows
