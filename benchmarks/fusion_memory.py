r"""Peak memory of stage 1 for a large scene: as it is by default, told a limit,
and for more frames.

    python benchmarks/fusion_memory.py --points 1000000 --dim 768 \
        --frames 4 12 --max-memory 300000000

Each line is one JSON object with ``name, ours, baseline, ratio, unit, runs,
threads`` (ratio > 1: ours is better). The points lie on a wall 16 m wide,
cameras with ScanNet's field of view at 320 x 240 pass along it at 2 m, and each
frame's map has ``--dim`` numbers a pixel, made anew as a 2D model would. A case
runs in a process of its own and ends with the scene's file of half-precision
means; its peak is the most memory that the process ever held (VmHWM, the pages
of mapped files included, the interpreter with torch, about 300 MB, too).

The baseline of the limited case is the default, whose sums are 4 points x dim
bytes; that of more frames is the case of fewer: a ratio of 1 there says that
the peak does not depend on the number of frames. The files of the two ways are
compared byte by byte before anything is printed. Seconds are of the whole case,
so disk and page cache are in them.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from vlg_lib.fusion import ViewAverager
from vlg_lib.geometry.visibility import visible_points
from vlg_lib.scene import Camera, Frame

CAMERA = Camera(288.9, 288.9, 159.5, 119.5, 320, 240)
WIDTH, HEIGHT, DISTANCE = 16.0, 1.66, 2.0  # metres


def peak_megabytes() -> float:
    """The most memory this process has held, from /proc (getrusage would count
    the parent's too).
    """
    return (
        int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        / 1024
    )


def view(index: int, frames: int) -> Frame:
    """A camera that looks along +z at the wall, a little farther along it each
    time.
    """
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = (index + 0.5) / frames * WIDTH
    pose[1, 3] = HEIGHT / 2
    depth = torch.full((CAMERA.height, CAMERA.width), DISTANCE)
    return Frame(
        str(index),
        CAMERA,
        pose,
        torch.zeros(CAMERA.height, CAMERA.width, 3, dtype=torch.uint8),
        depth,
    )


def fuse(
    points: int, dim: int, frames: int, max_memory: int | None, out: Path
) -> None:
    """One case, in this process: prints its peak, its seconds and how many
    points a frame saw.
    """
    generator = torch.Generator().manual_seed(0)
    cloud = torch.rand(points, 3, generator=generator) * torch.tensor(
        [WIDTH, HEIGHT, 0.0]
    )
    cloud[:, 2] = DISTANCE
    averager = ViewAverager(points, dim, max_memory=max_memory)
    start, visible = time.perf_counter(), 0
    for index in range(frames):
        frame = view(index, frames)
        dense = torch.randn(
            CAMERA.height, CAMERA.width, dim, generator=generator
        )
        pairs = visible_points(cloud, frame)
        visible += len(pairs)
        averager.add_view(dense, pairs, CAMERA)
    averager.save(out)
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "MB": peak_megabytes(),
                "seconds": seconds,
                "visible": visible // frames,
            }
        )
    )


def case(
    arguments: argparse.Namespace,
    frames: int,
    max_memory: int | None,
    folder: Path,
) -> dict[str, float | str]:
    """One case in a process of its own: its numbers and a hash of the file it
    wrote.
    """
    out = folder / "fused.safetensors"
    command = [
        sys.executable,
        __file__,
        "--alone",
        str(out),
        "--points",
        str(arguments.points),
    ]
    command += [
        "--dim",
        str(arguments.dim),
        "--frames",
        str(frames),
        "--threads",
        str(arguments.threads),
    ]
    command += [] if max_memory is None else ["--max-memory", str(max_memory)]
    numbers = json.loads(
        subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout
    )
    with out.open("rb") as file:
        numbers["file"] = hashlib.file_digest(file, "sha256").hexdigest()
    out.unlink()
    return numbers


def report(
    name: str, ours: dict, baseline: dict, threads: int, **facts: object
) -> None:
    """One JSON line."""
    line = {
        "name": name,
        "ours": round(ours["MB"]),
        "baseline": round(baseline["MB"]),
    }
    line |= {
        "ratio": round(baseline["MB"] / ours["MB"], 2),
        "unit": "MB",
        "runs": 1,
        "threads": threads,
        **facts,
    }
    line |= {
        "ours_seconds": round(ours["seconds"], 1),
        "baseline_seconds": round(baseline["seconds"], 1),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[4, 12], help="fewer and more"
    )
    parser.add_argument(
        "--max-memory",
        type=int,
        help="bytes for the sums [a tenth of what they need]",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--folder",
        type=Path,
        help="where files go [the system's temporary folder]",
    )
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.alone:
        fuse(
            arguments.points,
            arguments.dim,
            arguments.frames[0],
            arguments.max_memory,
            arguments.alone,
        )
        return
    limit = arguments.max_memory or 4 * arguments.points * arguments.dim // 10
    fewer, more = arguments.frames
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        default = case(arguments, fewer, None, folder)
        limited = case(arguments, fewer, limit, folder)
        assert default["file"] == limited["file"], (
            "the two ways give different files"
        )
        longer = case(arguments, more, None, folder)
        longer_limited = case(arguments, more, limit, folder)
        assert longer["file"] == longer_limited["file"], (
            "the two ways give different files"
        )
    facts = {
        "points": arguments.points,
        "dim": arguments.dim,
        "sums_MB": round(4e-6 * arguments.points * arguments.dim),
    }
    told = f"told {round(limit / 1e6)} MB"
    for frames, ours, baseline in (
        (fewer, limited, default),
        (more, longer_limited, longer),
    ):
        facts |= {"frames": frames, "visible": ours["visible"]}
        report(
            f"fusion of a large scene, {told}",
            ours,
            baseline,
            arguments.threads,
            **facts,
        )
    report(
        "fusion of a large scene, more frames",
        longer,
        default,
        arguments.threads,
        **facts,
    )
    report(
        f"fusion of a large scene, more frames, {told}",
        longer_limited,
        limited,
        arguments.threads,
        **facts,
    )


if __name__ == "__main__":
    main()
