"""The hygiene gate of the chapters: each fault that it promises to find is
planted once, and found."""

import copy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
import notebooks as tool  # noqa: E402


def cell(
    kind: str, source: str, *tags: str, alt: str | None = None
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"tags": list(tags)} if tags else {}
    if alt:
        metadata["mystnb"] = {"image": {"alt": alt}}
    made = {
        "cell_type": kind,
        "id": f"c{abs(hash(source)) % 10**7}",
        "metadata": metadata,
        "source": tool.lines(source),
    }
    return made | (
        {"execution_count": None, "outputs": []} if kind == "code" else {}
    )


@pytest.fixture
def chapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, Any]]:
    """A chapter without faults, with its student notebook."""
    header = (
        "# Title\n\n**You will be able to** x\n\n**Necessary:** y\n\n**Time:**"
        " read 5 minutes · run not measured\n\n"
    )
    cells = [
        cell("markdown", header + "**Level:** easy. **Data and licence:** MIT"),
        cell("code", "", "setup"),
        cell("code", "x", "parameters"),
        cell(
            "code", "plt.show()", alt="A curve that rises from left to right."
        ),
    ]
    for number in range(3):
        for tag in ("exercise", "solution", "check"):
            cells.append(cell("code", f"{tag} = {number}", tag))
    path = tmp_path / "01_test.ipynb"
    monkeypatch.setattr(tool, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(tool, "STUDENT", tmp_path / "student")
    tool.write_notebook(
        path,
        {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5},
    )
    tool.sync([path])
    return path, tool.read_notebook(path)


def found(path: Path, notebook: dict[str, Any]) -> str:
    return "\n".join(tool.faults(path, notebook))


def test_a_synced_chapter_has_no_fault_and_sync_changes_nothing_twice(
    chapter: tuple[Path, dict[str, Any]],
) -> None:
    path, notebook = chapter
    assert found(path, notebook) == ""
    tool.sync([path])
    assert tool.read_notebook(path) == notebook


def test_the_setup_cell_and_the_link_carry_the_one_address_and_version(
    chapter: tuple[Path, dict[str, Any]],
) -> None:
    _, notebook = chapter
    address = tool.project()["urls"]["Repository"]
    assert f"{address}@v{tool.version()}" in tool.text(notebook["cells"][1])
    assert f"blob/v{tool.version()}/notebooks/01_test.ipynb" in tool.text(
        notebook["cells"][0]
    )


def test_students_get_stubs_and_checks_but_no_solutions(
    chapter: tuple[Path, dict[str, Any]],
) -> None:
    path, _ = chapter
    student = tool.read_notebook(tool.STUDENT / path.name)
    sources = [tool.text(c) for c in student["cells"]]
    assert "exercise = 0" in sources
    assert "check = 2" in sources
    assert not any(source.startswith("solution") for source in sources)


@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        (
            lambda n: n["cells"][3].update(outputs=[{"output_type": "stream"}]),
            "make sync",
        ),
        (lambda n: n["cells"][3]["metadata"].clear(), "without alt text"),
        (
            lambda n: n["cells"][3]["metadata"].update(tags=["exercize"]),
            "unknown tags",
        ),
        (
            lambda n: n["cells"][3]["metadata"].update(tags=["keep_output"]),
            "go together",
        ),
        (
            lambda n: n["cells"][3]["metadata"].update(
                tags=["keep_output", "nbval-check-output"]
            ),
            "check is empty",
        ),
        (lambda n: n["cells"][4]["metadata"].clear(), "do not come in threes"),
        (lambda n: n["cells"].pop(2), "tagged parameters"),
        (lambda n: n["cells"][5].update(id=n["cells"][4]["id"]), "share an id"),
        (
            lambda n: n["cells"][0].update(source=["# Title\n"]),
            "header does not say",
        ),
        (
            lambda n: n["cells"].append(cell("markdown", "```{note}\nx\n```")),
            "MyST directive",
        ),
        (
            lambda n: n["cells"].append(
                cell("markdown", "![x](https://example.org/x.png)")
            ),
            "from the network",
        ),
    ],
)
def test_each_planted_fault_is_found(
    chapter: tuple[Path, dict[str, Any]], plant: Any, fault: str
) -> None:
    path, notebook = chapter
    damaged = copy.deepcopy(notebook)
    plant(damaged)
    assert fault in found(path, damaged)


def test_a_solution_that_was_edited_but_not_synced_is_found(
    chapter: tuple[Path, dict[str, Any]],
) -> None:
    path, notebook = chapter
    damaged = copy.deepcopy(notebook)
    damaged["cells"][4]["source"] = ["exercise = 'new'\n"]
    assert "student notebook is out of date" in found(path, damaged)
