"""The pinned cells of a chapter with what they need, and nothing else of it."""

import pinned
import pytest
from chapters import chapters, read_notebook, tags

PINNED = ["keep_output", "nbval-check-output"]


def cell(source, *tags):
    return {
        "cell_type": "code",
        "id": f"id{abs(hash(source)) % 10**6}",
        "metadata": {"tags": list(tags)},
        "source": source,
        "execution_count": None,
        "outputs": [],
    }


def needed(*sources, wanted="print(found)"):
    kept = pinned.needed([*map(cell, sources), cell(wanted, *PINNED)])
    return [each["source"] for each in kept[:-1]]


@pytest.mark.parametrize(
    ("before", "wanted", "kept"),
    [
        # what is not looked up
        (["x = 1", "found = 2"], "print(found)", ["found = 2"]),
        # through a function and its own globals
        (
            ["y = 1", "def f(x):\n    return x + y", "x = 5"],
            "print(f(2))",
            ["y = 1", "def f(x):\n    return x + y"],
        ),
        # the last meaning before the cell, unless it is built on an earlier one
        (["found = 1", "found = 2"], "print(found)", ["found = 2"]),
        (["n = 1", "n = n + 1"], "print(n)", ["n = 1", "n = n + 1"]),
        (["n = 1", "n += 1"], "print(n)", ["n = 1", "n += 1"]),
        # parts of it
        (["a = [0]", "a[0] = 1"], "print(a)", ["a = [0]", "a[0] = 1"]),
        # single statements of a cell
        (["import os\nrun()\nx = 1"], "print(x)", ["x = 1"]),
        (["import numpy as np\nx = 1"], "np.ones(1)", ["import numpy as np"]),
        # names of its own
        (
            ["i = 7\nk = 8"],
            "print([i for i in range(3)], (lambda k: k)(1))\nfor k in (1,):"
            "\n    print(k)",
            [],
        ),
    ],
)
def test_what_is_needed_is_kept_and_nothing_else(before, wanted, kept):
    assert needed(*before, wanted=wanted) == kept


def test_the_installing_cell_and_what_comes_after_are_left_out():
    cells = [
        cell("%pip install vlg-lib", "setup"),
        cell("print(1)", *PINNED),
        cell("print(2)"),
    ]
    assert pinned.needed(cells) == cells[1:2]


def test_every_pinned_cell_of_every_chapter_is_there_with_its_output():
    expected = [
        (f"{path.stem[:2]}-{each['id']}", each["outputs"])
        for path in chapters()
        for each in read_notebook(path)["cells"]
        if tags(each) >= pinned.PINNED
    ]
    found = [
        (each["id"], each["outputs"])
        for each in pinned.gathered()["cells"]
        if tags(each) >= pinned.PINNED
    ]
    assert found == expected
    assert len(found) > 30
