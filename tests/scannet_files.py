"""ScanNet files written byte by byte, without the readers: .sens streams,
meshes in PLY, annotations, SCENE.txt."""

import io
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from small_scene import floor_color, floor_frame

from vlg_lib.geometry.cameras import resize_camera
from vlg_lib.scene import Camera

COLORS = {"raw": 0, "png": 1, "jpeg": 2}
DEPTHS = {"raw_ushort": 0, "zlib_ushort": 1}
LOST = np.full((4, 4), -np.inf)
DEPTH_CAMERA = Camera(20.0, 21.0, 15.25, 11.75, 32, 24)
COLOR_CAMERA = resize_camera(DEPTH_CAMERA, 64, 48)
ALIGNMENT = np.array(
    [[0.6, -0.8, 0, 1], [0.8, 0.6, 0, 2], [0, 0, 1, 0.5], [0, 0, 0, 1]]
)
# wall, floor, two without a class, other, not annotated
CLASSES = [1, 2, 13, 40, 39, 0]
INDICES = [0, 1, -1, -1, 19, -1]
POINTS = np.array([[0.1 * i, 0.05 * i, 0.0] for i in range(6)], np.float32)


def matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array(
        [[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float
    )


def pack_color(color: np.ndarray, kind: str) -> bytes:
    if kind == "raw":
        return color.tobytes()
    buffer = io.BytesIO()
    Image.fromarray(color).save(
        buffer,
        kind,
        **({"quality": 95, "subsampling": 0} if kind == "jpeg" else {}),
    )
    return buffer.getvalue()


def pack_depth(codes: np.ndarray, kind: str) -> bytes:
    data = b"".join(struct.pack("<H", code) for code in codes.ravel().tolist())
    return zlib.compress(data) if kind == "zlib_ushort" else data


def sens_bytes(
    frames: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    color_matrix: np.ndarray,
    depth_matrix: np.ndarray,
    *,
    color_kind: str = "png",
    depth_kind: str = "zlib_ushort",
    depth_shift: float = 1000.0,
    version: int = 4,
    name: bytes = b"StructureSensor",
    extrinsic: np.ndarray | None = None,
    imu: int | None = 3,
) -> bytes:
    """A whole stream of (pose, colour, depth codes); ``imu`` measurements at
    its end, None for no such part."""
    out = [struct.pack("<I", version), struct.pack("<Q", len(name)), name]
    for each in (
        color_matrix,
        np.eye(4),
        depth_matrix,
        np.eye(4) if extrinsic is None else extrinsic,
    ):
        out.append(struct.pack("<16f", *each.ravel()))
    (height, width), (rows, columns) = (
        frames[0][1].shape[:2],
        frames[0][2].shape,
    )
    out.append(
        struct.pack(
            "<iiIIIIf",
            COLORS[color_kind],
            DEPTHS[depth_kind],
            width,
            height,
            columns,
            rows,
            depth_shift,
        )
    )
    out.append(struct.pack("<Q", len(frames)))
    for number, (pose, color, codes) in enumerate(frames):
        packed = pack_color(color, color_kind), pack_depth(codes, depth_kind)
        out.append(struct.pack("<16f", *np.asarray(pose, float).ravel()))
        out.append(
            struct.pack(
                "<QQQQ",
                1000 + number,
                2000 + number,
                len(packed[0]),
                len(packed[1]),
            )
        )
        out.extend(packed)
    if imu is not None:
        out.append(
            struct.pack("<Q", imu)
            + b"".join(struct.pack("<15dQ", *range(15), i) for i in range(imu))
        )
    return b"".join(out)


def mesh_bytes(
    points: np.ndarray,
    colors: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    ascii: bool = False,
) -> bytes:
    """A mesh as ScanNet stores it: alpha beside the colours, a label (ushort)
    in label files, triangles after."""
    faces = [(0, 1, 2)] if len(points) > 2 else []
    header = [
        "ply",
        f"format {'ascii' if ascii else 'binary_little_endian'} 1.0",
        "comment VCGLIB generated",
        f"element vertex {len(points)}",
        "property float x",
        "property float y",
        "property float z",
        "property uchar red",
        "property uchar green",
        "property uchar blue",
        "property uchar alpha",
    ]
    header += ["property ushort label"] if labels is not None else []
    header += [
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    rows = [
        [*point, *color, 255]
        for point, color in zip(points.tolist(), colors.tolist(), strict=True)
    ]
    if labels is not None:
        rows = [
            [*row, label]
            for row, label in zip(rows, labels.tolist(), strict=True)
        ]
    head = ("\n".join(header) + "\n").encode()
    if ascii:
        body = [" ".join(repr(number) for number in row) for row in rows] + [
            "3 " + " ".join(map(str, f)) for f in faces
        ]
        return head + ("\n".join(body) + "\n").encode()
    kind = "<fffBBBB" + ("H" if labels is not None else "")
    return (
        head
        + b"".join(struct.pack(kind, *row) for row in rows)
        + b"".join(struct.pack("<Biii", 3, *f) for f in faces)
    )


def info_text(alignment: np.ndarray | None) -> str:
    rows = ["colorHeight = 968", "sceneType = Office"]
    if alignment is not None:
        rows.insert(
            0,
            "axisAlignment = "
            + " ".join(f"{number:.6f}" for number in alignment.ravel())
            + " ",
        )
    return "\n".join(rows) + "\n"


def write_annotations(
    folder: Path,
    groups: Sequence[tuple[str, Sequence[int]]],
    segments: Sequence[int],
) -> None:
    """The two JSON files of a scene: words over groups of segments, and the
    segment of each vertex."""
    name = folder.name
    seg_groups = [
        {"id": i, "objectId": i, "segments": list(ids), "label": word}
        for i, (word, ids) in enumerate(groups)
    ]
    (folder / f"{name}.aggregation.json").write_text(
        json.dumps(
            {
                "sceneId": f"scannet.{name}",
                "segGroups": seg_groups,
                "segmentsFile": "x",
            }
        )
    )
    (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(
        json.dumps(
            {
                "params": {"kThresh": "0.0001"},
                "sceneId": name,
                "segIndices": list(segments),
            }
        )
    )


def write_tsv(path: Path, rows: Sequence[tuple[str, int]]) -> Path:
    lines = [
        "id\traw_category\tcategory\tcount\tnyu40id\teigen13id\tnyu40class"
    ]
    lines += [
        f"{i}\t{word}\t{word}\t7\t{number}\t5\tx"
        for i, (word, number) in enumerate(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_exported(
    folder: Path,
    frames: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
    color_matrix: np.ndarray,
    depth_matrix: np.ndarray,
    suffix: str = ".png",
) -> Path:
    """Frames (name, pose, colour, codes) as ScanNet's exporter leaves them."""
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, pose, color, codes in frames:
        Image.fromarray(color).save(folder / "color" / f"{name}{suffix}")
        Image.fromarray(codes.astype(np.uint16)).save(
            folder / "depth" / f"{name}.png"
        )
        np.savetxt(folder / "pose" / f"{name}.txt", pose, fmt="%.9g")
    for what, each in (("color", color_matrix), ("depth", depth_matrix)):
        np.savetxt(
            folder / "intrinsic" / f"intrinsic_{what}.txt", each, fmt="%.9g"
        )
    return folder


def camera_matrix(camera: Camera) -> np.ndarray:
    return matrix(camera.fx, camera.fy, camera.cx, camera.cy)


def floor_shots(
    count: int = 5,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(pose, colour at 64 x 48, depth codes at 32 x 24) of cameras that look
    down on a coloured floor."""
    shots = []
    for i in range(count):
        at = 0.2 * i, 0.1 * i, 2.0
        color, depth = (
            floor_frame(str(i), *at, COLOR_CAMERA),
            floor_frame(str(i), *at, DEPTH_CAMERA),
        )
        codes = np.rint(depth.depth.numpy() * 1000).astype(np.uint16)
        codes[0, :3] = 0, 65535, 1234 + i
        shots.append(
            (color.camera_to_world.numpy(), color.color.numpy(), codes)
        )
    return shots


def write_scan(
    scans: Path,
    name: str = "scene0000_00",
    shots: list | None = None,
    *,
    labels: bool = True,
    **options,
) -> Path:
    """A scene folder with a mesh, labels, SCENE.txt and a .sens file."""
    folder = scans / name
    folder.mkdir(parents=True)
    colors = floor_color(
        torch.tensor(POINTS[:, 0]), torch.tensor(POINTS[:, 1])
    ).numpy()
    (folder / f"{name}_vh_clean_2.ply").write_bytes(mesh_bytes(POINTS, colors))
    if labels:
        (folder / f"{name}_vh_clean_2.labels.ply").write_bytes(
            mesh_bytes(POINTS, colors, np.array(CLASSES))
        )
    (folder / f"{name}.txt").write_text(info_text(ALIGNMENT))
    stream = sens_bytes(
        shots or floor_shots(),
        camera_matrix(COLOR_CAMERA),
        camera_matrix(DEPTH_CAMERA),
        **options,
    )
    (folder / f"{name}.sens").write_bytes(stream)
    return folder
