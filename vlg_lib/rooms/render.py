"""Pictures of the procedural rooms: rays against boxes, a point light with
shadows, and a camera's imperfections.
"""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlg_lib.rooms.plan import Room
from vlg_lib.rooms.textures import texture_factor
from vlg_lib.scene import Camera, Frame

EMBREE = find_spec("embreex") is not None
"""Whether embree finds what a ray hits first; without it a slab test does, in
the same pictures, but slower."""

_CHUNK = 2048
_AMBIENT, _DIFFUSE = 0.5, 0.62
# What a ray that leaves the room sees: no class, no depth.
_HAZE = np.array([0.62, 0.64, 0.68], dtype=np.float32)
_EPSILON = 1e-6


@dataclass(frozen=True)
class RenderedFrame:
    """A picture of a room with what the renderer knows about each pixel.

    ``labels``: (H, W) int64 class index or the ignore label. ``instances``: (H,
    W) int64 index into ``room.things``, -1 where the ray hit nothing.
    """

    frame: Frame
    labels: Int[Tensor, "height width"]
    instances: Int[Tensor, "height width"]


def _slab_test(
    room: Room, origins: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Slab test of every ray with every box: (box or -1, face). Origins inside
    a box see its far side.
    """
    boxes = np.full(len(origins), -1, dtype=np.int64)
    faces = np.zeros(len(origins), dtype=np.int64)
    for start in range(0, len(origins), _CHUNK):
        part = slice(start, start + _CHUNK)
        offset = origins[part, None] - room.centers[None]
        local = np.einsum("bji,nbj->nbi", room.rotations, offset)
        slope = np.einsum("bji,nj->nbi", room.rotations, directions[part])
        slope = np.where(np.abs(slope) < 1e-12, 1e-12, slope)
        near = (-np.sign(slope) * room.half_sizes - local) / slope
        far = (np.sign(slope) * room.half_sizes - local) / slope
        enter, leave = near.max(-1), far.min(-1)
        inside = enter < _EPSILON
        distance = np.where(inside, leave, enter)
        distance = np.where(
            (leave >= enter) & (distance > _EPSILON), distance, np.inf
        )
        best = distance.argmin(1)
        rows = np.arange(len(best))
        axis = np.where(
            inside[rows, best],
            far[rows, best].argmin(-1),
            near[rows, best].argmax(-1),
        )
        outward = np.where(inside[rows, best], 1, -1) * np.sign(
            slope[rows, best, axis]
        )
        faces[part] = 2 * axis + (outward > 0)
        boxes[part] = np.where(np.isfinite(distance[rows, best]), best, -1)
    return boxes, faces


def _cast(
    room: Room, origins: np.ndarray, directions: np.ndarray, exact: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(t, box or -1, face) of each ray. Engines only find the face; t follows
    from its plane in double precision.
    """
    if EMBREE and not exact:
        triangle = room.embree.run(
            origins.astype(np.float32), directions.astype(np.float32)
        ).astype(np.int64)
        boxes = np.where(triangle < 0, -1, triangle // 12)
        faces = triangle % 12 // 2
    else:
        boxes, faces = _slab_test(room, origins, directions)
    normal = room.rotations[boxes, :, faces // 2]
    reach = room.half_sizes[boxes, faces // 2] * (2 * (faces % 2) - 1)
    along = np.einsum("ni,ni->n", normal, directions)
    offset = (
        np.einsum("ni,ni->n", normal, room.centers[boxes] - origins) + reach
    )
    hit = (boxes >= 0) & (np.abs(along) > 1e-12)
    t = np.where(hit, offset / np.where(hit, along, 1.0), np.inf)
    return t, np.where(hit, boxes, -1), faces


def cast_rays(
    room: Room,
    origins: Float[np.ndarray, "N 3"],
    directions: Float[np.ndarray, "N 3"],
    *,
    exact: bool = False,
) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Nearest box along each ray: (t, box), with ``origin + t * direction`` on
    its surface; t inf and box -1 for none.

    Directions need not be unit length: with directions whose camera z is 1, t
    is z-depth. ``exact``: decide in double precision which box is nearest
    (slower), so that all machines agree; embree decides in single precision.
    """
    t, boxes, _ = _cast(
        room,
        np.asarray(origins, np.float64),
        np.asarray(directions, np.float64),
        exact,
    )
    return t, boxes


def pixel_rays(
    camera: Camera, camera_to_world: Float[Tensor, "4 4"]
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]]:
    """World rays of all pixels, row by row: origins and directions whose camera
    z is 1 (so that t is z-depth).
    """
    v, u = np.divmod(np.arange(camera.width * camera.height), camera.width)
    local = np.stack(
        [
            (u - camera.cx) / camera.fx,
            (v - camera.cy) / camera.fy,
            np.ones(len(u)),
        ],
        axis=1,
    )
    pose = camera_to_world.double().numpy()
    directions = local @ pose[:3, :3].T
    return np.broadcast_to(pose[:3, 3], directions.shape), directions


def _shade(
    room: Room,
    origins: np.ndarray,
    directions: np.ndarray,
    hit: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
    """Linear colours (N, 3): texture x colour x (ambient + one point light with
    a shadow ray), plus glow.
    """
    t, boxes, faces = hit
    colors = np.broadcast_to(_HAZE, (len(t), 3)).copy()
    seen = np.flatnonzero(boxes >= 0)
    box, axis, direction = boxes[seen], faces[seen] // 2, directions[seen]
    points = origins[seen] + t[seen, None] * direction
    normal = room.rotations[box, :, axis] * (2 * (faces[seen] % 2) - 1)[:, None]
    local = np.einsum(
        "nji,nj->ni", room.rotations[box], points - room.centers[box]
    ).astype(np.float32)
    rows = np.arange(len(seen))
    # The face's own axes; the longer one carries the grain of wood.
    first, second = np.where(axis == 0, 1, 0), np.where(axis == 2, 1, 2)
    longer = room.half_sizes[box, first] >= room.half_sizes[box, second]
    u = local[rows, np.where(longer, first, second)]
    v = local[rows, np.where(longer, second, first)]
    factor = texture_factor(room.textures[box], u, v, room.instances[box])

    to_light = room.light - points
    distance = np.linalg.norm(to_light, axis=1)
    facing = np.clip(np.einsum("ni,ni->n", normal, to_light) / distance, 0, 1)
    start = points + 1e-3 * normal
    # The ray ends at the light, at t = 1.
    lit = _cast(room, start, room.light - start)[0] > 1
    light = (
        _AMBIENT
        + _DIFFUSE * lit * facing / (1 + (distance / 4.5) ** 2)
        + 0.06 * normal[:, 2]
    )
    shade = (factor * light + room.glow[box]).astype(np.float32)
    colors[seen] = room.colors[box] * shade[:, None]
    return colors


def render_frame(
    room: Room,
    camera: Camera,
    camera_to_world: Float[Tensor, "4 4"],
    *,
    seed: int = 0,
    name: str = "0000",
    depth_noise: float = 0.003,
) -> RenderedFrame:
    """Photograph a room: colour with exposure, white balance and noise; z-depth
    with ``depth_noise`` relative noise.

    Depth is rounded to millimetres, as on disk, and 0 where the ray leaves the
    room. Deterministic per ``seed``.

    >>> from vlg_lib.rooms.plan import make_room
    >>> from vlg_lib.rooms.scenes import room_camera, room_poses
    >>> room, camera = make_room(7), room_camera(32, 24)
    >>> made = render_frame(room, camera, room_poses(room, 1)[0])
    >>> made.frame.color.shape, made.labels.shape
    (torch.Size([24, 32, 3]), torch.Size([24, 32]))
    """
    origins, directions = pixel_rays(camera, camera_to_world)
    t, boxes, faces = _cast(room, origins, directions)
    colors = _shade(room, origins, directions, (t, boxes, faces))
    rng = np.random.default_rng([room.seed, 104729, seed])
    gain = rng.uniform(0.85, 1.18) * rng.uniform(0.94, 1.06, 3)
    noise = rng.standard_normal(colors.shape, dtype=np.float32) * np.float32(
        rng.uniform(0.008, 0.025)
    )
    image = np.clip(colors * gain.astype(np.float32) + noise, 0, 1)
    depth = np.where(
        boxes >= 0, t * (1 + depth_noise * rng.standard_normal(len(t))), 0.0
    )
    depth = np.round(np.clip(depth, 0, 65.0) * 1000) / 1000

    shape = (camera.height, camera.width)
    frame = Frame(
        name,
        camera,
        camera_to_world,
        torch.from_numpy(
            (image * 255 + 0.5).astype(np.uint8).reshape(*shape, 3)
        ),
        torch.from_numpy(depth.astype(np.float32).reshape(shape)),
    )
    labels = np.where(boxes >= 0, room.classes[boxes], -1).reshape(shape)
    instances = np.where(boxes >= 0, room.instances[boxes], -1).reshape(shape)
    return RenderedFrame(
        frame, torch.from_numpy(labels), torch.from_numpy(instances)
    )
