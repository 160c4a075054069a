"""The experiments of the evidence: which methods, on which sizes and seeds.

Each is one command, ``vlg experiment NAME``, that writes one file for each
method and seed (:mod:`vlg_lib.pipeline.evidence`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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


def _longer(profile: Profile, factor: float) -> Profile:
    steps = round(factor * profile.training.steps)
    return replace(profile, training=replace(profile.training, steps=steps))


_BOOK = _evidence_profile()

EXPERIMENTS = {
    "main": Experiment(
        "What teaches a 3D network best, one thing changed at a time?",
        (*LABELS_2D, *TEACHINGS),
        {"main": _BOOK},
    ),
    "grounded": Experiment(
        "The same with a 2D model that knows less: small-grounded.",
        (*LABELS_2D, "openscene", "3dss-vlg", "voted", "round-2", "round-3"),
        {"grounded": with_words(_BOOK, "small-grounded")},
    ),
    "length": Experiment(
        "Does the length of the training decide? Half and twice the steps.",
        ("openscene", "3dss-vlg", "voted", "supervised"),
        {
            f"length-{factor:g}": _longer(_BOOK, factor)
            for factor in (0.5, 0.8, 2.0)
        },
        CLEAN_SEEDS[:1],
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
