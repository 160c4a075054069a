"""Rules of the house that a reader relies on: the formatter is on, every room
has its floor, nothing changes ``sys.path`` or unpickles, public names are told.
"""

import ast
import importlib
import io
import json
import keyword
import re
import tokenize
import tomllib
from pathlib import Path

import file_tree
import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "vlg_lib"
MODULES = sorted(LIBRARY.rglob("*.py"))
PACKAGES = sorted(path.parent for path in LIBRARY.rglob("__init__.py"))
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
each_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: path.relative_to(LIBRARY).as_posix()
)


def sources() -> dict[str, str]:
    """Every Python source of the repository by its path; a chapter's code cells
    count as one, without the lines that are IPython's."""
    found = {}
    for name in file_tree.files():
        path = ROOT / name
        if path.suffix == ".py":
            found[name] = path.read_text(encoding="utf8")
        elif path.suffix == ".ipynb":
            cells = json.loads(path.read_text(encoding="utf8"))["cells"]
            code = ["".join(c["source"]) for c in cells if "outputs" in c]
            found[name] = re.sub(r"(?m)^\s*[%!].*$", "pass", "\n".join(code))
    return found


SOURCES = sources()


# ---- pages, chapters and messages name what is there ----

FILE = re.compile(
    r"\b(?:vlg_lib|tests|tools|data_scripts|benchmarks)/[\w/.-]+\.(?:py|sh)\b"
)
MODULE = re.compile(r"`(vlg_lib(?:\.\w+)+)")


def told() -> dict[str, str]:
    """What readers of the repository are told, by path. Not the changelog,
    which tells of what was; nor tests, which invent names."""
    return {
        name: (ROOT / name).read_text(encoding="utf8")
        for name in file_tree.files()
        if name.endswith((".py", ".md", ".ipynb", ".sh", ".yml", "Makefile"))
        and not name.startswith(("tests/", "CHANGELOG"))
    }


TOLD = told()


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_files_that_are_named_exist() -> None:
    wrong = {
        (where, file)
        for where, text in TOLD.items()
        for file in FILE.findall(text)
        if not (ROOT / file).is_file()
    }
    assert wrong == set()


def test_names_of_the_library_that_are_named_exist() -> None:
    named = {
        (where, name)
        for where, text in TOLD.items()
        for name in MODULE.findall(text)
    }
    assert {(where, name) for where, name in named if not is_there(name)} == (
        set()
    )


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("vlg_lib.geometry.visibility.PUBLISHED", True),
        ("vlg_lib.geometry.cameras.PUBLISHED", False),
        ("vlg_lib.projection", False),
        ("vlg_lib.classes.ClassSet.mask", True),
    ],
)
def test_a_name_is_there_or_not(name: str, there: bool) -> None:
    assert is_there(name) is there


# ---- the formatter is on everywhere but on tables of numbers ----


def switched_off(source: str) -> list[str]:
    """What a source says to the formatter that it must not: any ``fmt: skip``,
    and a ``fmt: off`` before something else than a table of numbers."""
    wrong, table, on = [], [], True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        comment = token.string if token.type == tokenize.COMMENT else ""
        if re.search(r"fmt:\s*skip", comment):
            wrong.append(f"line {token.start[0]}: {comment}")
        elif re.search(r"fmt:\s*off|yapf:\s*disable", comment):
            on, table = False, []
        elif re.search(r"fmt:\s*on|yapf:\s*enable", comment) and not on:
            on = True
            wrong += [] if is_table(table) else [f"above line {token.start[0]}"]
        elif not on:
            table.append(token)
    return wrong + ([] if on or is_table(table) else ["at the end"])


def is_table(tokens: list[tokenize.TokenInfo]) -> bool:
    """Whether code is a table of numbers: numbers, brackets, and fewer names
    (of the table, its rows and its type) than numbers."""
    kinds = [token.type for token in tokens]
    names = kinds.count(tokenize.NAME) + kinds.count(tokenize.STRING)
    words = {token.string for token in tokens if token.type == tokenize.NAME}
    statements = set(keyword.kwlist) - {"None", "True", "False"}
    return not words & statements and kinds.count(tokenize.NUMBER) > names


def test_the_formatter_is_on_but_on_tables_of_numbers() -> None:
    wrong = {name: switched_off(source) for name, source in SOURCES.items()}
    assert {name: lines for name, lines in wrong.items() if lines} == {}


def test_the_formatters_settings_leave_only_generated_files_out() -> None:
    ruff = SETTINGS["tool"]["ruff"]
    assert "exclude" not in ruff
    assert "format" not in ruff
    assert ruff["extend-exclude"] == ["build", "_build", "notebooks/student"]


TABLE = "# fmt: off\nEYE = torch.tensor([\n[1, 0],\n[0, 1.0]])\n# fmt: on\n"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        (TABLE, 0),
        (TABLE.replace("# fmt: on", ""), 0),
        ("# fmt: off\ndef f(a=1, b=2, c=3, d=4): return 5\n# fmt: on\n", 1),
        ("# fmt: off\nf(a, b, c, 1)\n", 1),
        ("f(1,2)  # fmt: skip\n", 1),
        ("text = '# fmt: skip'\n", 0),
    ],
)
def test_the_rule_of_the_formatter_can_fail(source: str, count: int) -> None:
    assert len(switched_off(source)) == count


# ---- floors ----

(CONTRACT,) = SETTINGS["tool"]["importlinter"]["contracts"]
FLOORS = [
    {name.strip(" ()") for name in layer.split("|")}
    for layer in CONTRACT["layers"]
]
"""The rooms of each floor in the import contract, from the highest down."""


def test_the_import_contract_names_every_room() -> None:
    rooms = {path.stem for path in LIBRARY.glob("*.py")} - {"__init__"}
    rooms |= {path.name for path in PACKAGES if path.parent == LIBRARY}
    assert rooms <= set().union(*FLOORS)
    assert CONTRACT["type"] == "layers"
    assert CONTRACT["containers"] == ["vlg_lib"]
    assert CONTRACT["exhaustive"] is True
    assert "exhaustive_ignores" not in CONTRACT
    assert CONTRACT["ignore_imports"] == ["vlg_lib -> vlg_lib.**"]


@each_module
def test_no_room_imports_what_the_face_of_the_library_hands_on(
    path: Path,
) -> None:
    allowed = set().union(*FLOORS) | {"__version__"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "vlg_lib":
            assert {alias.name for alias in node.names} <= allowed


def table_of_floors(page: str) -> dict[str, set[str]]:
    """The rooms of each floor in the table of CONTRIBUTING.md; a floor may take
    several rows."""
    floors: dict[str, set[str]] = {}
    for floor, rooms in re.findall(r"(?m)^\| (\d\w?) \| (`[^|]+) \|", page):
        floors.setdefault(floor, set()).update(re.findall(r"`(\w+)`", rooms))
    return floors


def test_the_table_of_floors_is_that_of_the_import_contract() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
    floors = table_of_floors(page)
    assert list(floors.values()) == FLOORS
    assert list(floors) == sorted(floors, reverse=True)


# ---- imports ----

CHANGES_PATH = re.compile(
    r"\bsys\.path\s*(\.\s*(insert|append|extend|remove|pop|clear)|\[|[-+]?=)"
    r"|\baddsitedir\b|from sys import path"
)


def test_no_file_changes_the_search_path() -> None:
    # warm.py does what Python does as it starts
    allowed = {"tools/warm.py", "tests/test_house_rules.py"}
    changing = {name for name in SOURCES if CHANGES_PATH.search(SOURCES[name])}
    assert changing <= allowed


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("sys.path.insert(0, 'x')", True),
        ("sys.path += ['x']", True),
        ("sys.path[:0] = ['x']", True),
        ("print(sys.path)", False),
        ("os.path.join('x')", False),
    ],
)
def test_the_rule_of_the_search_path_can_fail(line: str, changes: bool) -> None:
    assert bool(CHANGES_PATH.search(line)) is changes


def imported(source: str) -> set[str]:
    """The first part of every module that a source imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).split(".")[0])
    return found


def test_nothing_outside_the_tests_imports_from_them() -> None:
    inside = {name for name in SOURCES if name.startswith("tests/")}
    modules = {"tests"} | {Path(name).stem for name in inside}
    outside = {name for name in SOURCES if name.endswith(".py")} - inside
    for name in outside:
        assert not imported(SOURCES[name]) & modules, name


# ---- what the library's files say of themselves ----


@pytest.mark.parametrize(
    "folder", PACKAGES, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_every_package_names_what_it_hands_on(folder: Path) -> None:
    name = ".".join(folder.relative_to(ROOT).parts)
    package = importlib.import_module(name)
    assert isinstance(getattr(package, "__all__", None), list | tuple)
    assert len(set(package.__all__)) == len(package.__all__)
    for each in package.__all__:
        if not hasattr(package, each):  # then it is one of its modules
            importlib.import_module(f"{name}.{each}")


@each_module
def test_nothing_is_unpickled(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {
                getattr(node, "module", None)
            }
            # what torch.load raises where it refuses a file
            if names == {"pickle", "UnpicklingError"}:
                continue
            assert not names & {"pickle", "dill", "joblib", "shelve", "marshal"}
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "torch.load"
        ):
            assert any(
                word.arg == "weights_only" and ast.unparse(word.value) == "True"
                for word in node.keywords
            )
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "np.load",
            "numpy.load",
        }:
            assert not any(word.arg == "allow_pickle" for word in node.keywords)


@each_module
def test_public_functions_and_classes_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says what it is for"
    for node in tree.body:
        if isinstance(
            node, ast.FunctionDef | ast.ClassDef
        ) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
