"""Stage 3 of a run and its baselines: one 3D network for each source of
supervision, on one recipe and one budget.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float16, Int
from torch import Tensor

from vlg_lib.artifacts import code_key, key_of, load_tensors, once
from vlg_lib.baselines import train_classifier
from vlg_lib.class_activation_maps import train_mil
from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.distill import class_weights, distill
from vlg_lib.networks.point_network import (
    NetworkSettings,
    PointNetwork,
    point_scores,
)
from vlg_lib.pipeline.stages import Stages
from vlg_lib.scene import Scene
from vlg_lib.training.loop import SCHEDULES, load_model
from vlg_lib.training.point_batches import Cloud, TrainingSettings

NETWORKS = ("cam", "openscene", "cross-entropy", "3dss-vlg", "supervised")
"""The 3D networks of the table, by what teaches them: scene labels alone; P^2D,
without scene labels; the pseudo labels; A^3D, the method of the book; the true
labels of all points."""

_EMBEDDINGS = ("openscene", "3dss-vlg")
"""The networks whose output is compared with text; the others score fixed
classes."""


class Networks(Stages):
    """What a point cloud alone gives, after training: embeddings or scores of
    every point.
    """

    def cloud(self, scene: Scene) -> Cloud:
        """What a 3D network sees of a scene: no image and no tag."""
        return Cloud(scene.points, scene.colors)

    def network_settings(self, kind: str) -> NetworkSettings:
        """The network of a kind, one of NETWORKS; ValueError for another."""
        if kind not in NETWORKS:
            raise ValueError(
                f"unknown 3D network {kind!r}; known: {', '.join(NETWORKS)}"
            )
        profile = self.profile
        output = "embeddings" if kind in _EMBEDDINGS else "scores"
        channels = (
            self.text_embeddings().shape[1]
            if output == "embeddings"
            else len(self.class_set)
        )
        return NetworkSettings(
            profile.network,
            channels,
            profile.voxel_size,
            self._norm(kind),
            profile.network_height,
            output,
        )

    def _norm(self, kind: str) -> str:
        return (
            self.profile.cam_norm
            if kind == "cam"
            else self.profile.network_norm
        )

    def training_settings(self, kind: str) -> TrainingSettings:
        """The recipe of a kind: CAM has its own steps and crops, all others
        share theirs.
        """
        profile = self.profile
        cam = kind == "cam"
        return TrainingSettings(
            steps=profile.cam_steps if cam else profile.network_steps,
            batch_rooms=(
                profile.cam_batch_rooms if cam else profile.network_batch_rooms
            ),
            crop=profile.cam_crop if cam else profile.network_crop,
            learning_rate=profile.network_learning_rate,
            weight_decay=profile.network_weight_decay,
            max_grad_norm=profile.network_clip,
            schedule=SCHEDULES[profile.network_schedule],
        )

    def targets(self, kind: str, scene: Scene) -> Float16[Tensor, "N D"]:
        """What the points of a scene are to become: P^2D for ``openscene``,
        A^3D for ``3dss-vlg``; zero if unseen.

        The tensor is a mapped file: rows are read when they are asked for.
        """
        if kind not in _EMBEDDINGS:
            raise ValueError(
                "only openscene and 3dss-vlg have target embeddings, not"
                f" {kind!r}"
            )
        if kind == "openscene":
            return self._fused_rows(scene).embeddings
        key = key_of(
            fused=self._fused_key(scene), adapter=self._adapter_path().name
        )
        path = self.folder / "adapted" / f"{scene.name}-{key}.safetensors"
        return once(
            path,
            lambda: ({"embeddings": self.adapted(scene).embeddings.half()}, {}),
        )["embeddings"]

    def _balance(self, kind: str, scene: Scene) -> Int[Tensor, " N"]:
        """The labels that say how frequent a class is: never more than what the
        kind may know.
        """
        if kind == "openscene":
            return self.pseudo_labels(scene, masked=False).labels
        return (
            self.truth(scene)
            if kind == "supervised"
            else self.pseudo_labels(scene).labels
        )

    def network_path(self, kind: str) -> Path:
        """Where the checkpoint of a kind's training is kept; the name follows
        all that it depends on.
        """
        scenes, profile = self.scenes("train"), self.profile
        sources: dict[str, Any] = {
            "rooms": [self._scene_key(scene) for scene in scenes]
        }
        if kind == "cam":
            sources |= {
                "tags": [
                    scene.class_set.present(scene.scene_labels)
                    for scene in scenes
                ]
            }
            sources |= {
                "pooling": profile.cam_pooling,
                "cells": profile.cam_cells,
            }
        elif kind == "supervised":
            sources["labels"] = [self._truth_key(scene) for scene in scenes]
        elif kind == "openscene":
            sources["fused"] = [self._fused_key(scene) for scene in scenes]
        else:
            sources["pseudo"] = [self._pseudo_key(scene) for scene in scenes]
            sources["adapter"] = (
                self._adapter_path().name if kind == "3dss-vlg" else None
            )
        recipe = asdict(self.training_settings(kind))
        recipe["schedule"] = recipe["schedule"].__name__
        key = key_of(
            kind=kind,
            seed=self.seed,
            recipe=recipe,
            balance=profile.balance,
            classes=self.class_set.names,
            network=[
                profile.network,
                profile.voxel_size,
                self._norm(kind),
                profile.network_height,
            ],
            code=code_key(
                "vlg_lib.distill",
                *([] if kind in _EMBEDDINGS else ["vlg_lib.baselines"]),
            ),
            **sources,
        )
        return self.folder / "network" / f"{kind}-{key}.safetensors"

    def _truth_key(self, scene: Scene) -> str:
        keys: dict[str, str] = self._loaded.setdefault("truth keys", {})
        if scene.name not in keys:
            keys[scene.name] = hashlib.sha256(
                self.truth(scene).numpy().tobytes()
            ).hexdigest()[:12]
        return keys[scene.name]

    def network(self, kind: str) -> PointNetwork:
        """The trained 3D network of a kind, one of NETWORKS, in evaluation mode
        on the experiment's device.

        Only ``supervised`` opens point labels. LayoutError from it where a
        scene has none.
        """
        networks: dict[str, PointNetwork] = self._loaded.setdefault(
            "networks", {}
        )
        if kind not in networks:
            path = self.network_path(kind)
            network = PointNetwork(
                self.network_settings(kind), seed=self.seed
            ).to(self.device)
            if not (
                path.is_file()
                and load_tensors(path)[1]["step"]
                == self.training_settings(kind).steps
            ):
                self._train(kind, network, path)
            load_model(path, network)
            networks[kind] = network
        return networks[kind]

    def _train(self, kind: str, network: PointNetwork, path: Path) -> None:
        scenes, recipe = self.scenes("train"), self.training_settings(kind)
        options: dict[str, Any] = {
            "seed": self.seed,
            "checkpoint": path,
            "checkpoint_every": self.profile.checkpoint_every,
            "progress": kind if self.progress else None,
        }
        if kind == "cam":
            clouds, tags = (
                [self.cloud(scene) for scene in scenes],
                [scene.scene_labels for scene in scenes],
            )
            pooling, cells = self.profile.cam_pooling, self.profile.cam_cells
            train_mil(
                network,
                clouds,
                tags,
                recipe,
                pooling=pooling,
                cells=cells,
                **options,
            )
            return
        if kind == "3dss-vlg":
            self.adapter()
        self._each(
            f"labels of {kind}",
            scenes,
            lambda scene: len(self._balance(kind, scene)),
        )
        labels = [self._balance(kind, scene) for scene in scenes]
        classes = len(self.class_set)
        by_class = (
            class_weights(labels, classes)
            if self.profile.balance
            else torch.ones(classes)
        )
        weights = [
            by_class[part.clamp(min=0)] * (part != IGNORE_LABEL)
            for part in labels
        ]
        # Weights go with 1 / sqrt(frequency), their squares with 1 / frequency:
        # crops show all classes alike often.
        clouds = [
            Cloud(s.points, s.colors, part.square())
            for s, part in zip(scenes, weights, strict=True)
        ]
        if kind in ("cross-entropy", "supervised"):
            train_classifier(
                network,
                clouds,
                labels,
                recipe,
                class_weights=by_class,
                **options,
            )
        else:
            self._each(
                f"targets of {kind}",
                scenes,
                lambda scene: len(self.targets(kind, scene)),
            )
            targets = [self.targets(kind, scene) for scene in scenes]
            distill(
                network, clouds, targets, recipe, weights=weights, **options
            )

    def network_losses(self, kind: str) -> list[float]:
        """The loss of each step of a network's training."""
        self.network(kind)
        return [
            float(loss)
            for loss in load_tensors(self.network_path(kind))[0]["losses"]
        ]

    def scores_3d(self, kind: str, scene: Scene) -> Float[Tensor, "N K"]:
        """The scores of a 3D network at the points of a scene: from points and
        colours alone.
        """
        network, profile = self.network(kind), self.profile
        texts = None
        if network.settings.output == "embeddings":
            texts = self.text_embeddings(profile.evaluation_template)
        return point_scores(
            network,
            scene.points,
            scene.colors,
            texts,
            augmentations=profile.augmentations,
            seed=self.seed,
        )

    def predict_3d(self, kind: str, scene: Scene) -> Int[Tensor, " N"]:
        """The labels that a 3D network gives to the points of a scene, (N,)
        int64, from points and colours alone.
        """
        return torch.argmax(self.scores_3d(kind, scene), dim=1)
