"""The procedural rooms as scenes: views of a room, a scan made of them, and
folders in the common layout.

A seed becomes a room of oriented boxes (``rooms_plan``), photographed from
poses inside it (``rooms_render``). The point cloud is built from the depth
images, so it has the occlusion holes of a real scan; the renderer knows every
pixel's class, so true labels exist, and they are kept apart from the scene, for
evaluation only.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot
from tqdm.auto import tqdm

from vlg_lib.classes import IGNORE_LABEL, ROOMS_12
from vlg_lib.data.depth_fusion import VoxelAverager
from vlg_lib.data.layout import LayoutError, read_manifest, write_scene
from vlg_lib.geometry.cameras import unproject
from vlg_lib.rooms.plan import Room, kind_of, make_room
from vlg_lib.rooms.render import cast_rays, pixel_rays, render_frame
from vlg_lib.scene import Camera, Scene

__all__ = [
    "make_room",
    "make_rooms",
    "render_frame",
    "room_camera",
    "room_poses",
    "room_scene",
    "split_seeds",
]

RECIPE = 1
"""Raised whenever the same seed would give another room, so that stored rooms
are made again."""

GRID = 0.04
MIN_TAGGED_POINTS = 40
_FIELD_OF_VIEW = 72.0
_VLM_SEEDS = {"vlm-train": 1_000_000_000, "vlm-held-out": 1_500_000_000}


def split_seeds(split: str, count: int, seed: int = 0) -> list[int]:
    """Room seeds of a split: no two splits, and no two run seeds below 90,000,
    share a room.

    ``split``: "train" or "test" (of a run with ``seed``), "vlm-train" or
    "vlm-held-out" (of the small vision-language model, whatever the run).
    ValueError for other splits, and for more than 5,000 rooms in a run's split.

    >>> split_seeds("train", 3), split_seeds("test", 2)
    ([10000, 10001, 10002], [15000, 15001])
    """
    if split in _VLM_SEEDS:
        return [_VLM_SEEDS[split] + i for i in range(count)]
    if split not in ("train", "test"):
        raise ValueError(
            f"unknown split {split!r}; known: train, test,"
            f" {', '.join(_VLM_SEEDS)}"
        )
    if not (0 <= count <= 5_000 and 0 <= seed < 90_000):
        raise ValueError(
            "expected at most 5,000 rooms and a seed in [0, 90,000), found"
            f" {count} rooms, seed {seed}"
        )
    first = 10_000 * (seed + 1) + (5_000 if split == "test" else 0)
    return [first + i for i in range(count)]


def room_camera(width: int = 160, height: int = 120) -> Camera:
    """The camera of the rooms: 72 degrees wide, square pixels, optical axis
    through the middle of the image.

    >>> camera = room_camera(160, 120)
    >>> camera.cx, camera.cy, round(camera.fx, 1)
    (79.5, 59.5, 110.1)
    """
    focal = float(width / 2 / np.tan(np.radians(_FIELD_OF_VIEW) / 2))
    return Camera(
        focal, focal, (width - 1) / 2, (height - 1) / 2, width, height
    )


def _look(
    position: np.ndarray, yaw: float, pitch: float
) -> Float[Tensor, "4 4"]:
    """Camera-to-world pose: x right, y down, z forward; yaw about z from the
    world's x, pitch upwards, radians.
    """
    forward = np.array(
        [
            np.cos(pitch) * np.cos(yaw),
            np.cos(pitch) * np.sin(yaw),
            np.sin(pitch),
        ]
    )
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = position
    return torch.from_numpy(pose)


def _is_free(room: Room, position: np.ndarray, margin: float = 0.2) -> bool:
    local = np.einsum("bji,bj->bi", room.rotations, position - room.centers)
    return not bool((np.abs(local) < room.half_sizes + margin).all(1).any())


def room_poses(
    room: Room, views: int, seed: int = 0
) -> list[Float[Tensor, "4 4"]]:
    """Camera-to-world poses (float64) of a walk through a room: the headings
    cover the circle evenly, pitch varies.

    Of several candidates a view takes the first that stands in free space, has
    1.2 m or more before it (median over a coarse grid of rays) and sees at
    least five objects; else the candidate that sees most objects.

    >>> poses = room_poses(make_room(7), views=2)
    >>> len(poses), poses[0].shape
    (2, torch.Size([4, 4]))
    """
    rng = np.random.default_rng([room.seed, 15485863, seed])
    coarse = room_camera(16, 12)
    width, depth, _ = room.size
    start, poses = rng.uniform(0, 2 * np.pi), []
    for view in range(views):
        best, best_score = None, -1.0
        for _ in range(12):
            position = np.array(
                [
                    rng.uniform(0.4, width - 0.4),
                    rng.uniform(0.4, depth - 0.4),
                    rng.uniform(1.25, 1.8),
                ]
            )
            yaw = start + 2 * np.pi * (view + rng.uniform(-0.4, 0.4)) / views
            pose = _look(position, yaw, np.radians(rng.uniform(-34, 12)))
            if not _is_free(room, position):
                continue
            origins, directions = pixel_rays(coarse, pose)
            # The same poses on every machine.
            t, boxes = cast_rays(room, origins, directions, exact=True)
            seen = len(np.unique(room.instances[boxes[boxes >= 0]]))
            score = min(seen, 6) + (4.0 if np.median(t) > 1.2 else 0.0)
            if score > best_score:
                best, best_score = pose, score
            if score >= 9:
                break
        poses.append(
            best
            if best is not None
            else _look(np.array([width / 2, depth / 2, 1.6]), yaw, -0.2)
        )
    return poses


def room_scene(
    seed: int,
    *,
    shift: float = 0.0,
    views: int = 12,
    width: int = 160,
    height: int = 120,
) -> tuple[Scene, Int[Tensor, " N"]]:
    """Make and scan the room of a seed, in memory: (scene, point labels (N,)
    int64, for evaluation only).

    The points come from the depth images, averaged in cells of 4 cm. A point's
    true label is the commonest class of the pixels in its cell. The scene
    labels (tags) are the classes that at least 40 points carry: what a person
    who looks at the scan would tick. ``shift``: see
    :func:`vlg_lib.rooms.plan.make_room`. The same arguments give the same
    arrays.

    >>> scene, labels = room_scene(7, views=2, width=32, height=24)
    >>> scene.name, len(scene.frames), len(labels) == len(scene.points)
    ('room-00007', 2, True)
    """
    room, camera = make_room(seed, shift=shift), room_camera(width, height)
    averager = VoxelAverager(GRID, channels=3 + len(ROOMS_12) + 1)
    frames = []
    for view, pose in enumerate(room_poses(room, views)):
        rendered = render_frame(
            room, camera, pose, seed=view, name=f"{view:04d}"
        )
        frame = rendered.frame
        assert frame.depth is not None
        points, pixels = unproject(frame.depth, camera, frame.camera_to_world)
        u, v = pixels.unbind(1)
        # One column a class, the last for "no class": averages of these are
        # votes.
        votes = one_hot(
            rendered.labels[v, u].where(
                rendered.labels[v, u] >= 0, len(ROOMS_12)
            ),
            len(ROOMS_12) + 1,
        )
        averager.add(
            points, torch.cat([frame.color[v, u].float(), votes.float()], dim=1)
        )
        frames.append(frame)
    points, values, _ = averager.result()
    labels = values[:, 3:].argmax(1)
    labels = labels.where(labels < len(ROOMS_12), IGNORE_LABEL)
    tags = (
        torch.bincount(labels[labels >= 0], minlength=len(ROOMS_12))
        >= MIN_TAGGED_POINTS
    )
    colors = values[:, :3].round().to(torch.uint8)
    scene = Scene(f"room-{seed:05d}", points, colors, frames, ROOMS_12, tags)
    return scene, labels


def make_rooms(
    root: Path,
    seeds: Iterable[int],
    *,
    shift: float = 0.0,
    views: int = 12,
    width: int = 160,
    height: int = 120,
    progress: bool = True,
) -> list[Path]:
    """Write the rooms of some seeds as scene folders under ``root``; those
    already there and equal are kept.

    Returns the folders, in the order of the seeds. Stopped in between, a second
    call goes on with the missing rooms.
    """
    folders = []
    for seed in tqdm(
        list(seeds),
        desc="rooms",
        unit="room",
        disable=None if progress else True,
    ):
        folder = root / f"room-{seed:05d}"
        provenance = {
            "source": "procedural rooms",
            "recipe": RECIPE,
            "seed": seed,
            "kind": kind_of(seed),
            "shift": shift,
            "views": views,
            "width": width,
            "height": height,
        }
        if not _is_made(folder, provenance):
            scene, labels = room_scene(
                seed, shift=shift, views=views, width=width, height=height
            )
            write_scene(
                folder, scene, point_labels=labels, provenance=provenance
            )
        folders.append(folder)
    return folders


def _is_made(folder: Path, provenance: dict[str, object]) -> bool:
    try:
        return bool(read_manifest(folder)["provenance"] == provenance)
    except LayoutError:
        return False


@dataclass(frozen=True)
class RoomsSettings:
    """How many made rooms there are, and how each is photographed."""

    train: int = 8
    """Rooms to learn from; 0 to 5,000."""
    test: int = 4
    """Rooms that nothing is learnt from; 0 to 5,000."""
    views: int = 12
    """Photographs of each room; from 1."""
    width: int = 160
    """Pixels across a photograph; from 1."""
    height: int = 120
    """Pixels down a photograph; from 1."""
    shift: float = 0.5
    """The share of object colours that the small 2D models never saw; 0 to
    1."""
