"""Read the text files of S3DIS: one point a line, ``x y z red green blue``, hundreds of megabytes in all.

Almost every line looks like ``-15.609 39.505 2.214 71 61 55``. Blocks of such lines are parsed by arithmetic on whole
arrays: the eight bytes that end with a number are one 64-bit word, and all words turn into numbers at once. A block
with anything else in it is read line by line, so that other spellings are understood, the known faults are mended
(a control character between two numbers of Area_5/hallway_6, tabs, several blanks, commas) and an error names its line.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 17
_LONGEST_LINE = 4096
_FARTHEST = 1e5  # metres: no building is larger, and float32 keeps centimetres
_CONTROLS = bytes([*range(9), *range(14, 32), 127])
_TO_BLANKS = bytes.maketrans(_CONTROLS + b",;\t\r\x0b\x0c", b" " * (len(_CONTROLS) + 6))
_ZEROS, _CARRY, _HIGH = (np.uint64(int(byte * 8, 16)) for byte in ("30", "76", "80"))
_ALL = np.uint64(2**64 - 1)


class TextError(ValueError):
    """A text file of S3DIS is missing or holds a line that is no point; the message names file, line and mend."""


def read_text(path: Path) -> tuple[Tensor, Tensor, int]:
    """(points (N, 3) float32 metres, colours (N, 3) uint8, how many lines had to be mended) of a text file.

    TextError where the file is missing or empty, or a line is not three coordinates and three colours from 0 to 255.
    """
    if not path.is_file():
        raise TextError(f"{path}: no such file")
    points, colors, line, mended = [], [], 1, 0
    for block in _blocks(path):
        parsed = _parse_fast(block)
        if parsed is not None:
            line += len(parsed[0])
        else:
            parsed, mends = _parse_lines(path, block, line)
            mended += mends
            line += block.count(b"\n")
        points.append(parsed[0])
        colors.append(parsed[1])
    if sum(map(len, points)) == 0:
        raise TextError(f"{path}: expected lines 'x y z red green blue', found none; unpack the data set again")
    return torch.from_numpy(np.concatenate(points)), torch.from_numpy(np.concatenate(colors)), mended


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
                raise TextError(f"{path}: a line of more than {_LONGEST_LINE} bytes; this is no text file of S3DIS")
    if rest:
        yield rest + b"\n"


def _parse_fast(block: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Points and colours of a block of lines of the usual form; None where any line has another."""
    padded = b"0" * 8 + block
    text = np.frombuffer(padded, np.uint8)
    ends = np.flatnonzero(text <= ord(" "))
    separators = text[ends]
    newlines = np.count_nonzero(separators == ord("\n"))
    if len(ends) != 6 * newlines or np.count_nonzero(separators == ord(" ")) != 5 * newlines:
        return None
    if not (separators[5::6] == ord("\n")).all():
        return None
    at = np.ascontiguousarray(ends.reshape(-1, 6).T)  # column after column: contiguous arithmetic is ten times as fast
    starts = np.concatenate([at[5:], at[:5]]) + 1
    starts[0, 1:], starts[0, 0] = starts[0, :-1].copy(), 8
    # The word of a number is the eight bytes before its separator, as a little-endian integer: the last digit is its
    # highest byte, and what stands before the number is masked away.
    words = np.ndarray((len(text) - 7,), "<u8", padded, strides=(1,)).take(at - 8)
    coordinates = _coordinates(words[:3], at[:3] - starts[:3], text.take(starts[:3]) == ord("-"))
    colors = _colors(words[3:], at[3:] - starts[3:])
    if coordinates is None or colors is None:
        return None
    return np.ascontiguousarray(coordinates.T), np.ascontiguousarray(colors.T)


def _coordinates(words: np.ndarray, lengths: np.ndarray, negative: np.ndarray) -> np.ndarray | None:
    """Metres, float32, of numbers like -15.609; None where one is written otherwise."""
    digits = lengths - 1 - negative
    dots = (words & np.uint64(0xFF << 32)) == ord(".") << 32
    if not (dots.all() and digits.min(initial=4) >= 4 and lengths.max(initial=8) <= 8):
        return None
    without_dot = (words & np.uint64(0xFFFFFF << 40)) | ((words & np.uint64(0xFFFFFFFF)) << np.uint64(8))
    numbers = _numbers(without_dot, digits)
    if numbers is None:
        return None
    metres = numbers.astype(np.float32)  # seven digits are exact in float32, so the quotient is rounded once
    metres /= np.float32(1000)
    return np.negative(metres, out=metres, where=negative)


def _colors(words: np.ndarray, digits: np.ndarray) -> np.ndarray | None:
    """Colours, uint8, of numbers of one to three digits; None where one is written otherwise or above 255."""
    if not (digits.min(initial=1) >= 1 and digits.max(initial=3) <= 3):
        return None
    numbers = _numbers(words, digits)
    return None if numbers is None or numbers.max(initial=0) > 255 else numbers.astype(np.uint8)


def _numbers(words: np.ndarray, digits: np.ndarray) -> np.ndarray | None:
    """The decimal numbers written in the last ``digits`` bytes of words; None where a byte is no digit.

    Neighbouring digits are joined into numbers of two, four and eight digits, all in one word.
    """
    values = (words ^ _ZEROS) & (_ALL << (np.uint64(64) - (digits.astype(np.uint64) << np.uint64(3))))
    if ((values | (values + _CARRY)) & _HIGH).any():
        return None
    values = (values * np.uint64(10 << 8 | 1)) >> np.uint64(8)
    values = ((values & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(100 << 16 | 1)) >> np.uint64(16)
    return ((values & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(10_000 << 32 | 1)) >> np.uint64(32)


def _parse_lines(path: Path, block: bytes, first: int) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Points, colours and the number of mended lines of a block, line by line; ``first``: the number of its first."""
    points, colors, mended = [], [], 0
    for number, line in enumerate(block.split(b"\n")[:-1], start=first):
        blanks = line.translate(_TO_BLANKS)
        words = blanks.split()
        if not words:
            continue
        if len(words) != 6:  # a control character within a number, not between two
            words = line.translate(_TO_BLANKS, _CONTROLS).split()
        point, color = _point(words)
        if point is None:
            raise TextError(
                f"{path}, line {number}: expected 'x y z red green blue' in metres and 0-255, found {line[:80]!r}; "
                "correct this line or unpack the data set again"
            )
        points.append(point)
        colors.append(color)
        mended += any(byte in _CONTROLS for byte in line)
    return (np.array(points, np.float32).reshape(-1, 3), np.array(colors, np.uint8).reshape(-1, 3)), mended


def _point(words: list[bytes]) -> tuple[list[float] | None, list[int]]:
    """Coordinates and colour from six words; None where they are no point."""
    try:
        numbers = [float(word) for word in words if b"_" not in word]
    except ValueError:
        return None, []
    colors = numbers[3:]
    good = len(numbers) == 6 and all(abs(number) < _FARTHEST for number in numbers[:3])
    if not good or not all(0 <= color <= 255 and color.is_integer() for color in colors):
        return None, []
    return numbers[:3], [int(color) for color in colors]
