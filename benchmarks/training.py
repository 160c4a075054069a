"""A training step of the book profile, and the passes of MinkUNet18A, against
an older build: time, memory, and whether the losses are the same.

    python benchmarks/training.py --baseline-commit 56fcabe

Each line is one JSON object with ``name, ours, baseline, ratio, unit, runs,
threads`` (ratio > 1: ours is better); without ``--baseline-commit`` it has
``ours`` alone. The builds take turns, each in a process of its own; CPU seconds
are medians. The last two lines compare losses: of plain descent in float64, and
of the first steps of a real training in float32.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from baseline import MissingHistoryError, Side, add_option, builds, take_turns
from safetensors.torch import save_file
from sparse import room as room_voxels
from torch.nn.functional import normalize

from vlg_lib.rooms.scenes import room_scene

ROOMS = 8


def save_rooms(path: Path) -> None:
    """Rooms of the book, and as the target of a point the embedding of its
    class, a vector at random.
    """
    tensors = {}
    generator = torch.Generator().manual_seed(0)
    classes = normalize(torch.randn(64, 64, generator=generator), dim=1)
    for index in range(ROOMS):
        room, labels = room_scene(1000 + index, views=8, width=160, height=120)
        tensors[f"points.{index}"] = room.points.contiguous()
        tensors[f"colors.{index}"] = room.colors.contiguous()
        tensors[f"targets.{index}"] = classes[labels].half()
    save_file(tensors, path)


def report(
    name: str, values: Mapping[str, Sequence[float]], unit: str, threads: int
) -> None:
    """One JSON line of medians."""
    middle = {who: statistics.median(found) for who, found in values.items()}
    line: dict[str, Any] = {
        "name": name,
        **{who: round(value, 5) for who, value in middle.items()},
    }
    if "baseline" in middle:
        line["ratio"] = round(middle["baseline"] / middle["ours"], 3)
    line |= {"unit": unit, "runs": len(values["ours"]), "threads": threads}
    print(json.dumps(line), flush=True)


def each(
    answers: Mapping[str, Sequence[Mapping[str, Any]]], key: str
) -> dict[str, list[float]]:
    """One figure of all answers of each side."""
    return {
        who: [float(answer[key]) for answer in found]
        for who, found in answers.items()
    }


def compare_losses(
    sides: Mapping[str, Side], request: Mapping[str, Any], first: int
) -> None:
    """The largest relative difference of the first losses of both builds."""
    losses = [side.ask(request)["losses"][:first] for side in sides.values()]
    if len(losses) < 2:
        return
    worst = max(abs(a - b) / abs(b) for a, b in zip(*losses, strict=True))
    kind = "float64" if "double" in request["do"] else "float32"
    line = {
        "name": f"losses of {first} steps in {kind}",
        "largest relative difference": worst,
        "last": [found[-1] for found in losses],
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_option(parser)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--network", default="MinkUNet18A")
    parser.add_argument(
        "--voxels", type=int, nargs="*", default=[4815, 50_000, 200_000]
    )
    options = parser.parse_args()
    commit = options.baseline_commit
    driver, threads = "training_driver.py", options.threads
    with tempfile.TemporaryDirectory() as folder:
        rooms = Path(folder) / "rooms.safetensors"
        save_rooms(rooms)
        with builds(driver, commit, threads=threads) as sides:
            for side in sides.values():
                side.ask({"do": "load", "path": str(rooms), "rooms": ROOMS})
            request = {"do": "train", "steps": options.steps, "seed": 0}
            answers = take_turns(sides, request, options.runs)
            title = "training step, book profile, two crops"
            report(title, each(answers, "cpu_s"), "CPU s", threads)
            report(
                f"{title}: peak memory", each(answers, "peak_MB"), "MB", threads
            )
            double = {"do": "train_in_double", "steps": 50, "seed": 0}
            compare_losses(sides, double, 50)
            compare_losses(sides, request, 10)
        for voxels in options.voxels:
            path = Path(folder) / f"{voxels}.safetensors"
            save_file({"coordinates": room_voxels(voxels)}, path)
            runs = max(1, options.runs // (1 + voxels // 50_000))
            with builds(driver, commit, threads=threads) as sides:
                request = {
                    "do": "run_network",
                    "name": options.network,
                    "path": str(path),
                }
                answers = take_turns(sides, request, runs)
            title = f"{options.network}, {voxels:,} voxels"
            for part in ("forward", "backward"):
                report(
                    f"{title}, {part}", each(answers, part), "CPU s", threads
                )
            report(
                f"{title}: peak memory", each(answers, "peak_MB"), "MB", threads
            )


if __name__ == "__main__":
    try:
        main()
    except MissingHistoryError as error:
        sys.exit(str(error))
