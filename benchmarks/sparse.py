"""Speed and memory of sparse convolution: kernel maps, one layer, and a whole MinkUNet.

    python benchmarks/sparse.py --voxels 5000 50000 --runs 5 --threads 1

Each line is one JSON object with ``name, ours, baseline, ratio, unit, runs, threads`` (ratio > 1: ours is better):
medians of runs in which ours and the baseline take turns, in one process, on the same voxels. The baselines:

* ``dictionary``: the kernel map from a Python dictionary of coordinates, offset by offset;
* ``search per offset``: the kernel map from one binary search an offset, without mirroring;
* ``dense conv3d``: torch's convolution on the whole bounding box;
* ``plain autograd``: a network whose layers search each offset anew, share no map, and leave gather, product and
  scatter to autograd, which keeps what was gathered.

* ``MinkowskiEngine``: the same layers and weights on the other engine, where it is installed (`make minkowski`).

The voxels are the surfaces of a room with furniture made of boxes.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import conv3d

from vlg_lib.mink_unet import ARCHITECTURES, MinkUNet, create_mink_unet
from vlg_lib.sparse import (
    Convolution,
    ConvolutionTranspose,
    CoordinateManager,
    SparseTensor,
    get_backend,
    kernel_offsets,
)
from vlg_lib.voxels import step

VOXELS_OF_A_ROOM = 110
"""Surface cells of the room below at one cell a metre, roughly: sets its scale."""


def room(voxels: int, seed: int = 0) -> Tensor:
    """About ``voxels`` rows (0, x, y, z): the faces of a 5 x 4 x 2.6 m room and of twelve boxes in it."""
    scale = (voxels / VOXELS_OF_A_ROOM) ** 0.5
    generator = torch.Generator().manual_seed(seed)
    corners = [(torch.zeros(3), torch.tensor([5.0, 4.0, 2.6]))]
    for _ in range(12):
        low = torch.rand(3, generator=generator) * torch.tensor([4.0, 3.0, 0.6])
        corners.append((low, low + 0.25 + 0.8 * torch.rand(3, generator=generator)))
    faces = []
    for low, high in corners:
        ranges = [torch.arange(int(a * scale), int(b * scale) + 1) for a, b in zip(low, high, strict=True)]
        for axis in range(3):
            for end in (0, -1):
                faces.append(torch.cartesian_prod(*[r[end][None] if i == axis else r for i, r in enumerate(ranges)]))
    cells = torch.cat(faces).unique(dim=0)
    return torch.cat([torch.zeros_like(cells[:, :1]), cells], dim=1)


Pairs = list[tuple[Tensor, Tensor]]


def pairs_by_dictionary(coordinates: Tensor, kernel_size: int) -> Pairs:
    """The kernel map of a submanifold convolution, from a dictionary."""
    rows = {tuple(row): index for index, row in enumerate(coordinates.tolist())}
    pairs = []
    for dx, dy, dz in kernel_offsets(kernel_size):
        found = [(rows.get((b, x + dx, y + dy, z + dz)), index) for (b, x, y, z), index in rows.items()]
        kept = torch.tensor([pair for pair in found if pair[0] is not None]).reshape(-1, 2)
        pairs.append((kept[:, 0], kept[:, 1]))
    return pairs


def pairs_by_search(inputs: Tensor, outputs: Tensor, kernel_size: int, spacing: int) -> Pairs:
    """The kernel map between two lists of sorted keys, from one binary search an offset."""
    pairs = []
    for offset in kernel_offsets(kernel_size):
        wanted = outputs + step([spacing * d for d in offset])
        position = torch.searchsorted(inputs, wanted).clamp_(max=len(inputs) - 1)
        rows = (inputs[position] == wanted).nonzero().squeeze(1)
        pairs.append((position[rows], rows))
    return pairs


def plain_convolution(x: Tensor, kernel: Tensor, pairs: Pairs, size: int) -> Tensor:
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
        inputs, outputs = x.manager.grid(x.stride).keys, x.manager.grid(stride).keys
        pairs = pairs_by_search(inputs, outputs, self.kernel_size, x.stride)
        out = plain_convolution(x.features, self.kernel, pairs, len(outputs))
        return SparseTensor(out, stride=stride, manager=x.manager)


class PlainConvolutionTranspose(ConvolutionTranspose):
    """The transposed layer as one would write it first."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        stride = x.stride // self.stride
        fine, coarse = x.manager.grid(stride).keys, x.manager.grid(x.stride).keys
        pairs = [pair[::-1] for pair in pairs_by_search(fine, coarse, self.kernel_size, stride)]
        out = plain_convolution(x.features, self.kernel, pairs, len(fine))
        return SparseTensor(out, stride=stride, manager=x.manager)


def plain_twin(network: MinkUNet, name: str, out_channels: int) -> MinkUNet:
    """The same network and weights on the plain layers."""
    engine = replace(network.engine, Convolution=PlainConvolution, ConvolutionTranspose=PlainConvolutionTranspose)
    twin = MinkUNet(ARCHITECTURES[name], 3, out_channels, engine=engine)
    twin.load_state_dict(network.state_dict())
    return twin


def race(name: str, ours: Callable[[], object], baseline: Callable[[], object], runs: int, **facts: object) -> None:
    """Print one line: median CPU seconds of each, taking turns, after one run of each to warm up."""
    ours(), baseline()
    times: dict[str, list[float]] = {"ours": [], "baseline": []}
    for _ in range(runs):
        for who, function in (("ours", ours), ("baseline", baseline)):
            start = time.process_time()
            function()
            times[who].append(time.process_time() - start)
    report(name, statistics.median(times["ours"]), statistics.median(times["baseline"]), "CPU s", runs, **facts)


def report(name: str, ours: float, baseline: float, unit: str, runs: int, **facts: object) -> None:
    """One JSON line."""
    line = {"name": name, "ours": round(ours, 5), "baseline": round(baseline, 5), "ratio": round(baseline / ours, 3)}
    line |= {"unit": unit, "runs": runs, "threads": torch.get_num_threads(), **facts}
    print(json.dumps(line), flush=True)


def kept_megabytes(function: Callable[[], object]) -> float:
    """What autograd keeps for the backward pass, counting each piece of memory once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = function()
    assert result is not None  # alive until here, so that no address is used twice
    return sum(kept.values()) / 2**20


def race_kernel_maps(coordinates: Tensor, runs: int) -> None:
    """The map of a 3^3 and of a 5^3 kernel."""
    keys = CoordinateManager(coordinates).grid(1).keys
    for size in (3, 5):
        ours = lambda size=size: CoordinateManager(coordinates).kernel_map(1, 1, size)
        facts = {"voxels": len(coordinates)}
        name = f"kernel map {size}^3"
        race(
            f"{name}, against search per offset", ours, lambda s=size: pairs_by_search(keys, keys, s, 1), runs, **facts
        )
        race(f"{name}, against dictionary", ours, lambda s=size: pairs_by_dictionary(coordinates, s), 1, **facts)


def race_layer(coordinates: Tensor, channels: int, runs: int) -> None:
    """One submanifold convolution against conv3d on the bounding box, forward and backward."""
    layer = Convolution(channels, channels, 3)
    features = torch.randn(len(coordinates), channels, generator=torch.Generator().manual_seed(0)).requires_grad_()
    cells = coordinates[:, 1:] - coordinates[:, 1:].min(0).values
    box = torch.zeros(1, channels, *(cells.max(0).values + 1).tolist())
    box[0, :, cells[:, 0], cells[:, 1], cells[:, 2]] = features.detach().T
    box.requires_grad_()
    weight = (
        layer.kernel.detach().reshape(3, 3, 3, channels, channels).permute(4, 3, 2, 1, 0).contiguous().requires_grad_()
    )
    x = SparseTensor(features, coordinates)
    facts = {"voxels": len(coordinates), "cells": box[0, 0].numel()}
    name = f"convolution 3^3 {channels}->{channels}, against dense conv3d"
    anew = lambda: layer(SparseTensor(features, coordinates))
    dense = lambda: conv3d(box, weight, padding=1)
    race(f"{name}, forward with kernel map", anew, dense, runs, **facts)
    race(f"{name}, forward", lambda: layer(x), dense, runs, **facts)
    ours = lambda: torch.autograd.grad(layer(x).features.sum(), (features, layer.kernel))
    race(
        f"{name}, forward and backward", ours, lambda: torch.autograd.grad(dense().sum(), (box, weight)), runs, **facts
    )


def race_network(coordinates: Tensor, name: str, runs: int) -> None:
    """A whole network with its kernel maps, against plain autograd; and what each keeps for the backward pass."""
    network = create_mink_unet(name, 3, 20)
    twin = plain_twin(network, name, 20)
    features = torch.randn(len(coordinates), 3, generator=torch.Generator().manual_seed(0))
    facts = {"voxels": len(coordinates)}

    def forward(net: MinkUNet) -> Tensor:
        return net(SparseTensor(features, coordinates)).features

    def inference(net: MinkUNet) -> Tensor:
        with torch.no_grad():
            return forward(net)

    def training(net: MinkUNet) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(net).square().mean(), list(net.parameters()))

    title = f"{name}, against plain autograd"
    race(f"{title}, forward", lambda: inference(network), lambda: inference(twin), runs, **facts)
    race(f"{title}, forward and backward", lambda: training(network), lambda: training(twin), runs, **facts)
    kept = [kept_megabytes(lambda net=net: forward(net)) for net in (network, twin)]
    report(f"{title}, kept for the backward pass", *kept, "MB", 1, **facts)


def race_engines(coordinates: Tensor, name: str, channels: int, runs: int) -> None:
    """One layer and a whole network, kernel maps included, against MinkowskiEngine."""
    generator = torch.Generator().manual_seed(0)
    facts = {"voxels": len(coordinates)}
    cases = [
        (f"convolution 3^3 {channels}->{channels}", channels, lambda e: e.Convolution(channels, channels, 3)),
        (name, 3, lambda e: create_mink_unet(name, 3, 20, backend=e.name)),
    ]
    for title, width, make in cases:
        features = torch.randn(len(coordinates), width, generator=generator).requires_grad_(width == channels)
        engines = [get_backend(engine) for engine in ("torch", "minkowski")]
        modules = [make(engine) for engine in engines]
        modules[1].load_state_dict(modules[0].state_dict())

        def forward(
            which: int, modules: list = modules, features: Tensor = features, engines: list = engines
        ) -> Tensor:
            return modules[which](engines[which].SparseTensor(features, coordinates.int())).features

        def training(which: int, run: Callable[[int], Tensor] = forward) -> None:
            run(which).square().mean().backward()

        title = f"{title}, against MinkowskiEngine"
        race(f"{title}, forward", lambda f=forward: f(0), lambda f=forward: f(1), runs, **facts)
        race(f"{title}, forward and backward", lambda t=training: t(0), lambda t=training: t(1), runs, **facts)


def main() -> None:
    """Run everything at each number of voxels."""
    parser = argparse.ArgumentParser(description="sparse convolution: time and memory against baselines")
    parser.add_argument("--voxels", type=int, nargs="+", default=[5000, 50_000])
    parser.add_argument("--network", default="MinkUNet18A", choices=sorted(ARCHITECTURES))
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        json.dumps(
            {"torch": torch.__version__, "machine": platform.machine(), "cpu": torch.backends.cpu.get_cpu_capability()}
        )
    )
    for voxels in arguments.voxels:
        coordinates = room(voxels)
        race_kernel_maps(coordinates, arguments.runs)
        race_layer(coordinates, arguments.channels, arguments.runs)
        race_network(coordinates, arguments.network, arguments.runs)
        if importlib.util.find_spec("MinkowskiEngine"):
            race_engines(coordinates, arguments.network, arguments.channels, arguments.runs)


if __name__ == "__main__":
    main()
