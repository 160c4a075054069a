"""Better labels from those that are there: selection, votes, thresholds, and
several labellers at once (chapter 11).

The papers after 3DSS-VLG put their work here: keep the labels that are likely
to be right, let geometry vote, train a network on the result, label again.
Nothing in this module opens a point's true label. Coverage, the share of the
points that keep a label, belongs beside every figure: a selection can be right
on the little that it keeps and useless on all that it drops.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.precision import sum_dtype
from vlg_lib.pseudo_labels import PseudoLabels, mask_logits
from vlg_lib.superpoints import soft_vote, vote

VOTES = ("none", "hard", "hard, unlabelled counts", "soft")
"""How the points of a superpoint agree on a label: not at all; on the commonest
(the text of DBGroup); on the commonest, no label being one of them (its
release); on the class with the highest mean probability (WSegPC)."""


@dataclass(frozen=True)
class Refinement:
    """What becomes of the labels before a network learns them. ValueError for a
    share out of range and an unknown vote.
    """

    share: float = 1.0
    """The best share of the labels of each class that is kept, from 0 to 1.
    DBGroup: 0.3."""
    by_class: bool = True
    """Whether the share is of each class, or of all points together."""
    vote: str = "soft"
    """What follows, a name in :data:`VOTES`."""

    def __post_init__(self) -> None:
        _check_share(self.share)
        if self.vote not in VOTES:
            raise ValueError(
                f"unknown vote {self.vote!r}; known: {', '.join(VOTES)}"
            )


def refine(
    probabilities: Float[Tensor, "N K"],
    regions: Int[Tensor, " N"],
    settings: Refinement | None = None,
) -> PseudoLabels:
    """The labels of a scene's points after selection and vote.

    ``probabilities``: (N, K), the softmax of stage 1
    (:func:`vlg_lib.pseudo_labels.class_probabilities`) or of a network, masked
    by the scene's tags where they are known; rows of zeros where nothing is
    known. ``regions``: (N,) the superpoints. Points that lose their label in
    the selection take no part in the vote, and get the label of their
    superpoint after it; where there is none they stay ``IGNORE_LABEL``. The
    confidence is the probability of the label at its point, of a soft vote its
    mean over the superpoint. Errors as from
    :func:`vlg_lib.superpoints.soft_vote`.

    >>> sure, unsure = [0.9, 0.1], [0.4, 0.6]
    >>> points = torch.tensor([sure, unsure, unsure])
    >>> refine(points, torch.tensor([0, 0, 0])).labels
    tensor([0, 0, 0])
    >>> refine(points, torch.tensor([0, 0, 0]), Refinement(vote="hard")).labels
    tensor([1, 1, 1])
    """
    settings = settings or Refinement()
    labels = best_class(probabilities)
    kept = select_share(
        labels.labels, labels.confidence, settings.share, settings.by_class
    )
    if settings.vote == "none":
        unlabelled = kept == IGNORE_LABEL
        return PseudoLabels(kept, labels.confidence.masked_fill(unlabelled, 0))
    if settings.vote == "soft":
        voters = (kept != IGNORE_LABEL)[:, None]
        return PseudoLabels(*soft_vote(probabilities * voters, regions))
    counts = "ignored" if settings.vote == "hard" else "counts"
    voted = vote(kept, regions, unlabelled=counts)
    confidence = probabilities.gather(1, voted.clamp(min=0)[:, None])[:, 0]
    return PseudoLabels(
        voted, confidence.masked_fill(voted == IGNORE_LABEL, 0).float()
    )


def best_class(probabilities: Float[Tensor, "N K"]) -> PseudoLabels:
    """The most probable class of every point, ``IGNORE_LABEL`` where its row is
    zero; of equals the first.

    >>> best_class(torch.tensor([[0.2, 0.8], [0.0, 0.0]])).labels
    tensor([ 1, -1])
    """
    confidence, labels = probabilities.max(dim=1)
    return PseudoLabels(
        labels.masked_fill(confidence <= 0, IGNORE_LABEL), confidence.float()
    )


def masked_softmax(
    scores: Float[Tensor, "N K"], scene_labels: Bool[Tensor, " K"] | None = None
) -> Float[Tensor, "N K"]:
    """The probabilities that a network's scores stand for, (N, K) float32 or
    better, among the classes of the scene; None: among all.

    ValueError where no class is marked.

    >>> masked_softmax(torch.tensor([[9.0, 0.0]]), torch.tensor([False, True]))
    tensor([[0., 1.]])
    """
    wide = scores.to(sum_dtype(scores))
    if scene_labels is not None:
        wide = mask_logits(wide, scene_labels)
    return wide.softmax(dim=1)


def select_share(
    labels: Int[Tensor, " N"],
    confidence: Float[Tensor, " M"],
    share: float,
    by_class: bool = True,
) -> Int64[Tensor, " N"]:
    """The labels without those that are among the least sure; ``IGNORE_LABEL``
    in their place.

    ``share``: how much is kept, rounded down to whole points: 1 keeps all, 0
    none. ``by_class``: of each class on its own, so that rare and doubtful
    classes keep their best; else of all labels together, which may leave some
    class without any. Of equally sure points the first is kept. ValueError for
    another share and for lengths that differ.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> sure = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    >>> select_share(labels, sure, 0.5)
    tensor([ 0,  0, -1, -1,  1, -1])
    >>> select_share(labels, sure, 0.5, by_class=False)
    tensor([ 0,  0,  0, -1, -1, -1])
    """
    _check_share(share)
    _check_lengths(labels, confidence)
    labels = labels.long()
    labelled = torch.nonzero(labels != IGNORE_LABEL)[:, 0]
    group = labels[labelled] if by_class else torch.zeros_like(labelled)
    # sorted by group, and by confidence within it: both sorts are stable
    order = confidence[labelled].argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    sizes = group.bincount()
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(order)) - starts[group[order]]
    # a hair more, so that 0.3 of 10 is 3 whatever 0.3 is in binary
    wanted = (share * sizes.double() + 1e-9).floor().long()
    kept = labelled[order[rank < wanted[group[order]]]]
    chosen = torch.full_like(labels, IGNORE_LABEL)
    chosen[kept] = labels[kept]
    return chosen


def class_thresholds(
    labels: Int[Tensor, " N"],
    confidence: Float[Tensor, " M"],
    classes: int,
    highest: float = 0.8,
) -> Float[Tensor, " K"]:
    """One threshold of confidence a class, (K,) float32: lower for classes that
    are seldom sure (FlexMatch, Zhang et al. 2021).

    A class counts the points that carry its label with at least ``highest``
    confidence; its threshold is ``highest`` times its count over the largest
    one. ``labels`` of all training scenes together: a class that one scene
    lacks is not one that is hard to learn. Without any sure point all
    thresholds are ``highest``. ValueError for lengths that differ and for a
    threshold outside 0 to 1.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> sure = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.9, 0.5])
    >>> class_thresholds(labels, sure, classes=2)
    tensor([0.8000, 0.2000])
    """
    if not 0 <= highest <= 1:
        raise ValueError(f"a threshold lies between 0 and 1, found {highest}")
    _check_lengths(labels, confidence)
    sure = labels[(labels != IGNORE_LABEL) & (confidence >= highest)].long()
    counts = sure.bincount(minlength=classes).double()
    if not bool(counts.any()):
        return torch.full((classes,), highest)
    return (highest * counts / counts.max()).float()


def select_sure(
    labels: Int[Tensor, " N"],
    confidence: Float[Tensor, " M"],
    thresholds: Float[Tensor, " K"],
) -> Int64[Tensor, " N"]:
    """The labels whose confidence reaches the threshold of their class;
    ``IGNORE_LABEL`` in the place of the others.

    >>> labels, sure = torch.tensor([0, 1]), torch.tensor([0.5, 0.5])
    >>> select_sure(labels, sure, torch.tensor([0.8, 0.2]))
    tensor([-1,  1])
    """
    _check_lengths(labels, confidence)
    reached = confidence >= thresholds[labels.clamp(min=0)]
    return torch.where(reached, labels, IGNORE_LABEL).long()


def majority(votes: Int[Tensor, "N J"], classes: int) -> Float[Tensor, "N K"]:
    """The share of the labellers that name each class, (N, K) float32.

    ``votes``: (N, J), the class that each of J labellers (views, prompts) gives
    each point, ``IGNORE_LABEL`` where it gives none. Rows that nobody labels
    are zero. ValueError for labels out of range.

    >>> majority(torch.tensor([[0, 0, 1], [1, 1, -1]]), classes=2)
    tensor([[0.6667, 0.3333],
            [0.0000, 1.0000]])
    """
    one_vote = torch.eye(classes).expand(votes.shape[1], -1, -1)
    counts = _weighed(votes, one_vote)
    return (counts / counts.sum(1, keepdim=True).clamp(min=1)).float()


@dataclass(frozen=True)
class LabelModel:
    """What :func:`dawid_skene` finds.

    ``probabilities``: (N, K) float32, zero where nobody labels a point.
    ``confusions``: (J, K, K) float32: the row is the true class, the column
    what the labeller says. ``prior``: (K,) float32, how frequent the classes
    are.
    """

    probabilities: Float[Tensor, "N K"]
    confusions: Float[Tensor, "J K K"]
    prior: Float[Tensor, " K"]


def dawid_skene(
    votes: Int[Tensor, "N J"],
    classes: int,
    *,
    iterations: int = 50,
    smoothing: float = 1.0,
) -> LabelModel:
    """The labels that most likely lie behind the votes of several labellers who
    err in their own ways (Dawid and Skene 1979), without any true label.

    EM: the labels that the labellers' confusions make likely, then the
    confusions that these labels make likely, and again. It starts from the
    :func:`majority`, so it needs labellers that are right more often than not,
    and it believes that they err independently: views that share a mistake
    count as many witnesses of it. ``votes`` as there. ``iterations``: from 1.
    ``smoothing``: what is added to each count of a confusion, from 0 (0 may
    divide by nothing, and is refused). ValueError for settings out of range.

    >>> votes = torch.tensor([[0, 0, 1], [0, 0, 0], [1, 1, 0], [1, 1, 1]])
    >>> found = dawid_skene(votes, classes=2)
    >>> found.probabilities.argmax(dim=1)
    tensor([0, 0, 1, 1])
    """
    if iterations < 1 or not smoothing > 0:
        raise ValueError(
            "expected one iteration or more and a smoothing above 0, found"
            f" {iterations} and {smoothing}"
        )
    beliefs = majority(votes, classes).double()
    labelled = beliefs.any(dim=1)
    for _ in range(iterations):
        prior = (beliefs.sum(0) + smoothing).div(
            labelled.sum() + classes * smoothing
        )
        confusions = torch.stack(
            [
                _confusion(beliefs, votes[:, labeller], classes, smoothing)
                for labeller in range(votes.shape[1])
            ]
        )
        likely = prior.log() + _weighed(votes, confusions.log().mT)
        beliefs = likely.softmax(dim=1) * labelled[:, None]
    return LabelModel(beliefs.float(), confusions.float(), prior.float())


def _confusion(
    beliefs: Float[Tensor, "N K"],
    said: Int[Tensor, " N"],
    classes: int,
    smoothing: float,
) -> Float[Tensor, "K K"]:
    """How often one labeller says each class of points of each class."""
    spoke = said != IGNORE_LABEL
    counts = torch.full((classes, classes), smoothing, dtype=beliefs.dtype)
    counts = counts.index_add(0, said[spoke].long(), beliefs[spoke])
    return (counts / counts.sum(0)).T


def _weighed(
    votes: Int[Tensor, "N J"], weights: Float[Tensor, "J K K"]
) -> Float[Tensor, "N K"]:
    """The sum over labellers of the row of their weights that their vote names,
    (N, K) float64.
    """
    classes = weights.shape[-1]
    if votes.numel() and not (
        int(votes.min()) >= IGNORE_LABEL and int(votes.max()) < classes
    ):
        raise ValueError(
            f"votes span {int(votes.min())} to {int(votes.max())}; expected"
            f" {IGNORE_LABEL} (none) to {classes - 1}"
        )
    sums = torch.zeros(len(votes), classes, dtype=torch.float64)
    for said, rows in zip(votes.unbind(dim=1), weights, strict=True):
        spoke = said != IGNORE_LABEL
        sums[spoke] += rows.double()[said[spoke].long()]
    return sums


def suspected_errors(
    labels: Int[Tensor, " N"], probabilities: Float[Tensor, "M K"]
) -> Bool[Tensor, " N"]:
    """Labels that a network, trained without them, contradicts: confident
    learning (Northcutt et al. 2021), (N,) bool.

    A class is believed of a point where its probability is at least its usual
    one: the mean over the points that carry its label. A label is suspected
    where a class is believed and the likeliest of those is another.
    ``probabilities``: (N, K), of points that the network did not learn from
    (other folds of the scenes). Points without a label are never suspected.
    ValueError for lengths that differ and labels beyond K.

    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> chances = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    >>> suspected_errors(labels, chances)
    tensor([False,  True, False, False])
    """
    _check_lengths(labels, probabilities)
    classes = probabilities.shape[1]
    if len(labels) and int(labels.max()) >= classes:
        raise ValueError(
            f"labels reach {int(labels.max())}, there are probabilities of"
            f" {classes} classes"
        )
    labelled = labels != IGNORE_LABEL
    own = labels[labelled].long()
    chances = probabilities[labelled].double()
    sums = torch.zeros(classes, dtype=torch.float64)
    sums.index_add_(0, own, chances.gather(1, own[:, None])[:, 0])
    counts = own.bincount(minlength=classes)
    # a class that no point carries is never believed
    usual = torch.where(counts > 0, sums / counts.clamp(min=1), torch.inf)
    believed = chances >= usual
    likeliest = chances.masked_fill(~believed, -1).argmax(dim=1)
    suspected = torch.zeros(len(labels), dtype=torch.bool)
    suspected[labelled] = believed.any(dim=1) & (likeliest != own)
    return suspected


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(
            f"a share of the labels lies between 0 and 1, found {share}"
        )


def _check_lengths(labels: Tensor, others: Tensor) -> None:
    if len(labels) != len(others):
        raise ValueError(
            f"{len(labels)} labels and {len(others)} points beside them"
        )
