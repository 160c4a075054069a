"""Score the shipped 3D networks on a real scan: hand-labelled regions of the
HoloLens office.

``python data_scripts/fetch_hololens.py --out data/hololens`` fetches the scan,
``vlg convert rgbd data/hololens --out scenes --up y`` makes the cloud, and
``python data_scripts/score_hololens.py scenes/hololens`` prints a JSON line a
network and number of turned copies. Networks see points and colours alone. The
regions choose nothing: they were drawn before any network was trained for this
scan, and stand in ``tests/assets/hololens-office-regions.json`` with the rule
by which they were drawn.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlg_lib.classes import CLASS_SETS, IGNORE_LABEL, ClassSet
from vlg_lib.data.layout import read_scene
from vlg_lib.geometry.poses import rotation_matrix
from vlg_lib.metrics import Scores, evaluate
from vlg_lib.networks.point_network import PointNetwork, point_scores
from vlg_lib.networks.zoo import list_checkpoints, load_checkpoint
from vlg_lib.own_scan.predict import choose_classes
from vlg_lib.scene import Scene

REGIONS = (
    Path(__file__).parent.parent / "tests/assets/hololens-office-regions.json"
)


@dataclass(frozen=True)
class Region:
    """A box that holds points of one class."""

    name: str
    """Which thing it lies in."""
    label: int
    """The index of its class."""
    low: tuple[float, float, float]
    """Its lowest corner, metres, in the turned frame."""
    high: tuple[float, float, float]
    """Its highest corner, which belongs to it."""


@dataclass(frozen=True)
class Regions:
    """The labelled boxes of a scan, and the cloud that they belong to."""

    class_set: ClassSet
    """The classes that boxes are of."""
    points: int
    """How many points the cloud has."""
    turn: float
    """How far the cloud is turned about z before boxes fit it, radians."""
    boxes: tuple[Region, ...]
    """The boxes; no point lies in two."""


def read_regions(path: Path = REGIONS) -> Regions:
    """The labelled regions of a JSON file; ValueError for a box without an
    inside or of an unknown class.
    """
    held: dict[str, Any] = json.loads(path.read_text())
    class_set = CLASS_SETS[held["class_set"]]
    boxes = []
    for entry in held["regions"]:
        low, high = tuple(entry["low"]), tuple(entry["high"])
        if len(low) != 3 or len(high) != 3 or not all(map(_below, low, high)):
            raise ValueError(
                f"{path}: region {entry['name']!r}: expected three numbers in"
                f" low, each below its number in high, found {low} and {high}"
            )
        label = class_set.index(entry["class"])
        boxes.append(Region(entry["name"], label, low, high))
    return Regions(
        class_set,
        held["points"],
        math.radians(held["turn_degrees"]),
        tuple(boxes),
    )


def _below(low: float, high: float) -> bool:
    return low < high


def region_of(
    points: Float[Tensor, "N 3"], regions: Regions
) -> Int[Tensor, " N"]:
    """The index of the box that each point lies in, (N,) int64,
    ``IGNORE_LABEL`` outside all of them.

    ``points``: metres, world frame of the converted scan, z up. ValueError for
    a point in two boxes, and for a box without a point.
    """
    turned = points @ rotation_matrix(regions.turn).T
    found = torch.full((len(points),), IGNORE_LABEL)
    for index, box in enumerate(regions.boxes):
        inside = (
            (turned >= torch.tensor(box.low))
            & (turned <= torch.tensor(box.high))
        ).all(dim=1)
        others = found[inside & (found != IGNORE_LABEL)]
        if len(others):
            raise ValueError(
                f"regions {regions.boxes[int(others[0])].name!r} and"
                f" {box.name!r} share {len(others)} points"
            )
        if not bool(inside.any()):
            raise ValueError(
                f"no point lies in region {box.name!r}: is this the cloud of"
                " the scan, with z up and in the scan's own frame?"
            )
        found[inside] = index
    return found


def score_regions(
    predicted: Int[Tensor, " N"],
    where: Int[Tensor, " N"],
    regions: Regions,
) -> Scores:
    """How well labels fit the regions; the interval is over regions, as the
    points of one thing stand or fall together.

    ``predicted``: (N,) int64 classes. ``where``: from :func:`region_of`.
    """
    parts = [predicted[where == index] for index in range(len(regions.boxes))]
    truths = [
        torch.full_like(part, box.label)
        for part, box in zip(parts, regions.boxes, strict=True)
    ]
    return evaluate(parts, truths, regions.class_set)


def read_scan(folder: Path, regions: Regions) -> Scene:
    """The converted scan; ValueError where it is not the cloud that the regions
    were drawn on.
    """
    scene = read_scene(folder)
    if len(scene.points) != regions.points:
        raise ValueError(
            f"{folder}: expected the {regions.points} points that the regions"
            f" were drawn on, found {len(scene.points)}: convert the scan with"
            " vlg convert rgbd data/hololens --out scenes --up y"
        )
    return scene


def labels_of(
    name: str,
    network: PointNetwork,
    about: dict[str, Any],
    scene: Scene,
    augmentations: int,
) -> Int[Tensor, " N"]:
    """The class that a network gives to each point of a scan."""
    texts = choose_classes(network, about, None, name).texts
    scores = point_scores(
        network, scene.points, scene.colors, texts, augmentations=augmentations
    )
    return scores.argmax(dim=1)


def line(
    name: str, augmentations: int, found: Scores, right: list[float]
) -> dict[str, Any]:
    """A record of a network's scores, in per cent; ``right``: the share of
    right points of each region.
    """

    def percent(share: float) -> float:
        return round(100 * share, 1)

    low, high = found.miou_interval
    return {
        "network": name,
        "passes": augmentations,
        "miou": percent(found.miou),
        "miou_low": percent(low),
        "miou_high": percent(high),
        "accuracy": percent(found.accuracy),
        "mean_accuracy": percent(found.mean_accuracy),
        "iou": {
            word: percent(iou)
            for word, iou in found.iou.items()
            if iou is not None
        },
        "right_by_region": [percent(share) for share in right],
    }


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scan", type=Path, help="the folder of the scene")
    parser.add_argument(
        "--networks",
        nargs="+",
        default=list_checkpoints(),
        help="names of shipped networks, or files",
    )
    parser.add_argument("--regions", type=Path, default=REGIONS)
    parser.add_argument("--augmentations", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    regions = read_regions(given.regions)
    scene = read_scan(given.scan, regions)
    where = region_of(scene.points, regions)
    for name in given.networks:
        network, about = load_checkpoint(name)
        for augmentations in given.augmentations:
            predicted = labels_of(name, network, about, scene, augmentations)
            right = [
                float((predicted[where == index] == box.label).double().mean())
                for index, box in enumerate(regions.boxes)
            ]
            found = score_regions(predicted, where, regions)
            print(
                json.dumps(line(name, augmentations, found, right)), flush=True
            )


if __name__ == "__main__":
    main()
