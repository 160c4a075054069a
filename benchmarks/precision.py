"""What half precision does to the gradients of a trained network, and to a
training.

    python benchmarks/precision.py --batches 8 --steps 200

The gradients are those of whole batches of the book's recipe, of the shipped
networks, on rooms that no table reports: the cosine loss against the words of
the true classes (``3dss-vlg``), cross-entropy (``supervised``, and ``cam``,
which has batch norms where the others have instance norms). Layers run in
bfloat16 or float16 under autocast, as a training runs them, and the loss in
float32; in float16 it is multiplied by 1024 first. Each line is one JSON
object, with the medians over the batches, for each group of layers, of

* ``error``: the length of the difference from the float32 gradient over that
  gradient's length,
* ``cosine``: of the angle between them,

and for all layers together, beside them: ``bias``, the error of the gradient's
mean over all batches (rounding at random cancels there), and what the same
figures are between float32 gradients of one batch and the next (``of another
batch``), the noise that a training lives with anyway.

Then the same network is trained from its first weights in each precision, with
the same batches: the mean loss of the last quarter, for each seed.
"""

import argparse
import json
import os
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from vlg_lib.baselines import train_classifier
from vlg_lib.classes import ROOMS_12
from vlg_lib.distill import cosine_loss, distill
from vlg_lib.networks.point_network import PointNetwork
from vlg_lib.networks.zoo import load_checkpoint
from vlg_lib.pipeline.profiles import get_profile
from vlg_lib.rooms.scenes import room_scene, split_seeds
from vlg_lib.training.loop import FitSettings
from vlg_lib.training.point_batches import (
    Cloud,
    CloudBatch,
    TrainingSettings,
    draw_batch,
)
from vlg_lib.vision_language import create_model
from vlg_lib.vision_language.prompts import class_embeddings

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
SCALE = 1024.0
SEED = 95
"""Of the rooms: no table and no choice rests on it."""

Gradient = dict[str, Tensor]


def group_of(name: str) -> str:
    """The part of the U-Net that a weight belongs to."""
    first = name.removeprefix("unet.").split(".")[0]
    if first == "final":
        return "final"
    if first in ("conv0p1s1", "bn0"):
        return "stem"
    number = int("".join(c for c in first if c.isdigit())[:1])
    up = "tr" in first or number > 4
    level = 9 - number if "block" in first else 8 - number
    return (
        f"up to stride {2 ** (level - 1)}" if up else f"to stride {2**number}"
    )


def batch_loss(
    network: PointNetwork,
    batch: CloudBatch,
    labels: Sequence[Tensor],
    words: Tensor,
    dtype: torch.dtype | None,
) -> Tensor:
    """The loss of a batch, the layers in ``dtype``."""
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        outputs = network(batch.inputs)
    outputs, wanted = outputs.float(), batch.gather(labels)
    if network.settings.output == "scores":
        return torch.nn.functional.cross_entropy(
            outputs[batch.rows], wanted, ignore_index=-1
        )
    targets = words[wanted.clamp(min=0)] * (wanted >= 0)[:, None]
    return cosine_loss(outputs, targets, None, batch.rows)


def gradient(network: PointNetwork, loss: Tensor, scale: float) -> Gradient:
    """The gradient of a loss by groups of layers."""
    network.zero_grad()
    (loss * scale).backward()
    parts: dict[str, list[Tensor]] = {}
    for name, weight in network.named_parameters():
        assert weight.grad is not None
        parts.setdefault(group_of(name), []).append(
            weight.grad.double().flatten() / scale
        )
    joined = {name: torch.cat(found) for name, found in parts.items()}
    return joined | {"all": torch.cat(list(joined.values()))}


def compare(found: Tensor, right: Tensor) -> dict[str, float]:
    """How far a gradient is from another one."""
    error = float((found - right).norm() / right.norm())
    cosine = float(torch.cosine_similarity(found, right, dim=0))
    return {"error": round(error, 5), "cosine": round(cosine, 6)}


def medians(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        name: round(statistics.median(part[name] for part in parts), 6)
        for name in parts[0]
    }


def measure_gradients(
    name: str, clouds: list[Cloud], labels: list[Tensor], batches: int
) -> None:
    """The lines of one shipped network."""
    network, _ = load_checkpoint(name)
    network.train()
    recipe = get_profile("book").training
    words = class_embeddings(create_model(), ROOMS_12.names)
    drawn = [
        draw_batch(
            network, clouds, recipe, torch.Generator().manual_seed(index)
        )
        for index in range(batches)
    ]

    def all_gradients(dtype: torch.dtype | None) -> list[Gradient]:
        scale = SCALE if dtype is torch.float16 else 1.0
        return [
            gradient(
                network,
                batch_loss(network, batch, labels, words, dtype),
                scale,
            )
            for batch in drawn
        ]

    right = all_gradients(None)
    noise = [
        compare(a["all"], b["all"])
        for a, b in zip(right[1:], right[:-1], strict=True)
    ]
    for precision, dtype in PRECISIONS.items():
        found = all_gradients(dtype)
        groups = {
            group: medians(
                [
                    compare(a[group], b[group])
                    for a, b in zip(found, right, strict=True)
                ]
            )
            for group in right[0]
        }
        means = [
            torch.stack([part["all"] for part in side]).mean(dim=0)
            for side in (found, right)
        ]
        line = {
            "name": f"gradients of {name} in {precision}",
            "unit": "share of the float32 gradient",
            "batches": batches,
            "groups": groups,
            "bias": compare(*means)["error"],
            "of another batch": medians(noise),
        }
        print(json.dumps(line), flush=True)


def train(
    name: str,
    clouds: list[Cloud],
    labels: list[Tensor],
    settings: TrainingSettings,
    seed: int,
) -> list[float]:
    """The losses of a training from first weights."""
    network = PointNetwork(load_checkpoint(name)[0].settings, seed=seed)
    fit = FitSettings(seed=seed)
    if network.settings.output == "scores":
        return train_classifier(
            network, clouds, labels, settings, fit_settings=fit
        )
    words = class_embeddings(create_model(), ROOMS_12.names)
    targets = [
        words[part.clamp(min=0)] * (part >= 0)[:, None] for part in labels
    ]
    return distill(network, clouds, targets, settings, fit_settings=fit)


def measure_training(
    name: str,
    clouds: list[Cloud],
    labels: list[Tensor],
    steps: int,
    seeds: int,
) -> None:
    """The losses of a training in each precision."""
    settings = TrainingSettings(steps=steps, batch_rooms=2)
    ends: dict[str, list[float]] = {}
    for seed in range(seeds):
        for precision in ("no", *PRECISIONS):
            # what accelerate launch --mixed_precision sets
            os.environ["ACCELERATE_MIXED_PRECISION"] = precision
            losses = train(name, clouds, labels, settings, seed)
            end = statistics.mean(losses[-max(1, steps // 4) :])
            ends.setdefault(precision, []).append(round(end, 5))
    line = {
        "name": f"training of {name}",
        "unit": "loss at the end",
        "steps": steps,
        "seeds": seeds,
        "losses": ends,
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--networks", nargs="+", default=["3dss-vlg", "supervised", "cam"]
    )
    parser.add_argument("--rooms", type=int, default=12)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200, help="0 trains not")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rooms = [
        room_scene(seed, views=20)
        for seed in split_seeds("train", options.rooms, SEED)
    ]
    clouds = [Cloud(scene.points, scene.colors) for scene, _ in rooms]
    labels = [part for _, part in rooms]
    for name in options.networks:
        measure_gradients(name, clouds, labels, options.batches)
        if options.steps:
            measure_training(name, clouds, labels, options.steps, options.seeds)


if __name__ == "__main__":
    main()
