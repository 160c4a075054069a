"""What 3DSS-VLG is compared with: the same network, rooms and budget, another
source of supervision (chapters 05, 09).

* :func:`vlg_lib.class_activation_maps.train_mil`: scene labels alone, by
  multiple-instance learning; its class scores at the points are the class
  activation map (the conventional way: Fig. 1a of the paper).
* :func:`train_classifier`: cross-entropy on a label for every point: pseudo
  labels, or true ones (the upper bound).
* OpenScene is :func:`vlg_lib.distill.distill` with P^2D as targets: no scene
  labels at all.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.networks.point_network import PointNetwork, check_scores
from vlg_lib.training.loop import FitSettings
from vlg_lib.training.point_batches import (
    Cloud,
    CloudBatch,
    TrainingSettings,
    train_network,
)


def train_classifier(
    network: PointNetwork,
    clouds: Sequence[Cloud],
    labels: Sequence[Int[Tensor, " _"]],
    settings: TrainingSettings,
    *,
    class_weights: Float[Tensor, " K"] | None = None,
    fit_settings: FitSettings | None = None,
) -> list[float]:
    """Train a network of scores in place with cross-entropy on the rooms' point
    labels; the loss of each step.

    ``labels``: for each room (N,) int64, ``IGNORE_LABEL`` where a point has
    none. ``settings``: budget and recipe. ``class_weights``: how much each
    class counts. ``fit_settings``: seed, checkpoint and bar. ValueError where
    shapes do not fit, and where no point has a label.
    """
    if [len(cloud.points) for cloud in clouds] != [
        len(part) for part in labels
    ]:
        raise ValueError("expected one label for each point of each room")
    highest = max(
        (int(part.max()) for part in labels if len(part)), default=IGNORE_LABEL
    )
    if highest == IGNORE_LABEL:
        raise ValueError(
            "no point of any room has a label: there is nothing to learn"
        )
    if highest >= network.settings.channels:
        raise ValueError(
            f"labels reach {highest}, the network scores"
            f" {network.settings.channels} classes"
        )
    check_scores(network, set())

    def loss(
        outputs: Float[Tensor, "V K"], batch: CloudBatch
    ) -> tuple[Tensor, Tensor]:
        weight = None if class_weights is None else class_weights.to(outputs)
        wanted = batch.gather(labels)
        summed = cross_entropy(
            outputs[batch.rows],
            wanted,
            weight,
            ignore_index=IGNORE_LABEL,
            reduction="sum",
        )
        # A crop may hold no labelled point: the loss is then 0, not 0 / 0.
        counts = wanted != IGNORE_LABEL
        total = counts.sum() if weight is None else weight[wanted[counts]].sum()
        return summed / total.clamp(min=torch.finfo(summed.dtype).tiny), total

    return train_network(network, clouds, loss, settings, fit_settings)
