"""The work of benchmarks/training.py on one build, with its names or the old
ones: see :mod:`baseline`.
"""

import time
from typing import Any

import torch
from baseline import serve
from safetensors.torch import load_file
from torch import Tensor

try:
    from vlg_lib.distill import cosine_loss, distill
    from vlg_lib.networks.mink_unet import create_mink_unet
    from vlg_lib.networks.point_network import NetworkSettings, PointNetwork
    from vlg_lib.training.loop import FitSettings
    from vlg_lib.training.point_batches import (
        Cloud,
        TrainingSettings,
        draw_batch,
    )

    def seeded(seed: int) -> dict[str, Any]:
        """The seed of a training."""
        return {"fit_settings": FitSettings(seed)}
except ImportError:  # the names of 56fcabe
    from vlg_lib.cloud_training import Cloud, TrainingSettings, draw_batch
    from vlg_lib.mink_unet import create_mink_unet
    from vlg_lib.point_network import NetworkSettings, PointNetwork

    from vlg_lib.distill import cosine_loss, distill

    def seeded(seed: int) -> dict[str, Any]:
        """The seed of a training."""
        return {"seed": seed}


from vlg_lib.sparse import SparseTensor

STATE: dict[str, Any] = {}


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Rooms and their targets, from a file."""
    stored = load_file(request["path"])
    rooms = range(request["rooms"])
    STATE["clouds"] = [
        Cloud(stored[f"points.{i}"], stored[f"colors.{i}"]) for i in rooms
    ]
    STATE["targets"] = [stored[f"targets.{i}"] for i in rooms]
    return {}


def new_network() -> PointNetwork:
    """The 3DSS-VLG network of the book profile."""
    return PointNetwork(
        NetworkSettings(
            "MinkUNetSmall", channels=64, voxel_size=0.08, norm="instance"
        ),
        seed=0,
    )


def recipe(steps: int) -> TrainingSettings:
    """The recipe of the book profile but for its length."""
    return TrainingSettings(steps=steps, batch_rooms=2, learning_rate=3e-3)


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Some steps as ``distill`` takes them: CPU seconds a step, the losses."""
    network, start = new_network(), time.process_time()
    losses = distill(
        network,
        STATE["clouds"],
        STATE["targets"],
        recipe(request["steps"]),
        **seeded(request["seed"]),
    )
    spent = time.process_time() - start
    return {"cpu_s": spent / request["steps"], "losses": losses}


def train_in_double(request: dict[str, Any]) -> dict[str, Any]:
    """The losses of steps of plain descent in float64.

    Adam would divide small gradients by small numbers: the last digit of one
    becomes the first of a step.
    """
    network = new_network().double()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(request["seed"])
    losses = []
    for _ in range(request["steps"]):
        batch = draw_batch(network, STATE["clouds"], recipe(1), generator)
        inputs = batch.inputs.replace(batch.inputs.features.double())
        targets = batch.gather(STATE["targets"]).double()
        optimizer.zero_grad(set_to_none=True)
        loss = cosine_loss(network(inputs), targets, None, batch.rows)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses}


def run_network(request: dict[str, Any]) -> dict[str, Any]:
    """One forward and one backward pass of a network on the voxels of a file,
    kernel maps included: CPU seconds of each.
    """
    if "network" not in STATE:
        STATE["network"] = create_mink_unet(request["name"], 3, 20)
    voxels = load_file(request["path"])["coordinates"]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(voxels), 3, generator=generator)
    start = time.process_time()
    out: Tensor = STATE["network"](SparseTensor(features, voxels)).features
    middle = time.process_time()
    out.square().mean().backward()
    end = time.process_time()
    return {"forward": middle - start, "backward": end - middle}


if __name__ == "__main__":
    torch.set_num_threads(torch.get_num_threads())
    serve(
        {
            "load": load,
            "train": train,
            "train_in_double": train_in_double,
            "run_network": run_network,
        }
    )
