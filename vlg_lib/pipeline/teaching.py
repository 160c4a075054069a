"""What teaches each 3D network of a run, as data: one network, one recipe, one
budget, and one thing that differs.
"""

from dataclasses import dataclass

from vlg_lib.refine import Refinement

LOSSES = ("cosine", "cross-entropy", "multiple-instance")
"""What a network learns: to point where target embeddings point, the class of
every point, or the tags of every room."""

TRUTH, STAGE_1 = "truth", "stage 1"
"""Two labellers that are no network: a person who labels every point, and the
2D embeddings matched with the words."""


@dataclass(frozen=True)
class Teaching:
    """What teaches a 3D network."""

    says: str
    """The same in words."""
    loss: str = "cross-entropy"
    """A name in :data:`LOSSES`."""
    labeller: str = STAGE_1
    """Who labels the training rooms: :data:`TRUTH`, :data:`STAGE_1`, or another
    network, by its name in :data:`TEACHINGS`."""
    tags: bool = True
    """Whether the tags of the training rooms are known."""
    adapted: bool = False
    """Whether target embeddings go through the adapter of stage 2."""
    refinement: Refinement | None = None
    """What becomes of the labels before they are learnt."""
    beside_stage_1: bool = False
    """Whether stage 1 votes together with the network that labels."""
    co_trained: bool = False
    """Whether a second labeller, which sees the shapes of superpoints alone,
    has its say wherever stage 1 has
    (:func:`vlg_lib.co_training.co_train`)."""

    @property
    def plain(self) -> bool:
        """Whether it learns the pseudo labels of stage 1 as they are."""
        return (
            self.labeller == STAGE_1
            and self.refinement is None
            and not self.co_trained
        )

    @property
    def needs(self) -> str:
        """What training rooms must have beside points and colours."""
        if self.labeller == TRUTH:
            return "labels of all points"
        if self.loss == "multiple-instance":
            return "tags"
        if self.labeller in TEACHINGS and not self.beside_stage_1:
            return TEACHINGS[self.labeller].needs
        return "images, tags" if self.tags else "images"


_VOTE = Refinement(vote="soft")
_PUBLISHED_SHARE = 0.3


def _round(
    labeller: str, *, tags: bool = True, co_trained: bool = False
) -> Teaching:
    under = "under the tags" if tags else "without tags"
    beside = "stage 1 and of shapes" if co_trained else "stage 1"
    return Teaching(
        f"the answers of {labeller!r} on the training rooms and those of"
        f" {beside}, {under}, after a vote of the superpoints",
        labeller=labeller,
        tags=tags,
        refinement=_VOTE,
        beside_stage_1=True,
        co_trained=co_trained,
    )


TEACHINGS = {
    "cam": Teaching(
        "the tags of each room alone (multiple-instance learning)",
        "multiple-instance",
    ),
    "cam-retrained": Teaching(
        "the answers of 'cam' on the training rooms under their tags",
        labeller="cam",
    ),
    "openscene": Teaching(
        "P^2D, the fused 2D embeddings; no tags", "cosine", tags=False
    ),
    "adapter-untagged": Teaching(
        "A^3D of an adapter that learnt from labels without tags",
        "cosine",
        tags=False,
        adapted=True,
    ),
    "3dss-vlg": Teaching(
        "A^3D, the adapted embeddings (2D embeddings and tags): the method of"
        " the book",
        "cosine",
        adapted=True,
    ),
    "cross-entropy": Teaching("the pseudo labels (2D embeddings and tags)"),
    "voted": Teaching(
        "the pseudo labels after a vote of the superpoints", refinement=_VOTE
    ),
    "selected": Teaching(
        "the best third of the pseudo labels of each class, spread by a vote of"
        " the superpoints",
        refinement=Refinement(_PUBLISHED_SHARE, vote="hard"),
    ),
    "round-2": _round("voted"),
    "round-3": _round("round-2"),
    "3dss-vlg-round-2": _round("3dss-vlg"),
    "3dss-vlg-round-3": _round("3dss-vlg-round-2"),
    "co-trained": Teaching(
        "what stage 1 and the shapes of superpoints agree on, under the tags",
        co_trained=True,
    ),
    "co-trained-round-2": _round("co-trained", co_trained=True),
    "co-trained-round-3": _round("co-trained-round-2", co_trained=True),
    "voted-untagged": Teaching(
        "the zero-shot labels, without tags, after a vote of the superpoints",
        tags=False,
        refinement=_VOTE,
    ),
    "round-2-untagged": _round("voted-untagged", tags=False),
    "round-3-untagged": _round("round-2-untagged", tags=False),
    "co-trained-untagged": Teaching(
        "what stage 1 and the shapes of superpoints agree on, without tags",
        tags=False,
        co_trained=True,
    ),
    "supervised": Teaching(
        "the true label of every point", labeller=TRUTH, tags=False
    ),
}
"""The 3D networks by name, each with what teaches it."""


def teaching(kind: str) -> Teaching:
    """What teaches the network of a name; ValueError for an unknown one.

    >>> teaching("round-2").labeller
    'voted'
    """
    if kind not in TEACHINGS:
        raise ValueError(
            f"unknown 3D network {kind!r}; known: {', '.join(TEACHINGS)}"
        )
    return TEACHINGS[kind]
