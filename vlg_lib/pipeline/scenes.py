"""The scenes of a run: from a seed, from folders or from memory; their tags,
and the one door to their point labels.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from vlg_lib.artifacts import code_key, key_of
from vlg_lib.classes import ClassSet
from vlg_lib.data.layout import (
    LABELS,
    LayoutError,
    read_point_labels,
    read_scene,
    scene_folders,
)
from vlg_lib.rooms.scenes import RoomsSettings, make_rooms, split_seeds
from vlg_lib.scene import Scene
from vlg_lib.training import distributed

SPLITS = ("train", "test")
"""The scenes that are learnt from, and those that nothing is learnt from."""

Readable = tuple[list[Scene], list[ValueError]]
"""The scenes that can be read, and what is wrong with the others."""


class Source(ABC):
    """Where scenes come from; :class:`Scenes` asks it, and nothing else
    does.
    """

    @abstractmethod
    def read(self, split: str) -> Readable:
        """The scenes of a split, read now."""

    @abstractmethod
    def key(self, scene: Scene) -> str:
        """What tells a scene of this source, as it is now, from all others; its
        tags and point labels are left out.
        """

    @abstractmethod
    def truth(self, scene: Scene) -> Int[Tensor, " N"]:
        """The true labels of the points; LayoutError where there are none."""

    @abstractmethod
    def truth_key(self, scene: Scene) -> str | None:
        """What tells point labels from others; None where there are none."""


class Scenes:
    """The scenes of a run, in two splits (:data:`SPLITS`), read when they are
    asked for and kept.

    Make one with :meth:`of_rooms`, :meth:`in_folder` or :meth:`in_memory`.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._splits: dict[str, list[Scene]] = {}

    @classmethod
    def of_rooms(
        cls,
        settings: RoomsSettings,
        seed: int,
        root: Path,
        *,
        progress: bool = False,
    ) -> "Scenes":
        """Rooms that are made by a seed and written under ``root``, where they
        are not there yet.
        """
        return cls(_Rooms(settings, seed, root, progress))

    @classmethod
    def in_folder(cls, folder: Path) -> "Scenes":
        """The scene folders in a folder, or in its folders ``train`` and
        ``test``; without these, all scenes are both.
        """
        return cls(_Folders(folder))

    @classmethod
    def in_memory(
        cls,
        train: Sequence[Scene],
        test: Sequence[Scene],
        *,
        point_labels: Mapping[str, Int[Tensor, " _"]] | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> "Scenes":
        """Scenes that are there already; a scene may be in both splits.

        ``point_labels``: the true labels of some of them, by name, for
        evaluation. ``keys``: what tells the points and frames of some of them,
        by name, from those of other scenes of that name in the cache
        (:func:`folder_key` of a scene that was read); without one they are
        hashed, each frame of them. ValueError where there is nothing to learn
        from, where two scenes have one name, and for a scene without tags.

        >>> from vlg_lib.rooms.scenes import room_scene
        >>> room, labels = room_scene(0, views=2, width=40, height=30)
        >>> scenes = Scenes.in_memory([room], [room])
        >>> scenes.split("train")[0] is room
        True
        """
        return cls(
            _Memory(
                {"train": list(train), "test": list(test)},
                dict(point_labels or {}),
                dict(keys or {}),
            )
        )

    def split(self, name: str) -> list[Scene]:
        """The scenes of a split, ``train`` or ``test``: points, colours, tags,
        and frames that load when asked for.

        ValueError for another name, and one that names each scene that cannot
        be read.
        """
        scenes, errors = self.readable(name)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ValueError("\n".join(map(str, errors)))
        return scenes

    def all(self) -> list[Scene]:
        """The scenes of both splits, those to learn from first; ValueError as
        from :meth:`split`.
        """
        return [scene for name in SPLITS for scene in self.split(name)]

    def readable(self, name: str) -> Readable:
        """The scenes of a split that can be read, and what is wrong with the
        others.
        """
        if name not in SPLITS:
            raise ValueError(
                f"unknown split {name!r}; known: {', '.join(SPLITS)}"
            )
        if name in self._splits:
            return list(self._splits[name]), []
        scenes, errors = self._source.read(name)
        if not errors:
            self._splits[name] = list(scenes)
        return scenes, errors

    @property
    def class_set(self) -> ClassSet:
        """The classes of the scenes; ValueError where two scenes have different
        ones.
        """
        first, *others = self.all()
        for other in others:
            if other.class_set != first.class_set:
                raise ValueError(
                    f"scenes {first.name!r} and {other.name!r} have different"
                    f" classes ({first.class_set.name!r},"
                    f" {other.class_set.name!r}): run them apart"
                )
        return first.class_set

    def key(self, scene: Scene) -> str:
        """What tells a scene of the run from all others; its tags and point
        labels are left out. ValueError for a scene of another run.
        """
        return self._source.key(scene)

    def truth(self, scene: Scene) -> Int[Tensor, " N"]:
        """The true labels of a scene's points, (N,) int64: for evaluation, and
        for the fully supervised network, only.

        LayoutError where there are none.
        """
        return self._source.truth(scene)

    def truth_key(self, scene: Scene) -> str | None:
        """What tells the point labels of a scene from others, without opening
        them; None where there are none.
        """
        return self._source.truth_key(scene)


def folder_key(folder: Path) -> str:
    """What tells the points and frames in a scene folder from others: names,
    sizes and times of their files.
    """
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


class _OnDisk(Source):
    """Scenes that are read from scene folders."""

    def __init__(self) -> None:
        self._folders: dict[str, Path] = {}

    @abstractmethod
    def folders(self, split: str) -> list[Path]:
        """The scene folders of a split."""

    def read(self, split: str) -> Readable:
        scenes, errors = [], []
        for folder in self.folders(split):
            try:
                scenes.append(self._read(folder))
            except ValueError as error:
                errors.append(error)
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

    def folder_of(self, scene: Scene) -> Path:
        """Where a scene was read from; ValueError for one of another run."""
        if scene.name not in self._folders:
            raise _stranger(scene)
        return self._folders[scene.name]

    def truth(self, scene: Scene) -> Int[Tensor, " N"]:
        return read_point_labels(self.folder_of(scene))

    def truth_key(self, scene: Scene) -> str | None:
        path = self.folder_of(scene) / LABELS
        return str(path.stat().st_mtime_ns) if path.is_file() else None


class _Folders(_OnDisk):
    """The scenes in a folder."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def folders(self, split: str) -> list[Path]:
        divided = all((self._root / name).is_dir() for name in SPLITS)
        return scene_folders(self._root / split if divided else self._root)

    def key(self, scene: Scene) -> str:
        return folder_key(self.folder_of(scene))


class _Rooms(_OnDisk):
    """Rooms that a seed makes, in the folder of their settings."""

    def __init__(
        self, settings: RoomsSettings, seed: int, root: Path, progress: bool
    ) -> None:
        super().__init__()
        self._settings, self._seed, self._progress = settings, seed, progress
        # what a room looks like, whatever the number of rooms
        looks = {
            name: getattr(settings, name)
            for name in ("shift", "views", "width", "height")
        }
        key = key_of(code=code_key("vlg_lib.rooms.scenes"), **looks)
        self._root = root / f"rooms-{key}"

    def folders(self, split: str) -> list[Path]:
        settings = self._settings
        count = settings.train if split == "train" else settings.test
        seeds = split_seeds(split, count, self._seed)
        title = "rooms" if self._progress else None
        made: list[Path] = distributed.each(seeds, self._make, title)
        return made

    def _make(self, seed: int) -> Path:
        settings = self._settings
        (folder,) = make_rooms(
            self._root,
            [seed],
            shift=settings.shift,
            views=settings.views,
            width=settings.width,
            height=settings.height,
            progress=False,
        )
        return folder

    def key(self, scene: Scene) -> str:
        return f"{self._root.name}/{self.folder_of(scene).name}"


class _Memory(Source):
    """Scenes that were handed over."""

    def __init__(
        self,
        splits: dict[str, list[Scene]],
        point_labels: dict[str, Int[Tensor, " _"]],
        keys: dict[str, str],
    ) -> None:
        self._splits, self._labels, self._keys = splits, point_labels, keys
        self._named: dict[str, Scene] = {}
        if not splits["train"]:
            raise ValueError("expected at least one scene to learn from")
        for split in SPLITS:
            for scene in splits[split]:
                if not bool(scene.scene_labels.any()):
                    raise ValueError(
                        f"scene {scene.name!r} has no scene labels: mark the"
                        " classes that are there"
                    )
                if self._named.setdefault(scene.name, scene) is not scene:
                    raise ValueError(f"two scenes are named {scene.name!r}")

    def read(self, split: str) -> Readable:
        return list(self._splits[split]), []

    def key(self, scene: Scene) -> str:
        self._check_known(scene)
        if scene.name not in self._keys:
            self._keys[scene.name] = _content_key(scene)
        return self._keys[scene.name]

    def truth(self, scene: Scene) -> Int[Tensor, " N"]:
        self._check_known(scene)
        if scene.name not in self._labels:
            raise LayoutError(
                f"scene {scene.name!r} has no point labels: give them as"
                " point_labels of Scenes.in_memory to evaluate"
            )
        return self._labels[scene.name]

    def truth_key(self, scene: Scene) -> str | None:
        self._check_known(scene)
        labels = self._labels.get(scene.name)
        return None if labels is None else hash_tensor(labels)

    def _check_known(self, scene: Scene) -> None:
        if scene.name not in self._named:
            raise _stranger(scene)


def hash_tensor(tensor: Tensor) -> str:
    """A short hash of the numbers in a tensor."""
    content = tensor.cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:12]


def _content_key(scene: Scene) -> str:
    """A hash of the points of a scene and of all its frames."""
    frames = [
        [
            frame.camera,
            hash_tensor(frame.camera_to_world),
            hash_tensor(frame.color),
            None if frame.depth is None else hash_tensor(frame.depth),
        ]
        for frame in scene.frames
    ]
    return key_of(
        points=hash_tensor(scene.points),
        colors=hash_tensor(scene.colors),
        frames=frames,
    )


def _stranger(scene: Scene) -> ValueError:
    return ValueError(
        f"scene {scene.name!r} is not one of this run: take it from"
        " .split(name)"
    )
