"""The experiments of the evidence: which methods, on which sizes and seeds.

Each is one command, ``vlg experiment NAME``, that writes one file for each
method and seed (:mod:`vlg_lib.pipeline.evidence`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlg_lib.adapter import ADAPTERS
from vlg_lib.artifacts import write_json
from vlg_lib.pipeline.evidence import LABELS_2D, cell_path, make_cell
from vlg_lib.pipeline.evidence_table import read_evidence, tables
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import Profile, get_profile, with_words
from vlg_lib.pipeline.run import open_run
from vlg_lib.pipeline.teaching import TEACHINGS

CLEAN_SEEDS = (3, 4, 5)
"""The seeds of the reported tables: no choice of the recipe or of a label was
made with their rooms in view."""

TEST_ROOMS = 32
"""Unseen rooms of a seed: twice those of the book profile, for narrower
intervals."""


@dataclass(frozen=True)
class Experiment:
    """Methods on one or several sizes of a run."""

    says: str
    """What it asks."""
    methods: tuple[str, ...]
    """Names in :data:`vlg_lib.pipeline.teaching.TEACHINGS` and
    :data:`vlg_lib.pipeline.evidence.LABELS_2D`."""
    variants: Mapping[str, Profile]
    """The runs to compare, by name."""
    seeds: tuple[int, ...] = CLEAN_SEEDS
    """The seeds that are recorded."""


def _evidence_profile() -> Profile:
    book = get_profile("book")
    return replace(book, rooms=replace(book.rooms, test=TEST_ROOMS))


def _longer(factor: float) -> Profile:
    steps = round(factor * _BOOK.training.steps)
    return replace(_BOOK, training=replace(_BOOK.training, steps=steps))


def _with_rooms(**settings: Any) -> Profile:
    return replace(_BOOK, rooms=replace(_BOOK.rooms, **settings))


def _with_network(**settings: Any) -> Profile:
    return replace(_BOOK, network=replace(_BOOK.network, **settings))


def _with_tolerance(tolerance: float) -> Profile:
    seen = replace(_BOOK.visibility, tolerance=tolerance)
    return replace(_BOOK, visibility=seen)


def _with_adapter(kind: str) -> Profile:
    return replace(_BOOK, adapter=replace(_BOOK.adapter, kind=kind))


_BOOK = _evidence_profile()
_TAUGHT_WITHOUT_POINTS = ("3dss-vlg", "co-trained")
_ONE_SEED = CLEAN_SEEDS[:1]

EXPERIMENTS = {
    "main": Experiment(
        "What teaches a 3D network best, one thing changed at a time?",
        (*LABELS_2D, *TEACHINGS),
        {"main": _BOOK},
    ),
    "grounded": Experiment(
        "The same with a 2D model that knows less: small-grounded.",
        (
            *LABELS_2D,
            "openscene",
            "3dss-vlg",
            "voted",
            "co-trained",
            "supervised",
        ),
        {"grounded": with_words(_BOOK, "small-grounded")},
    ),
    "length": Experiment(
        "Does the length of the training decide?",
        ("openscene", "3dss-vlg", "co-trained", "supervised"),
        {f"length-{part:g}": _longer(part) for part in (0.5, 0.8, 2.0)},
        _ONE_SEED,
    ),
    "capacity": Experiment(
        "Table 5 of the paper in shape: larger networks, other adapters.",
        ("3dss-vlg", "co-trained", "supervised"),
        {
            f"network-{name}": _with_network(architecture=name)
            for name in ("MinkUNet14A", "MinkUNet18A")
        }
        | {
            f"adapter-{kind}": _with_adapter(kind)
            for kind in ADAPTERS
            if kind != _BOOK.adapter.kind
        },
        _ONE_SEED,
    ),
    "shift": Experiment(
        "Table 4 in shape: colours nearer to what the 2D model saw, and"
        " farther.",
        ("projection", *_TAUGHT_WITHOUT_POINTS, "supervised"),
        {f"shift-{part:g}": _with_rooms(shift=part) for part in (0.0, 1.0)},
        _ONE_SEED,
    ),
    "sensitivity": Experiment(
        "What views, the depth test and the size of voxels are worth.",
        ("projection", *_TAUGHT_WITHOUT_POINTS),
        {f"views-{count}": _with_rooms(views=count) for count in (5, 10, 40)}
        | {
            f"tolerance-{part:g}": _with_tolerance(part)
            for part in (0.003, 0.03, 0.1)
        }
        | {
            f"voxels-{100 * size:g}cm": _with_network(voxel_size=size)
            for size in (0.05, 0.12)
        },
        _ONE_SEED,
    ),
    "annotated-points": Experiment(
        "Accuracy by annotation time, one half: every point of few rooms.",
        ("supervised",),
        {
            f"rooms-{count}": _with_rooms(train=count)
            for count in (1, 2, 4, 8, 16, 32, 64)
        },
        _ONE_SEED,
    ),
    "annotated-tags": Experiment(
        "The other half: tags of many rooms.",
        _TAUGHT_WITHOUT_POINTS,
        {
            f"rooms-{count}": _with_rooms(train=count)
            for count in (8, 32, 64, 256, 512)
        },
        _ONE_SEED,
    ),
}
"""The experiments by name."""


def write_tables(folder: Path, seeds: Sequence[int] = CLEAN_SEEDS) -> Path:
    """The tables of the cells in a folder, in ``FOLDER.json`` beside it.

    Errors as from :func:`vlg_lib.pipeline.evidence_table.read_evidence`.
    """
    path = folder.with_suffix(".json")
    write_json(path, tables(read_evidence(folder, seeds)))
    return path


def run_experiment(
    name: str,
    out: Path,
    *,
    seeds: Sequence[int] = (),
    methods: Sequence[str] = (),
    options: RunOptions | None = None,
) -> list[Path]:
    """Make the cells of an experiment that are not there yet, and the tables
    of each variant; the paths of the tables.

    ``seeds``, ``methods``: a part of it; by default all. The tables are of the
    methods that have all these seeds. ValueError for an unknown experiment and
    for a method that it does not have.
    """
    if name not in EXPERIMENTS:
        raise ValueError(
            f"unknown experiment {name!r}; known: {', '.join(EXPERIMENTS)}"
        )
    experiment = EXPERIMENTS[name]
    wrong = sorted(set(methods) - set(experiment.methods))
    if wrong:
        raise ValueError(
            f"experiment {name!r} has no method {wrong[0]!r}; it has:"
            f" {', '.join(experiment.methods)}"
        )
    chosen = tuple(methods) or experiment.methods
    wanted = tuple(seeds) or experiment.seeds
    written = []
    for variant, profile in experiment.variants.items():
        folder = out / variant
        for seed in wanted:
            paths = [cell_path(folder, method, seed) for method in chosen]
            if not all(path.is_file() for path in paths):
                run = open_run(profile, seed, options)
                for method in chosen:
                    make_cell(run, method, folder)
        written.append(write_tables(folder, wanted))
    return written
