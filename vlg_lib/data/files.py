"""Files as other systems leave them: which ones of a folder count, what a name
in a list leads to, and text with or without a byte-order mark.
"""

from collections.abc import Sequence
from pathlib import Path

_FOREIGN = ("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r")


def is_foreign(path: Path) -> bool:
    """Whether a file was left by an operating system, and is no data: hidden
    ones (``._image.jpg`` and ``.DS_Store`` of macOS) and Windows' own.

    >>> [is_foreign(Path(name)) for name in ("._1.png", "Thumbs.db", "1.png")]
    [True, True, False]
    """
    return path.name.startswith(".") or path.name.lower() in _FOREIGN


def files_in(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The files of a folder whose names end in one of ``endings`` (in lower
    case; upper case counts too), sorted by name; none where there is no such
    folder.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as root:
    ...     for name in ("b.PNG", "a.png", "._a.png", "c.txt"):
    ...         _ = (Path(root) / name).write_bytes(b"")
    ...     [path.name for path in files_in(Path(root), [".png"])]
    ['a.png', 'b.PNG']
    """
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(tuple(endings)) and not is_foreign(path)
    )


def is_there(path: Path) -> bool:
    r"""Whether a file is there; False also for a name that can be none.

    >>> is_there(Path("x" * 5000)), is_there(Path("a\0b"))
    (False, False)
    """
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def existing(path: Path, endings: Sequence[str]) -> Path:
    """The file that a name stands for: itself; else the name with one of
    ``endings`` (in lower or upper case) put behind it or in place of its own;
    ``path`` where there is none of these.

    Programs leave endings out, change their case, or write ``1646.774`` for
    ``1646.774.png``.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as root:
    ...     _ = (Path(root) / "16.77.PNG").write_bytes(b"")
    ...     existing(Path(root) / "16.77", [".jpg", ".png"]).name
    '16.77.PNG'
    """
    if is_there(path):
        return path
    cases = [case for ending in endings for case in (ending, ending.upper())]
    beside = [path.with_name(path.name + ending) for ending in cases]
    if path.suffix.lower() in endings:
        beside += [path.with_suffix(ending) for ending in cases]
    return next((other for other in beside if is_there(other)), path)


def read_text(path: Path) -> str:
    r"""The text of a file, without a byte-order mark; UTF-16 with its mark is
    read too, and bytes that are no UTF-8 become a replacement character.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as root:
    ...     path = Path(root) / "K.txt"
    ...     _ = path.write_bytes(b"\xef\xbb\xbf1 2")
    ...     read_text(path)
    '1 2'
    """
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8-sig", "replace")
