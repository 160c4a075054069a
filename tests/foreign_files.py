"""Writers of foreign scan formats, from their documentation and without the
readers: what the converters are tested on.

Each takes a folder and frames (the library's conventions: camera-to-world,
right, down, forward, pixel centres at integers) and writes them as the format
has them."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vlg_lib.scene import Frame

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def quaternion(rotation: np.ndarray) -> list[float]:
    """w, x, y, z of a rotation, by the largest of the four (Shepperd's
    method)."""
    r = rotation
    squares = np.array(
        [
            1 + r[0, 0] + r[1, 1] + r[2, 2],
            1 + r[0, 0] - r[1, 1] - r[2, 2],
            1 - r[0, 0] + r[1, 1] - r[2, 2],
            1 - r[0, 0] - r[1, 1] + r[2, 2],
        ]
    )
    largest = int(squares.argmax())
    products = {
        0: [
            squares[0],
            r[2, 1] - r[1, 2],
            r[0, 2] - r[2, 0],
            r[1, 0] - r[0, 1],
        ],
        1: [
            r[2, 1] - r[1, 2],
            squares[1],
            r[1, 0] + r[0, 1],
            r[0, 2] + r[2, 0],
        ],
        2: [
            r[0, 2] - r[2, 0],
            r[1, 0] + r[0, 1],
            squares[2],
            r[2, 1] + r[1, 2],
        ],
        3: [
            r[1, 0] - r[0, 1],
            r[0, 2] + r[2, 0],
            r[2, 1] + r[1, 2],
            squares[3],
        ],
    }[largest]
    return [
        float(entry)
        for entry in np.array(products) / (2 * np.sqrt(squares[largest]))
    ]


def save_color(path: Path, frame: Frame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame.color.numpy()).save(path)


def save_depth(path: Path, frame: Frame, scale: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    codes = np.rint(frame.depth.numpy().astype(np.float64) * scale).astype(
        np.uint16
    )
    Image.fromarray(codes).save(path)


def pose_of(frame: Frame) -> np.ndarray:
    return frame.camera_to_world.double().numpy()


def write_seven_scenes(folder: Path, frames: Sequence[Frame]) -> float:
    for i, frame in enumerate(frames):
        save_color(folder / f"frame-{i:06d}.color.png", frame)
        save_depth(folder / f"frame-{i:06d}.depth.png", frame, 1000)
        np.savetxt(
            folder / f"frame-{i:06d}.pose.txt",
            pose_of(frame),
            delimiter="\t",
            fmt="%.10e",
        )
    return 1000.0


def write_bundlefusion(folder: Path, frames: Sequence[Frame]) -> float:
    """The names of 7-Scenes, and ``info.txt`` with a camera of its own."""
    write_seven_scenes(folder, frames)
    camera = frames[0].camera
    k = [camera.fx, 0, camera.cx, 0, 0, camera.fy, camera.cy, 0]
    words = " ".join(str(v) for v in [*k, 0, 0, 1, 0, 0, 0, 0, 1])
    identity = "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"
    (folder / "info.txt").write_text(
        "m_versionNumber = 4\nm_sensorName = Kinect\n"
        f"m_colorWidth = {camera.width}\nm_colorHeight = {camera.height}\n"
        f"m_depthWidth = {camera.width}\nm_depthHeight = {camera.height}\n"
        "m_depthShift = 1000\n"
        f"m_calibrationColorIntrinsic = {words}\n"
        f"m_calibrationColorExtrinsic = {identity}\n"
        f"m_calibrationDepthIntrinsic = {words}\n"
        f"m_calibrationDepthExtrinsic = {identity}\n"
        f"m_frames.size = {len(frames)}\n"
    )
    return 1000.0


def write_eth3d(folder: Path, frames: Sequence[Frame]) -> float:
    """The form of TUM, and ``calibration.txt``: fx fy cx cy."""
    camera = frames[0].camera
    (folder / "calibration.txt").write_text(
        f"{camera.fx} {camera.fy} {camera.cx} {camera.cy}\n"
    )
    return write_tum(folder, frames)


def write_tum(folder: Path, frames: Sequence[Frame]) -> float:
    """Depth comes 8 ms after colour; poses come at 100 Hz, and between them
    others that belong to no image."""
    lists: dict[str, list[str]] = {
        "rgb": ["# color images"],
        "depth": ["# depth maps"],
        "groundtruth": ["# poses"],
    }
    for i, frame in enumerate(frames):
        time = 1305031102.175304 + 0.1 * i
        save_color(folder / f"rgb/{time:.6f}.png", frame)
        save_depth(folder / f"depth/{time + 0.008:.6f}.png", frame, 5000)
        lists["rgb"].append(f"{time:.6f} rgb/{time:.6f}.png")
        lists["depth"].append(
            f"{time + 0.008:.6f} depth/{time + 0.008:.6f}.png"
        )
        w, x, y, z = quaternion(pose_of(frame)[:3, :3])
        position = " ".join(f"{v:.12f}" for v in pose_of(frame)[:3, 3])
        lists["groundtruth"].append(f"{time - 0.01:.4f} 9 9 9 0 0 0 1")
        lists["groundtruth"].append(
            f"{time + 0.001:.4f} {position} {x:.12f} {y:.12f} {z:.12f} {w:.12f}"
        )
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return 5000.0


def write_replica(folder: Path, frames: Sequence[Frame]) -> float:
    camera, scale = frames[0].camera, 6553.5
    values = {
        "w": camera.width,
        "h": camera.height,
        "fx": camera.fx,
        "fy": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "scale": scale,
    }
    for i, frame in enumerate(frames):
        save_color(folder / f"results/frame{i:06d}.png", frame)
        save_depth(folder / f"results/depth{i:06d}.png", frame, scale)
    (folder / "traj.txt").write_text(
        "".join(
            " ".join(f"{v:.18e}" for v in pose_of(f).ravel()) + "\n"
            for f in frames
        )
    )
    (folder.parent / "cam_params.json").write_text(
        json.dumps({"camera": values})
    )
    return scale


def _open3d_intrinsic(frame: Frame) -> dict:
    camera = frame.camera
    columns = [camera.fx, 0, 0, 0, camera.fy, 0, camera.cx, camera.cy, 1]
    return {
        "width": camera.width,
        "height": camera.height,
        "intrinsic_matrix": columns,
    }


def write_open3d_log(folder: Path, frames: Sequence[Frame]) -> float:
    text = ""
    for i, frame in enumerate(frames):
        save_color(folder / f"color/{i:05d}.png", frame)
        save_depth(folder / f"depth/{i:05d}.png", frame, 1000)
        text += f"{i} {i} {i + 1}\n" + "".join(
            " ".join(f"{v:.12f}" for v in row) + "\n" for row in pose_of(frame)
        )
    (folder / "trajectory.log").write_text(text)
    (folder / "intrinsic.json").write_text(
        json.dumps(_open3d_intrinsic(frames[0]))
    )
    return 1000.0


def write_open3d_json(folder: Path, frames: Sequence[Frame]) -> float:
    parameters = []
    for i, frame in enumerate(frames):
        save_color(folder / f"image/{i}.png", frame)
        save_depth(folder / f"depth/{i}.png", frame, 1000)
        extrinsic = np.linalg.inv(pose_of(frame)).ravel(order="F").tolist()
        parameters.append(
            {
                "class_name": "PinholeCameraParameters",
                "extrinsic": extrinsic,
                "intrinsic": _open3d_intrinsic(frame),
            }
        )
    content = {
        "class_name": "PinholeCameraTrajectory",
        "parameters": parameters,
    }
    (folder / "trajectory.json").write_text(json.dumps(content))
    return 1000.0


Y_UP = np.array([[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""From the library's world to ARKit's: x, y, z of ours are its z, x, y."""


def write_record3d(folder: Path, frames: Sequence[Frame]) -> float:
    camera, poses = frames[0].camera, []
    for i, frame in enumerate(frames):
        save_color(folder / f"rgb/{i}.png", frame)
        save_depth(folder / f"depth/{i}.png", frame, 1000)
        pose = Y_UP @ pose_of(frame) @ FLIP
        w, x, y, z = quaternion(pose[:3, :3])
        poses.append([x, y, z, w, *pose[:3, 3].tolist()])
    k = [camera.fx, 0, 0, 0, camera.fy, 0, camera.cx, camera.cy, 1]
    content = {
        "w": camera.width,
        "h": camera.height,
        "fps": 60,
        "K": k,
        "poses": poses,
    }
    (folder / "metadata.json").write_text(json.dumps(content))
    return 1000.0


def write_polycam(
    folder: Path, frames: Sequence[Frame], *, corrected: bool = False
) -> float:
    """Names are time stamps. ``corrected``: better poses in folders of their
    own; the first ones are off by a metre."""
    for i, frame in enumerate(frames):
        camera, pose, name = (
            frame.camera,
            Y_UP @ pose_of(frame) @ FLIP,
            f"{262195552056 + 33 * i}",
        )
        values = {
            "fx": camera.fx,
            "fy": camera.fy,
            "cx": camera.cx,
            "cy": camera.cy,
            "width": camera.width,
            "height": camera.height,
            "blur_score": 165.6,
            "timestamp": 262195552056 + 33 * i,
        }
        save_depth(folder / f"keyframes/depth/{name}.png", frame, 1000)
        for prefix, shift in (
            (("corrected_", 0.0), ("", 1.0)) if corrected else (("", 0.0),)
        ):
            save_color(folder / f"keyframes/{prefix}images/{name}.png", frame)
            entries = {
                f"t_{r}{c}": pose[r, c] + shift * (c == 3)
                for r in range(3)
                for c in range(4)
            }
            path = folder / f"keyframes/{prefix}cameras/{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values | entries))
    return 1000.0


def write_arkitscenes(folder: Path, frames: Sequence[Frame]) -> float:
    """Poses 3 ms off the images, cameras 1 ms; axis and angle from the
    quaternion by hand."""
    inner, lines = folder / "41254925_frames", []
    (inner / "lowres_wide_intrinsics").mkdir(parents=True)
    for i, frame in enumerate(frames):
        camera, time, inverse = (
            frame.camera,
            3244.123 + 0.1 * i,
            np.linalg.inv(pose_of(frame)),
        )
        save_color(inner / f"lowres_wide/41254925_{time:.3f}.png", frame)
        save_depth(inner / f"lowres_depth/41254925_{time:.3f}.png", frame, 1000)
        numbers = (
            camera.width,
            camera.height,
            camera.fx,
            camera.fy,
            camera.cx,
            camera.cy,
        )
        pincam = (
            inner / f"lowres_wide_intrinsics/41254925_{time - 0.001:.3f}.pincam"
        )
        pincam.write_bytes(
            " ".join(f"{v:.17g}" for v in numbers).encode() + b"\n"
        )
        w, *axis = quaternion(inverse[:3, :3])
        length = float(np.linalg.norm(axis))
        angle = 2 * float(np.arctan2(length, w))
        rotation = [angle * part / length if length else 0.0 for part in axis]
        lines.append(
            " ".join(
                f"{v:.12f}" for v in (time + 0.003, *rotation, *inverse[:3, 3])
            )
            + "\n"
        )
    (inner / "lowres_wide.traj").write_bytes("".join(lines).encode())
    return 1000.0


def write_nerfstudio(
    folder: Path, frames: Sequence[Frame], *, per_frame: bool = False
) -> float:
    """The middle of the first pixel is at 1/2."""
    listed = []
    for i, frame in enumerate(frames):
        save_color(folder / f"images/f{i}.png", frame)
        save_depth(folder / f"depths/f{i}.png", frame, 1000)
        entry = {
            "file_path": f"images/f{i}.png",
            "depth_file_path": f"depths/f{i}.png",
            "transform_matrix": (pose_of(frame) @ FLIP).tolist(),
        }
        listed.append(entry | (_nerf_camera(frame) if per_frame else {}))
    content = {"camera_model": "OPENCV", "k1": 0.0, "frames": listed} | (
        {} if per_frame else _nerf_camera(frames[0])
    )
    (folder / "transforms.json").write_text(json.dumps(content))
    return 1000.0


def _nerf_camera(frame: Frame) -> dict:
    camera = frame.camera
    return {
        "fl_x": camera.fx,
        "fl_y": camera.fy,
        "cx": camera.cx + 0.5,
        "cy": camera.cy + 0.5,
        "w": camera.width,
        "h": camera.height,
    }


def write_colmap(
    folder: Path, frames: Sequence[Frame], *, simple: bool = False
) -> float:
    """World-to-camera; the middle of the first pixel is at 1/2; the second line
    of an image is empty or 2D points."""
    camera, model = frames[0].camera, folder / "sparse" / "0"
    model.mkdir(parents=True)
    kind = (
        f"SIMPLE_PINHOLE {camera.width} {camera.height} {camera.fx:.17g}"
        if simple
        else (
            f"PINHOLE {camera.width} {camera.height} {camera.fx:.17g}"
            f" {camera.fy:.17g}"
        )
    )
    (model / "cameras.txt").write_text(
        f"# Camera list\n7 {kind} {camera.cx + 0.5:.17g}"
        f" {camera.cy + 0.5:.17g}\n"
    )
    text = "# Image list with two lines of data per image:\n"
    for i, frame in enumerate(frames):
        save_color(folder / f"images/f{i}.png", frame)
        save_depth(folder / f"depth/f{i}.png", frame, 1000)
        inverse = np.linalg.inv(pose_of(frame))
        numbers = [*quaternion(inverse[:3, :3]), *inverse[:3, 3]]
        text += (
            f"{i + 1} {' '.join(f'{v:.12f}' for v in numbers)} 7 f{i}.png\n"
            + "\n" * (i % 2)
            + "1.5 2.5 -1\n" * (1 - i % 2)
        )
    (model / "images.txt").write_text(text)
    points = "".join(
        f"{i} {i * 0.5} 1.0 -2.0 {i} 20 30 0.1 1 0 2 1\n" for i in range(1, 5)
    )
    (model / "points3D.txt").write_text("# 3D point list\n" + points)
    return 1000.0


def write_colmap_binary(folder: Path, frames: Sequence[Frame]) -> float:
    """The same model in ``.bin`` files: a count, then records, little-endian;
    each second image has 2D points."""
    write_colmap(folder, frames)
    camera, model = frames[0].camera, folder / "sparse" / "0"
    for name in ("cameras", "images", "points3D"):
        (model / f"{name}.txt").unlink()
    focal = (camera.fx, camera.fy, camera.cx + 0.5, camera.cy + 0.5)
    (model / "cameras.bin").write_bytes(
        struct.pack("<Q", 1)
        + struct.pack("<IiQQ", 7, 1, camera.width, camera.height)
        + struct.pack("<4d", *focal)
    )
    content = struct.pack("<Q", len(frames))
    for i, frame in enumerate(frames):
        inverse = np.linalg.inv(pose_of(frame))
        numbers = [*quaternion(inverse[:3, :3]), *inverse[:3, 3]]
        content += struct.pack("<I7dI", i + 1, *numbers, 7)
        content += f"f{i}.png".encode() + b"\0"
        seen = [(1.5, 2.5, -1), (3.5, 4.5, 2)] if i % 2 else []
        content += struct.pack("<Q", len(seen))
        for point in seen:
            content += struct.pack("<ddq", *point)
    (model / "images.bin").write_bytes(content)
    content = struct.pack("<Q", 4)
    for i in range(1, 5):
        content += struct.pack("<Q3d3Bd", i, i * 0.5, 1, -2, i, 20, 30, 0.1)
        content += struct.pack("<Q2I", 1, 2, 1)
    (model / "points3D.bin").write_bytes(content)
    return 1000.0


def write_colmap_dense(folder: Path, frames: Sequence[Frame]) -> float:
    """The workspace of the dense stage: depth as float32 in
    ``stereo/depth_maps``, and nothing in ``depth/``."""
    write_colmap(folder, frames)
    maps = folder / "stereo" / "depth_maps"
    maps.mkdir(parents=True)
    for i, frame in enumerate(frames):
        (folder / f"depth/f{i}.png").unlink()
        thousandths = (
            np.rint(frame.depth.numpy().astype(np.float64) * 1000) / 1000
        )
        height, width = thousandths.shape
        numbers = [
            struct.pack("<f", value)
            for row in thousandths.tolist()
            for value in row
        ]
        (maps / f"f{i}.png.geometric.bin").write_bytes(
            f"{width}&{height}&1&".encode() + b"".join(numbers)
        )
    (folder / "depth").rmdir()
    return 1000.0
