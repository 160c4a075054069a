"""The scenes of a run: made by a seed, or read from folders; their tags, and
the one door to their point labels.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from vlg_lib.artifacts import code_key, key_of
from vlg_lib.classes import ClassSet
from vlg_lib.data.layout import read_point_labels, read_scene, scene_folders
from vlg_lib.pipeline.profiles import Profile
from vlg_lib.rooms.scenes import make_rooms, split_seeds
from vlg_lib.scene import Scene
from vlg_lib.training import distributed

SPLITS = ("train", "test")


def default_cache() -> Path:
    """The folder of all artefacts: the environment variable VLG_CACHE, else
    ``~/.cache/vlg_lib``.
    """
    return Path(
        os.environ.get("VLG_CACHE") or Path.home() / ".cache" / "vlg_lib"
    )


@dataclass
class Scenes:
    """A profile and a seed, on made rooms or on the scenes of a folder: what
    every stage starts from.

    ``folder``: where artefacts are kept. ``scenes_folder``: None for made
    rooms; else a folder of scene folders, or one with ``train`` and ``test``
    folders of scene folders (without them, all scenes are both).
    ``fused_folder``: where P^2D of each scene is taken from,
    ``NAME.safetensors`` (:mod:`vlg_lib.data.embedding_files`); None: made from
    the images. ``keep_gb``: gigabytes of dense embeddings of frames that are
    kept for runs with other settings of projection
    (:mod:`vlg_lib.vision_language.cache`); 0 keeps none, each frame is embedded
    and fused. ``progress``: show bars.
    """

    profile: Profile
    seed: int
    folder: Path
    scenes_folder: Path | None = None
    fused_folder: Path | None = None
    keep_gb: float = 0.0
    device: str = "cpu"
    progress: bool = False
    _folders: dict[str, Path] = field(default_factory=dict, repr=False)
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False)

    def scenes(self, split: str = "train") -> list[Scene]:
        """The scenes of a split, ``train`` or ``test``: points, colours, tags,
        and frames that load when asked for.

        ValueError that names each scene that cannot be read.
        """
        scenes, errors = self._readable(split)
        if errors:
            raise (
                errors[0]
                if len(errors) == 1
                else ValueError("\n".join(map(str, errors)))
            )
        return scenes

    def _readable(self, split: str) -> tuple[list[Scene], list[ValueError]]:
        """The scenes of a split that can be read, and what is wrong with the
        others.
        """
        if split not in SPLITS:
            raise ValueError(
                f"unknown split {split!r}; known: {', '.join(SPLITS)}"
            )
        if split in self._loaded:
            return list(self._loaded[split]), []
        scenes, errors = [], []
        for folder in (
            self._make_rooms(split)
            if self.scenes_folder is None
            else self._find_scenes(split)
        ):
            try:
                scenes.append(self._read(folder))
            except ValueError as error:
                errors.append(error)
        if not errors:
            self._loaded[split] = list(scenes)
        return scenes, errors

    def _read(self, folder: Path) -> Scene:
        scene = read_scene(folder)
        if not bool(scene.scene_labels.any()):
            raise ValueError(
                f"{folder}: scene.json names no class in scene_labels: write"
                " what is there"
            )
        if self._folders.setdefault(scene.name, folder) != folder:
            raise ValueError(
                f"two scenes are named {scene.name!r}: {folder},"
                f" {self._folders[scene.name]}"
            )
        return scene

    def _room_settings(self) -> dict[str, Any]:
        profile = self.profile
        return {
            "shift": profile.shift,
            "views": profile.views,
            "width": profile.width,
            "height": profile.height,
        }

    def _make_rooms(self, split: str) -> list[Path]:
        count = (
            self.profile.train_rooms
            if split == "train"
            else self.profile.test_rooms
        )
        settings = self._room_settings()
        root = (
            self.folder
            / f"rooms-{key_of(code=code_key('vlg_lib.rooms.scenes'), **settings)}"
        )
        seeds = split_seeds(split, count, self.seed)
        made = self._each(
            "rooms",
            seeds,
            lambda seed: make_rooms(root, [seed], **settings, progress=False),
        )
        return [folder for folders in made for folder in folders]

    def _find_scenes(self, split: str) -> list[Path]:
        assert self.scenes_folder is not None
        divided = all((self.scenes_folder / name).is_dir() for name in SPLITS)
        return scene_folders(
            self.scenes_folder / split if divided else self.scenes_folder
        )

    @property
    def class_set(self) -> ClassSet:
        """The classes of the scenes; ValueError where two scenes have different
        ones.
        """
        first, *others = self.scenes("train") + self.scenes("test")
        for other in others:
            if other.class_set != first.class_set:
                raise ValueError(
                    f"scenes {first.name!r} and {other.name!r} have different"
                    f" classes ({first.class_set.name!r},"
                    f" {other.class_set.name!r}): run them apart"
                )
        return first.class_set

    def truth(self, scene: Scene) -> Int[Tensor, " N"]:
        """The true labels of a scene's points, (N,) int64: for evaluation
        only.
        """
        return read_point_labels(self._folder_of(scene))

    def _folder_of(self, scene: Scene) -> Path:
        if scene.name not in self._folders:
            raise ValueError(
                f"scene {scene.name!r} is not one of this experiment: take it"
                " from .scenes(split)"
            )
        return self._folders[scene.name]

    def _scene_key(self, scene: Scene) -> str:
        folder = self._folder_of(scene)
        if self.scenes_folder is None:
            return f"{folder.parent.name}/{folder.name}"
        files = sorted(
            path
            for part in ("color", "depth", "pose", "intrinsic")
            for path in (folder / part).glob("*")
        )
        stats = [
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for path in [*files, folder / "points.ply"]
        ]
        return key_of(folder=str(folder.resolve()), stats=stats)

    def _each(
        self, doing: str, items: Sequence[Any], work: Callable[[Any], Any]
    ) -> list[Any]:
        """The (small) results of ``work``, which the processes of a run share.
        It may not ask for work to share.
        """
        return distributed.each(items, work, doing if self.progress else None)
