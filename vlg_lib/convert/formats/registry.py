"""Foreign formats of posed images, each a small function that yields posed images; all else is ``convert_scan.py``'s.

They come in the library's conventions: camera-to-world, camera axes right, down, forward, pixel centres at integers.
What the formats say of themselves (axes, direction, units, where a pixel's centre is) is undone here, once, and said
beside each. Those of Apple's ARKit stand in ``arkit_formats.py``.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlg_lib.convert.formats.arkit import read_arkitscenes, read_polycam, read_record3d
from vlg_lib.convert.parsing import (
    OPENGL,
    PosedImage,
    camera_of,
    file_inside,
    floats_of,
    images_in,
    inverse,
    json_object,
    nearest_in_time,
    numbers_of,
    pose_from,
    stamped_rows,
    text_rows,
)
from vlg_lib.data.frames import LayoutError, image_size, read_matrix
from vlg_lib.scene import Camera

SAME_TIME = 0.02
"""Seconds between an image and the depth image or pose that is taken for it (the TUM tools' own choice)."""


@dataclass(frozen=True)
class Format:
    """A format: its reader, which axis of its world points up (or "auto": unknown), and what its folder holds.

    ``points``: reads the points that the format brings along, (N, 3) float32 and colours (N, 3) uint8.
    """

    read: Callable[[Path], Iterator[PosedImage]]
    up: str
    holds: str
    points: Callable[[Path], tuple[Tensor, Tensor]] | None = None


def read_seven_scenes(folder: Path) -> Iterator[PosedImage]:
    """7-Scenes, a folder ``seq-XX``: camera-to-world matrices, depth in mm with 65535 missing, the Kinect's own camera.

    The data set gives no calibration but "focal length 585, principal point (320, 240)" at 640 x 480.
    """
    for color in sorted(folder.glob("frame-*.color.png")):
        name = color.name.removesuffix(".color.png")
        matrix = folder / f"{name}.pose.txt"
        pose = read_matrix(matrix) if matrix.is_file() else torch.full((4, 4), torch.nan, dtype=torch.float64)
        yield PosedImage(name, color, folder / f"{name}.depth.png", Camera(585.0, 585.0, 320.0, 240.0, 640, 480), pose)


TUM_CAMERAS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
    "": (525.0, 525.0, 319.5, 239.5),
}
"""fx, fy, cx, cy of the data set's cameras, chosen by the folder's name, else the OpenNI default."""


def read_tum(folder: Path) -> Iterator[PosedImage]:
    """TUM RGB-D: lists of time stamps, ``groundtruth.txt`` camera-to-world with quaternions x y z w, depth 1/5000 m."""
    colors, depths = stamped_rows(folder / "rgb.txt", 2), stamped_rows(folder / "depth.txt", 2)
    poses = stamped_rows(folder / "groundtruth.txt", 8)
    values = next(values for key, values in TUM_CAMERAS.items() if key in folder.resolve().name)
    camera = Camera(*values, 640, 480)
    for number, time, (name,) in colors:
        depth, pose = (nearest_in_time(lines, time, SAME_TIME) for lines in (depths, poses))
        color = file_inside(folder, name, folder / "rgb.txt")
        matrix = torch.full((4, 4), torch.nan, dtype=torch.float64)
        if pose is not None:
            numbers = floats_of(folder / "groundtruth.txt", pose[0], pose[2], 7)
            matrix = pose_from(numbers[3:], numbers[:3])
        file = folder / "no-depth" if depth is None else file_inside(folder, depth[2][0], folder / "depth.txt")
        yield PosedImage(Path(name).stem or str(number), color, file, camera, matrix, 5000.0)


def read_replica(folder: Path) -> Iterator[PosedImage]:
    """Replica as rendered for NICE-SLAM: ``traj.txt``, camera-to-world, one a line; ``cam_params.json``, also above."""
    colors = [path for path in images_in(folder / "results") if path.name.startswith("frame")]
    path = next((p for p in (folder / "cam_params.json", folder.parent / "cam_params.json") if p.is_file()), None)
    if path is None:
        raise LayoutError(
            f"{folder / 'cam_params.json'}: no such file, here or one folder up; copy it from the data set"
        )
    values = json_object(path).get("camera")
    w, h, fx, fy, cx, cy, scale = (
        numbers_of(path, key, (values if isinstance(values, dict) else {}).get(key), 1)[0]
        for key in ("w", "h", "fx", "fy", "cx", "cy", "scale")
    )
    if not 0 < scale < math.inf:
        raise LayoutError(f"{path}: expected a positive scale, found {scale}")
    camera = camera_of(path, fx, fy, cx, cy, w, h)
    poses = [floats_of(folder / "traj.txt", number, words, 16) for number, words in text_rows(folder / "traj.txt")]
    if len(poses) != len(colors):
        raise LayoutError(f"{folder / 'traj.txt'}: expected {len(colors)} lines, one an image, found {len(poses)}")
    for color, pose in zip(colors, poses, strict=True):
        depth = color.with_name(color.stem.replace("frame", "depth") + ".png")
        yield PosedImage(color.stem, color, depth, camera, torch.tensor(pose, dtype=torch.float64).view(4, 4), scale)


def read_open3d(folder: Path) -> Iterator[PosedImage]:
    """Open3D: ``trajectory.log`` (camera-to-world) or ``trajectory.json`` (world-to-camera, column by column).

    Images in ``color/`` (or ``image/``, ``rgb/``) and ``depth/`` in natural order, one a pose; the camera of a ``.log``
    in ``intrinsic.json`` (or ``camera_intrinsic.json``).
    """
    colors = images_in(next((folder / n for n in ("color", "image", "rgb") if (folder / n).is_dir()), folder / "color"))
    depths = images_in(folder / "depth", (".png",)) if (folder / "depth").is_dir() else [None] * len(colors)
    shots = _open3d_json(folder) if (folder / "trajectory.json").is_file() else _open3d_log(folder)
    if not len(shots) == len(colors) == len(depths):
        raise LayoutError(
            f"{folder}: expected as many poses as images, found {len(shots)} poses, {len(colors)} colour and "
            f"{len(depths)} depth images"
        )
    for color, depth, (camera, pose) in zip(colors, depths, shots, strict=True):
        yield PosedImage(color.stem, color, depth, camera, pose)


def _open3d_camera(path: Path, content: Any) -> Camera:
    values = content if isinstance(content, dict) else {}
    width, height = (numbers_of(path, key, values.get(key), 1)[0] for key in ("width", "height"))
    k = numbers_of(path, "intrinsic_matrix", values.get("intrinsic_matrix"), 9)  # column by column
    return camera_of(path, k[0], k[4], k[6], k[7], width, height)


def _open3d_json(folder: Path) -> list[tuple[Camera, Tensor]]:
    path = folder / "trajectory.json"
    parameters = json_object(path).get("parameters")
    if not isinstance(parameters, list) or not all(isinstance(entry, dict) for entry in parameters):
        raise LayoutError(f"{path}: expected a list 'parameters', as Open3D's PinholeCameraTrajectory has it")
    shots = []
    for entry in parameters:
        extrinsic = torch.tensor(numbers_of(path, "extrinsic", entry.get("extrinsic"), 16), dtype=torch.float64)
        shots.append((_open3d_camera(path, entry.get("intrinsic")), inverse(extrinsic.view(4, 4).T)))
    return shots


def _open3d_log(folder: Path) -> list[tuple[Camera, Tensor]]:
    names = ("intrinsic.json", "camera_intrinsic.json")
    file = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    camera, path = _open3d_camera(file, json_object(file)), folder / "trajectory.log"
    lines = list(text_rows(path))
    if len(lines) % 5:
        raise LayoutError(f"{path}: expected five lines a pose (three numbers, then a 4x4 matrix), found {len(lines)}")
    rows = [floats_of(path, number, words, 4 if i % 5 else 3) for i, (number, words) in enumerate(lines)]
    poses = [torch.tensor(rows[i + 1 : i + 5], dtype=torch.float64) for i in range(0, len(rows), 5)]
    return [(camera, pose) for pose in poses]


def read_nerfstudio(folder: Path) -> Iterator[PosedImage]:
    """Nerfstudio and instant-ngp, ``transforms.json``: camera-to-world, camera axes right, up, backward.

    Intrinsics of all frames or of each; the middle of the first pixel is at 1/2. Depth in ``depth_file_path``, in units
    of ``depth_unit_scale_factor`` (1/1000 m). Distorted cameras are refused.
    """
    path = folder / "transforms.json"
    content = json_object(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise LayoutError(f"{path}: expected a list 'frames' of objects")
    for i, frame in enumerate(frames):
        values = {**content, **frame}
        name, depth = values.get("file_path"), frame.get("depth_file_path", frame.get("depth_path"))
        if not isinstance(name, str) or not (depth is None or isinstance(depth, str)):
            raise LayoutError(f"{path}: expected frame {i} to name its image in 'file_path', found {name!r}, {depth!r}")
        color = file_inside(folder, name, path)
        if not color.suffix:  # Blender's exporter leaves the suffix out
            color = color.with_suffix(".png")
        matrix = torch.tensor(numbers_of(path, f"transform_matrix of frame {i}", frame.get("transform_matrix"), 16))
        (unit,) = numbers_of(path, "depth_unit_scale_factor", values.get("depth_unit_scale_factor", 0.001), 1)
        if not 0 < unit < math.inf:
            raise LayoutError(f"{path}: expected a positive depth_unit_scale_factor, found {unit}")
        yield PosedImage(
            f"{i:05d}_{color.stem}", color, None if depth is None else file_inside(folder, depth, path),
            _nerf_camera(path, color, values), matrix.double().view(4, 4) @ OPENGL, 1 / unit,
        )  # fmt: skip


def _nerf_camera(path: Path, color: Path, values: dict[str, Any]) -> Camera:
    bent = [key for key in ("k1", "k2", "k3", "k4", "p1", "p2") if values.get(key, 0) != 0]
    model = values.get("camera_model", "OPENCV")
    if bent or model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        raise LayoutError(
            f"{path}: a distorted camera ({model}, {', '.join(bent) or 'no pinhole'}); undistort the images first"
        )
    if not {"w", "h"} <= values.keys() and color.is_file():
        values["h"], values["w"] = image_size(color)
    width, height = (numbers_of(path, key, values.get(key), 1)[0] for key in ("w", "h"))
    if "fl_x" not in values and "camera_angle_x" in values:
        (angle,) = numbers_of(path, "camera_angle_x", values["camera_angle_x"], 1)
        values["fl_x"] = 0.5 * width / math.tan(0.5 * angle) if math.tan(0.5 * angle) else math.inf
    fx = numbers_of(path, "fl_x", values.get("fl_x"), 1)[0]
    fy, cx, cy = (
        numbers_of(path, key, values.get(key, default), 1)[0]
        for key, default in (("fl_y", fx), ("cx", width / 2), ("cy", height / 2))
    )
    return camera_of(path, fx, fy, cx - 0.5, cy - 0.5, width, height)


def read_colmap(folder: Path) -> Iterator[PosedImage]:
    """COLMAP's text model (``cameras.txt``, ``images.txt``, here or in ``sparse/`` or ``sparse/0``), images, depth.

    World-to-camera quaternions w x y z; the middle of the first pixel is at 1/2; a unit of its own, which ``depth/``
    must share (16-bit PNG of the images' names, 1/1000 units). Without it, the depth maps of the dense stage are taken
    from ``stereo/depth_maps`` where they are. Cameras with distortion are refused.
    """
    model = _colmap_model(folder)
    cameras = _colmap_cameras(model / "cameras.txt")
    path, depth = model / "images.txt", folder / "depth"
    for number, words in _colmap_images(path):
        values = floats_of(path, number, words[1:9], 8)
        name, camera = " ".join(words[9:]), cameras.get(words[8])
        if camera is None or not name:
            raise LayoutError(f"{path}, line {number}: expected a camera of cameras.txt and a name, found {words[8:]}")
        qw, qx, qy, qz = values[:4]
        pose = inverse(pose_from((qx, qy, qz, qw), values[4:7]))
        color = file_inside(folder / "images", name, path)
        file = (depth / name).with_suffix(".png") if depth.is_dir() else None
        if file is None and (maps := folder / "stereo" / "depth_maps").is_dir():
            file = file_inside(maps, f"{name}.geometric.bin", path)
        yield PosedImage(str(Path(name).with_suffix("")).replace("/", "_"), color, file, camera, pose)


def read_colmap_points(folder: Path) -> tuple[Tensor, Tensor]:
    """The sparse points of a COLMAP text model: ``points3D.txt``."""
    path = _colmap_model(folder) / "points3D.txt"
    rows = [floats_of(path, number, words[1:7], 6) for number, words in text_rows(path)]
    table = torch.tensor(rows, dtype=torch.float64).view(-1, 6)
    if len(table) == 0 or not bool(table.isfinite().all()) or bool(((table[:, 3:] < 0) | (table[:, 3:] > 255)).any()):
        raise LayoutError(f"{path}: expected points, x y z and red green blue (0 to 255), found {len(table)} rows")
    return table[:, :3].float(), table[:, 3:].to(torch.uint8)


def _colmap_model(folder: Path) -> Path:
    places = (folder, folder / "sparse", folder / "sparse/0")
    return next((place for place in places if (place / "cameras.txt").is_file()), folder)


def _colmap_images(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Every first line of two: the second holds an image's 2D points, and may be empty."""
    if not path.is_file():
        raise LayoutError(f"{path}: no such file; write the model as text (colmap model_converter --output_type TXT)")
    lines = path.read_text(errors="replace").splitlines()
    kept = [(i, line.split()) for i, line in enumerate(lines, start=1) if not line.lstrip().startswith("#")]
    for number, words in kept[::2]:
        if words:
            if len(words) < 10:
                raise LayoutError(f"{path}, line {number}: expected 10 words, found {len(words)}")
            yield number, words


def _colmap_cameras(path: Path) -> dict[str, Camera]:
    cameras = {}
    for number, words in text_rows(path):
        model = words[1] if len(words) > 1 else ""
        if model not in ("PINHOLE", "SIMPLE_PINHOLE"):
            raise LayoutError(
                f"{path}, line {number}: a camera {model!r} with distortion; run colmap image_undistorter first"
            )
        values = floats_of(path, number, words[2:], 6 if model == "PINHOLE" else 5)
        width, height, fx, *rest = values
        fy, cx, cy = rest if model == "PINHOLE" else (fx, *rest)
        if not (math.isfinite(width) and math.isfinite(height)):
            raise LayoutError(f"{path}, line {number}: expected an image size, found {width} x {height}")
        cameras[words[0]] = camera_of(path, fx, fy, cx - 0.5, cy - 0.5, width, height)
    return cameras


FORMATS = {
    "7-scenes": Format(read_seven_scenes, "auto", "frame-*.color.png, .depth.png, .pose.txt"),
    "tum": Format(read_tum, "z", "rgb.txt, depth.txt, groundtruth.txt"),
    "replica": Format(read_replica, "z", "results/, traj.txt, cam_params.json"),
    "open3d": Format(read_open3d, "auto", "color/, depth/, trajectory.log or .json, intrinsic.json"),
    "record3d": Format(read_record3d, "y", "metadata.json, rgb/, depth/"),
    "polycam": Format(read_polycam, "y", "keyframes/ with images/, cameras/, depth/"),
    "arkitscenes": Format(
        read_arkitscenes, "z", "lowres_wide/, lowres_depth/, lowres_wide_intrinsics/, lowres_wide.traj"
    ),
    "nerfstudio": Format(read_nerfstudio, "z", "transforms.json"),
    "colmap": Format(
        read_colmap, "auto", "cameras.txt, images.txt, points3D.txt, images/, depth/ or stereo/", read_colmap_points
    ),
}
"""The formats by name."""
