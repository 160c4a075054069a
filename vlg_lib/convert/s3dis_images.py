"""The images of 2D-3D-S that belong to a room of S3DIS: found by room, camera
and pose file, in one frame of the world.

An area's folder holds ``data/pose``, ``data/rgb`` and ``data/depth``, with
files ``camera_UUID_ROOM_frame_J_domain_pose.json`` (and ``..._rgb.png``,
``..._depth.png``). The JSON names the camera and the room, too; a file whose
content says otherwise is left out and counted. Its ``camera_rt_matrix`` takes
the *world to the camera* (x right, y down, z forward) and is inverted here, at
the door. Depth is z-depth in units of 1/512 m, 65535 = missing. See
https://github.com/alexsax/2D-3D-Semantics (README).

Area 5 comes as area_5a and area_5b, whose worlds differ: S3DIS has the points
of both in that of area_5a. Poses of area_5b are moved there by :data:`AREA_5B`.
Images differ in their field of view; the layout has one camera a scene, so all
are resampled to the median one: wider images are cut, and where narrower ones
end, colour repeats and depth is missing.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.artifacts import StoreError, read_json
from vlg_lib.convert.frames import Images, Shot, Shots, usable, why_unusable
from vlg_lib.convert.registration import GridSize, check_size
from vlg_lib.data.frames import (
    LayoutError,
    image_size,
    natural_key,
    read_color,
    read_depth,
)
from vlg_lib.geometry.cameras import project, resize_camera
from vlg_lib.scene import Camera, Frame

DEPTH_SCALE, MISSING = 512.0, (65535,)
AREA_5B = torch.tensor(
    [
        [0, 1, 0, -4.09703582],
        [-1, 0, 0, 6.22617759],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ],
    dtype=torch.float64,
)
"""From the world of area_5b to that of area_5a and S3DIS, z up: a turn of 90
degrees and a shift.

Pointcept's preprocessing of S3DIS has the same motion for meshes with y up (x,
y, z there are x, -z, y here). """
_NAME = re.compile(
    r"camera_(?P<uuid>[^_]+)_+(?P<room>.+?)_frame_(?P<frame>\d+)_domain_+pose\.json"
)
_AGREE = 0.05, 0.02  # metres, and per metre of depth


def area_folders(images: Path, area: str) -> list[Path]:
    """The folders of 2D-3D-S for an area of S3DIS ("Area_5"): area_5a and
    area_5b; LayoutError where there is none.
    """
    names = [area.lower() + part for part in ("", "a", "b")]
    folders = [
        images / name
        for name in names
        if (images / name / "data" / "pose").is_dir()
    ]
    if not folders:
        raise LayoutError(
            f"{images}: expected {names[0]}/data/pose (or its parts a and b);"
            " unpack 2D-3D-S there"
        )
    return folders


def room_frames(
    images: Path, area: str, room: str, size: GridSize, every: int
) -> Shots:
    """The frames of a room, every n-th, in the world of S3DIS, with the counts
    of those left out.

    ``images``: the folder of 2D-3D-S. ``area``: "Area_5". ``room``:
    "office_1". ``size``: "depth" or "color" (as they are) or (width, height).
    LayoutError where a room has no usable image.
    """
    shots, skipped = [], Counter[str]()
    for folder in area_folders(images, area):
        # Names like camera_UUID__ROOM_..._domain__pose.json, as the README
        # writes them, are found, too.
        found = (folder / "data" / "pose").glob(
            f"camera_*_{room}_frame_*_domain_*pose.json"
        )
        paths = sorted(found, key=lambda path: natural_key(path.name))
        for path in paths[::every]:
            shot = _open(path, folder.name, room)
            if isinstance(shot, Shot):
                shots.append(shot)
            else:
                skipped[shot] += 1
    shots = usable(f"{images}, {area}, {room}", shots, skipped)
    camera = common_view([shot.color_camera for shot in shots], size)
    return Shots(shots, camera, skipped)


def common_view(cameras: Sequence[Camera], size: GridSize) -> Camera:
    """The camera with the median field of view, resampled to ``size``.

    Not the part that all see (``registration.common_camera``): the narrowest
    image would decide for a whole room.
    """
    by_view = sorted(cameras, key=lambda camera: camera.fx / camera.width)
    view = by_view[len(by_view) // 2]
    width, height = check_size(size)
    return resize_camera(view, width, height) if width else view


def _open(path: Path, area: str, room: str) -> Shot | str:
    """The shot of a pose file, or why it must be left out."""
    match = _NAME.fullmatch(path.name)
    if match is None or match["room"] != room:
        return "pose file of another name"
    try:
        pose = read_json(path)
        matrix, camera_to_world = _matrices(pose)
        said_room, said_camera = str(pose["room"]), str(pose["camera_uuid"])
    except (
        StoreError,
        RecursionError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RuntimeError,
    ):
        return "unreadable pose"
    # the room is stored as type_number_area, such as office_1_5a
    suffix = area.removeprefix("area")
    if said_room not in (room, room + suffix, room + suffix.rstrip("ab")):
        return "pose of another room"
    if said_camera != match["uuid"]:
        return "pose of another camera"
    data, stem = path.parents[1], path.name.removesuffix("pose.json")
    color = data / "rgb" / f"{stem}rgb.png"
    depth = data / "depth" / f"{stem}depth.png"
    reason = why_unusable(color, camera_to_world, depth)
    if reason is not None:
        return reason
    try:
        camera, depth_camera = _cameras(matrix, color, depth)
    except (ValueError, OSError):
        return "unreadable image"
    if area == "area_5b":
        camera_to_world = AREA_5B @ camera_to_world
    return Shot(
        f"{match['uuid']}_{match['frame']}",
        camera_to_world,
        camera,
        depth_camera,
        partial(_load, color, depth),
    )


def _matrices(
    pose: dict[str, object],
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "4 4"]]:
    """K (3, 3) and the camera-to-world pose (4, 4), float64, of a pose file."""
    matrix = torch.tensor(pose["camera_k_matrix"], dtype=torch.float64)
    world_to_camera = torch.tensor(
        pose["camera_rt_matrix"], dtype=torch.float64
    )
    if tuple(matrix.shape) != (3, 3) or tuple(world_to_camera.shape) not in {
        (3, 4),
        (4, 4),
    }:
        raise ValueError(
            f"matrices of shape {tuple(matrix.shape)} and"
            f" {tuple(world_to_camera.shape)}"
        )
    last = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    return matrix, torch.linalg.inv(torch.cat([world_to_camera[:3], last]))


def _cameras(matrix: Tensor, color: Path, depth: Path) -> tuple[Camera, Camera]:
    height, width = image_size(color)
    camera = Camera.from_matrix(matrix, width, height)
    height, width = image_size(depth)
    return camera, resize_camera(camera, width, height)


def _load(color: Path, depth: Path) -> Images:
    return read_color(color), read_depth(depth, DEPTH_SCALE, MISSING)


def agreement(
    points: Float[Tensor, "N 3"],
    frames: Sequence[Frame],
    most_frames: int = 6,
    most_points: int = 50_000,
) -> float:
    """How well points (N, 3) fit posed depth images: of those in view and not
    hidden, the share on the surface.

    A point nearer to the camera than the measured surface contradicts it. 1
    means that none does; 0 that all do, or that no point is in view. Measured
    on a few frames and points spread over the scene.
    """
    on_surface = before = 0
    chosen_points = points[:: max(1, len(points) // most_points)]
    for index in range(0, len(frames), max(1, len(frames) // most_frames)):
        frame = frames[index]
        if frame.depth is None:
            raise ValueError(
                f"frame {frame.name!r} has no depth to compare with"
            )
        pixels, z = project(chosen_points, frame.camera, frame.camera_to_world)
        inside = (z > 0) & (pixels > -0.5).all(1)
        inside &= (pixels[:, 0] < frame.camera.width - 0.5) & (
            pixels[:, 1] < frame.camera.height - 0.5
        )
        u, v = pixels[inside].round().long().unbind(1)
        depth, z = frame.depth[v, u].double(), z[inside]
        allowed = _AGREE[0] + _AGREE[1] * depth
        on_surface += int(((depth - z).abs() <= allowed)[depth > 0].sum())
        before += int((depth - z > allowed)[depth > 0].sum())
    return on_surface / max(1, on_surface + before)
