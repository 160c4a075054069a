"""Open3D's reconstruction system."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlg_lib.convert.formats.base import Found, Key, LeftOut, PosedImage
from vlg_lib.convert.parsing import (
    camera_of,
    floats_of,
    images_in,
    json_object,
    number_in_name,
    number_of,
    numbers_of,
    text_rows,
)
from vlg_lib.data.files import files_in
from vlg_lib.data.frames import LayoutError, natural_key
from vlg_lib.geometry.poses import inverse, unknown_pose
from vlg_lib.scene import Camera

_IO = "Open3D, PinholeCameraTrajectory and its reconstruction system"
KEYS = (
    Key("width, height", "read", "of an intrinsic", _IO),
    Key("intrinsic_matrix", "read", "3x3, column by column", _IO),
    Key("parameters, extrinsic", "read", "world to camera, by columns", _IO),
    Key(
        "trajectory.log",
        "read",
        "five lines a pose; the first number of the first names the frame",
        "Redwood, its page on file formats",
    ),
    Key("color, image, rgb; depth", "read", "images; mm", _IO),
    Key("class_name, version_major, version_minor", "ignored", "names", _IO),
)
"""What lies in such a folder."""


def read_open3d(folder: Path) -> Iterator[Found]:
    """Open3D: ``trajectory.log`` (camera-to-world) or ``trajectory.json``
    (world-to-camera, column by column), camera axes right, down, forward.

    Images in ``color/`` (or ``image/``, ``rgb/``) and ``depth/`` (mm); the
    camera of a ``.log`` in ``intrinsic.json`` (or ``camera_intrinsic.json``).
    Where all is there, the poses are of the images in natural order, as Open3D
    has it; where some are missing, the numbers say which belong together.
    """
    place = _first_there(folder, ("color", "image", "rgb"))
    colors = images_in(place)
    has_depth = (folder / "depth").is_dir()
    depths = files_in(folder / "depth", (".png",))
    depths.sort(key=lambda path: natural_key(path.name))
    if (folder / "trajectory.json").is_file():
        poses = _from_json(folder / "trajectory.json")
    else:
        poses = _from_log(folder)
    color_of = _by_frame(colors, colors, depths, poses)
    depth_of = _by_frame(depths, colors, depths, poses)
    if color_of is None or depth_of is None:
        raise LayoutError(
            f"{folder}: expected as many poses as images, or numbers in the"
            f" images' names that say which belong together, found {len(poses)}"
            f" poses, {len(colors)} colour and {len(depths)} depth images"
        )
    for color in sorted(set(colors) - set(color_of.values())):
        yield LeftOut("missing pose", f"{color}: its name has no number")
    for frame in sorted(poses.keys() | color_of.keys()):
        if frame not in color_of:
            yield LeftOut("missing image", f"{place}: none of frame {frame}")
        elif frame not in poses:
            yield LeftOut("missing pose", f"{color_of[frame]}: no pose")
        elif has_depth and frame not in depth_of:
            yield LeftOut("missing depth", f"{color_of[frame]}: no depth")
        else:
            color, (camera, pose) = color_of[frame], poses[frame]
            yield PosedImage(
                color.stem, color, depth_of.get(frame), camera, pose
            )


def _by_frame(
    paths: Sequence[Path],
    colors: Sequence[Path],
    depths: Sequence[Path],
    poses: dict[int, Any],
) -> dict[int, Path] | None:
    """The images by the frame of their pose; None where nothing says it."""
    known = [
        number
        for path in (*colors, *depths)
        if (number := _number(path)) is not None
    ]
    # one name without a number among others with one is no frame
    alike = len(known) in (0, len(colors) + len(depths))
    whole = len(poses) == len(colors) and len(depths) in (0, len(colors))
    if alike and whole and sorted(poses) == list(range(len(poses))):
        return dict(enumerate(paths))
    numbered = [path for path in paths if _number(path) is not None]
    if not known or (paths and not numbered):
        return None
    # names that count from 1, such as 000001-000000033366.jpg
    from_one = min(known) > 0 and (
        max(known) > max(poses) or _is_pair(colors[0])
    )
    by_frame = {(_number(path) or 0) - from_one: path for path in numbered}
    return by_frame if len(by_frame) == len(numbered) else None


def _is_pair(path: Path) -> bool:
    """Whether a name is FRAME-TIME, as Redwood's recordings have it."""
    frame, dash, time = path.stem.partition("-")
    return bool(dash) and frame.isdigit() and time.isdigit()


def _number(path: Path) -> int | None:
    """The number of a frame in a name: the last, or FRAME of FRAME-TIME."""
    if _is_pair(path):
        return int(path.stem.partition("-")[0][:18])
    return number_in_name(path)


def _first_there(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of these that exists; the first of all where none does."""
    paths = [folder / name for name in names]
    return next((path for path in paths if path.exists()), paths[0])


def _camera(path: Path, content: Any) -> Camera:
    values = content if isinstance(content, dict) else {}
    width = number_of(path, "width", values.get("width"))
    height = number_of(path, "height", values.get("height"))
    # column by column
    k = numbers_of(path, "intrinsic_matrix", values.get("intrinsic_matrix"), 9)
    return camera_of(path, k[0], k[4], k[6], k[7], width, height)


def _from_json(path: Path) -> dict[int, tuple[Camera, Tensor]]:
    """Cameras and poses (4, 4) of a PinholeCameraTrajectory, by frame."""
    parameters = json_object(path).get("parameters")
    if (
        not isinstance(parameters, list)
        or not parameters
        or not all(isinstance(entry, dict) for entry in parameters)
    ):
        raise LayoutError(
            f"{path}: expected a list 'parameters', as Open3D's"
            " PinholeCameraTrajectory has it"
        )
    found = {}
    for frame, entry in enumerate(parameters):
        numbers = numbers_of(path, "extrinsic", entry.get("extrinsic"), 16)
        world_to_camera = torch.tensor(numbers, dtype=torch.float64).view(4, 4)
        camera = _camera(path, entry.get("intrinsic"))
        found[frame] = camera, inverse(world_to_camera.T)
    return found


def _from_log(folder: Path) -> dict[int, tuple[Camera, Tensor]]:
    """The one camera, again and again, and the poses (4, 4) of a log, by
    frame. A pose with a broken line is :func:`unknown_pose`.
    """
    file = _first_there(folder, ("intrinsic.json", "camera_intrinsic.json"))
    camera = _camera(file, json_object(file))
    path = folder / "trajectory.log"
    lines = list(text_rows(path))
    found = {}
    for start in range(0, len(lines), 5):
        number, words = lines[start]
        frame = floats_of(path, number, words, 3)[0]
        if not 0 <= frame < 2**53 or frame != int(frame) or frame in found:
            raise LayoutError(
                f"{path}, line {number}: expected the number of a frame, found"
                f" {words[0]}"
            )
        try:
            block = [
                floats_of(path, *row, 4) for row in lines[start + 1 : start + 5]
            ]
            pose = torch.tensor(block, dtype=torch.float64)
        except LayoutError:
            pose = unknown_pose()
        whole = tuple(pose.shape) == (4, 4)
        found[int(frame)] = camera, pose if whole else unknown_pose()
    if not found:
        raise LayoutError(
            f"{path}: expected five lines a pose (three numbers, then a 4x4"
            " matrix), found none"
        )
    return found
