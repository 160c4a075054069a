"""What build_minkowski.py changes in the source of MinkowskiEngine 0.5.4, and
why.

Each edit is needed by some release of Python, setuptools, CUDA or torch that
came after its last release (2021). None changes what is computed. (CCCL is
NVIDIA's name for thrust, cub and libcudacxx, which come with CUDA.)
"""

from dataclasses import dataclass
from pathlib import Path


class EditError(RuntimeError):
    """The source is not the one that the edits were written for."""


@dataclass(frozen=True)
class Edit:
    """One change of the source: ``old``, which occurs ``times`` times (None:
    some) in ``file``, becomes ``new``.
    """

    file: str
    old: str
    new: str
    times: int | None = 1


def _include(file: str, after: str, *headers: str) -> Edit:
    """CCCL headers that ``file`` uses and that other headers stopped bringing,
    put in ``after`` a line of it.
    """
    lines = "".join(f"#include <thrust/{header}.h>\n" for header in headers)
    return Edit(file, after, after + lines)


SDIST_EDITS = (
    # setup.py runs these two lines whatever it is asked for, and so removes a
    # working installation.
    Edit("setup.py", 'run_command("rm", "-rf", "build")\n', ""),
    Edit(
        "setup.py",
        'run_command("pip", "uninstall", "MinkowskiEngine", "-y")\n',
        "",
    ),
    # Functions that thrust instantiates here and in PyTorch must not become one
    # at run time (upstream's own later fix).
    Edit(
        "setup.py",
        'NVCC_FLAGS += ["-O3"]',
        'NVCC_FLAGS += ["-O3", "-Xcompiler=-fno-gnu-unique"]',
    ),
    # Python 3.10 dropped the abstract classes from `collections`.
    *(
        Edit(
            f"MinkowskiEngine/{file}.py",
            "from collections import Sequence\n",
            "from collections.abc import Sequence\n",
        )
        for file in (
            "MinkowskiCommon",
            "MinkowskiCoordinateManager",
            "MinkowskiTensorField",
            "utils/quantization",
        )
    ),
    Edit(
        "MinkowskiEngine/MinkowskiKernelGenerator.py",
        "from collections import Sequence, namedtuple\n",
        "from collections import namedtuple\nfrom collections.abc import"
        " Sequence\n",
    ),
    # PyTorch warns that an instance of an autograd function will be an error.
    # Only its static methods are called.
    *(
        Edit(
            f"MinkowskiEngine/Minkowski{file}.py",
            "Function()",
            "Function",
            times=None,
        )
        for file in (
            "Broadcast",
            "Convolution",
            "Interpolation",
            "Normalization",
            "Pooling",
            "Pruning",
            "SparseTensor",
        )
    ),
    *(
        Edit(
            f"MinkowskiEngine/Minkowski{file}.py",
            "Function()",
            "Function",
            times=None,
        )
        for file in ("TensorField", "Union")
    ),
)
"""What the source distribution needs. Upstream's last commit has some of them
already."""

_MAP = "src/3rdparty/concurrent_unordered_map.cuh"

CUDA_EDITS = (
    # CUDA 12.0: thrust::device, used by size(), is no longer declared by
    # <thrust/count.h>.
    _include(_MAP, "#include <thrust/count.h>\n", "execution_policy"),
    # CUDA 12.3: the old copy of nvtx3.hpp clashes with the toolkit's. It only
    # labels ranges for a profiler.
    # https://github.com/NVIDIA/MinkowskiEngine/issues/614
    Edit(_MAP, "#include <cudf/detail/nvtx/ranges.hpp>\n", ""),
    Edit(_MAP, "    CUDF_FUNC_RANGE();\n", ""),
    # CUDA 12.4: turning the unique_ptr with its deleter into the shared_ptr
    # that every caller keeps does not compile.
    # https://github.com/NVIDIA/MinkowskiEngine/issues/596
    Edit(
        _MAP,
        "return std::unique_ptr<Self, std::function<void(Self*)>>{",
        "return std::shared_ptr<Self>{",
    ),
    # CUDA 13.0: cudaMemPrefetchAsync takes a place and flags where it took the
    # number of a device.
    Edit(_MAP, "cudaMemPrefetchAsync(", "prefetch_to_device(", times=3),
    Edit(
        _MAP,
        "#include <type_traits>\n",
        """#include <type_traits>

static inline cudaError_t prefetch_to_device(
    void const* data, size_t bytes, int device, cudaStream_t stream)
{
#if CUDART_VERSION >= 13000
  cudaMemLocation place{};
  place.type = cudaMemLocationTypeDevice;
  place.id   = device;
  return cudaMemPrefetchAsync(data, bytes, place, 0, stream);
#else
  return cudaMemPrefetchAsync(data, bytes, device, stream);
#endif
}
""",
    ),
    # CUDA 13.0 (CCCL 3): thrust::unary_function is gone. Nothing uses the type
    # names that it gave.
    Edit(
        "src/coordinate_map_functors.cuh",
        """struct find_coordinate
    : public thrust::unary_function<uint32_t,
                                    thrust::pair<uint32_t, uint32_t>> {
""",
        "struct find_coordinate {\n",
    ),
    # CUDA 12.0: algorithms that came with other headers.
    _include(
        "src/coordinate_map_gpu.cu",
        "#include <thrust/iterator/transform_iterator.h>\n",
        "for_each",
        "iterator/zip_iterator",
        "remove",
        "scan",
        "sequence",
        "transform",
        "tuple",
        "unique",
    ),
    _include(
        "src/spmm.cu",
        "#include <torch/script.h>\n",
        "execution_policy",
        "iterator/zip_iterator",
        "reduce",
        "sort",
        "tuple",
    ),
    # PyTorch (found with 2.15): <ATen/cuda/CUDAUtils.h> uses tensors, and no
    # header before it brings them any more.
    Edit(
        "src/spmm.cu",
        "#include <ATen/cuda/CUDAUtils.h>\n",
        "#include <ATen/core/Tensor.h>\n#include <ATen/cuda/CUDAUtils.h>\n",
    ),
    # CUDA 12.8: an algorithm that came with another header.
    _include(
        "src/pooling_max_kernel.cu", "#include <thrust/reduce.h>\n", "sequence"
    ),
    # Any: included for a macro that nothing uses, and not among the headers
    # that PyTorch's own CUDA packages bring.
    Edit("src/common.hpp", "#include <curand.h>\n", ""),
    Edit("src/gpu.cuh", "#include <curand.h>\n", ""),
)
"""What a CUDA build needs, with the release of CUDA that first needs it;
written so that older ones still compile."""


def apply_edits(
    tree: Path, edits: tuple[Edit, ...], *, some_made: bool = False
) -> None:
    """Edit a source tree in place; with ``some_made`` an edit that has nothing
    to change is passed over.

    Raises EditError where a file is missing or a text is not found as often as
    it should be.
    """
    for edit in edits:
        path = tree / edit.file
        if not path.is_file():
            raise EditError(f"{edit.file}: no such file in the source")
        text = path.read_text(encoding="utf-8")
        found = text.count(edit.old)
        if found != (edit.times or max(found, 1)) and not (
            some_made and not found
        ):
            raise EditError(
                f"{edit.file}: expected {edit.old!r} {edit.times or 'some'}"
                f" times, found it {found} times"
            )
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
