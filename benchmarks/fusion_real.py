"""Speed of stage 1 on real conditions: finding the points that a frame sees,
and adding their embeddings, on one thread.

    python benchmarks/fusion_real.py --baseline-commit 56fcabe

Eight frames of a procedural room, 320 x 240 with a phone's field of view, see
about 24 % of 200,000 points each; a map has 512 numbers a cell, views are
brought to length one. Points come in the order in which averaging depth images
leaves them, as scans are ordered; ``--order random`` shuffles them, the worst
case: no row that is read or written lies beside the one before.

Each line is one JSON object with ``name, ours, baseline, ratio, unit, runs,
threads`` (ratio > 1: ours is better). ``CPU ms`` are those of one frame,
medians of interleaved runs. ``--baseline-commit`` compares with the build of
that commit in a process of its own (``baseline.py``). Cases are

* the map's size: that of the image, half of it, or 20 x 15 cells as of a vision
  transformer;
* its layout: the D numbers of a cell side by side (last), or D images (first);
* the sampling: nearest, or bilinear.

``published way`` is the published code's way written anew (see fusion.py) with
its own projection: a pixel, a row and a mask for *every* point. ``peak
memory``: the most that a process of its own ever held.

What was tried and did not help, with the map of the image's size (a frame costs
20 to 25 ms, of which finding points takes 3): sums in huge pages (a tenth
faster, but up to half a second for making them where memory is fragmented);
pairs sorted by cell (what reading gains, adding loses); lengths of all cells of
a map instead of the gathered rows; MKL's sparse product onto the sums (twice as
slow); blocks of a channel-first map added as they are turned (a third slower:
sums are visited in any order).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from baseline import Side, add_option, builds, full_hash, take_turns
from fusion import GatherThenMask, scanned_room
from fusion_driver import STATE, dense_map, load
from safetensors.torch import save_file
from torch import Tensor

from vlg_lib.geometry.visibility import visible_points
from vlg_lib.scene import Camera, Frame

CAMERA = Camera(240.0, 240.0, 159.5, 119.5, 320, 240)
VIEWS, FRAMES, SHARE = 96, 8, 0.24
SIZES = {"320 x 240": (240, 320), "160 x 120": (120, 160), "20 x 15": (15, 20)}


def write_input(path: Path, points: int, order: str) -> None:
    """The cloud, and those frames of a room that see about SHARE of it."""
    frames, cloud = scanned_room(10_000, CAMERA, VIEWS)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(cloud), generator=generator)[:points]
    cloud = cloud[chosen if order == "random" else chosen.sort().values]

    def distance(frame: Frame) -> float:
        return abs(len(visible_points(cloud, frame)) / points - SHARE)

    nearest = sorted(frames, key=distance)[:FRAMES]
    tensors = {
        "cloud": cloud,
        "poses": torch.stack([frame.camera_to_world for frame in nearest]),
        "depths": torch.stack([frame.depth for frame in nearest]),
    }
    save_file(tensors, path)


def published_way(dim: int) -> float:
    """CPU seconds a frame of the published code's way: see fusion.py."""
    cloud, frames = STATE["cloud"].double(), STATE["frames"]
    dense = dense_map([CAMERA.height, CAMERA.width], dim, "first")
    dense = dense.permute(2, 0, 1)
    sums = GatherThenMask(len(cloud), dim)
    start = time.process_time()
    for frame in frames:
        sums.add_view(dense, *for_every_point(cloud, frame))
    return (time.process_time() - start) / len(frames)


def for_every_point(cloud: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    """A pixel (0, 0 where hidden) and a mask for each of all points."""
    world = torch.cat([cloud, torch.ones(len(cloud), 1)], dim=1)
    x, y, z, _ = torch.linalg.inv(frame.camera_to_world.double()) @ world.T
    u = (CAMERA.fx * x / z + CAMERA.cx).round().long()
    v = (CAMERA.fy * y / z + CAMERA.cy).round().long()
    inside = (u >= 0) & (u < CAMERA.width) & (v >= 0) & (v < CAMERA.height)
    inside &= z > 0
    u, v = u * inside, v * inside
    depth = frame.depth[v, u]
    mask = inside & ((depth - z).abs() <= 0.05 + 0.01 * depth) & (depth > 0)
    pixels = torch.stack([u, v], dim=1) * mask[:, None]
    return pixels, mask.float()


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of all cases and their requests."""
    for size, shape in SIZES.items():
        for layout in ("last", "first"):
            for sampling in ("nearest", "bilinear"):
                if size != "20 x 15" or layout == "last":
                    yield (
                        f"{size} cells, channel-{layout}, {sampling}",
                        {"size": shape, "layout": layout, "sampling": sampling},
                    )


def report(
    name: str, ours: float, baseline: float | None, **facts: Any
) -> None:
    """One JSON line."""
    line = {"name": f"stage 1, {name}", "ours": round(ours, 2)}
    if baseline is not None:
        line |= {
            "baseline": round(baseline, 2),
            "ratio": round(baseline / ours, 2),
        }
    print(json.dumps(line | facts), flush=True)


def race(sides: Mapping[str, Side], given: argparse.Namespace) -> float:
    """Time all cases; CPU seconds of the first one."""
    first = None
    facts = {"points": given.points, "dim": given.dim, "order": given.order}
    for name, case in cases():
        request = {"do": "fuse", "dim": given.dim, **case}
        answers = take_turns(sides, request, given.runs)
        sums = [each[0]["sum"] for each in answers.values()]
        assert max(sums) - min(sums) <= 1e-4 * max(map(abs, sums)), sums
        times = {
            side: statistics.median(each["cpu_s"] for each in found)
            for side, found in answers.items()
        }
        baseline = times.get("baseline")
        report(
            name,
            1e3 * times["ours"],
            None if baseline is None else 1e3 * baseline,
            unit="CPU ms",
            runs=given.runs,
            threads=1,
            seen=round(answers["ours"][0]["seen"] / given.points, 3),
            **facts,
        )
        first = first or times["ours"]
    return first


def peaks(path: Path, given: argparse.Namespace) -> None:
    """Peak memory of one case alone, by layout."""
    for layout in ("last", "first"):
        with builds("fusion_driver.py", given.baseline_commit) as sides:
            for side in sides.values():
                side.ask(load_request(path))
            request = {
                "do": "fuse",
                "dim": given.dim,
                "size": SIZES["320 x 240"],
                "layout": layout,
                "sampling": "bilinear",
            }
            answers = take_turns(sides, request, runs=1)
        held = {side: each[0]["peak_MB"] for side, each in answers.items()}
        if held["ours"] is not None:
            report(
                f"peak memory, channel-{layout}",
                held["ours"],
                held.get("baseline"),
                unit="MB",
                runs=1,
                threads=1,
            )


def load_request(path: Path) -> dict[str, Any]:
    return {"do": "load", "path": str(path), "camera": asdict(CAMERA)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--order", choices=("scan", "random"), default="scan")
    add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.baseline_commit is not None:
        full_hash(given.baseline_commit)  # or end here
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "room.safetensors"
        write_input(path, given.points, given.order)
        peaks(path, given)
        with builds("fusion_driver.py", given.baseline_commit) as sides:
            for side in sides.values():
                side.ask(load_request(path))
            ours = race(sides, given)
        load(load_request(path))
        published = [published_way(given.dim) for _ in range(3)]
    report(
        "against the published way",
        1e3 * ours,
        1e3 * statistics.median(published),
        unit="CPU ms",
        runs=3,
        threads=1,
    )


if __name__ == "__main__":
    main()
