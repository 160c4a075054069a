"""Gather the pinned cells of all chapters in build/pinned.ipynb, for nbval to
compare.

papermill runs every cell of every chapter. What is left to check is that small
exact outputs stay what a chapter stores, in a kernel that has not run the rest
of it: each pinned cell is taken with those statements before it that its names
lead back to, and a comment that names its chapter. One kernel runs them all.
"""

import ast
import symtable
import sys
from typing import Any

from chapters import ROOT, chapters, read_notebook, tags, text, write_notebook

PINNED = {"nbval-check-output", "keep_output"}
OUTPUT = ROOT / "build" / "pinned.ipynb"

Cell = dict[str, Any]


def gives(source: str) -> set[str]:
    """The names that some statements define, at the level of the notebook."""
    symbols = symtable.symtable(source, "cell", "exec").get_symbols()
    return {
        symbol.get_name()
        for symbol in symbols
        if symbol.is_assigned() or symbol.is_imported()
    }


def takes(source: str) -> set[str]:
    """The names that some statements look up and do not define themselves; what
    an assignment reads counts where it is what is assigned, too.
    """
    table = symtable.symtable(source, "cell", "exec")
    own = gives(source)
    statements = ast.parse(source).body
    found = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
    if all(isinstance(each, ast.AugAssign) for each in statements):
        found |= own
    if all(isinstance(each, ast.Assign | ast.AugAssign) for each in statements):
        own = set()
    inner = list(table.get_children())
    while inner:
        scope = inner.pop()
        inner += scope.get_children()
        found |= {s.get_name() for s in scope.get_symbols() if s.is_global()}
    return found - own


def changes(statement: ast.stmt) -> set[str]:
    """The names of which a statement replaces a part: an entry, an
    attribute.
    """
    found = set()
    for node in ast.walk(statement):
        part: ast.AST = node
        while isinstance(part, ast.Attribute | ast.Subscript):
            part = part.value
        if isinstance(getattr(node, "ctx", None), ast.Store) and isinstance(
            part, ast.Name
        ):
            found.add(part.id)
    return found


def needed(cells: list[Cell]) -> list[Cell]:
    """The pinned cells among the code cells of a chapter, each after a cell
    with what it needs of the others.
    """
    wanted: set[str] = set()
    kept: list[Cell] = []
    for cell in reversed(cells):
        source = text(cell)
        if tags(cell) >= PINNED:
            wanted = wanted - gives(source) | takes(source)
            kept.append(cell)
        elif "setup" not in tags(cell):  # which installs the library
            parts: list[str] = []
            for statement in reversed(ast.parse(source).body):
                part = ast.get_source_segment(source, statement) or ""
                if (gives(part) | changes(statement)) & wanted:
                    wanted = wanted - gives(part) | takes(part)
                    parts.insert(0, part)
            if parts:
                kept.append(cell | {"metadata": {}, "source": "\n".join(parts)})
    return kept[::-1]


def gathered() -> dict[str, Any]:
    """One notebook with what all chapters have pinned."""
    notebook: dict[str, Any] = {"cells": []}
    for path in chapters():
        chapter = read_notebook(path)
        code = [c for c in chapter["cells"] if c["cell_type"] == "code"]
        notebook |= {n: v for n, v in chapter.items() if n != "cells"}
        notebook["cells"] += [
            cell
            | {
                "id": f"{path.stem[:2]}-{cell['id']}",
                "source": f"# {path.stem}\n{text(cell)}",
            }
            for cell in needed(code)
        ]
    return notebook


def main() -> int:
    """Write the notebook."""
    write_notebook(OUTPUT, gathered())
    return 0


if __name__ == "__main__":
    sys.exit(main())
