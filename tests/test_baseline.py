"""An old commit as the baseline of a benchmark: its files, its process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import baseline
import pytest
from baseline import MissingHistoryError, Side, full_hash, old_tree, take_turns

DRIVER = """
from baseline import serve
import vlg_lib

def name(request):
    print("words of a library")  # not an answer
    return {"name": vlg_lib.NAME, "times": request["times"] * 2}

def fail(request):
    raise SystemExit(3)

if __name__ == "__main__":
    serve({"name": name, "fail": fail})
"""


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(
        ["git", *who, "-C", str(folder), *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits of a library that knows its name: old, then new."""
    folder = tmp_path / "repository"
    (folder / "vlg_lib").mkdir(parents=True)
    git(folder, "init", "-q")
    for name in ("old", "new"):
        (folder / "vlg_lib/__init__.py").write_text(f"NAME = {name!r}\n")
        git(folder, "add", ".")
        git(folder, "commit", "-qm", name)
    return folder


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    # a driver lies beside baseline.py, and finds it there
    shutil.copy(baseline.__file__, tmp_path)
    path = tmp_path / "driver.py"
    path.write_text(DRIVER)
    return path


def test_the_files_of_an_old_commit(repository: Path) -> None:
    with old_tree("HEAD~1", repository) as tree:
        assert "old" in (tree / "vlg_lib/__init__.py").read_text()
    assert not tree.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert "new" in (repository / "vlg_lib/__init__.py").read_text()


def test_a_shallow_clone_is_told_what_to_fetch(
    repository: Path, tmp_path: Path
) -> None:
    old = full_hash("HEAD~1", repository)
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth=1", repository.as_uri(), str(shallow))
    with pytest.raises(MissingHistoryError, match="--unshallow"):
        full_hash(old, shallow)
    with pytest.raises(MissingHistoryError, match="--unshallow"):
        full_hash("HEAD", tmp_path)  # no repository at all


def test_sides_take_turns_on_their_own_builds(
    repository: Path, driver: Path
) -> None:
    with old_tree("HEAD~1", repository) as tree:
        sides = {"ours": Side(repository, driver), "old": Side(tree, driver)}
        answers = take_turns(sides, {"do": "name", "times": 3}, runs=2)
        for side in sides.values():
            side.close()
    for name, expected in (("ours", "new"), ("old", "old")):
        assert [each["name"] for each in answers[name]] == [expected] * 2
        assert answers[name][0]["times"] == 6
        assert answers[name][0]["wall_s"] >= 0


def test_a_driver_that_finds_another_build_is_an_error(
    repository: Path, driver: Path
) -> None:
    # the folder of a script is searched before any other
    other = driver.parent / "vlg_lib"
    other.mkdir()
    (other / "__init__.py").write_text("NAME = 'another'\n")
    with pytest.raises(RuntimeError, match="was to use the build"):
        Side(repository, driver)


def test_a_driver_that_ends_is_an_error(repository: Path, driver: Path) -> None:
    side = Side(repository, driver)
    with pytest.raises(RuntimeError, match="code 3"):
        side.ask({"do": "fail"})


def test_an_editable_install_does_not_lend_modules() -> None:
    """It would answer for modules that an old build does not have."""
    code = """
import sys
class Finder:
    __module__ = "__editable___library_finder"
    find_spec = staticmethod(lambda *_: None)
sys.meta_path.insert(0, Finder)
import baseline
print(Finder in sys.meta_path)
"""
    for driven in (False, True):
        environment = dict(os.environ)
        environment["PYTHONPATH"] = str(Path(baseline.__file__).parent)
        if driven:
            environment["BENCHMARK_BUILD"] = "a tree"
        told = subprocess.run(
            [sys.executable, "-S", "-c", code],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert told == f"{not driven}\n"


def test_a_module_of_another_build_is_an_error(
    repository: Path, driver: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere.py"
    other.write_text("")
    driver.write_text(
        driver.read_text()
        .replace(
            "def fail(request):",
            f"""def lend(request):
    import sys, types
    module = types.ModuleType("vlg_lib.lent")
    module.__file__ = {str(other)!r}
    sys.modules["vlg_lib.lent"] = module
    return {{}}

def fail(request):""",
        )
        .replace('"fail": fail', '"fail": fail, "lend": lend')
    )
    side = Side(repository, driver)
    with pytest.raises(RuntimeError, match="ended with code 1"):
        side.ask({"do": "lend"})
