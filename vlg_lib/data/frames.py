"""The frames of a scene folder: colour images, 16-bit depth images, poses and
intrinsics, loaded when asked for.
"""

import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from vlg_lib.data.files import existing, files_in, read_text
from vlg_lib.geometry.poses import check_pose
from vlg_lib.scene import Camera, Frame

COLOR_SUFFIXES = (".png", ".jpg", ".jpeg")
_SUFFIXES = {"color": COLOR_SUFFIXES, "depth": (".png",), "pose": (".txt",)}
INTRINSICS = Path("intrinsic/intrinsic_color.txt")
INTRINSICS_DEPTH = Path("intrinsic/intrinsic_depth.txt")
_LARGEST_CODE = 65535
# What Pillow raises for files that are cut or foreign, or that claim more
# pixels than memory may hold.
_IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)


class LayoutError(ValueError):
    """A file of a scene folder is missing or wrong: the message names it, what
    was expected and found, and the fix.
    """


@dataclass(frozen=True, eq=False)
class FrameFolder(Sequence[Frame]):
    """The frames of one scene, each read from its files when it is asked for; a
    slice is a FrameFolder too.
    """

    folder: Path
    """The scene's folder."""
    names: tuple[str, ...]
    """The names of the F frames, in order."""
    camera: Camera
    """The one camera of all images."""
    poses: Float[Tensor, "F 4 4"]
    """Camera-to-world, float64: geometry needs no image."""
    depth_scale: float | None
    """Depth units a metre; None where the scene has no depth images."""
    depth_missing: tuple[int, ...] = ()
    """Codes that mean "no depth", besides 0."""

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> "FrameFolder": ...
    def __getitem__(self, index: int | slice) -> "Frame | FrameFolder":
        """Load one frame (LayoutError where an image went bad since the folder
        was opened), or take a part.
        """
        if isinstance(index, slice):
            return replace(
                self, names=self.names[index], poses=self.poses[index]
            )
        name = self.names[index]
        color = read_color(_color_file(self.folder, name))
        depth = None
        if self.depth_scale is not None:
            depth = read_depth(
                existing(self.folder / "depth" / f"{name}.png", (".png",)),
                self.depth_scale,
                self.depth_missing,
            )
            _check_same_size(
                self.folder, name, tuple(depth.shape), tuple(color.shape[:2])
            )
        return Frame(name, self.camera, self.poses[index], color, depth)


def open_frames(
    folder: Path, depth_scale: float = 1000.0, depth_missing: Sequence[int] = ()
) -> tuple[Sequence[Frame], Counter[str]]:
    """The usable frames of a scene folder, in natural order of their names, and
    what was left out and how often.

    Left out and counted: frames without colour image, pose or (where others
    have one) depth image; unreadable images; poses that are not rigid or hold
    NaN or infinity. LayoutError where the intrinsics are wrong, an image has
    another size than the others, or no frame is left. A folder without any
    frame file gives ``()``.
    """
    colors, depths, poses = (
        _files(folder / part, suffixes) for part, suffixes in _SUFFIXES.items()
    )
    needed = {"image": colors, "pose": poses} | (
        {"depth": depths} if depths else {}
    )
    skipped: Counter[str] = Counter()
    names, kept_poses, size = [], [], None
    for name in sorted(
        colors.keys() | depths.keys() | poses.keys(), key=natural_key
    ):
        try:
            pose = _usable_pose(name, needed)
        except _UnusableError as reason:
            skipped[str(reason)] += 1
            continue
        found = image_size(colors[name])
        if size is not None and found != size:
            raise LayoutError(
                f"{colors[name]}: expected {size[1]} x {size[0]} pixels like"
                f" the images before it, found {found[1]} x {found[0]}; all"
                " images of a scene share one size: resample them"
            )
        size = found
        if depths:
            _check_same_size(folder, name, depth_size(depths[name]), size)
        names.append(name)
        kept_poses.append(pose)
    if size is None:
        if skipped:
            raise _nothing_left(folder, skipped)
        return (), skipped
    frames = FrameFolder(
        folder=folder,
        names=tuple(names),
        camera=_read_camera(
            folder, width=size[1], height=size[0], with_depth=bool(depths)
        ),
        poses=torch.stack(kept_poses),
        depth_scale=depth_scale if depths else None,
        depth_missing=tuple(depth_missing),
    )
    return frames, skipped


def _nothing_left(folder: Path, skipped: Mapping[str, int]) -> LayoutError:
    counts = ", ".join(
        f"{count} x {reason}" for reason, count in skipped.items()
    )
    return LayoutError(
        f"{folder}: none of the {sum(skipped.values())} frames can be used"
        f" ({counts})"
    )


def write_frame(
    folder: Path, frame: Frame, depth_scale: float = 1000.0
) -> None:
    """Write the colour, depth and pose files of one frame.

    Depth (metres) is rounded to whole units of 1/``depth_scale`` m in 16 bits.
    ValueError, naming the frame, for an invalid pose, an image that does not
    fit the camera, a depth that is negative, not finite or too large for 16
    bits.
    """
    _check_frame(frame)
    try:
        check_pose(frame.camera_to_world)
    except ValueError as error:
        raise ValueError(f"frame {frame.name!r}: {error}") from error
    for part in _SUFFIXES if frame.depth is not None else ("color", "pose"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame.color.numpy(force=True)).save(
        folder / "color" / f"{frame.name}.png"
    )
    write_matrix(folder / "pose" / f"{frame.name}.txt", frame.camera_to_world)
    if frame.depth is not None:
        codes = (frame.depth.double() * depth_scale).round().numpy(force=True)
        if (
            not np.isfinite(codes).all()
            or codes.min() < 0
            or codes.max() > _LARGEST_CODE
        ):
            raise ValueError(
                f"frame {frame.name!r}: depth must lie in 0 to"
                f" {_LARGEST_CODE / depth_scale:g} m (16 bits, 0 = missing);"
                " mark what is missing or farther as 0"
            )
        Image.fromarray(codes.astype(np.uint16)).save(
            folder / "depth" / f"{frame.name}.png"
        )


def _check_frame(frame: Frame) -> None:
    """ValueError where a frame's name or images are none that the layout's
    reader gives back.
    """
    # the reader leaves out hidden files, which other systems put everywhere
    if (
        Path(frame.name).name != frame.name
        or frame.name.startswith(".")
        or not frame.name.isprintable()
        or not frame.name
    ):
        raise ValueError(
            f"frame {frame.name!r}: the name must do as a file name, and not"
            " begin with a dot"
        )
    shapes = [
        tuple(image.shape[:2])
        for image in (frame.color, frame.depth)
        if image is not None
    ]
    if any(
        shape != (frame.camera.height, frame.camera.width) for shape in shapes
    ):
        raise ValueError(
            f"frame {frame.name!r}: images of (height, width) {shapes} for a"
            f" camera of {frame.camera.width} x {frame.camera.height} pixels"
        )
    color, depth = frame.color, frame.depth
    if color.dtype != torch.uint8 or color.ndim != 3 or color.shape[2] != 3:
        raise ValueError(
            f"frame {frame.name!r}: expected a colour image (height, width, 3)"
            f" of uint8, found {tuple(color.shape)} of {color.dtype}; floats"
            " from 0 to 1: give (color * 255).round().byte()"
        )
    if depth is not None and (depth.ndim != 2 or not depth.is_floating_point()):
        raise ValueError(
            f"frame {frame.name!r}: expected depth (height, width) in metres as"
            f" floats, found {tuple(depth.shape)} of {depth.dtype}; codes:"
            " divide by their units a metre"
        )


def write_intrinsics(folder: Path, camera: Camera, with_depth: bool) -> None:
    """Write the 4x4 intrinsics of the colour images and, the same again, of the
    depth images.
    """
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = camera.matrix
    for path in (INTRINSICS, INTRINSICS_DEPTH) if with_depth else (INTRINSICS,):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_matrix(folder / path, matrix)


def write_matrix(path: Path, matrix: Float[Tensor, "rows columns"]) -> None:
    """Write a matrix as text, one row a line, with as many digits as bring the
    same numbers back.
    """
    np.savetxt(path, matrix.double().numpy(force=True), fmt="%s")


def read_matrix(path: Path) -> Float[Tensor, "rows columns"]:
    """Read a matrix of numbers (float64; nan and inf are numbers here), one row
    a line; LayoutError otherwise.
    """
    if not path.is_file():
        raise LayoutError(f"{path}: no such file")
    try:
        rows = [
            [float(word) for word in line.split()]
            for line in read_text(path).splitlines()
            if line.strip()
        ]
        return torch.tensor(rows or [[]], dtype=torch.float64)
    except ValueError as error:
        raise LayoutError(
            f"{path}: expected rows of numbers, all of one length ({error})"
        ) from error


def read_color(path: Path) -> UInt8[Tensor, "height width 3"]:
    """Read an 8-bit image as RGB; LayoutError where it is missing, cut short or
    of more than 8 bits a channel.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "red.png"
    ...     Image.new("RGB", (2, 1), (255, 0, 0)).save(path)
    ...     read_color(path).tolist()
    [[[255, 0, 0], [255, 0, 0]]]
    """
    with _open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise LayoutError(
                f"{path}: expected an 8-bit colour image, found Pillow mode"
                f" {image.mode!r}; convert it"
            )
        return torch.from_numpy(np.array(_loaded(path, image).convert("RGB")))


def read_depth(
    path: Path, scale: float, missing: Sequence[int] = ()
) -> Float[Tensor, "height width"]:
    """Read a 16-bit depth image in metres (float32): code / scale, and 0 where
    the code is 0 or means "missing".

    LayoutError where it is missing, cut short or not 16-bit grey.

    >>> from tempfile import TemporaryDirectory
    >>> codes = np.array([[1500, 0, 65535]], dtype=np.uint16)
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "depth.png"
    ...     Image.fromarray(codes).save(path)
    ...     read_depth(path, scale=1000.0, missing=[65535]).tolist()
    [[1.5, 0.0, 0.0]]
    """
    with _open(path) as image:
        _check_16_bit(path, image)
        values = np.array(_loaded(path, image)).astype(np.int32)
    codes = torch.from_numpy(values)
    depth = (codes.double() / scale).float()
    is_missing = torch.isin(codes, torch.tensor(missing, dtype=codes.dtype))
    return depth.masked_fill(is_missing, 0.0)


def natural_key(name: str) -> list[str | int]:
    """A sort key that puts "frame2" before "frame10"."""
    # every second part is a number, of these digits alone
    return [
        int(part) if odd % 2 else part
        for odd, part in enumerate(re.split(r"([0-9]+)", name))
    ]


def _files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of a folder with one of these endings, by their stems."""
    return {path.stem: path for path in files_in(folder, suffixes)}


class _UnusableError(ValueError):
    """Why a frame is left out, in two words."""


def _usable_pose(
    name: str, files: Mapping[str, Mapping[str, Path]]
) -> Float[Tensor, "4 4"]:
    """The pose of a frame whose files (by what they hold, then by name) are
    there and whole; else _UnusableError.
    """
    for what, by_name in files.items():
        if name not in by_name:
            raise _UnusableError(f"missing {what}")
    try:
        pose = read_matrix(files["pose"][name])
        check_pose(pose)
    except ValueError as error:
        raise _UnusableError("invalid pose") from error
    for what, by_name in files.items():
        if what != "pose" and not is_whole_image(by_name[name]):
            raise _UnusableError(f"unreadable {what}")
    return pose


def is_whole_image(path: Path) -> bool:
    """Whether a file is an image to its end, so that a cut file is found before
    the work: the checksums of PNG are read, all others are decoded (JPEG at an
    eighth of its size, which reads all its bytes and takes less time).
    """
    try:
        with Image.open(path) as image:
            if image.format == "PNG":
                image.verify()
            else:
                image.draft(None, (image.width // 8, image.height // 8))
                image.load()
    except _IMAGE_ERRORS:
        return False
    return True


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image, from its header."""
    with Image.open(path) as image:
        return image.height, image.width


def depth_size(path: Path) -> tuple[int, int]:
    """(height, width) of a depth image, from its header; LayoutError where it
    is no 16-bit grey image.
    """
    with _open(path) as image:
        _check_16_bit(path, image)
        return image.height, image.width


def _check_16_bit(path: Path, image: Image.Image) -> None:
    if not image.mode.startswith("I"):
        raise LayoutError(
            f"{path}: expected a 16-bit grey image, found Pillow mode"
            f" {image.mode!r}; depth of 8 bits or in colours was made to be"
            " looked at: export the raw depth"
        )


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise LayoutError(f"{path}: no such file")
    try:
        return Image.open(path)
    except _IMAGE_ERRORS as error:
        raise LayoutError(
            f"{path}: not an image ({error}); export it again, or delete it to"
            " skip the frame"
        ) from error


def _loaded(path: Path, image: Image.Image) -> Image.Image:
    try:
        image.load()
    except _IMAGE_ERRORS as error:
        raise LayoutError(
            f"{path}: the image is cut short or damaged ({error}); export it"
            " again, or delete it to skip the frame"
        ) from error
    return image


def _color_file(folder: Path, name: str) -> Path:
    return existing(folder / "color" / f"{name}.png", COLOR_SUFFIXES)


def _check_same_size(
    folder: Path, name: str, depth: tuple[int, ...], color: tuple[int, ...]
) -> None:
    if depth != color:
        raise LayoutError(
            f"{folder / 'depth' / name}.png: expected {color[1]} x {color[0]}"
            f" pixels like its colour image, found {depth[1]} x {depth[0]};"
            " bring both to one grid with vlg convert rgbd"
        )


def _read_camera(
    folder: Path, width: int, height: int, with_depth: bool
) -> Camera:
    path = folder / INTRINSICS
    matrix = read_matrix(path)
    try:
        camera = Camera.from_matrix(matrix, width, height)
    except ValueError as error:
        raise LayoutError(f"{path}: {error}") from error
    other = folder / INTRINSICS_DEPTH
    if with_depth and other.is_file():
        depth_matrix = read_matrix(other)
        if depth_matrix.shape != matrix.shape or not torch.allclose(
            depth_matrix, matrix, rtol=1e-9
        ):
            raise LayoutError(
                f"{other}: expected the intrinsics of {path.name}, since colour"
                " and depth share one camera; bring both to one grid with"
                " vlg convert rgbd"
            )
    return camera
