"""Which points of a cloud a frame sees, by its depth map or by the points
themselves (chapter 01).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

from vlg_lib.geometry.cameras import _check_size, project
from vlg_lib.scene import Camera, Frame

MAX_SPLAT = 15
"""The widest splat of :func:`depth_from_points`, in pixels either side of the
centre."""


@dataclass(frozen=True)
class Visibility:
    """When a frame sees a point of z-depth Z: where its depth map d agrees,
    ``|d - Z| <= slack + tolerance d``.

    ValueError for a setting below 0.
    """

    tolerance: float = 0.01
    """How far depths may differ, as a share of the measured depth; from 0.
    OpenScene and the paper's release: 0.25."""
    slack: float = 0.05
    """How far depths may differ at any distance, metres; from 0. OpenScene and
    the paper's release: 0."""
    border: int = 0
    """Pixels cut off at each side of the image; from 0. OpenScene and the
    paper's release: 10."""
    point_radius: float = 0.01
    """The size of a point, metres, where the depth map must be made from the
    points themselves; from 0."""

    def __post_init__(self) -> None:
        if min(self.tolerance, self.slack, self.border, self.point_radius) < 0:
            raise ValueError(
                "every setting of the visibility test must be >= 0, found"
                f" {self}"
            )


PUBLISHED = Visibility(tolerance=0.25, slack=0.0, border=10)
"""The settings of OpenScene and of the 3DSS-VLG release: at 2 m, half a metre
of slack."""


@dataclass(frozen=True)
class PointPixelPairs:
    """The V points that a frame sees: which points of the cloud, on which
    pixels they fall, and how far away they are.

    ``indices``: (V,) int64, ascending, each point at most once. ``pixels``: (V,
    2) int64, (u, v). ``depth``: (V,) float64, metres, the z-depth of the point
    itself (not that of the depth map).
    """

    indices: Int[Tensor, " V"]
    pixels: Int[Tensor, "V 2"]
    depth: Float[Tensor, " V"]

    def __len__(self) -> int:
        return len(self.indices)


def visible_points(
    points: Float[Tensor, "N 3"],
    frame: Frame,
    visibility: Visibility | None = None,
) -> PointPixelPairs:
    """The points that a frame sees, and the pixel that each of them falls on
    (paper, Sec. 3.1).

    A point is seen where it lies in front of the camera, its nearest pixel lies
    inside the image (less the border), and the depth map there agrees with its
    own depth; pixels without depth (0) see nothing. A frame without a depth map
    is tested against :func:`depth_from_points`. Raises ValueError where the
    depth map is not of the camera's size.

    >>> camera = Camera(100, 100, cx=80, cy=60, width=160, height=120)
    >>> color = torch.zeros(120, 160, 3).byte()
    >>> depth = torch.full((120, 160), 2.0)
    >>> frame = Frame("0", camera, torch.eye(4), color, depth)
    >>> points = torch.tensor([[0.0, 0, 2.0], [0.0, 0, 3.0]])  # one behind one
    >>> pairs = visible_points(points, frame)
    >>> pairs.indices.tolist(), pairs.pixels.tolist()
    ([0], [[80, 60]])
    """
    visibility = visibility or Visibility()
    indices, pixels, depth = _in_image(
        points, frame.camera, frame.camera_to_world, visibility.border
    )
    measured_map = frame.depth
    if measured_map is None:
        measured_map = depth_from_points(
            points, frame.camera, frame.camera_to_world, visibility.point_radius
        )
    _check_size(measured_map, frame.camera)
    measured = measured_map.to(points.device)[
        pixels[:, 1], pixels[:, 0]
    ].double()
    near = (
        measured - depth
    ).abs() <= visibility.slack + visibility.tolerance * measured
    seen = (measured > 0) & measured.isfinite() & near
    return PointPixelPairs(indices[seen], pixels[seen], depth[seen])


def depth_from_points(
    points: Float[Tensor, "N 3"],
    camera: Camera,
    camera_to_world: Float[Tensor, "4 4"],
    point_radius: float = 0.01,
) -> Float[Tensor, "height width"]:
    """A z-buffer: the depth map (float64, metres, 0 = nothing there) that a
    point cloud itself would give.

    Each point is drawn as a square that reaches about ``point_radius`` metres
    to either side, in whole pixels (at most MAX_SPLAT), and the nearest point
    wins a pixel. Too small a radius lets hidden points shine through the gaps
    between their occluders, too large a one makes slanted surfaces hide
    themselves.
    """
    _, pixels, depth = _in_image(points, camera, camera_to_world)
    radii = (
        (max(camera.fx, camera.fy) * point_radius / depth)
        .round()
        .clamp(max=MAX_SPLAT)
        .long()
    )
    nearest = depth.new_full((camera.height, camera.width), torch.inf)
    # points of one size at a time: draw their centres, then widen them
    for radius in radii.unique().tolist():
        of_size = radii == radius
        u, v = pixels[of_size].unbind(-1)
        centres = depth.new_full((camera.height * camera.width,), torch.inf)
        centres.scatter_reduce_(0, v * camera.width + u, depth[of_size], "amin")
        nearest = torch.minimum(
            nearest, _widen(centres.view_as(nearest), radius)
        )
    return torch.where(nearest.isfinite(), nearest, 0.0)


def _in_image(
    points: Float[Tensor, "N 3"],
    camera: Camera,
    camera_to_world: Float[Tensor, "4 4"],
    border: int = 0,
) -> tuple[Int[Tensor, " V"], Int[Tensor, "V 2"], Float[Tensor, " V"]]:
    """Indices, nearest pixels and depths of the points that fall into the
    image, whatever stands before them.
    """
    positions, depth = project(
        points, camera, camera_to_world.to(points.device)
    )
    nearest = (positions + 0.5).floor()  # pixel i covers i - 1/2 <= u < i + 1/2
    u, v = nearest.unbind(-1)
    inside = (
        (u >= border)
        & (u < camera.width - border)
        & (v >= border)
        & (v < camera.height - border)
    )
    (indices,) = (inside & (depth > 0)).nonzero(as_tuple=True)
    return indices, nearest[indices].long(), depth[indices]


def _widen(
    depth: Float[Tensor, "height width"], radius: int
) -> Float[Tensor, "height width"]:
    """The least depth in a square window: a minimum along the rows, then along
    the columns.
    """
    across = max_pool2d(
        -depth[None, None], (1, 2 * radius + 1), stride=1, padding=(0, radius)
    )
    return -max_pool2d(
        across, (2 * radius + 1, 1), stride=1, padding=(radius, 0)
    )[0, 0]
