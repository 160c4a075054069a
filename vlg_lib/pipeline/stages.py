"""Stages 1 and 2 of a run: embeddings, pseudo labels and the adapter.

Each is kept in the cache and made once.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlg_lib import vision_language
from vlg_lib.adapter import adapt, create_adapter, train_adapter
from vlg_lib.artifacts import StoreError, code_key, key_of, load_tensors
from vlg_lib.data.embedding_files import read_fused
from vlg_lib.fusion import fuse_scene
from vlg_lib.pipeline.cache import Artifact, Cache
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import Profile
from vlg_lib.pipeline.scenes import Scenes, hash_tensor
from vlg_lib.pseudo_labels import (
    PseudoLabels,
    class_probabilities,
    make_pseudo_labels,
)
from vlg_lib.scene import PointEmbeddings, Scene
from vlg_lib.superpoints import superpoints_of
from vlg_lib.training import distributed
from vlg_lib.training.loop import FitSettings, Progress, load_model
from vlg_lib.vision_language.cache import CachedModel
from vlg_lib.vision_language.prompts import class_embeddings


@dataclass(frozen=True)
class TrainedAdapter:
    """The adapter of a run, on the CPU, and how its training went."""

    module: nn.Module
    progress: Progress


class Stages:
    """What images and tags give: P^2D, the pseudo labels, the adapter and
    A^3D of the scenes of a run.

    Nothing is made until it is asked for; what is made is kept in ``cache``.
    """

    def __init__(
        self,
        scenes: Scenes,
        profile: Profile,
        cache: Cache,
        seed: int = 0,
        options: RunOptions | None = None,
    ) -> None:
        self.scenes, self.profile, self.cache = scenes, profile, cache
        self.seed = seed
        self.options = options or RunOptions()
        self.device = self.options.torch_device
        self.progress = self.options.has_bars(profile.name)
        self._texts: dict[tuple[str, ...], Tensor] = {}
        self._adapters: dict[bool, TrainedAdapter] = {}

    def bar(self, title: str) -> str | None:
        """The title of a progress bar, or None where the run shows none."""
        return title if self.progress else None

    def share(
        self,
        title: str,
        scenes: Sequence[Scene],
        work: Callable[[Scene], object],
    ) -> None:
        """Do work on scenes, which the processes of a run share. What it makes
        goes through files; it may not ask for work to share.
        """

        def done(scene: Scene) -> bool:
            work(scene)
            return True

        distributed.each(scenes, done, self.bar(title))

    @cached_property
    def model(self) -> vision_language.VisionLanguageModel:
        """The frozen 2D vision-language model of the profile."""
        made = vision_language.create_model(
            self.profile.teacher.name, device=self.device
        )
        limit = int(1e9 * self.options.keep_gb)
        if not limit:
            return made
        return CachedModel(made, self.cache.folder / "frames", limit)

    @cached_property
    def _weights(self) -> str:
        """What tells the weights of the 2D model from others of its name."""
        return vision_language.weights_key(self.profile.teacher.name)

    def text_embeddings(
        self, templates: tuple[str, ...] | None = None
    ) -> Float[Tensor, "K D"]:
        """F^C of the paper: the embeddings of the class names, (K, D) float32
        of unit length, on the CPU.

        ``templates`` default to the profile's; its synonyms are averaged in.
        """
        templates = templates or self.profile.prompts.templates
        if templates not in self._texts:
            self._texts[templates] = class_embeddings(
                self.model,
                self.scenes.class_set.names,
                templates,
                self.profile.prompts.synonyms,
            ).cpu()
        return self._texts[templates]

    def fused_artifact(self, scene: Scene) -> Artifact:
        """P^2D of a scene, and what it depends on: its tags and its point
        labels are not among it.
        """
        if self.options.fused_folder is not None:
            return Artifact("fused", scene.name, self._given_key(scene))
        profile = self.profile
        key = key_of(
            scene=self.scenes.key(scene),
            code=code_key("vlg_lib.fusion", "vlg_lib.vision_language"),
            teacher=[
                asdict(profile.teacher),
                self._weights,
                self.options.keep_gb > 0,
            ],
            visibility=asdict(profile.visibility),
            fusion=[profile.fusion.normalize, profile.fusion.sampling],
        )
        return Artifact("fused", scene.name, key)

    def _given_file(self, scene: Scene) -> Path:
        assert self.options.fused_folder is not None
        path = self.options.fused_folder / f"{scene.name}.safetensors"
        if not path.is_file():
            raise StoreError(
                f"{path}: no such file: a folder of fused embeddings has one"
                " for each scene"
            )
        return path

    def _given_key(self, scene: Scene) -> str:
        path = self._given_file(scene)
        stat = path.stat()
        return key_of(
            path=str(path.resolve()), size=stat.st_size, time=stat.st_mtime_ns
        )

    def fused(self, scene: Scene) -> PointEmbeddings:
        """P^2D of the paper: the view-averaged embeddings of a scene's points,
        on the CPU.

        They are kept in half precision; what is returned has been rounded to
        it, the first time as every other time. StoreError where a folder of
        fused embeddings is given and its file is missing or is not of this
        scene and this teacher.
        """
        if self.options.fused_folder is not None:
            return read_fused(
                self._given_file(scene),
                len(scene.points),
                self.text_embeddings().shape[1],
            )
        rows = self.fused_rows(scene)
        return PointEmbeddings(rows.embeddings.float(), rows.view_counts)

    def fused_rows(self, scene: Scene) -> PointEmbeddings:
        """The same as it is stored: float16 in a mapped file, of which no more
        is read than is asked for.
        """
        if self.options.fused_folder is not None:
            tensors, _ = load_tensors(self._given_file(scene))
            return PointEmbeddings(
                tensors["embeddings"], tensors["view_counts"]
            )
        artifact = self.fused_artifact(scene)
        if artifact not in self.cache:
            started = time.perf_counter()
            made = fuse_scene(
                scene,
                self.model.dense_embeddings,
                self.profile.visibility,
                self.profile.fusion,
                device=self.device,
            )
            self.cache.write_embeddings(
                artifact, made, time.perf_counter() - started
            )
        return self.cache.read_embeddings(artifact)

    def pseudo_labels_artifact(
        self, scene: Scene, *, masked: bool = True
    ) -> Artifact:
        """The pseudo labels of a scene, and what they depend on."""
        prompts, tags = self.profile.prompts, None
        if masked:
            tags = scene.class_set.present(scene.scene_labels)
        key = key_of(
            fused=self.fused_artifact(scene).key,
            code=code_key(
                "vlg_lib.pseudo_labels", "vlg_lib.vision_language.prompts"
            ),
            classes=scene.class_set.names,
            prompts=asdict(prompts),
            tags=tags,
            temperature=self.profile.pseudo_labels.temperature,
        )
        return Artifact("pseudo_labels", scene.name, key)

    def pseudo_labels(
        self, scene: Scene, *, masked: bool = True
    ) -> PseudoLabels:
        """Y of the paper: the pseudo labels of a scene's points, from its fused
        embeddings and its tags.

        ``masked=False``: without the tags, the zero-shot labels.
        """
        artifact = self.pseudo_labels_artifact(scene, masked=masked)
        if artifact not in self.cache:
            fused, texts = self.fused(scene), self.text_embeddings()
            started = time.perf_counter()
            made = make_pseudo_labels(
                fused,
                texts,
                scene.scene_labels if masked else None,
                self.profile.pseudo_labels.temperature,
            )
            self.cache.write_pseudo_labels(
                artifact, made, time.perf_counter() - started
            )
        return self.cache.read_pseudo_labels(artifact)

    def probabilities(
        self, scene: Scene, *, masked: bool = True
    ) -> Float[Tensor, "N K"]:
        """The probability of every class at every point of a scene, of which
        the pseudo labels are the highest; zero where no view saw the point.

        ``masked=False``: without the tags.
        """
        return class_probabilities(
            self.fused(scene),
            self.text_embeddings(),
            scene.scene_labels if masked else None,
            self.profile.pseudo_labels.temperature,
        )

    def superpoints_artifact(self, scene: Scene) -> Artifact:
        """The superpoints of a scene, and what they depend on: no image, no
        tag, no label.
        """
        shipped = scene.superpoints
        key = key_of(
            shipped=None if shipped is None else hash_tensor(shipped),
            scene=self.scenes.key(scene),
            code=code_key("vlg_lib.superpoints"),
            settings=asdict(self.profile.superpoints),
        )
        return Artifact("superpoints", scene.name, key)

    def superpoints(self, scene: Scene) -> Int64[Tensor, " N"]:
        """The superpoint of every point of a scene, (N,) int64: those that its
        data set ships, else those of the profile.
        """
        artifact = self.superpoints_artifact(scene)
        if artifact not in self.cache:
            started = time.perf_counter()
            made = superpoints_of(scene, self.profile.superpoints)
            self.cache.write_superpoints(
                artifact, made, time.perf_counter() - started
            )
        return self.cache.read_superpoints(artifact)

    @cached_property
    def adapter_artifact(self) -> Artifact:
        """The checkpoint of the adapter's training, and what it depends on."""
        return self._adapter_artifact(masked=True)

    def _adapter_artifact(self, *, masked: bool) -> Artifact:
        key = key_of(
            rooms=[
                self.pseudo_labels_artifact(scene, masked=masked).key
                for scene in self.scenes.split("train")
            ],
            code=code_key("vlg_lib.adapter"),
            seed=self.seed,
            settings=asdict(self.profile.adapter),
        )
        name = "adapter" if masked else "adapter-untagged"
        return Artifact("adapter", name, key)

    @property
    def adapter(self) -> nn.Module:
        """The trained adapter of stage 2 (ESS), on the CPU, from the pseudo
        labels of the training scenes.
        """
        return self.trained_adapter().module

    def adapter_losses(self) -> list[float]:
        """The loss of each step of the adapter's training."""
        return self.trained_adapter().progress.losses

    def trained_adapter(self, *, masked: bool = True) -> TrainedAdapter:
        """The adapter of stage 2 and how its training went.

        ``masked=False``: from labels without the tags, the zero-shot labels.
        """
        if masked not in self._adapters:
            self._adapters[masked] = self._train_adapter(masked=masked)
        return self._adapters[masked]

    def _train_adapter(self, *, masked: bool) -> TrainedAdapter:
        settings = self.profile.adapter
        artifact = self._adapter_artifact(masked=masked)
        texts = self.text_embeddings().to(self.device)
        adapter = create_adapter(
            settings.kind, texts.shape[1], seed=self.seed
        ).to(self.device)
        made = artifact in self.cache
        if not made:
            scenes = self.scenes.split("train")
            labels = partial(self.pseudo_labels, masked=masked)
            self.share("stage 1", scenes, labels)
            train_adapter(
                adapter,
                [
                    (self.fused_rows(scene), labels(scene).labels)
                    for scene in scenes
                ],
                texts,
                settings,
                temperature=self.profile.pseudo_labels.temperature,
                fit_settings=self.fit_settings(artifact, "adapter"),
            )
        progress = load_model(self.cache.path(artifact), adapter)
        if not made:
            self.finish_training(artifact, progress)
        return TrainedAdapter(adapter.cpu(), progress)

    def fit_settings(self, artifact: Artifact, title: str) -> FitSettings:
        """What the training of an artefact takes beside its recipe."""
        return FitSettings(
            self.seed,
            self.cache.path(artifact),
            self.profile.checkpoint_every,
            self.bar(title),
        )

    def finish_training(self, artifact: Artifact, progress: Progress) -> None:
        """Say that a training is done: the main process writes its manifest,
        the others wait for it.
        """
        if distributed.rank() == 0:
            self.cache.finish(artifact, progress.seconds, len(progress.losses))
        distributed.barrier()

    def adapted(self, scene: Scene, *, masked: bool = True) -> PointEmbeddings:
        """A^3D of the paper: the adapted embeddings of a scene's points.

        ``masked=False``: of the adapter that knows no tags.
        """
        adapter = self.trained_adapter(masked=masked).module
        return adapt(adapter, self.fused(scene))

    def adapted_artifact(
        self, scene: Scene, *, masked: bool = True
    ) -> Artifact:
        """A^3D of a scene, and what it depends on."""
        key = key_of(
            fused=self.fused_artifact(scene).key,
            adapter=self._adapter_artifact(masked=masked).key,
        )
        return Artifact("adapted", scene.name, key)

    def adapted_rows(
        self, scene: Scene, *, masked: bool = True
    ) -> PointEmbeddings:
        """The same, kept: float16 in a mapped file, of which no more is read
        than is asked for.
        """
        artifact = self.adapted_artifact(scene, masked=masked)
        if artifact not in self.cache:
            started = time.perf_counter()
            made = self.adapted(scene, masked=masked)
            self.cache.write_embeddings(
                artifact, made, time.perf_counter() - started
            )
        return self.cache.read_embeddings(artifact)
