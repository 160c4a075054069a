"""What the file of a trained network says of itself: its classes, its teacher
and its training.
"""

from dataclasses import asdict
from typing import Any

import torch

import vlg_lib
from vlg_lib.pipeline.run import Run
from vlg_lib.pipeline.teaching import teaching
from vlg_lib.vision_language.prompts import join_templates


def network_facts(run: Run, kind: str) -> dict[str, Any]:
    """What :func:`vlg_lib.networks.point_network.save_network` is told of the
    network ``kind`` of a run, which must be trained.
    """
    profile, classes = run.profile, run.scenes.class_set
    return {
        "class_set": {"name": classes.name, "names": list(classes.names)},
        "teacher": profile.teacher.name,
        "prompt_template": join_templates(profile.prompts.templates),
        "training": _training_facts(run, kind),
    }


def _training_facts(run: Run, kind: str) -> dict[str, Any]:
    made = run.cache.manifest(run.networks.artifact(kind))
    return {
        "kind": kind,
        "taught_by": teaching(kind).says,
        "profile": run.profile.name,
        "seed": run.seed,
        "rooms": run.profile.rooms.train,
        "shift": run.profile.rooms.shift,
        "recipe": asdict(run.networks.recipe(kind)),
        "balance": run.profile.balance,
        "seconds": round(made.seconds),
        "versions": {
            "vlg_lib": vlg_lib.__version__,
            "torch": torch.__version__,
        },
    }
