"""The evidence of the book: one small file for each method and seed, with the
confusion of every test room, from which all tables are made.

A file is written as soon as its method is scored, and is not made again: an
experiment that was stopped continues. Point labels are opened to score, and for
the fully supervised network.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlg_lib.artifacts import StoreError, read_json, write_json
from vlg_lib.metrics import confusion
from vlg_lib.pipeline.circumstances import circumstances
from vlg_lib.pipeline.run import Run
from vlg_lib.pipeline.teaching import TEACHINGS, teaching
from vlg_lib.pseudo_labels import class_probabilities
from vlg_lib.refine import best_class
from vlg_lib.scene import Scene
from vlg_lib.superpoints import soft_vote

AUGMENTATIONS = 5
"""Turned copies of a test room whose scores are averaged, for all 3D networks
alike. The release of 3DSS-VLG takes as many."""

FIT_ROOMS = 32
"""Training rooms on which a 3D network is scored, one copy each: how well it
fits what it saw."""

LABELS_2D = {
    "projection": "images",
    "projection-masked": "images, tags",
    "adapter": "images",
    "adapter-masked": "images, tags",
}
"""The labels that images give, without any 3D network, and what a test room
must have for them beside points."""


@dataclass(frozen=True)
class Cell:
    """A method on the test rooms of a seed.

    ``matrices``: for each way to read its answers one confusion a room
    (:func:`vlg_lib.metrics.confusion`), (rooms, K, K + 1) int64: ``plain``,
    ``voted`` (after a soft vote of the superpoints) and, of 3D networks,
    ``one copy`` of the room in place of :data:`AUGMENTATIONS`.
    """

    method: str
    seed: int
    classes: tuple[str, ...]
    matrices: Mapping[str, Int[Tensor, "rooms K columns"]]
    labels: Int[Tensor, "K columns"] | None
    """The labels that a network learnt, against the truth of its training
    rooms, added up; None where it learnt no labels."""
    fit: Int[Tensor, "K columns"] | None
    """A 3D network on :data:`FIT_ROOMS` training rooms, added up."""
    about: Mapping[str, Any]
    """The profile, versions, hardware and CPU seconds."""


Answer = Callable[[Scene], Float[Tensor, "N K"]]
"""The probabilities of the classes at the points of a scene."""


def cell_path(folder: Path, method: str, seed: int) -> Path:
    """Where the file of a method and a seed lies.

    >>> cell_path(Path("evidence"), "voted", 3).name
    'voted-seed-3.json'
    """
    return folder / f"{method}-seed-{seed}.json"


def make_cell(run: Run, method: str, folder: Path) -> Path:
    """Score a method on the test rooms of a run, training what it needs, and
    write the file; where it is there already, nothing is done.

    ``method``: a 3D network of :data:`vlg_lib.pipeline.teaching.TEACHINGS` or a
    name in :data:`LABELS_2D`; ValueError for another. LayoutError where a scene
    has no point labels.
    """
    path = cell_path(folder, method, run.seed)
    if method not in LABELS_2D:
        teaching(method)
    if not path.is_file():
        write_json(path, _as_json(_measured(run, method)))
    return path


def _measured(run: Run, method: str) -> Cell:
    started = time.process_time()
    labels = fit = None
    if method in LABELS_2D:
        matrices = _scored(run, {"plain": _answer_2d(run, method)})
    else:
        run.networks.trained(method)
        training = time.process_time() - started
        matrices = _scored(
            run,
            {
                "plain": _answer_3d(run, method, AUGMENTATIONS),
                "one copy": _answer_3d(run, method, 1),
            },
        )
        fit = _fit(run, method)
        if teaching(method).loss == "cross-entropy":
            labels = _label_quality(run, method)
    about = circumstances() | {
        "profile": asdict(run.profile),
        "cpu_seconds": round(time.process_time() - started, 1),
    }
    if method in TEACHINGS:
        about["training_cpu_seconds"] = round(training, 1)
    return Cell(
        method,
        run.seed,
        run.scenes.class_set.names,
        matrices,
        labels,
        fit,
        about,
    )


def _answer_2d(run: Run, method: str) -> Answer:
    """What images say of the points of a scene, through the adapter or not."""
    stages = run.stages
    masked = method.endswith("-masked")

    def answer(scene: Scene) -> Float[Tensor, "N K"]:
        if method.startswith("projection"):
            return stages.probabilities(scene, masked=masked)
        return class_probabilities(
            stages.adapted(scene),
            stages.text_embeddings(),
            scene.scene_labels if masked else None,
            run.profile.pseudo_labels.temperature,
        )

    return answer


def _answer_3d(run: Run, method: str, augmentations: int) -> Answer:
    """What a 3D network says of a scene: no image and no tag."""

    def answer(scene: Scene) -> Float[Tensor, "N K"]:
        return run.networks.probabilities(
            method, scene, augmentations=augmentations
        )

    return answer


def _scored(
    run: Run, answers: Mapping[str, Answer]
) -> dict[str, Int[Tensor, "rooms K columns"]]:
    """The confusion of each answer in each test room, and of the plain one
    after a vote.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in (*answers, "voted")}
    for scene in run.scenes.split("test"):
        truth, classes = run.scenes.truth(scene), len(scene.class_set)
        for name, answer in answers.items():
            chances = answer(scene)
            labels = best_class(chances).labels
            found[name].append(confusion(labels, truth, classes))
            if name == "plain":
                regions = run.stages.superpoints(scene)
                voted, _ = soft_vote(chances, regions)
                found["voted"].append(confusion(voted, truth, classes))
    return {name: torch.stack(rooms) for name, rooms in found.items()}


def _fit(run: Run, method: str) -> Int[Tensor, "K columns"]:
    answer = _answer_3d(run, method, 1)
    return torch.stack(
        [
            confusion(
                best_class(answer(scene)).labels,
                run.scenes.truth(scene),
                len(scene.class_set),
            )
            for scene in run.scenes.split("train")[:FIT_ROOMS]
        ]
    ).sum(0)


def _label_quality(run: Run, method: str) -> Int[Tensor, "K columns"]:
    return torch.stack(
        [
            confusion(
                run.networks.known_labels(method, scene),
                run.scenes.truth(scene),
                len(scene.class_set),
            )
            for scene in run.scenes.split("train")
        ]
    ).sum(0)


def _as_json(cell: Cell) -> dict[str, Any]:
    """A cell as JSON; a matrix is one line of numbers, row after row."""
    return {
        "method": cell.method,
        "seed": cell.seed,
        "classes": cell.classes,
        **cell.about,
        "matrices": {
            name: [_line(matrix) for matrix in matrices]
            for name, matrices in cell.matrices.items()
        },
        "labels": None if cell.labels is None else _line(cell.labels),
        "fit": None if cell.fit is None else _line(cell.fit),
    }


def _line(matrix: Int[Tensor, "K columns"]) -> str:
    return " ".join(map(str, matrix.flatten().tolist()))


def read_cell(path: Path) -> Cell:
    """A file that :func:`make_cell` wrote; StoreError where it is missing or
    damaged.
    """
    found = read_json(path)
    try:
        classes = tuple(found["classes"])
        shape = (len(classes), len(classes) + 1)
        known = ("method", "seed", "classes", "matrices", "labels", "fit")
        return Cell(
            found["method"],
            found["seed"],
            classes,
            {
                name: torch.stack([_matrix(room, shape) for room in rooms])
                for name, rooms in found["matrices"].items()
            },
            found["labels"] and _matrix(found["labels"], shape),
            found["fit"] and _matrix(found["fit"], shape),
            {name: value for name, value in found.items() if name not in known},
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StoreError(
            f"{path}: expected the scores of a method on rooms ({error});"
            " delete the file and make it again"
        ) from error


def _matrix(line: str, shape: tuple[int, int]) -> Int[Tensor, "K columns"]:
    numbers = [int(number) for number in line.split()]
    return torch.tensor(numbers).reshape(shape)
