"""What the tools share about the chapters: where they are, and what the project
says of itself.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
EXECUTED = ROOT / "build" / "executed"


def chapters(*selected: str) -> list[Path]:
    """The chapters in order; only those whose names start with one of
    ``selected``, where any is given.
    """
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if selected:
        found = [path for path in found if path.name.startswith(selected)]
    if not found:
        raise SystemExit(
            f"no chapter in {NOTEBOOKS} starts with"
            f" {' or '.join(selected) or 'two digits'}"
        )
    return found


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook as plain JSON: what is stored is what is checked."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_notebook(path: Path, notebook: dict[str, Any]) -> None:
    """Write a notebook the way nbformat does: one space of indentation,
    unescaped text, a final newline.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(notebook, indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )


def tags(cell: dict[str, Any]) -> set[str]:
    """The tags of a cell."""
    return set(cell["metadata"].get("tags", []))


def text(cell: dict[str, Any]) -> str:
    """The source of a cell as one string."""
    return "".join(cell["source"])


def project() -> dict[str, Any]:
    """The ``[project]`` table of pyproject.toml: the one place of the
    repository's address.
    """
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def version() -> str:
    """The library's version, read without importing it."""
    line = next(
        line
        for line in (ROOT / "vlg_lib" / "__init__.py").read_text().splitlines()
        if "__version__" in line
    )
    return line.split('"')[1]
