"""The build script of MinkowskiEngine, without compiling it: what it refuses,
what it edits, what it keeps."""

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import build_minkowski
import minkowski_tools
import pytest
from build_minkowski import (
    RELEASE,
    Build,
    BuildError,
    chosen_build,
    edit_source,
    main,
    make_wheel,
    try_out,
)
from minkowski_edits import (
    CUDA_EDITS,
    SDIST_EDITS,
    Edit,
    EditError,
    apply_edits,
)

VERSION_LINE = 'setup(version=find_version("MinkowskiEngine", "__init__.py"))\n'


def write_tree(tree, edits):
    """A source tree that holds the texts to edit and nothing else."""
    for edit in (*edits, Edit("setup.py", VERSION_LINE, "")):
        path = tree / edit.file
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.exists() else ""
        path.write_text(
            before
            + "\n"
            + edit.old * ((edit.times or 2) - before.count(edit.old))
        )
    return tree


@pytest.fixture
def sdist(tmp_path, monkeypatch):
    """A source distribution that holds the texts to edit and nothing else."""
    tree = write_tree(
        tmp_path / f"MinkowskiEngine-{RELEASE}", SDIST_EDITS + CUDA_EDITS
    )
    archive = tmp_path / "source" / f"{tree.name}.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, tree.name)
    monkeypatch.setattr(
        build_minkowski,
        "SHA256",
        hashlib.sha256(archive.read_bytes()).hexdigest(),
    )
    return archive


def unpacked(sdist, folder, build):
    tree = build_minkowski.unpack_sdist(sdist, folder)
    edit_source(tree, build)
    return tree


def test_the_edits_take_out_what_removes_installations_and_mend_the_imports(
    sdist, tmp_path
):
    tree = unpacked(sdist, tmp_path / "out", Build())
    setup = (tree / "setup.py").read_text()
    assert "run_command" not in setup
    assert f'setup(version="{RELEASE}+cpu.torch' in setup
    kernels = (
        tree / "MinkowskiEngine" / "MinkowskiKernelGenerator.py"
    ).read_text()
    assert (
        kernels.strip()
        == "from collections import namedtuple\nfrom collections.abc import"
        " Sequence"
    )
    for name in ("Pooling", "Union"):
        assert (
            tree / f"MinkowskiEngine/Minkowski{name}.py"
        ).read_text().strip() == "FunctionFunction"
    assert (
        "prefetch_to_device"
        not in (tree / "src/3rdparty/concurrent_unordered_map.cuh").read_text()
    )


def test_the_edits_for_cuda_leave_no_call_that_newer_releases_refuse(
    sdist, tmp_path
):
    tree = unpacked(sdist, tmp_path / "out", Build(("9.0",)))
    table = (tree / "src/3rdparty/concurrent_unordered_map.cuh").read_text()
    helper, _, calls = table.partition("#endif\n}\n")
    assert helper.count("cudaMemPrefetchAsync(") == 2
    assert (
        "cudaMemPrefetchAsync("
        not in calls + table[: table.index("static inline")]
    )
    assert table.count("prefetch_to_device(") == 4  # three calls, and itself
    assert "unique_ptr" not in table
    assert "nvtx" not in table
    assert (
        "#include <thrust/count.h>\n#include <thrust/execution_policy.h>\n"
        in table
    )
    functors = (tree / "src/coordinate_map_functors.cuh").read_text()
    assert "unary_function" not in functors
    assert "curand" not in (tree / "src/gpu.cuh").read_text()


def test_another_archive_is_refused(sdist, tmp_path):
    with pytest.raises(BuildError, match=r"none\.tar\.gz: no such file"):
        build_minkowski.unpack_sdist(tmp_path / "none.tar.gz", tmp_path / "out")
    sdist.write_bytes(sdist.read_bytes() + b"more")
    with pytest.raises(BuildError, match="its SHA-256 is"):
        build_minkowski.unpack_sdist(sdist, tmp_path / "out")


def test_a_source_that_an_edit_does_not_fit_is_refused(tmp_path):
    (tmp_path / "setup.py").write_text("once once")
    for times in (1, 3):
        with pytest.raises(
            EditError, match=f"expected 'once' {times} times, found it 2 times"
        ):
            apply_edits(
                tmp_path,
                (Edit("setup.py", "once", "", times=times),),
                some_made=True,
            )
    for times in (1, None):
        with pytest.raises(EditError, match="found it 0 times"):
            apply_edits(tmp_path, (Edit("setup.py", "never", "", times),))
    with pytest.raises(EditError, match=r"none\.py: no such file"):
        apply_edits(tmp_path, (Edit("none.py", "once", ""),), some_made=True)
    apply_edits(
        tmp_path,
        (
            Edit("setup.py", "never", ""),
            Edit("setup.py", "once", "twice", times=2),
        ),
        some_made=True,
    )
    assert (tmp_path / "setup.py").read_text() == "twice twice"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git repository with one commit, pinned; its setup.py has some of the
    edits already, as upstream's has."""
    tree = write_tree(tmp_path / "checkout", SDIST_EDITS[2:3])
    identity = [
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@b.c",
        "-c",
        "commit.gpgsign=false",
    ]
    for command in (
        ["init", "-q"],
        ["add", "."],
        [*identity, "commit", "-qm", "Last"],
    ):
        subprocess.run(["git", "-C", tree, *command], check=True)
    for edit in SDIST_EDITS:  # the files are all there, without the texts
        (tree / edit.file).parent.mkdir(parents=True, exist_ok=True)
        (tree / edit.file).touch()
    subprocess.run(["git", "-C", tree, "add", "."], check=True)
    subprocess.run(
        ["git", "-C", tree, *identity, "commit", "-qm", "All files"], check=True
    )
    head = subprocess.run(
        ["git", "-C", tree, "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    )
    monkeypatch.setattr(build_minkowski, "UPSTREAM", head.stdout.strip())
    return tree


def test_upstream_is_taken_from_its_commit_and_not_from_what_lies_there(
    checkout, tmp_path
):
    (checkout / "setup.py").write_text("an edit of the reader's own")
    (tmp_path / "out").mkdir()
    tree = build_minkowski.unpack_upstream(checkout, tmp_path / "out")
    edit_source(tree, Build(upstream=True))
    setup = (tree / "setup.py").read_text()
    assert f".g{build_minkowski.UPSTREAM[:7]}.e" in setup
    assert "fno-gnu-unique" in setup


def test_a_checkout_without_the_pinned_commit_is_refused(
    checkout, tmp_path, monkeypatch
):
    monkeypatch.setattr(build_minkowski, "UPSTREAM", "0" * 40)
    for folder in (checkout, tmp_path / "nothing"):
        with pytest.raises(BuildError, match="holds no commit 0000"):
            build_minkowski.unpack_upstream(folder, tmp_path)


@pytest.fixture
def no_tools(monkeypatch):
    """A machine with nothing on it, and a way to put things there."""
    found = set()
    monkeypatch.setattr(minkowski_tools.platform, "system", lambda: "Linux")
    monkeypatch.setattr(
        minkowski_tools.shutil,
        "which",
        lambda name, path=None: f"/x/{name}" if name in found else None,
    )
    monkeypatch.setattr(
        minkowski_tools, "_links", lambda program, *_: program in found
    )
    monkeypatch.delenv("CUDA_HOME", raising=False)
    return found


def test_missing_tools_are_named_with_their_packages(
    no_tools, tmp_path, monkeypatch
):
    with pytest.raises(
        BuildError, match=r"apt-get install g\+\+.*pip install ninja"
    ):
        minkowski_tools.compile_environment(tmp_path, cuda=False)
    no_tools |= {"g++", "ninja"}
    with pytest.raises(
        BuildError,
        match=(
            r"^missing: OpenBLAS \(pip install scipy-openblas32; or"
            r" apt-get.*dev\)$"
        ),
    ):
        minkowski_tools.compile_environment(tmp_path, cuda=False)
    no_tools.add(minkowski_tools.USES_BLAS)
    assert "PATH" in minkowski_tools.compile_environment(tmp_path, cuda=False)
    monkeypatch.setattr(
        minkowski_tools.sysconfig, "get_path", lambda _: str(tmp_path)
    )
    with pytest.raises(BuildError, match="python3-dev"):
        minkowski_tools.compile_environment(tmp_path, cuda=False)
    monkeypatch.setattr(minkowski_tools.platform, "system", lambda: "Darwin")
    with pytest.raises(BuildError, match="use the backend 'torch'"):
        minkowski_tools.compile_environment(tmp_path, cuda=False)


def test_a_cuda_toolkit_that_is_missing_or_does_not_fit_is_named(
    no_tools, tmp_path, monkeypatch
):
    no_tools |= {"g++", "ninja", minkowski_tools.USES_BLAS}
    monkeypatch.setattr(minkowski_tools.torch.version, "cuda", None)
    with pytest.raises(
        BuildError, match="knows no CUDA: install a build of it that does"
    ):
        minkowski_tools.compile_environment(tmp_path, cuda=True)
    monkeypatch.setattr(minkowski_tools.torch.version, "cuda", "12.8")
    with pytest.raises(BuildError, match="apt-get install cuda-nvcc-12-8"):
        minkowski_tools.compile_environment(tmp_path, cuda=True)
    no_tools.add("nvcc")
    monkeypatch.setattr(
        minkowski_tools, "_output", lambda *_: "release 13.0, V13.0.88"
    )
    with pytest.raises(
        BuildError, match=r"nvcc is of CUDA 13\.0, this PyTorch of 12\.8"
    ):
        minkowski_tools.compile_environment(tmp_path, cuda=True)
    monkeypatch.setattr(
        minkowski_tools,
        "_output",
        lambda *_: "release 12.4\n#$ _HERE_=/opt/cuda/bin\n",
    )
    with pytest.raises(
        BuildError,
        match=(
            r"^missing: CUDA's libraries and headers \(apt-get install"
            r" cuda-libraries-dev-12-8"
        ),
    ):
        minkowski_tools.compile_environment(tmp_path, cuda=True)
    no_tools.add(minkowski_tools.USES_CUDA)
    monkeypatch.setenv("LIBRARY_PATH", "/the/reader's/own")
    environment = minkowski_tools.compile_environment(tmp_path, cuda=True)
    # of the compiler itself, not of a script that calls it
    assert environment["CUDA_HOME"] == "/opt/cuda"
    assert (
        environment["LIBRARY_PATH"].split(os.pathsep)[-1] == "/the/reader's/own"
    )


def test_thrust_is_found_where_cuda_13_keeps_it(tmp_path):
    assert (
        "cccl"
        not in minkowski_tools._packaged_cuda(tmp_path / "cuda", tmp_path)[
            "CPATH"
        ]
    )
    (tmp_path / "cuda" / "include" / "cccl").mkdir(parents=True)
    paths = minkowski_tools._packaged_cuda(tmp_path / "cuda", tmp_path)[
        "CPATH"
    ].split(os.pathsep)
    assert str(tmp_path / "cuda" / "include" / "cccl") in paths


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_openblas_of_the_python_package_links_under_the_names_of_cblas(
    tmp_path,
):
    pytest.importorskip("scipy_openblas32")
    environment = minkowski_tools._openblas(tmp_path)
    assert minkowski_tools._links(
        minkowski_tools.USES_BLAS, environment, "-lopenblas"
    )
    assert not minkowski_tools._links(
        minkowski_tools.USES_BLAS.replace("daxpy(1", "daxpi(1"),
        environment,
        "-lopenblas",
    )
    program, source = tmp_path / "try", tmp_path / "try.cpp"
    source.write_text(minkowski_tools.USES_BLAS)
    flags = [*environment["LDFLAGS"].split(), "-lopenblas"]
    subprocess.run(
        ["g++", source, "-o", program, *flags],
        env=os.environ | environment,
        check=True,
    )
    # it finds the library and computes 1 * 1 + 1
    assert subprocess.run([program], check=False).returncode == 0


def test_architectures_are_those_of_the_gpus_in_sight(monkeypatch):
    cuda = minkowski_tools.torch.cuda
    monkeypatch.setattr(cuda, "device_count", lambda: 0)
    with pytest.raises(BuildError, match=r"--arch 7\.5 \(T4\)"):
        chosen_build(False, True, None, False)
    monkeypatch.setattr(cuda, "device_count", lambda: 3)
    monkeypatch.setattr(
        cuda,
        "get_device_capability",
        lambda index: [(9, 0), (8, 0), (9, 0)][index],
    )
    assert chosen_build(False, True, None, False).architectures == (
        "8.0",
        "9.0",
    )
    assert chosen_build(False, True, ["7.5"], False).architectures == ("7.5",)


def test_options_that_contradict_each_other_are_refused():
    for cpu, cuda, arch, message in (
        (False, False, None, "Say which: --cpu or --cuda"),
        (True, True, None, "Say which: --cpu or --cuda"),
        (
            True,
            False,
            ["8.0"],
            "--arch is a compute capability such as 8.0, with --cuda",
        ),
        (False, True, ["sm_80"], "found 'sm_80'"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(cpu=cpu, cuda=cuda, arch=arch)


def test_the_cache_tells_everything_apart_that_a_wheel_depends_on(monkeypatch):
    names = {
        Build().name,
        Build(upstream=True).name,
        Build(("8.0",)).name,
        Build(("9.0",)).name,
    }
    monkeypatch.setattr(build_minkowski, "openblas_name", lambda: "another")
    names.add(Build().name)
    monkeypatch.setattr(build_minkowski.torch, "__version__", "9.9")
    names.add(Build().name)
    with monkeypatch.context() as patch:
        patch.setattr(
            build_minkowski.sys,
            "version_info",
            SimpleNamespace(major=3, minor=99),
        )
        names.add(Build().name)
    monkeypatch.setattr(build_minkowski, "SDIST_EDITS", SDIST_EDITS[1:])
    names.add(Build().name)
    assert len(names) == 8


@pytest.fixture
def wheel(tmp_path):
    """A kept wheel of the build for the CPU."""
    path = tmp_path / "cache" / Build().name / "MinkowskiEngine.whl"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_a_kept_wheel_is_tried_and_not_built_again(
    wheel, tmp_path, monkeypatch
):
    tried = []
    monkeypatch.setattr(
        build_minkowski,
        "compile_wheel",
        lambda *_: pytest.fail("compiled again"),
    )
    monkeypatch.setattr(
        build_minkowski, "try_out", lambda build, wheel: tried.append(wheel)
    )
    assert make_wheel(Build(), tmp_path / "cache", None, None, 1) == wheel
    assert tried == [wheel]


def test_a_build_that_is_installed_and_works_is_left_alone(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        build_minkowski.importlib.metadata, "version", lambda _: Build().version
    )
    monkeypatch.setattr(build_minkowski, "try_out", lambda *_: None)
    monkeypatch.setattr(
        build_minkowski, "make_wheel", lambda *_: pytest.fail("built again")
    )
    main(cpu=True, cache=tmp_path)
    assert "is installed and works" in capsys.readouterr().out


def test_only_a_build_that_holds_the_one_asked_for_counts_as_installed(
    monkeypatch,
):
    builds = {
        "cpu": Build(),
        "cuda": Build(("8.0", "10.0")),
        "other": Build(("9.0",)),
        "upstream": Build(upstream=True),
    }
    versions = {name: build.version for name, build in builds.items()} | {
        "somebody else's": RELEASE
    }
    monkeypatch.setattr(build_minkowski, "try_out", lambda *_: None)
    serves = set()
    for there, version in versions.items():
        monkeypatch.setattr(
            build_minkowski.importlib.metadata,
            "version",
            lambda _, found=version: found,
        )
        serves |= {
            (there, wanted)
            for wanted, build in builds.items()
            if build_minkowski.is_installed(build)
        }
    assert serves == {(name, name) for name in builds} | {
        ("cuda", "cpu"),
        ("other", "cpu"),
    }


def test_nothing_is_installed_where_a_build_fails(sdist, tmp_path, monkeypatch):
    monkeypatch.setattr(build_minkowski, "is_installed", lambda _: False)
    monkeypatch.setattr(
        build_minkowski, "compile_environment", lambda *_, **__: {}
    )
    monkeypatch.setattr(
        build_minkowski, "install", lambda wheel: pytest.fail("installed")
    )
    # The setup.py of the fixture is run for real: it knows no find_version, and
    # ends with an error.
    with pytest.raises(
        SystemExit,
        match=(
            r"(?s)was not installed\. compiling failed.*build\.log.*NameError"
        ),
    ):
        main(cpu=True, sdist=sdist, cache=tmp_path / "cache", jobs=1)
    assert not list((tmp_path / "cache").rglob("*.whl*"))


def test_nothing_is_installed_where_a_wheel_does_not_work(
    wheel, tmp_path, monkeypatch
):
    monkeypatch.setattr(build_minkowski, "is_installed", lambda _: False)
    monkeypatch.setattr(
        build_minkowski, "install", lambda wheel: pytest.fail("installed")
    )
    package = tmp_path / "wheel" / "MinkowskiEngine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "raise ImportError('no engine in here')"
    )
    shutil.make_archive(str(wheel), "zip", package.parent)
    Path(f"{wheel}.zip").rename(wheel)
    with pytest.raises(SystemExit, match="no engine in here"):
        main(cpu=True, cache=tmp_path / "cache")


@pytest.mark.parametrize("cuda", [False, True])
def test_a_wheel_that_computes_something_else_is_found_out(tmp_path, cuda):
    package = tmp_path / "MinkowskiEngine"
    package.mkdir()
    (package / "__init__.py").write_text(
        "def is_cuda_available():\n    return False\n"
    )
    shutil.make_archive(
        str(tmp_path / "wheel"), "zip", tmp_path, "MinkowskiEngine"
    )
    with pytest.raises(
        BuildError, match="built without CUDA" if cuda else "SparseTensor"
    ):
        try_out(Build(("9.0",) if cuda else ()), tmp_path / "wheel.zip")
