"""Which points of a cloud a frame sees, by its depth map or by the points
themselves (chapter 01).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

from vlg_lib.geometry.cameras import _check_size, project, world_to_camera
from vlg_lib.scene import Camera, Frame

MAX_SPLAT = 40
"""The widest splat of :func:`depth_from_points`, in pixels either side of the
centre: 2 cm at half a metre, in an image of 1,296 pixels."""

SPLAT_SPACING = 0.5
"""The radius of a splat as a share of the median distance between neighbours
(benchmarks/stage1_choices.py)."""

POINTS_AT_A_TIME = 2**15
"""Points that are tested against the image's edges together: few enough to stay
in the processor's cache."""

# what rounding may move a point across an edge of the image, pixels x metres,
# a metre from the origin of the world
_HAIR = 1e-6


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
    point_radius: float | None = None
    """The size of a point, metres, where the depth map must be made from the
    points themselves; from 0. None: :func:`splat_radius` of the cloud."""

    def __post_init__(self) -> None:
        radius = self.point_radius or 0
        if min(self.tolerance, self.slack, self.border, radius) < 0:
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
    u, v = pixels
    measured = measured_map.to(points.device).flatten()
    measured = measured.index_select(0, v * frame.camera.width + u).double()
    near = (
        measured - depth
    ).abs() <= visibility.slack + visibility.tolerance * measured
    seen = _where((measured > 0) & measured.isfinite() & near)
    return PointPixelPairs(
        indices.index_select(0, seen),
        torch.stack([u.index_select(0, seen), v.index_select(0, seen)], dim=1),
        depth.index_select(0, seen),
    )


def splat_radius(points: Float[Tensor, "N 3"], sample: int = 2000) -> float:
    """The radius, metres, of the square that stands for a point where the cloud
    itself must say what hides what: SPLAT_SPACING of the median distance
    between neighbours.

    The distances are those of ``sample`` points spread over the cloud; copies
    of a point do not count. 0 for a cloud without two different points. It
    takes a tenth of a second for 200,000 points, so work it out once for a
    cloud that many frames look at, as :func:`vlg_lib.fusion.fuse_scene` does.

    >>> x, y = torch.meshgrid(*2 * [torch.arange(20.0)], indexing="ij")
    >>> grid = torch.stack([x, y, 0 * x], dim=-1).reshape(-1, 3) / 50
    >>> round(splat_radius(grid), 3)  # neighbours are 2 cm apart
    0.01
    """
    # slow to import: only where there are no depth maps
    from scipy.spatial import KDTree

    finite = points[points.isfinite().all(dim=1)].unique(dim=0)
    if len(finite) < 2:
        return 0.0
    array = finite.double().cpu().numpy()
    some = array[:: max(1, len(array) // sample)]
    distances, _ = KDTree(array).query(some, k=2)
    return SPLAT_SPACING * float(np.median(distances[:, 1]))


def depth_from_points(
    points: Float[Tensor, "N 3"],
    camera: Camera,
    camera_to_world: Float[Tensor, "4 4"],
    point_radius: float | None = None,
) -> Float[Tensor, "height width"]:
    """A z-buffer: the depth map (float64, metres, 0 = nothing there) that a
    point cloud itself would give.

    Each point is drawn as a square that reaches about ``point_radius`` metres
    to either side (None: :func:`splat_radius`), in whole pixels (at most
    MAX_SPLAT), and the nearest point wins a pixel. Too small a radius lets
    hidden points shine through the gaps between their occluders, too large a
    one makes slanted surfaces hide themselves.
    """
    if point_radius is None:
        point_radius = splat_radius(points)
    _, (u, v), depth = _in_image(points, camera, camera_to_world)
    cells = v * camera.width + u
    radii = (
        (max(camera.fx, camera.fy) * point_radius / depth)
        .round()
        .clamp(max=MAX_SPLAT)
        .long()
    )
    nearest = depth.new_full((camera.height, camera.width), torch.inf)
    # the widest first: what is drawn is widened by the difference to the next
    # width, and in the end by all that it lacked
    sizes = radii.unique().tolist()[::-1]
    for radius, smaller in pairwise([*sizes, 0]):
        of_size = radii == radius
        nearest.view(-1).scatter_reduce_(
            0, cells[of_size], depth[of_size], "amin"
        )
        nearest = _widen(nearest, radius - smaller)
    return torch.where(nearest.isfinite(), nearest, 0.0)


def _in_image(
    points: Float[Tensor, "N 3"],
    camera: Camera,
    camera_to_world: Float[Tensor, "4 4"],
    border: int = 0,
) -> tuple[Int[Tensor, " V"], Int[Tensor, "2 V"], Float[Tensor, " V"]]:
    """Indices, nearest pixels (u, then v) and depths of the points that fall
    into the image, whatever stands before them.
    """
    pose = camera_to_world.to(points.device)
    candidates = _candidates(points, camera, pose, border)
    positions, depth = project(points.index_select(0, candidates), camera, pose)
    # pixel i covers i - 1/2 <= u < i + 1/2
    nearest = (positions.T + 0.5).floor()
    u, v = nearest
    inside = _where(
        (u >= border)
        & (u < camera.width - border)
        & (v >= border)
        & (v < camera.height - border)
        & (depth > 0)
    )
    return (
        candidates.index_select(0, inside),
        nearest.index_select(1, inside).long(),
        depth.index_select(0, inside),
    )


def _candidates(
    points: Float[Tensor, "N 3"],
    camera: Camera,
    pose: Float[Tensor, "4 4"],
    border: int,
) -> Int[Tensor, " C"]:
    """The points that may fall into the image: all that do, and a few within a
    hair of its edge. Most points of a scene do not, and are spared the rest.

    The edges of the image and the camera's centre span four planes, for example
    u + 1/2 >= border is fx X + (cx + 1/2 - border) Z >= 0: one product for all
    points, and no division.
    """
    left, right = camera.cx + 0.5 - border, camera.cx + 0.5 + border
    top, bottom = camera.cy + 0.5 - border, camera.cy + 0.5 + border
    inward = torch.tensor(
        [
            [camera.fx, 0.0, left],
            [-camera.fx, 0.0, camera.width - right],
            [0.0, camera.fy, top],
            [0.0, -camera.fy, camera.height - bottom],
        ],
        dtype=torch.float64,
        device=points.device,
    )
    # linear in x: the values at unit vectors, seen without the translation,
    # which may be large and would take their digits
    turned = pose.double().clone()
    turned[:3, 3] = 0.0
    unit_vectors = torch.eye(3, dtype=torch.float64, device=points.device)
    directions = inward @ world_to_camera(unit_vectors, turned).T
    centre = pose[:3, 3:].double()
    offsets = -directions @ centre
    hair = _HAIR * (1 + float(centre.abs().max()))
    found = []
    for start in range(0, len(points), POINTS_AT_A_TIME):
        block = points[start : start + POINTS_AT_A_TIME].double()
        inside = torch.addmm(offsets, directions, block.T).amin(dim=0)
        found.append(_where(inside >= -hair) + start)
    none = torch.zeros(0, dtype=torch.int64, device=points.device)
    return torch.cat([none, *found])


def _where(mask: Bool[Tensor, " N"]) -> Int[Tensor, " V"]:
    """The indices at which a mask is True, ascending."""
    if mask.is_cpu:
        # a fifth of the time that torch.nonzero takes
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero()[:, 0]


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
