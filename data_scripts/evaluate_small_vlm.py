"""Score small models on rooms they never saw: ``python
data_scripts/evaluate_small_vlm.py [NAME or FILE ...]``.

JSON lines. For each model and shift: the dense zero-shot mIoU of one full-frame
pass over all rooms, its 95 % interval over other choices of rooms (``low``,
``high``), and that of each group of rooms on its own (``groups``). The model is
the same one throughout; how far another seed of its training moves it,
``--seeds-of`` tells. For each model, at shift 0: how well sentences find the
things that they are true of, as mean average precision over sentences: names,
pairs of a colour and a name that the training said, pairs that it held out,
materials, sizes, places and uses. ``chance`` is the average precision of a
random order, ``name_alone`` that of the same pairs when only the name is asked
for. Sentences with words that a model does not know are left out.

``--seeds-of NAME`` takes the models for seeds of one training and adds rows of
that name: the mean over the seeds, each of them, and the 95 % interval of the
mean (Student's t: it asks how the next seed would do, on these rooms).
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from room_captions import HELD_OUT, Facts, Meaning, room_facts, truths
from scipy.stats import t as student
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from vlg_lib.classes import ROOMS_12
from vlg_lib.metrics import (
    accuracy,
    confusion,
    interval,
    iou_per_class,
    mean_iou,
)
from vlg_lib.rooms.render import RenderedFrame
from vlg_lib.rooms.scenes import (
    make_room,
    render_frame,
    room_camera,
    room_poses,
    split_seeds,
)
from vlg_lib.vision_language import list_models
from vlg_lib.vision_language.small import SMALL_MODELS, WEIGHTS, SmallModel
from vlg_lib.vision_language.small_tokenizer import tokenize

SHIFTS = (0.0, 0.25, 0.5, 1.0)
SAID = {
    "name": "a {name}",
    "pair": "a {color} {name}",
    "material": "something {material}",
    "size": "a {size} {name}",
    "place": "a {name} {place}",
    "use": "something to {use}",
}
SLOTS = {
    "name": ("name",),
    "pair": ("color", "name"),
    "material": ("material",),
    "size": ("size", "name"),
    "place": ("name", "place"),
    "use": ("use",),
}
MIN_CELLS = 6
MIN_TRUE = 5
"""A sentence is asked where it is true of at least so many views of things."""


def held_out_frames(
    rooms: range, shift: float, views: int
) -> Iterator[tuple[int, list[Facts], RenderedFrame]]:
    """Frames of the held-out rooms of these numbers: (room, facts of its
    things, rendered frame).
    """
    seeds = split_seeds("vlm-held-out", rooms.stop)
    for number in tqdm(rooms, desc=f"shift {shift}", unit="room", leave=False):
        room = make_room(seeds[number], shift=shift)
        facts = room_facts(room)
        for view, pose in enumerate(room_poses(room, views)):
            yield (
                number,
                facts,
                render_frame(room, room_camera(), pose, seed=view),
            )


def dense_scores(
    models: Sequence[SmallModel],
    shift: float,
    rooms: int,
    groups: int,
    views: int,
    template: str,
) -> list[dict[str, Any]]:
    """A row a model: per cent over all frames of ``groups`` times ``rooms``
    rooms, without unlabelled pixels.
    """
    classes = len(ROOMS_12)
    texts = [
        model.text_embeddings(ROOMS_12.prompts(template)) for model in models
    ]
    tables = torch.zeros(
        len(models), rooms * groups, classes, classes + 1, dtype=torch.int64
    )
    for number, _, rendered in held_out_frames(
        range(rooms * groups), shift, views
    ):
        known = rendered.labels >= 0
        for table, model, text in zip(tables, models, texts, strict=True):
            predicted = model.segment(rendered.frame.color, text)
            table[number] += confusion(
                predicted[known], rendered.labels[known], classes
            )
    rows: list[dict[str, Any]] = []
    for model, table in zip(models, tables, strict=True):
        whole = table.sum(0)
        low, high = interval(list(table))
        by_class = {
            name: percent(iou)
            for name, iou in zip(
                ROOMS_12.names, iou_per_class(whole), strict=True
            )
        }
        rows.append(
            {
                "model": model.name,
                "shift": shift,
                "rooms": len(table),
                "miou": percent(mean_iou(whole)),
                "low": percent(low),
                "high": percent(high),
                "groups": [
                    percent(mean_iou(part.sum(0)))
                    for part in table.split(rooms)
                ],
                "accuracy": percent(accuracy(whole)),
                "iou": by_class,
            }
        )
    return rows


def percent(share: float | Tensor) -> float:
    """Per cent with one decimal."""
    return round(100 * float(share), 1)


def view_embeddings(
    models: Sequence[SmallModel], rooms: int, views: int
) -> tuple[list[Float[Tensor, "T D"]], list[Facts]]:
    """For each model one mean embedding for each view of each thing, and what
    is true of the thing.
    """
    found: list[list[Tensor]] = [[] for _ in models]
    facts = []
    for _, known, rendered in held_out_frames(range(rooms), 0.0, views):
        maps = [
            model.dense_embeddings(rendered.frame.color) for model in models
        ]
        step = models[0].stride
        cells: Int[Tensor, "h w"] = rendered.instances[
            step // 2 :: step, step // 2 :: step
        ]
        for thing in cells[cells >= 0].unique().tolist():
            inside = cells == thing
            if int(inside.sum()) >= MIN_CELLS:
                facts.append(known[thing])
                for rows, dense in zip(found, maps, strict=True):
                    rows.append(
                        dense[: cells.shape[0], : cells.shape[1]][inside].mean(
                            0
                        )
                    )
    return [normalize(torch.stack(rows), dim=1) for rows in found], facts


def sentences(
    facts: Sequence[Facts],
) -> dict[str, dict[str, tuple[Meaning, Bool[Tensor, " T"]]]]:
    """By kind, sentence by sentence: what it means, and of which things it is
    true.
    """
    groups: dict[str, dict[str, tuple[Meaning, Tensor]]] = defaultdict(dict)
    for kind, slots in SLOTS.items():
        said: dict[str, Meaning] = {}
        for fact in facts:
            for value in fact.values(slots[0]):
                for other in fact.values(slots[-1]):
                    meaning = dict(zip(slots, (value, other), strict=False))
                    said.setdefault(SAID[kind].format(**meaning), meaning)
        for (text, meaning), true in zip(
            said.items(), truths(facts, list(said.values())).T, strict=True
        ):
            if int(true.sum()) >= MIN_TRUE:
                held = (
                    kind == "pair"
                    and (meaning["color"], meaning["name"]) in HELD_OUT
                )
                groups[f"{kind}, held out" if held else kind][text] = (
                    meaning,
                    true,
                )
    return groups


def knows(model: SmallModel, texts: Sequence[str]) -> bool:
    """Whether a model knows all words of these texts."""
    try:
        tokenize(texts, model.vocabulary)
    except ValueError:
        return False
    return True


def retrieval_scores(
    model: SmallModel, things: Float[Tensor, "T D"], facts: Sequence[Facts]
) -> Iterator[dict[str, Any]]:
    """Mean average precision of each kind of sentence that the model knows the
    words of.
    """

    def precisions(texts: Sequence[str], true: Sequence[Tensor]) -> float:
        different = list(dict.fromkeys(texts))
        scores = dict(
            zip(
                different,
                (things @ model.text_embeddings(different).T).T,
                strict=True,
            )
        )
        found = [
            average_precision_score(t.numpy(), scores[x].numpy())
            for x, t in zip(texts, true, strict=True)
        ]
        return percent(sum(found) / len(found))

    for kind, asked in sentences(facts).items():
        if not knows(model, list(asked)):
            continue
        true = [rows for _, rows in asked.values()]
        chance = percent(torch.stack(true).float().mean())
        row = {
            "model": model.name,
            "sentences": kind,
            "count": len(asked),
            "things": len(facts),
            "precision": precisions(list(asked), true),
            "chance": chance,
        }
        if len(SLOTS[kind.split(",")[0]]) == 2:
            row["name_alone"] = precisions(
                [f"a {meaning['name']}" for meaning, _ in asked.values()], true
            )
        yield row


def over_seeds(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of several seeds of one training on one question as one: their mean,
    each, 95 % interval of the mean.
    """
    question, figure = (
        ("shift", "miou") if "shift" in rows[0] else ("sentences", "precision")
    )
    each = [row[figure] for row in rows]
    mean = statistics.mean(each)
    spread = statistics.stdev(each) / len(each) ** 0.5
    reach = spread * float(student.ppf(0.975, len(each) - 1))
    return {
        "model": name,
        question: rows[0][question],
        "seeds": len(each),
        figure: round(mean, 1),
        "each": each,
        "low": round(mean - reach, 1),
        "high": round(mean + reach, 1),
    }


def main() -> None:
    """Print the scores of each model."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "models",
        nargs="*",
        help=(
            "names of models, or files of weights (default: all that are there)"
        ),
    )
    parser.add_argument(
        "--seeds-of",
        metavar="NAME",
        help="the models are seeds of this one: two or more",
    )
    parser.add_argument(
        "--rooms", type=int, default=24, help="rooms in a group"
    )
    parser.add_argument("--groups", type=int, default=3)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--template", default="a {name}")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    names = given.models or [
        name for name in list_models() if name in SMALL_MODELS
    ]
    models = [
        SmallModel(
            WEIGHTS / f"{name}.safetensors"
            if name in SMALL_MODELS
            else Path(name)
        )
        for name in names
    ]
    if given.seeds_of and len(models) < 2:
        parser.error(
            f"--seeds-of asks for two models or more, found {len(models)}"
        )

    def tell(rows: Sequence[dict[str, Any]]) -> None:
        for row in (
            [*rows, over_seeds(given.seeds_of, rows)]
            if given.seeds_of
            else rows
        ):
            print(json.dumps(row), flush=True)

    for shift in SHIFTS:
        tell(
            dense_scores(
                models,
                shift,
                given.rooms,
                given.groups,
                given.views,
                given.template,
            )
        )
    embedded, facts = view_embeddings(models, given.rooms, given.views)
    found = [
        list(retrieval_scores(model, things, facts))
        for model, things in zip(models, embedded, strict=True)
    ]
    if given.seeds_of:
        for rows in zip(*found, strict=True):
            tell(rows)
    else:
        tell([row for rows in found for row in rows])


if __name__ == "__main__":
    main()
