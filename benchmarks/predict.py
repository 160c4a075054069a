"""Speed and memory of ``vlg predict`` on a large cloud, against an older build.

    python benchmarks/predict.py --baseline-commit 56fcabe --runs 5

The cloud is a flat of four furnished rooms, a million coloured points on 450
square metres of surface. Each line is one JSON object with ``name, ours,
baseline, ratio, unit, runs, threads`` (ratio > 1: ours is better); without
``--baseline-commit`` it has ``ours`` alone. The builds take turns, each in
processes of its own:

* the whole command: ``python -m vlg_lib predict``, imports and all, with
  Python's byte code kept from a first run that is not counted;
* the peak of its memory;
* without imports: the same call once more in a process that has made it before;
* where the time goes: shares of that call. ``cut into tiles`` voxelises once;
  ``of it`` is part of the network.

CPU seconds are medians. How many points get another label is told beside them.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from baseline import (
    ROOT,
    MissingHistoryError,
    add_option,
    builds,
    old_tree,
    take_turns,
)
from plyfile import PlyData, PlyElement

Box = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The lowest and the highest corner, and the colour."""


def flat(rng: np.random.Generator) -> list[Box]:
    """Four rooms of 5 x 4 x 2.6 m with ten boxes in each."""
    boxes: list[Box] = []
    for room in range(4):
        corner = np.array([room % 2 * 5.2, room // 2 * 4.2, 0.0])
        walls = rng.integers(120, 255, 3)
        boxes.append((corner, corner + np.array([5.0, 4.0, 2.6]), walls))
        for _ in range(10):
            low = corner + rng.random(3) * [4.0, 3.0, 0.6]
            high = low + 0.25 + 0.8 * rng.random(3)
            boxes.append((low, high, rng.integers(0, 255, 3)))
    return boxes


def write_cloud(path: Path, count: int, seed: int = 0) -> None:
    """Points on the faces of a flat, evenly, 3 mm beside them, in noisy
    colours.
    """
    rng = np.random.default_rng(seed)
    low, high, colors = (
        np.array(part) for part in zip(*flat(rng), strict=True)
    )
    sides = high - low
    areas = np.stack([sides.prod(axis=1) / sides[:, i] for i in range(3)])
    drawn = rng.choice(areas.size, count, p=areas.ravel() / areas.sum())
    axis, box = np.divmod(drawn, len(low))
    points = low[box] + rng.random((count, 3)) * sides[box]
    every, end = np.arange(count), rng.random(count) < 0.5
    points[every, axis] = np.where(end, low[box, axis], high[box, axis])
    points += rng.normal(0, 0.003, points.shape)
    noisy = colors[box] + rng.integers(-12, 13, (count, 3))
    vertices = np.empty(
        count,
        [(name, "<f4") for name in "xyz"]
        + [(name, "u1") for name in ("red", "green", "blue")],
    )
    for name, column in zip("xyz", points.T, strict=True):
        vertices[name] = column
    for name, column in zip(
        ("red", "green", "blue"), noisy.clip(0, 255).T, strict=True
    ):
        vertices[name] = column
    PlyData([PlyElement.describe(vertices, "vertex")]).write(str(path))


def command(
    tree: Path, cloud: Path, out: Path, options: argparse.Namespace
) -> dict[str, float]:
    """Run ``vlg predict`` of the build in ``tree``: its CPU seconds and its
    peak.
    """
    # until 0.1 the copies of a cloud were called passes
    old = (tree / "vlg_lib" / "predict.py").is_file()
    copies = "--passes" if old else "--augmentations"
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "PYTHONPYCACHEPREFIX": str(out.parent / "bytecode"),
        "OMP_NUM_THREADS": str(options.threads),
        "OMP_WAIT_POLICY": "passive",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    words = ["-m", "vlg_lib", "predict", str(cloud), "--out", str(out)]
    words += ["--checkpoint", options.network, "--device", "cpu", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, *words, copies, str(options.augmentations)],
        cwd=tree,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    # Popen.wait would not tell what the process used
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"vlg predict of {tree} ended with {status}")
    return {"cpu_s": used.ru_utime + used.ru_stime, "MB": _megabytes(used)}


def _megabytes(used: resource.struct_rusage) -> float:
    unit = 1 if sys.platform == "darwin" else 2**10
    return used.ru_maxrss * unit / 2**20


def report(name: str, seconds: dict[str, float], **facts: Any) -> None:
    """One JSON line."""
    line: dict[str, Any] = {"name": name, "ours": round(seconds["ours"], 3)}
    if "baseline" in seconds:
        line["baseline"] = round(seconds["baseline"], 3)
        line["ratio"] = round(seconds["baseline"] / seconds["ours"], 3)
    print(json.dumps(line | facts), flush=True)


def medians(answers: dict[str, list[Any]], field: str) -> dict[str, float]:
    """The median of a field, for each side."""
    return {
        side: statistics.median(answer[field] for answer in found)
        for side, found in answers.items()
    }


def whole_command(
    folder: Path, cloud: Path, options: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    """The command of each build, taking turns; the first run of each keeps its
    byte code and is not counted.
    """
    with ExitStack() as stack:
        trees = {"ours": ROOT}
        if options.baseline_commit:
            trees["baseline"] = stack.enter_context(
                old_tree(options.baseline_commit)
            )
        answers: dict[str, list[dict[str, float]]] = {
            side: [] for side in trees
        }
        for run in range(options.runs + 1):
            for side, tree in trees.items():
                (folder / side).mkdir(exist_ok=True)
                used = command(tree, cloud, folder / side / "out.ply", options)
                if run:
                    answers[side].append(used)
    return answers


def other_labels(folder: Path) -> dict[str, int]:
    """How many points the two builds label differently."""
    found = [
        PlyData.read(str(path))["vertex"]["label"]
        for path in sorted(folder.glob("*/out.ply"))
    ]
    if len(found) < 2:
        return {}
    return {"other_labels": int((found[0] != found[1]).sum())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--augmentations", type=int, default=5)
    parser.add_argument("--network", default="3dss-vlg")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    add_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        try:
            measure(Path(name), options)
        except MissingHistoryError as error:
            raise SystemExit(f"error: {error}") from error


def measure(folder: Path, options: argparse.Namespace) -> None:
    """All lines."""
    cloud = folder / "cloud.ply"
    write_cloud(cloud, options.points)
    facts = {
        "runs": options.runs,
        "threads": options.threads,
        "points": options.points,
        "augmentations": options.augmentations,
        "network": options.network,
    }
    commands = whole_command(folder, cloud, options)
    report(
        "vlg predict, the whole command",
        medians(commands, "cpu_s"),
        unit="CPU s",
        **facts,
        **other_labels(folder),
    )
    peaks = medians(commands, "MB")
    report("vlg predict, peak memory", peaks, unit="MB", **facts)
    request = {
        "cloud": str(cloud),
        "network": options.network,
        "augmentations": options.augmentations,
    }
    with builds(
        "predict_driver.py", options.baseline_commit, threads=options.threads
    ) as sides:
        out = str(folder / "again.ply")
        label = request | {"do": "label", "out": out}
        warm = take_turns(sides, label, options.runs)
        report(
            "vlg predict, without imports",
            medians(warm, "cpu_s"),
            unit="CPU s",
            **facts,
        )
        shares = sides["ours"].ask(label | {"do": "profile"})["parts"]
        print(json.dumps({"name": "where the time goes", "shares": shares}))


if __name__ == "__main__":
    main()
