"""Keep the chapters' notebooks in order: check them, sync what they share, pin
small outputs, write measured times.

* ``python tools/notebooks.py check``: the hygiene gate of CI; exits 1 and names
  every fault.
* ``python tools/notebooks.py sync``: setup cells, links, metadata and the
  student notebooks, from one source.
* ``python tools/notebooks.py pin 01 03``: store the outputs of cells tagged
  keep_output (from build/executed).
* ``python tools/notebooks.py times``: write the run times of build/executed
  into the headers.
"""

import argparse
import copy
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chapters import (
    EXECUTED,
    NOTEBOOKS,
    chapters,
    project,
    read_notebook,
    tags,
    text,
    version,
    write_notebook,
)

Notebook = dict[str, Any]
Cell = dict[str, Any]

STUDENT = NOTEBOOKS / "student"
METADATA = {
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
}
PARAMETERS = (
    'PROFILE = "auto"  # auto: colab on a GPU, else fast; or book,'
    " full\nSEED = 0"
)
KNOWN_TAGS = {
    "setup",
    "parameters",
    "exercise",
    "solution",
    "check",
    "nbval-check-output",
    "keep_output",
    "hide-input",
    "hide-output",
    "remove-input",
}
PINNED = {"nbval-check-output", "keep_output"}
FORBIDDEN = (
    (
        re.compile(r"^(:::|```\{)", re.MULTILINE),
        "a MyST directive shows raw on Colab and GitHub",
    ),
    (
        re.compile(r"https?://[^\s)]+\.(png|jpe?g|gif|svg)"),
        "an image that is fetched from the network",
    ),
)


def setup_cell() -> str:
    """The source of every setup cell: nothing to do where the library is there,
    else install it at this version.
    """
    address = project()["urls"]["Repository"]
    return f"""\
# Installs the library where it is missing (on Colab, for example); torch, numpy
# and plotly stay as they are.
try:
    from vlg_lib.about import environment
except ImportError:
    %pip install -q "vlg-lib @ git+{address}@v{version()}"
    from vlg_lib.about import environment
print(environment())"""


def colab_line(name: str) -> str:
    """The line under a chapter's title that opens it on Colab."""
    repository = (
        project()["urls"]["Repository"]
        .removeprefix("https://")
        .split("/", 1)[1]
    )
    url = f"https://colab.research.google.com/github/{repository}/blob/v{version()}/notebooks/{name}"
    return f"[Open this chapter in Colab]({url})"


def lines(source: str) -> list[str]:
    """A cell's source as notebooks store it: a list of lines that keep their
    line ends.
    """
    return source.splitlines(keepends=True)


def synced(notebook: Notebook, name: str) -> Notebook:
    """A notebook with the shared parts filled in and everything that does not
    belong in Git taken out.
    """
    notebook = copy.deepcopy(notebook)
    notebook["metadata"] = copy.deepcopy(METADATA)
    header = notebook["cells"][0]
    title, _, rest = text(header).partition("\n")
    rest = "\n".join(
        line
        for line in rest.splitlines()
        if not line.startswith("[Open this chapter in Colab]")
    )
    header["source"] = lines(f"{title}\n\n{colab_line(name)}\n\n{rest.strip()}")
    for cell in notebook["cells"]:
        for key in ("papermill", "execution", "collapsed", "scrolled"):
            cell["metadata"].pop(key, None)
        if cell["cell_type"] != "code":
            continue
        if "setup" in tags(cell):
            cell["source"] = lines(setup_cell())
        if "parameters" in tags(cell):
            cell["source"] = lines(PARAMETERS)
        if not tags(cell) >= PINNED:
            cell["outputs"], cell["execution_count"] = [], None
    return notebook


def student_version(notebook: Notebook) -> Notebook:
    """The notebook a class gets: no solutions, and no check runs before the
    student has written something.
    """
    notebook = copy.deepcopy(notebook)
    notebook["cells"] = [
        cell for cell in notebook["cells"] if "solution" not in tags(cell)
    ]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return notebook


def faults(path: Path, notebook: Notebook) -> Iterator[str]:
    """Everything that is wrong with a chapter's stored form."""
    cells = notebook["cells"]
    if notebook != synced(notebook, path.name):
        yield (
            "shared cells, metadata or outputs are out of date: run `make sync`"
        )
    student = STUDENT / path.name
    if not student.is_file() or read_notebook(student) != student_version(
        notebook
    ):
        yield "its student notebook is out of date: run `make sync`"
    if len({cell.get("id") for cell in cells}) != len(cells):
        yield "cells share an id or have none"
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    for tag in ("setup", "parameters"):
        if sum(tag in tags(cell) for cell in code) != 1:
            yield f"needs exactly one cell tagged {tag}"
    yield from _header_faults(text(cells[0]))
    yield from _exercise_faults(cells)
    for number, cell in enumerate(cells):
        yield from (f"cell {number}: {fault}" for fault in _cell_faults(cell))


def _header_faults(header: str) -> Iterator[str]:
    for needed in (
        "You will be able to",
        "Necessary",
        "**Time:**",
        "Level",
        "licence",
    ):
        if needed.lower() not in header.lower():
            yield f"the header does not say {needed!r}"


def _exercise_faults(cells: list[Cell]) -> Iterator[str]:
    kinds = [
        kind
        for cell in cells
        for kind in ("exercise", "solution", "check")
        if kind in tags(cell)
    ]
    if kinds.count("exercise") < 3:
        yield f"has {kinds.count('exercise')} exercises, three are the least"
    if kinds != ["exercise", "solution", "check"] * (len(kinds) // 3):
        yield (
            "exercise, solution and check cells do not come in threes, in this"
            " order"
        )


def _cell_faults(cell: Cell) -> Iterator[str]:
    source = text(cell)
    if unknown := tags(cell) - KNOWN_TAGS:
        yield f"unknown tags {sorted(unknown)}"
    if cell["cell_type"] == "markdown":
        yield from (why for pattern, why in FORBIDDEN if pattern.search(source))
        return
    if bool(tags(cell) & PINNED) != (tags(cell) >= PINNED):
        yield "nbval-check-output and keep_output go together"
    if tags(cell) >= PINNED and not (
        cell["outputs"] and cell["execution_count"]
    ):
        yield (
            "is checked by nbval but stores no output, so the check is empty:"
            " run `tools/notebooks.py pin`"
        )
    if "plt.show()" in source or "show3d(" in source or "tag_room(" in source:
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        if "alt=" not in source and len(alt) < 20:
            yield "draws a figure without alt text"


def sync(paths: list[Path]) -> None:
    """Write the shared parts into the chapters and their student notebooks."""
    for path in paths:
        notebook = synced(read_notebook(path), path.name)
        write_notebook(path, notebook)
        write_notebook(STUDENT / path.name, student_version(notebook))
    for path in STUDENT.glob("*.ipynb"):
        if not (NOTEBOOKS / path.name).is_file():
            path.unlink()


def check(paths: list[Path]) -> None:
    """Print every fault; exit 1 where there is one."""
    found = [
        f"{path.name}: {fault}"
        for path in paths
        for fault in faults(path, read_notebook(path))
    ]
    print("\n".join(found) or f"{len(paths)} notebooks in order")
    if found:
        sys.exit(1)


def pin(paths: list[Path]) -> None:
    """Copy the outputs of pinned cells from the executed chapters; only plain
    text may be pinned.
    """
    for path in paths:
        notebook, executed = (
            read_notebook(path),
            read_notebook(EXECUTED / path.name),
        )
        outputs = {cell.get("id"): cell for cell in executed["cells"]}
        for cell in notebook["cells"]:
            if tags(cell) >= PINNED:
                run = outputs[cell["id"]]
                if any(
                    output["output_type"] == "display_data"
                    for output in run["outputs"]
                ):
                    sys.exit(
                        f"{path.name}: cell {cell['id']} shows a figure; only"
                        " small exact text may be pinned"
                    )
                cell["outputs"], cell["execution_count"] = run["outputs"], 1
                for output in cell["outputs"]:
                    output.get("metadata", {}).clear()
                    if "execution_count" in output:
                        output["execution_count"] = 1
        write_notebook(path, notebook)
    sync(paths)


def times(paths: list[Path]) -> None:
    """Write the measured run times of the last execution into the headers'
    **Time:** lines.
    """
    for path in paths:
        record = read_notebook(EXECUTED / f"{path.stem}.json")
        seconds = max(5, 5 * round(record["seconds"] / 5))
        run = (
            f"run about {seconds} s, profile {record['profile']} on"
            f" {record['machine']}"
        )
        notebook = read_notebook(path)
        header = text(notebook["cells"][0])
        notebook["cells"][0]["source"] = lines(
            re.sub(r"(\*\*Time:\*\*.*?· )run .*", rf"\g<1>{run}", header)
        )
        write_notebook(path, notebook)
    sync(paths)


COMMANDS: dict[str, Callable[[list[Path]], None]] = {
    "check": check,
    "sync": sync,
    "pin": pin,
    "times": times,
}


def main() -> None:
    """Run one command over the selected chapters."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "chapters",
        nargs="*",
        help="leading digits, for example 01 04; all where none is given",
    )
    options = parser.parse_args()
    COMMANDS[options.command](chapters(*options.chapters))


if __name__ == "__main__":
    main()
