"""The whole pipeline from a profile: rooms, fused embeddings, pseudo labels, the adapter, and one table.

Every artefact is a file whose name carries a key: the settings and the seed it depends on, the key of what it is made
from, and a hash of the code that makes it. What is there is loaded, what is missing is made; so a run that was stopped
continues, two chapters share their work, and a change of the code remakes what it touches and nothing else.

Point labels are opened by :meth:`Experiment.truth` alone, and that only for the table.
"""

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

import vlg_lib
from vlg_lib import vision_language
from vlg_lib.adapter import adapt, create_adapter, train_adapter
from vlg_lib.classes import IGNORE_LABEL, ClassSet
from vlg_lib.data.layout import read_point_labels, read_scene, scene_folders
from vlg_lib.data.rooms import make_rooms, split_seeds
from vlg_lib.evaluate import evaluate
from vlg_lib.fusion import fuse_scene
from vlg_lib.profiles import Profile, get_profile
from vlg_lib.projection import Visibility
from vlg_lib.provenance import code_key
from vlg_lib.pseudo_labels import PseudoLabels, make_pseudo_labels
from vlg_lib.scene import PointEmbeddings, Scene
from vlg_lib.store import hash_files, key_of, load_tensors, once, read_json, write_json
from vlg_lib.train import load_model

SOURCES = ("rooms", "layout")
"""Where scenes come from: made by a seed, or folders in the layout of :mod:`vlg_lib.data.layout`."""

SPLITS = ("train", "test")

ROWS = ("majority class", "projection", "projection + scene mask", "adapter", "adapter + mask")
"""The rows of the table. The first calls every point the commonest class of the training scenes; the others are the
argmax over the class names of P^2D and of A^3D, without and with the scene's tags."""


def default_cache() -> Path:
    """The folder of all artefacts: the environment variable VLG_CACHE, else ``~/.cache/vlg_lib``."""
    return Path(os.environ.get("VLG_CACHE") or Path.home() / ".cache" / "vlg_lib")


@dataclass
class Experiment:
    """One run of the method up to stage 2: a profile and a seed, on made rooms or on the scenes of a folder.

    ``folder``: where artefacts are kept. ``scenes_folder``: None for made rooms; else a folder of scene folders, or one
    with ``train`` and ``test`` folders of scene folders (without them, all scenes are both). ``progress``: show bars.
    """

    profile: Profile
    seed: int
    folder: Path
    scenes_folder: Path | None = None
    device: str = "cpu"
    progress: bool = False
    _folders: dict[str, Path] = field(default_factory=dict, repr=False)
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        profile: str | Profile = "auto",
        seed: int = 0,
        folder: Path | str | None = None,
        *,
        scenes_folder: Path | str | None = None,
        device: str | None = None,
        progress: bool | None = None,
    ) -> "Experiment":
        """The experiment of a profile and a seed; nothing is made until it is asked for.

        ``folder`` defaults to :func:`default_cache`, ``device`` to CUDA where there is one, ``progress`` to bars in
        every profile but ``fast``. ValueError for an unknown profile and a negative seed.
        """
        chosen = profile if isinstance(profile, Profile) else get_profile(profile)
        if seed < 0:
            raise ValueError(f"a seed is a whole number from 0, found {seed}")
        return cls(
            profile=chosen,
            seed=seed,
            folder=Path(folder) if folder is not None else default_cache(),
            scenes_folder=Path(scenes_folder) if scenes_folder is not None else None,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            progress=chosen.name != "fast" if progress is None else progress,
        )

    # Scenes ------------------------------------------------------------------------------------------------------

    def scenes(self, split: str = "train") -> list[Scene]:
        """The scenes of a split, ``train`` or ``test``: points, colours, tags, and frames that load when asked for."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        if split not in self._loaded:
            folders = self._make_rooms(split) if self.scenes_folder is None else self._find_scenes(split)
            scenes = [read_scene(folder) for folder in folders]
            for scene, scene_folder in zip(scenes, folders, strict=True):
                if not bool(scene.scene_labels.any()):
                    raise ValueError(f"{scene_folder}: scene.json names no class in scene_labels: write what is there")
            for scene, scene_folder in zip(scenes, folders, strict=True):
                if self._folders.setdefault(scene.name, scene_folder) != scene_folder:
                    raise ValueError(
                        f"two scenes are named {scene.name!r}: {scene_folder}, {self._folders[scene.name]}"
                    )
            self._loaded[split] = scenes
        return list(self._loaded[split])

    def _room_settings(self) -> dict[str, Any]:
        profile = self.profile
        return {"shift": profile.shift, "views": profile.views, "width": profile.width, "height": profile.height}

    def _make_rooms(self, split: str) -> list[Path]:
        count = self.profile.train_rooms if split == "train" else self.profile.test_rooms
        settings = self._room_settings()
        root = self.folder / f"rooms-{key_of(code=code_key('vlg_lib.data.rooms'), **settings)}"
        return make_rooms(root, split_seeds(split, count, self.seed), **settings, progress=self.progress)

    def _find_scenes(self, split: str) -> list[Path]:
        assert self.scenes_folder is not None
        divided = all((self.scenes_folder / name).is_dir() for name in SPLITS)
        return scene_folders(self.scenes_folder / split if divided else self.scenes_folder)

    @property
    def class_set(self) -> ClassSet:
        """The classes of the scenes; ValueError where two scenes have different ones."""
        first, *others = self.scenes("train") + self.scenes("test")
        for other in others:
            if other.class_set != first.class_set:
                raise ValueError(
                    f"scenes {first.name!r} and {other.name!r} have different classes ({first.class_set.name!r}, "
                    f"{other.class_set.name!r}): run them apart"
                )
        return first.class_set

    def truth(self, scene: Scene) -> Int[Tensor, " N"]:
        """The true labels of a scene's points, (N,) int64: for evaluation only."""
        return read_point_labels(self._folder_of(scene))

    def _folder_of(self, scene: Scene) -> Path:
        if scene.name not in self._folders:
            raise ValueError(f"scene {scene.name!r} is not one of this experiment: take it from .scenes(split)")
        return self._folders[scene.name]

    # Stage 1: projection and pseudo labels -----------------------------------------------------------------------

    def model(self) -> vision_language.VisionLanguageModel:
        """The frozen 2D vision-language model of the profile."""
        if "model" not in self._loaded:
            self._loaded["model"] = vision_language.create_model(self.profile.teacher, device=self.device)
        model: vision_language.VisionLanguageModel = self._loaded["model"]
        return model

    def text_embeddings(self) -> Float[Tensor, "K D"]:
        """F^C of the paper: the embeddings of the class names, (K, D) float32 of unit length, on the CPU."""
        if "texts" not in self._loaded:
            prompts = self.class_set.prompts(self.profile.prompt_template)
            self._loaded["texts"] = self.model().text_embeddings(prompts).cpu()
        texts: Tensor = self._loaded["texts"]
        return texts

    def _fused_key(self, scene: Scene) -> str:
        """What P^2D of a scene depends on. Its tags and its point labels are not among it."""
        if "weights" not in self._loaded:
            folder = Path(next(iter(vision_language.__path__)))
            self._loaded["weights"] = hash_files(*sorted(folder.rglob("*.safetensors")))
        return key_of(
            scene=self._scene_key(scene),
            code=code_key("vlg_lib.fusion", "vlg_lib.vision_language"),
            weights=self._loaded["weights"],
            teacher=self.profile.teacher,
            visibility=asdict(self._visibility()),
        )

    def _scene_key(self, scene: Scene) -> str:
        folder = self._folder_of(scene)
        if self.scenes_folder is None:
            return f"{folder.parent.name}/{folder.name}"
        files = sorted(path for part in ("color", "depth", "pose", "intrinsic") for path in (folder / part).glob("*"))
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in [*files, folder / "points.ply"]]
        return key_of(folder=str(folder.resolve()), stats=stats)

    def _visibility(self) -> Visibility:
        profile = self.profile
        return Visibility(profile.depth_tolerance, profile.depth_slack, profile.image_border)

    def fused(self, scene: Scene) -> PointEmbeddings:
        """P^2D of the paper: the view-averaged embeddings of a scene's points, on the CPU.

        They are kept in half precision; what is returned has been rounded to it, the first time as every other time.
        """

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            started = time.perf_counter()
            fused = fuse_scene(scene, self.model().dense_embeddings, self._visibility(), device=self.device)
            tensors = {"embeddings": fused.embeddings.half(), "view_counts": fused.view_counts}
            return tensors, {"scene": scene.name, "seconds": time.perf_counter() - started}

        tensors = once(self._path("fused", scene, self._fused_key(scene)), make)
        return PointEmbeddings(tensors["embeddings"].float(), tensors["view_counts"])

    def pseudo_labels(self, scene: Scene) -> PseudoLabels:
        """Y of the paper: the pseudo labels of a scene's points, from its fused embeddings and its tags."""

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            fused = self.fused(scene)
            started = time.perf_counter()
            made = make_pseudo_labels(fused, self.text_embeddings(), scene.scene_labels, self.profile.temperature)
            tensors = {"labels": made.labels, "confidence": made.confidence}
            return tensors, {"scene": scene.name, "seconds": time.perf_counter() - started}

        tensors = once(self._path("pseudo_labels", scene, self._pseudo_key(scene)), make)
        return PseudoLabels(tensors["labels"], tensors["confidence"])

    def _pseudo_key(self, scene: Scene) -> str:
        return key_of(
            fused=self._fused_key(scene),
            code=code_key("vlg_lib.pseudo_labels"),
            prompts=scene.class_set.prompts(self.profile.prompt_template),
            tags=scene.class_set.present(scene.scene_labels),
            temperature=self.profile.temperature,
        )

    def _path(self, stage: str, scene: Scene, key: str) -> Path:
        return self.folder / stage / f"{scene.name}-{key}.safetensors"

    # Stage 2: the adapter ----------------------------------------------------------------------------------------

    def _adapter_path(self) -> Path:
        settings = {name: value for name, value in asdict(self.profile).items() if name.startswith("adapter")}
        rooms = [self._pseudo_key(scene) for scene in self.scenes("train")]
        key = key_of(rooms=rooms, code=code_key("vlg_lib.adapter"), seed=self.seed, **settings)
        return self.folder / "adapter" / f"adapter-{key}.safetensors"

    def adapter(self) -> nn.Module:
        """The trained adapter of stage 2 (ESS), on the CPU, from the pseudo labels of the training scenes."""
        profile = self.profile
        if "adapter" not in self._loaded:
            texts = self.text_embeddings().to(self.device)
            adapter = create_adapter(profile.adapter, texts.shape[1], seed=self.seed).to(self.device)
            path = self._adapter_path()
            if not self._is_trained(path):
                rooms = [
                    (self.fused(scene), self.pseudo_labels(scene).labels) for scene in self._each("train", "stage 1")
                ]
                train_adapter(
                    adapter, rooms, texts, temperature=profile.temperature, steps=profile.adapter_steps,
                    batch_rooms=profile.adapter_batch_rooms, points_per_room=profile.adapter_points_per_room,
                    learning_rate=profile.adapter_learning_rate, weight_decay=profile.adapter_weight_decay,
                    seed=self.seed, checkpoint=path, checkpoint_every=50,
                    progress="adapter" if self.progress else None,
                )  # fmt: skip
            load_model(path, adapter)
            self._loaded["adapter"] = adapter.cpu()
        trained: nn.Module = self._loaded["adapter"]
        return trained

    def _is_trained(self, path: Path) -> bool:
        return path.is_file() and load_tensors(path)[1]["step"] == self.profile.adapter_steps

    def adapter_losses(self) -> list[float]:
        """The loss of each step of the adapter's training."""
        self.adapter()
        return [float(loss) for loss in load_tensors(self._adapter_path())[0]["losses"]]

    def adapted(self, scene: Scene) -> PointEmbeddings:
        """A^3D of the paper: the adapted embeddings of a scene's points."""
        return adapt(self.adapter(), self.fused(scene))

    def _each(self, split: str, doing: str) -> Iterable[Scene]:
        return tqdm(self.scenes(split), desc=f"{doing}, {split}", unit="scene", disable=not self.progress)

    # The table ---------------------------------------------------------------------------------------------------

    def table(self) -> list[dict[str, Any]]:
        """The scores of every row of :data:`ROWS`, in per cent.

        ``miou`` and ``accuracy`` are those of the test scenes, which no stage learnt from; ``miou_train`` and
        ``accuracy_train`` those of the training scenes. A mask uses the tags of the scene it is scored on: on test
        scenes a row with a mask shows what a person's tags are worth there, not what the method does alone.
        ``miou_low`` and ``miou_high``: 95 % bootstrap interval over test scenes. ``seconds``: what the row took from
        the scenes on, fusion included, as measured when it was made. LayoutError where a scene has no point labels.
        """
        path = self.folder / "table" / f"table-{self._table_key()}.json"
        if not path.is_file():
            truths = {split: [self.truth(scene) for scene in self.scenes(split)] for split in SPLITS}
            self.adapter()
            answers = {split: [self._answer(scene) for scene in self._each(split, "scores")] for split in SPLITS}
            write_json(path, [self._row(row, answers, truths) for row in ROWS])
        rows: list[dict[str, Any]] = read_json(path)
        return rows

    def _table_key(self) -> str:
        labels = [self._folder_of(scene) / "labels.ply" for split in SPLITS for scene in self.scenes(split)]
        return key_of(
            adapter=self._adapter_path().name,
            scenes=[self._pseudo_key(scene) for split in SPLITS for scene in self.scenes(split)],
            truth=[path.stat().st_mtime_ns if path.is_file() else None for path in labels],
            code=code_key("vlg_lib.experiment", "vlg_lib.evaluate"),
        )

    def _answer(self, scene: Scene) -> dict[str, tuple[Tensor, float]]:
        """The predicted labels of every row but the first, and the seconds that the last step of each took."""
        texts, fused = self.text_embeddings(), self.fused(scene)
        answers = {}
        for name, adapter in (("projection", None), ("adapter", self.adapter())):
            for row, tags in ((name, None), (_masked(name), scene.scene_labels)):
                started = time.perf_counter()
                embeddings = fused if adapter is None else adapt(adapter, fused)
                labels = make_pseudo_labels(embeddings, texts, tags, self.profile.temperature).labels
                answers[row] = (labels, time.perf_counter() - started)
        return answers

    def _row(self, row: str, answers: dict[str, list[Any]], truths: dict[str, list[Tensor]]) -> dict[str, Any]:
        started = time.perf_counter()
        if row == ROWS[0]:
            labelled = torch.cat(truths["train"])
            commonest = int(labelled[labelled != IGNORE_LABEL].mode().values)
            predicted = {split: [torch.full_like(truth, commonest) for truth in truths[split]] for split in SPLITS}
            seconds = time.perf_counter() - started
        else:
            predicted = {split: [answer[row][0] for answer in answers[split]] for split in SPLITS}
            seconds = sum(answer[row][1] for split in SPLITS for answer in answers[split]) + self._spent(row)
        test, train = (evaluate(predicted[split], truths[split], self.class_set) for split in ("test", "train"))
        shares = {
            "miou": test.miou, "accuracy": test.accuracy, "miou_low": test.miou_interval[0],
            "miou_high": test.miou_interval[1], "miou_train": train.miou, "accuracy_train": train.accuracy,
        }  # fmt: skip
        return {"row": row, **{name: 100 * share for name, share in shares.items()}, "seconds": seconds}

    def _spent(self, row: str) -> float:
        """The seconds of the stored artefacts that a row is made from, as measured when they were made."""
        every = [scene for split in SPLITS for scene in self.scenes(split)]
        paths = {self._path("fused", scene, self._fused_key(scene)) for scene in every}
        if row.startswith("adapter"):
            paths |= {self._path("pseudo_labels", scene, self._pseudo_key(scene)) for scene in self.scenes("train")}
            paths.add(self._adapter_path())
        return sum(float(load_tensors(path)[1]["seconds"]) for path in paths)


def _masked(row: str) -> str:
    return next(name for name in ROWS if name.startswith(f"{row} +"))


def run(
    source: str = "rooms",
    profile: str | Profile = "auto",
    seed: int = 0,
    out: Path | str = "results-run",
    *,
    scenes_folder: Path | str | None = None,
    cache_folder: Path | str | None = None,
    device: str | None = None,
    progress: bool | None = None,
) -> list[dict[str, Any]]:
    """Run the whole pipeline and return the table; ``out/table.json`` and ``out/run.json`` (what made it) are written.

    ``source``: "rooms" (made by the seed) or "layout" (the folders in ``scenes_folder``). Artefacts are kept in
    ``cache_folder`` (default :func:`default_cache`), so a stopped run continues. ValueError for an unknown source or
    profile, and where source and ``scenes_folder`` do not fit.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; known: {', '.join(SOURCES)}")
    if (source == "layout") != (scenes_folder is not None):
        raise ValueError("source 'layout' needs a folder of scenes, and source 'rooms' takes none")
    experiment = Experiment.open(
        profile, seed, cache_folder, scenes_folder=scenes_folder, device=device, progress=progress
    )
    started = time.perf_counter()
    rows = experiment.table()
    skipped = {s.name: dict(s.skipped) for split in SPLITS for s in experiment.scenes(split) if s.skipped}
    versions = {"vlg_lib": vlg_lib.__version__, "torch": torch.__version__, "python": platform.python_version()}
    write_json(Path(out) / "run.json", {
        "source": source, "seed": seed, "profile": asdict(experiment.profile), "device": experiment.device,
        "threads": torch.get_num_threads(), "versions": versions, "skipped": skipped,
        "seconds": time.perf_counter() - started,
    })  # fmt: skip
    write_json(Path(out) / "table.json", rows)
    return rows
