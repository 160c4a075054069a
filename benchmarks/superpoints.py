"""Speed and memory of superpoints on large clouds.

    python benchmarks/superpoints.py --points 100000 1000000 --runs 5

The cloud is that of ``predict.py``: a flat of four furnished rooms. Each line
is one JSON object. ``superpoints`` are the CPU seconds of the whole, against
those that SciPy's tree alone takes to look up sixteen neighbours of each point
in the order of the file, which no way to get normals can do without. The two
take turns; CPU seconds are medians. ``superpoints, peak memory`` is what they
added to a process of their own that holds the cloud (on Linux).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baseline import peak_megabytes
from predict import write_cloud
from scipy.spatial import cKDTree
from torch import Tensor

from vlg_lib.data.point_clouds import read_cloud
from vlg_lib.superpoints import SuperpointSettings, superpoints


def cloud_of(path: Path) -> tuple[Tensor, Tensor]:
    """Points and colours of a file."""
    file = read_cloud(path)
    return file.positions().float(), file.colors


def look_up(points: Tensor) -> None:
    """The neighbours alone."""
    places = points.double().numpy()
    cKDTree(places).query(places, SuperpointSettings().normal_neighbours)


def cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def print_peak(cloud: Path) -> None:
    """What superpoints add to the peak of this process."""
    points, colors = cloud_of(cloud)
    before = peak_megabytes() or 0.0
    superpoints(points, colors)
    print((peak_megabytes() or 0.0) - before)


def measure(cloud: Path, count: int, runs: int) -> None:
    """The lines of one cloud."""
    write_cloud(cloud, count)
    points, colors = cloud_of(cloud)
    facts = {"runs": runs, "threads": 1, "points": count}
    pieces = int(superpoints(points, colors).max()) + 1
    taken: dict[str, list[float]] = {"ours": [], "baseline": []}
    for _ in range(runs):
        taken["ours"].append(cpu_seconds(lambda: superpoints(points, colors)))
        taken["baseline"].append(cpu_seconds(lambda: look_up(points)))
    medians = {side: statistics.median(each) for side, each in taken.items()}
    line = {
        "name": "superpoints",
        **{side: round(median, 3) for side, median in medians.items()},
        "ratio": round(medians["baseline"] / medians["ours"], 3),
        "unit": "CPU s",
        "superpoints": pieces,
    }
    print(json.dumps(line | facts), flush=True)
    ran = subprocess.run(
        [sys.executable, __file__, "--peak-of", str(cloud)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    line = {
        "name": "superpoints, peak memory",
        "ours": round(float(ran.stdout)),
    }
    print(json.dumps(line | facts | {"unit": "MB", "runs": 1}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--points", type=int, nargs="+", default=[100_000, 1_000_000]
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print_peak(options.peak_of)
        return
    with tempfile.TemporaryDirectory() as folder:
        for count in options.points:
            measure(Path(folder) / "cloud.ply", count, options.runs)


if __name__ == "__main__":
    main()
