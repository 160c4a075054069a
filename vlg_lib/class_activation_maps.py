"""Class activation maps: scene labels alone, by multiple-instance learning
(chapter 05; Fig. 1a of the paper).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vlg_lib.networks.point_network import PointNetwork, check_scores
from vlg_lib.precision import sum_dtype
from vlg_lib.training.loop import FitSettings
from vlg_lib.training.point_batches import (
    Cloud,
    CloudBatch,
    TrainingSettings,
    train_network,
)

POOLINGS = ("average", "max", "log-sum-exp")
"""How the scores of a bag's members become the score of the bag; see
:func:`pool_scores`."""


@dataclass(frozen=True)
class CamSettings:
    """How a network learns from scene labels alone (:func:`train_mil`).

    The paper shows the maps of other methods and gives no settings: all of
    these are this book's.
    """

    training: TrainingSettings
    """Its budget and recipe. A crop inherits the tags of its room; with
    ``crop`` None a bag is a whole room."""
    norm: str = "batch"
    """What its network normalises over, ``batch`` or ``instance``: a norm over
    each cloud by itself would hide what the bags differ in."""
    pooling: str = "log-sum-exp"
    """How the scores of a bag's members become its own, one of
    :data:`POOLINGS`."""
    cells: int | None = None
    """The side, in voxels from 1, of the columns whose scores are averaged
    before they are pooled; None pools the voxels themselves."""


def pool_scores(
    scores: Float[Tensor, "V K"],
    bags: Int64[Tensor, " V"],
    count: int,
    pooling: str,
    sharpness: float = 1.0,
) -> Float[Tensor, "count K"]:
    """The scores of bags from those of their members; ``bags``: (V,) the bag of
    each member, 0 ... count - 1.

    ``average``: every member has an equal say, so small things drown. ``max``:
    one member speaks for all, so only the most typical point of a class learns.
    ``log-sum-exp``: between the two, log(mean(exp(r s))) / r with the sharpness
    r: the average for r -> 0, the maximum for r -> infinity (Pinheiro &
    Collobert, CVPR 2015, who take 5; at 1 more members are taught). A bag
    without members scores 0. Sums are kept in float32 or better. ValueError for
    another pooling.

    >>> scores, bags = torch.tensor([[0.0], [4.0]]), torch.tensor([0, 0])
    >>> for name in POOLINGS:
    ...     print(round(float(pool_scores(scores, bags, 1, name)), 2))
    2.0
    4.0
    3.33
    """
    if pooling not in POOLINGS:
        raise ValueError(
            f"unknown pooling {pooling!r}; known: {', '.join(POOLINGS)}"
        )
    pooled = _pool(
        scores.to(sum_dtype(scores)), bags, count, pooling, sharpness
    )
    return pooled.to(scores.dtype)


def _pool(
    scores: Float[Tensor, "V K"],
    bags: Int64[Tensor, " V"],
    count: int,
    pooling: str,
    sharpness: float,
) -> Float[Tensor, "count K"]:
    members = (
        torch.bincount(bags, minlength=count)
        .clamp(min=1)
        .to(scores.dtype)[:, None]
    )
    if pooling == "average":
        return (
            scores.new_zeros(count, scores.shape[1]).index_add(0, bags, scores)
            / members
        )
    index = bags[:, None].expand_as(scores)
    largest = scores.new_zeros(count, scores.shape[1]).scatter_reduce(
        0, index, scores, "amax", include_self=False
    )
    if pooling == "max":
        return largest
    # The maximum is taken out before exp: no overflow.
    powers = ((scores - largest.detach()[bags]) * sharpness).exp()
    means = (
        scores.new_zeros(count, scores.shape[1]).index_add(0, bags, powers)
        / members
    )
    # Only a bag without members has the mean 0; its logarithm must be 0, too.
    return largest.detach() + means.masked_fill(means == 0, 1).log() / sharpness


def sub_clouds(
    coordinates: Int[Tensor, "V 4"], cells: int
) -> tuple[Int64[Tensor, " V"], Int64[Tensor, " B"]]:
    """Cut each cloud of a batch into columns of ``cells`` x ``cells`` voxels.

    ``coordinates``: (V, 4) rows (cloud, x, y, z). Returns the sub-cloud of each
    voxel and the cloud of each sub-cloud.

    >>> rows = torch.tensor([[0, 0, 0, 5], [0, 9, 0, 5], [1, 0, 0, 0]])
    >>> sub_clouds(rows, cells=8)
    (tensor([0, 1, 2]), tensor([0, 0, 1]))
    """
    columns = torch.div(
        coordinates[:, 1:3].long(), cells, rounding_mode="floor"
    )
    columns = torch.cat([coordinates[:, :1].long(), columns], dim=1)
    found, sub_cloud = columns.unique(dim=0, return_inverse=True)
    return sub_cloud, found[:, 0]


def mil_loss(
    scores: Float[Tensor, "V K"],
    coordinates: Int[Tensor, "V 4"],
    scene_labels: Bool[Tensor, "B K"],
    *,
    pooling: str = "log-sum-exp",
    cells: int | None = None,
) -> Float[Tensor, ""]:
    """Multi-label binary cross-entropy between bags of voxels and the tags of
    their scenes.

    Without ``cells`` a bag is what the batch holds of a scene. With ``cells``
    the scores are averaged within sub-clouds (columns of that many voxels a
    side) and pooled over the sub-clouds: a tag asks that *some part* of the
    room answers to it, its absence that no part does. The sub-clouds have no
    tags of their own. It is computed in float32 or better.

    >>> scores = torch.tensor([[9.0, -9.0], [-9.0, -9.0]])  # of two voxels
    >>> rows = torch.tensor([[0, 0, 0, 0], [0, 9, 0, 0]])
    >>> tags = torch.tensor([[True, False]])
    >>> round(mil_loss(scores, rows, tags, pooling="max").item(), 2)
    0.0
    """
    scores = scores.to(sum_dtype(scores))
    scene = coordinates[:, 0].long()
    if cells is not None:
        sub_cloud, scene = sub_clouds(coordinates, cells)
        scores = pool_scores(scores, sub_cloud, len(scene), "average")
    pooled = pool_scores(scores, scene, len(scene_labels), pooling)
    return binary_cross_entropy_with_logits(
        pooled, scene_labels.to(pooled.dtype)
    )


def train_mil(
    network: PointNetwork,
    clouds: Sequence[Cloud],
    scene_labels: Sequence[Bool[Tensor, " K"]],
    settings: CamSettings,
    *,
    fit_settings: FitSettings | None = None,
) -> list[float]:
    """Train a network of scores in place from scene labels alone; the loss of
    each step.

    ``scene_labels``: for each room (K,) bool. ``fit_settings``: seed,
    checkpoint and bar. Bags are whole rooms where ``settings.training.crop`` is
    None. Otherwise a bag is a crop that inherits the tags of its room: some of
    them are wrong for it, but there are many more bags than rooms, and no bag
    shows the whole room. ValueError where the tags do not fit the rooms or the
    network.
    """
    if len(clouds) != len(scene_labels):
        raise ValueError(
            f"scene labels of {len(scene_labels)} rooms for {len(clouds)} rooms"
        )
    check_scores(network, {len(labels) for labels in scene_labels})
    tags = torch.stack(list(scene_labels))

    def loss(
        outputs: Float[Tensor, "V K"], batch: CloudBatch
    ) -> tuple[Tensor, float]:
        of_batch = tags[batch.clouds].to(outputs.device)
        return mil_loss(
            outputs,
            batch.inputs.coordinates,
            of_batch,
            pooling=settings.pooling,
            cells=settings.cells,
        ), len(of_batch)

    return train_network(network, clouds, loss, settings.training, fit_settings)
