"""How long the 3DSS-VLG network of the book profile takes to be as good as it
was: an older build with its recipe against this build with today's, taught by
the same teacher, scored on the same unseen rooms.

    python benchmarks/recipe.py --baseline-commit 56fcabe --seeds 0 1 2

Each training is one JSON line with the CPU seconds, the mean IoU (per cent) and
a confusion matrix for each unseen room; at the end come the medians and ratios,
and the paired interval of the difference over rooms and seeds. The teacher's
embeddings are made by this build (or found in ``--cache``) and handed to both
in a file. The builds take turns, each in a process of its own. About half an
hour of CPU for each seed; ``--steps N`` shortens both, to try it out.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from baseline import MissingHistoryError, Side, add_option, builds
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlg_lib.metrics import (
    confusion,
    difference_interval,
    interval,
    mean_iou,
)
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import Profile, get_profile
from vlg_lib.pipeline.run import Run, open_run

KIND = "3dss-vlg"


def save_lesson(run: Run, path: Path) -> None:
    """What teaches the network, and the rooms to answer for."""
    networks = run.networks
    _ = run.stages.adapter
    tensors = {"text": run.stages.text_embeddings()}
    lesson = networks.lesson(KIND)
    for index, scene in enumerate(run.scenes.split("train")):
        cloud = lesson.clouds[index]
        tensors[f"train.points.{index}"] = cloud.points
        tensors[f"train.colors.{index}"] = cloud.colors
        tensors[f"train.targets.{index}"] = networks.targets(KIND, scene)
        tensors[f"train.weights.{index}"] = lesson.weights[index]
        assert cloud.sampling_weights is not None
        tensors[f"train.sampling.{index}"] = cloud.sampling_weights
    for index, scene in enumerate(run.scenes.split("test")):
        tensors[f"test.points.{index}"] = scene.points
        tensors[f"test.colors.{index}"] = scene.colors
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, path
    )


def matrices_of(run: Run, path: Path) -> list[Tensor]:
    """One confusion matrix for each unseen room, from the labels of a file."""
    labels = load_file(path)
    return [
        confusion(labels[str(index)], run.scenes.truth(scene), scene.class_set)
        for index, scene in enumerate(run.scenes.split("test"))
    ]


def train_each(
    sides: Mapping[str, Side],
    run: Run,
    profile: Profile,
    folder: Path,
    steps: int | None,
) -> dict[str, dict[str, Any]]:
    """Train and score a network on each side; prints a line for each."""
    save_lesson(run, folder / "lesson.safetensors")
    lines = {}
    for who, side in sides.items():
        answers = folder / f"{who}.safetensors"
        recipe = asdict(profile.training)
        answer = side.ask(
            {
                "do": "train",
                "seed": run.stages.seed,
                "lesson": str(folder / "lesson.safetensors"),
                "answers": str(answers),
                "recipe": recipe if who == "ours" else None,
                "network": asdict(run.networks.settings(KIND)),
                "steps": steps,
            }
        )
        matrices = matrices_of(run, answers)
        lines[who] = {
            "name": f"{KIND}, seed {run.stages.seed}, {who}",
            "cpu_s": round(answer["training_s"], 1),
            "peak_MB": round(answer["peak_MB"]),
            "recipe": answer["recipe"],
            "miou": round(100 * mean_iou(torch.stack(matrices).sum(0)), 2),
            "interval": [round(100 * end, 2) for end in interval(matrices)],
            "confusion": [matrix.tolist() for matrix in matrices],
        }
        print(json.dumps(lines[who]), flush=True)
    return lines


def summarize(found: list[dict[str, dict[str, Any]]], threads: int) -> None:
    """The lines of the medians, and of the difference."""
    middle = {
        who: statistics.median(lines[who]["cpu_s"] for lines in found)
        for who in found[0]
    }
    line = {"name": f"{KIND} of the book profile, training", **middle}
    if "baseline" in middle:
        line["ratio"] = round(middle["baseline"] / middle["ours"], 3)
    line |= {"unit": "CPU s", "runs": len(found), "threads": threads}
    print(json.dumps(line))
    scores = {
        who: statistics.mean(lines[who]["miou"] for lines in found)
        for who in found[0]
    }
    line = {"name": f"{KIND} of the book profile, mIoU of unseen rooms"}
    line |= {who: round(score, 2) for who, score in scores.items()}
    if "baseline" in scores:
        ours, theirs = (
            [[torch.tensor(m) for m in run[who]["confusion"]] for run in found]
            for who in ("ours", "baseline")
        )
        ends = difference_interval(ours, theirs)
        line["difference"] = round(scores["ours"] - scores["baseline"], 2)
        line["interval"] = [round(100 * end, 2) for end in ends]
    print(json.dumps(line | {"unit": "per cent", "runs": len(found)}))


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_option(parser)
    parser.add_argument("--profile", default="book")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of both, to try it out")
    parser.add_argument("--rooms", type=int, help="how many to train on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="where stages are kept")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    profile = get_profile(options.profile)
    if options.rooms is not None:
        rooms = replace(profile.rooms, train=options.rooms)
        profile = replace(profile, rooms=rooms)
    found = []
    for seed in options.seeds:
        run = open_run(profile, seed, RunOptions(cache_folder=options.cache))
        with (
            tempfile.TemporaryDirectory() as folder,
            builds(
                "recipe_driver.py",
                options.baseline_commit,
                threads=options.threads,
            ) as sides,
        ):
            found.append(
                train_each(sides, run, profile, Path(folder), options.steps)
            )
    summarize(found, options.threads)


if __name__ == "__main__":
    try:
        main()
    except MissingHistoryError as error:
        sys.exit(str(error))
