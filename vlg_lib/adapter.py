"""Stage 2, Embeddings Specialization (ESS): an adapter moves point embeddings towards the pseudo labels (chapter 06).

The text embeddings stay frozen; only the adapter learns, from the pseudo labels of the training scenes. It sees one
point's embedding at a time, so it can mend what is systematic in the teacher's errors, not what is particular.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.scene import PointEmbeddings
from vlg_lib.train import FitOptions, fit, step_decay

LabelledRoom = tuple[PointEmbeddings, Int[Tensor, " _"]]  # rooms differ in size
"""The embeddings of a room's points and their pseudo labels (``IGNORE_LABEL`` where a point has none)."""


class AffineAdapter(nn.Module):
    """The paper's adapter (Sec. 3.2): ``mix * B(A x) + (1 - mix) * x``, with no activation between A and B.

    A: D -> hidden without bias, B: hidden -> D with bias. Two linear maps in a row are one: an affine map whose linear
    part has rank ``hidden`` beside the identity. D = 768 with a hidden size of 192 makes 295,680 parameters.
    """

    def __init__(self, dim: int, hidden: int | None = None, mix: float = 0.95) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden or dim // 4, bias=False)
        self.up = nn.Linear(hidden or dim // 4, dim)
        self.mix = mix

    def forward(self, embeddings: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """(N, D) float32 -> (N, D) float32, of any length: normalise before taking cosines."""
        return self.mix * self.up(self.down(embeddings)) + (1 - self.mix) * embeddings


class ResidualMLPAdapter(nn.Module):
    """``x + B relu(A x)``, where B starts at zero: it starts as the identity and learns a correction."""

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden or 2 * dim)
        self.up = nn.Linear(hidden or 2 * dim, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, embeddings: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """(N, D) float32 -> (N, D) float32, of any length: normalise before taking cosines."""
        return embeddings + self.up(self.down(embeddings).relu())


ADAPTERS: dict[str, type[nn.Module]] = {"affine": AffineAdapter, "residual-mlp": ResidualMLPAdapter}


def create_adapter(kind: str, dim: int, *, seed: int = 0) -> nn.Module:
    """An untrained adapter by name, ``affine`` (the paper's) or ``residual-mlp``; ValueError for any other name.

    The initial weights depend on ``seed`` alone.
    """
    if kind not in ADAPTERS:
        raise ValueError(f"unknown adapter {kind!r}; known: {', '.join(ADAPTERS)}")
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
    """Cross-entropy between cos(adapted embedding, class names) / temperature and the pseudo labels (Sec. 3.2).

    No scene mask: the adapter has to learn what the mask knew. Points with ``IGNORE_LABEL`` do not count.
    """
    logits = normalize(adapter(embeddings), dim=1) @ normalize(text_embeddings, dim=1).T / temperature
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
    """Train the adapter in place on the pseudo labels of the rooms; the loss of each step.

    Each step draws ``batch_rooms`` rooms and up to ``points_per_room`` labelled points of each. The paper: Adam 3e-3,
    weight decay 4e-4, x 0.7 every quarter of the training. ValueError without rooms or without a labelled point.
    """
    # Drawing only from the labelled points: the others would be dropped by the loss anyway.
    labelled = [(room.embeddings[keep], labels[keep]) for room, labels in rooms for keep in [labels != IGNORE_LABEL]]
    labelled = [(embeddings, labels) for embeddings, labels in labelled if len(labels)]
    if not labelled:
        raise ValueError(f"none of the {len(rooms)} rooms has a point with a pseudo label: nothing to learn from")
    device = text_embeddings.device

    def batch(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(len(labelled), generator=generator)[:batch_rooms].tolist()
        drawn = [torch.randperm(len(labelled[i][1]), generator=generator)[:points_per_room] for i in chosen]
        embeddings = torch.cat([labelled[i][0][points] for i, points in zip(chosen, drawn, strict=True)])
        labels = torch.cat([labelled[i][1][points] for i, points in zip(chosen, drawn, strict=True)])
        return embeddings.to(device), labels.to(device)

    def loss(model: nn.Module, drawn: tuple[Tensor, Tensor]) -> Tensor:
        return adapter_loss(model, *drawn, text_embeddings, temperature)

    return fit(
        adapter,
        batch,
        loss,
        steps=steps,
        optimizer=torch.optim.Adam(adapter.parameters(), lr=learning_rate, weight_decay=weight_decay),
        schedule=step_decay,
        **options,
    )


@torch.no_grad()
def adapt(adapter: nn.Module, point_embeddings: PointEmbeddings) -> PointEmbeddings:
    """A^3D of the paper: the adapted embeddings, unit length where a view saw the point, zero elsewhere."""
    adapted = normalize(adapter(point_embeddings.embeddings), dim=1)
    adapted[~point_embeddings.seen] = 0  # the adapter's bias would give an unseen point a meaning
    return PointEmbeddings(adapted, point_embeddings.view_counts)
