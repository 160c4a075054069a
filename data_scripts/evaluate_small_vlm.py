"""Score the small model on rooms it never saw: dense zero-shot mIoU, one full-frame pass, at shift 0, .25, .5 and 1.

``python data_scripts/evaluate_small_vlm.py`` prints one line a shift and an IoU for each class.
"""

import argparse
import json
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from vlg_lib.classes import ROOMS_12
from vlg_lib.data.rooms import make_room, render_frame, room_camera, room_poses, split_seeds
from vlg_lib.store import write_json
from vlg_lib.vision_language.base import VisionLanguageModel
from vlg_lib.vision_language.small import WEIGHTS, SmallRegionModel

SHIFTS = (0.0, 0.25, 0.5, 1.0)


def frame_confusion(
    model: VisionLanguageModel, shift: float, rooms: int, views: int, template: str
) -> Int[Tensor, "K K"]:
    """Pixels by (true class, predicted class) over all frames of the held-out rooms, without unlabelled pixels."""
    classes = len(ROOMS_12)
    texts = model.text_embeddings(ROOMS_12.prompts(template))
    confusion = torch.zeros(classes * classes, dtype=torch.int64)
    for seed in tqdm(split_seeds("vlm-held-out", rooms), desc=f"shift {shift}", unit="room", leave=False):
        room = make_room(seed, shift=shift)
        for view, pose in enumerate(room_poses(room, views)):
            rendered = render_frame(room, room_camera(), pose, seed=view)
            predicted = model.segment(rendered.frame.color, texts)
            known = rendered.labels >= 0
            pairs = rendered.labels[known] * classes + predicted[known]
            confusion += torch.bincount(pairs, minlength=classes * classes)
    return confusion.view(classes, classes)


def main() -> None:
    """Print the scores, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--rooms", type=int, default=24)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--template", default="a {name}")
    parser.add_argument("--out", type=Path, help="also write the scores to this JSON file")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = SmallRegionModel(given.weights)
    rows = []
    for shift in SHIFTS:
        confusion = frame_confusion(model, shift, given.rooms, given.views, given.template).double()
        hits, truth = confusion.diag(), confusion.sum(1)
        iou = 100 * hits / (truth + confusion.sum(0) - hits)
        mean, accuracy = float(iou[truth > 0].mean()), float(100 * hits.sum() / truth.sum())
        classes = {name: round(float(value), 1) for name, value in zip(ROOMS_12.names, iou, strict=True)}
        rows.append({"shift": shift, "miou": round(mean, 1), "accuracy": round(accuracy, 1), "iou": classes})
        print(json.dumps(rows[-1]), flush=True)
    if given.out:
        write_json(given.out, {"rooms": given.rooms, "views": given.views, "template": given.template, "scores": rows})


if __name__ == "__main__":
    main()
