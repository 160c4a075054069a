"""Stage 1, second half: embeddings and scene labels become pseudo labels
(chapter 04).

The scene labels are a constraint, not a teacher: they say which classes a scene
does not contain. Classes that are absent are removed **before** the softmax, so
that the confidence is a probability among the classes that can be there.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.precision import sum_dtype
from vlg_lib.scene import PointEmbeddings


@dataclass(frozen=True)
class PseudoLabelSettings:
    """How similarities with class names become probabilities."""

    temperature: float = 0.05
    """What cosines are divided by before the softmax, above 0. It does not move
    a label, only its confidence; stage 2 learns with the same one. The paper's
    release: 1, none."""


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo labels of a point cloud: Y of the paper (Sec. 3.1).

    ``labels``: (N,) int64, class indices, ``IGNORE_LABEL`` where no view saw
    the point. ``confidence``: (N,) float32, the softmax probability of the
    chosen class, 0 where no view saw the point.
    """

    labels: Int[Tensor, " N"]
    confidence: Float[Tensor, " N"]


def compute_logits(
    embeddings: Float[Tensor, "N D"],
    text_embeddings: Float[Tensor, "K D"],
    temperature: float = 0.05,
) -> Float[Tensor, "N K"]:
    """Cosine similarity of every point with every class name, divided by the
    temperature: L^2D of the paper (Sec. 3.1).

    ``embeddings``: (N, D), of any length (a row of zeros, an unseen point,
    gets zeros). ``text_embeddings``: (K, D). Computed in float32 or better, and
    so returned. Cosines lie in [-1, 1], too close together for a softmax: a
    temperature of 0.05 spreads them. The released code of the paper uses no
    temperature. ValueError for a temperature that is not above zero.

    >>> point = torch.tensor([[2.0, 0.0]])
    >>> compute_logits(point, torch.eye(2), temperature=0.5)
    tensor([[2., 0.]])
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above zero, found {temperature}")
    wide = sum_dtype(embeddings)
    return (
        normalize(embeddings.to(wide), dim=1)
        @ normalize(text_embeddings.to(wide), dim=1).T
        / temperature
    )


def mask_logits(
    logits: Float[Tensor, "N K"], scene_labels: Bool[Tensor, " K"]
) -> Float[Tensor, "N K"]:
    """Minus infinity for every class that the scene does not contain: L^f of
    the paper (Sec. 3.1).

    ``scene_labels``: (K,) bool, True where the scene contains the class. A
    softmax over the result gives absent classes a probability of exactly zero.
    ValueError where no class is marked: nothing could be predicted.

    >>> mask_logits(torch.tensor([[3.0, 1.0]]), torch.tensor([False, True]))
    tensor([[-inf, 1.]])
    """
    if not bool(scene_labels.any()):
        raise ValueError(
            "the scene labels mark no class as present: give at least one, or"
            " use no mask at all"
        )
    return logits.masked_fill(~scene_labels.to(logits.device), -torch.inf)


def class_probabilities(
    point_embeddings: PointEmbeddings,
    text_embeddings: Float[Tensor, "K D"],
    scene_labels: Bool[Tensor, " K"] | None = None,
    temperature: float = 0.05,
) -> Float[Tensor, "N K"]:
    """The probability of every class at every point, (N, K) float32: the
    softmax of the logits, among the classes that the scene contains.

    Rows of points that no view saw are zero. With ``scene_labels=None`` nothing
    is masked. Errors as in :func:`compute_logits` and :func:`mask_logits`.

    >>> fused = PointEmbeddings(torch.eye(2), torch.tensor([2, 0]))
    >>> only_second = torch.tensor([False, True])
    >>> class_probabilities(fused, torch.eye(2), only_second)
    tensor([[0., 1.],
            [0., 0.]])
    """
    logits = compute_logits(
        point_embeddings.embeddings, text_embeddings, temperature
    )
    if scene_labels is not None:
        logits = mask_logits(logits, scene_labels)
    unseen = ~point_embeddings.seen
    return logits.softmax(dim=1).masked_fill(unseen[:, None], 0.0)


def make_pseudo_labels(
    point_embeddings: PointEmbeddings,
    text_embeddings: Float[Tensor, "K D"],
    scene_labels: Bool[Tensor, " K"] | None = None,
    temperature: float = 0.05,
) -> PseudoLabels:
    """The most similar class name of every seen point, among the classes that
    the scene contains: Y of the paper.

    With ``scene_labels=None`` nothing is masked: this is the zero-shot
    prediction. The label does not depend on the temperature, the confidence
    does. Errors as in :func:`compute_logits` and :func:`mask_logits`.

    >>> fused = PointEmbeddings(torch.eye(2), torch.tensor([2, 0]))
    >>> only_second = torch.tensor([False, True])
    >>> make_pseudo_labels(fused, torch.eye(2), only_second).labels
    tensor([ 1, -1])
    """
    probabilities = class_probabilities(
        point_embeddings, text_embeddings, scene_labels, temperature
    )
    confidence, labels = probabilities.max(dim=1)
    unseen = ~point_embeddings.seen
    return PseudoLabels(labels.masked_fill(unseen, IGNORE_LABEL), confidence)
