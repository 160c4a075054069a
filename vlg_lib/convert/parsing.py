"""What readers of foreign formats share: numbers from text and JSON, cameras
and files, with errors that name the place.
"""

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from vlg_lib.data.files import files_in, read_text
from vlg_lib.data.frames import COLOR_SUFFIXES, LayoutError, natural_key
from vlg_lib.scene import Camera


def text_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number (from 1) and words of each line that is neither empty nor a
    comment ("#"); LayoutError where there is no such file.
    """
    if not path.is_file():
        raise LayoutError(f"{path}: no such file")
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.split()


def floats_of(
    path: Path, number: int, words: Sequence[str], count: int
) -> list[float]:
    """``count`` numbers of a line, which may be NaN or infinite; LayoutError
    naming file and line where they are not there.

    >>> floats_of(Path("traj.txt"), 7, ["1", "-2.5"], 2)
    [1.0, -2.5]
    """
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise LayoutError(f"{path}, line {number}: {error}") from error
    if len(values) != count:
        raise LayoutError(
            f"{path}, line {number}: expected {count} numbers, found"
            f" {len(values)}"
        )
    return values


TimedRow = tuple[int, float, list[str]]
"""Line number, time stamp in seconds, and the other words of a line."""


def stamped_rows(path: Path, words: int) -> list[TimedRow]:
    """Lines that begin with a time stamp, in the order of time; LayoutError
    where one has not ``words`` words. A last line with fewer was cut with its
    file, and is left out.
    """
    lines: list[TimedRow] = []
    rows = list(text_rows(path))
    if len(rows) > 1 and len(rows[-1][1]) < words:
        del rows[-1]
    for number, line in rows:
        if len(line) != words:
            raise LayoutError(
                f"{path}, line {number}: expected {words} words, found"
                f" {len(line)}"
            )
        (time,) = floats_of(path, number, line[:1], 1)
        if not math.isfinite(time):
            raise LayoutError(
                f"{path}, line {number}: expected a time stamp, found {line[0]}"
            )
        lines.append((number, time, line[1:]))
    return sorted(lines, key=lambda entry: entry[1])


def nearest_in_time(
    lines: Sequence[TimedRow], time: float, within: float
) -> TimedRow | None:
    """The line of the nearest time, at most ``within`` seconds away; ``lines``
    are in the order of time.
    """
    place = bisect_left(lines, time, key=lambda entry: entry[1])
    near = min(
        lines[max(0, place - 1) : place + 1],
        key=lambda entry: abs(entry[1] - time),
        default=None,
    )
    return near if near is not None and abs(near[1] - time) <= within else None


def json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; LayoutError where the file is missing,
    not JSON, or holds something else.
    """
    if not path.is_file():
        raise LayoutError(f"{path}: no such file")
    try:
        content = json.loads(read_text(path))
    # a number of thousands of digits is a ValueError of another kind
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise LayoutError(
            f"{path}: expected an object {{...}}, found"
            f" {type(content).__name__}"
        )
    return content


def numbers_of(path: Path, what: str, value: Any, count: int) -> list[float]:
    """``count`` numbers of a JSON file, nested lists flattened; LayoutError
    naming file and ``what`` where they are not there, or one is too large for a
    float.

    >>> numbers_of(Path("a.json"), "K", [[1, 2.5], [3, 4]], 4)
    [1.0, 2.5, 3.0, 4.0]
    """
    flat: list[Any] = [value]
    while any(isinstance(entry, list) for entry in flat):
        flat = [
            part
            for entry in flat
            for part in (entry if isinstance(entry, list) else [entry])
        ]
    if len(flat) != count or any(
        isinstance(entry, bool) or not isinstance(entry, int | float)
        for entry in flat
    ):
        raise LayoutError(
            f"{path}: expected {what} to be {count} number{'s' * (count > 1)},"
            f" found {str(value)[:60]}"
        )
    try:
        return [float(entry) for entry in flat]
    except OverflowError as error:
        raise LayoutError(
            f"{path}: expected {what} to be numbers below 1e308, found a"
            f" larger one: {str(value)[:60]}"
        ) from error


def number_of(path: Path, what: str, value: Any) -> float:
    """One number of a JSON file; errors as in :func:`numbers_of`.

    >>> number_of(Path("a.json"), "w", 640)
    640.0
    """
    return numbers_of(path, what, value, 1)[0]


def camera_of(
    path: Path,
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    width: float,
    height: float,
) -> Camera:
    """A camera, intrinsics in pixels with pixel centres at integers;
    LayoutError naming the file where the numbers make none.

    >>> camera_of(Path("K.txt"), 50.0, 50.0, 31.5, 23.5, 64.0, 48.0).width
    64
    """
    try:
        return Camera(fx, fy, cx, cy, int(width), int(height))
    except (ValueError, OverflowError) as error:
        raise LayoutError(f"{path}: {error}") from error


def camera_of_matrix(
    path: Path, matrix: Float[Tensor, "rows columns"], size: tuple[int, int]
) -> Camera:
    """The camera of a 3x3 or 4x4 intrinsics matrix and images of ``size``
    (height, width); LayoutError naming the file where it makes none.

    >>> import torch
    >>> k = torch.tensor([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]])
    >>> camera_of_matrix(Path("K.txt"), k, (48, 64)).cx
    31.5
    """
    height, width = size
    try:
        return Camera.from_matrix(matrix, width, height)
    except ValueError as error:
        raise LayoutError(f"{path}: {error}") from error


def images_in(
    folder: Path, suffixes: Sequence[str] = COLOR_SUFFIXES
) -> list[Path]:
    """The images of a folder in natural order of their names; LayoutError where
    there is none.
    """
    found = files_in(folder, suffixes)
    if not found:
        raise LayoutError(
            f"{folder}: expected images ({', '.join(suffixes)}), found none"
        )
    return sorted(found, key=lambda path: natural_key(path.name))


def number_in_name(path: Path) -> int | None:
    """The number that a file's name ends in, which says which pose is its;
    None where there is none.

    >>> number_in_name(Path("frame000012.jpg")), number_in_name(Path("a.jpg"))
    (12, None)
    """
    found = re.search(r"[0-9]{1,18}$", path.stem)
    return int(found[0]) if found else None


def numbered(paths: Sequence[Path], count: int) -> dict[int, Path] | None:
    """The images of a scan by the index of their pose, of ``count`` poses: by
    the numbers in their names, where these can be indices (what has no number
    is no image of the scan); else in order, where there are as many; None where
    neither tells which is whose.

    >>> gap = [Path("0.jpg"), Path("2.jpg")]
    >>> list(numbered(gap, 3)), list(numbered(gap, 2)), numbered(gap, 1)
    ([0, 2], [0, 1], None)
    """
    numbers = [(number_in_name(path), path) for path in paths]
    known = {number: path for number, path in numbers if number is not None}
    several = sum(number is not None for number, _ in numbers) > len(known)
    if not several and 2 * len(known) > len(paths) and max(known) < count:
        return known
    return dict(enumerate(paths)) if len(paths) == count else None


def order_remark(by_pose: dict[int, Path], place: Path) -> str:
    """What to say of images that :func:`numbered` took in order, though their
    names have other numbers; "" where there is nothing to say.

    >>> order_remark({0: Path("0.jpg"), 1: Path("2.jpg")}, Path("rgb"))
    'rgb: 2.jpg is taken for number 1, in order; is no pose missing?'
    >>> order_remark({0: Path("1.jpg"), 1: Path("2.jpg")}, Path("rgb"))
    ''
    """
    apart = {
        path: (number - index, index)
        for index, path in by_pose.items()
        if (number := number_in_name(path)) is not None
    }
    if len({by for by, _ in apart.values()}) < 2:
        return ""
    path, (_, index) = next(
        (path, told) for path, told in apart.items() if told[0]
    )
    return (
        f"{place}: {path.name} is taken for number {index}, in order; is no"
        " pose missing?"
    )


def file_inside(folder: Path, name: str, file: Path) -> Path:
    r"""``folder / name``, backslashes taken as slashes; LayoutError where the
    name leads out of the folder.

    >>> file_inside(Path("scan"), "images\\1.png", Path("a.json")).parts
    ('scan', 'images', '1.png')
    """
    name = name.replace("\\", "/")
    path = folder / name
    if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise LayoutError(
            f"{file}: expected names of files in {folder}, found {name!r}"
        )
    return path
