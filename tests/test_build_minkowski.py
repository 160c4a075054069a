"""The build script of MinkowskiEngine, without compiling: what it refuses, what it edits, what it keeps."""

import hashlib
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "data_scripts"))
import build_minkowski
from build_minkowski import EDITS, VERSION, BuildError, build, build_name, check_tools, main, try_out, unpack_source


@pytest.fixture
def sdist(tmp_path, monkeypatch):
    """A source distribution that holds the lines to edit and nothing else."""
    tree = tmp_path / f"MinkowskiEngine-{VERSION}"
    for edit in EDITS:
        path = tree / edit.file
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.exists() else ""
        path.write_text(before + edit.old)
    archive = tmp_path / "source" / f"{tree.name}.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, tree.name)
    monkeypatch.setattr(build_minkowski, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    return archive


def test_the_edits_take_out_what_removes_installations_and_mend_the_imports(sdist, tmp_path):
    tree = unpack_source(sdist, tmp_path / "out")
    assert (tree / "setup.py").read_text() == ""
    kernels = (tree / "MinkowskiEngine" / "MinkowskiKernelGenerator.py").read_text()
    assert kernels == "from collections import namedtuple\nfrom collections.abc import Sequence\n"
    common = (tree / "MinkowskiEngine" / "MinkowskiCommon.py").read_text()
    assert common == "from collections.abc import Sequence\n"


def test_another_archive_is_refused(sdist, tmp_path):
    sdist.write_bytes(sdist.read_bytes() + b"more")
    with pytest.raises(BuildError, match="its SHA-256 is"):
        unpack_source(sdist, tmp_path / "out")


def test_a_source_that_an_edit_does_not_fit_is_refused(sdist, tmp_path, monkeypatch):
    edits = (*EDITS, build_minkowski.Edit("setup.py", "import numpy.distutils", ""))
    monkeypatch.setattr(build_minkowski, "EDITS", edits)
    with pytest.raises(BuildError, match="found it 0 times"):
        unpack_source(sdist, tmp_path / "out")


def test_missing_tools_are_named_with_their_packages(monkeypatch):
    monkeypatch.setattr(build_minkowski.platform, "system", lambda: "Linux")
    monkeypatch.setattr(build_minkowski.shutil, "which", lambda *_, **__: None)
    with pytest.raises(BuildError, match=r"apt-get install g\+\+.*ninja-build"):
        check_tools()
    monkeypatch.setattr(build_minkowski.shutil, "which", lambda *_, **__: "/bin/found")
    monkeypatch.setattr(build_minkowski, "_links", lambda *_: False)
    with pytest.raises(BuildError, match="libopenblas-dev"):
        check_tools()
    monkeypatch.setattr(build_minkowski.platform, "system", lambda: "Darwin")
    with pytest.raises(BuildError, match="use the backend 'torch'"):
        check_tools()


def test_a_cached_wheel_is_not_built_again(tmp_path, monkeypatch):
    monkeypatch.setattr(build_minkowski, "compile_wheel", lambda *_: pytest.fail("compiled again"))
    wheel = tmp_path / build_name() / "MinkowskiEngine.whl"
    wheel.parent.mkdir()
    wheel.touch()
    assert build(tmp_path, None, 1) == wheel


def test_the_cache_tells_edits_and_torch_apart(monkeypatch):
    name = build_name()
    monkeypatch.setattr(build_minkowski.torch, "__version__", "9.9")
    assert build_name() != name
    monkeypatch.undo()
    monkeypatch.setattr(build_minkowski, "EDITS", EDITS[1:])
    assert build_name() != name


def test_a_build_that_fails_installs_nothing(sdist, tmp_path, monkeypatch):
    monkeypatch.setattr(build_minkowski, "check_tools", lambda: None)
    monkeypatch.setattr(build_minkowski, "install", lambda wheel: pytest.fail("installed"))
    monkeypatch.setattr(build_minkowski.sys, "executable", "/bin/false")  # the compiler run fails
    with pytest.raises(SystemExit, match=r"was not installed\. compiling failed"):
        main(cpu=True, sdist=sdist, cache=tmp_path / "cache", jobs=1)
    assert not list((tmp_path / "cache").rglob("*.whl*"))


def test_a_package_that_does_not_import_is_found_out(tmp_path):
    (tmp_path / "MinkowskiEngine").mkdir()
    (tmp_path / "MinkowskiEngine" / "__init__.py").write_text("raise ImportError('no engine in here')")
    with pytest.raises(BuildError, match="no engine in here"):
        try_out(tmp_path)


def test_the_kind_of_build_is_said():
    with pytest.raises(SystemExit, match="say which: --cpu"):
        main(cpu=False)
