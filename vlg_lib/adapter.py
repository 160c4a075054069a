"""Stage 2, Embeddings Specialization (ESS): an adapter moves point embeddings
towards the pseudo labels (chapter 06).

The text embeddings stay frozen; only the adapter learns, from the pseudo labels
of the training scenes. It sees one point's embedding at a time, so it can fix
what is systematic in the teacher's errors, not what is particular.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.precision import sum_dtype
from vlg_lib.scene import PointEmbeddings
from vlg_lib.training.loop import FitSettings, Optimization, fit, step_decay

LabelledRoom = tuple[PointEmbeddings, Int[Tensor, " _"]]  # rooms differ in size
"""The embeddings of a room's points and their pseudo labels (``IGNORE_LABEL``
where a point has none). Tensors may be mapped files, and embeddings float16: a
step reads the rows that it draws."""


@dataclass(frozen=True)
class AdapterSettings:
    """Which adapter, and how it is trained.

    The paper (Sec. 4.1): Adam, batches of 16 scenes, 80 epochs, the rate x 0.7
    after every quarter.
    """

    kind: str = "affine"
    """One of ADAPTERS: ``affine``, the paper's, or ``residual-mlp``."""
    steps: int = 400
    """How many batches are learnt from; from 0. The paper, for ScanNet:
    6,005."""
    batch_rooms: int = 4
    """Rooms in a batch; from 1. The paper: 16."""
    points_per_room: int = 10_000
    """Labelled points of each room in a batch, at most; from 1."""
    learning_rate: float = 3e-3
    """Adam's rate at the start, above 0. The paper: 3e-3."""
    weight_decay: float = 4e-4
    """Adam's weight decay; from 0. The paper: 4e-4."""


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
    ``IGNORE_LABEL`` do not count. It is computed in float32 or better.

    >>> adapter = create_adapter("residual-mlp", 2)  # at first the identity
    >>> words, labels = torch.eye(2), torch.tensor([0, 1])
    >>> round(adapter_loss(adapter, words, labels, words, 0.05).item(), 4)
    0.0
    """
    adapted = adapter(embeddings)
    wide = sum_dtype(adapted)
    logits = (
        normalize(adapted.to(wide), dim=1)
        @ normalize(text_embeddings.to(wide), dim=1).T
        / temperature
    )
    return cross_entropy(logits, labels, ignore_index=IGNORE_LABEL)


def train_adapter(
    adapter: nn.Module,
    rooms: Sequence[LabelledRoom],
    text_embeddings: Float[Tensor, "K D"],
    settings: AdapterSettings,
    *,
    temperature: float = 0.05,
    fit_settings: FitSettings | None = None,
) -> list[float]:
    """Train the adapter in place on the pseudo labels of the rooms; the loss of
    each step.

    ``rooms``: for each its embeddings and its labels. ``text_embeddings``:
    (K, D) float32, on the device of the adapter. ``temperature``: of the
    softmax, see :func:`adapter_loss`. ``fit_settings``: seed, checkpoint and
    bar. Each step draws ``settings.batch_rooms`` rooms and up to
    ``settings.points_per_room`` labelled points of each. ValueError without
    rooms or without a labelled point.

    >>> texts, views = torch.eye(4), torch.ones(4, dtype=torch.int32)
    >>> room = (PointEmbeddings(texts, views), torch.tensor([1, 0, 3, 2]))
    >>> adapter, brief = create_adapter("affine", 4), AdapterSettings(steps=30)
    >>> losses = train_adapter(adapter, [room], texts, brief)
    >>> losses[-1] < losses[0]
    True
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
        return _draw_points([part for _, part in labelled], settings, generator)

    def collate(drawn: list[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
        # all that is read of a mapped file
        embeddings = torch.cat([labelled[i][0][points] for i, points in drawn])
        labels = torch.cat([labelled[i][1][points] for i, points in drawn])
        return embeddings.to(device).float(), labels.to(device)

    def loss(
        model: nn.Module, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, float]:
        value = adapter_loss(model, *batch, text_embeddings, temperature)
        return value, len(batch[1])

    optimizer = torch.optim.Adam(
        adapter.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    return fit(
        adapter,
        draw,
        loss,
        Optimization(optimizer, settings.steps, step_decay),
        fit_settings,
        collate=collate,
    )


def _draw_points(
    labels: Sequence[Int[Tensor, " _"]],
    settings: AdapterSettings,
    generator: torch.Generator,
) -> list[tuple[int, Int[Tensor, " _"]]]:
    """The rooms of a batch, and the points of each that are learnt from.

    Only labelled points are drawn: the loss would drop the others anyway.
    """
    drawn = []
    rooms = torch.randperm(len(labels), generator=generator)
    for room in rooms[: settings.batch_rooms].tolist():
        points = (labels[room] != IGNORE_LABEL).nonzero()[:, 0]
        order = torch.randperm(len(points), generator=generator)
        drawn.append((room, points[order[: settings.points_per_room]]))
    return drawn


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
    longer = adapter(point_embeddings.embeddings)
    adapted = normalize(longer.to(sum_dtype(longer)), dim=1).to(longer.dtype)
    # the adapter's bias would give an unseen point a meaning
    adapted[~point_embeddings.seen] = 0
    return PointEmbeddings(adapted, point_embeddings.view_counts)
