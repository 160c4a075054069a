"""Pinhole cameras: from the world to the pixels and back (chapter 01).

The conventions are those of :mod:`vlg_lib.scene`. Geometry is computed in
float64 on the device of the points: float32 would move pixel positions by up to
a thousandth of a pixel, and these arrays are small. Leading axes of a pose are
a batch of views: (B, 4, 4) poses give (B, N, ...) results.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlg_lib.scene import Camera


def world_to_camera(
    points: Float[Tensor, "... N 3"], camera_to_world: Float[Tensor, "... 4 4"]
) -> Float[Tensor, "... N 3"]:
    """World points seen from the camera: x_c = R^-1 (x - t), metres, float64.
    The pose stays camera-to-world.

    R^-1 and not R^T, which is the same of a perfect rotation only: the
    rotations of recorded poses have determinants such as 0.9995. NaN where a
    pose is not finite or has no inverse.

    >>> pose = torch.eye(4)
    >>> pose[0, 3] = 1.0  # a camera one metre along x
    >>> world_to_camera(torch.tensor([[1.0, 0.0, 2.0]]), pose)
    tensor([[0., 0., 2.]], dtype=torch.float64)
    """
    pose = camera_to_world.double()
    inverse, failed = torch.linalg.inv_ex(pose[..., :3, :3])
    inverse = torch.where(failed[..., None, None] > 0, torch.nan, inverse)
    # row vectors: (R^-1 x)^T = x^T R^-T
    return (points.double() - pose[..., None, :3, 3]) @ inverse.mT


def camera_to_world_points(
    points: Float[Tensor, "... N 3"], camera_to_world: Float[Tensor, "... 4 4"]
) -> Float[Tensor, "... N 3"]:
    """Camera points in the world: x = R x_c + t, metres, float64. The inverse
    of :func:`world_to_camera`.

    >>> pose = torch.eye(4)
    >>> pose[0, 3] = 1.0  # a camera one metre along x
    >>> camera_to_world_points(torch.tensor([[0.0, 0.0, 2.0]]), pose)
    tensor([[1., 0., 2.]], dtype=torch.float64)
    """
    pose = camera_to_world.double()
    return points.double() @ pose[..., :3, :3].mT + pose[..., None, :3, 3]


def project(
    points: Float[Tensor, "... N 3"],
    camera: Camera,
    camera_to_world: Float[Tensor, "... 4 4"],
) -> tuple[Float[Tensor, "... N 2"], Float[Tensor, "... N"]]:
    """Pixel positions (u, v) and z-depths Z (metres) of world points: u = fx
    X/Z + cx, v = fy Y/Z + cy.

    Positions are not rounded and may lie outside the image; where Z <= 0 the
    point is behind the camera and its pixel position has no meaning.

    >>> camera = Camera(100, 100, cx=79.5, cy=59.5, width=160, height=120)
    >>> pixels, depth = project(
    ...     torch.tensor([[0.5, -0.25, 2.0]]), camera, torch.eye(4)
    ... )
    >>> pixels.tolist(), depth.tolist()
    ([[104.5, 47.0]], [2.0])
    """
    x, y, depth = world_to_camera(points, camera_to_world).unbind(-1)
    u = camera.fx * x / depth + camera.cx
    v = camera.fy * y / depth + camera.cy
    return torch.stack([u, v], dim=-1), depth


def unproject(
    depth: Float[Tensor, "height width"],
    camera: Camera,
    camera_to_world: Float[Tensor, "4 4"],
) -> tuple[Float[Tensor, "M 3"], Int[Tensor, "M 2"]]:
    """World points (float64, metres) of the M pixels that have a depth, row
    after row, and these pixels (u, v).

    Raises ValueError where the depth map is not of the camera's size.

    >>> camera = Camera(10, 10, cx=1, cy=0, width=2, height=1)
    >>> depth = torch.tensor([[2.0, 0.0]])  # the second pixel has no depth
    >>> points, pixels = unproject(depth, camera, torch.eye(4))
    >>> points.tolist(), pixels.tolist()
    ([[-0.2, 0.0, 2.0]], [[0, 0]])
    """
    _check_size(depth, camera)
    v, u = (depth > 0).nonzero(as_tuple=True)
    z = depth[v, u].double()
    x = (u.double() - camera.cx) / camera.fx * z
    y = (v.double() - camera.cy) / camera.fy * z
    in_camera = torch.stack([x, y, z], dim=-1)
    pixels = torch.stack([u, v], dim=-1)
    return camera_to_world_points(in_camera, camera_to_world), pixels


def resize_camera(camera: Camera, width: int, height: int) -> Camera:
    """The camera of the same image resampled to ``width`` x ``height``.

    Pixel centres are integers, so an image spans -0.5 to width - 0.5 and it is
    u + 1/2 that scales: cx' = (cx + 1/2) w'/w - 1/2. The published code scales
    cx by (w' - 1)/(w - 1), which agrees with this only where the principal
    point is the middle of the image.

    >>> resize_camera(Camera(100.0, 100.0, 79.5, 59.5, 160, 120), 80, 60)
    Camera(fx=50.0, fy=50.0, cx=39.5, cy=29.5, width=80, height=60)
    """
    across, down = width / camera.width, height / camera.height
    cx, cy = (camera.cx + 0.5) * across - 0.5, (camera.cy + 0.5) * down - 0.5
    return Camera(camera.fx * across, camera.fy * down, cx, cy, width, height)


def crop_camera(
    camera: Camera, left: int, top: int, width: int, height: int
) -> Camera:
    """The camera of the part of the image that starts at pixel (left, top);
    ValueError where it leaves the image.

    >>> camera = Camera(100.0, 100.0, 79.5, 59.5, 160, 120)
    >>> crop_camera(camera, left=40, top=30, width=80, height=60)
    Camera(fx=100.0, fy=100.0, cx=39.5, cy=29.5, width=80, height=60)
    """
    if (
        left < 0
        or top < 0
        or left + width > camera.width
        or top + height > camera.height
    ):
        raise ValueError(
            f"a crop of {width} x {height} at ({left}, {top}) leaves the image"
            f" of {camera.width} x {camera.height}"
        )
    return replace(
        camera,
        cx=camera.cx - left,
        cy=camera.cy - top,
        width=width,
        height=height,
    )


def _check_size(depth: Float[Tensor, "height width"], camera: Camera) -> None:
    if tuple(depth.shape) != (camera.height, camera.width):
        raise ValueError(
            f"the depth map has {depth.shape[1]} x {depth.shape[0]} pixels, its"
            f" camera {camera.width} x {camera.height}: resize the camera"
            " (resize_camera) or the map"
        )
