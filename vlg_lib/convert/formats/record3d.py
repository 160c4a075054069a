"""Record3D, an app for phones with a LiDAR, which records what Apple's ARKit
says.

ARKit's camera axes are right, up, backward, and its world has y up. Images lie
as the sensor does, so a phone held upright gives images that lie on their side:
the converter turns them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlg_lib.convert.formats.base import Found, Key, LeftOut, PosedImage
from vlg_lib.convert.parsing import (
    camera_of,
    images_in,
    json_object,
    number_of,
    numbered,
    numbers_of,
    order_remark,
)
from vlg_lib.data.files import existing
from vlg_lib.data.frames import LayoutError
from vlg_lib.geometry.poses import opengl_to_opencv, pose_from_quaternion
from vlg_lib.scene import Camera

_APP = "Record3D, its exports and public readers of them"
KEYS = (
    Key("w, h", "read", "size of the images", _APP),
    Key("K", "read", "3x3, column by column", _APP),
    Key(
        "perFrameIntrinsicCoeffs",
        "read",
        "fx fy cx cy of each pose; null or empty: K",
        _APP,
    ),
    Key("poses", "read", "qx qy qz qw x y z; pose N is of image N", _APP),
    Key("dw, dh", "read", "size of the depth in an .r3d", _APP),
    Key("rgb/N.jpg, .png", "read", "the images", _APP),
    Key("depth/N.png, N.exr", "read", "mm; metres (EXR)", _APP),
    Key("rgbd/N.jpg, N.depth", "read", "of an .r3d; LZFSE, metres", _APP),
    Key("rgbd/N.conf", "ignored", "all depth is taken", _APP),
    Key("initPose", "ignored", "poses say it", _APP),
    Key("fps, frameTimestamps", "ignored", "no geometry", _APP),
)
"""What ``metadata.json`` (in an .r3d: ``metadata``) says, and what lies
there."""


@dataclass(frozen=True)
class _Files:
    """Where an export keeps its parts."""

    metadata: Path
    colors: Path
    depths: Path
    depth_endings: tuple[str, ...]


def read_record3d(folder: Path) -> Iterator[Found]:
    """Record3D, its RGB-D export: ``metadata.json`` with K (column by column)
    and poses, quaternions x y z w and then x y z; or an ``.r3d``, unpacked:
    ``metadata`` and ``rgbd/``.

    Camera-to-world with ARKit's camera axes (right, up, backward) and y up.
    Image N has pose N, so images may be missing. Depth is that of the LiDAR,
    smaller than the images and registered to them: 16-bit PNG in mm, EXR or
    compressed floats (.r3d) in metres.
    """
    files = _files(folder)
    content = json_object(files.metadata)
    path = files.metadata
    colors = images_in(files.colors)
    shared = _shared_camera(path, content)
    poses = content.get("poses")
    if not isinstance(poses, list) or not poses:
        raise LayoutError(f"{path}: expected a list 'poses', one an image")
    by_pose = numbered(colors, len(poses))
    if by_pose is None:
        raise LayoutError(
            f"{path}: expected 'poses', one for each of the {len(colors)}"
            f" images in {files.colors.name}/ by the number in its name, found"
            f" {len(poses)}"
        )
    remark = order_remark(by_pose, files.colors)
    for color in sorted(set(colors) - set(by_pose.values())):
        yield LeftOut("missing pose", f"{color}: its name has no number")
    for i, entry in enumerate(poses):
        if i not in by_pose:
            yield LeftOut("missing image", f"{files.colors}: none of pose {i}")
        elif entry is None:
            yield LeftOut("missing pose", f"{path}: pose {i} is null")
        else:
            numbers = numbers_of(path, f"pose {i}", entry, 7)
            pose = pose_from_quaternion(numbers[:4], numbers[4:])
            yield PosedImage(
                by_pose[i].stem,
                by_pose[i],
                _depth(files, by_pose[i].stem),
                _camera(path, content, i, shared),
                opengl_to_opencv(pose),
                depth_size=_depth_size(path, content),
                remark=remark,
            )


def _files(folder: Path) -> _Files:
    if folder.is_file():
        raise LayoutError(
            f"{folder}: an .r3d is a zip archive: unpack it into a folder of"
            " its own (unzip FILE -d FOLDER) and give the folder"
        )
    plain, packed = folder / "metadata.json", folder / "metadata"
    if packed.is_file() and not plain.is_file():
        rgbd = folder / "rgbd"
        return _Files(packed, rgbd, rgbd, (".depth",))
    return _Files(plain, folder / "rgb", folder / "depth", (".png", ".exr"))


def _shared_camera(path: Path, content: dict[str, Any]) -> Camera:
    width, height = (number_of(path, key, content.get(key)) for key in "wh")
    # column by column
    k = numbers_of(path, "K", content.get("K"), 9)
    return camera_of(path, k[0], k[4], k[6], k[7], width, height)


def _camera(
    path: Path, content: dict[str, Any], i: int, shared: Camera
) -> Camera:
    """The camera of a pose: its own where the file has them, else that of
    all.
    """
    own = content.get("perFrameIntrinsicCoeffs")
    if not own:
        return shared
    poses = len(content["poses"])
    if not isinstance(own, list) or len(own) != poses:
        raise LayoutError(
            f"{path}: expected perFrameIntrinsicCoeffs to be {poses} entries,"
            " one a pose"
        )
    what = f"perFrameIntrinsicCoeffs {i}"
    fx, fy, cx, cy = numbers_of(path, what, own[i], 4)
    return camera_of(path, fx, fy, cx, cy, shared.width, shared.height)


def _depth(files: _Files, name: str) -> Path | None:
    """The depth image of a name; None where the scan has none at all."""
    first = files.depth_endings[0]
    path = existing(files.depths / f"{name}{first}", files.depth_endings)
    return path if files.depths.is_dir() else None


def _depth_size(path: Path, content: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the depth of an .r3d, which only its metadata say."""
    if content.get("dw") is None or content.get("dh") is None:
        return None
    height, width = (number_of(path, key, content[key]) for key in ("dh", "dw"))
    if not (0 < height <= 65536 and 0 < width <= 65536):
        raise LayoutError(
            f"{path}: expected dw and dh to be a size, found {width:g} x"
            f" {height:g}"
        )
    return int(height), int(width)
