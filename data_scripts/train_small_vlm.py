"""Train a small vision-language model: ``python data_scripts/train_small_vlm.py
region|grounded|clip``.

The three see the same rooms, which no train or test split contains, and have
the same two towers. They differ in what a sentence is attached to, and that
decides what a dense map of them is worth (chapter 02):

* ``region``: every region of an image has sentences of its own, and finds those
  that are true of it.
* ``grounded``: phrases belong to whole images; each picks the regions that
  answer to it (the word-region grounding of OpenSeg, Ghiasi et al., ECCV 2022,
  Eq. 3).
* ``clip``: one sentence a whole image, one vector a whole image (Radford et
  al., ICML 2021).

Stopped at any time, the same command continues. The last step's weights are
kept: no label of any pixel chooses a step.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import open_clip
import torch
from jaxtyping import Bool, Float, Int
from open_clip.transformer import TextTransformer
from room_captions import HELD_OUT, Facts, Meaning, caption, truths
from room_frames import Frames, augment, cut_regions, load_frames
from room_words import VOCABULARY
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from vlg_lib.artifacts import key_of, save_tensors
from vlg_lib.rooms.scenes import RECIPE, split_seeds
from vlg_lib.training.loop import FitSettings, Optimization, fit
from vlg_lib.vision_language.small import DIM, VisualTower
from vlg_lib.vision_language.small_text import HEADS, LAYERS, WIDTH
from vlg_lib.vision_language.small_tokenizer import CONTEXT_LENGTH, tokenize

CHECKPOINT_EVERY = 50
NAMES = {
    "region": "small-attributes",
    "grounded": "small-grounded",
    "clip": "small-clip",
}
"""What the library calls the model of each kind."""


@dataclass(frozen=True)
class Recipe:
    """The sizes of a training run."""

    rooms: int = 600
    """Rooms that are rendered for it."""
    views: int = 12
    """Frames of a room."""
    width: int = 160
    """Of a frame, pixels."""
    height: int = 120
    """Of a frame, pixels."""
    steps: int = 3200
    """Steps of the optimiser."""
    batch: int = 24
    """Frames a step."""
    learning_rate: float = 3e-3
    """The highest of the schedule."""
    weight_decay: float = 0.05
    """Of AdamW."""
    max_scale: float = 30.0
    """The largest factor on cosines before the softmax; it is learned."""
    min_cells: int = 3
    """Cells of the embedding grid that a region has at least."""
    recolor: float = 0.35
    """The share of frames whose hues are turned and whose colours are paled, so
    that shapes and places must do."""
    said: int = 4
    """How many things the caption of a whole image names."""
    seed: int = 0
    """Of the weights, the batches and the captions."""
    precision: str = "bf16"
    """``bf16`` is fast where the processor has it; ``float32`` always works."""


PROFILES = {
    "full": Recipe(),
    "fast": Recipe(rooms=24, views=6, steps=150, batch=12),
}


@dataclass(frozen=True)
class Batch:
    """Images, their regions, and sentences.

    ``regions``: the region of each cell, -1 for none; ``frames``: (R,) the
    image of each region. ``tokens``: of the different sentences; ``true``:
    which sentence is right for which region (for which image, where sentences
    belong to whole images), over ``columns``, a row of ``tokens`` for each.
    """

    step: int
    images: Float[Tensor, "B 3 H W"]
    regions: Int[Tensor, "B h w"]
    frames: Int[Tensor, " R"]
    tokens: Int[Tensor, "U context"]
    columns: Int[Tensor, " C"]
    true: Bool[Tensor, "rows C"]


def make_batch(
    kind: str,
    frames: Frames,
    recipe: Recipe,
    step: int,
    generator: torch.Generator,
) -> Batch:
    """Draw frames, augment them, cut regions, and write sentences as the kind
    of model needs them.
    """
    chosen = torch.randperm(len(frames.images), generator=generator)[
        : recipe.batch
    ]
    recolored = torch.rand(len(chosen), generator=generator) < recipe.recolor
    images, things = augment(
        frames.images[chosen], frames.things[chosen], recolored, generator
    )
    regions, owners = cut_regions(things, generator, recipe.min_cells)
    facts = []
    for frame, thing in owners.tolist():
        fact = frames.facts[frames.rooms[int(chosen[frame])]][thing]
        facts.append(fact.without_color() if recolored[frame] else fact)
    draws = torch.rand(len(facts), 3, generator=generator).tolist()
    said = [
        caption(fact, draw) for fact, draw in zip(facts, draws, strict=True)
    ]
    if kind == "region":
        texts = [text for text, _ in said]
        true = truths(facts, [meaning for _, meaning in said])
    elif kind == "clip":
        texts = image_sentences(
            said, owners, len(images), recipe.said, generator
        )
        true = torch.eye(len(images), dtype=torch.bool)
    else:
        texts, true = image_phrases(
            facts, said, owners, len(images), recipe.said, generator
        )
    unique = sorted(set(texts))
    place = {text: row for row, text in enumerate(unique)}
    columns = torch.tensor([place[text] for text in texts])
    return Batch(
        step,
        images,
        regions,
        owners[:, 0],
        tokenize(unique, VOCABULARY),
        columns,
        true,
    )


def image_phrases(
    facts: list[Facts],
    said: list[tuple[str, Meaning]],
    owners: Int[Tensor, "R 2"],
    images: int,
    count: int,
    generator: torch.Generator,
) -> tuple[list[str], Bool[Tensor, "B C"]]:
    """What is said of whole images: phrases about up to ``count`` things in
    each, and which are true of which images.

    Which region is meant is not told.
    """
    phrases: list[dict[int, int]] = [{} for _ in range(images)]
    for region in torch.randperm(len(said), generator=generator).tolist():
        frame, thing = owners[region].tolist()
        if len(phrases[frame]) < count:
            phrases[frame].setdefault(thing, region)
    meanings = dict(
        said[region] for found in phrases for region in found.values()
    )
    of_regions = truths(facts, list(meanings.values()))
    of_images = torch.zeros(images, len(meanings)).index_add_(
        0, owners[:, 0], of_regions.float()
    )
    return list(meanings), of_images > 0


def image_sentences(
    said: list[tuple[str, Meaning]],
    owners: Int[Tensor, "R 2"],
    images: int,
    count: int,
    generator: torch.Generator,
) -> list[str]:
    """One sentence an image, which names up to ``count`` things in it, with
    their colours where these are said.

    Short, so that a text has room for four: longer ones about fewer things
    taught a model of this size less.
    """
    named: list[dict[int, str]] = [{} for _ in range(images)]
    for region in torch.randperm(len(said), generator=generator).tolist():
        frame, thing = owners[region].tolist()
        meaning = said[region][1]
        if "name" in meaning and len(named[frame]) < count:
            words = ("a", meaning.get("color", ""), meaning["name"])
            named[frame].setdefault(
                thing, " ".join(word for word in words if word)
            )
    return [
        "a room with " + " ".join(found.values()) if found else "a room"
        for found in named
    ]


def fresh_text_tower() -> TextTransformer:
    """open_clip's text tower at the small models' size, with its own initial
    weights.
    """
    return TextTransformer(
        context_length=CONTEXT_LENGTH,
        vocab_size=len(VOCABULARY),
        width=WIDTH,
        heads=HEADS,
        layers=LAYERS,
        output_dim=DIM,
    )


class Towers(nn.Module):
    """Both towers and the learnt scale (inverse temperature) between them."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text = VisualTower(), fresh_text_tower()
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())


def region_means(
    dense: Float[Tensor, "B D h w"], regions: Int[Tensor, "B h w"], count: int
) -> Float[Tensor, "R D"]:
    """Mean embedding of the cells of each region."""
    flat, owner = dense.permute(0, 2, 3, 1).flatten(0, 2), regions.flatten()
    inside = owner >= 0
    sums = torch.zeros(count, flat.shape[1]).index_add_(
        0, owner[inside], flat[inside]
    )
    return sums / torch.bincount(owner[inside], minlength=count)[:, None]


def contrast(
    similarity: Float[Tensor, "R C"], true: Bool[Tensor, "R C"]
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE with several positives: cross-entropy to a uniform
    target over them, both ways.
    """
    loss = similarity.new_zeros(())
    for scores, positive in ((similarity, true), (similarity.T, true.T)):
        rows = positive.any(1)
        target = positive[rows].float()
        target = target / target.sum(1, keepdim=True)
        loss = (
            loss - 0.5 * (target * log_softmax(scores[rows], 1)).sum(1).mean()
        )
    return loss


def grounded_scores(
    similarity: Float[Tensor, "R C"],
    frames: Int[Tensor, " R"],
    images: int,
    scale: Float[Tensor, ""],
) -> Float[Tensor, "B C"]:
    """How well each phrase fits each image: the mean over its regions, weighted
    by a softmax of how well they fit.
    """
    powers = (scale * (similarity - similarity.detach().amax(0))).exp()
    weights = powers.new_zeros(images, similarity.shape[1]).index_add_(
        0, frames, powers
    )
    sums = powers.new_zeros(images, similarity.shape[1]).index_add_(
        0, frames, powers * similarity
    )
    return sums / weights.clamp(min=1e-30)


def batch_loss(
    kind: str, towers: Towers, batch: Batch, recipe: Recipe
) -> Float[Tensor, ""]:
    """The loss of a batch: what is true of a region, or of an image, should
    find it, and the reverse.
    """
    images = batch.images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(
        "cpu", torch.bfloat16, enabled=recipe.precision == "bf16"
    ):
        dense = towers.visual(images)
    texts = normalize(towers.text(batch.tokens), dim=1)[batch.columns]
    scale = towers.log_scale.exp().clamp(max=recipe.max_scale)
    if kind == "clip":
        return contrast(
            scale * normalize(dense.float().mean((2, 3)), dim=1) @ texts.T,
            batch.true,
        )
    regions = normalize(
        region_means(dense.float(), batch.regions, len(batch.frames)), dim=1
    )
    similarity = regions @ texts.T
    if kind == "grounded":
        similarity = grounded_scores(
            similarity, batch.frames, len(images), scale
        )
    return contrast(scale * similarity, batch.true)


def one_cycle(progress: float, warm: float = 0.2) -> float:
    """Learning-rate factor: a cosine rise to 1 over the first fifth of the run,
    a cosine fall to 0 over the rest.
    """
    if progress < warm:
        return float(
            0.04 + 0.96 * (1 - math.cos(math.pi * progress / warm)) / 2
        )
    return float(
        1e-4 + (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2
    )


def train(
    kind: str, recipe: Recipe, frames: Frames, folder: Path
) -> tuple[Towers, list[float]]:
    """Train the towers, resuming from ``folder``; one JSON line a step goes to
    ``folder/log.jsonl``.

    Steps that a stopped run takes again have a line for each time.
    """
    torch.manual_seed(recipe.seed)
    towers = Towers()
    towers.visual.to(memory_format=torch.channels_last)
    flat = [p for p in towers.parameters() if p.ndim < 2]
    deep = [p for p in towers.parameters() if p.ndim >= 2]
    groups = [
        {"params": deep, "weight_decay": recipe.weight_decay},
        {"params": flat, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    start = time.process_time()

    def batches(step: int, generator: torch.Generator) -> Batch:
        return make_batch(kind, frames, recipe, step, generator)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Towers)
        value = batch_loss(kind, model, batch, recipe)
        line = {
            "step": batch.step,
            "loss": round(float(value.detach()), 4),
            "scale": round(float(model.log_scale.detach().exp()), 2),
            "cpu_seconds": round(time.process_time() - start, 1),
        }
        with (folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return value

    losses = fit(
        towers,
        batches,
        loss,
        Optimization(
            optimizer,
            steps=recipe.steps,
            schedule=one_cycle,
            max_grad_norm=1.0,
        ),
        FitSettings(
            seed=recipe.seed,
            checkpoint=folder / "checkpoint.safetensors",
            checkpoint_every=CHECKPOINT_EVERY,
            progress="training",
        ),
    )
    return towers, losses


def manifest(
    kind: str, recipe: Recipe, losses: list[float]
) -> dict[str, object]:
    """What made the weights: sizes, seeds, versions and commit; and the words
    they know, which the model needs.
    """
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "kind": kind,
        "recipe": asdict(recipe),
        "rooms_recipe": RECIPE,
        "first_room_seed": split_seeds("vlm-train", 1)[0],
        "commit": commit,
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "last_loss": round(float(np.mean(losses[-50:])), 4),
        "vocabulary": VOCABULARY,
        "held_out": sorted(HELD_OUT),
    }


def main() -> None:
    """Render, train, and write the weights in half precision."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=list(NAMES))
    parser.add_argument("--profile", choices=list(PROFILES), default="full")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("build/small-vlm"),
        help="rendered frames, checkpoints, log",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where the weights go (default: in CACHE, under the model's name)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="two threads on a busy machine can be slower than one",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that render"
    )
    for field in fields(Recipe):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            help=argparse.SUPPRESS,
        )
    given = vars(parser.parse_args())
    torch.set_num_threads(given["threads"])
    sizes = {
        field.name: given[field.name]
        for field in fields(Recipe)
        if given[field.name] is not None
    }
    recipe, kind = replace(PROFILES[given["profile"]], **sizes), given["kind"]
    folder = (
        given["cache"]
        / f"run-{kind}-seed{recipe.seed}-{key_of(**asdict(recipe))}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    frames = load_frames(
        given["cache"],
        recipe.rooms,
        recipe.views,
        recipe.width,
        recipe.height,
        given["workers"],
    )
    towers, losses = train(kind, recipe, frames, folder)
    out = given["out"] or given["cache"] / f"{NAMES[kind]}.safetensors"
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in towers.state_dict().items()
        if not name.startswith("log_scale")
    }
    save_tensors(out, half, manifest(kind, recipe, losses))
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, loss"
        f" {np.mean(losses[-50:]):.3f} after {recipe.steps} steps"
    )


if __name__ == "__main__":
    main()
