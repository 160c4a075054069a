"""Record3D, an app for phones with a LiDAR, which records what Apple's ARKit
says.

ARKit's camera axes are right, up, backward, and its world has y up. Images lie
as the sensor does, so a phone held upright gives images that lie on their side:
the converter turns them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlg_lib.convert.formats.base import PosedImage
from vlg_lib.convert.parsing import (
    camera_of,
    images_in,
    json_object,
    number_of,
    numbers_of,
)
from vlg_lib.data.frames import LayoutError
from vlg_lib.geometry.poses import opengl_to_opencv, pose_from_quaternion
from vlg_lib.scene import Camera


def read_record3d(folder: Path) -> Iterator[PosedImage]:
    """Record3D, its RGB-D export: ``metadata.json`` with K (column by column)
    and poses, quaternions x y z w and then x y z.

    Camera-to-world with ARKit's camera axes (right, up, backward) and y up.
    Depth is that of the LiDAR, smaller than the images and registered to them:
    16-bit PNG in mm.
    """
    path = folder / "metadata.json"
    content = json_object(path)
    colors = images_in(folder / "rgb")
    cameras = _cameras(path, content, len(colors))
    poses = content.get("poses")
    if not isinstance(poses, list) or len(poses) != len(colors):
        raise LayoutError(
            f"{path}: expected 'poses', one for each of the {len(colors)}"
            " images in rgb/"
        )
    for i, (color, entry) in enumerate(zip(colors, poses, strict=True)):
        numbers = numbers_of(path, f"pose {i}", entry, 7)
        pose = pose_from_quaternion(numbers[:4], numbers[4:])
        yield PosedImage(
            color.stem,
            color,
            _depth(folder / "depth", color.stem),
            cameras[i],
            opengl_to_opencv(pose),
        )


def _cameras(path: Path, content: dict[str, Any], images: int) -> list[Camera]:
    """A camera for each image: that of all, or its own where the file has
    them.
    """
    width, height = (number_of(path, key, content.get(key)) for key in "wh")
    own = content.get("perFrameIntrinsicCoeffs")
    # column by column
    k = numbers_of(path, "K", content.get("K"), 9)
    shared = camera_of(path, k[0], k[4], k[6], k[7], width, height)
    if not isinstance(own, list) or len(own) != images:
        return [shared] * images
    cameras = []
    for i, entry in enumerate(own):
        what = f"perFrameIntrinsicCoeffs {i}"
        fx, fy, cx, cy = numbers_of(path, what, entry, 4)
        cameras.append(camera_of(path, fx, fy, cx, cy, width, height))
    return cameras


def _depth(folder: Path, name: str) -> Path | None:
    """The depth image of a name; None where the scan has none at all."""
    depth, raw = folder / f"{name}.png", folder / f"{name}.exr"
    if raw.is_file() and not depth.is_file():
        raise LayoutError(
            f"{raw}: convert depth to 16-bit PNG in millimetres, beside it"
        )
    return depth if folder.is_dir() else None
