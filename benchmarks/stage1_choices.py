"""The open choices of stage 1, each measured over training rooms of the book's
profile.

    python benchmarks/stage1_choices.py --seeds 0 91

A room is made as the profile makes it, its frames pass the profile's 2D model
once, and its points are fused and labelled (pseudo labels with tags) in each of
two or more ways. ``accuracy``: the share of all points with a true class whose
pseudo label is right, in per cent; a point that no frame sees is wrong. Each
line is one JSON object about one seed, or all of them together: the mean over
rooms of each way, and for the pairs in question the mean, least and largest
difference within a room (second less first) and how many rooms the second won.

* sampling: nearest or bilinear.
* inverse: world to camera by R^T or by R^-1, where recorded rotations are not
  perfect: the poses are those of the room times a symmetric matrix whose
  determinant is 0.9995. ``pixels``, ``mm``: how far R^T takes points of the
  depth maps from where R^-1 does, which is the pixel and depth that they came
  from; the mean over points, and the largest. ``accuracy`` is that of the
  room's own points, which know nothing of the stretch.
* splat: frames without depth maps; the radius of a point fixed, or a share of
  the median distance between neighbours. ``precision``, ``recall``: against
  what the depth maps say. With ``quarter`` a quarter of the points is kept, at
  random: neighbours are farther away.
* resize: images resized for a CLIP in floats or in bytes, against open_clip's
  own preprocessing (Pillow), 0 to 255: mean and largest difference of a pixel.

Labels are those of training rooms, which no table reports, and choose nothing
within a run.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from open_clip.transform import image_transform
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from vlg_lib.fusion import FusionSettings, fuse_scene
from vlg_lib.geometry.cameras import unproject, world_to_camera
from vlg_lib.geometry.visibility import (
    SPLAT_SPACING,
    Visibility,
    splat_radius,
    visible_points,
)
from vlg_lib.pipeline.profiles import get_profile
from vlg_lib.pseudo_labels import make_pseudo_labels
from vlg_lib.rooms.scenes import room_scene, split_seeds
from vlg_lib.scene import Scene
from vlg_lib.vision_language import create_model
from vlg_lib.vision_language.prompts import class_embeddings

Measures = dict[str, float]

RADII = {"1 cm": 0.01}
SHARES = (0.4, 0.5, 0.6, 0.85)
PAIRS = {
    "sampling": [("accuracy, nearest", "accuracy, bilinear")],
    "inverse": [("accuracy, transpose", "accuracy, inverse")],
    "splat": [
        (f"{cloud}, accuracy, 1 cm", f"{cloud}, accuracy, {share:g} x")
        for cloud in ("all", "quarter")
        for share in SHARES
    ],
}
RESIZED = 224


class Teacher:
    """The profile's 2D model; an image passes it once."""

    def __init__(self) -> None:
        self.profile = get_profile("book")
        self.model = create_model(self.profile.teacher.name)
        self._maps: dict[int, Tensor] = {}

    def forget(self) -> None:
        """Before the next room."""
        self._maps.clear()

    def embed(self, image: Tensor) -> Tensor:
        key = image.data_ptr()
        if key not in self._maps:
            self._maps[key] = self.model.dense_embeddings(image)
        return self._maps[key]

    def accuracy(
        self,
        scene: Scene,
        truth: Tensor,
        visibility: Visibility | None = None,
        settings: FusionSettings | None = None,
    ) -> float:
        """Right pseudo labels in per cent of the points with a class."""
        fused = fuse_scene(scene, self.embed, visibility, settings)
        profile = self.profile
        texts = class_embeddings(
            self.model,
            scene.class_set.names,
            profile.prompts.templates,
            profile.prompts.synonyms,
        )
        made = make_pseudo_labels(
            fused,
            texts,
            scene.scene_labels,
            profile.pseudo_labels.temperature,
        )
        known = truth >= 0
        return 100 * float((made.labels == truth)[known].float().mean())


def sampling(teacher: Teacher, scene: Scene, truth: Tensor) -> Measures:
    return {
        f"accuracy, {way}": teacher.accuracy(
            scene, truth, settings=FusionSettings(sampling=way)
        )
        for way in ("nearest", "bilinear")
    }


def inverse(teacher: Teacher, scene: Scene, truth: Tensor) -> Measures:
    """A recording with imperfect rotations: R^-1 leads points of its depth maps
    back, and R^T to the side.
    """
    generator = torch.Generator().manual_seed(0)
    apart, deep, frames = [], [], []
    for frame in scene.frames:
        pose = imperfect(frame.camera_to_world, generator)
        points, _ = unproject(frame.depth, frame.camera, pose)
        by_transpose = (points - pose[:3, 3]) @ pose[:3, :3]
        by_inverse = world_to_camera(points, pose)
        focal = frame.camera.fx
        moved = focal * (
            by_transpose[:, :2] / by_transpose[:, 2:]
            - by_inverse[:, :2] / by_inverse[:, 2:]
        ).norm(dim=1)
        apart.append(moved)
        deep.append(1e3 * (by_transpose - by_inverse)[:, 2].abs())
        frames.append(replace(frame, camera_to_world=pose))
    # the pose whose inverse is what the transpose takes for it
    transposed = [
        replace(frame, camera_to_world=inverse_is_transpose(frame))
        for frame in frames
    ]
    apart, deep = torch.cat(apart), torch.cat(deep)
    return {
        "pixels, mean": float(apart.mean()),
        "pixels, largest": float(apart.max()),
        "mm, mean": float(deep.mean()),
        "mm, largest": float(deep.max()),
        "accuracy, transpose": teacher.accuracy(
            replace(scene, frames=transposed), truth
        ),
        "accuracy, inverse": teacher.accuracy(
            replace(scene, frames=frames), truth
        ),
    }


def imperfect(pose: Tensor, generator: torch.Generator) -> Tensor:
    """A pose whose rotation is stretched a little: det R = 0.9995."""
    stretch = 3e-4 * (2 * torch.rand(3, 3, generator=generator).double() - 1)
    matrix = torch.eye(3).double() + (stretch + stretch.T) / 2
    matrix *= (0.9995 / torch.linalg.det(matrix)) ** (1 / 3)
    changed = pose.double().clone()
    changed[:3, :3] = changed[:3, :3] @ matrix
    return changed


def inverse_is_transpose(frame: Any) -> Tensor:
    pose = frame.camera_to_world.clone()
    pose[:3, :3] = torch.linalg.inv(pose[:3, :3]).T
    return pose


def splat(teacher: Teacher, scene: Scene, truth: Tensor) -> Measures:
    found: Measures = {}
    generator = torch.Generator().manual_seed(0)
    quarter = torch.randperm(len(truth), generator=generator)[: len(truth) // 4]
    for cloud, chosen in (
        ("all", torch.arange(len(truth))),
        ("quarter", quarter.sort().values),
    ):
        part = replace(
            scene,
            points=scene.points[chosen],
            colors=scene.colors[chosen],
        )
        blind = replace(
            part, frames=[replace(f, depth=None) for f in scene.frames]
        )
        spacing = splat_radius(part.points) / SPLAT_SPACING
        found[f"{cloud}, spacing, cm"] = 100 * spacing
        radii = RADII | {f"{share:g} x": share * spacing for share in SHARES}
        measured = [visible_set(part, frame) for frame in part.frames]
        found[f"{cloud}, accuracy, depth maps"] = teacher.accuracy(
            part, truth[chosen]
        )
        for name, radius in radii.items():
            visibility = Visibility(point_radius=radius)
            made = [
                visible_set(part, frame, visibility) for frame in blind.frames
            ]
            both = sum(
                int((a & b).sum()) for a, b in zip(made, measured, strict=True)
            )
            found[f"{cloud}, precision, {name}"] = (
                100 * both / sum(int(each.sum()) for each in made)
            )
            found[f"{cloud}, recall, {name}"] = (
                100 * both / sum(int(each.sum()) for each in measured)
            )
            found[f"{cloud}, accuracy, {name}"] = teacher.accuracy(
                blind, truth[chosen], visibility
            )
    return found


def visible_set(
    scene: Scene, frame: Any, visibility: Visibility | None = None
) -> Tensor:
    seen = torch.zeros(len(scene.points), dtype=torch.bool)
    seen[visible_points(scene.points, frame, visibility).indices] = True
    return seen


def resize(teacher: Teacher, scene: Scene, truth: Tensor) -> Measures:
    """The short side as a CLIP wants it; open_clip's own preprocessing without
    its crop and its standardisation.
    """
    differences = defaultdict(list)
    own = image_transform(
        RESIZED, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3
    ).transforms[0]
    for frame in scene.frames[:4]:
        expected = torch.from_numpy(
            np.array(own(Image.fromarray(frame.color.numpy())))
        ).permute(2, 0, 1)[None]
        size = tuple(expected.shape[2:])
        pixels = frame.color.permute(2, 0, 1)[None]
        for way, given in (("floats", pixels.float()), ("bytes", pixels)):
            made = interpolate(given, size=size, mode="bicubic", antialias=True)
            off = (made.float().clamp(0, 255) - expected.float()).abs()
            differences[way].append(off)
    return {
        f"{way}, {name}": float(of(torch.cat(offs)))
        for way, offs in differences.items()
        for name, of in (("mean", torch.mean), ("largest", torch.max))
    }


CHOICES = {
    "sampling": sampling,
    "inverse": inverse,
    "splat": splat,
    "resize": resize,
}


def summary(
    choice: str, rooms: Sequence[Measures]
) -> Iterator[tuple[str, Any]]:
    """Means over rooms, and the paired differences."""
    for name in rooms[0]:
        values = [room[name] for room in rooms]
        of = max if name.endswith("largest") else statistics.mean
        yield name, round(of(values), 3)
    for first, second in PAIRS.get(choice, []):
        differences = [room[second] - room[first] for room in rooms]
        yield (
            f"{second} less {first}",
            {
                "mean": round(statistics.mean(differences), 3),
                "least": round(min(differences), 3),
                "largest": round(max(differences), 3),
                "better in": sum(value > 0 for value in differences),
                "worse in": sum(value < 0 for value in differences),
            },
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 91])
    parser.add_argument("--rooms", type=int, default=128)
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        help="all choices but sampling look at every such room only",
    )
    parser.add_argument(
        "--choices", nargs="+", choices=CHOICES, default=list(CHOICES)
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    teacher = Teacher()
    settings = teacher.profile.rooms
    found: dict[str, dict[int, list[Measures]]] = {
        choice: defaultdict(list) for choice in given.choices
    }
    for seed in given.seeds:
        numbers = split_seeds("train", given.rooms, seed)
        for count, number in enumerate(tqdm(numbers, desc="rooms")):
            scene, truth = room_scene(
                number,
                shift=settings.shift,
                views=settings.views,
                width=settings.width,
                height=settings.height,
            )
            teacher.forget()
            for choice in given.choices:
                if choice != "sampling" and count % given.every:
                    continue
                found[choice][seed].append(
                    CHOICES[choice](teacher, scene, truth)
                )
    for choice, by_seed in found.items():
        everything = [room for rooms in by_seed.values() for room in rooms]
        parts = [([seed], rooms) for seed, rooms in by_seed.items()]
        if len(parts) > 1:
            parts.append((given.seeds, everything))
        for seeds, rooms in parts:
            line = {"name": choice, "seeds": seeds, "rooms": len(rooms)}
            print(json.dumps(line | dict(summary(choice, rooms))), flush=True)


if __name__ == "__main__":
    main()
