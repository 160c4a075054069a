"""Speed and memory of adding one view to the mean of a scene's embeddings, and
the share of copy bandwidth.

    python benchmarks/fusion.py --points 200000 --dim 768 --runs 7 --threads 2

Each line is one JSON object with ``name, ours, baseline, ratio, unit, runs,
threads`` (ratio > 1: ours is better): medians of runs in which ours and the
baseline take turns, a run being a pass over the same few frames. The points lie
on the surfaces of a procedural room, the frames are 320 x 240 with ScanNet's
field of view, embeddings are averaged as they are (no normalisation), and which
points a frame sees is worked out before the clock starts, for both.

The baseline is the way of the published code, written anew: embeddings
channel-first (D, H, W), for each image a row for *every* point, times the mask
of the visible ones, added to a sum and a counter. Ours
(``ViewAverager.add_view``) reads the rows of visible points only, from a map
that is channel-last (H, W, D). Which layout comes for free depends on the 2D
model (channel-last for transformers), so the second line charges ours for the
change of layout, and the third gives the baseline a channel-last map, too: what
is left is the gain of touching visible points only.

What was tried and is not here (25,000 rows of 768 numbers, one thread):
gathering all rows before adding them (twice as slow: the rows leave the cache
between the two); ``sums[i] += rows`` (reads the sums twice); ``scatter_add_``
(no difference); advanced indexing instead of ``index_select`` or
``embedding_bag`` (1.5 times slower); a reused buffer for the gathered rows and
huge pages for the sums (a few per cent); sorting by pixel instead of by point
(no difference). On a busy machine use ``--threads 1 --cpu-time``: with more
threads than free cores each of the many short parallel steps waits for the
slowest.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.artifacts import load_tensors, save_tensors
from vlg_lib.data.depth_fusion import VoxelAverager
from vlg_lib.fusion import ViewAverager
from vlg_lib.geometry.cameras import unproject
from vlg_lib.geometry.visibility import PointPixelPairs, visible_points
from vlg_lib.rooms.scenes import make_room, render_frame, room_poses
from vlg_lib.scene import Camera, Frame

CAMERA = Camera(288.9, 288.9, 159.5, 119.5, 320, 240)
VIEWS, TIMED_FRAMES = 24, 4


def scanned_room(
    seed: int, camera: Camera, views: int
) -> tuple[list[Frame], Float[Tensor, "N 3"]]:
    """Frames of a room, and the points that they measure, one in each cell of
    15 mm.
    """
    room = make_room(seed)
    frames = [
        render_frame(room, camera, pose).frame
        for pose in room_poses(room, views)
    ]
    cells = VoxelAverager(0.015, channels=1)
    for frame in frames:
        positions, _ = unproject(frame.depth, camera, frame.camera_to_world)
        cells.add(positions, torch.ones(len(positions), 1))
    return frames, cells.result()[0].float()


def make_pairs(
    points: int, seed: int = 0
) -> tuple[list[PointPixelPairs], float]:
    """What a few frames of a room see of ``points`` points spread over its
    surfaces; seconds to find it, per frame.
    """
    frames, cloud = scanned_room(10_000 + seed, CAMERA, VIEWS)
    generator = torch.Generator().manual_seed(seed)
    cloud = cloud[torch.randperm(len(cloud), generator=generator)[:points]]
    start = time.perf_counter()
    pairs = [visible_points(cloud, frame) for frame in frames]
    seconds = (time.perf_counter() - start) / len(frames)
    middle = sorted(pairs, key=len)[len(pairs) // 2 - TIMED_FRAMES // 2 :][
        :TIMED_FRAMES
    ]
    return middle, seconds


class GatherThenMask:
    """The baseline: a row for every point, most of them for nothing."""

    def __init__(self, points: int, dim: int) -> None:
        self.sums = torch.zeros(points, dim)
        self.counter = torch.zeros(points, 1)

    def add_view(
        self,
        dense: Tensor,
        pixels: Tensor,
        mask: Tensor,
        channel_last: bool = False,
    ) -> None:
        u, v = pixels.unbind(-1)
        # (N, D)
        rows = dense[v, u] if channel_last else dense[:, v, u].permute(1, 0)
        self.sums += rows * mask[:, None]
        self.counter += mask[:, None]

    def result(self) -> Tensor:
        return self.sums / self.counter.clamp(min=1)


def for_every_point(
    pairs: PointPixelPairs, points: int
) -> tuple[Tensor, Tensor]:
    """The baseline's input: a pixel (0, 0 where hidden) and a mask for each of
    all points.
    """
    pixels = torch.zeros(points, 2, dtype=torch.int64)
    mask = torch.zeros(points)
    pixels[pairs.indices], mask[pairs.indices] = pairs.pixels, 1.0
    return pixels, mask


def make_dense(dim: int) -> Tensor:
    """A map (H, W, D) of normal numbers."""
    return torch.randn(
        CAMERA.height,
        CAMERA.width,
        dim,
        generator=torch.Generator().manual_seed(1),
    )


def take_turns(
    functions: dict[str, Callable[[], object]],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each function, all run once to warm up and then in
    turns.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for run in range(runs + 1):
        for name, function in functions.items():
            start = clock()
            function()
            if run:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def copy_gigabytes_per_second(clock: Callable[[], float]) -> float:
    """Bytes read and written by copying 256 MB, the best of ten: what this
    machine's memory can do.
    """
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    best = min(
        take_turns({"copy": lambda: target.copy_(source)}, 1, clock)["copy"]
        for _ in range(10)
    )
    return 2 * 4 * source.numel() / best / 1e9


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
        "ours": round(ours, 3),
        "baseline": round(baseline, 3),
        "ratio": round(baseline / ours, 2),
    }
    print(
        json.dumps(
            line
            | {
                "unit": unit,
                "runs": runs,
                "threads": torch.get_num_threads(),
                **facts,
            }
        ),
        flush=True,
    )


def peak_megabytes() -> float:
    """The most memory this process has held, from /proc (getrusage would count
    the parent's too).
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_alone(
    side: str, pairs: list[PointPixelPairs], points: int, dim: int
) -> None:
    """Add all frames one way and print the peak memory above that of an idle
    process, in MB.
    """
    idle = peak_megabytes()
    dense = make_dense(dim)
    if side == "ours":
        averager = ViewAverager(points, dim, normalize=False)
        for pair in pairs:
            averager.add_view(dense, pair, CAMERA)
        averager.result()
    else:
        dense = dense.permute(2, 0, 1).clone(
            memory_format=torch.contiguous_format
        )
        baseline = GatherThenMask(points, dim)
        for pair in pairs:
            baseline.add_view(dense, *for_every_point(pair, points))
        baseline.result()
    print(peak_megabytes() - idle)


def peak_of(side: str, path: Path, arguments: argparse.Namespace) -> float:
    """Peak memory of one side, in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--alone",
        side,
        "--pairs",
        str(path),
        "--points",
        str(arguments.points),
    ]
    command += [
        "--dim",
        str(arguments.dim),
        "--threads",
        str(arguments.threads),
    ]
    return float(
        subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout
    )


def race(
    pairs: list[PointPixelPairs],
    points: int,
    dim: int,
    runs: int,
    seconds_to_see: float,
    cpu_time: bool,
) -> None:
    """Check that both sides agree, then time them."""
    clock, unit = (
        (time.process_time, "CPU ms") if cpu_time else (time.perf_counter, "ms")
    )
    last = make_dense(dim)
    first = last.permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
    everywhere = [for_every_point(pair, points) for pair in pairs]
    ours = ViewAverager(points, dim, normalize=False)
    baseline = GatherThenMask(points, dim)

    def add_ours(dense: Tensor) -> None:
        for pair in pairs:
            ours.add_view(dense, pair, CAMERA)

    def add_baseline(dense: Tensor, channel_last: bool = False) -> None:
        for pixels, mask in everywhere:
            baseline.add_view(dense, pixels, mask, channel_last)

    add_ours(last), add_baseline(first)
    means = ours.sums / ours.view_counts.clamp(min=1)[:, None]
    difference = float((means - baseline.result()).abs().max())
    assert difference < 1e-3, f"the two sides differ by {difference}"
    del means
    functions = {
        "ours": lambda: add_ours(last),
        "ours, channel-first": lambda: add_ours(first.permute(1, 2, 0)),
        "baseline": lambda: add_baseline(first),
        "baseline, channel-last": lambda: add_baseline(last, channel_last=True),
    }
    times = {
        name: 1e3 * seconds / len(pairs)
        for name, seconds in take_turns(functions, runs, clock).items()
    }
    visible = sum(len(pair) for pair in pairs) / len(pairs)
    # a row read, its sum read, its sum written
    moved = 3 * 4 * dim * visible / 1e9
    copy = copy_gigabytes_per_second(clock)
    achieved = moved / times["ours"] * 1e3
    facts = {
        "points": points,
        "dim": dim,
        "visible": round(visible),
        "largest_difference": round(difference, 7),
    }
    report(
        "fusion, one view, each side in its own layout",
        times["ours"],
        times["baseline"],
        unit,
        runs,
        **facts,
    )
    report(
        "fusion, one view, channel-first",
        times["ours, channel-first"],
        times["baseline"],
        unit,
        runs,
        **facts,
    )
    report(
        "fusion, one view, channel-last",
        times["ours"],
        times["baseline, channel-last"],
        unit,
        runs,
        **facts,
    )
    line = {
        "name": "share of copy bandwidth",
        "achieved_GB_per_s": round(achieved, 1),
        "copy_GB_per_s": round(copy, 1),
    }
    line |= {"share": round(achieved / copy, 2), "moved_MB": round(1e3 * moved)}
    print(
        json.dumps(
            line | {"visible_points_ms": round(1e3 * seconds_to_see, 1)}
        ),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count CPU time, for a machine that is busy (--threads 1)",
    )
    parser.add_argument(
        "--alone", choices=("ours", "baseline"), help=argparse.SUPPRESS
    )
    parser.add_argument("--pairs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.alone:
        stored = load_tensors(arguments.pairs)[0]
        count = len(stored) // 3
        pairs = [
            PointPixelPairs(
                *(
                    stored[f"{part}{i}"]
                    for part in ("indices", "pixels", "depth")
                )
            )
            for i in range(count)
        ]
        run_alone(arguments.alone, pairs, arguments.points, arguments.dim)
        return
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "processor": platform.processor() or platform.machine(),
            }
        )
    )
    pairs, seconds_to_see = make_pairs(arguments.points)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.safetensors"
        save_tensors(
            path,
            {
                f"{name}{i}": value
                for i, pair in enumerate(pairs)
                for name, value in vars(pair).items()
            },
        )
        peaks = [
            peak_of(side, path, arguments) for side in ("ours", "baseline")
        ]
    report("fusion, peak memory", *peaks, "MB", 1)
    race(
        pairs,
        arguments.points,
        arguments.dim,
        arguments.runs,
        seconds_to_see,
        arguments.cpu_time,
    )


if __name__ == "__main__":
    main()
