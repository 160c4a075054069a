"""The table of a run: one row a method, all scored on the same points. Point
labels are opened for it.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from vlg_lib.adapter import adapt
from vlg_lib.artifacts import (
    code_key,
    key_of,
    load_tensors,
    read_json,
    write_json,
)
from vlg_lib.metrics import confusion, score
from vlg_lib.pipeline.networks import NETWORKS, Networks
from vlg_lib.pipeline.profiles import Profile, get_profile
from vlg_lib.pipeline.scenes import SPLITS, default_cache
from vlg_lib.pseudo_labels import make_pseudo_labels
from vlg_lib.scene import Scene
from vlg_lib.training import distributed

ROWS_3D = {
    "CAM": "cam",
    "OpenScene": "openscene",
    "cross-entropy": "cross-entropy",
    "3DSS-VLG": "3dss-vlg",
    "full supervision": "supervised",
}
"""The rows of 3D networks alone, and the network of each."""

ROWS = (
    "majority class",
    "projection",
    "projection + scene mask",
    "adapter",
    "adapter + mask",
    *ROWS_3D,
)
"""The rows of the table. The first calls every point the commonest class of the
training scenes; the next four are the argmax over the class names of P^2D and
of A^3D, without and with the scene's tags; the others are 3D networks."""


class Experiment(Networks):
    """One run of the whole method: a profile and a seed, on made rooms or on
    the scenes of a folder.

    Nothing is made until it is asked for; what is made is kept in ``folder``.
    """

    @classmethod
    def open(
        cls,
        profile: str | Profile = "auto",
        seed: int = 0,
        folder: Path | str | None = None,
        *,
        scenes_folder: Path | str | None = None,
        fused_folder: Path | str | None = None,
        keep_gb: float = 0.0,
        device: str | None = None,
        progress: bool | None = None,
    ) -> "Experiment":
        """The experiment of a profile and a seed; nothing is made until it is
        asked for.

        ``folder`` defaults to :func:`default_cache`, ``device`` to CUDA where
        there is one, ``progress`` to bars in every profile but ``fast``. In
        processes that a launcher started (:mod:`vlg_lib.training.distributed`)
        all of them open it and call the same methods in the same order.
        ValueError for an unknown profile and a negative seed.
        """
        distributed.start(device)
        chosen = (
            profile if isinstance(profile, Profile) else get_profile(profile)
        )
        if seed < 0:
            raise ValueError(f"a seed is a whole number from 0, found {seed}")
        return cls(
            profile=chosen,
            seed=seed,
            folder=Path(folder) if folder is not None else default_cache(),
            scenes_folder=(
                Path(scenes_folder) if scenes_folder is not None else None
            ),
            fused_folder=(
                Path(fused_folder) if fused_folder is not None else None
            ),
            keep_gb=keep_gb,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            progress=(chosen.name != "fast" if progress is None else progress)
            and distributed.rank() == 0,
        )

    def table(self, networks: Sequence[str] = NETWORKS) -> list[dict[str, Any]]:
        """The scores of every row of :data:`ROWS`, in per cent; of the 3D
        networks, those of ``networks`` only.

        ``miou`` and ``accuracy`` are those of the test scenes, which no stage
        learnt from; ``miou_train`` and ``accuracy_train`` those of the training
        scenes. A mask uses the tags of the scene it is scored on: on test
        scenes a row with a mask shows what a person's tags are worth there, not
        what the method does alone. ``miou_low`` and ``miou_high``: 95 %
        bootstrap interval over test scenes. ``iou``: each class of the test
        scenes, None where none has it. ``seconds``: what the row took from the
        scenes on, fusion included, as measured when it was made. LayoutError
        where a scene has no point labels. Where scenes cannot be read,
        ValueError that names them, after stage 1 of all the others.
        """
        rows_3d = {
            row: kind for row, kind in ROWS_3D.items() if kind in networks
        }
        if any(self._readable(split)[1] for split in SPLITS):
            self._fuse_all()
        path = self.folder / "table" / f"table-{self._table_key(rows_3d)}.json"
        if not path.is_file():
            for split in SPLITS:  # missing labels are found out now
                self._each(
                    "labels",
                    self.scenes(split),
                    lambda scene: len(self.truth(scene)),
                )
            self._fuse_all()
            self.adapter()
            for kind in rows_3d.values():
                self.network(kind)
            answers = {
                split: self._each(
                    "scores", self.scenes(split), partial(self._answer, rows_3d)
                )
                for split in SPLITS
            }
            rows = [
                self._row(row, answers)
                for row in ROWS
                if row not in ROWS_3D or row in rows_3d
            ]
            if distributed.rank() == 0:
                write_json(path, rows)
            distributed.barrier()
        table: list[dict[str, Any]] = read_json(path)
        return table

    def _fuse_all(self) -> None:
        """Stage 1 of all scenes that can be read: they need not wait for the
        fix of one that fails, which is named.
        """
        scenes = {
            scene.name: scene
            for split in SPLITS
            for scene in self._readable(split)[0]
        }
        self._each(
            "stage 1",
            list(scenes.values()),
            lambda scene: len(self._fused_rows(scene).embeddings),
        )

    def _table_key(self, rows_3d: dict[str, str]) -> str:
        labels = [
            self._folder_of(scene) / "labels.ply"
            for split in SPLITS
            for scene in self.scenes(split)
        ]
        return key_of(
            adapter=self._adapter_path().name,
            networks=[
                self.network_path(kind).name for kind in rows_3d.values()
            ],
            scoring=[
                self.profile.evaluation_template,
                self.profile.augmentations,
                self.profile.convention,
            ],
            scenes=[
                self._pseudo_key(scene)
                for split in SPLITS
                for scene in self.scenes(split)
            ],
            truth=[
                path.stat().st_mtime_ns if path.is_file() else None
                for path in labels
            ],
            code=code_key("vlg_lib.pipeline.table", "vlg_lib.metrics"),
        )

    def _answer(
        self, rows_3d: dict[str, str], scene: Scene
    ) -> dict[str, tuple[Tensor, float]]:
        """The confusion of every row on a scene, and the seconds that the last
        step of each took.

        The first row has that of a perfect prediction: what it predicts is
        known when all scenes are.
        """
        texts, fused, truth = (
            self.text_embeddings(),
            self.fused(scene),
            self.truth(scene),
        )
        matrix = partial(confusion, truth=truth, classes=len(self.class_set))
        answers = {ROWS[0]: (matrix(truth), 0.0)}
        for name, adapter in (
            ("projection", None),
            ("adapter", self.adapter()),
        ):
            for row, tags in (
                (name, None),
                (_masked(name), scene.scene_labels),
            ):
                started = time.perf_counter()
                embeddings = fused if adapter is None else adapt(adapter, fused)
                labels = make_pseudo_labels(
                    embeddings, texts, tags, self.profile.temperature
                ).labels
                answers[row] = (matrix(labels), time.perf_counter() - started)
        for row, kind in rows_3d.items():
            started = time.perf_counter()
            answers[row] = (
                matrix(self.predict_3d(kind, scene)),
                time.perf_counter() - started,
            )
        return answers

    def _row(self, row: str, answers: dict[str, list[Any]]) -> dict[str, Any]:
        matrices = {
            split: [answer[row][0] for answer in answers[split]]
            for split in SPLITS
        }
        seconds = sum(
            answer[row][1] for split in SPLITS for answer in answers[split]
        )
        if row == ROWS[0]:
            commonest = torch.stack(matrices["train"]).sum(dim=(0, 2)).argmax()
            column = one_hot(commonest, len(self.class_set) + 1)
            matrices = {
                split: [
                    matrix.sum(1, keepdim=True) * column
                    for matrix in matrices[split]
                ]
                for split in SPLITS
            }
        else:
            seconds += self._spent(row)
        test, train = (
            score(
                matrices[split],
                self.class_set,
                convention=self.profile.convention,
            )
            for split in ("test", "train")
        )
        shares = {
            "miou": test.miou,
            "accuracy": test.accuracy,
            "miou_low": test.miou_interval[0],
            "miou_high": test.miou_interval[1],
            "miou_train": train.miou,
            "accuracy_train": train.accuracy,
        }
        iou = {
            name: None if share is None else 100 * share
            for name, share in test.iou.items()
        }
        return {
            "row": row,
            **{name: 100 * share for name, share in shares.items()},
            "seconds": seconds,
            "iou": iou,
        }

    def _spent(self, row: str) -> float:
        """The seconds of the stored artefacts that a row is made from, as
        measured when they were made.
        """
        train = self.scenes("train")
        scored = [scene for split in SPLITS for scene in self.scenes(split)]
        kind = ROWS_3D.get(row)
        paths = set()
        if kind not in ("cam", "supervised"):
            paths |= {
                self._path("fused", s, self._fused_key(s))
                for s in (scored if kind is None else train)
            }
        if row.startswith("adapter") or kind in ("3dss-vlg", "cross-entropy"):
            paths |= {
                self._path("pseudo_labels", s, self._pseudo_key(s))
                for s in train
            }
        if row.startswith("adapter") or kind == "3dss-vlg":
            paths.add(self._adapter_path())
        if kind is not None:
            paths.add(self.network_path(kind))
        return sum(
            float(load_tensors(path)[1].get("seconds", 0)) for path in paths
        )


def _masked(row: str) -> str:
    return next(name for name in ROWS if name.startswith(f"{row} +"))
