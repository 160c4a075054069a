"""Every package says what it hands out, and any module can be the first that is
imported."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from programs import python

LIBRARY = Path(__file__).parent.parent / "vlg_lib"


def dotted(path: Path) -> str:
    """The name of a module or package by its path."""
    parts = path.relative_to(LIBRARY.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


PACKAGES = sorted(dotted(path) for path in LIBRARY.rglob("__init__.py"))
MODULES = sorted(
    dotted(path) for path in LIBRARY.rglob("*.py") if path.name != "__main__.py"
)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_says_what_it_hands_out(name: str) -> None:
    package = import_module(name)
    handed_out = package.__all__
    assert len(set(handed_out)) == len(handed_out) > 0
    for entry in handed_out:
        assert hasattr(package, entry) or find_spec(f"{name}.{entry}"), entry


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_lists_modules_lists_all_of_them(name: str) -> None:
    package = import_module(name)
    modules = {
        path.stem
        for path in Path(package.__file__).parent.glob("[!_]*")
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    if set(package.__all__) <= modules:
        assert set(package.__all__) == modules


IMPORT_EACH_FIRST = """
import importlib, os, sys
import IPython.display, jaxtyping  # once for all
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(", ".join(failed) or None)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_any_module_can_be_imported_first() -> None:
    done = python(["-c", IMPORT_EACH_FIRST, *MODULES], cwd=LIBRARY.parent)
    assert done.returncode == 0, done.stdout + done.stderr
