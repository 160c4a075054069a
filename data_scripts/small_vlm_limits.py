"""What limits a small model, by experiment: ``python
data_scripts/small_vlm_limits.py [NAME or FILE ...]``.

JSON lines, one a model and shift: the mIoU (per cent) over the cells of the
dense maps of held-out rooms, four times. Each of the last three takes one
difficulty away, so what it gains is what that difficulty costs.

* ``plain``: each cell gets the class of the closest word.
* ``objects``: all cells of a true object share the class that their mean
  embedding is closest to. No edges and no noise inside an object are left; what
  is wrong now is *named* wrong.
* ``present``: only classes that are in the frame may win. No word of an absent
  thing misleads any more.
* ``probe``: a linear classifier, fitted on cells of as many other rooms with
  their true labels, takes the place of the words. What it finds is in the image
  tower, whether or not the words lead there.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from evaluate_small_vlm import held_out_frames, percent
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from vlg_lib.classes import ROOMS_12
from vlg_lib.metrics import confusion, mean_iou
from vlg_lib.vision_language import list_models
from vlg_lib.vision_language.small import SMALL_MODELS, WEIGHTS, SmallModel

CLASSES = len(ROOMS_12)


@dataclass(frozen=True)
class Cells:
    """The cells with a class of one frame: unit embeddings, true classes, and
    which object each lies on.
    """

    embeddings: Float[Tensor, "N D"]
    labels: Int[Tensor, " N"]
    objects: Int[Tensor, " N"]


def frame_cells(
    models: Sequence[SmallModel], rooms: range, shift: float, views: int
) -> list[list[Cells]]:
    """For each model the cells of every frame of these held-out rooms."""
    found: list[list[Cells]] = [[] for _ in models]
    for _, _, rendered in held_out_frames(rooms, shift, views):
        for frames, model in zip(found, models, strict=True):
            middle, step = model.stride // 2, model.stride
            labels = rendered.labels[middle::step, middle::step]
            objects = rendered.instances[middle::step, middle::step]
            dense = model.dense_embeddings(rendered.frame.color)[
                : labels.shape[0], : labels.shape[1]
            ]
            known = labels >= 0
            frames.append(Cells(dense[known], labels[known], objects[known]))
    return found


def of_objects(cells: Cells, text: Float[Tensor, "K D"]) -> Int[Tensor, " N"]:
    """The class of each cell where the cells of an object decide together."""
    _, owner = cells.objects.unique(return_inverse=True)
    sums = torch.zeros(int(owner.max()) + 1, text.shape[1]).index_add_(
        0, owner, cells.embeddings
    )
    return (sums @ text.T).argmax(1)[owner]


def of_present(cells: Cells, text: Float[Tensor, "K D"]) -> Int[Tensor, " N"]:
    """The class of each cell among those that are in the frame."""
    absent = torch.bincount(cells.labels, minlength=CLASSES) == 0
    return (cells.embeddings @ text.T).masked_fill(absent, -2.0).argmax(1)


def linear_probe(
    frames: Sequence[Cells], most: int, seed: int
) -> Callable[[Cells], Int[Tensor, " N"]]:
    """A linear classifier of cells, fitted on at most so many random ones of
    these frames with their true classes.
    """
    embeddings = torch.cat([cells.embeddings for cells in frames])
    labels = torch.cat([cells.labels for cells in frames])
    chosen = torch.randperm(
        len(labels), generator=torch.Generator().manual_seed(seed)
    )[:most]
    fitted = LogisticRegression(C=100.0, max_iter=2000).fit(
        embeddings[chosen].numpy(), labels[chosen].numpy()
    )
    return lambda cells: torch.from_numpy(
        fitted.predict(cells.embeddings.numpy())
    )


def limits(
    model: SmallModel,
    frames: Sequence[Cells],
    others: Sequence[Cells],
    most: int,
    seed: int,
) -> dict[str, float]:
    """The four scores over ``frames``; the probe is fitted on ``others``."""
    text = model.text_embeddings(ROOMS_12.prompts("a {name}"))
    ways: dict[str, Callable[[Cells], Tensor]] = {
        "plain": lambda cells: (cells.embeddings @ text.T).argmax(1),
        "objects": lambda cells: of_objects(cells, text),
        "present": lambda cells: of_present(cells, text),
        "probe": linear_probe(others, most, seed),
    }
    full = [cells for cells in frames if len(cells.labels)]
    return {
        name: percent(
            mean_iou(
                torch.stack(
                    [
                        confusion(way(cells), cells.labels, CLASSES)
                        for cells in full
                    ]
                ).sum(0)
            )
        )
        for name, way in ways.items()
    }


def main() -> None:
    """Print the limits of each model."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "models",
        nargs="*",
        help=(
            "names of models, or files of weights (default: all that are there)"
        ),
    )
    parser.add_argument(
        "--rooms",
        type=int,
        default=24,
        help="rooms to score, and as many others for the probe",
    )
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument(
        "--cells",
        type=int,
        default=40_000,
        help="cells that the probe is fitted on, at most",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the choice of these cells"
    )
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    names = given.models or [
        name for name in list_models() if name in SMALL_MODELS
    ]
    models = [
        SmallModel(
            WEIGHTS / f"{name}.safetensors"
            if name in SMALL_MODELS
            else Path(name)
        )
        for name in names
    ]
    for shift in (0.0, 0.5):
        scored = frame_cells(models, range(given.rooms), shift, given.views)
        others = frame_cells(
            models, range(given.rooms, 2 * given.rooms), shift, given.views
        )
        for model, frames, rest in zip(models, scored, others, strict=True):
            row: dict[str, Any] = {
                "model": model.name,
                "shift": shift,
                "rooms": given.rooms,
            }
            print(
                json.dumps(
                    row | limits(model, frames, rest, given.cells, given.seed)
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
