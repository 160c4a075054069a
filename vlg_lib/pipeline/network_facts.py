"""What the file of a trained network says of itself: its classes, its teacher
and its training.
"""

from dataclasses import asdict
from typing import Any

import torch

import vlg_lib
from vlg_lib.artifacts import load_tensors
from vlg_lib.pipeline.table import Experiment

TAUGHT_BY = {
    "cam": "the tags of each room alone (multiple-instance learning)",
    "openscene": "P^2D, the fused 2D embeddings; no tags",
    "cross-entropy": "the pseudo labels (2D embeddings and tags)",
    "3dss-vlg": (
        "A^3D, the adapted embeddings (2D embeddings and tags): the method of"
        " the book"
    ),
    "supervised": "the true label of every point",
}
"""What each 3D network of a run learns from, in words."""


def network_facts(experiment: Experiment, kind: str) -> dict[str, Any]:
    """What :func:`vlg_lib.networks.point_network.save_network` is told of the
    network ``kind`` of a run, which must be trained.
    """
    classes = experiment.class_set
    return {
        "class_set": {"name": classes.name, "names": list(classes.names)},
        "teacher": experiment.profile.teacher,
        "prompt_template": experiment.profile.prompt_template,
        "training": _training_facts(experiment, kind),
    }


def _training_facts(experiment: Experiment, kind: str) -> dict[str, Any]:
    profile = experiment.profile
    recipe = asdict(experiment.training_settings(kind))
    recipe["schedule"] = recipe["schedule"].__name__
    told = load_tensors(experiment.network_path(kind))[1]
    return {
        "kind": kind,
        "taught_by": TAUGHT_BY[kind],
        "profile": profile.name,
        "seed": experiment.seed,
        "rooms": profile.train_rooms,
        "shift": profile.shift,
        "recipe": recipe,
        "balance": profile.balance,
        "seconds": round(told["seconds"]),
        "versions": {
            "vlg_lib": vlg_lib.__version__,
            "torch": torch.__version__,
        },
    }
