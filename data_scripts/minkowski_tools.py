"""What compiling MinkowskiEngine needs of a machine: found here, or named with
the package that brings it.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

CBLAS = """#include_next <cblas.h>
#define cblas_sgemm scipy_cblas_sgemm
#define cblas_dgemm scipy_cblas_dgemm
#define cblas_saxpy scipy_cblas_saxpy
#define cblas_daxpy scipy_cblas_daxpy
"""
"""A cblas.h before that of the package scipy-openblas32, whose OpenBLAS puts a
prefix before every name."""

USES_BLAS = (
    "#include <cblas.h>\nint main() { double x = 1, y = 1; cblas_daxpy(1, x,"
    " &x, 1, &y, 1); return y != 2; }\n"
)
USES_CUDA = "".join(
    f"#include <{name}.h>\n"
    for name in ("cublas_v2", "cuda_runtime", "cusolverDn", "cusparse")
)
USES_CUDA += (
    "int main() { cusparseHandle_t handle; return cusparseCreate(&handle) +"
    " cudaGetLastError(); }\n"
)


class BuildError(RuntimeError):
    """What is missing, and how to get it."""


def detect_architectures() -> tuple[str, ...]:
    """The compute capabilities of the GPUs in sight, such as ("8.0", "9.0").
    BuildError where there are none.
    """
    found = {
        torch.cuda.get_device_capability(index)
        for index in range(torch.cuda.device_count())
    }
    if not found:
        raise BuildError(
            "no GPU is in sight: say what to build for, such as --arch 7.5"
            " (T4), 8.0 (A100), 8.6 (RTX 30), 8.9 (L4, RTX 40), 9.0 (H100,"
            " H200), 10.0 (B200) or 12.0 (RTX 50)"
        )
    return tuple(f"{major}.{minor}" for major, minor in sorted(found))


def compile_environment(folder: Path, *, cuda: bool) -> dict[str, str]:
    """Environment variables under which compilers and linkers find what they
    need; ``folder`` takes files for them.

    Raises BuildError naming the package of each thing that is missing.
    """
    if platform.system() != "Linux":
        raise BuildError(
            "MinkowskiEngine builds on Linux only, this is"
            f" {platform.system()}: use the backend 'torch'"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # ninja may come from pip
    path = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    environment = _openblas(folder) | {"PATH": path}
    missing = []
    if shutil.which("g++") is None:
        missing.append(
            "a C++ compiler (apt-get install g++; dnf install gcc-c++)"
        )
    elif not _links(USES_BLAS, environment, "-lopenblas"):
        missing.append(
            "OpenBLAS (pip install scipy-openblas32; or apt-get install"
            " libopenblas-dev)"
        )
    if shutil.which("ninja", path=path) is None:
        missing.append("ninja (pip install ninja)")
    missing += [
        f"{name} (pip install {name})"
        for name in ("setuptools", "wheel")
        if not importlib.util.find_spec(name)
    ]
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append(
            "Python's headers (apt-get install python3-dev; dnf install"
            " python3-devel)"
        )
    if cuda:
        home, wanted = _cuda_home()
        environment |= {"CUDA_HOME": str(home)}
        for name, found in _packaged_cuda(home, folder).items():
            environment[name] = os.pathsep.join(
                filter(None, (environment.get(name), found))
            )
        flags = (
            f"-I{home}/include",
            f"-L{home}/lib64",
            f"-L{home}/lib",
            "-lcusparse",
            "-lcudart",
            "-shared",
            "-fPIC",
        )
        if shutil.which("g++") and not _links(USES_CUDA, environment, *flags):
            missing.append(
                "CUDA's libraries and headers (apt-get install"
                f" cuda-libraries-dev-{wanted} from NVIDIA's repository, or pip"
                " install nvidia-cublas nvidia-cusparse nvidia-cusolver)"
            )
    if missing:
        raise BuildError("missing: " + "; ".join(missing))
    for name, separator in (
        ("CPATH", os.pathsep),
        ("LIBRARY_PATH", os.pathsep),
        ("LDFLAGS", " "),
    ):
        if name in environment and os.environ.get(name):
            environment[name] += separator + os.environ[name]
    return environment


def openblas_name() -> str:
    """Which OpenBLAS a build takes: that of the package scipy-openblas32 where
    it is installed, else the system's.
    """
    return (
        "system"
        if importlib.util.find_spec("scipy_openblas32") is None
        else "scipy"
    )


def _openblas(folder: Path) -> dict[str, str]:
    """Where the OpenBLAS of a package is; nothing for the system's, which
    compilers find by themselves.
    """
    if openblas_name() == "system":
        return {}
    import scipy_openblas32

    library = Path(scipy_openblas32.get_lib_dir())
    (folder / "cblas.h").write_text(CBLAS)
    _link(folder / "libopenblas.so", library / "libscipy_openblas.so")
    return {
        "CPATH": f"{folder}{os.pathsep}{scipy_openblas32.get_include_dir()}",
        # At run time the library is beside the extension, or else where it is
        # now.
        "LDFLAGS": (
            f"-L{folder} -Wl,-rpath,$ORIGIN/../scipy_openblas32/lib:{library}"
        ),
    }


def _cuda_home() -> tuple[Path, str]:
    """The folder of a CUDA toolkit whose compiler fits this PyTorch, and
    PyTorch's own release of CUDA, such as 13-2.

    Raises BuildError where there is none.
    """
    if torch.version.cuda is None:
        raise BuildError(
            f"this PyTorch ({torch.__version__}) knows no CUDA: install a build"
            " of it that does"
        )
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which("nvcc", path=f"{home}/bin" if home else None)
    wanted = torch.version.cuda.replace(".", "-")
    if nvcc is None:
        raise BuildError(
            "missing: the CUDA compiler"
            f" nvcc{f' in {home}/bin' if home else ''} (apt-get install"
            f" cuda-nvcc-{wanted} from NVIDIA's repository; or conda install -c"
            " nvidia cuda-nvcc); set CUDA_HOME to the toolkit's folder"
        )
    release = re.search(r"release (\d+)\.(\d+)", _output(nvcc, "--version"))
    if release is None or release[1] != torch.version.cuda.split(".")[0]:
        raise BuildError(
            f"{nvcc} is of CUDA"
            f" {'.'.join(release.groups()) if release else 'unknown'}, this"
            f" PyTorch of {torch.version.cuda}: the first numbers must agree"
            f" (apt-get install cuda-nvcc-{wanted})"
        )
    top = re.search(
        r"^#\$ _HERE_=(.*)$",
        _output(nvcc, "--dryrun", "-E", "none.cu"),
        re.MULTILINE,
    )
    # nvcc may be a script
    return (
        Path(f"{top[1]}/nvcc" if top else nvcc).resolve().parent.parent,
        wanted,
    )


def _packaged_cuda(home: Path, folder: Path) -> dict[str, str]:
    """Headers and libraries of the CUDA packages that PyTorch brings, for a
    toolkit that holds a compiler alone.
    """
    packages = Path(torch.__file__).parent.parent / "nvidia"
    found: dict[str, list[str]] = {"CPATH": [], "LIBRARY_PATH": [str(folder)]}
    for name in ("cublas_v2", "cusolverDn", "cusparse"):
        if not (home / "include" / f"{name}.h").exists():
            found["CPATH"] += [
                str(path.parent)
                for path in sorted(packages.glob(f"*/include/{name}.h"))
            ]
    # from CUDA 13 on thrust lies there; nvcc knows it, g++ does not
    if (home / "include" / "cccl").is_dir():
        found["CPATH"].append(str(home / "include" / "cccl"))
    if not any(home.glob("lib*/libcusparse.so")):
        for path in sorted(packages.glob("*/lib/libcusparse.so.*")):
            _link(folder / "libcusparse.so", path)
    return {
        name: os.pathsep.join(dict.fromkeys(paths))
        for name, paths in found.items()
    }


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _output(*command: str) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False
    )
    return result.stdout + result.stderr


def _links(program: str, environment: dict[str, str], *flags: str) -> bool:
    """Whether g++ compiles and links a small C++ program."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "try.cpp"
        source.write_text(program)
        command = [
            "g++",
            str(source),
            "-o",
            f"{folder}/try",
            *environment.get("LDFLAGS", "").split(),
            *flags,
        ]
        return (
            subprocess.run(
                command,
                env=os.environ | environment,
                capture_output=True,
                check=False,
            ).returncode
            == 0
        )
