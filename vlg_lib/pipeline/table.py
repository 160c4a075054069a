"""The table of a run: one row a method, all scored on the same points. Point
labels are opened for it.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import one_hot

from vlg_lib.adapter import adapt
from vlg_lib.artifacts import code_key, key_of, read_json, write_json
from vlg_lib.metrics import confusion, score
from vlg_lib.pipeline.cache import Artifact
from vlg_lib.pipeline.networks import NETWORKS, Networks
from vlg_lib.pipeline.scenes import SPLITS
from vlg_lib.pseudo_labels import make_pseudo_labels
from vlg_lib.scene import Scene
from vlg_lib.superpoints import soft_vote
from vlg_lib.training import distributed

ROWS_3D = {
    "CAM": "cam",
    "OpenScene": "openscene",
    "cross-entropy": "cross-entropy",
    "3DSS-VLG": "3dss-vlg",
    "full supervision": "supervised",
}
"""The rows of 3D networks alone, and the network of each."""

VOTED = "projection + superpoint vote"
"""The row of the zero-shot labels after a soft vote over superpoints. It needs
images, and neither tags nor training. Made rooms favour it: their walls and
furniture are boxes of one texture each, which superpoints find whole."""

ROWS = (
    "majority class",
    "projection",
    VOTED,
    "projection + scene mask",
    "adapter",
    "adapter + mask",
    *ROWS_3D,
)
"""The rows of the table. The first calls every point the commonest class of the
training scenes. The next five are the argmax over the class names of P^2D, as
it is, after a vote (:data:`VOTED`) and with the scene's tags, and of A^3D,
without and with the tags. The others are 3D networks."""


class Row(TypedDict):
    """A row of the table: shares in per cent, times in seconds."""

    row: str
    """One of :data:`ROWS`."""
    miou: float
    """On the test scenes, which no stage learnt from."""
    accuracy: float
    """On the test scenes."""
    miou_low: float
    """The lower end of the 95 % bootstrap interval over test scenes."""
    miou_high: float
    """Its upper end."""
    miou_train: float
    """On the training scenes."""
    accuracy_train: float
    """On the training scenes."""
    seconds: float
    """What the row took from the scenes on, fusion included, as measured when
    it was made."""
    iou: dict[str, float | None]
    """Each class of the test scenes, None where none has it."""


@dataclass(frozen=True)
class Answer:
    """A method on a scene: the confusion with its labels, and the seconds that
    the last step took.
    """

    matrix: Int[Tensor, "K columns"]
    seconds: float


Answers = dict[str, list[dict[str, Answer]]]
"""For each split and scene the answer of each row."""


class Table:
    """The scores of the methods of a run.

    A mask uses the tags of the scene it is scored on: on test scenes a row with
    a mask shows what a person's tags are worth there, not what the method does
    alone.
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    def rows(self, networks: Sequence[str] = NETWORKS) -> list[Row]:
        """The scores of every row of :data:`ROWS`; of the 3D networks, those of
        ``networks`` only.

        LayoutError where a scene has no point labels. Where scenes cannot be
        read, ValueError that names them, after stage 1 of all the others.
        """
        kinds = {row: kind for row, kind in ROWS_3D.items() if kind in networks}
        scenes = self.networks.stages.scenes
        if any(scenes.readable(split)[1] for split in SPLITS):
            self._fuse_all()
        path = self._path(kinds)
        if not path.is_file():
            rows = self._make(kinds)
            if distributed.rank() == 0:
                write_json(path, rows)
            distributed.barrier()
        table: list[Row] = read_json(path)
        return table

    def _make(self, kinds: Mapping[str, str]) -> list[Row]:
        """Make whatever the rows need, and score them."""
        stages = self.networks.stages
        for split in SPLITS:  # missing labels are found out now
            scenes = stages.scenes.split(split)
            stages.share("labels", scenes, stages.scenes.truth)
        self._fuse_all()
        _ = stages.adapter
        for kind in kinds.values():
            self.networks.trained(kind)
        answers = {
            split: distributed.each(
                stages.scenes.split(split),
                partial(self._answer, kinds),
                stages.bar("scores"),
            )
            for split in SPLITS
        }
        shown = [row for row in ROWS if row not in ROWS_3D or row in kinds]
        return [self._row(row, answers) for row in shown]

    def _fuse_all(self) -> None:
        """Stage 1 of all scenes that can be read; one that cannot is named, and
        the others do not wait for it.
        """
        stages = self.networks.stages
        scenes = {
            scene.name: scene
            for split in SPLITS
            for scene in stages.scenes.readable(split)[0]
        }
        stages.share("stage 1", list(scenes.values()), stages.fused_rows)

    def _path(self, kinds: Mapping[str, str]) -> Path:
        """Where the table is kept; the name follows all that it depends on."""
        stages = self.networks.stages
        scenes = stages.scenes.all()
        key = key_of(
            adapter=stages.adapter_artifact.key,
            networks=[
                self.networks.artifact(kind).key for kind in kinds.values()
            ],
            scoring=asdict(stages.profile.evaluation),
            scenes=[
                stages.pseudo_labels_artifact(scene).key for scene in scenes
            ],
            superpoints=[
                stages.superpoints_artifact(scene).key for scene in scenes
            ],
            truth=[stages.scenes.truth_key(scene) for scene in scenes],
            code=code_key("vlg_lib.pipeline.table", "vlg_lib.metrics"),
        )
        return stages.cache.folder / "table" / f"table-{key}.json"

    def _answer(
        self, kinds: Mapping[str, str], scene: Scene
    ) -> dict[str, Answer]:
        """The answer of every row on a scene.

        The first row has that of a perfect prediction: what it predicts is
        known when all scenes are.
        """
        stages = self.networks.stages
        truth, fused = stages.scenes.truth(scene), stages.fused(scene)
        classes, texts = len(scene.class_set), stages.text_embeddings()
        temperature = stages.profile.pseudo_labels.temperature
        answers = {ROWS[0]: Answer(confusion(truth, truth, classes), 0.0)}
        for name, adapter in (
            ("projection", None),
            ("adapter", stages.adapter),
        ):
            for row, tags in (
                (name, None),
                (_masked(name), scene.scene_labels),
            ):
                started = time.perf_counter()
                embeddings = fused if adapter is None else adapt(adapter, fused)
                labels = make_pseudo_labels(
                    embeddings, texts, tags, temperature
                ).labels
                matrix = confusion(labels, truth, classes)
                answers[row] = Answer(matrix, time.perf_counter() - started)
        answers[VOTED] = self._voted(scene, truth)
        for row, kind in kinds.items():
            started = time.perf_counter()
            labels = self.networks.predict(kind, scene)
            matrix = confusion(labels, truth, classes)
            answers[row] = Answer(matrix, time.perf_counter() - started)
        return answers

    def _voted(self, scene: Scene, truth: Int[Tensor, " N"]) -> Answer:
        """The answer of the superpoints of a scene, which are made first."""
        stages = self.networks.stages
        pieces = stages.superpoints(scene)
        started = time.perf_counter()
        probabilities = stages.probabilities(scene, masked=False)
        labels, _ = soft_vote(probabilities, pieces)
        matrix = confusion(labels, truth, len(scene.class_set))
        return Answer(matrix, time.perf_counter() - started)

    def _row(self, row: str, answers: Answers) -> Row:
        stages = self.networks.stages
        matrices = {
            split: [answer[row].matrix for answer in answers[split]]
            for split in SPLITS
        }
        seconds = 0.0
        if row == ROWS[0]:
            matrices = _of_commonest_class(matrices)
        else:
            seconds = self._spent(row) + sum(
                answer[row].seconds
                for split in SPLITS
                for answer in answers[split]
            )
        test, train = (
            score(
                matrices[split],
                stages.scenes.class_set,
                convention=stages.profile.evaluation.convention,
            )
            for split in ("test", "train")
        )
        return {
            "row": row,
            "miou": 100 * test.miou,
            "accuracy": 100 * test.accuracy,
            "miou_low": 100 * test.miou_interval[0],
            "miou_high": 100 * test.miou_interval[1],
            "miou_train": 100 * train.miou,
            "accuracy_train": 100 * train.accuracy,
            "seconds": seconds,
            "iou": {
                name: None if share is None else 100 * share
                for name, share in test.iou.items()
            },
        }

    def _spent(self, row: str) -> float:
        """The seconds of the kept artefacts that a row is made from, as
        measured when they were made; embeddings that were given count nothing.
        """
        cache = self.networks.stages.cache
        return sum(
            cache.manifest(artifact).seconds
            for artifact in set(self._made_from(row))
            if artifact in cache
        )

    def _made_from(self, row: str) -> Iterable[Artifact]:
        """The artefacts that a row is made from."""
        stages, kind = self.networks.stages, ROWS_3D.get(row)
        train = stages.scenes.split("train")
        adapted = row.startswith("adapter") or kind == "3dss-vlg"
        if kind not in ("cam", "supervised"):
            scored = stages.scenes.all() if kind is None else train
            yield from map(stages.fused_artifact, scored)
        if row == VOTED:
            yield from map(stages.superpoints_artifact, stages.scenes.all())
        if adapted or kind == "cross-entropy":
            yield from map(stages.pseudo_labels_artifact, train)
        if adapted:
            yield stages.adapter_artifact
        if kind is not None:
            yield self.networks.artifact(kind)


def _masked(row: str) -> str:
    return next(
        name
        for name in ROWS
        if name.startswith(f"{row} +") and name.endswith("mask")
    )


def _of_commonest_class(
    matrices: Mapping[str, list[Tensor]],
) -> dict[str, list[Tensor]]:
    """The confusions of a method that calls every point the commonest class of
    the training scenes, from those of a perfect one.
    """
    train = torch.stack(matrices["train"])
    commonest = train.sum(dim=(0, 2)).argmax()
    column = one_hot(commonest, train.shape[2])
    return {
        split: [matrix.sum(1, keepdim=True) * column for matrix in of_split]
        for split, of_split in matrices.items()
    }
