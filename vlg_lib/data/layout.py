"""The one layout of a scene on disk, its writer and its reader.

A scene is a folder in the layout of ScanNet's exporter, with points and labels
apart::

    color/NAME.png                 8-bit RGB (or .jpg)
    depth/NAME.png                 16-bit, depth_scale units a metre, 0 =
                                   missing; the size of the colour image
    pose/NAME.txt                  4x4 camera-to-world, metres
    intrinsic/intrinsic_color.txt  4x4; intrinsic_depth.txt, where it exists,
                                   is equal
    points.ply                     x y z (metres, z up) red green blue
    labels.ply                     the same points with an int property label;
                                   optional, for evaluation only
    superpoints.safetensors        the superpoint of each point, (N,) int64
                                   from 0; optional, where a data set ships
                                   some
    scene.json                     name, class set, scene labels, depth code,
                                   provenance, counts of what was skipped; the
                                   world_offset of a scan far from the origin

Weakly supervised code calls :func:`read_scene`, which never opens
``labels.ply``; :func:`read_point_labels` is the only door to point labels.
Every other format is the business of :mod:`vlg_lib.convert`.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from vlg_lib.artifacts import (
    StoreError,
    atomic_folder,
    load_tensors,
    read_json,
    save_tensors,
    write_json,
)
from vlg_lib.classes import (
    CLASS_SETS,
    IGNORE_LABEL,
    UNLABELLED_COLOR,
    ClassSet,
    get_class_set,
    own_class_set,
)
from vlg_lib.data.frames import (
    LayoutError,
    natural_key,
    open_frames,
    write_frame,
    write_intrinsics,
)
from vlg_lib.data.ply import read_points, write_points
from vlg_lib.scene import Camera, Frame, Scene

FORMAT = "vlg-scene-1"
POINTS, LABELS, MANIFEST = "points.ply", "labels.ply", "scene.json"
SUPERPOINTS = "superpoints.safetensors"
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_KEYS: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "name": str,
    "class_set": (str, dict),
    "scene_labels": list,
    "depth_scale": (int, float),
    "depth_missing": list,
    "provenance": dict,
    "skipped": dict,
}


def write_scene(
    folder: Path,
    scene: Scene,
    *,
    point_labels: Int[Tensor, " N"] | None = None,
    provenance: Mapping[str, Any],
    depth_scale: float = 1000.0,
    axis_alignment: Float[Tensor, "4 4"] | None = None,
    world_offset: Float[Tensor, "3"] | None = None,
) -> None:
    """Write a scene into ``folder``, one frame in memory at a time; the folder
    appears whole or not at all.

    An earlier scene in ``folder`` is replaced; any other folder that holds
    something is left alone (LayoutError). ``point_labels``: (N,) true classes,
    IGNORE_LABEL where there is none, for evaluation. ``provenance``: what made
    the scene (JSON-able). ``depth_scale``: depth units a metre in the 16-bit
    images. ``axis_alignment``: the transform from the source's world to the
    scene's, already applied to points and poses, kept for the record.
    ``world_offset``: metres that were subtracted from coordinates far from the
    origin, in the scene's axes (:func:`read_world_offset`). Scene labels may be
    empty (not known).

    ValueError where labels do not fit the points or the classes, where frames
    do not share one camera, and for all that
    :func:`vlg_lib.data.frames.write_frame` and
    :func:`vlg_lib.data.ply.write_points` refuse.

    >>> from tempfile import TemporaryDirectory
    >>> cups = own_class_set(["cup", "plate"])
    >>> points, colors = torch.rand(5, 3), torch.zeros(5, 3).byte()
    >>> scene = Scene("desk", points, colors, [], cups, cups.mask(["cup"]))
    >>> with TemporaryDirectory() as root:
    ...     write_scene(Path(root) / "desk", scene, provenance={"by": "hand"})
    ...     sorted(path.name for path in (Path(root) / "desk").iterdir())
    ['points.ply', 'scene.json']
    """
    if point_labels is not None:
        _check_labels(
            f"point labels of scene {scene.name!r}",
            point_labels,
            len(scene.points),
            scene.class_set,
        )
    _check_manifest_entries(folder, scene, depth_scale, axis_alignment)
    _check_may_be_replaced(folder)
    with atomic_folder(folder) as temporary:
        write_points(temporary / POINTS, scene.points, scene.colors)
        if point_labels is not None:
            _write_labels(temporary / LABELS, scene, point_labels)
        if scene.superpoints is not None:
            pieces = {"superpoints": scene.superpoints}
            save_tensors(temporary / SUPERPOINTS, pieces)
        frames = _write_frames(temporary, scene, depth_scale)
        alignment = None if axis_alignment is None else axis_alignment.tolist()
        manifest = {
            "format": FORMAT,
            "name": scene.name,
            "class_set": _class_set_entry(scene.class_set),
            "scene_labels": list(scene.class_set.present(scene.scene_labels)),
            "points": len(scene.points),
            "frames": frames,
            "depth_scale": depth_scale,
            "depth_missing": [0],
            "superpoints": None if scene.superpoints is None else SUPERPOINTS,
            "axis_alignment": alignment,
            **(
                {}
                if world_offset is None or not bool(world_offset.any())
                else {"world_offset": world_offset.double().tolist()}
            ),
            "provenance": dict(provenance),
            "skipped": dict(scene.skipped),
        }
        _write_manifest(folder, temporary, manifest)


def _write_manifest(
    folder: Path, temporary: Path, manifest: Mapping[str, Any]
) -> None:
    """Write ``scene.json`` of a scene that is still in ``temporary``, and read
    it back; ValueError, naming ``folder``, where that does not give the same.
    """
    path = temporary / MANIFEST
    try:
        write_json(path, manifest)
        again = read_manifest(temporary)
    except (TypeError, ValueError, RecursionError) as error:
        text = str(error).replace(str(path), str(folder / MANIFEST))
        raise ValueError(
            f"{folder / MANIFEST}: provenance and the counts of what was"
            f" skipped must be such as JSON holds ({text})"
        ) from error
    class_set = _read_class_set(again["class_set"])
    class_set.mask(again["scene_labels"])


def _check_manifest_entries(
    folder: Path,
    scene: Scene,
    depth_scale: float,
    axis_alignment: Tensor | None,
) -> None:
    """ValueError where ``scene.json`` could not say what is given."""
    if not (
        isinstance(depth_scale, (int, float))
        and not isinstance(depth_scale, bool)
        and 0 < depth_scale < math.inf
    ):
        raise ValueError(
            f"{folder}: the depth scale is units a metre, above 0, found"
            f" {depth_scale!r}"
        )
    mask, classes = scene.scene_labels, len(scene.class_set)
    if mask.dtype != torch.bool or mask.shape != (classes,):
        raise ValueError(
            f"{folder}: expected scene labels ({classes},) bool, one for each"
            f" class of {scene.class_set.name!r}, found {tuple(mask.shape)} of"
            f" {mask.dtype}; ClassSet.mask makes them from names"
        )
    if axis_alignment is not None and (
        axis_alignment.shape != (4, 4)
        or not bool(axis_alignment.double().isfinite().all())
    ):
        raise ValueError(
            f"{folder}: expected the axis alignment to be 4x4 finite numbers,"
            f" found {axis_alignment.tolist()}"
        )
    for reason, count in scene.skipped.items():
        if not (
            isinstance(reason, str)
            and isinstance(count, int)
            and not isinstance(count, bool)
        ):
            raise ValueError(
                f"{folder}: expected counts of what was skipped by reason,"
                f" found {reason!r}: {count!r}"
            )


def _check_may_be_replaced(folder: Path) -> None:
    """LayoutError where ``folder`` holds something that is no scene."""
    if not folder.exists() or (folder / MANIFEST).is_file():
        return
    if folder.is_file() or any(folder.iterdir()):
        raise LayoutError(
            f"{folder}: expected a new folder or an earlier scene to replace,"
            " found other files; choose another"
        )


def _write_labels(path: Path, scene: Scene, labels: Int[Tensor, " N"]) -> None:
    """Write the points in the colours of their classes, with their labels."""
    unlabelled = torch.tensor([UNLABELLED_COLOR], dtype=torch.uint8)
    palette = torch.cat([scene.class_set.colors(), unlabelled])
    # the last colour is that of IGNORE_LABEL, -1
    write_points(
        path, scene.points, palette[labels.cpu().long()], labels=labels
    )


def _write_frames(folder: Path, scene: Scene, depth_scale: float) -> int:
    """Write a scene's frames, one in memory at a time; how many there are."""
    count = 0
    for frame in _of_one_camera(scene):
        if count == 0:
            has_depth = frame.depth is not None
            write_intrinsics(folder, frame.camera, with_depth=has_depth)
        write_frame(folder, frame, depth_scale)
        count += 1
    return count


def _of_one_camera(scene: Scene) -> Iterator[Frame]:
    """The frames of a scene; ValueError when one has another camera, name or
    kind of depth than the layout can hold.
    """
    shared: tuple[Camera, bool] | None = None
    names = set()
    for frame in scene.frames:
        shared = shared or (frame.camera, frame.depth is not None)
        if (frame.camera, frame.depth is not None) != shared:
            raise ValueError(
                f"scene {scene.name!r}, frame {frame.name!r}: all frames of a"
                " scene share one camera, and all or none have depth; expected"
                f" {shared[0]}, found {frame.camera}"
            )
        if frame.name in names:
            raise ValueError(
                f"scene {scene.name!r}: two frames are named {frame.name!r}"
            )
        names.add(frame.name)
        yield frame


def _class_set_entry(class_set: ClassSet) -> str | dict[str, Any]:
    if CLASS_SETS.get(class_set.name) == class_set:
        return class_set.name
    return {"name": class_set.name, "names": list(class_set.names)}


def read_scene(folder: Path) -> Scene:
    """Read a scene: points, colours, scene labels, and frames that load when
    they are asked for.

    Frames that cannot be used (missing or unreadable image, invalid pose) are
    left out and counted in ``Scene.skipped``. LayoutError or PlyError, naming
    the file and the fix, where the scene itself is wrong: no ``scene.json``, no
    points, a scene label outside the class set, wrong intrinsics, depth of
    another size than colour, superpoints that do not fit the points. Point
    labels are never opened here. A class set of
    one's own takes its colours from the common palette.

    >>> from tempfile import TemporaryDirectory
    >>> cups = own_class_set(["cup", "plate"])
    >>> points, colors = torch.rand(5, 3), torch.zeros(5, 3).byte()
    >>> scene = Scene("desk", points, colors, [], cups, cups.mask(["cup"]))
    >>> with TemporaryDirectory() as root:
    ...     write_scene(Path(root) / "desk", scene, provenance={})
    ...     again = read_scene(Path(root) / "desk")
    >>> again.class_set.present(again.scene_labels)
    ('cup',)
    """
    manifest = read_manifest(folder)
    path = folder / MANIFEST
    try:
        class_set = _read_class_set(manifest["class_set"])
        scene_labels = class_set.mask(manifest["scene_labels"])
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutError(
            f"{path}: {error}; correct class_set or scene_labels"
        ) from error
    points, colors, _ = read_points(folder / POINTS)
    _check_count(folder / POINTS, len(points), manifest)
    pieces = _read_superpoints(folder, manifest, len(points))
    frames, skipped = open_frames(
        folder, float(manifest["depth_scale"]), manifest["depth_missing"]
    )
    vanished = (
        int(manifest.get("frames", 0)) - len(frames) - sum(skipped.values())
    )
    if vanished > 0:
        skipped["missing frame"] += vanished
    if len(frames) == 0 and manifest.get("frames") != 0:
        raise LayoutError(
            f"{folder}: no frames, found nothing in color/, depth/ and pose/;"
            " export the images again"
        )
    total = Counter(manifest["skipped"]) + skipped
    return Scene(
        manifest["name"],
        points,
        colors,
        frames,
        class_set,
        scene_labels,
        dict(total),
        pieces,
    )


def _read_superpoints(
    folder: Path, manifest: Mapping[str, Any], points: int
) -> Int64[Tensor, " N"] | None:
    """The superpoints that a scene ships, None where it names none; LayoutError
    where they do not fit.
    """
    name = manifest.get("superpoints")
    if name is None:
        return None
    if name != SUPERPOINTS:
        raise LayoutError(
            f"{folder / MANIFEST}: expected superpoints to be null or"
            f" {SUPERPOINTS!r}, found {name!r}"
        )
    path = folder / SUPERPOINTS
    try:
        tensors, _ = load_tensors(path)
    except StoreError as error:
        raise LayoutError(f"{error}; convert the scene again") from error
    found = tensors.get("superpoints", torch.zeros(0))
    if not (
        found.dtype == torch.int64
        and found.shape == (points,)
        and int(found.min()) >= 0
    ):
        raise LayoutError(
            f"{path}: expected superpoints from 0, int64, for each of the"
            f" {points} points, found {found.dtype} {tuple(found.shape)};"
            " convert the scene again"
        )
    return found


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check ``scene.json``: what made the scene, its class set, its
    labels. LayoutError where it is wrong.
    """
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
    except StoreError as error:
        raise LayoutError(
            f"{error}: not a scene folder; a converter (`vlg convert`) or a"
            " person writes scene.json"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise LayoutError(
            f'{path}: expected "format": "{FORMAT}"; convert the scene again'
        )
    for key, kind in _KEYS.items():
        if not isinstance(manifest.get(key), kind) or isinstance(
            manifest[key], bool
        ):
            expected = (
                kind.__name__
                if isinstance(kind, type)
                else " or ".join(each.__name__ for each in kind)
            )
            raise LayoutError(
                f"{path}: expected {key!r} to be {expected}, found"
                f" {manifest.get(key)!r}"
            )
    for key, kind in (("scene_labels", str), ("depth_missing", int)):
        if not all(isinstance(entry, kind) for entry in manifest[key]):
            raise LayoutError(
                f"{path}: expected {key!r} to be a list of {kind.__name__},"
                f" found {manifest[key]!r}"
            )
    if not manifest["depth_scale"] > 0:
        raise LayoutError(
            f"{path}: depth_scale (units a metre) must be positive, found"
            f" {manifest['depth_scale']}"
        )
    return manifest


def read_world_offset(folder: Path) -> Float[Tensor, "3"]:
    """What to add to a scene's coordinates to get those of its source, with z
    up: metres, float64, zero but for scans in the coordinates of a country.

    >>> from tempfile import TemporaryDirectory
    >>> cups = own_class_set(["cup", "plate"])
    >>> points, colors = torch.rand(5, 3), torch.zeros(5, 3).byte()
    >>> scene = Scene("desk", points, colors, [], cups, cups.mask(["cup"]))
    >>> with TemporaryDirectory() as root:
    ...     offset = torch.tensor([500000.0, 4000000.0, 0.0])
    ...     write_scene(
    ...         Path(root) / "desk", scene, provenance={}, world_offset=offset
    ...     )
    ...     read_world_offset(Path(root) / "desk").tolist()
    [500000.0, 4000000.0, 0.0]
    """
    found = read_manifest(folder).get("world_offset", [0.0, 0.0, 0.0])
    try:
        offset = torch.tensor(found, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        offset, reason = torch.zeros(0), str(error)
    else:
        reason = "three finite numbers are needed"
    if offset.shape != (3,) or not bool(offset.isfinite().all()):
        raise LayoutError(
            f"{folder / MANIFEST}: expected world_offset in metres, found"
            f" {found!r} ({reason})"
        )
    return offset


def _read_class_set(entry: str | dict[str, Any]) -> ClassSet:
    return (
        get_class_set(entry)
        if isinstance(entry, str)
        else own_class_set(entry["names"], entry.get("name", "own"))
    )


def read_point_labels(folder: Path) -> Int[Tensor, " N"]:
    """The true class of each point, (N,) int64 with IGNORE_LABEL where there is
    none: for evaluation only.

    This is the one door to point labels: weakly supervised code never calls it
    (the tests check that). LayoutError where the scene has none, or they do not
    fit its points or its class set.
    """
    path = folder / LABELS
    if not path.is_file():
        raise LayoutError(
            f"{path}: no such file; this scene has no point labels, so it"
            " cannot be scored"
        )
    manifest = read_manifest(folder)
    _, _, extra = read_points(path)
    if "label" not in extra or extra["label"].dtype != torch.int64:
        raise LayoutError(
            f"{path}: expected an int property 'label' for each point, found"
            f" {sorted(extra) or 'none'}"
        )
    points, _, _ = read_points(folder / POINTS)
    _check_labels(
        str(path),
        extra["label"],
        len(points),
        _read_class_set(manifest["class_set"]),
    )
    return extra["label"]


def scene_folders(root: Path) -> list[Path]:
    """The scene folders under ``root``, in natural order of their names;
    LayoutError where there is none.
    """
    folders = [
        path.parent
        for path in root.glob(f"*/{MANIFEST}")
        if not path.parent.name.startswith(".")
    ]
    if not folders:
        raise LayoutError(
            f"{root}: expected folders with a {MANIFEST} in them, found none;"
            " convert or make scenes first"
        )
    return sorted(folders, key=lambda folder: natural_key(folder.name))


def _check_labels(
    what: str, labels: Tensor, points: int, class_set: ClassSet
) -> None:
    if labels.ndim != 1 or len(labels) != points:
        raise LayoutError(
            f"{what}: expected one label for each of the {points} points, found"
            f" {len(labels) if labels.ndim == 1 else tuple(labels.shape)}"
        )
    if labels.dtype not in _WHOLE:
        raise LayoutError(
            f"{what}: expected whole numbers, found {labels.dtype}; give"
            " labels.long()"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < IGNORE_LABEL or high >= len(class_set):
        raise LayoutError(
            f"{what}: expected labels from {IGNORE_LABEL} (none) to"
            f" {len(class_set) - 1} for class set {class_set.name!r}, found"
            f" {low} to {high}"
        )


def _check_count(path: Path, points: int, manifest: Mapping[str, Any]) -> None:
    if manifest.get("points", points) != points:
        raise LayoutError(
            f"{path}: expected {manifest['points']} points (scene.json), found"
            f" {points}; make the scene again"
        )
