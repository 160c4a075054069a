"""Read the text files of S3DIS: one point a line, ``x y z red green blue``,
hundreds of megabytes in all.

Almost every line looks like ``-15.609 39.505 2.214 71 61 55``. Blocks of such
lines are parsed by arithmetic on whole arrays: the last digits of all numbers
of a column are gathered at once, then the digits before these, and so on. A
block with anything else in it is read line by line, so that other spellings are
understood, the known faults are fixed (a digit or a blank that lost a bit and
became a control character, as in Area_3/hallway_2 and Area_5/hallway_6; tabs,
several blanks, commas) and an error names its line.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

_BLOCK = 1 << 17
_LONGEST_LINE = 4096
_WIDEST = 8  # bytes of a usual number without its sign
_FARTHEST = 1e5  # metres: no building is larger, and float32 keeps centimetres
_CONTROLS = bytes([*range(9), *range(14, 32), 127])
_TO_BLANKS = bytes.maketrans(
    _CONTROLS + b",;\t\r\x0b\x0c", b" " * (len(_CONTROLS) + 6)
)
# The bit that the damaged bytes of the data set lost: 0x16 was "6", 0x10 was
# "0", 0x0e was a dot, 0x00 a blank.
_LOST_BIT = 0x20
_DAMAGED = bytes(
    byte for byte in _CONTROLS if byte | _LOST_BIT in b" .0123456789"
)
_RESTORED = bytes.maketrans(
    _DAMAGED, bytes(byte | _LOST_BIT for byte in _DAMAGED)
)


class TextError(ValueError):
    """A text file of S3DIS is missing or holds a line that is no point; the
    message names file, line and fix.
    """


def read_text(
    path: Path,
) -> tuple[Float[Tensor, "N 3"], UInt8[Tensor, "N 3"], int]:
    """(points (N, 3) float32 metres, colours (N, 3) uint8, how many lines had
    to be fixed) of a text file.

    TextError where the file is missing or empty, or a line is not three
    coordinates and three colours from 0 to 255.
    """
    if not path.is_file():
        raise TextError(f"{path}: no such file")
    points, colors, line, fixed = [], [], 1, 0
    for block in _blocks(path):
        parsed = _parse_fast(block)
        if parsed is not None:
            line += len(parsed[0])
        else:
            parsed, fixes = _parse_lines(path, block, line)
            fixed += fixes
            line += block.count(b"\n")
        points.append(parsed[0])
        colors.append(parsed[1])
    if sum(map(len, points)) == 0:
        raise TextError(
            f"{path}: expected lines 'x y z red green blue', found none; unpack"
            " the data set again"
        )
    return (
        torch.from_numpy(np.concatenate(points)),
        torch.from_numpy(np.concatenate(colors)),
        fixed,
    )


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in pieces of whole lines."""
    rest = b""
    with path.open("rb") as file:
        while piece := file.read(_BLOCK):
            whole, newline, last = piece.rpartition(b"\n")
            if newline:
                yield rest + whole + newline
                rest = last
            else:
                rest += last
            if len(rest) > _LONGEST_LINE:
                raise TextError(
                    f"{path}: a line of more than {_LONGEST_LINE} bytes; this"
                    " is no text file of S3DIS"
                )
    if rest:
        yield rest + b"\n"


def _parse_fast(block: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Points and colours of a block of lines of the usual form; None where any
    line has another.
    """
    padded = np.frombuffer(b"0" * _WIDEST + block, np.uint8)
    text = padded[_WIDEST:]
    ends = np.flatnonzero(text <= ord(" "))
    lines = len(ends) // 6
    if len(ends) != 6 * lines:
        return None
    # column after column: contiguous arithmetic is much faster
    at = np.ascontiguousarray(ends.reshape(lines, 6).T)
    separators = text.take(at)
    if (
        np.count_nonzero(separators[:5] == ord(" ")) != 5 * lines
        or (separators[5] != ord("\n")).any()
    ):
        return None
    starts = np.zeros_like(at)
    starts[1:], starts[0, 1:] = at[:5] + 1, at[5, :-1] + 1
    lengths = np.minimum(at - starts, 99).astype(np.uint8)
    negative = text.take(starts[:3]) == ord("-")
    lengths[:3] -= negative
    dots = padded[_WIDEST - 4 :].take(at[:3]) == ord(".")
    thousandths = _numbers(
        padded, at[:3], lengths[:3] - np.uint8(1), (1, 2, 3, 5, 6, 7, 8), 4
    )
    colors = _numbers(padded, at[3:], lengths[3:], (1, 2, 3), 1)
    if (
        thousandths is None
        or colors is None
        or not dots.all()
        or colors.max(initial=0) > 255
    ):
        return None
    # seven digits are exact in float32, so the quotient is rounded once
    metres = thousandths / np.float32(1000)
    np.multiply(metres, 1 - 2 * negative.astype(np.float32), out=metres)
    return np.ascontiguousarray(metres.T), np.ascontiguousarray(
        colors.T.astype(np.uint8)
    )


def _numbers(
    padded: np.ndarray,
    at: np.ndarray,
    digits: np.ndarray,
    places: tuple[int, ...],
    least: int,
) -> np.ndarray | None:
    """The whole numbers, float32, that end at ``at``; None where a byte is no
    digit, or there are too many or too few.

    ``digits``: how many each has, from ``least`` to as many as ``places``,
    which says how far before the end the ones, the tens, the hundreds stand.
    Neighbouring digits are joined into numbers below 100 while they are bytes.
    """
    if digits.min(initial=least) < least or digits.max(initial=least) > len(
        places
    ):
        return None
    planes = np.zeros((len(places) + len(places) % 2, *at.shape), np.uint8)
    for plane, place in zip(planes, places, strict=False):
        # clip: without a copy; all are inside
        padded[_WIDEST - place :].take(at, out=plane, mode="clip")
    # what is no digit becomes more than 9
    planes[: len(places)] -= np.uint8(ord("0"))
    for power in range(least, len(places)):
        planes[power] *= (digits > power).view(np.uint8)
    if planes.max(initial=0) > 9:
        return None
    pairs = planes[::2] + planes[1::2] * np.uint8(10)
    value = pairs[0].astype(np.float32)
    for power in range(1, len(pairs)):
        value += pairs[power].astype(np.float32) * np.float32(100**power)
    return value


def _parse_lines(
    path: Path, block: bytes, first: int
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Points, colours and the number of fixed lines of a block, line by line;
    ``first``: the number of its first.
    """
    points, colors, fixed = [], [], 0
    for number, line in enumerate(block.split(b"\n")[:-1], start=first):
        if not line.translate(_TO_BLANKS).split():
            continue
        point, color = _understood(line)
        if point is None:
            raise TextError(
                f"{path}, line {number}: expected 'x y z red green blue' in"
                f" metres and 0-255, found {line[:80]!r}; correct this line or"
                " unpack the data set again"
            )
        points.append(point)
        colors.append(color)
        fixed += any(byte in _CONTROLS for byte in line)
    return (
        np.array(points, np.float32).reshape(-1, 3),
        np.array(colors, np.uint8).reshape(-1, 3),
    ), fixed


def _understood(line: bytes) -> tuple[list[float] | None, list[int]]:
    """Coordinates and colour of a line; None where it is no point.

    A control character is first taken for the digit, the dot or the blank that
    lost a bit; where that gives no point, for a blank between two numbers; and
    last for noise within one.
    """
    point: list[float] | None = None
    color: list[int] = []
    for words in (
        line.translate(_RESTORED).translate(_TO_BLANKS).split(),
        line.translate(_TO_BLANKS).split(),
        line.translate(_TO_BLANKS, _CONTROLS).split(),
    ):
        point, color = _point(words)
        if point is not None:
            break
    return point, color


def _point(words: list[bytes]) -> tuple[list[float] | None, list[int]]:
    """Coordinates and colour from six words; None where they are no point."""
    try:
        numbers = [float(word) for word in words if b"_" not in word]
    except ValueError:
        return None, []
    colors = numbers[3:]
    good = len(numbers) == 6 and all(
        abs(number) < _FARTHEST for number in numbers[:3]
    )
    if not good or not all(
        0 <= color <= 255 and color.is_integer() for color in colors
    ):
        return None, []
    return numbers[:3], [int(color) for color in colors]
