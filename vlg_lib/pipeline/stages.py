"""Stages 1 and 2 of a run: fused embeddings, pseudo labels and the adapter,
each kept in a file and made once.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vlg_lib import vision_language
from vlg_lib.adapter import adapt, create_adapter, train_adapter
from vlg_lib.artifacts import StoreError, code_key, key_of, load_tensors, once
from vlg_lib.data.embedding_files import read_fused
from vlg_lib.fusion import fuse_scene
from vlg_lib.geometry.visibility import Visibility
from vlg_lib.pipeline.scenes import Scenes
from vlg_lib.pseudo_labels import PseudoLabels, make_pseudo_labels
from vlg_lib.scene import PointEmbeddings, Scene
from vlg_lib.training.loop import load_model
from vlg_lib.vision_language.cache import CachedModel
from vlg_lib.vision_language.prompts import class_embeddings, split_synonyms


class Stages(Scenes):
    """What images and tags give: P^2D, the pseudo labels, the adapter and
    A^3D.
    """

    def model(self) -> vision_language.VisionLanguageModel:
        """The frozen 2D vision-language model of the profile."""
        if "model" not in self._loaded:
            made = vision_language.create_model(
                self.profile.teacher, device=self.device
            )
            frames = self.folder / "frames"
            self._loaded["model"] = (
                CachedModel(made, frames, int(1e9 * self.keep_gb))
                if self.keep_gb
                else made
            )
        model: vision_language.VisionLanguageModel = self._loaded["model"]
        return model

    def text_embeddings(
        self, template: str | None = None
    ) -> Float[Tensor, "K D"]:
        """F^C of the paper: the embeddings of the class names, (K, D) float32
        of unit length, on the CPU.

        ``template`` defaults to the profile's ``prompt_template``; the
        profile's ``synonyms`` are averaged in.
        """
        texts: dict[str, Tensor] = self._loaded.setdefault("texts", {})
        template = template or self.profile.prompt_template
        if template not in texts:
            texts[template] = class_embeddings(
                self.model(),
                self.class_set.names,
                template,
                split_synonyms(self.profile.synonyms),
            ).cpu()
        return texts[template]

    def _fused_key(self, scene: Scene) -> str:
        """What P^2D of a scene depends on. Its tags and its point labels are
        not among it.
        """
        if self.fused_folder is not None:
            path = self._path("fused", scene, "")
            if not path.is_file():
                raise StoreError(
                    f"{path}: no such file: a folder of fused embeddings has"
                    " one for each scene"
                )
            return key_of(
                path=str(path.resolve()),
                size=path.stat().st_size,
                time=path.stat().st_mtime_ns,
            )
        if "weights" not in self._loaded:  # it is asked for with every scene
            self._loaded["weights"] = vision_language.weights_key(
                self.profile.teacher
            )
        return key_of(
            scene=self._scene_key(scene),
            code=code_key("vlg_lib.fusion", "vlg_lib.vision_language"),
            teacher=[
                self.profile.teacher,
                self._loaded["weights"],
                self.keep_gb > 0,
            ],
            visibility=asdict(self._visibility()),
            normalize=self.profile.normalize_views,
        )

    def _visibility(self) -> Visibility:
        profile = self.profile
        return Visibility(
            profile.depth_tolerance, profile.depth_slack, profile.image_border
        )

    def fused(self, scene: Scene) -> PointEmbeddings:
        """P^2D of the paper: the view-averaged embeddings of a scene's points,
        on the CPU.

        They are kept in half precision; what is returned has been rounded to
        it, the first time as every other time. StoreError where
        ``fused_folder`` is given and its file is missing or is not of this
        scene and this teacher.
        """
        if self.fused_folder is not None:
            return read_fused(
                self._path("fused", scene, ""),
                len(scene.points),
                self.text_embeddings().shape[1],
            )
        stored = self._fused_rows(scene)
        return PointEmbeddings(stored.embeddings.float(), stored.view_counts)

    def _fused_rows(self, scene: Scene) -> PointEmbeddings:
        """The same as it is stored: float16 in a mapped file, of which no more
        is read than is asked for.
        """

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            started = time.perf_counter()
            fused = fuse_scene(
                scene,
                self.model().dense_embeddings,
                self._visibility(),
                normalize=self.profile.normalize_views,
                device=self.device,
            )
            tensors = {
                "embeddings": fused.embeddings.half(),
                "view_counts": fused.view_counts,
            }
            return tensors, {
                "scene": scene.name,
                "seconds": time.perf_counter() - started,
            }

        tensors = once(self._path("fused", scene, self._fused_key(scene)), make)
        return PointEmbeddings(tensors["embeddings"], tensors["view_counts"])

    def pseudo_labels(
        self, scene: Scene, *, masked: bool = True
    ) -> PseudoLabels:
        """Y of the paper: the pseudo labels of a scene's points, from its fused
        embeddings and its tags.

        ``masked=False``: without the tags, the zero-shot labels.
        """

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            fused, tags = (
                self.fused(scene),
                (scene.scene_labels if masked else None),
            )
            started = time.perf_counter()
            made = make_pseudo_labels(
                fused, self.text_embeddings(), tags, self.profile.temperature
            )
            tensors = {"labels": made.labels, "confidence": made.confidence}
            return tensors, {
                "scene": scene.name,
                "seconds": time.perf_counter() - started,
            }

        tensors = once(
            self._path("pseudo_labels", scene, self._pseudo_key(scene, masked)),
            make,
        )
        return PseudoLabels(tensors["labels"], tensors["confidence"])

    def _pseudo_key(self, scene: Scene, masked: bool = True) -> str:
        return key_of(
            fused=self._fused_key(scene),
            code=code_key("vlg_lib.pseudo_labels"),
            prompts=[
                scene.class_set.names,
                self.profile.prompt_template,
                self.profile.synonyms,
            ],
            tags=(
                scene.class_set.present(scene.scene_labels) if masked else None
            ),
            temperature=self.profile.temperature,
        )

    def _path(self, stage: str, scene: Scene, key: str) -> Path:
        if stage == "fused" and self.fused_folder is not None:
            return self.fused_folder / f"{scene.name}.safetensors"
        return self.folder / stage / f"{scene.name}-{key}.safetensors"

    def _adapter_path(self) -> Path:
        # it is asked for with every scene
        if "adapter path" not in self._loaded:
            settings = {
                name: value
                for name, value in asdict(self.profile).items()
                if name.startswith("adapter")
            }
            rooms = [self._pseudo_key(scene) for scene in self.scenes("train")]
            key = key_of(
                rooms=rooms,
                code=code_key("vlg_lib.adapter"),
                seed=self.seed,
                **settings,
            )
            self._loaded["adapter path"] = (
                self.folder / "adapter" / f"adapter-{key}.safetensors"
            )
        return Path(self._loaded["adapter path"])

    def adapter(self) -> nn.Module:
        """The trained adapter of stage 2 (ESS), on the CPU, from the pseudo
        labels of the training scenes.
        """
        profile = self.profile
        if "adapter" not in self._loaded:
            texts = self.text_embeddings().to(self.device)
            adapter = create_adapter(
                profile.adapter, texts.shape[1], seed=self.seed
            ).to(self.device)
            path = self._adapter_path()
            if not (
                path.is_file()
                and load_tensors(path)[1]["step"] == profile.adapter_steps
            ):
                scenes = self.scenes("train")
                self._each(
                    "stage 1",
                    scenes,
                    lambda scene: len(self.pseudo_labels(scene).labels),
                )
                rooms = [
                    (self._fused_rows(scene), self.pseudo_labels(scene).labels)
                    for scene in scenes
                ]
                train_adapter(
                    adapter,
                    rooms,
                    texts,
                    temperature=profile.temperature,
                    steps=profile.adapter_steps,
                    batch_rooms=profile.adapter_batch_rooms,
                    points_per_room=profile.adapter_points_per_room,
                    learning_rate=profile.adapter_learning_rate,
                    weight_decay=profile.adapter_weight_decay,
                    seed=self.seed,
                    checkpoint=path,
                    checkpoint_every=profile.checkpoint_every,
                    progress="adapter" if self.progress else None,
                )
            load_model(path, adapter)
            self._loaded["adapter"] = adapter.cpu()
        trained: nn.Module = self._loaded["adapter"]
        return trained

    def adapter_losses(self) -> list[float]:
        """The loss of each step of the adapter's training."""
        self.adapter()
        return [
            float(loss)
            for loss in load_tensors(self._adapter_path())[0]["losses"]
        ]

    def adapted(self, scene: Scene) -> PointEmbeddings:
        """A^3D of the paper: the adapted embeddings of a scene's points."""
        return adapt(self.adapter(), self.fused(scene))
