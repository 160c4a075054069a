"""The whole method from a profile: resumable, each artefact made once.

>>> from vlg_lib.pipeline import open_run
>>> run = open_run("fast", seed=0)

``run.scenes``, ``run.stages``, ``run.networks`` and ``run.table`` are its
parts.
"""

from vlg_lib.pipeline.cache import Artifact, Cache, Manifest, default_cache
from vlg_lib.pipeline.networks import NETWORKS, Networks
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import (
    PROFILES,
    EvaluationSettings,
    Profile,
    corrected,
    get_profile,
    with_words,
)
from vlg_lib.pipeline.run import SOURCES, Run, open_run, run_pipeline
from vlg_lib.pipeline.scenes import SPLITS, Scenes
from vlg_lib.pipeline.stages import Stages
from vlg_lib.pipeline.table import ROWS, ROWS_3D, Row, Table

__all__ = [
    "NETWORKS",
    "PROFILES",
    "ROWS",
    "ROWS_3D",
    "SOURCES",
    "SPLITS",
    "Artifact",
    "Cache",
    "EvaluationSettings",
    "Manifest",
    "Networks",
    "Profile",
    "Row",
    "Run",
    "RunOptions",
    "Scenes",
    "Stages",
    "Table",
    "corrected",
    "default_cache",
    "get_profile",
    "open_run",
    "run_pipeline",
    "with_words",
]
