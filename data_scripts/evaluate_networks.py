"""Score the shipped networks on the unseen rooms of a seed, by angle to the
voxel grid and number of turned copies.

``python data_scripts/evaluate_networks.py --profile book --seed 1`` prints a
JSON line a network, angle and number of copies (``passes``, as in the recorded
figures). The rooms are made where they
are missing; images and tags are not used.
"""

import argparse
import json
import math

import torch

from vlg_lib.geometry.poses import rotation_matrix
from vlg_lib.metrics import Scores, evaluate
from vlg_lib.networks.point_network import TURN, point_scores
from vlg_lib.networks.zoo import list_checkpoints, load_checkpoint
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.run import Run, open_run
from vlg_lib.pipeline.scenes import SPLITS


def scores(
    run: Run,
    split: str,
    rooms: int,
    name: str,
    degrees: float,
    augmentations: int,
) -> Scores:
    """How well a network names the points of rooms that stand at an angle to
    the voxel grid.
    """
    network, _ = load_checkpoint(name)
    texts = (
        run.stages.text_embeddings()
        if network.settings.output == "embeddings"
        else None
    )
    scenes = run.scenes.split(split)[:rooms]
    # point_scores turns by TURN itself
    turn = rotation_matrix(math.radians(degrees) - TURN).T
    predicted = [
        point_scores(
            network,
            scene.points @ turn,
            scene.colors,
            texts,
            augmentations=augmentations,
        ).argmax(dim=1)
        for scene in scenes
    ]
    return evaluate(
        predicted,
        [run.scenes.truth(scene) for scene in scenes],
        run.scenes.class_set,
    )


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", default="book")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--rooms", type=int, default=16)
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=list_checkpoints(),
        default=list_checkpoints(),
    )
    parser.add_argument("--degrees", type=float, nargs="+", default=[0, 20, 40])
    parser.add_argument("--augmentations", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    run = open_run(given.profile, given.seed, RunOptions(progress=False))
    for name in given.networks:
        for degrees in given.degrees:
            for augmentations in given.augmentations:
                found = scores(
                    run,
                    given.split,
                    given.rooms,
                    name,
                    degrees,
                    augmentations,
                )
                low, high = found.miou_interval
                shares = {
                    "miou": found.miou,
                    "miou_low": low,
                    "miou_high": high,
                    "accuracy": found.accuracy,
                }
                line = {
                    "network": name,
                    "degrees": degrees,
                    "passes": augmentations,
                }
                print(
                    json.dumps(
                        line
                        | {
                            key: round(100 * share, 1)
                            for key, share in shares.items()
                        }
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
