"""Train the small region-caption model that the book ships: ``python data_scripts/train_small_vlm.py --profile full``.

Rooms that no train or test split contains are rendered (and cached), their objects cut into image regions, each region
described by one sentence, and both towers trained so that regions and sentences find each other. Stopped at any time,
the same command continues. The last step's weights are kept: no label of any pixel chooses a step.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import open_clip
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, log_softmax, normalize
from tqdm.auto import tqdm

from vlg_lib.data.rooms import RECIPE, make_room, render_frame, room_camera, room_poses, split_seeds
from vlg_lib.store import load_tensors, save_tensors
from vlg_lib.train import fit
from vlg_lib.vision_language.small import VisualTower, text_tower
from vlg_lib.vision_language.small_words import NAMES, tokenize

TEMPLATES = (
    "{name}", "a {name}", "the {name}", "a {name} in a scene", "a {name} in the room", "a photo of a {name}",
    "there is a {name} in the scene", "a {color} {name}", "a {material} {name}", "a {color} {material} {name}",
    "a photo of a {color} {name}", "a {color} {name} in a room",
)  # fmt: skip
COLORLESS = tuple(template for template in TEMPLATES if "{color}" not in template)
SYNONYM_CHANCE = 0.2
NAME_NUMBER = {name: number for number, name in enumerate(NAMES)}


@dataclass(frozen=True)
class Recipe:
    """The sizes of a training run.

    ``recolor`` is the share of frames whose hues are turned and whose colours are paled, so that shapes and places must
    do. ``precision``: "bf16" is fast where the processor has it; "float32" always works.
    """

    rooms: int = 400
    views: int = 12
    width: int = 160
    height: int = 120
    steps: int = 1600
    batch: int = 24
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    max_scale: float = 30.0
    min_cells: int = 3
    recolor: float = 0.0
    seed: int = 0
    precision: str = "bf16"


PROFILES = {
    "full": Recipe(),
    "refine": Recipe(rooms=600, learning_rate=2e-3, recolor=0.35),
    "fast": Recipe(rooms=24, views=6, steps=150, batch=12),
}


@dataclass(frozen=True)
class Frames:
    """All rendered frames: ``images`` (F, H, W, 3) uint8, ``things`` (F, H, W) uint8 (255: nothing), and their words.

    ``words``: for each room, (name, colour, material) of each of its things; ``rooms``: the room of each frame.
    """

    images: UInt8[Tensor, "F H W 3"]
    things: UInt8[Tensor, "F H W"]
    rooms: list[int]
    words: list[list[tuple[str, str, str]]]


def render_room(path: Path, seed: int, recipe: Recipe) -> Path:
    """Render one room at shift 0 and store its frames with the caption words of its things."""
    if not path.exists():
        room = make_room(seed)
        camera = room_camera(recipe.width, recipe.height)
        rendered = [render_frame(room, camera, pose, seed=i) for i, pose in enumerate(room_poses(room, recipe.views))]
        tensors = {
            "images": torch.stack([frame.frame.color for frame in rendered]),
            "things": torch.stack([frame.instances for frame in rendered]).remainder(256).to(torch.uint8),
        }
        save_tensors(path, tensors, {"things": [[t.name, t.color, t.material] for t in room.things]})
    return path


def load_frames(cache: Path, recipe: Recipe, workers: int) -> Frames:
    """Render what the cache lacks, and read all frames into memory (77 kB each)."""
    seeds = split_seeds("vlm-train", recipe.rooms)
    folder = cache / f"frames-{RECIPE}-{recipe.views}x{recipe.width}x{recipe.height}"
    paths = [folder / f"{seed}.safetensors" for seed in seeds]
    with ProcessPoolExecutor(workers) as pool:
        jobs = pool.map(render_room, paths, seeds, [recipe] * len(seeds), chunksize=4)
        for _ in tqdm(jobs, total=len(seeds), desc="rendering", unit="room"):
            pass
    images, things, rooms, words = [], [], [], []
    for number, path in enumerate(paths):
        tensors, manifest = load_tensors(path)
        images.append(tensors["images"])
        things.append(tensors["things"])
        rooms += [number] * len(tensors["images"])
        words.append([(name, color, material) for name, color, material in manifest["things"]])
    return Frames(torch.cat(images), torch.cat(things), rooms, words)


def uniform(generator: torch.Generator, count: int, low: float, high: float) -> Tensor:
    """``count`` uniform random numbers in [low, high)."""
    return low + (high - low) * torch.rand(count, generator=generator)


def turn_hues(
    pixels: Float[Tensor, "B 3 H W"], chosen: Bool[Tensor, " B"], generator: torch.Generator
) -> Float[Tensor, "B 3 H W"]:
    """Rotate the colours of the chosen frames about the grey axis by any angle, and scale their saturation."""
    batch = len(pixels)
    angle, saturation = uniform(generator, batch, -math.pi, math.pi), uniform(generator, batch, 0.4, 1.2)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    grey = torch.full((3, 3), 1 / 3)
    turn = torch.cos(angle)[:, None, None] * (torch.eye(3) - grey) + torch.sin(angle)[:, None, None] * cross
    mix = torch.where(chosen[:, None, None], grey + saturation[:, None, None] * turn, torch.eye(3))
    return torch.einsum("bij,bjhw->bihw", mix, pixels).clamp(0, 1)


def augment(
    images: UInt8[Tensor, "B H W 3"],
    things: UInt8[Tensor, "B H W"],
    recolored: Bool[Tensor, " B"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, "B H W"]]:
    """Flips, zooms (half of the frames, to 0.35-1 of the width), turned hues, brightness, channel gain and noise."""
    batch = len(images)
    flip = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    zoom = torch.where(
        torch.rand(batch, generator=generator) < 0.5, uniform(generator, batch, 0.35, 1.0), torch.ones(())
    )
    moves = [(1 - zoom) * uniform(generator, batch, -1, 1) for _ in range(2)]
    zero = torch.zeros(batch)
    theta = torch.stack([torch.stack([zoom * flip, zero, moves[0]], 1), torch.stack([zero, zoom, moves[1]], 1)], 1)
    grid = affine_grid(theta, [batch, 1, *things.shape[1:]], align_corners=False)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    pixels = grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    ids = grid_sample(things[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    pixels = turn_hues(pixels, recolored, generator)
    gain = uniform(generator, batch, 0.7, 1.3)[:, None] * uniform(generator, 3 * batch, 0.9, 1.1).view(batch, 3)
    noise = torch.randn(pixels.shape, generator=generator) * uniform(generator, batch, 0, 0.03)[:, None, None, None]
    return (pixels * gain[:, :, None, None] + noise).clamp(0, 1), ids[:, 0].long()


def cut_regions(
    things: Int[Tensor, "B H W"], generator: torch.Generator, min_cells: int
) -> tuple[Int[Tensor, "B h w"], Int[Tensor, "R 2"]]:
    """Regions of the stride-4 map: each thing, cut by a random grid of tiles of 32-160 pixels.

    Returns the region of each cell (-1: none, too small, or on an edge between things) and (frame, thing) a region.
    """
    batch = len(things)
    cells, other = things[:, 1::4, 1::4], things[:, 2::4, 2::4]
    rows, columns = torch.arange(cells.shape[1]) * 4, torch.arange(cells.shape[2]) * 4
    tile = uniform(generator, batch, 32, 160)[:, None]
    offset = torch.rand(batch, 2, generator=generator) * tile
    row = ((rows + offset[:, :1]) / tile).floor().long()[:, :, None]
    column = ((columns + offset[:, 1:]) / tile).floor().long()[:, None, :]
    frame = torch.arange(batch)[:, None, None]
    keys = ((frame * 8 + row) * 8 + column) * 256 + cells
    keys = torch.where((cells == other) & (cells < 255), keys, -1)
    found, index, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    keep = (found >= 0) & (counts >= min_cells)
    number = torch.where(keep, keep.cumsum(0) - 1, -1)
    kept = found[keep]
    return number[index], torch.stack([kept // (64 * 256), kept % 256], 1)


def captions(words: list[tuple[str, str, str]], recolored: list[bool], generator: torch.Generator) -> list[str]:
    """One templated sentence a region; sometimes a synonym instead of the name. Turned hues are not put into words."""
    chosen = torch.rand(len(words), generator=generator).tolist()
    luck, which = (torch.rand(len(words), generator=generator).tolist() for _ in range(2))
    texts = []
    for (name, color, material), turned, place, chance, pick in zip(words, recolored, chosen, luck, which, strict=True):
        templates = COLORLESS if turned else TEMPLATES
        synonyms = NAMES[name]
        said = synonyms[int(pick * len(synonyms))] if synonyms and chance < SYNONYM_CHANCE else name
        texts.append(templates[int(place * len(templates))].format(name=said, color=color, material=material))
    return texts


@dataclass(frozen=True)
class Batch:
    """Images, the region of each cell, and for each region its class number and its caption (a row of ``tokens``)."""

    step: int
    images: Float[Tensor, "B 3 H W"]
    regions: Int[Tensor, "B h w"]
    names: Int[Tensor, " R"]
    tokens: Int[Tensor, "U context"]
    captions: Int[Tensor, " R"]


def make_batch(frames: Frames, recipe: Recipe, step: int, generator: torch.Generator) -> Batch:
    """Draw frames, augment them, cut regions and describe each."""
    chosen = torch.randperm(len(frames.images), generator=generator)[: recipe.batch]
    recolored = torch.rand(len(chosen), generator=generator) < recipe.recolor
    images, things = augment(frames.images[chosen], frames.things[chosen], recolored, generator)
    regions, owners = cut_regions(things, generator, recipe.min_cells)
    words = [frames.words[frames.rooms[int(chosen[frame])]][thing] for frame, thing in owners.tolist()]
    texts = captions(words, recolored[owners[:, 0]].tolist(), generator)
    unique = sorted(set(texts))
    place = {text: row for row, text in enumerate(unique)}
    names = torch.tensor([NAME_NUMBER[name] for name, _, _ in words])
    return Batch(step, images, regions, names, tokenize(unique), torch.tensor([place[text] for text in texts]))


class Towers(nn.Module):
    """Both towers and the learnt scale (inverse temperature) between them."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text = VisualTower(), text_tower()
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())


def region_means(dense: Float[Tensor, "B D h w"], regions: Int[Tensor, "B h w"], count: int) -> Float[Tensor, "R D"]:
    """Mean embedding of the cells of each region."""
    flat, owner = dense.permute(0, 2, 3, 1).flatten(0, 2), regions.flatten()
    inside = owner >= 0
    sums = torch.zeros(count, flat.shape[1]).index_add_(0, owner[inside], flat[inside])
    return sums / torch.bincount(owner[inside], minlength=count)[:, None]


def contrast(similarity: Float[Tensor, "R R"], same: Float[Tensor, "R R"]) -> Tensor:
    """Symmetric InfoNCE with several positives: cross-entropy to a uniform target over them, both ways."""
    target = same / same.sum(1, keepdim=True)
    return -0.5 * ((target * log_softmax(similarity, 1)).sum(1) + (target * log_softmax(similarity.T, 1)).sum(1)).mean()


def batch_loss(towers: Towers, batch: Batch, recipe: Recipe) -> Tensor:
    """The loss of a batch: every region should find the captions that name its class, and the reverse."""
    images = batch.images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        dense = towers.visual(images)
    regions = normalize(region_means(dense.float(), batch.regions, len(batch.names)), dim=1)
    texts = normalize(towers.text(batch.tokens), dim=1)[batch.captions]
    scale = towers.log_scale.exp().clamp(max=recipe.max_scale)
    same = (batch.names[:, None] == batch.names[None]).float()
    return contrast(scale * regions @ texts.T, same)


def one_cycle(progress: float, warm: float = 0.2) -> float:
    """Learning-rate factor: a cosine rise to 1 over the first fifth of the run, a cosine fall to 0 over the rest."""
    if progress < warm:
        return float(0.04 + 0.96 * (1 - math.cos(math.pi * progress / warm)) / 2)
    return float(1e-4 + (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2)


def train(recipe: Recipe, frames: Frames, folder: Path, start_from: Path | None = None) -> tuple[Towers, list[float]]:
    """Train the towers, resuming from ``folder``; one JSON line a step goes to ``folder/log.jsonl``.

    ``start_from``: the weights of an earlier run to refine (default: fresh weights from the recipe's seed).
    """
    torch.manual_seed(recipe.seed)
    towers = Towers()
    if start_from is not None:
        towers.load_state_dict(load_tensors(start_from)[0], strict=False)
    towers.visual.to(memory_format=torch.channels_last)
    flat = [p for p in towers.parameters() if p.ndim < 2]
    deep = [p for p in towers.parameters() if p.ndim >= 2]
    groups = [{"params": deep, "weight_decay": recipe.weight_decay}, {"params": flat, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    start = time.process_time()

    def batches(step: int, generator: torch.Generator) -> Batch:
        return make_batch(frames, recipe, step, generator)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Towers)
        value = batch_loss(model, batch, recipe)
        line = {"step": batch.step, "loss": round(float(value.detach()), 4),
                "scale": round(float(model.log_scale.detach().exp()), 2),
                "cpu_seconds": round(time.process_time() - start, 1)}  # fmt: skip
        with (folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return value

    losses = fit(
        towers, batches, loss, steps=recipe.steps, optimizer=optimizer, schedule=one_cycle, seed=recipe.seed,
        checkpoint=folder / "checkpoint.safetensors", checkpoint_every=50, clip=1.0, progress="training",
    )  # fmt: skip
    return towers, losses


def manifest(recipe: Recipe, losses: list[float], start_from: Path | None) -> dict[str, object]:
    """What made the weights: sizes, seeds, versions, commit, and the same of the weights that were refined."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "recipe": asdict(recipe), "rooms_recipe": RECIPE, "first_room_seed": split_seeds("vlm-train", 1)[0],
        "commit": commit, "torch": torch.__version__, "open_clip": open_clip.__version__, "numpy": np.__version__,
        "python": sys.version.split()[0], "last_loss": round(float(np.mean(losses[-50:])), 4),
        "refined": None if start_from is None else load_tensors(start_from)[1],
    }  # fmt: skip


def main() -> None:
    """Render, train, and write the weights in half precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=list(PROFILES), default="full")
    parser.add_argument("--cache", type=Path, default=Path("build/small-vlm"), help="rendered frames, checkpoints, log")
    parser.add_argument("--out", type=Path, help="where the weights go (default: CACHE/small-region.safetensors)")
    parser.add_argument("--start-from", type=Path, help="weights to refine, of an earlier run")
    parser.add_argument("--threads", type=int, default=1, help="two threads on a busy machine can be slower than one")
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), help=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    torch.set_num_threads(given["threads"])
    sizes = {field.name: given[field.name] for field in fields(Recipe) if given[field.name] is not None}
    recipe = replace(PROFILES[given["profile"]], **sizes)
    folder = given["cache"] / f"run-{given['profile']}-seed{recipe.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    frames = load_frames(given["cache"], recipe, given["workers"])
    towers, losses = train(recipe, frames, folder, given["start_from"])
    out = given["out"] or given["cache"] / "small-region.safetensors"
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in towers.state_dict().items()
        if not name.startswith("log_scale")
    }
    save_tensors(out, half, manifest(recipe, losses, given["start_from"]))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, loss {np.mean(losses[-50:]):.3f} after {recipe.steps} steps")


if __name__ == "__main__":
    main()
