"""Build MinkowskiEngine 0.5.4 for this Python and this torch, from its pinned
source with a few edits.

    python data_scripts/build_minkowski.py --cpu
    python data_scripts/build_minkowski.py --cuda

``--cuda`` builds for the GPUs in sight; elsewhere say ``--arch 8.0``.

MinkowskiEngine has had no release since 2021, and `pip install MinkowskiEngine`
fails on every current Python: its setup.py calls pip, asks numpy for a module
that is gone, and imports names that Python 3.10 moved. Here the source
distribution is fetched without being run, checked against its SHA-256, edited
(minkowski_edits.py), compiled into a wheel, tried out in a folder of its own
and only then installed. The wheel is kept in a cache: a second call takes
seconds. A build that fails leaves an existing installation as it was.
minkowski_tools.py says what is needed.

Compiling takes about 7 minutes of one core for the CPU, and about 40 for CUDA
and one architecture.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from minkowski_edits import (
    CUDA_EDITS,
    SDIST_EDITS,
    Edit,
    EditError,
    apply_edits,
)
from minkowski_tools import (
    BuildError,
    compile_environment,
    detect_architectures,
    openblas_name,
)

RELEASE = "0.5.4"
SHA256 = "b1879c00d0b0b1d30ba622cce239886a7e3c78ee9da1064cdfe2f64c2ab15f94"
UPSTREAM = "02fc608bea4c0549b0a7b00ca1bf15dee4a0b228"
"""The last commit of https://github.com/NVIDIA/MinkowskiEngine, for
--source."""

SMOKE_TEST = """
import torch  # before MinkowskiEngine, whose extension needs torch's libraries
import MinkowskiEngine as ME
cuda = CUDA and torch.cuda.is_available()
assert ME.is_cuda_available() or not CUDA, "built without CUDA"
for device in ("cpu", "cuda") if cuda else ("cpu",):
    where = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], device=device).int()
    x = ME.SparseTensor(torch.tensor([[1.0], [2.0]], device=device), where)
    layer = ME.MinkowskiConvolution(1, 1, kernel_size=3, dimension=3).to(device)
    torch.nn.init.ones_(layer.kernel)
    y = layer(x)
    y.F.sum().backward()
    assert y.F.flatten().tolist() == [3.0, 3.0], "wrong numbers on " + device
    assert float(layer.kernel.grad.sum()) == 6.0, "wrong numbers on " + device
"""


@dataclass(frozen=True)
class Build:
    """What is built. ``architectures``: CUDA compute capabilities, none for the
    CPU; ``upstream``: its last commit.
    """

    architectures: tuple[str, ...] = ()
    upstream: bool = False

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits of the source but that of its version."""
        return SDIST_EDITS + (CUDA_EDITS if self.architectures else ())

    @property
    def version(self) -> str:
        """The version of the wheel. It names what the wheel depends on, and so
        `pip list` shows what is installed.
        """
        edits = repr([openblas_name(), *(astuple(edit) for edit in self.edits)])
        parts = ["cpu"]
        if self.architectures:
            parts = [
                f"cuda{torch.version.cuda}",
                *(f"sm{arch.replace('.', '')}" for arch in self.architectures),
            ]
        parts += [
            f"torch{torch.__version__}",
            f"g{UPSTREAM[:7]}" if self.upstream else "sdist",
        ]
        parts += ["e" + hashlib.sha256(edits.encode()).hexdigest()[:8]]
        return f"{RELEASE}+" + re.sub(
            r"[^a-z0-9.]", ".", ".".join(parts).lower()
        )

    @property
    def name(self) -> str:
        """The wheel's folder in the cache."""
        python = f"cp{sys.version_info.major}{sys.version_info.minor}"
        machine = f"{platform.system()}-{platform.machine()}"
        return f"{self.version}-{python}-{machine}".lower()


def fetch_sdist(folder: Path) -> Path:
    """The source distribution in ``folder``, fetched where it is not there yet.
    It is not run.

    (`pip download` would run its setup.py to learn its name.) Raises BuildError
    where it cannot be had.
    """
    archive = folder / f"MinkowskiEngine-{RELEASE}.tar.gz"
    if archive.exists() and _sha256(archive) == SHA256:
        return archive
    if (uv := _uv()) is None:
        raise BuildError(
            f"fetching needs uv (pip install uv); or get {archive.name}"
            " yourself and give it as --sdist"
        )
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        uv,
        "tool",
        "run",
        "unearth",
        "--no-binary",
        "--download",
        str(folder),
        f"MinkowskiEngine=={RELEASE}",
    ]
    fetched = subprocess.run(
        command, capture_output=True, text=True, check=False
    )
    if fetched.returncode != 0 or not archive.exists():
        raise BuildError(
            f"could not fetch {archive.name}: {fetched.stderr.strip()[-500:]}"
        )
    return archive


def unpack_sdist(archive: Path, folder: Path) -> Path:
    """The source tree of the release in ``folder``. Raises BuildError where the
    archive is not the pinned one.
    """
    if not archive.is_file():
        raise BuildError(f"{archive}: no such file")
    if _sha256(archive) != SHA256:
        raise BuildError(
            f"{archive} is not MinkowskiEngine {RELEASE}: its SHA-256 is"
            f" {_sha256(archive)}, not {SHA256}"
        )
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / f"MinkowskiEngine-{RELEASE}"


def unpack_upstream(checkout: Path, folder: Path) -> Path:
    """The source tree of the pinned commit in ``folder``, out of a git
    checkout; changes that lie there do not count.

    Git's names of commits are hashes of their contents. Raises BuildError where
    the commit is not there.
    """
    command = [
        "git",
        "-C",
        str(checkout),
        "archive",
        "--prefix=upstream/",
        "--output",
        str(folder / "upstream.tar"),
    ]
    result = subprocess.run(
        [*command, UPSTREAM], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise BuildError(
            f"{checkout} holds no commit {UPSTREAM} of MinkowskiEngine:"
            f" {result.stderr.strip()[-300:]}"
        )
    with tarfile.open(folder / "upstream.tar") as tar:
        tar.extractall(folder, filter="data")
    return folder / "upstream"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _uv() -> str | None:
    return shutil.which(
        "uv", path=str(Path(sys.executable).parent)
    ) or shutil.which("uv")


def edit_source(tree: Path, build: Build) -> None:
    """Apply the edits of a build to a source tree, and name the build in its
    version.
    """
    apply_edits(tree, SDIST_EDITS, some_made=build.upstream)
    apply_edits(tree, build.edits[len(SDIST_EDITS) :])
    version = 'version=find_version("MinkowskiEngine", "__init__.py")'
    apply_edits(
        tree, (Edit("setup.py", version, f'version="{build.version}"'),)
    )


def compile_wheel(
    tree: Path, build: Build, environment: dict[str, str], jobs: int, log: Path
) -> Path:
    """Compile the source tree into a wheel. Raises BuildError with the
    compiler's errors where that fails.
    """
    target = "--force_cuda" if build.architectures else "--cpu_only"
    command = [
        sys.executable,
        "setup.py",
        "bdist_wheel",
        target,
        "--blas=openblas",
    ]
    # Without -g0 setuptools compiles with debug symbols: twice the time, fifty
    # times the size.
    settings = {
        "CFLAGS": "-g0",
        "MAX_JOBS": str(jobs),
        "TORCH_CUDA_ARCH_LIST": ";".join(build.architectures),
    }
    with log.open("w") as output:
        result = subprocess.run(
            command,
            cwd=tree,
            env=os.environ | environment | settings,
            stdout=output,
            stderr=output,
            check=False,
        )
    wheels = sorted(tree.glob("dist/*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        lines = log.read_text(errors="replace").splitlines()
        errors = [
            line
            for line in lines
            if re.search(r"error( #\d+)?:|error:|undefined|cannot find", line)
        ]
        raise BuildError(
            f"compiling failed (all of it: {log}):\n"
            + "\n".join(errors[:15] or lines[-15:])
        )
    return wheels[0]


def try_out(build: Build, wheel: Path | None = None) -> None:
    """Convolve two voxels, with the installed package or with that of
    ``wheel``. Raises BuildError if that fails.
    """
    with tempfile.TemporaryDirectory(prefix="minkowski-") as packages:
        if wheel is not None:
            shutil.unpack_archive(wheel, packages, "zip")
        script = f"CUDA = {bool(build.architectures)}\n{SMOKE_TEST}"
        result = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | ({"PYTHONPATH": packages} if wheel else {}),
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode != 0:
        raise BuildError(
            f"the build does not work:\n{result.stderr.strip()[-1500:]}"
        )


def is_installed(build: Build) -> bool:
    """Whether this build is installed, and works; a build for CUDA holds the
    one for the CPU.
    """
    try:
        version = importlib.metadata.version("MinkowskiEngine")
        architectures = tuple(
            f"{major}.{minor}"
            for major, minor in re.findall(r"\.sm(\d+)(\d)", version)
        )
        installed = Build(architectures, build.upstream)
        if installed.version != version or installed.architectures != (
            build.architectures or architectures
        ):
            return False
        try_out(installed)
    except (importlib.metadata.PackageNotFoundError, BuildError):
        return False
    return True


def install(wheel: Path) -> None:
    """Install the wheel beside this torch, with uv or pip, and nothing else."""
    uv = _uv()
    tool = (
        [uv, "pip", "install", "--python", sys.executable]
        if uv
        else [sys.executable, "-m", "pip", "install"]
    )
    reinstall = "--reinstall" if uv else "--force-reinstall"
    result = subprocess.run(
        [*tool, "--no-deps", reinstall, str(wheel)],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise BuildError(f"installing failed: {result.stderr.strip()[-1000:]}")


def make_wheel(
    build: Build,
    cache: Path,
    sdist: Path | None,
    checkout: Path | None,
    jobs: int,
) -> Path:
    """The wheel of a build, from the cache or compiled now, tried out before it
    is kept.
    """
    folder = cache / build.name
    for wheel in folder.glob("*.whl"):
        try_out(build, wheel)
        return wheel
    with tempfile.TemporaryDirectory(prefix="minkowski-") as scratch:
        environment = compile_environment(
            Path(scratch) / "found", cuda=bool(build.architectures)
        )
        if checkout is None:
            tree = unpack_sdist(sdist or fetch_sdist(cache), Path(scratch))
        else:
            tree = unpack_upstream(checkout, Path(scratch))
        edit_source(tree, build)
        minutes = 7 + 35 * len(build.architectures)
        print(
            f"Compiling {build.version} in {jobs} jobs: about {minutes} minutes"
            " of one core",
            flush=True,
        )
        folder.mkdir(parents=True, exist_ok=True)
        wheel = compile_wheel(
            tree, build, environment, jobs, folder / "build.log"
        )
        try_out(build, wheel)
        partial = folder / (wheel.name + ".part")
        shutil.copy(wheel, partial)
        return partial.rename(folder / wheel.name)


def chosen_build(
    cpu: bool, cuda: bool, arch: list[str] | None, upstream: bool
) -> Build:
    """What the options ask for. Raises BuildError where they contradict each
    other.
    """
    if cpu == cuda:
        raise BuildError("Say which: --cpu or --cuda")
    for name in arch or ():
        if cpu or not re.fullmatch(r"\d+\.\d", name):
            raise BuildError(
                "--arch is a compute capability such as 8.0, with --cuda;"
                f" found {name!r}"
            )
    if cpu:
        return Build(upstream=upstream)
    return Build(tuple(sorted(set(arch or detect_architectures()))), upstream)


def main(
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Build for the CPU.")
    ] = False,
    cuda: Annotated[
        bool, typer.Option("--cuda", help="Build for CUDA (and the CPU).")
    ] = False,
    arch: Annotated[
        list[str] | None,
        typer.Option(help="Compute capability, such as 8.0 [default: detect]."),
    ] = None,
    sdist: Annotated[
        Path | None,
        typer.Option(
            help=f"MinkowskiEngine-{RELEASE}.tar.gz, instead of fetching."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(help=f"A checkout of upstream that holds {UPSTREAM[:7]}."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Where wheels are kept [default: VLG_CACHE/minkowski]."
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Compilers at a time, of 1 to 3 GB each.")
    ] = os.cpu_count() or 1,
) -> None:
    """Build MinkowskiEngine for this Python and torch, try it, install it."""
    cache = (
        cache
        or Path(
            os.environ.get("VLG_CACHE") or Path.home() / ".cache" / "vlg_lib"
        )
        / "minkowski"
    )
    try:
        build = chosen_build(cpu, cuda, arch, source is not None)
        if is_installed(build):
            print(f"MinkowskiEngine {build.version} is installed and works")
            return
        wheel = make_wheel(build, cache, sdist, source, jobs)
        install(wheel)
        try_out(build)
    except (BuildError, EditError) as error:
        sys.exit(f"MinkowskiEngine was not installed. {error}")
    size = wheel.stat().st_size / 2**20
    print(
        f"MinkowskiEngine {build.version} is now installed and works (wheel of"
        f" {size:.2f} MB in {wheel.parent})"
    )


if __name__ == "__main__":
    typer.run(main)
