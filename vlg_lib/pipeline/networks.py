"""Stage 3 of a run and its baselines: one 3D network for each source of
supervision, on one recipe and one budget.
"""

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Float16, Int
from torch import Tensor

from vlg_lib.artifacts import code_key, key_of
from vlg_lib.baselines import train_classifier
from vlg_lib.class_activation_maps import train_mil
from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.distill import class_weights, distill
from vlg_lib.networks.point_network import (
    NetworkSettings,
    PointNetwork,
    point_scores,
)
from vlg_lib.pipeline.cache import Artifact
from vlg_lib.pipeline.co_trained import CoTrained
from vlg_lib.pipeline.scenes import hash_tensor
from vlg_lib.pipeline.stages import Stages
from vlg_lib.pipeline.teaching import (
    STAGE_1,
    TEACHINGS,
    TRUTH,
    Teaching,
    teaching,
)
from vlg_lib.pseudo_labels import PseudoLabels
from vlg_lib.refine import best_class, masked_softmax, refine
from vlg_lib.scene import Scene
from vlg_lib.training.loop import FitSettings, Progress, load_model
from vlg_lib.training.point_batches import Cloud, TrainingSettings

NETWORKS = ("cam", "openscene", "cross-entropy", "3dss-vlg", "supervised")
"""The 3D networks of the table of `vlg run`, by what teaches them: scene labels
alone; P^2D, without scene labels; the pseudo labels; A^3D, the method of the
book; the true labels of all points. All there are:
:data:`vlg_lib.pipeline.teaching.TEACHINGS`."""

RELABELLING_AUGMENTATIONS = 5
"""Turned copies of a training room whose scores are averaged where a network
labels it for the next one."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A 3D network of a run, on its device, and how its training went."""

    module: PointNetwork
    progress: Progress


@dataclass(frozen=True)
class Lesson:
    """What the classes of the training rooms say about their points.

    ``labels``: for each room. ``by_class``: how much a class counts.
    ``weights``: how much each point counts, for each room. ``clouds``: the
    rooms, with how likely each point is to be the centre of a crop.
    """

    labels: list[Int[Tensor, " _"]]
    by_class: Float[Tensor, " K"]
    weights: list[Float[Tensor, " _"]]
    clouds: list[Cloud]


class Networks:
    """What a point cloud alone gives, after training: embeddings or scores of
    every point.
    """

    def __init__(self, stages: Stages) -> None:
        self.stages = stages
        self.co_trained = CoTrained(stages)
        self._trained: dict[str, TrainedNetwork] = {}
        self._truth_keys: dict[str, str] = {}

    def cloud(self, scene: Scene) -> Cloud:
        """What a 3D network sees of a scene: no image and no tag."""
        return Cloud(scene.points, scene.colors)

    def settings(self, kind: str) -> NetworkSettings:
        """The network of a kind; ValueError for an unknown one."""
        network = self._body(kind)
        if network.output == "embeddings":
            channels = self.stages.text_embeddings().shape[1]
        else:
            channels = len(self.stages.scenes.class_set)
        return replace(network, channels=channels)

    def _body(self, kind: str) -> NetworkSettings:
        """The network of a kind, whatever the number of its outputs."""
        profile, loss = self.stages.profile, teaching(kind).loss
        own_norm = loss == "multiple-instance"
        return replace(
            profile.network,
            norm=profile.cam.norm if own_norm else profile.network.norm,
            output="embeddings" if loss == "cosine" else "scores",
        )

    def recipe(self, kind: str) -> TrainingSettings:
        """The budget and recipe of a kind: CAM has its own, all others share
        theirs.
        """
        profile = self.stages.profile
        return profile.cam.training if kind == "cam" else profile.training

    def targets(self, kind: str, scene: Scene) -> Float16[Tensor, "N D"]:
        """What the points of a scene are to become: P^2D for ``openscene``,
        A^3D for ``3dss-vlg``; zero if unseen.

        The tensor is a mapped file: rows are read when they are asked for.
        ValueError for a kind that learns no embeddings.
        """
        taught = teaching(kind)
        if taught.loss != "cosine":
            raise ValueError(f"{kind!r} learns classes: it has no targets")
        if taught.adapted:
            rows = self.stages.adapted_rows(scene, masked=taught.tags)
        else:
            rows = self.stages.fused_rows(scene)
        return rows.embeddings

    def known_labels(self, kind: str, scene: Scene) -> Int[Tensor, " N"]:
        """The labels that a kind learns, or that say how frequent a class is:
        never more than what it may know.
        """
        taught = teaching(kind)
        if taught.labeller == TRUTH:
            return self.stages.scenes.truth(scene)
        if taught.plain:
            return self.stages.pseudo_labels(scene, masked=taught.tags).labels
        return self._refined(kind, scene).labels

    def _refined(self, kind: str, scene: Scene) -> PseudoLabels:
        """The labels of a scene after a network's answers, selection and vote,
        whichever the kind has.
        """
        taught, stages = teaching(kind), self.stages
        artifact = self._refined_artifact(kind, scene)
        if artifact not in stages.cache:
            started = time.perf_counter()
            chances = self._probabilities(taught, scene)
            if taught.refinement is None:
                made = best_class(chances)
            else:
                regions = stages.superpoints(scene)
                made = refine(chances, regions, taught.refinement)
            stages.cache.write_pseudo_labels(
                artifact, made, time.perf_counter() - started
            )
        return stages.cache.read_pseudo_labels(artifact)

    def _probabilities(
        self, taught: Teaching, scene: Scene
    ) -> Float[Tensor, "N K"]:
        """What those who label a scene believe of its points, on average."""
        first = self.co_trained if taught.co_trained else self.stages
        own = first.probabilities(scene, masked=taught.tags)
        if taught.labeller == STAGE_1:
            return own
        found = self.probabilities(
            taught.labeller,
            scene,
            scene.scene_labels if taught.tags else None,
            RELABELLING_AUGMENTATIONS,
        )
        return (own + found) / 2 if taught.beside_stage_1 else found

    def _refined_artifact(self, kind: str, scene: Scene) -> Artifact:
        taught, stages = teaching(kind), self.stages
        found: dict[str, Any] = {
            "refinement": taught.refinement and asdict(taught.refinement),
            "tags": taught.tags and scene.class_set.present(scene.scene_labels),
            "scene": stages.scenes.key(scene),
            "code": code_key("vlg_lib.refine", "vlg_lib.superpoints"),
        }
        if taught.refinement is not None:
            found["superpoints"] = stages.superpoints_artifact(scene).key
        if taught.labeller == STAGE_1 or taught.beside_stage_1:
            found["stage 1"] = stages.pseudo_labels_artifact(
                scene, masked=taught.tags
            ).key
        if taught.co_trained:
            found["co-trained"] = self.co_trained.artifact(
                scene, masked=taught.tags
            ).key
        if taught.labeller in TEACHINGS:
            found["network"] = [
                self.artifact(taught.labeller).key,
                stages.profile.evaluation.templates,
                RELABELLING_AUGMENTATIONS,
            ]
        return Artifact("refined", f"{kind}-{scene.name}", key_of(**found))

    def artifact(self, kind: str) -> Artifact:
        """The checkpoint of a kind's training, and all that it depends on;
        ValueError for an unknown kind.
        """
        stages, modules = self.stages, ["vlg_lib.distill"]
        if teaching(kind).loss != "cosine":
            modules += ["vlg_lib.baselines", "vlg_lib.class_activation_maps"]
        key = key_of(
            kind=kind,
            seed=stages.seed,
            network=asdict(self._body(kind)),
            recipe=asdict(self.recipe(kind)),
            balance=stages.profile.balance,
            classes=stages.scenes.class_set.names,
            sources=self._sources(kind),
            code=code_key(*modules),
        )
        return Artifact("network", kind, key)

    def _sources(self, kind: str) -> dict[str, Any]:
        """What teaches a network of a kind, by its keys."""
        stages, cam, taught = (
            self.stages,
            self.stages.profile.cam,
            teaching(kind),
        )
        scenes = stages.scenes.split("train")
        found: dict[str, Any] = {
            "rooms": [stages.scenes.key(scene) for scene in scenes]
        }
        if taught.loss == "multiple-instance":
            found["tags"] = [
                scene.class_set.present(scene.scene_labels) for scene in scenes
            ]
            found["bags"] = [cam.pooling, cam.cells]
        elif taught.labeller == TRUTH:
            found["labels"] = [self._truth_key(scene) for scene in scenes]
        elif taught.plain:
            found["pseudo"] = [
                stages.pseudo_labels_artifact(scene, masked=taught.tags).key
                for scene in scenes
            ]
        else:
            found["refined"] = [
                self._refined_artifact(kind, scene).key for scene in scenes
            ]
        if taught.loss == "cosine":
            found["targets"] = [
                (
                    stages.adapted_artifact(scene, masked=taught.tags)
                    if taught.adapted
                    else stages.fused_artifact(scene)
                ).key
                for scene in scenes
            ]
        return found

    def _truth_key(self, scene: Scene) -> str:
        if scene.name not in self._truth_keys:
            truth = self.stages.scenes.truth(scene)
            self._truth_keys[scene.name] = hash_tensor(truth)
        return self._truth_keys[scene.name]

    def checkpoint(self, kind: str) -> Path:
        """Where the checkpoint of a kind's training is kept, whether it is
        there or not.
        """
        return self.stages.cache.path(self.artifact(kind))

    def trained(self, kind: str) -> PointNetwork:
        """The trained 3D network of a kind, one of NETWORKS, in evaluation mode
        on the device of the run.

        Only ``supervised`` opens point labels. LayoutError from it where a
        scene has none.
        """
        return self._result(kind).module

    def losses(self, kind: str) -> list[float]:
        """The loss of each step of a network's training."""
        return self._result(kind).progress.losses

    def _result(self, kind: str) -> TrainedNetwork:
        if kind not in self._trained:
            stages, artifact = self.stages, self.artifact(kind)
            network = PointNetwork(self.settings(kind), seed=stages.seed)
            network = network.to(stages.device)
            made = artifact in stages.cache
            if not made:
                self._train(kind, network, stages.fit_settings(artifact, kind))
            progress = load_model(stages.cache.path(artifact), network)
            if not made:
                stages.finish_training(artifact, progress)
            self._trained[kind] = TrainedNetwork(network, progress)
        return self._trained[kind]

    def _train(
        self, kind: str, network: PointNetwork, fit_settings: FitSettings
    ) -> None:
        """Train a network, from what may teach its kind."""
        loss = teaching(kind).loss
        if loss == "multiple-instance":
            self._train_cam(network, fit_settings)
        elif loss == "cosine":
            self._train_embeddings(kind, network, fit_settings)
        else:
            self._train_classes(kind, network, fit_settings)

    def _train_cam(
        self, network: PointNetwork, fit_settings: FitSettings
    ) -> None:
        scenes = self.stages.scenes.split("train")
        train_mil(
            network,
            [self.cloud(scene) for scene in scenes],
            [scene.scene_labels for scene in scenes],
            self.stages.profile.cam,
            fit_settings=fit_settings,
        )

    def _train_classes(
        self, kind: str, network: PointNetwork, fit_settings: FitSettings
    ) -> None:
        lesson = self.lesson(kind)
        train_classifier(
            network,
            lesson.clouds,
            lesson.labels,
            self.recipe(kind),
            class_weights=lesson.by_class,
            fit_settings=fit_settings,
        )

    def _train_embeddings(
        self, kind: str, network: PointNetwork, fit_settings: FitSettings
    ) -> None:
        stages = self.stages
        taught = teaching(kind)
        if taught.adapted:
            # all processes train it, so before they share work that needs it
            stages.trained_adapter(masked=taught.tags)
        lesson, scenes = self.lesson(kind), stages.scenes.split("train")
        stages.share(f"targets of {kind}", scenes, partial(self.targets, kind))
        distill(
            network,
            lesson.clouds,
            [self.targets(kind, scene) for scene in scenes],
            self.recipe(kind),
            weights=lesson.weights,
            fit_settings=fit_settings,
        )

    def lesson(self, kind: str) -> Lesson:
        """What the classes of the training rooms say about their points."""
        stages = self.stages
        scenes = stages.scenes.split("train")
        classes = len(stages.scenes.class_set)
        taught = teaching(kind)
        if taught.labeller in TEACHINGS:
            self.trained(
                taught.labeller
            )  # before the processes share its answers
        if taught.co_trained:
            self.co_trained.make(masked=taught.tags)
        stages.share(
            f"labels of {kind}", scenes, partial(self.known_labels, kind)
        )
        labels = [self.known_labels(kind, scene) for scene in scenes]
        by_class = torch.ones(classes)
        if stages.profile.balance:
            by_class = class_weights(labels, classes)
        weights = [
            by_class[part.clamp(min=0)] * (part != IGNORE_LABEL)
            for part in labels
        ]
        # Weights go with 1 / sqrt(frequency), their squares with 1 / frequency:
        # crops show all classes alike often.
        clouds = [
            Cloud(scene.points, scene.colors, part.square())
            for scene, part in zip(scenes, weights, strict=True)
        ]
        return Lesson(labels, by_class, weights, clouds)

    def scores(
        self, kind: str, scene: Scene, augmentations: int | None = None
    ) -> Float[Tensor, "N K"]:
        """The scores of a 3D network at the points of a scene: from points and
        colours alone.

        ``augmentations``: turned copies that are averaged; None: those of the
        profile.
        """
        network, settings = self.trained(kind), self.stages.profile.evaluation
        texts = None
        if network.settings.output == "embeddings":
            texts = self.stages.text_embeddings(settings.templates)
        return point_scores(
            network,
            scene.points,
            scene.colors,
            texts,
            augmentations=augmentations or settings.augmentations,
            seed=self.stages.seed,
        )

    def probabilities(
        self,
        kind: str,
        scene: Scene,
        scene_labels: Bool[Tensor, " K"] | None = None,
        augmentations: int | None = None,
    ) -> Float[Tensor, "N K"]:
        """What a 3D network's scores say of every class at every point: their
        softmax, among the classes of the scene; None: among all.

        Cosines are divided by the temperature of stage 1 first.
        """
        scores = self.scores(kind, scene, augmentations)
        if teaching(kind).loss == "cosine":
            scores = scores / self.stages.profile.pseudo_labels.temperature
        return masked_softmax(scores, scene_labels)

    def predict(self, kind: str, scene: Scene) -> Int[Tensor, " N"]:
        """The labels that a 3D network gives to the points of a scene, (N,)
        int64, from points and colours alone.
        """
        return torch.argmax(self.scores(kind, scene), dim=1)
