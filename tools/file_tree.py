"""The file tree of the README, one line a file, from what each file says of
itself.

    python tools/file_tree.py            write it into README.md
    python tools/file_tree.py --check    exit 1 where it is out of date

A module's line is the first sentence of its docstring, a package's folder has
that of its ``__init__.py``, a page its heading, a chapter its title, a script
its first comment. What no file says of itself stands in ``NOTES``: folders
(``tools/``), single files, and patterns (``tests/test_*.py``), whose files
share one line.
"""

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from chapters import ROOT, read_notebook, text

WIDTH = 100
"""Characters of a line at most."""
COLUMN = 29
"""Where the text of a line begins, where its name is not longer."""
BEGIN, END = "<!-- tree: make sync -->", "<!-- /tree -->"

NOTES = {
    "notebooks/": "the chapters in order, without outputs",
    "notebooks/student/*": "the same without solutions, generated",
    "vlg_lib/": "the library: what a chapter explains, it imports from here",
    "vlg_lib/assets/*": "what the figures carry into a page, and the style",
    "vlg_lib/networks/weights/*": "the trained 3D networks, a card each",
    "vlg_lib/vision_language/weights/*": "the small 2D models, a card each",
    "vlg_lib/py.typed": "tells type checkers that the library has types",
    "book/": "the pages around the chapters",
    "book/_ext/*": "Sphinx extension: loader of the figures, vendored scripts",
    "book/_static/*": "style sheet, icon, the drawing of the pipeline",
    "book/_vendor/*": "MathJax, so that a page loads nothing from the network",
    "book/reference/*": "the library's functions, a page a room, generated",
    "book/_toc.yml": "the table of contents",
    "book/references.bib": "what is cited",
    "tools/": "commands that make, check and publish the book",
    "data_scripts/": "commands that make the data of this repository",
    "data_scripts/hololens.json": "the files of that scan, with their hashes",
    "benchmarks/": "one script a claim about speed or memory",
    "results/": "recorded figures with commit, hardware, versions and seeds",
    "results/*.json": "the figures; README.md has a line on each",
    "findings/": "surprises about outside libraries, one script each",
    "findings/*.sh": "guess and truth of each; README.md has a line on each",
    "tests/": "behaviour, oracles, bad input, the site in a browser",
    "tests/test_*.py": "one file a room, page, script or rule",
    "tests/assets/*": "axe, which checks the site's accessibility",
    "tests/golden/*": "numbers of MinkowskiEngine",
    "tests/robustness/": "kills, full disks, malformed files: make robustness",
    "tests/robustness/test_*.py": "quick versions, for make test",
    ".ci/run": "what continuous integration runs: make test",
    ".github/workflows/*": "the same on GitHub, and the site's publication",
    ".gitignore": "what Git leaves alone",
    "_config.yml": "Jupyter Book's settings",
    "requirements.in": "what the book needs, by name",
    "requirements.txt": "the same with every version pinned: make lock",
    "pyproject.toml": "the library's metadata, floors, linters",
    "Makefile": "every command of the house: make help",
    "README.md": "this page",
    "LICENSE": "MIT, for the code",
    "LICENSE-CONTENT": "CC-BY-4.0, for prose and figures",
    "CITATION.cff": "how to cite",
}
"""What is said of paths that do not say it themselves; the folders stand in the
order of the tree."""

LEFT_OUT = {"__pycache__", "build", "_build", "runs"}
"""Folders that hold nothing written by hand; those of tools begin with a
dot."""


def files() -> list[str]:
    """The repository's files, from Git; where there is no Git, what lies in
    the folders of the tree and beside them.
    """
    folders = [
        name for name in NOTES if name.count("/") == 1 and name[-1] == "/"
    ]
    there = [name for name in folders if (ROOT / name).is_dir()]
    known = _git("--cached")
    new = _git("--others", "--exclude-standard", "--", *there)
    if known is None or new is None:
        return sorted(_walk(there))
    return sorted(name for name in {*known, *new} if (ROOT / name).is_file())


def _git(*options: str) -> list[str] | None:
    """What ``git ls-files`` lists; None where it does not know this folder."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "ls-files", "-z", *options]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.split("\0")[:-1]


def _walk(folders: list[str]) -> set[str]:
    single = {name for name in NOTES if (ROOT / name).is_file()}
    found = {path for path in ROOT.iterdir() if path.suffix == ".md"}
    for folder in [*folders, ".github"]:
        found |= {path for path in (ROOT / folder).rglob("*") if path.is_file()}
    names = {path.relative_to(ROOT).as_posix() for path in found}
    return single | {
        name for name in names if not LEFT_OUT & set(name.split("/"))
    }


def summary(path: Path) -> str:
    """The first sentence of what a file says of itself, as Markdown, without
    its point; empty where it says nothing.
    """
    if path.suffix == ".py":
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf8")))
    elif path.suffix == ".md":
        told = _first(r"^# (.+)$", path.read_text(encoding="utf8"))
    elif path.suffix == ".ipynb":
        told = _first(r"^# (.+)$", text(read_notebook(path)["cells"][0]))
    elif path.suffix == ".sh":
        told = _first(r"^# (.+)$", path.read_text(encoding="utf8"))
    else:
        return ""
    paragraph = " ".join((told or "").split("\n\n")[0].split())
    sentence = re.split(r"\.(?:\s+(?=[A-Z])|$)", paragraph)[0].rstrip(":")
    plain = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", sentence)
    return plain.replace("``", "`")


def _first(pattern: str, content: str) -> str:
    found = re.search(pattern, content, re.MULTILINE)
    return found[1] if found else ""


def shorten(sentence: str, room: int) -> str:
    """A sentence cut back to a clause that fits into ``room`` characters."""
    if len(sentence) <= room:
        return sentence
    for marks in ("(", ":;", ","):
        ends = [
            place
            for place, mark in enumerate(sentence[: room + 1])
            if mark in marks and place >= 25
        ]
        if ends:
            return sentence[: ends[-1]].rstrip()
    return sentence[: room - 3].rsplit(" ", 1)[0] + " ..."


def line_of(name: str) -> str:
    """The path of the line that stands for a file: the pattern that it
    matches, the folder of a package for its ``__init__.py``, or the file.
    """
    for note in NOTES:
        if "*" in note and fnmatch(name, note):
            return note
    return name.removesuffix("__init__.py")


def entries(names: list[str]) -> dict[str, str]:
    """What is said of each line, and of the folders above it that have a line
    of their own, by path; a folder ends in a slash.
    """
    lines = {line_of(name) for name in names}
    folders = {
        f"{folder}/"
        for line in lines
        for folder in PurePosixPath(line).parents
        if str(folder) != "."
    }
    found = {path: _told(path) for path in sorted(folders | lines)}
    missing = [line for line in sorted(lines) if not found[line]]
    if missing:
        sys.exit(
            f"{', '.join(missing)}: no line for the README's file tree; say"
            " what it is for, in its first sentence or in NOTES of"
            " tools/file_tree.py"
        )
    return {path: told for path, told in found.items() if told}


def _told(path: str) -> str:
    if path in NOTES:
        return NOTES[path]
    module = ROOT / path / "__init__.py" if path[-1] == "/" else ROOT / path
    return summary(module) if module.is_file() else ""


def draw(found: dict[str, str]) -> str:
    """The tree as lines, each at most ``WIDTH`` characters."""
    return "\n".join(_lines("", found, 0))


def _lines(folder: str, found: dict[str, str], depth: int) -> Iterator[str]:
    """The lines of what lies in a folder, and in no folder with a line between
    the two.
    """
    for path in sorted(
        _children(folder, found), key=lambda path: _place(path, depth)
    ):
        start = f"{'  ' * depth}{path.removeprefix(folder)}  ".ljust(COLUMN)
        told = found[path].replace("`", "")
        yield start + shorten(told, WIDTH - len(start))
        if path.endswith("/"):
            yield from _lines(path, found, depth + 1)


def _children(folder: str, found: dict[str, str]) -> list[str]:
    inside = [path for path in found if path != folder]
    inside = [path for path in inside if path.startswith(folder)]
    below = tuple(path for path in inside if path.endswith("/"))
    return [
        path
        for path in inside
        if not any(path != other and path.startswith(other) for other in below)
    ]


def _place(path: str, depth: int) -> tuple[bool, int, str]:
    """Where a line stands in its folder: at the top folders come first, in the
    order of ``NOTES``; below it files do.
    """
    is_folder = path.endswith("/")
    if depth:
        return is_folder, 0, path
    order = list(NOTES)
    rank = order.index(path) if path in order and is_folder else len(order)
    return not is_folder, rank, path


def with_tree(page: str, tree: str) -> str:
    """A page with the tree between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        sys.exit(f"README.md: no {BEGIN} ... {END} to write the tree into")
    return f"{before}{BEGIN}\n\n```text\n{tree}\n```\n\n{END}{after}"


def main() -> None:
    """Write the tree, or check it."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true")
    readme = ROOT / "README.md"
    page = readme.read_text(encoding="utf8")
    new = with_tree(page, draw(entries(files())))
    if not parser.parse_args().check:
        readme.write_text(new, encoding="utf8")
    elif new != page:
        sys.exit("README.md: its file tree is out of date: run `make sync`")


if __name__ == "__main__":
    main()
