"""S3DIS and 2D-3D-S files written without the readers: text of points, pose
JSON, colour and depth images."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# From the world of area_5b to that of area_5a, written out by hand: x' = y -
# 4.09703582, y' = 6.22617759 - x, z' = z.
FROM_5B = np.array(
    [[0, 1, 0, -4.09703582], [-1, 0, 0, 6.22617759], [0, 0, 1, 0], [0, 0, 0, 1]]
)


def text_of(points: np.ndarray, colors: np.ndarray) -> bytes:
    rows = zip(points.tolist(), colors.tolist(), strict=True)
    return "".join(
        f"{x:.3f} {y:.3f} {z:.3f} {r} {g} {b}\n"
        for (x, y, z), (r, g, b) in rows
    ).encode()


def write_room(
    folder: Path,
    objects: Sequence[tuple[str, np.ndarray, np.ndarray]],
    annotations: bool = True,
) -> Path:
    """A room's own file and, object by object, its Annotations."""
    (folder / "Annotations").mkdir(parents=True)
    everything = b"".join(
        text_of(points, colors) for _, points, colors in objects
    )
    (folder / f"{folder.name}.txt").write_bytes(everything)
    for name, points, colors in objects if annotations else ():
        (folder / "Annotations" / f"{name}.txt").write_bytes(
            text_of(points, colors)
        )
    return folder


def write_view(
    area: Path,
    uuid: str,
    room: str,
    number: int,
    camera_to_world: np.ndarray,
    camera_matrix: np.ndarray,
    color: np.ndarray,
    depth: np.ndarray,
    **changes: object,
) -> Path:
    """One image of 2D-3D-S: depth in metres, 0 = missing; ``changes`` to the
    JSON. Returns the pose file."""
    for part in ("pose", "rgb", "depth"):
        (area / "data" / part).mkdir(parents=True, exist_ok=True)
    stem = f"camera_{uuid}_{room}_frame_{number}_domain_"
    rotation, position = camera_to_world[:3, :3], camera_to_world[:3, 3]
    world_to_camera = np.concatenate(
        [rotation.T, -(rotation.T @ position)[:, None]], axis=1
    )
    pose = {
        "camera_k_matrix": camera_matrix.tolist(),
        "field_of_view_rads": 1.0,
        "frame_num": str(number),
        "camera_original_rotation": [0.0, 0.0, 0.0],
        "rotation_from_original_to_point": [0.0, 0.0, 0.0],
        "point_uuid": uuid,
        "camera_uuid": uuid,
        "camera_location": position.tolist(),
        "camera_rt_matrix": world_to_camera.tolist(),
        "room": f"{room}_{area.name.removeprefix('area_')}",
    }
    codes = np.where(depth > 0, np.rint(depth * 512), 65535).astype(np.uint16)
    Image.fromarray(color).save(area / "data" / "rgb" / f"{stem}rgb.png")
    Image.fromarray(codes).save(area / "data" / "depth" / f"{stem}depth.png")
    path = area / "data" / "pose" / f"{stem}pose.json"
    path.write_text(json.dumps(pose | changes))
    return path
