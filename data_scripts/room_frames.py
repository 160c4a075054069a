"""Frames of rooms that no experiment contains, changed at random and cut into
regions: what the small models see.
"""

import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, UInt8
from room_captions import Facts, room_facts
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from tqdm.auto import tqdm

from vlg_lib.artifacts import load_tensors, save_tensors
from vlg_lib.rooms.scenes import (
    RECIPE,
    make_room,
    render_frame,
    room_camera,
    room_poses,
    split_seeds,
)


@dataclass(frozen=True)
class Frames:
    """All rendered frames: ``images`` (F, H, W, 3) uint8, ``things`` (F, H, W)
    uint8 (255: nothing), and their facts.

    ``facts``: for each room, what is true of each of its things; ``rooms``: the
    room of each frame.
    """

    images: UInt8[Tensor, "F H W 3"]
    things: UInt8[Tensor, "F H W"]
    rooms: list[int]
    facts: list[list[Facts]]


def render_room(
    path: Path, seed: int, views: int, width: int, height: int
) -> list[Facts]:
    """Render one room at shift 0, where its frames are not stored yet, and
    return its facts.
    """
    room = make_room(seed)
    if not path.exists():
        camera = room_camera(width, height)
        rendered = [
            render_frame(room, camera, pose, seed=i)
            for i, pose in enumerate(room_poses(room, views))
        ]
        tensors = {
            "images": torch.stack([frame.frame.color for frame in rendered]),
            "things": (
                torch.stack([frame.instances for frame in rendered])
                .remainder(256)
                .to(torch.uint8)
            ),
        }
        save_tensors(path, tensors, {"seed": seed})
    return room_facts(room)


def load_frames(
    cache: Path, rooms: int, views: int, width: int, height: int, workers: int
) -> Frames:
    """Render what the cache lacks, and read all frames into memory (77 kB
    each).
    """
    seeds = split_seeds("vlm-train", rooms)
    folder = cache / f"frames-{RECIPE}-{views}x{width}x{height}"
    paths = [folder / f"{seed}.safetensors" for seed in seeds]
    sizes = ([size] * rooms for size in (views, width, height))
    with ProcessPoolExecutor(workers) as pool:
        jobs = pool.map(render_room, paths, seeds, *sizes, chunksize=4)
        facts = list(tqdm(jobs, total=rooms, desc="rendering", unit="room"))
    stored = [load_tensors(path)[0] for path in paths]
    owners = [
        number for number, part in enumerate(stored) for _ in part["images"]
    ]
    images, things = (
        torch.cat([part[name] for part in stored])
        for name in ("images", "things")
    )
    return Frames(images, things, owners, facts)


def uniform(
    generator: torch.Generator, count: int, low: float, high: float
) -> Tensor:
    """``count`` uniform random numbers in [low, high)."""
    return low + (high - low) * torch.rand(count, generator=generator)


def turn_hues(
    pixels: Float[Tensor, "B 3 H W"],
    chosen: Bool[Tensor, " B"],
    generator: torch.Generator,
) -> Float[Tensor, "B 3 H W"]:
    """Rotate the colours of the chosen frames about the grey axis by any angle,
    and scale their saturation.
    """
    batch = len(pixels)
    angle = uniform(generator, batch, -math.pi, math.pi)
    saturation = uniform(generator, batch, 0.4, 1.2)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    grey = torch.full((3, 3), 1 / 3)
    turn = (
        torch.cos(angle)[:, None, None] * (torch.eye(3) - grey)
        + torch.sin(angle)[:, None, None] * cross
    )
    mix = torch.where(
        chosen[:, None, None],
        grey + saturation[:, None, None] * turn,
        torch.eye(3),
    )
    return torch.einsum("bij,bjhw->bihw", mix, pixels).clamp(0, 1)


def augment(
    images: UInt8[Tensor, "B H W 3"],
    things: UInt8[Tensor, "B H W"],
    recolored: Bool[Tensor, " B"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, "B H W"]]:
    """Flips, zooms (half of the frames, to 0.35-1 of the width), turned hues,
    brightness, channel gain and noise.
    """
    batch = len(images)
    flip = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    zoom = torch.where(
        torch.rand(batch, generator=generator) < 0.5,
        uniform(generator, batch, 0.35, 1.0),
        torch.ones(()),
    )
    moves = [(1 - zoom) * uniform(generator, batch, -1, 1) for _ in range(2)]
    zero = torch.zeros(batch)
    theta = torch.stack(
        [
            torch.stack([zoom * flip, zero, moves[0]], 1),
            torch.stack([zero, zoom, moves[1]], 1),
        ],
        1,
    )
    grid = affine_grid(
        theta, [batch, 1, *things.shape[1:]], align_corners=False
    )
    pixels = images.permute(0, 3, 1, 2).float() / 255
    pixels = grid_sample(
        pixels,
        grid,
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    ids = grid_sample(
        things[:, None].float(),
        grid,
        mode="nearest",
        padding_mode="border",
        align_corners=False,
    )
    pixels = turn_hues(pixels, recolored, generator)
    gain = uniform(generator, batch, 0.7, 1.3)[:, None] * uniform(
        generator, 3 * batch, 0.9, 1.1
    ).view(batch, 3)
    noise = (
        torch.randn(pixels.shape, generator=generator)
        * uniform(generator, batch, 0, 0.03)[:, None, None, None]
    )
    return (pixels * gain[:, :, None, None] + noise).clamp(0, 1), ids[
        :, 0
    ].long()


def cut_regions(
    things: Int[Tensor, "B H W"], generator: torch.Generator, min_cells: int
) -> tuple[Int[Tensor, "B h w"], Int[Tensor, "R 2"]]:
    """Regions of the stride-4 map: each thing, cut by a random grid of tiles of
    32-160 pixels.

    Returns the region of each cell (-1: none, too small, or on an edge between
    things) and (frame, thing) a region.
    """
    batch = len(things)
    cells, other = things[:, 1::4, 1::4], things[:, 2::4, 2::4]
    rows = torch.arange(cells.shape[1]) * 4
    columns = torch.arange(cells.shape[2]) * 4
    tile = uniform(generator, batch, 32, 160)[:, None]
    offset = torch.rand(batch, 2, generator=generator) * tile
    row = ((rows + offset[:, :1]) / tile).floor().long()[:, :, None]
    column = ((columns + offset[:, 1:]) / tile).floor().long()[:, None, :]
    frame = torch.arange(batch)[:, None, None]
    keys = ((frame * 8 + row) * 8 + column) * 256 + cells
    keys = torch.where((cells == other) & (cells < 255), keys, -1)
    found, index, counts = torch.unique(
        keys, return_inverse=True, return_counts=True
    )
    keep = (found >= 0) & (counts >= min_cells)
    number = torch.where(keep, keep.cumsum(0) - 1, -1)
    kept = found[keep]
    return number[index], torch.stack([kept // (64 * 256), kept % 256], 1)
