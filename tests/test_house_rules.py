"""Rules of the house that a reader relies on: a small library, no pickle from disk, documented public names."""

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parent.parent / "vlg_lib"
MODULES = sorted(LIBRARY.rglob("*.py"))


def test_the_library_stays_small() -> None:
    lengths = {path.relative_to(LIBRARY).as_posix(): len(path.read_text().splitlines()) for path in MODULES}
    # The checks of the exercises belong to the chapters; the method is the rest.
    assert sum(length for name, length in lengths.items() if not name.startswith("checks/")) < 5000
    assert {name: length for name, length in lengths.items() if length >= 400} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_nothing_is_unpickled(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "dill", "joblib", "shelve", "marshal"}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"np.load", "numpy.load"}:
            assert not any(word.arg == "allow_pickle" for word in node.keywords)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_public_functions_and_classes_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says what it is for"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
