"""Every function of the library that a chapter imports has an example, which
the doctests run."""

import ast
import inspect
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

CHAPTERS = sorted(
    (Path(__file__).parent.parent / "notebooks").glob("[0-9][0-9]_*.ipynb")
)


def code_of(chapter: Path) -> Iterator[ast.Module]:
    """The code cells of a chapter, without the lines that are IPython's."""
    for cell in json.loads(chapter.read_text())["cells"]:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines()
            python = [
                line
                for line in lines
                if not line.lstrip().startswith(("%", "!"))
            ]
            yield ast.parse("\n".join(python))


def names_taken(code: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of what is imported from the library, and of what is taken
    from ``viz``."""
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "vlg_lib"
        ):
            yield from ((str(node.module), alias.name) for alias in node.names)
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "viz"
        ):
            yield "vlg_lib.viz", node.attr


TAKEN = sorted(
    {
        name
        for chapter in CHAPTERS
        for code in code_of(chapter)
        for name in names_taken(code)
    }
)


def resolve(module: str, name: str) -> object:
    found = getattr(import_module(module), name, None)
    return import_module(f"{module}.{name}") if found is None else found


def test_the_chapters_are_found() -> None:
    assert len(CHAPTERS) >= 11
    assert ("vlg_lib.viz", "show3d") in TAKEN
    assert ("vlg_lib.metrics", "confusion") in TAKEN


@pytest.mark.parametrize(
    ("module", "name"), TAKEN, ids=[f"{m}.{n}" for m, n in TAKEN]
)
def test_what_a_chapter_imports_has_an_example(module: str, name: str) -> None:
    taken = resolve(module, name)
    if inspect.isfunction(taken):
        assert ">>>" in (inspect.getdoc(taken) or ""), (
            f"{taken.__module__}.{taken.__qualname__} has no example; a chapter"
            " imports it"
        )
