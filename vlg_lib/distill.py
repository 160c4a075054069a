"""Stage 3, Embeddings Soft-Guidance (ESGS): a 3D network learns the embeddings
that images gave (chapter 08).

The network sees points and colours alone, and learns to point where the 2D
embedding of each point points. What it cannot see in 3D it cannot copy; what
the 2D side got wrong at random it cannot copy either, and that is its chance.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.networks.point_network import PointNetwork
from vlg_lib.precision import sum_dtype
from vlg_lib.training.loop import FitSettings
from vlg_lib.training.point_batches import (
    Cloud,
    CloudBatch,
    TrainingSettings,
    train_network,
)


def cosine_loss(
    predicted: Float[Tensor, "V D"],
    targets: Float[Tensor, "P D"],
    weights: Float[Tensor, " P"] | None = None,
    rows: Int64[Tensor, " P"] | None = None,
) -> Float[Tensor, ""]:
    """The mean of 1 - cos(predicted, target) over the points that have a target
    (Sec. 3.3 of the paper).

    ``rows``: which row of ``predicted`` belongs to each point, so that the
    points of a voxel may share one; without it the i-th point has the i-th row.
    A target of zeros stands for "no view saw this point" and does not count.
    ``weights``: how much each point counts, relative to the others. Without any
    target the loss is 0. It is computed in float32 or better.

    >>> predicted = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    >>> cosine_loss(predicted, torch.tensor([[0.0, 3.0], [0.0, 0.0]]))
    tensor(1.)
    """
    loss, _ = weighed_cosine_loss(predicted, targets, weights, rows)
    return loss


def weighed_cosine_loss(
    predicted: Float[Tensor, "V D"],
    targets: Float[Tensor, "P D"],
    weights: Float[Tensor, " P"] | None = None,
    rows: Int64[Tensor, " P"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """:func:`cosine_loss`, and what it weighs beside that of another part of a
    batch: the sum of the weights of the points that have a target.

    >>> _, weight = weighed_cosine_loss(torch.ones(2, 1), torch.ones(2, 1))
    >>> weight
    tensor(2.)
    """
    wide = sum_dtype(predicted)
    predicted, targets = predicted.to(wide), targets.to(wide)
    lengths = torch.linalg.vector_norm(targets, dim=1)
    counts = (lengths > 0).to(wide)
    if weights is not None:
        counts = counts * weights
    tiny = torch.finfo(wide).tiny
    pulls = (counts / lengths.clamp(min=tiny))[:, None] * targets
    if rows is not None:
        # All points of a voxel have one prediction f, so the sum of w f.t over
        # them is f.(sum of w t): one dot product.
        pulls = torch.zeros_like(predicted).index_add_(0, rows, pulls)
    total = counts.sum()
    agreement = (normalize(predicted, dim=1) * pulls).sum()
    return (total - agreement) / total.clamp(min=tiny), total


def class_weights(
    labels: Sequence[Int[Tensor, " _"]], classes: int
) -> Float[Tensor, " K"]:
    """One weight a class, (K,) float32: 1 / sqrt(its share of the labels), so
    that small things are not forgotten.

    Scaled so that the mean weight of the labelled points is 1; a class that
    never occurs gets 0. Pseudo labels suffice. ValueError where no point has a
    label.

    >>> class_weights([torch.tensor([0, 0, 0, 0, 1])], classes=3).tolist()
    [0.8333333134651184, 1.6666666269302368, 0.0]
    """
    labelled = torch.cat([part[part != IGNORE_LABEL] for part in labels])
    if len(labelled) == 0:
        raise ValueError("no point has a label: there is nothing to weight by")
    counts = torch.bincount(labelled, minlength=classes).double()
    weights = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def distill(
    network: PointNetwork,
    clouds: Sequence[Cloud],
    targets: Sequence[Shaped[Tensor, "_ D"]],
    settings: TrainingSettings,
    *,
    weights: Sequence[Float[Tensor, " _"]] | None = None,
    fit_settings: FitSettings | None = None,
) -> list[float]:
    """Train a network of embeddings in place on the rooms' targets; the loss of
    each step.

    ``targets``: for each room (N, D), float16 or float32, a row for each of its
    points and zeros where there is none: A^3D for 3DSS-VLG, P^2D for OpenScene.
    ``weights``: for each room (N,) float32. ``settings``: budget and recipe;
    ``fit_settings``: seed, checkpoint and bar. Every point is compared with its
    own target, and all points of a voxel pull at the one vector they share.
    Targets may be mapped files: a step reads the rows that it draws. ValueError
    where shapes do not fit.

    >>> from vlg_lib.networks.point_network import NetworkSettings
    >>> network = PointNetwork(NetworkSettings(channels=2, norm="instance"))
    >>> cloud = Cloud(torch.rand(50, 3), torch.zeros(50, 3).byte())
    >>> settings = TrainingSettings(steps=2, batch_rooms=1)
    >>> len(distill(network, [cloud], [torch.ones(50, 2)], settings))
    2
    """
    _check(network, clouds, targets)

    def loss(
        outputs: Float[Tensor, "V D"], batch: CloudBatch
    ) -> tuple[Tensor, Tensor]:
        return weighed_cosine_loss(
            outputs,
            batch.gather(targets),
            None if weights is None else batch.gather(weights),
            batch.rows,
        )

    return train_network(network, clouds, loss, settings, fit_settings)


def _check(
    network: PointNetwork, clouds: Sequence[Cloud], targets: Sequence[Tensor]
) -> None:
    if network.settings.output != "embeddings":
        raise ValueError(
            "distillation trains a network of embeddings, this one gives scores"
        )
    if len(clouds) != len(targets):
        raise ValueError(
            f"targets of {len(targets)} rooms for {len(clouds)} rooms"
        )
    for index, (cloud, target) in enumerate(zip(clouds, targets, strict=True)):
        if tuple(target.shape) != (
            len(cloud.points),
            network.settings.channels,
        ):
            raise ValueError(
                f"room {index}: targets of shape {tuple(target.shape)} for"
                f" {len(cloud.points)} points and embeddings of"
                f" {network.settings.channels} numbers"
            )
    if not any(bool(target.any()) for target in targets):
        raise ValueError(
            "no point of any room has a target: fuse the 2D embeddings first"
        )
