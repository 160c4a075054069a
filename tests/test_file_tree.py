"""The README's file tree against the repository: a line for every file, a file
for every line; and the generator that writes it."""

import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import file_tree
import pytest

ROOT = file_tree.ROOT
PAGE = (ROOT / "README.md").read_text(encoding="utf8")
LINES = (
    PAGE.split(file_tree.BEGIN)[1]
    .split(file_tree.END)[0]
    .strip()
    .splitlines()[1:-1]
)


def paths(lines: list[str]) -> list[str]:
    """The full path of each line, from its indentation alone."""
    found: list[str] = []
    folders: list[str] = []
    for line in lines:
        depth = (len(line) - len(line.lstrip())) // 2
        name = re.split(r" {2,}", line.strip())[0]
        path = "".join(folders[:depth]) + name
        if name.endswith("/"):
            folders = [*folders[:depth], name]
        found.append(path)
    return found


def stands_for(line: str, name: str) -> bool:
    """Whether a line of the tree stands for a file: its path, its pattern, or
    the folder of its package."""
    return fnmatch(name, line) or name == f"{line}__init__.py"


def test_every_file_has_a_line_and_every_line_a_file():
    files, lines = file_tree.files(), paths(LINES)
    assert len(set(lines)) == len(lines)
    without = [
        name
        for name in files
        if not any(stands_for(line, name) for line in lines)
    ]
    assert without == []
    for line in lines:
        inside = [name for name in files if name.startswith(line)]
        assert any(stands_for(line, name) for name in files) or (
            line.endswith("/") and inside
        ), line


def test_lines_are_short_and_say_something():
    assert len(LINES) > 100
    assert max(map(len, LINES)) <= file_tree.WIDTH
    assert all(re.search(r"\S {2,}\S", line) for line in LINES)


def test_the_tree_is_what_the_files_say_of_themselves():
    assert (
        file_tree.with_tree(
            PAGE, file_tree.draw(file_tree.entries(file_tree.files()))
        )
        == PAGE
    )


def test_a_new_file_changes_the_tree_or_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(file_tree, "ROOT", tmp_path)
    (tmp_path / "vlg_lib" / "new").mkdir(parents=True)
    (tmp_path / "vlg_lib" / "new" / "__init__.py").write_text('"""A room."""')
    (tmp_path / "vlg_lib" / "new" / "part.py").write_text('"""Part. More."""')
    assert file_tree.draw(file_tree.entries(file_tree.files())).splitlines()[
        -2:
    ] == [
        "  new/                       A room",
        "    part.py                  Part",
    ]
    (tmp_path / "vlg_lib" / "new" / "part.py").write_text("x = 1")
    with pytest.raises(SystemExit, match=r"vlg_lib/new/part.py: no line for"):
        file_tree.entries(file_tree.files())


def test_without_git_the_same_files_are_found(tmp_path, monkeypatch):
    known = set(file_tree.files())
    for name in known:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "tests" / "__pycache__").mkdir()
    (tmp_path / "tests" / "__pycache__" / "a.pyc").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "table.json").touch()
    monkeypatch.setattr(file_tree, "ROOT", tmp_path)
    assert set(file_tree.files()) == known


@pytest.mark.parametrize(
    ("sentence", "room", "expected"),
    [
        ("Short", 40, "Short"),
        ("Metrics: a, b, c and all of that (chapter 09)", 40, None),
        ("Nothing but one long clause that goes on and on", 30, None),
        ("What they all share in it: a", 27, "What they all share in it"),
    ],
)
def test_a_long_sentence_is_cut_at_a_clause(sentence, room, expected):
    short = file_tree.shorten(sentence, room)
    assert len(short) <= room
    assert short == expected or expected is None
    assert sentence.startswith(short.removesuffix(" ..."))


def test_what_files_say_of_themselves(tmp_path):
    texts = {
        "a.py": '"""Reads ``.sens`` (Sec. 3.2): see :func:`fit`. More."""',
        "b.md": "text\n\n# Heading\n",
        "c.sh": "#!/bin/sh\n# A comment. More.\n",
        "d.bin": "",
    }
    for name, content in texts.items():
        (tmp_path / name).write_text(content)
    told = {name: file_tree.summary(tmp_path / name) for name in texts}
    assert told == {
        "a.py": "Reads `.sens` (Sec. 3.2): see `fit`",
        "b.md": "Heading",
        "c.sh": "A comment",
        "d.bin": "",
    }


def test_the_page_of_results_has_a_line_on_every_figure():
    folder = ROOT / "results"
    page = (folder / "README.md").read_text(encoding="utf8")
    told = set(re.findall(r"(?m)^\| `([\w-]+\.json)` \|", page))
    assert told == {path.name for path in Path(folder).glob("*.json")}
