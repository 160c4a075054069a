"""One layer of today's other sparse engines beside ours, on a GPU; and whether
they can be installed at all.

    python benchmarks/engines.py --voxels 50000 200000
    python benchmarks/engines.py --install

The layer is a submanifold convolution of 3^3 offsets on the surfaces of a room,
with ours and theirs on the same voxels, features and weights, its kernel map
known. Each line is one JSON object with ``name, ours, baseline, ratio, unit,
runs`` (ratio > 1: ours is better): medians of milliseconds of the device,
taking turns, of a forward pass and of a forward and a backward one. Outputs
must agree (``largest_difference``): an engine that computes something else is
told so, and has no ratio. An engine that is not installed, does not import, or
finds no CUDA device is one line that says so.

``--install`` measures nothing. It installs each engine, without what it depends
on, in a temporary environment that sees the packages of this one, imports it,
and prints how that ended. Engines that are built from source take minutes.
"""

import argparse
import importlib
import json
import re
import statistics
import subprocess
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from sparse import room
from torch import Tensor

from vlg_lib.sparse import Convolution, SparseTensor, get_backend

Run = Callable[[Tensor], Tensor]
"""From the features of the voxels, in their order, to those of the layer."""
Weights = dict[str, Tensor]

DTYPES = {"float32": torch.float32, "float16": torch.float16}
AGREES = {"float32": 1e-3, "float16": 3e-2}
"""How far outputs of about unit size may be apart; TF32 is off."""
LIMIT_S = 1200
"""Seconds that an installation may take."""


@dataclass(frozen=True)
class Layer:
    """The layer that all engines run: our kernel, and where the voxels are."""

    kernel: Tensor
    """(27, C_in, C_out), x fastest."""
    coordinates: Tensor
    """(N, 4) int32, from 0: cloud, x, y, z."""

    @property
    def zeros(self) -> Tensor:
        """Features that say nothing."""
        return self.kernel.new_zeros(
            len(self.coordinates), self.kernel.shape[1]
        )

    @property
    def cube(self) -> Tensor:
        """The kernel as (z, y, x, C_in, C_out)."""
        return self.kernel.reshape(3, 3, 3, *self.kernel.shape[1:])

    @property
    def z_fastest(self) -> Tensor:
        """The kernel as (27, C_in, C_out) in the order of other engines."""
        swapped = self.cube.permute(2, 1, 0, 3, 4)
        return swapped.reshape(self.kernel.shape).contiguous()


def parameter(tensor: Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor.detach().clone().contiguous())


def our_layer(layer: Layer, backend: str = "torch") -> tuple[Run, Weights]:
    """Ours, or MinkowskiEngine through the same interface."""
    engine = get_backend(backend)
    ours = engine.Convolution(*layer.kernel.shape[1:], 3)
    ours.kernel = parameter(layer.kernel)
    places = layer.coordinates
    if backend == "torch":
        known = SparseTensor(layer.zeros, places).manager
        place = lambda x: SparseTensor(x, manager=known)
    else:
        import MinkowskiEngine

        first = engine.SparseTensor(layer.zeros, places)
        place = lambda x: MinkowskiEngine.SparseTensor(
            x,
            coordinate_map_key=first.coordinate_map_key,
            coordinate_manager=first.coordinate_manager,
        )
    values = lambda y: y.features if backend == "torch" else y.F
    return lambda x: values(ours(place(x))), {"kernel": ours.kernel}


def spconv_layer(layer: Layer, package: str) -> tuple[Run, Weights]:
    """spconv, or another engine with its interface: (C_out, x, y, z, C_in)."""
    engine = importlib.import_module(f"{package}.pytorch")
    theirs = engine.SubMConv3d(
        *layer.kernel.shape[1:], 3, bias=False, indice_key="grid"
    ).to(layer.kernel)
    theirs.weight = parameter(layer.cube.permute(4, 2, 1, 0, 3))
    places = layer.coordinates.int().contiguous()
    box = (places[:, 1:].amax(dim=0) + 1).tolist()
    place = lambda x: engine.SparseConvTensor(x, places, box, batch_size=1)
    with torch.no_grad():
        known = theirs(place(layer.zeros)).indice_dict

    def run(x: Tensor) -> Tensor:
        tensor = place(x)
        tensor.indice_dict = known
        return theirs(tensor).features

    return run, {"weight": theirs.weight}


def warpconvnet_layer(layer: Layer) -> tuple[Run, Weights]:
    """WarpConvNet: (27, C_in, C_out), z fastest; its voxels keep the map."""
    from warpconvnet.geometry.types.voxels import Voxels
    from warpconvnet.nn.modules.sparse_conv import SpatiallySparseConv

    theirs = SpatiallySparseConv(
        *layer.kernel.shape[1:], kernel_size=3, bias=False
    ).to(layer.kernel)
    theirs.weight = parameter(layer.z_fastest)
    places = layer.coordinates[:, 1:].int().contiguous()
    offsets = torch.tensor([0, len(places)])
    voxels = Voxels(places, layer.zeros, offsets=offsets)
    return (
        lambda x: theirs(voxels.replace(batched_features=x)).feature_tensor,
        {"weight": theirs.weight},
    )


def lattice_layer(layer: Layer) -> tuple[Run, Weights]:
    """torch-lattice, TorchSparse's successor: (27, C_in, C_out), z fastest."""
    from torch_lattice import SparseTensor as TheirTensor
    from torch_lattice.nn import SubmConv3d

    theirs = SubmConv3d(*layer.kernel.shape[1:], 3).to(layer.kernel)
    theirs.weight = parameter(layer.z_fastest)
    places = layer.coordinates.int().contiguous()
    known = TheirTensor(layer.zeros, places)
    return (
        lambda x: theirs(known.replace(feats=x)).feats,
        {"weight": theirs.weight},
    )


def fvdb_layer(layer: Layer) -> tuple[Run, Weights]:
    """fVDB: (C_out, C_in, x, y, z); its voxels have an order of their own."""
    import fvdb

    places = layer.coordinates[:, 1:].int().contiguous()
    ijk = fvdb.JaggedTensor([places])
    grid = fvdb.GridBatch.from_ijk(ijk)
    row = grid.ijk_to_index(ijk).jdata.long()
    back = torch.empty_like(row)
    back[row] = torch.arange(len(row), device=row.device)
    plan = fvdb.ConvolutionPlan.from_grid_batch(3, 1, grid, grid)
    weight = parameter(layer.cube.permute(4, 3, 2, 1, 0))

    def run(x: Tensor) -> Tensor:
        data = grid.jagged_like(x.index_select(0, back))
        return plan.execute(data, weight).jdata.index_select(0, row)

    return run, {"weight": weight}


@dataclass(frozen=True)
class Engine:
    """Another engine."""

    package: str
    """What pip calls it."""
    release: str
    """The release that the code here was written for; "" for any."""
    module: str
    """What is imported."""
    make: Callable[[Layer], tuple[Run, Weights]]
    """Its layer."""


ENGINES = (
    Engine("warpconvnet", "1.8.2", "warpconvnet", warpconvnet_layer),
    Engine("torch-lattice", "0.5.0", "torch_lattice", lattice_layer),
    Engine(
        "spconv-triton",
        "1.0.0",
        "spconv_triton.pytorch",
        partial(spconv_layer, package="spconv_triton"),
    ),
    Engine("fvdb-core", "0.6.0", "fvdb", fvdb_layer),
    Engine(
        "MinkowskiEngine",
        "",
        "MinkowskiEngine",
        partial(our_layer, backend="minkowski"),
    ),
    Engine(
        "spconv-cu126",
        "",
        "spconv.pytorch",
        partial(spconv_layer, package="spconv"),
    ),
)


def tell(engine: Engine, outcome: str, **facts: Any) -> None:
    """One JSON line of an engine that is not measured."""
    if not torch.cuda.is_available():
        outcome += "; no CUDA device here: not measured"
    line = {"name": engine.package, "outcome": outcome, **facts}
    print(json.dumps(line), flush=True)


def obstacle(engine: Engine) -> str | None:
    """Why an engine cannot be measured here; None where it can."""
    try:
        version(engine.package)
    except PackageNotFoundError:
        return "not installed"
    try:
        importlib.import_module(engine.module)
    # whatever the import of a binary raises
    except Exception as error:
        return (
            f"does not import: not measured ({type(error).__name__}: {error})"
        )
    if not torch.cuda.is_available():
        return "imports"
    return None


def milliseconds(run: Callable[[], object]) -> float:
    """What a call takes on the device."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def both_ways(run: Run, x: Tensor, weights: Weights) -> Callable[[], None]:
    """A forward pass, and the gradients of features and weights."""
    leaf = x.clone().requires_grad_()

    def step() -> None:
        torch.autograd.grad(run(leaf).sum(), [leaf, *weights.values()])

    return step


def without_gradients(run: Run, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        with torch.no_grad():
            run(x)

    return step


def race(engine: Engine, layer: Layer, runs: int) -> Iterator[dict[str, Any]]:
    """The lines of one engine, on the voxels and in the type of ``layer``."""
    kind = str(layer.kernel.dtype).removeprefix("torch.")
    ours, our_weights = our_layer(layer)
    theirs, their_weights = engine.make(layer)
    x = torch.randn(
        len(layer.coordinates),
        layer.kernel.shape[1],
        generator=torch.Generator().manual_seed(0),
    ).to(layer.kernel)
    with torch.no_grad():
        difference = float((ours(x).float() - theirs(x).float()).abs().max())
    facts = {
        "voxels": len(x),
        "channels": x.shape[1],
        "dtype": kind,
        "device": torch.cuda.get_device_name(),
        "largest_difference": difference,
    }
    title = (
        f"convolution 3^3, against {engine.package} {version(engine.package)}"
    )
    if difference > AGREES[kind]:
        yield {"name": title, "outcome": "computes something else", **facts}
        return
    for way, pair in (
        ("forward", [without_gradients(run, x) for run in (ours, theirs)]),
        (
            "forward and backward",
            [
                both_ways(ours, x, our_weights),
                both_ways(theirs, x, their_weights),
            ],
        ),
    ):
        times: list[list[float]] = [[], []]
        for number in range(runs + 10):  # some compile and tune first
            for side, step in enumerate(pair):
                taken = milliseconds(step)
                if number >= 10:
                    times[side].append(taken)
        mine, other = (statistics.median(side) for side in times)
        yield {
            "name": f"{title}, {way}",
            "ours": round(mine, 4),
            "baseline": round(other, 4),
            "ratio": round(other / mine, 3),
            "unit": "ms",
            "runs": runs,
            **facts,
        }


def measure(voxels: list[int], channels: int, runs: int) -> None:
    """All engines that can be measured; a line for each other one."""
    for engine in ENGINES:
        if reason := obstacle(engine):
            tell(engine, reason)
            continue
        for count in voxels:
            places = room(count).int()
            places[:, 1:] -= places[:, 1:].amin(dim=0)
            for dtype in DTYPES.values():
                torch.manual_seed(0)
                kernel = Convolution(channels, channels, 3).kernel.detach()
                layer = Layer(kernel.to("cuda", dtype), places.cuda())
                try:
                    for line in race(engine, layer, runs):
                        print(json.dumps(line), flush=True)
                # one engine's failure is a finding, not the end
                except Exception as error:
                    tell(
                        engine,
                        f"fails: {type(error).__name__}: {error}",
                        voxels=count,
                        dtype=str(dtype),
                    )


def try_to_install(engine: Engine) -> None:
    """Install an engine in an environment of its own, import it, and tell."""
    wanted = engine.package + (f"=={engine.release}" if engine.release else "")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        own = next(Path(folder).glob("lib/python*/site-packages"))
        # what is installed here is seen there, and never changed
        (own / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [python, "-m", "pip", "install", "--no-deps", "-q", wanted]
        ended, said = _run([*pip, "--disable-pip-version-check"], folder)
        if ended:
            tell(engine, "does not install", version=wanted, said=said)
            return
        ended, said = _run([python, "-c", f"import {engine.module}"], folder)
        outcome = "installs, does not import" if ended else "installs, imports"
        tell(engine, outcome, version=wanted, said=said)


def _run(command: list[Any], folder: str) -> tuple[int, list[str]]:
    """The exit status, and the lines that name an error."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, [f"took more than {LIMIT_S} s"]
    if not done.returncode:
        return 0, []
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    named = [line for line in lines if re.search("error|failed", line, re.I)]
    # pip builds in temporary folders of its own
    temporary = re.escape(tempfile.gettempdir()) + r"/\S+/"
    shown = [re.sub(temporary, "", line)[:240] for line in named or lines]
    return done.returncode, list(dict.fromkeys(shown))[:8]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--voxels", type=int, nargs="+", default=[50_000])
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument(
        "--install", action="store_true", help="try to install each engine"
    )
    options = parser.parse_args()
    if options.install:
        for engine in ENGINES[:4]:
            try_to_install(engine)
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    measure(options.voxels, options.channels, options.runs)


if __name__ == "__main__":
    main()
