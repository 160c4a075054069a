"""Build MinkowskiEngine 0.5.4 for this Python and this torch, from its pinned source with a few edits.

    python data_scripts/build_minkowski.py --cpu

MinkowskiEngine has had no release since 2021, and `pip install MinkowskiEngine` fails on every current Python: its
setup.py calls pip, asks numpy for a module that is gone, and imports names that Python 3.10 moved. Here the source
distribution is fetched without being run, checked against its SHA-256, edited (see EDITS), compiled into a wheel, tried
out in a folder of its own and only then installed. The wheel is kept in a cache: a second call takes seconds. A failed
build leaves an existing installation as it was.

A CPU build takes about 7 minutes of one core. It needs g++, ninja, Python's headers and OpenBLAS with its headers
(Debian and Ubuntu: `apt-get install g++ ninja-build libopenblas-dev`).
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

VERSION = "0.5.4"
SHA256 = "b1879c00d0b0b1d30ba622cce239886a7e3c78ee9da1064cdfe2f64c2ab15f94"


@dataclass(frozen=True)
class Edit:
    """One change of the source: ``old``, which occurs exactly once in ``file``, becomes ``new``."""

    file: str
    old: str
    new: str


EDITS = (
    # setup.py runs these two lines whatever it is asked for, and so removes a working installation.
    Edit("setup.py", 'run_command("rm", "-rf", "build")\n', ""),
    Edit("setup.py", 'run_command("pip", "uninstall", "MinkowskiEngine", "-y")\n', ""),
    # Python 3.10 dropped the abstract classes from `collections`.
    *(
        Edit(
            f"MinkowskiEngine/{file}.py", "from collections import Sequence\n", "from collections.abc import Sequence\n"
        )
        for file in ("MinkowskiCommon", "MinkowskiCoordinateManager", "MinkowskiTensorField", "utils/quantization")
    ),
    Edit(
        "MinkowskiEngine/MinkowskiKernelGenerator.py",
        "from collections import Sequence, namedtuple\n",
        "from collections import namedtuple\nfrom collections.abc import Sequence\n",
    ),
)

SMOKE_TEST = """
import torch  # before MinkowskiEngine, whose extension needs torch's libraries
import MinkowskiEngine as ME
x = ME.SparseTensor(torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int32))
layer = ME.MinkowskiConvolution(1, 1, kernel_size=3, dimension=3)
torch.nn.init.ones_(layer.kernel)
y = layer(x)
y.F.sum().backward()
assert y.F.flatten().tolist() == [3.0, 3.0] and float(layer.kernel.grad.sum()) == 6.0, "wrong numbers"
print("MinkowskiEngine", ME.__version__, "works")
"""


class BuildError(RuntimeError):
    """What is missing, and how to get it."""


def build_name() -> str:
    """What a wheel depends on: Python, torch, machine and our edits. Names its folder in the cache."""
    edits = hashlib.sha256(repr([astuple(edit) for edit in EDITS]).encode()).hexdigest()[:8]
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return f"{VERSION}-cpu-{python}-torch{torch.__version__}-{platform.system()}-{platform.machine()}-{edits}".lower()


def check_tools() -> None:
    """Raise BuildError naming the package for each tool that is missing."""
    missing = []
    if platform.system() != "Linux":
        raise BuildError(f"MinkowskiEngine builds on Linux only, this is {platform.system()}: use the backend 'torch'")
    if shutil.which("g++") is None:
        missing.append("a C++ compiler (apt-get install g++)")
    if shutil.which("ninja") is None:
        missing.append("ninja (apt-get install ninja-build, or pip install ninja)")
    if importlib.util.find_spec("setuptools") is None:
        missing.append("setuptools (pip install setuptools)")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("Python's headers (apt-get install python3-dev)")
    if shutil.which("g++") and not _links("#include <cblas.h>\nint main() { return 0; }", "-lopenblas"):
        missing.append("OpenBLAS with cblas.h (apt-get install libopenblas-dev; dnf install openblas-devel)")
    if missing:
        raise BuildError("missing: " + "; ".join(missing))


def _links(program: str, *flags: str) -> bool:
    """Whether g++ compiles and links a small program."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "try.cpp"
        source.write_text(program)
        command = ["g++", str(source), "-o", str(source.with_suffix("")), *flags]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def fetch_source(folder: Path) -> Path:
    """The source distribution in ``folder``, fetched where it is not there yet. It is not run.

    (`pip download` would run its setup.py to learn its name.) Raises BuildError where it cannot be had.
    """
    archive = folder / f"MinkowskiEngine-{VERSION}.tar.gz"
    if archive.exists() and _sha256(archive) == SHA256:
        return archive
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise BuildError(f"fetching needs uv (pip install uv); or get {archive.name} yourself and give it as --sdist")
    folder.mkdir(parents=True, exist_ok=True)
    command = [uv, "tool", "run", "unearth", "--no-binary", "--download", str(folder), f"MinkowskiEngine=={VERSION}"]
    fetched = subprocess.run(command, capture_output=True, text=True, check=False)
    if fetched.returncode != 0 or not archive.exists():
        raise BuildError(f"could not fetch {archive.name}: {fetched.stderr.strip()[-500:]}")
    return archive


def unpack_source(archive: Path, folder: Path) -> Path:
    """The edited source tree in ``folder``. Raises BuildError where the archive is not the pinned one."""
    if _sha256(archive) != SHA256:
        raise BuildError(f"{archive} is not MinkowskiEngine {VERSION}: its SHA-256 is {_sha256(archive)}, not {SHA256}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    tree = folder / f"MinkowskiEngine-{VERSION}"
    for edit in EDITS:
        path = tree / edit.file
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise BuildError(f"{edit.file}: expected {edit.old!r} once, found it {text.count(edit.old)} times")
        path.write_text(text.replace(edit.old, edit.new))
    return tree


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compile_wheel(tree: Path, jobs: int) -> Path:
    """Compile the source tree into a wheel. Raises BuildError with the compiler's last words where that fails."""
    command = [sys.executable, "setup.py", "bdist_wheel", "--cpu_only", "--blas=openblas"]
    # Without -g0 setuptools compiles with debug symbols: twice the time, fifty times the size.
    environment = os.environ | {"CFLAGS": "-g0", "MAX_JOBS": str(jobs)}
    log = tree / "build.log"
    with log.open("w") as output:
        result = subprocess.run(command, cwd=tree, env=environment, stdout=output, stderr=output, check=False)
    wheels = sorted(tree.glob("dist/*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise BuildError("compiling failed:\n" + "\n".join(log.read_text().splitlines()[-30:]))
    return wheels[0]


def try_out(packages: Path | None) -> None:
    """Convolve two voxels, with the package in ``packages`` or the installed one. Raises BuildError if that fails."""
    environment = os.environ | ({"PYTHONPATH": str(packages)} if packages else {})
    result = subprocess.run(
        [sys.executable, "-c", SMOKE_TEST], env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise BuildError(f"the build does not work:\n{result.stderr.strip()[-1500:]}")


def install(wheel: Path) -> None:
    """Install the wheel beside this torch, with uv or pip, and nothing else."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    tool = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    reinstall = "--reinstall" if uv else "--force-reinstall"
    result = subprocess.run([*tool, "--no-deps", reinstall, str(wheel)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildError(f"installing failed: {result.stderr.strip()[-1000:]}")


def build(cache: Path, source: Path | None, jobs: int) -> Path:
    """The tried wheel of this Python and torch, from the cache or built now."""
    folder = cache / build_name()
    for wheel in folder.glob("*.whl"):
        return wheel
    check_tools()
    with tempfile.TemporaryDirectory(prefix="minkowski-") as scratch:
        tree = unpack_source(source or fetch_source(cache), Path(scratch))
        print(f"Compiling MinkowskiEngine {VERSION} with {jobs} jobs (about 7 minutes of one core)", flush=True)
        wheel = compile_wheel(tree, jobs)
        packages = Path(scratch) / "packages"
        shutil.unpack_archive(wheel, packages, "zip")
        try_out(packages)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / (wheel.name + ".part")
        shutil.copy(wheel, partial)
        return partial.rename(folder / wheel.name)


def main(
    cpu: Annotated[bool, typer.Option("--cpu", help="Build for the CPU (CUDA builds are not supported yet).")] = False,
    sdist: Annotated[
        Path | None, typer.Option(help=f"MinkowskiEngine-{VERSION}.tar.gz, instead of fetching it.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Where wheels are kept [default: VLG_CACHE/minkowski].")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Compilers at a time; each takes about 1 GB.")] = 2,
) -> None:
    """Build MinkowskiEngine for this Python and torch, try it, install it."""
    if not cpu:
        sys.exit("say which: --cpu (CUDA builds are not supported yet)")
    cache = cache or Path(os.environ.get("VLG_CACHE") or Path.home() / ".cache" / "vlg_lib") / "minkowski"
    try:
        wheel = build(cache, sdist, jobs)
        install(wheel)
        try_out(None)
    except BuildError as error:
        sys.exit(f"MinkowskiEngine was not installed. {error}")
    print(f"MinkowskiEngine {VERSION} is installed and works: {wheel} ({wheel.stat().st_size / 2**20:.2f} MB)")


if __name__ == "__main__":
    typer.run(main)
