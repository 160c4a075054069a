"""The book's own pages against the code: names that exist, modules that are
documented, pages that are listed."""

import dataclasses
import importlib
import re
from pathlib import Path

import build_site
import pytest
import reference
import yaml

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"

NOTATION = [
    name
    for line in (BOOK / "notation.md").read_text(encoding="utf8").splitlines()
    for name in re.findall(r"`([a-z_0-9]+(?:\.\w+)+)`", line)
]


def exists(name):
    """Whether ``module.Class.attribute`` (below vlg_lib) exists; fields of
    dataclasses count as attributes."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["vlg_lib", *parts[:cut]]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            fields = (
                {field.name for field in dataclasses.fields(found)}
                if dataclasses.is_dataclass(found)
                else set()
            )
            if part in fields or part in getattr(found, "__annotations__", {}):
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("name", NOTATION)
def test_notation_names_what_is_in_the_code(name):
    assert exists(name)


def test_the_notation_test_can_fail():
    assert len(NOTATION) >= 20
    assert not exists("scene.Frame.no_such_field")
    assert not exists("no_such_module.thing")


def test_every_module_is_documented():
    files = [
        path.relative_to(ROOT).with_suffix("")
        for path in (ROOT / "vlg_lib").rglob("*.py")
    ]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in files}
    pages = "".join(
        path.read_text(encoding="utf8")
        for path in (BOOK / "reference").glob("*.md")
    )
    documented = set(re.findall(r"automodule:: (\S+)", pages))
    # The exercise checks (their messages are for students) and the entry point.
    left_out = re.compile(r"vlg_lib\.(exercises.*|__main__)$")
    assert {
        module for module in modules if not left_out.match(module)
    } - documented == set()
    assert documented <= modules


def test_the_reference_is_what_the_modules_say_of_themselves():
    written = {
        path: path.read_text(encoding="utf8")
        for path in (BOOK / "reference").glob("*.md")
    }
    assert reference.pages() == written


def test_a_room_without_a_page_is_told():
    known = reference.modules(ROOT / "vlg_lib")
    new = known | {"attic": ROOT, "attic.box": ROOT}
    assert reference.without_page(known) == []
    assert reference.without_page(new) == ["attic"]


def test_the_table_of_contents_lists_every_page_once():
    pages = build_site.toc_pages(BOOK / "_toc.yml")
    assert len(pages) == len(set(pages))
    written = {
        path.relative_to(BOOK).with_suffix("").as_posix()
        for path in BOOK.rglob("*.md")
    }
    assert written == {
        page for page in pages if not page.startswith("notebooks/")
    }


def test_citations_are_in_the_bibliography():
    keys = set(
        re.findall(
            r"^@\w+\{(\w+),",
            (BOOK / "references.bib").read_text(encoding="utf8"),
            re.MULTILINE,
        )
    )
    pages = "".join(
        path.read_text(encoding="utf8") for path in BOOK.rglob("*.md")
    )
    cited = {
        key.strip()
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", pages)
        for key in keys.split(",")
    }
    assert cited
    assert cited <= keys


def test_the_configuration_is_the_strict_offline_one():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))
    assert config["only_build_toc_files"] is True
    assert config["execute"]["execute_notebooks"] == "off"
    settings = config["sphinx"]["config"]
    assert "suppress_warnings" not in settings
    assert "//" not in settings["mathjax_path"]
    assert (BOOK / "_vendor" / settings["mathjax_path"]).is_file()
    assert not list((BOOK / "_static").rglob("*.js")), (
        "Jupyter Book would load it on every page: use book/_vendor"
    )


# ---- staging ----


@pytest.fixture
def repository(tmp_path, monkeypatch):
    for name, folder in (("ROOT", "."), ("BOOK", "book"), ("STAGE", "stage")):
        monkeypatch.setattr(build_site, name, (tmp_path / folder).resolve())
    for file in (
        "book/teaching/index.md",
        "book/notation.md",
        "notebooks/01_x.ipynb",
        "LICENSE",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    moved = {
        tmp_path / "book/teaching/index.md": Path("teaching/index.md"),
        tmp_path / "book/notation.md": Path("notation.md"),
        tmp_path / "notebooks/01_x.ipynb": Path("notebooks/01_x.ipynb"),
    }
    return tmp_path, moved


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        (
            "notebooks/01_x.ipynb",
            "[a](../book/notation.md#cameras)",
            "[a](../notation.md#cameras)",
        ),
        (
            "book/teaching/index.md",
            "[a](../../notebooks/01_x.ipynb)",
            "[a](../notebooks/01_x.ipynb)",
        ),
        (
            "book/notation.md",
            "[a](teaching/index.md), [b](#x)",
            "[a](teaching/index.md), [b](#x)",
        ),
        (
            "book/notation.md",
            "[a](https://a.org/b), ![c](attachment:d)",
            "[a](https://a.org/b), ![c](attachment:d)",
        ),
    ],
)
def test_links_follow_the_pages_that_move(repository, source, text, expected):
    root, moved = repository
    assert (
        build_site.relink(text, root / source, moved[root / source], moved)
        == expected
    )


def test_a_link_out_of_the_site_is_the_repositorys_and_a_dead_one_stops(
    repository,
):
    root, moved = repository
    page = root / "notebooks/01_x.ipynb"
    assert "/blob/main/LICENSE)" in build_site.relink(
        "[l](../LICENSE)", page, moved[page], moved
    )
    with pytest.raises(SystemExit, match=r"01_x.ipynb links to 02_y.ipynb"):
        build_site.relink("[l](02_y.ipynb)", page, moved[page], moved)


def test_a_chapter_that_was_not_executed_or_not_listed_stops_the_build(
    repository, monkeypatch
):
    root, _ = repository
    monkeypatch.setattr(
        build_site, "chapters", lambda: [root / "notebooks" / "01_x.ipynb"]
    )
    with pytest.raises(SystemExit, match="01_x: not in"):
        build_site.sources(["notebooks/01_x"], root / "executed")
    with pytest.raises(SystemExit, match="01_x: in notebooks/ but not in"):
        build_site.sources(["notation"], root / "executed")
