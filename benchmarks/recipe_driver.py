"""The work of benchmarks/recipe.py on one build, with its names or the old
ones: see :mod:`baseline`.
"""

import time
from typing import Any

import torch
from baseline import serve
from safetensors.torch import load_file, save_file

try:
    from vlg_lib.distill import distill
    from vlg_lib.networks.point_network import (
        NetworkSettings,
        PointNetwork,
        point_scores,
    )
    from vlg_lib.training.augmentation import Augmentation
    from vlg_lib.training.loop import FitSettings
    from vlg_lib.training.point_batches import Cloud, TrainingSettings

    def seeded(seed: int) -> dict[str, Any]:
        """The seed of a training."""
        return {"fit_settings": FitSettings(seed)}
except ImportError:  # the names of 56fcabe
    from vlg_lib.augment import Augmentation
    from vlg_lib.cloud_training import Cloud, TrainingSettings
    from vlg_lib.point_network import (
        NetworkSettings,
        PointNetwork,
        point_scores,
    )

    from vlg_lib.distill import distill

    def seeded(seed: int) -> dict[str, Any]:
        """The seed of a training."""
        return {"seed": seed}


OLD_RECIPE = {"steps": 7000, "batch_rooms": 2, "learning_rate": 3e-3}
"""Of the book profile of 56fcabe; the rest are that build's defaults."""


def settings(recipe: dict[str, Any] | None, steps: int | None) -> Any:
    """The recipe that a request gives, or the old build's own."""
    fields = dict(OLD_RECIPE if recipe is None else recipe)
    if "augmentation" in fields:
        fields["augmentation"] = Augmentation(**fields["augmentation"])
    if steps is not None:
        fields["steps"] = steps
    return TrainingSettings(**fields)


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Train a network on a lesson and label the rooms of its test with it."""
    stored = load_file(request["lesson"])

    def of(split: str, name: str) -> list[torch.Tensor]:
        count = sum(key.startswith(f"{split}.points.") for key in stored)
        return [stored[f"{split}.{name}.{index}"] for index in range(count)]

    clouds = [
        Cloud(*parts)
        for parts in zip(
            of("train", "points"),
            of("train", "colors"),
            of("train", "sampling"),
            strict=True,
        )
    ]
    network = PointNetwork(
        NetworkSettings(**request["network"]), seed=request["seed"]
    )
    recipe = settings(request["recipe"], request["steps"])
    start = time.process_time()
    distill(
        network,
        clouds,
        of("train", "targets"),
        recipe,
        weights=of("train", "weights"),
        **seeded(request["seed"]),
    )
    spent = time.process_time() - start
    rooms = zip(of("test", "points"), of("test", "colors"), strict=True)
    save_file(
        {
            str(index): point_scores(network, *room, stored["text"]).argmax(1)
            for index, room in enumerate(rooms)
        },
        request["answers"],
    )
    return {"training_s": spent, "recipe": str(recipe)}


if __name__ == "__main__":
    torch.set_num_threads(torch.get_num_threads())
    serve({"train": train})
