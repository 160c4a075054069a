"""Rules of the house that a reader relies on: no pickle from
disk, documented public names."""

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parent.parent / "vlg_lib"
MODULES = sorted(LIBRARY.rglob("*.py"))


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: path.relative_to(LIBRARY).as_posix()
)
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


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: path.relative_to(LIBRARY).as_posix()
)
def test_public_functions_and_classes_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says what it is for"
    for node in tree.body:
        if isinstance(
            node, ast.FunctionDef | ast.ClassDef
        ) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
