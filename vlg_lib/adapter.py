"""Stage 2, Embeddings Specialization (ESS): an adapter moves point embeddings
towards the pseudo labels (chapter 06).

The text embeddings stay frozen; only the adapter learns, from the pseudo labels
of the training scenes. It sees one point's embedding at a time, so it can fix
what is systematic in the teacher's errors, not what is particular.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.scene import PointEmbeddings
from vlg_lib.training.loop import FitOptions, fit, step_decay

LabelledRoom = tuple[PointEmbeddings, Int[Tensor, " _"]]  # rooms differ in size
"""The embeddings of a room's points and their pseudo labels (``IGNORE_LABEL``
where a point has none). Tensors may be mapped files, and embeddings float16: a
step reads the rows that it draws."""


class AffineAdapter(nn.Module):
    """The paper's adapter (Sec. 3.2): ``mix * B(A x) + (1 - mix) * x``, with no
    activation between A and B.

    A: D -> hidden without bias, B: hidden -> D with bias. Two linear maps in a
    row are one: an affine map whose linear part has rank ``hidden`` beside the
    identity. D = 768 with a hidden size of 192 makes 295,680 parameters.
    """

    def __init__(
        self, dim: int, hidden: int | None = None, mix: float = 0.95
    ) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden or dim // 4, bias=False)
        self.up = nn.Linear(hidden or dim // 4, dim)
        self.mix = mix

    def forward(self, embeddings: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """(N, D) float32 -> (N, D) float32, of any length: normalise before
        taking cosines.
        """
        return (
            self.mix * self.up(self.down(embeddings))
            + (1 - self.mix) * embeddings
        )


class ResidualMLPAdapter(nn.Module):
    """``x + B relu(A x)``, where B starts at zero: it starts as the identity
    and learns a correction.
    """

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden or 2 * dim)
        self.up = nn.Linear(hidden or 2 * dim, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, embeddings: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """(N, D) float32 -> (N, D) float32, of any length: normalise before
        taking cosines.
        """
        return embeddings + self.up(self.down(embeddings).relu())


ADAPTERS: dict[str, type[nn.Module]] = {
    "affine": AffineAdapter,
    "residual-mlp": ResidualMLPAdapter,
}


def create_adapter(kind: str, dim: int, *, seed: int = 0) -> nn.Module:
    """An untrained adapter by name, ``affine`` (the paper's) or
    ``residual-mlp``; ValueError for any other name.

    The initial weights depend on ``seed`` alone.

    >>> create_adapter("affine", 64)(torch.rand(5, 64)).shape
    torch.Size([5, 64])
    """
    if kind not in ADAPTERS:
        raise ValueError(
            f"unknown adapter {kind!r}; known: {', '.join(ADAPTERS)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ADAPTERS[kind](dim)


def adapter_loss(
    adapter: nn.Module,
    embeddings: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    text_embeddings: Float[Tensor, "K D"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy between cos(adapted embedding, class names) / temperature
    and the pseudo labels (Sec. 3.2).

    No scene mask: the adapter has to learn what the mask knew. Points with
    ``IGNORE_LABEL`` do not count.

    >>> adapter = create_adapter("residual-mlp", 2)  # at first the identity
    >>> words, labels = torch.eye(2), torch.tensor([0, 1])
    >>> round(adapter_loss(adapter, words, labels, words, 0.05).item(), 4)
    0.0
    """
    logits = (
        normalize(adapter(embeddings), dim=1)
        @ normalize(text_embeddings, dim=1).T
        / temperature
    )
    return cross_entropy(logits, labels, ignore_index=IGNORE_LABEL)


def train_adapter(
    adapter: nn.Module,
    rooms: Sequence[LabelledRoom],
    text_embeddings: Float[Tensor, "K D"],
    *,
    temperature: float = 0.05,
    steps: int = 400,
    batch_rooms: int = 4,
    points_per_room: int = 10_000,
    learning_rate: float = 3e-3,
    weight_decay: float = 4e-4,
    **options: Unpack[FitOptions],
) -> list[float]:
    """Train the adapter in place on the pseudo labels of the rooms; the loss of
    each step.

    Each step draws ``batch_rooms`` rooms and up to ``points_per_room`` labelled
    points of each. The paper: Adam 3e-3, weight decay 4e-4, x 0.7 every quarter
    of the training. ValueError without rooms or without a labelled point.
    """
    labelled = [
        (room.embeddings, labels)
        for room, labels in rooms
        if bool((labels != IGNORE_LABEL).any())
    ]
    if not labelled:
        raise ValueError(
            f"none of the {len(rooms)} rooms has a point with a pseudo label:"
            " nothing to learn from"
        )
    device = text_embeddings.device

    def draw(step: int, generator: torch.Generator) -> list[tuple[int, Tensor]]:
        drawn = []
        for i in torch.randperm(len(labelled), generator=generator)[
            :batch_rooms
        ].tolist():
            # Drawing only from the labelled points: the others would be dropped
            # by the loss anyway.
            points = (labelled[i][1] != IGNORE_LABEL).nonzero()[:, 0]
            drawn.append(
                (
                    i,
                    points[
                        torch.randperm(len(points), generator=generator)[
                            :points_per_room
                        ]
                    ],
                )
            )
        return drawn

    def collate(drawn: list[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
        # all that is read of a mapped file
        embeddings = torch.cat([labelled[i][0][points] for i, points in drawn])
        return embeddings.to(device).float(), torch.cat(
            [labelled[i][1][points] for i, points in drawn]
        ).to(device)

    def loss(
        model: nn.Module, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, float]:
        return adapter_loss(model, *batch, text_embeddings, temperature), len(
            batch[1]
        )

    return fit(
        adapter,
        draw,
        loss,
        collate=collate,
        steps=steps,
        optimizer=torch.optim.Adam(
            adapter.parameters(), lr=learning_rate, weight_decay=weight_decay
        ),
        schedule=step_decay,
        **options,
    )


@torch.no_grad()
def adapt(
    adapter: nn.Module, point_embeddings: PointEmbeddings
) -> PointEmbeddings:
    """A^3D of the paper: the adapted embeddings, unit length where a view saw
    the point, zero elsewhere.

    >>> adapter = create_adapter("residual-mlp", 2)  # at first the identity
    >>> fused = PointEmbeddings(torch.eye(2), torch.tensor([2, 0]))
    >>> adapt(adapter, fused).embeddings
    tensor([[1., 0.],
            [0., 0.]])
    """
    adapted = normalize(adapter(point_embeddings.embeddings), dim=1)
    # the adapter's bias would give an unseen point a meaning
    adapted[~point_embeddings.seen] = 0
    return PointEmbeddings(adapted, point_embeddings.view_counts)
