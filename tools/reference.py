"""The reference pages of the library: for every module its sentence, and the
block from which Sphinx writes its functions.

    python tools/reference.py            write them into book/reference
    python tools/reference.py --check    exit 1 where they are out of date

A page holds the rooms that ``PAGES`` names; a new room that no page names is an
error. The exercise checks have no page: their messages are for students.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from chapters import ROOT
from file_tree import summary

REFERENCE = ROOT / "book" / "reference"
LEFT_OUT = ("exercises", "__main__")
"""Rooms without a page."""


@dataclass(frozen=True)
class Page:
    """A page of the reference."""

    name: str
    """The file's name, without its suffix."""

    title: str

    intro: str
    """What the rooms of the page have in common, as Markdown."""

    rooms: tuple[str, ...]
    """The rooms, in the order of the page; "" is ``vlg_lib`` itself."""


PAGES = (
    Page(
        "cli",
        "The command",
        "The command `vlg`, its planner, and what `vlg_lib` itself hands on.",
        ("", "cli", "plan", "about"),
    ),
    Page(
        "own_scan",
        "One's own scan",
        "What a person does with a scan: check it, describe it, fuse it, label"
        " it.",
        ("own_scan",),
    ),
    Page(
        "pipeline",
        "The whole method",
        "From a profile and a seed to a table; what was made once is kept.",
        ("pipeline",),
    ),
    Page(
        "stages",
        "The stages",
        "One module a stage of the method or an idea beside it, in the order of"
        " the data.",
        (
            "fusion",
            "pseudo_labels",
            "superpoints",
            "co_training",
            "class_activation_maps",
            "adapter",
            "distill",
            "baselines",
            "refine",
            "open_vocabulary",
        ),
    ),
    Page(
        "convert",
        "Converters",
        "Every outside format, turned into the one layout that the library"
        " reads.",
        ("convert",),
    ),
    Page(
        "training",
        "Training",
        "The one training loop, and how clouds become batches.",
        ("training",),
    ),
    Page(
        "networks",
        "The 3D networks",
        "From a point cloud to a vector a point, and the trained networks.",
        ("networks",),
    ),
    Page(
        "rooms",
        "The made rooms",
        "The world that the book makes for itself: rooms from a seed, rendered"
        " to posed RGB-D frames.",
        ("rooms",),
    ),
    Page(
        "data",
        "Data",
        "The one layout on disk, and the files around it.",
        ("data",),
    ),
    Page(
        "sparse",
        "Sparse convolution",
        "The engine of the 3D network, in plain PyTorch.",
        ("sparse",),
    ),
    Page(
        "geometry",
        "Geometry",
        "One home for every pose, flip, axis and visibility rule.",
        ("geometry",),
    ),
    Page(
        "vision_language",
        "Vision-language models",
        "One interface to frozen image and text models.",
        ("vision_language",),
    ),
    Page(
        "viz",
        "Figures",
        "Pictures and 3D figures that work without a network.",
        ("viz",),
    ),
    Page(
        "nouns",
        "The nouns",
        "What everything else speaks: scenes, metrics, class sets, and files"
        " between stages.",
        ("scene", "metrics", "classes", "artifacts", "precision"),
    ),
)
"""The pages, from the highest floor to the lowest."""

GENERATED = (
    "<!-- Written by tools/reference.py: run `make sync`, do not edit. -->"
)

INDEX = """\
# The library

{generated}

`vlg_lib` is the code that the chapters import. Its rooms stand on floors, and a
room imports only from floors below its own. The pages follow the floors, from
the highest down.

| page | rooms |
|---|---|
{rows}

Shapes stand in the signatures: `Float[Tensor, "N 3"]` is a tensor of
floating-point numbers with N rows and 3 columns, and names that occur twice in
one signature must have the same size. They are checked at run time in the
tests.
"""


def modules(library: Path) -> dict[str, Path]:
    """Every module with its file, by its name below ``vlg_lib`` ("" is the
    package itself).
    """
    found = {}
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


def modules_of(page: Page, known: dict[str, Path]) -> list[str]:
    """The modules of a page: room by room, a package before its modules."""
    return [
        module
        for room in page.rooms
        for module in sorted(known)
        if module.split(".")[0] == room
    ]


def without_page(known: dict[str, Path]) -> list[str]:
    """The rooms that no page names."""
    named = {room for page in PAGES for room in page.rooms}
    rooms = {module.split(".")[0] for module in known}
    return sorted(rooms - named - set(LEFT_OUT))


def page_text(page: Page, known: dict[str, Path]) -> str:
    """A page: its introduction, a table of its modules, and a block for
    each.
    """
    names = modules_of(page, known)
    rows = [f"| `{_short(name)}` | {summary(known[name])} |" for name in names]
    table = ["| module | what it is for |", "|---|---|", *rows]
    blocks = [
        f"## `{_short(name)}`\n\n```{{eval-rst}}\n"
        f".. automodule:: {_full(name)}\n"
        "   :members:\n   :ignore-module-all:\n```"
        for name in names
    ]
    head = f"# {page.title}\n\n{GENERATED}\n\n{page.intro}"
    return "\n\n".join([head, "\n".join(table), *blocks]) + "\n"


def _full(module: str) -> str:
    return f"vlg_lib.{module}" if module else "vlg_lib"


def _short(module: str) -> str:
    return module or "vlg_lib"


def index_text(known: dict[str, Path]) -> str:
    """The first page: which page holds which rooms."""
    rows = []
    for page in PAGES:
        there = [room for room in page.rooms if room in known]
        rooms = ", ".join(f"`{_short(room)}`" for room in there)
        rows.append(f"| [{page.title}]({page.name}.md) | {rooms} |")
    return INDEX.format(generated=GENERATED, rows="\n".join(rows))


def pages() -> dict[Path, str]:
    """What every page should hold, by its file."""
    known = modules(ROOT / "vlg_lib")
    if rooms := without_page(known):
        sys.exit(
            f"{', '.join(rooms)}: on no page of the reference; name it in PAGES"
            " of tools/reference.py"
        )
    texts = {
        REFERENCE / f"{page.name}.md": page_text(page, known)
        for page in PAGES
        if modules_of(page, known)
    }
    return {REFERENCE / "index.md": index_text(known), **texts}


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true")
    checking = parser.parse_args().check
    wanted = pages()
    there = {
        path: path.read_text(encoding="utf8") for path in REFERENCE.glob("*.md")
    }
    if checking:
        if wanted != there:
            sys.exit("book/reference is out of date: run `make sync`")
        return
    for path in there.keys() - wanted.keys():
        path.unlink()
    for path, content in wanted.items():
        path.write_text(content, encoding="utf8")


if __name__ == "__main__":
    main()
