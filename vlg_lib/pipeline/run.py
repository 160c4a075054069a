"""The whole pipeline from a profile: rooms, fused embeddings, pseudo labels,
the adapter, the 3D networks, one table.

Every artefact is a file whose name carries a key: the settings and the seed it
depends on, the key of what it is made from, and a hash of the code that makes
it. What is there is loaded, what is missing is made; so a run that was stopped
continues, two chapters share their work, and a change of the code remakes what
it touches and nothing else.

``scenes`` -> ``stages`` (1 and 2) -> ``networks`` (stage 3 and the baselines)
-> ``table``: each adds its part to :class:`Experiment`. Point labels are opened
by :meth:`Experiment.truth` alone: for the table, and for the fully supervised
network.
"""

import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import vlg_lib
from vlg_lib.artifacts import write_json
from vlg_lib.pipeline.networks import NETWORKS
from vlg_lib.pipeline.profiles import Profile
from vlg_lib.pipeline.scenes import SPLITS, default_cache
from vlg_lib.pipeline.table import ROWS, ROWS_3D, Experiment
from vlg_lib.training import distributed

__all__ = [
    "NETWORKS",
    "ROWS",
    "ROWS_3D",
    "SOURCES",
    "SPLITS",
    "Experiment",
    "default_cache",
    "run",
]

SOURCES = ("rooms", "layout")
"""Where scenes come from: made by a seed, or folders in the layout of
:mod:`vlg_lib.data.layout`."""


def run(
    source: str = "rooms",
    profile: str | Profile = "auto",
    seed: int = 0,
    out: Path | str = "results-run",
    *,
    scenes_folder: Path | str | None = None,
    fused_folder: Path | str | None = None,
    cache_folder: Path | str | None = None,
    keep_gb: float = 0.0,
    device: str | None = None,
    progress: bool | None = None,
) -> list[dict[str, Any]]:
    """Run the whole pipeline and return the table; ``out/table.json`` and
    ``out/run.json`` (what made it) are written.

    ``source``: "rooms" (made by the seed) or "layout" (the folders in
    ``scenes_folder``), with fused embeddings from ``fused_folder`` where it is
    given. Artefacts are kept in ``cache_folder`` (default
    :func:`default_cache`), so a stopped run continues; ``keep_gb`` gigabytes of
    dense embeddings of frames among them. In several processes
    (:mod:`vlg_lib.training.distributed`) all of them call it with the same
    arguments and return the table, and the main one writes. ValueError for an
    unknown source or profile, and where source and ``scenes_folder`` do not
    fit.
    """
    if source not in SOURCES:
        raise ValueError(
            f"unknown source {source!r}; known: {', '.join(SOURCES)}"
        )
    if (source == "layout") != (scenes_folder is not None):
        raise ValueError(
            "source 'layout' needs a folder of scenes, and source 'rooms' takes"
            " none"
        )
    experiment = Experiment.open(
        profile,
        seed,
        cache_folder,
        scenes_folder=scenes_folder,
        fused_folder=fused_folder,
        keep_gb=keep_gb,
        device=device,
        progress=progress,
    )
    started = time.perf_counter()
    rows = experiment.table()
    skipped = {
        s.name: dict(s.skipped)
        for split in SPLITS
        for s in experiment.scenes(split)
        if s.skipped
    }
    versions = {
        "vlg_lib": vlg_lib.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if distributed.rank() > 0:
        return rows
    write_json(
        Path(out) / "run.json",
        {
            "source": source,
            "seed": seed,
            "profile": asdict(experiment.profile),
            "device": experiment.device,
            "threads": torch.get_num_threads(),
            "processes": distributed.world_size(),
            "versions": versions,
            "skipped": skipped,
            "seconds": time.perf_counter() - started,
        },
    )
    write_json(Path(out) / "table.json", rows)
    return rows
