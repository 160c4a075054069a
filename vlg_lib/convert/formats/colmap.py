"""COLMAP's models, text or binary, with their images and depth."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vlg_lib.convert.formats.base import Found, Key, LeftOut, PosedImage
from vlg_lib.convert.formats.colmap_model import (
    ModelCamera,
    ModelImage,
    read_cameras,
    read_images,
    read_points,
)
from vlg_lib.convert.parsing import camera_of, file_inside
from vlg_lib.data.files import existing
from vlg_lib.data.frames import COLOR_SUFFIXES, LayoutError
from vlg_lib.geometry.poses import inverse, pose_from_quaternion
from vlg_lib.scene import Camera

_PAGE = "COLMAP, doc/format.rst"
KEYS = (
    Key("cameras.txt, .bin", "read", "PINHOLE and SIMPLE_PINHOLE", _PAGE),
    Key(
        "other camera models",
        "refused",
        "run colmap image_undistorter first",
        _PAGE,
    ),
    Key("images.txt, .bin", "read", "pose, camera, name", _PAGE),
    Key("POINTS2D", "ignored", "the second line, which may lack", _PAGE),
    Key("points3D.txt, .bin", "read", "points where no depth is", _PAGE),
    Key("ERROR, TRACK", "ignored", "of a point", _PAGE),
    Key(
        "rigs.txt, frames.txt, .bin",
        "ignored",
        "images carry whole poses",
        _PAGE,
    ),
    Key("both text and binary", "read", "the binary, as COLMAP does", _PAGE),
    Key("depth/NAME.png", "read", "1/1000 units; not COLMAP's own", ""),
    Key(
        "stereo/depth_maps/NAME.geometric.bin",
        "read",
        "units of the model",
        _PAGE,
    ),
    Key(
        "stereo/depth_maps/NAME.photometric.bin",
        "read",
        "where no image has a geometric one; noisier",
        _PAGE,
    ),
    Key("normal_maps, consistency_graphs", "ignored", "no depth", _PAGE),
)
"""What lies in such a folder."""


def read_colmap(folder: Path) -> Iterator[Found]:
    """COLMAP's model (``cameras.txt``, ``images.txt``, or ``.bin``, here or in
    ``sparse/`` or ``sparse/0``), images, depth.

    World-to-camera quaternions w x y z, camera axes right, down, forward; the
    middle of the first pixel is at 1/2; a unit of its own, which ``depth/``
    must share (16-bit PNG of the images' names, 1/1000 units). Without it, the
    depth maps of the dense stage are taken from ``stereo/depth_maps`` where
    they are: the geometric ones, or the photometric ones where no image has
    another. Cameras with distortion are refused.
    """
    model = _model_folder(folder)
    cameras = {
        key: _camera(camera) for key, camera in read_cameras(model).items()
    }
    maps = folder / "stereo" / "depth_maps"
    kind = "geometric"
    if not any(maps.rglob("*.geometric.bin")) and any(
        maps.rglob("*.photometric.bin")
    ):
        kind = "photometric"
    for image in read_images(model):
        if image.error:
            yield LeftOut("unreadable line", image.error)
        elif image.camera not in cameras:
            yield LeftOut(
                "missing camera",
                f"{image.where}: expected a camera of the model, found"
                f" {image.camera}",
            )
        else:
            yield _image(folder, image, cameras[image.camera], kind)


def _image(
    folder: Path, image: ModelImage, camera: Camera, kind: str
) -> PosedImage:
    path = Path(image.where.partition(", line ")[0])
    name = image.name.replace("\\", "/")
    color = existing(file_inside(folder / "images", name, path), COLOR_SUFFIXES)
    qw, qx, qy, qz = image.numbers[:4]
    pose = pose_from_quaternion((qx, qy, qz, qw), image.numbers[4:7])
    depth = _depth(folder, name, kind, path)
    remark = ""
    if depth is not None and kind == "photometric" and depth.suffix == ".bin":
        remark = (
            f"{folder}: its depth maps are photometric, with outliers; colmap"
            " patch_match_stereo --PatchMatchStereo.geom_consistency true"
            " makes better ones"
        )
    return PosedImage(
        str(Path(name).with_suffix("")).replace("/", "_"),
        color,
        depth,
        camera,
        inverse(pose),
        remark=remark,
    )


def _depth(folder: Path, name: str, kind: str, path: Path) -> Path | None:
    """The depth image or depth map of an image; None where the model has
    none.
    """
    if (folder / "depth").is_dir():
        depth = file_inside(folder / "depth", name, path).with_suffix(".png")
        return existing(depth, (".png",))
    maps = folder / "stereo" / "depth_maps"
    if maps.is_dir():
        return file_inside(maps, f"{name}.{kind}.bin", path)
    return None


def read_colmap_points(
    folder: Path,
) -> tuple[Float[Tensor, "N 3"], UInt8[Tensor, "N 3"]]:
    """The sparse points of a COLMAP model, ``points3D.txt`` or ``.bin``: (N, 3)
    float64 in its own unit and world, colours (N, 3) uint8.
    """
    model = _model_folder(folder)
    table = torch.tensor(read_points(model), dtype=torch.float64).view(-1, 6)
    if (
        len(table) == 0
        or not bool(table.isfinite().all())
        or bool(((table[:, 3:] < 0) | (table[:, 3:] > 255)).any())
    ):
        raise LayoutError(
            f"{model / 'points3D.txt'} or .bin: expected points, x y z and red"
            f" green blue (0 to 255), found {len(table)} rows"
        )
    return table[:, :3], table[:, 3:].to(torch.uint8)


def _model_folder(folder: Path) -> Path:
    places = (folder, folder / "sparse", folder / "sparse/0")
    names = ("cameras.bin", "cameras.txt", "images.bin", "images.txt")
    return next(
        (p for p in places if any((p / name).is_file() for name in names)),
        folder,
    )


def _camera(camera: ModelCamera) -> Camera:
    model = camera.model
    if model not in ("PINHOLE", "SIMPLE_PINHOLE"):
        raise LayoutError(
            f"{camera.where}: a camera {model!r} with distortion; run colmap"
            " image_undistorter first"
        )
    count = 6 if model == "PINHOLE" else 5
    if len(camera.numbers) != count:
        raise LayoutError(
            f"{camera.where}: expected {count} numbers, found"
            f" {len(camera.numbers)}"
        )
    width, height, fx, *rest = camera.numbers
    fy, cx, cy = rest if model == "PINHOLE" else (fx, *rest)
    if not (math.isfinite(width) and math.isfinite(height)):
        raise LayoutError(
            f"{camera.where}: expected an image size, found {width} x {height}"
        )
    return camera_of(
        Path(camera.where), fx, fy, cx - 0.5, cy - 0.5, width, height
    )
