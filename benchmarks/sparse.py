"""Speed and memory of sparse convolution: kernel maps, one layer, and a whole
MinkUNet.

    python benchmarks/sparse.py --voxels 5000 50000 --runs 5 --threads 1

Each line is one JSON object with ``name, ours, baseline, ratio, unit, runs,
threads`` (ratio > 1: ours is better): medians of runs in which ours and the
baseline take turns, in one process, on the same voxels; a third of the runs
above 100,000 voxels. ``CPU s`` are seconds of the processor; ``ours_wall,
baseline_wall`` are those of the clock, which count what else the machine does.
``--parts`` chooses; the baselines are

* maps: ``dictionary``, the kernel map from a Python dictionary of coordinates,
  and ``search per offset``, from one binary search an offset, without
  mirroring;
* layer: ``dense conv3d``, torch's convolution on the whole bounding box;
* network: ``plain autograd``, the network with layers that search each offset
  anew, share no map, and leave gather, product and scatter to autograd, which
  keeps what was gathered;
* engines: ``MinkowskiEngine``, the same layers and weights on the other engine,
  where installed (`make minkowski`);
* spconv: one layer of ``spconv`` on the CPU, where installed (it has no
  backward pass there);
* batches: the cost of a voxel in a batch of several copies of a room of at most
  10,000 voxels, against that of one.

The voxels are the surfaces of a room with furniture made of boxes.

What was tried in ``vlg_lib.sparse.functional`` and did not help, on a CPU (3^3,
96 -> 96 channels, 50,000 voxels; a pair costs about 360 ns, of which the
product takes 260, gathering 35, adding up 60): a gathered matrix and a product
in memory kept for all blocks; rows of the output gathered, added to by
``addmm`` and put back, instead of ``index_add_`` (+20 %); ``scatter_add_`` and
``index_put_`` (as slow, +50 % of the adding); oneDNN's products (as fast as the
default ones); a pass for the gradient of the features and another one for that
of the kernel. All products first and then one ``embedding_bag`` adds up in half
the time, but needs the memory of all pairs.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d

from vlg_lib.geometry.voxels import batch_coordinates, step
from vlg_lib.networks.mink_unet import ARCHITECTURES, MinkUNet, create_mink_unet
from vlg_lib.sparse import (
    Backend,
    Convolution,
    ConvolutionTranspose,
    CoordinateManager,
    SparseTensor,
    get_backend,
    kernel_offsets,
)

VOXELS_OF_A_ROOM = 110
"""Surface cells of the room below at one cell a metre, roughly: sets its
scale."""


def room(voxels: int, seed: int = 0) -> Tensor:
    """About ``voxels`` rows (0, x, y, z): the faces of a 5 x 4 x 2.6 m room and
    of twelve boxes in it.
    """
    scale = (voxels / VOXELS_OF_A_ROOM) ** 0.5
    generator = torch.Generator().manual_seed(seed)
    corners = [(torch.zeros(3), torch.tensor([5.0, 4.0, 2.6]))]
    for _ in range(12):
        low = torch.rand(3, generator=generator) * torch.tensor([4.0, 3.0, 0.6])
        corners.append(
            (low, low + 0.25 + 0.8 * torch.rand(3, generator=generator))
        )
    faces = []
    for low, high in corners:
        ranges = [
            torch.arange(int(a * scale), int(b * scale) + 1)
            for a, b in zip(low, high, strict=True)
        ]
        for axis in range(3):
            for end in (0, -1):
                faces.append(
                    torch.cartesian_prod(
                        *[
                            r[end][None] if i == axis else r
                            for i, r in enumerate(ranges)
                        ]
                    )
                )
    cells = torch.cat(faces).unique(dim=0)
    return torch.cat([torch.zeros_like(cells[:, :1]), cells], dim=1)


Pairs = list[tuple[Tensor, Tensor]]


def pairs_by_dictionary(coordinates: Tensor, kernel_size: int) -> Pairs:
    """The kernel map of a submanifold convolution, from a dictionary."""
    rows = {tuple(row): index for index, row in enumerate(coordinates.tolist())}
    pairs = []
    for dx, dy, dz in kernel_offsets(kernel_size):
        found = [
            (rows.get((b, x + dx, y + dy, z + dz)), index)
            for (b, x, y, z), index in rows.items()
        ]
        kept = torch.tensor(
            [pair for pair in found if pair[0] is not None]
        ).reshape(-1, 2)
        pairs.append((kept[:, 0], kept[:, 1]))
    return pairs


def pairs_by_search(
    inputs: Tensor, outputs: Tensor, kernel_size: int, spacing: int
) -> Pairs:
    """The kernel map between two lists of sorted keys, from one binary search
    an offset.
    """
    pairs = []
    for offset in kernel_offsets(kernel_size):
        wanted = outputs + step([spacing * d for d in offset])
        position = torch.searchsorted(inputs, wanted).clamp_(
            max=len(inputs) - 1
        )
        rows = (inputs[position] == wanted).nonzero().squeeze(1)
        pairs.append((position[rows], rows))
    return pairs


def plain_convolution(
    x: Tensor, kernel: Tensor, pairs: Pairs, size: int
) -> Tensor:
    """Gather, multiply, scatter, left to autograd."""
    out = x.new_zeros(size, kernel.shape[-1])
    for weight, (sources, targets) in zip(kernel, pairs, strict=True):
        out = out.index_add(0, targets, x[sources] @ weight)
    return out


class PlainConvolution(Convolution):
    """The layer as one would write it first."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        if self.pointwise:
            return super().forward(x)
        stride = x.stride * self.stride
        inputs = x.manager.grid(x.stride).keys
        outputs = x.manager.grid(stride).keys
        pairs = pairs_by_search(inputs, outputs, self.kernel_size, x.stride)
        out = plain_convolution(x.features, self.kernel, pairs, len(outputs))
        return SparseTensor(out, stride=stride, manager=x.manager)


class PlainConvolutionTranspose(ConvolutionTranspose):
    """The transposed layer as one would write it first."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        stride = x.stride // self.stride
        fine = x.manager.grid(stride).keys
        coarse = x.manager.grid(x.stride).keys
        pairs = [
            pair[::-1]
            for pair in pairs_by_search(fine, coarse, self.kernel_size, stride)
        ]
        out = plain_convolution(x.features, self.kernel, pairs, len(fine))
        return SparseTensor(out, stride=stride, manager=x.manager)


def plain_twin(network: MinkUNet, name: str, out_channels: int) -> MinkUNet:
    """The same network and weights on the plain layers."""
    engine = replace(
        network.engine,
        Convolution=PlainConvolution,
        ConvolutionTranspose=PlainConvolutionTranspose,
    )
    twin = MinkUNet(ARCHITECTURES[name], 3, out_channels, engine=engine)
    twin.load_state_dict(network.state_dict())
    return twin


def race(
    name: str,
    ours: Callable[..., object],
    baseline: Callable[..., object],
    runs: int,
    before: tuple[Callable[[], object], Callable[[], object]] | None = None,
    **facts: object,
) -> None:
    """Print one line: median seconds of each, taking turns, after one run of
    each to warm up.

    ``before``: what makes, off the clock, the argument of each run of ours and
    of the baseline.
    """
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "baseline": []}
    for _ in range(runs + 1):
        for turn, (who, function) in enumerate(
            (("ours", ours), ("baseline", baseline))
        ):
            given = () if before is None else (before[turn](),)
            start, wall = time.process_time(), time.perf_counter()
            function(*given)
            times[who].append(
                (time.process_time() - start, time.perf_counter() - wall)
            )
    cpu = {
        who: statistics.median(pair[0] for pair in pairs[1:])
        for who, pairs in times.items()
    }
    wall = {
        f"{who}_wall": round(
            statistics.median(pair[1] for pair in times[who][1:]), 5
        )
        for who in times
    }
    report(name, cpu["ours"], cpu["baseline"], "CPU s", runs, **wall, **facts)


def report(
    name: str,
    ours: float,
    baseline: float,
    unit: str,
    runs: int,
    **facts: object,
) -> None:
    """One JSON line."""
    line = {
        "name": name,
        "ours": round(ours, 5),
        "baseline": round(baseline, 5),
        "ratio": round(baseline / ours, 3),
    }
    line |= {
        "unit": unit,
        "runs": runs,
        "threads": torch.get_num_threads(),
        **facts,
    }
    print(json.dumps(line), flush=True)


def kept_megabytes(function: Callable[[], object]) -> float:
    """What autograd keeps for the backward pass, counting each piece of memory
    once.
    """
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = function()
    # alive until here, so that no address is used twice
    assert result is not None
    return sum(kept.values()) / 2**20


def race_kernel_maps(coordinates: Tensor, runs: int) -> None:
    """The map of a 3^3 and of a 5^3 kernel."""
    keys = CoordinateManager(coordinates).grid(1).keys
    for size in (3, 5):
        ours = lambda size=size: CoordinateManager(coordinates).kernel_map(
            1, 1, size
        )
        facts = {"voxels": len(coordinates)}
        name = f"kernel map {size}^3"
        race(
            f"{name}, against search per offset",
            ours,
            lambda s=size: pairs_by_search(keys, keys, s, 1),
            runs,
            **facts,
        )
        race(
            f"{name}, against dictionary",
            ours,
            lambda s=size: pairs_by_dictionary(coordinates, s),
            1,
            **facts,
        )


def race_layer(coordinates: Tensor, channels: int, runs: int) -> None:
    """One submanifold convolution against conv3d on the bounding box, forward
    and backward.
    """
    layer = Convolution(channels, channels, 3)
    features = torch.randn(
        len(coordinates), channels, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    cells = coordinates[:, 1:] - coordinates[:, 1:].min(0).values
    box = torch.zeros(1, channels, *(cells.max(0).values + 1).tolist())
    box[0, :, cells[:, 0], cells[:, 1], cells[:, 2]] = features.detach().T
    box.requires_grad_()
    weight = (
        layer.kernel.detach()
        .reshape(3, 3, 3, channels, channels)
        .permute(4, 3, 2, 1, 0)
        .contiguous()
        .requires_grad_()
    )
    x = SparseTensor(features, coordinates)
    facts = {"voxels": len(coordinates), "cells": box[0, 0].numel()}
    name = f"convolution 3^3 {channels}->{channels}, against dense conv3d"
    anew = lambda: layer(SparseTensor(features, coordinates))
    dense = lambda: conv3d(box, weight, padding=1)
    race(f"{name}, forward with kernel map", anew, dense, runs, **facts)
    race(f"{name}, forward", lambda: layer(x), dense, runs, **facts)
    ours = lambda: torch.autograd.grad(
        layer(x).features.sum(), (features, layer.kernel)
    )
    race(
        f"{name}, forward and backward",
        ours,
        lambda: torch.autograd.grad(dense().sum(), (box, weight)),
        runs,
        **facts,
    )


def race_network(coordinates: Tensor, name: str, runs: int) -> None:
    """A whole network with its kernel maps, against plain autograd; and what
    each keeps for the backward pass.
    """
    network = create_mink_unet(name, 3, 20)
    twin = plain_twin(network, name, 20)
    features = torch.randn(
        len(coordinates), 3, generator=torch.Generator().manual_seed(0)
    )
    facts = {"voxels": len(coordinates)}

    def forward(net: MinkUNet) -> Tensor:
        return net(SparseTensor(features, coordinates)).features

    def inference(net: MinkUNet) -> Tensor:
        with torch.no_grad():
            return forward(net)

    def training(net: MinkUNet) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            forward(net).square().mean(), list(net.parameters())
        )

    title = f"{name}, against plain autograd"
    race(
        f"{title}, forward",
        lambda: inference(network),
        lambda: inference(twin),
        runs,
        **facts,
    )
    race(
        f"{title}, forward and backward",
        lambda: training(network),
        lambda: training(twin),
        runs,
        **facts,
    )
    kept = [
        kept_megabytes(lambda net=net: forward(net)) for net in (network, twin)
    ]
    report(f"{title}, kept for the backward pass", *kept, "MB", 1, **facts)


@dataclass(frozen=True)
class Case:
    """One module on one engine: what a race calls."""

    module: nn.Module
    engine: Backend
    features: Tensor
    coordinates: Tensor

    def forward(self) -> Tensor:
        """The output of a training step, kernel maps included."""
        out: Tensor = self.module(
            self.engine.SparseTensor(self.features, self.coordinates)
        ).features
        return out

    def inference(self) -> None:
        """The same without a gradient to come."""
        with torch.no_grad():
            self.forward()

    def backward(self, out: Tensor) -> None:
        """The gradients of every parameter."""
        out.square().mean().backward()


def race_engines(
    coordinates: Tensor, name: str, channels: int, runs: int
) -> None:
    """One layer and a whole network, kernel maps included, against
    MinkowskiEngine.
    """
    makers: dict[str, tuple[int, Callable[[Backend], nn.Module]]] = {
        f"convolution 3^3 {channels}->{channels}": (
            channels,
            lambda e: e.Convolution(channels, channels, 3),
        ),
        name: (3, lambda e: create_mink_unet(name, 3, 20, backend=e.name)),
    }
    for title, (width, make) in makers.items():
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(
            len(coordinates), width, generator=generator
        ).requires_grad_(width == channels)
        us, them = (
            Case(make(engine), engine, features, coordinates.int())
            for engine in map(get_backend, ("torch", "minkowski"))
        )
        them.module.load_state_dict(us.module.state_dict())
        title = f"{title}, against MinkowskiEngine"
        facts = {"voxels": len(coordinates)}
        race(f"{title}, inference", us.inference, them.inference, runs, **facts)
        race(f"{title}, forward", us.forward, them.forward, runs, **facts)
        race(
            f"{title}, backward",
            us.backward,
            them.backward,
            runs,
            before=(us.forward, them.forward),
            **facts,
        )


def race_spconv(coordinates: Tensor, channels: int, runs: int) -> None:
    """One layer, forward, with and without its kernel map, against spconv on
    the CPU (which has no backward there).
    """
    import spconv.pytorch as spconv

    layer = Convolution(channels, channels, 3)
    theirs = spconv.SubMConv3d(
        channels, channels, 3, bias=False, indice_key="grid"
    )
    kernel = layer.kernel.detach().reshape(3, 3, 3, channels, channels)
    theirs.weight.data = kernel.permute(4, 2, 1, 0, 3).contiguous()
    features = torch.randn(
        len(coordinates), channels, generator=torch.Generator().manual_seed(0)
    )
    indices = coordinates.int().contiguous()
    box = (indices[:, 1:].amax(0) + 1).tolist()
    anew = lambda: spconv.SparseConvTensor(features, indices, box, batch_size=1)
    ours, known = SparseTensor(features, coordinates), anew()
    facts = {"voxels": len(coordinates)}
    title = f"convolution 3^3 {channels}->{channels}, against spconv"
    with torch.no_grad():
        difference = float(
            (layer(ours).features - theirs(known).features).abs().max()
        )
        known.indice_dict = theirs(known).indice_dict
        race(
            f"{title}, inference with kernel map",
            lambda: layer(SparseTensor(features, coordinates)),
            lambda: theirs(anew()),
            runs,
            largest_difference=difference,
            **facts,
        )
        race(
            f"{title}, inference",
            lambda: layer(ours),
            lambda: theirs(known),
            runs,
            **facts,
        )


def cost_of_a_batch(coordinates: Tensor, name: str, runs: int) -> None:
    """CPU microseconds a voxel for batches of 1, 4 and 16 copies of one room,
    forward and backward, taking turns.
    """
    network = create_mink_unet(name, 3, 20)
    sizes = (1, 4, 16)
    times: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    for _ in range(runs + 1):
        for size in sizes:
            batch = batch_coordinates([coordinates[:, 1:]] * size)
            features = torch.randn(
                len(batch), 3, generator=torch.Generator().manual_seed(0)
            )
            start = time.process_time()
            out = network(SparseTensor(features, batch)).features
            middle = time.process_time()
            out.square().mean().backward()
            times[size].append((middle - start, time.process_time() - middle))
    for index, part in enumerate(("forward", "backward")):
        cost = {
            size: (
                1e6
                * statistics.median(run[index] for run in times[size][1:])
                / (size * len(coordinates))
            )
            for size in sizes
        }
        for size in sizes[1:]:
            title = (
                f"{name}, cost of a voxel in a batch of {size} copies of a"
                f" room, against one, {part}"
            )
            report(
                title,
                cost[size],
                cost[1],
                "CPU us",
                runs,
                voxels=len(coordinates),
            )


PARTS = ("maps", "layer", "network", "engines", "spconv", "batches")


def main() -> None:
    """Run what was asked for at each number of voxels."""
    parser = argparse.ArgumentParser(
        description="sparse convolution: time and memory against baselines"
    )
    parser.add_argument("--voxels", type=int, nargs="+", default=[5000, 50_000])
    parser.add_argument(
        "--network", default="MinkUNet18A", choices=sorted(ARCHITECTURES)
    )
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "machine": platform.machine(),
                "cpu": torch.backends.cpu.get_cpu_capability(),
            }
        )
    )
    wanted = set(arguments.parts)
    for part, package in (("engines", "MinkowskiEngine"), ("spconv", "spconv")):
        if importlib.util.find_spec(package) is None:
            wanted.discard(part)
    for voxels in arguments.voxels:
        coordinates = room(voxels)
        runs = (
            arguments.runs if voxels <= 100_000 else max(1, arguments.runs // 3)
        )
        if "maps" in wanted:
            race_kernel_maps(coordinates, runs)
        if "layer" in wanted:
            race_layer(coordinates, arguments.channels, runs)
        if "network" in wanted:
            race_network(coordinates, arguments.network, runs)
        if "engines" in wanted:
            race_engines(
                coordinates, arguments.network, arguments.channels, runs
            )
        if "spconv" in wanted:
            race_spconv(coordinates, arguments.channels, runs)
        # so that sixteen rooms fit into memory
        if "batches" in wanted and voxels <= 10_000:
            cost_of_a_batch(coordinates, arguments.network, runs)


if __name__ == "__main__":
    main()
