from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from vlg_lib.adapter import (
    AdapterSettings,
    AffineAdapter,
    ResidualMLPAdapter,
    adapt,
    adapter_loss,
    create_adapter,
    train_adapter,
)
from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.scene import PointEmbeddings
from vlg_lib.training.loop import FitSettings

DIM, CLASSES = 16, 4
TEXTS = torch.eye(DIM)[:CLASSES]


def tilted_room(
    seed: int, points: int = 400
) -> tuple[PointEmbeddings, torch.Tensor]:
    """Points of four classes whose embeddings all lean towards class 0: a
    systematic error that a map can fix."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (points,), generator=generator)
    lean = 1.2 * TEXTS[0] + 0.1 * torch.randn(points, DIM, generator=generator)
    embeddings = normalize(TEXTS[labels] + lean, dim=1)
    counts = torch.ones(points, dtype=torch.int32)
    counts[:20] = 0
    embeddings[:20] = 0
    return PointEmbeddings(embeddings, counts), torch.where(
        counts > 0, labels, IGNORE_LABEL
    )


def right(points: PointEmbeddings, labels: torch.Tensor) -> float:
    predicted = (points.embeddings @ TEXTS.T).argmax(1)
    return float((predicted == labels)[points.seen].float().mean())


def test_the_paper_size_has_295680_parameters() -> None:
    assert (
        sum(parameter.numel() for parameter in AffineAdapter(768).parameters())
        == 295_680
    )
    assert tuple(AffineAdapter(768).down.weight.shape) == (192, 768)
    assert AffineAdapter(768).down.bias is None


def test_the_affine_adapter_is_one_affine_map() -> None:
    adapter = create_adapter("affine", DIM)
    x, y = torch.randn(2, 5, DIM, generator=torch.Generator().manual_seed(0))
    halfway = adapter((x + y) / 2)
    torch.testing.assert_close(halfway, (adapter(x) + adapter(y)) / 2)
    expected = (
        0.95
        * ((x @ adapter.down.weight.T) @ adapter.up.weight.T + adapter.up.bias)
        + 0.05 * x
    )
    torch.testing.assert_close(adapter(x), expected)


def test_the_residual_adapter_starts_as_identity_and_is_no_affine_map() -> None:
    adapter = create_adapter("residual-mlp", DIM)
    x, y = torch.randn(2, 5, DIM, generator=torch.Generator().manual_seed(0))
    assert torch.equal(adapter(x), x)
    room = tilted_room(0)
    train_adapter(adapter, [room], TEXTS, AdapterSettings(steps=20))
    assert not torch.allclose(
        adapter((x + y) / 2), (adapter(x) + adapter(y)) / 2, atol=1e-3
    )


def test_the_seed_makes_the_weights_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second = (
        create_adapter("affine", DIM, seed=7),
        create_adapter("affine", DIM, seed=7),
    )
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.down.weight, second.down.weight)
    assert not torch.equal(
        first.down.weight, create_adapter("affine", DIM, seed=8).down.weight
    )


def test_an_unknown_adapter_is_refused() -> None:
    with pytest.raises(
        ValueError, match="unknown adapter 'mlp'; known: affine, residual-mlp"
    ):
        create_adapter("mlp", DIM)


def test_the_loss_by_hand() -> None:
    # The zero-initialised residual adapter is the identity: cosines .6 and .8,
    # temperature .1, true class 0.
    loss = adapter_loss(
        ResidualMLPAdapter(2),
        torch.tensor([[0.6, 0.8]]),
        torch.tensor([0]),
        torch.eye(2),
        0.1,
    )
    assert loss.item() == pytest.approx(2.1269280110429727)  # log(1 + e^2)


def test_the_loss_ignores_unlabelled_points_and_lengths() -> None:
    points, labels = tilted_room(1)
    adapter = create_adapter("residual-mlp", DIM)
    seen = points.seen
    loss = adapter_loss(adapter, points.embeddings, labels, 5 * TEXTS, 0.05)
    expected = cross_entropy(
        points.embeddings[seen] @ TEXTS.T / 0.05, labels[seen]
    )
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("kind", ["affine", "residual-mlp"])
def test_training_mends_a_systematic_error_also_in_an_unseen_room(
    kind: str,
) -> None:
    adapter = create_adapter(kind, DIM, seed=0)
    losses = train_adapter(
        adapter,
        [tilted_room(0), tilted_room(1, 300), tilted_room(2)],
        TEXTS,
        AdapterSettings(steps=150, batch_rooms=2),
    )
    points, labels = tilted_room(9)
    assert losses[-1] < 0.5 * losses[0]
    assert right(points, labels) < 0.5
    assert right(adapt(adapter, points), labels) > 0.95


def test_text_embeddings_and_inputs_stay_frozen() -> None:
    texts, (points, labels) = TEXTS.clone(), tilted_room(0)
    before = points.embeddings.clone()
    train_adapter(
        create_adapter("affine", DIM),
        [(points, labels)],
        texts,
        AdapterSettings(steps=5),
    )
    assert torch.equal(texts, TEXTS)
    assert torch.equal(points.embeddings, before)


def test_adapted_embeddings_are_unit_where_seen_and_zero_elsewhere() -> None:
    points, labels = tilted_room(0)
    adapter = create_adapter("affine", DIM)
    train_adapter(adapter, [(points, labels)], TEXTS, AdapterSettings(steps=3))
    adapted = adapt(adapter, points)
    torch.testing.assert_close(
        adapted.embeddings.norm(dim=1), points.seen.float()
    )
    assert torch.equal(adapted.view_counts, points.view_counts)
    assert not adapted.embeddings.requires_grad


def test_training_draws_only_labelled_points_of_the_rooms_it_is_given(
    tmp_path: Path,
) -> None:
    points, labels = tilted_room(0)
    poisoned = points.embeddings.clone()
    # would make the loss nan if one were drawn
    poisoned[labels == IGNORE_LABEL] = torch.nan
    losses = train_adapter(
        create_adapter("affine", DIM),
        [(PointEmbeddings(poisoned, points.view_counts), labels)],
        TEXTS,
        AdapterSettings(steps=5),
    )
    assert len(losses) == 5
    nothing = torch.full_like(labels, IGNORE_LABEL)
    assert train_adapter(
        create_adapter("affine", DIM),
        [(points, nothing), (points, labels)],
        TEXTS,
        AdapterSettings(steps=2),
    )
    with pytest.raises(ValueError, match="none of the 1 rooms"):
        train_adapter(
            create_adapter("affine", DIM),
            [(points, nothing)],
            TEXTS,
            AdapterSettings(steps=2),
        )


def test_the_checkpoint_continues_the_training(tmp_path: Path) -> None:
    rooms = [tilted_room(0), tilted_room(1)]
    path = tmp_path / "adapter.safetensors"
    first, again = (
        create_adapter("affine", DIM),
        create_adapter("affine", DIM, seed=5),
    )
    brief, kept = AdapterSettings(steps=10), FitSettings(checkpoint=path)
    losses = train_adapter(first, rooms, TEXTS, brief, fit_settings=kept)
    assert (
        train_adapter(again, rooms, TEXTS, brief, fit_settings=kept) == losses
    )
    assert torch.equal(first.up.weight, again.up.weight)
