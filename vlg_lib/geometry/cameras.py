"""From the world to the pixels and back: poses, pinhole cameras, and which points a frame sees (chapter 01).

The conventions are those of :mod:`vlg_lib.scene`. Geometry is computed in float64 on the device of the points: float32
would move pixel positions by up to a thousandth of a pixel, and these arrays are small. Leading axes of a pose are a
batch of views: (B, 4, 4) poses give (B, N, ...) results.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

from vlg_lib.scene import Camera, Frame

MAX_SPLAT = 15
"""The widest splat of :func:`depth_from_points`, in pixels either side of the centre."""


@dataclass(frozen=True)
class Visibility:
    """When a frame sees a point of z-depth Z: where its depth map d agrees, ``|d - Z| <= slack + tolerance d``.

    ``tolerance``: relative to the depth. ``slack``: metres. ``border``: pixels cut off at each side of the image.
    ``point_radius``: metres, the size of a point where the depth map must be made from the points themselves.
    """

    tolerance: float = 0.01
    slack: float = 0.05
    border: int = 0
    point_radius: float = 0.01

    def __post_init__(self) -> None:
        if min(self.tolerance, self.slack, self.border, self.point_radius) < 0:
            raise ValueError(f"every setting of the visibility test must be >= 0, found {self}")


PUBLISHED = Visibility(tolerance=0.25, slack=0.0, border=10)
"""The settings of OpenScene and of the 3DSS-VLG release: at 2 m, half a metre of slack."""


@dataclass(frozen=True)
class Hits:
    """The V points that a frame sees: which points of the cloud, on which pixels they fall, and how far away they are.

    ``indices``: (V,) int64, ascending, each point at most once. ``pixels``: (V, 2) int64, (u, v). ``depth``: (V,)
    float64, metres, the z-depth of the point itself (not that of the depth map).
    """

    indices: Int[Tensor, " V"]
    pixels: Int[Tensor, "V 2"]
    depth: Float[Tensor, " V"]

    def __len__(self) -> int:
        return len(self.indices)


def check_pose(camera_to_world: Tensor, tolerance: float = 1e-3) -> None:
    """Raise ValueError saying what is wrong where a matrix is not a rigid 4x4 camera-to-world pose.

    Every entry must be finite (ScanNet marks lost tracking with -inf), the last row 0 0 0 1, and the 3x3 block a
    rotation: R R^T = I within ``tolerance`` in each entry, without mirroring (det R > 0).
    """
    if tuple(camera_to_world.shape) != (4, 4):
        raise ValueError(f"expected a 4x4 camera-to-world pose, found shape {tuple(camera_to_world.shape)}")
    pose = camera_to_world.double()
    if not bool(pose.isfinite().all()):
        raise ValueError("the pose has NaN or infinite entries: tracking was lost in this frame, so leave it out")
    if (pose[3] - pose.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().max() > tolerance:
        raise ValueError(f"the last row of a pose is 0 0 0 1, found {pose[3].tolist()}: is the matrix transposed?")
    rotation = pose[:3, :3]
    error = float((rotation @ rotation.T - torch.eye(3).to(rotation)).abs().max())
    if error > tolerance:
        raise ValueError(f"the pose is not rigid: R R^T is off the identity by {error:.2g} (allowed {tolerance:g})")
    if torch.linalg.det(rotation) < 0:
        raise ValueError("the pose mirrors the world (det R = -1): one axis has the wrong sign")


def world_to_camera(
    points: Float[Tensor, "... N 3"], camera_to_world: Float[Tensor, "... 4 4"]
) -> Float[Tensor, "... N 3"]:
    """World points seen from the camera: x_c = R^T (x - t), metres, float64. The pose stays camera-to-world.

    >>> pose = torch.eye(4); pose[:3, 3] = torch.tensor([1.0, 0.0, 0.0])  # a camera one metre along x
    >>> world_to_camera(torch.tensor([[1.0, 0.0, 2.0]]), pose)
    tensor([[0., 0., 2.]], dtype=torch.float64)
    """
    pose = camera_to_world.double()
    return (points.double() - pose[..., None, :3, 3]) @ pose[..., :3, :3]  # row vectors: (R^T x)^T = x^T R


def camera_to_world_points(
    points: Float[Tensor, "... N 3"], camera_to_world: Float[Tensor, "... 4 4"]
) -> Float[Tensor, "... N 3"]:
    """Camera points in the world: x = R x_c + t, metres, float64. The inverse of :func:`world_to_camera`."""
    pose = camera_to_world.double()
    return points.double() @ pose[..., :3, :3].mT + pose[..., None, :3, 3]


def project(
    points: Float[Tensor, "... N 3"], camera: Camera, camera_to_world: Float[Tensor, "... 4 4"]
) -> tuple[Float[Tensor, "... N 2"], Float[Tensor, "... N"]]:
    """Pixel positions (u, v) and z-depths Z (metres) of world points: u = fx X/Z + cx, v = fy Y/Z + cy.

    Positions are not rounded and may lie outside the image; where Z <= 0 the point is behind the camera and its pixel
    position has no meaning.
    """
    x, y, depth = world_to_camera(points, camera_to_world).unbind(-1)
    return torch.stack([camera.fx * x / depth + camera.cx, camera.fy * y / depth + camera.cy], dim=-1), depth


def back_project(
    depth: Float[Tensor, "height width"], camera: Camera, camera_to_world: Float[Tensor, "4 4"]
) -> tuple[Float[Tensor, "M 3"], Int[Tensor, "M 2"]]:
    """World points (float64, metres) of the M pixels that have a depth, row after row, and these pixels (u, v).

    Raises ValueError where the depth map is not of the camera's size.
    """
    _check_size(depth, camera)
    v, u = (depth > 0).nonzero(as_tuple=True)
    z = depth[v, u].double()
    x, y = (u.double() - camera.cx) / camera.fx * z, (v.double() - camera.cy) / camera.fy * z
    in_camera = torch.stack([x, y, z], dim=-1)
    return camera_to_world_points(in_camera, camera_to_world), torch.stack([u, v], dim=-1)


def resize_camera(camera: Camera, width: int, height: int) -> Camera:
    """The camera of the same image resampled to ``width`` x ``height``.

    Pixel centres are integers, so an image spans -0.5 to width - 0.5 and it is u + 1/2 that scales:
    cx' = (cx + 1/2) w'/w - 1/2. The published code scales cx by (w' - 1)/(w - 1), which agrees with this only where the
    principal point is the middle of the image.

    >>> resize_camera(Camera(fx=100.0, fy=100.0, cx=79.5, cy=59.5, width=160, height=120), 80, 60)
    Camera(fx=50.0, fy=50.0, cx=39.5, cy=29.5, width=80, height=60)
    """
    across, down = width / camera.width, height / camera.height
    cx, cy = (camera.cx + 0.5) * across - 0.5, (camera.cy + 0.5) * down - 0.5
    return Camera(camera.fx * across, camera.fy * down, cx, cy, width, height)


def crop_camera(camera: Camera, left: int, top: int, width: int, height: int) -> Camera:
    """The camera of the part of the image that starts at pixel (left, top); ValueError where it leaves the image."""
    if left < 0 or top < 0 or left + width > camera.width or top + height > camera.height:
        raise ValueError(
            f"a crop of {width} x {height} at ({left}, {top}) leaves the image of {camera.width} x {camera.height}"
        )
    return replace(camera, cx=camera.cx - left, cy=camera.cy - top, width=width, height=height)


def visible_points(points: Float[Tensor, "N 3"], frame: Frame, visibility: Visibility | None = None) -> Hits:
    """The points that a frame sees, and the pixel that each of them falls on (paper, Sec. 3.1).

    A point is seen where it lies in front of the camera, its nearest pixel lies inside the image (less the border), and
    the depth map there agrees with its own depth; pixels without depth (0) see nothing. A frame without a depth map is
    tested against :func:`depth_from_points`. Raises ValueError where the depth map is not of the camera's size.
    """
    visibility = visibility or Visibility()
    indices, pixels, depth = _in_image(points, frame.camera, frame.camera_to_world, visibility.border)
    measured_map = frame.depth
    if measured_map is None:
        measured_map = depth_from_points(points, frame.camera, frame.camera_to_world, visibility.point_radius)
    _check_size(measured_map, frame.camera)
    measured = measured_map.to(points.device)[pixels[:, 1], pixels[:, 0]].double()
    near = (measured - depth).abs() <= visibility.slack + visibility.tolerance * measured
    seen = (measured > 0) & measured.isfinite() & near
    return Hits(indices[seen], pixels[seen], depth[seen])


def depth_from_points(
    points: Float[Tensor, "N 3"], camera: Camera, camera_to_world: Float[Tensor, "4 4"], point_radius: float = 0.01
) -> Float[Tensor, "height width"]:
    """A z-buffer: the depth map (float64, metres, 0 = nothing there) that a point cloud itself would give.

    Each point is drawn as a square that reaches about ``point_radius`` metres to either side, in whole pixels (at most
    MAX_SPLAT), and the nearest point wins a pixel. Too small a radius lets hidden points shine through the gaps between
    their occluders, too large a one makes slanted surfaces hide themselves.
    """
    _, pixels, depth = _in_image(points, camera, camera_to_world)
    radii = (max(camera.fx, camera.fy) * point_radius / depth).round().clamp(max=MAX_SPLAT).long()
    nearest = depth.new_full((camera.height, camera.width), torch.inf)
    for radius in radii.unique().tolist():  # points of one size at a time: draw their centres, then widen them
        of_size = radii == radius
        u, v = pixels[of_size].unbind(-1)
        centres = depth.new_full((camera.height * camera.width,), torch.inf)
        centres.scatter_reduce_(0, v * camera.width + u, depth[of_size], "amin")
        nearest = torch.minimum(nearest, _widen(centres.view_as(nearest), radius))
    return torch.where(nearest.isfinite(), nearest, 0.0)


def _in_image(
    points: Float[Tensor, "N 3"], camera: Camera, camera_to_world: Float[Tensor, "4 4"], border: int = 0
) -> tuple[Int[Tensor, " V"], Int[Tensor, "V 2"], Float[Tensor, " V"]]:
    """Indices, nearest pixels and depths of the points that fall into the image, whatever stands before them."""
    positions, depth = project(points, camera, camera_to_world.to(points.device))
    nearest = (positions + 0.5).floor()  # pixel i covers i - 1/2 <= u < i + 1/2
    u, v = nearest.unbind(-1)
    inside = (u >= border) & (u < camera.width - border) & (v >= border) & (v < camera.height - border)
    (indices,) = (inside & (depth > 0)).nonzero(as_tuple=True)
    return indices, nearest[indices].long(), depth[indices]


def _widen(depth: Float[Tensor, "height width"], radius: int) -> Float[Tensor, "height width"]:
    """The least depth in a square window: a minimum along the rows, then along the columns."""
    across = max_pool2d(-depth[None, None], (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return -max_pool2d(across, (2 * radius + 1, 1), stride=1, padding=(radius, 0))[0, 0]


def _check_size(depth: Float[Tensor, "height width"], camera: Camera) -> None:
    if tuple(depth.shape) != (camera.height, camera.width):
        raise ValueError(
            f"the depth map has {depth.shape[1]} x {depth.shape[0]} pixels, its camera {camera.width} x "
            f"{camera.height}: resize the camera (resize_camera) or the map"
        )
