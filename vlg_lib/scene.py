"""The nouns that all else speaks: cameras, frames, scenes, point embeddings.

Conventions, everywhere in this library:

* world frame in metres, z up; camera axes x right, y down, z forward;
* poses are 4x4 **camera-to-world** matrices;
* pixels are (u, v) = (column, row) with pixel centres at integers, so an image
  spans -0.5 to width - 0.5;
* depth is z-depth (the distance along the optical axis, not along the ray) in
  metres, and 0 means missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

from vlg_lib.classes import ClassSet


@dataclass(frozen=True)
class Camera:
    """Pinhole intrinsics of an image of ``width`` x ``height`` pixels; ``fx,
    fy, cx, cy`` in pixels.

    >>> camera = Camera(100, 100, cx=79.5, cy=59.5, width=160, height=120)
    >>> camera.matrix[0].tolist()
    [100.0, 0.0, 79.5]
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        numbers = torch.tensor(
            [self.fx, self.fy, self.cx, self.cy], dtype=torch.float64
        )
        if (
            not bool(torch.isfinite(numbers).all())
            or self.fx <= 0
            or self.fy <= 0
        ):
            raise ValueError(
                "focal lengths must be positive and all intrinsics finite,"
                f" found {self}"
            )
        if self.width < 1 or self.height < 1:
            raise ValueError(
                f"image size must be positive, found {self.width} x"
                f" {self.height}"
            )

    @classmethod
    def from_matrix(
        cls, matrix: Float[Tensor, "rows columns"], width: int, height: int
    ) -> "Camera":
        """Read fx, fy, cx, cy from a 3x3 (or ScanNet's 4x4) intrinsics matrix
        K; ValueError for any other matrix.
        """
        if tuple(matrix.shape) not in {(3, 3), (4, 4)}:
            raise ValueError(
                "expected a 3x3 or 4x4 intrinsics matrix, found shape"
                f" {tuple(matrix.shape)}"
            )
        if abs(float(matrix[0, 1])) > 1e-9 * float(matrix[0, 0]):
            raise ValueError(
                f"a skewed camera (K[0, 1] = {float(matrix[0, 1])}) is not a"
                " pinhole camera: undistort it"
            )
        fx, fy, cx, cy = (
            float(matrix[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))
        )
        return cls(fx, fy, cx, cy, width, height)

    @property
    def matrix(self) -> Float[Tensor, "3 3"]:
        """The intrinsics matrix K, float64."""
        rows = [
            [self.fx, 0.0, self.cx],
            [0.0, self.fy, self.cy],
            [0.0, 0.0, 1.0],
        ]
        return torch.tensor(rows, dtype=torch.float64)


@dataclass(frozen=True)
class Frame:
    """One posed RGB-D image. Colour and depth share one pixel grid and one
    camera; ``depth`` may be absent.

    >>> camera = Camera(100, 100, cx=79.5, cy=59.5, width=160, height=120)
    >>> black = torch.zeros(120, 160, 3).byte()
    >>> Frame("0001", camera, torch.eye(4), black).depth is None
    True
    """

    name: str
    camera: Camera
    camera_to_world: Float[Tensor, "4 4"]
    color: UInt8[Tensor, "height width 3"]
    depth: Float[Tensor, "height width"] | None = None


@dataclass(frozen=True)
class Scene:
    """A coloured point cloud with its posed frames and its scene-level labels.
    It never carries point labels.

    ``points``: (N, 3) float32, metres, world frame, z up. ``colors``: (N, 3)
    uint8. ``frames``: a sequence that may load each frame when it is asked for.
    ``scene_labels``: (K,) bool, True where the scene contains the class.
    ``skipped``: what the reader left out and how often, for example ``{"invalid
    pose": 2}``. ``superpoints``: (N,) int64 from 0, the piece of every point,
    where the data set ships a partition; else None.

    >>> from vlg_lib.classes import own_class_set
    >>> cups = own_class_set(["cup", "plate"])
    >>> points, colors = torch.rand(5, 3), torch.zeros(5, 3).byte()
    >>> scene = Scene("desk", points, colors, [], cups, cups.mask(["plate"]))
    >>> cups.present(scene.scene_labels)
    ('plate',)
    """

    name: str
    points: Float[Tensor, "N 3"]
    colors: UInt8[Tensor, "N 3"]
    frames: Sequence[Frame]
    class_set: ClassSet
    scene_labels: Bool[Tensor, " K"]
    skipped: Mapping[str, int] = field(default_factory=dict)
    superpoints: Int64[Tensor, " N"] | None = None

    def __post_init__(self) -> None:
        if len(self.points) == 0:
            raise ValueError(f"scene {self.name!r} has no points")
        if len(self.scene_labels) != len(self.class_set.names):
            raise ValueError(
                f"scene {self.name!r}: {len(self.scene_labels)} scene labels"
                f" for the {len(self.class_set.names)} classes of"
                f" {self.class_set.name!r}"
            )
        pieces = self.superpoints
        if pieces is not None and (
            pieces.shape != self.points.shape[:1] or int(pieces.min()) < 0
        ):
            raise ValueError(
                f"scene {self.name!r}: expected a superpoint from 0 for each of"
                f" {len(self.points)} points, found {len(pieces)} from"
                f" {int(pieces.min()) if len(pieces) else 'none'}"
            )


@dataclass(frozen=True)
class PointEmbeddings:
    """View-averaged embeddings of a point cloud: P^2D of the paper (Sec. 3.1).

    ``embeddings``: (N, D) float32, unit length where a view saw the point and
    zero elsewhere. ``view_counts``: (N,) int32, how many views saw each point.

    >>> counts = torch.tensor([2, 0])
    >>> PointEmbeddings(torch.eye(2), counts).seen
    tensor([ True, False])
    """

    embeddings: Float[Tensor, "N D"]
    view_counts: Int[Tensor, " N"]

    @property
    def seen(self) -> Bool[Tensor, " N"]:
        """True for points that at least one view saw."""
        return self.view_counts > 0
