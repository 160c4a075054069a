"""Chapter 06's exercise checks pass the solution and fail typical wrong answers
with a hint."""

import pytest
import torch
from torch import Tensor, nn

from vlg_lib.exercises import chapter06 as exercises


def test_adapter_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_adapter_parameters(
        lambda dim, hidden: 2 * dim * hidden + dim
    )
    assert "ok: adapter_parameters" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="has a bias"):
        exercises.check_adapter_parameters(
            lambda dim, hidden: 2 * dim * hidden + dim + hidden
        )
    with pytest.raises(AssertionError, match="has a bias"):
        exercises.check_adapter_parameters(lambda dim, hidden: 2 * dim * hidden)
    with pytest.raises(AssertionError, match="returns nothing yet"):
        exercises.check_adapter_parameters(lambda dim, hidden: None)


def merge(adapter: nn.Module) -> tuple[Tensor, Tensor]:
    product = adapter.up.weight @ adapter.down.weight
    return (
        adapter.mix * product + (1 - adapter.mix) * torch.eye(len(product)),
        adapter.mix * adapter.up.bias,
    )


def test_merge(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_merge(merge)
    assert "ok: merge" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="transpose"):
        exercises.check_merge(
            lambda adapter: (merge(adapter)[0].T, merge(adapter)[1])
        )
    with pytest.raises(AssertionError, match="share of x itself"):
        exercises.check_merge(
            lambda adapter: (
                adapter.mix * adapter.up.weight @ adapter.down.weight,
                merge(adapter)[1],
            )
        )
    with pytest.raises(AssertionError, match="bias mixed"):
        exercises.check_merge(
            lambda adapter: (merge(adapter)[0], adapter.up.bias)
        )


def push(
    embedding: Tensor, label: int, words: Tensor, temperature: float
) -> Tensor:
    probabilities = (words @ embedding / temperature).softmax(dim=0)
    return (words[label] - probabilities @ words) / temperature


def test_push(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_push(push)
    assert "ok: push" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="temperature divides the logits"):
        exercises.check_push(lambda e, k, w, t: push(e, k, w, t) / t)
    with pytest.raises(AssertionError, match="temperature divides the logits"):
        exercises.check_push(lambda e, k, w, t: push(e, k, w, t) * t)
    with pytest.raises(AssertionError, match="towards its word"):
        exercises.check_push(lambda e, k, w, t: -push(e, k, w, t))
    with pytest.raises(AssertionError, match="weight of the right one"):
        exercises.check_push(
            lambda e, k, w, t: (w[k] - (w @ e).softmax(dim=0) @ w) / t
        )


def test_survivors(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_survivors(
        lambda table: table.argmax(dim=1) == torch.arange(len(table))
    )
    assert "ok: survivors" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="more than half"):
        exercises.check_survivors(
            lambda table: (table.diagonal() >= 0.5) | (table.diagonal() == 0.5)
        )
    with pytest.raises(AssertionError, match=r"expected \[True, False, True\]"):
        exercises.check_survivors(lambda table: table.diagonal() >= 0)
    with pytest.raises(AssertionError, match="own row"):
        exercises.check_survivors(
            lambda table: (
                table.argmax(dim=0) == torch.arange(len(table))
                if len(table) != 3
                else table.argmax(dim=1) == torch.arange(len(table))
            )
        )
