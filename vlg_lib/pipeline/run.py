"""The whole pipeline from a profile: rooms, fused embeddings, pseudo labels,
the adapter, the 3D networks, one table.

A run is made of parts, each of which is given the one before::

    Scenes -> Stages (1 and 2) -> Networks (stage 3, baselines) -> Table
                 Cache: what they made, in files

:func:`open_run` builds them and makes nothing; what is asked of a part is read
from the cache or made then. Point labels are opened by
:meth:`vlg_lib.pipeline.scenes.Scenes.truth` alone: for the table, and for the
fully supervised network.
"""

import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import vlg_lib
from vlg_lib.artifacts import write_json
from vlg_lib.pipeline.cache import Cache, default_cache
from vlg_lib.pipeline.networks import Networks
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import Profile, get_profile
from vlg_lib.pipeline.scenes import Scenes
from vlg_lib.pipeline.stages import Stages
from vlg_lib.pipeline.table import Row, Table
from vlg_lib.training import distributed

SOURCES = ("rooms", "layout")
"""Where scenes come from: made by a seed, or folders in the layout of
:mod:`vlg_lib.data.layout`."""


@dataclass(frozen=True)
class Run:
    """One run of the whole method: its parts, each made from the one before."""

    profile: Profile
    """Its sizes."""
    seed: int
    """What its rooms, first weights and random draws start from."""
    cache: Cache
    """What it made, in files."""
    scenes: Scenes
    """The scenes, their tags, and the door to their point labels."""
    stages: Stages
    """Stages 1 and 2: fused embeddings, pseudo labels, the adapter."""
    networks: Networks
    """Stage 3 and the baselines: trained 3D networks."""
    table: Table
    """The scores of all methods."""


def open_run(
    profile: str | Profile = "auto",
    seed: int = 0,
    options: RunOptions | None = None,
    *,
    scenes: Scenes | None = None,
) -> Run:
    """The run of a profile and a seed; nothing is made until it is asked for.

    ``scenes``: scenes that are there already (:meth:`Scenes.in_memory`), else
    those of ``options.scenes_folder``, else rooms that the seed makes. In
    processes that a launcher started (:mod:`vlg_lib.training.distributed`) all
    of them open it and call the same methods in the same order. ValueError for
    an unknown profile and a negative seed.

    >>> run = open_run("fast", seed=0)
    >>> run.profile.rooms.train
    8
    """
    options = options or RunOptions()
    distributed.start(options.device)
    chosen = profile if isinstance(profile, Profile) else get_profile(profile)
    if seed < 0:
        raise ValueError(f"a seed is a whole number from 0, found {seed}")
    cache = Cache(options.cache_folder or default_cache())
    if scenes is None and options.scenes_folder is not None:
        scenes = Scenes.in_folder(options.scenes_folder)
    elif scenes is None:
        scenes = Scenes.of_rooms(
            chosen.rooms,
            seed,
            cache.folder,
            progress=options.has_bars(chosen.name),
        )
    stages = Stages(scenes, chosen, cache, seed, options)
    networks = Networks(stages)
    return Run(chosen, seed, cache, scenes, stages, networks, Table(networks))


def run_pipeline(
    source: str = "rooms",
    profile: str | Profile = "auto",
    seed: int = 0,
    out: Path | str = "results-run",
    options: RunOptions | None = None,
) -> list[Row]:
    """Run the whole pipeline and return the table; ``out/table.json`` and
    ``out/run.json`` (what made it) are written.

    ``source``: "rooms" (made by the seed) or "layout" (the folders in
    ``options.scenes_folder``). Artefacts are kept in the cache, so a stopped
    run continues. In several processes (:mod:`vlg_lib.training.distributed`)
    all of them call it with the same arguments and return the table, and the
    main one writes. ValueError for an unknown source or profile, and where
    source and ``options.scenes_folder`` do not fit.
    """
    options = options or RunOptions()
    if source not in SOURCES:
        raise ValueError(
            f"unknown source {source!r}; known: {', '.join(SOURCES)}"
        )
    if (source == "layout") != (options.scenes_folder is not None):
        raise ValueError(
            "source 'layout' needs a folder of scenes, and source 'rooms' takes"
            " none"
        )
    run = open_run(profile, seed, options)
    started = time.perf_counter()
    rows = run.table.rows()
    facts = _facts(run, source, time.perf_counter() - started)
    if distributed.rank() == 0:
        write_json(Path(out) / "run.json", facts)
        write_json(Path(out) / "table.json", rows)
    return rows


def _facts(run: Run, source: str, seconds: float) -> dict[str, Any]:
    """What made a table, for its reader."""
    return {
        "source": source,
        "seed": run.seed,
        "profile": asdict(run.profile),
        "device": run.stages.device,
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "versions": {
            "vlg_lib": vlg_lib.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "skipped": {
            scene.name: dict(scene.skipped)
            for scene in run.scenes.all()
            if scene.skipped
        },
        "seconds": seconds,
    }
