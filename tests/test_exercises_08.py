"""Chapter 08's exercise checks pass the solution and fail typical wrong answers
with a hint."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vlg_lib.exercises import chapter08 as exercises


def best_vector(targets: Tensor) -> tuple[Tensor, float]:
    mean = normalize(targets, dim=1).mean(dim=0)
    return mean / mean.norm(), float(1 - mean.norm())


def test_best_vector(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_best_vector(best_vector)
    assert "ok: best_vector" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="does not know about lengths"):
        exercises.check_best_vector(
            lambda t: (normalize(t.mean(dim=0), dim=0), best_vector(t)[1])
        )
    with pytest.raises(AssertionError, match="not 1"):
        exercises.check_best_vector(
            lambda t: (normalize(t, dim=1).mean(dim=0) * 0.5, 0.0)
        )
    with pytest.raises(AssertionError, match="how long is the mean"):
        exercises.check_best_vector(
            lambda t: (best_vector(t)[0], 1 - best_vector(t)[1] + 0.5)
        )
    with pytest.raises(AssertionError, match="a better vector"):
        exercises.check_best_vector(lambda t: (-best_vector(t)[0], 0.0))
    with pytest.raises(AssertionError, match="returns nothing yet"):
        exercises.check_best_vector(lambda t: None)


def pull(vector: Tensor, target: Tensor) -> Tensor:
    unit, wanted = normalize(vector, dim=0), normalize(target, dim=0)
    return (wanted - (wanted @ unit) * unit) / vector.norm()


def test_pull(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_pull(pull)
    assert "ok: pull" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="uphill"):
        exercises.check_pull(lambda f, t: -pull(f, t))
    with pytest.raises(AssertionError, match="take that part out"):
        exercises.check_pull(
            lambda f, t: normalize(t, dim=0) - normalize(f, dim=0)
        )
    with pytest.raises(AssertionError, match="where does its length come in"):
        exercises.check_pull(lambda f, t: pull(f, t) * f.norm())
    with pytest.raises(AssertionError, match="length of the target"):
        exercises.check_pull(lambda f, t: pull(f, t) * t.norm())
    with pytest.raises(AssertionError, match="returns nothing yet"):
        exercises.check_pull(lambda f, t: None)


def rarity_weights(labels: Tensor, classes: int, power: float) -> Tensor:
    counts = torch.bincount(labels[labels >= 0], minlength=classes).float()
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -power, 0.0)
    return weights * counts.sum() / (weights * counts).sum()


def test_rarity_weights(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_rarity_weights(rarity_weights)
    assert "ok: rarity_weights" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="divides by zero"):
        exercises.check_rarity_weights(
            lambda labels, classes, power: (
                torch.bincount(labels[labels >= 0], minlength=classes).float()
                ** -power
            )
        )
    with pytest.raises(AssertionError, match="not 1: scale"):
        exercises.check_rarity_weights(
            lambda *given: 2 * rarity_weights(*given)
        )
    with pytest.raises(AssertionError, match="share of the class"):
        exercises.check_rarity_weights(
            lambda labels, classes, power: rarity_weights(labels, classes, 1.0)
        )
    with pytest.raises(AssertionError, match="returns nothing yet"):
        exercises.check_rarity_weights(lambda labels, classes, power: None)


def reestimate(
    network: nn.Module,
    batches: Sequence[Tensor],
    momentum: float | None = None,
    reset: bool = True,
) -> nn.Module:
    network = copy.deepcopy(network).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            if reset:
                module.reset_running_stats()
            module.momentum = momentum
    with torch.no_grad():
        for batch in batches:
            network(batch)
    return network.eval()


def test_reestimate(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_reestimate(reestimate)
    assert "ok: reestimate" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="See momentum"):
        exercises.check_reestimate(
            lambda network, batches: reestimate(network, batches, momentum=0.1)
        )
    with pytest.raises(AssertionError, match="old values count"):
        exercises.check_reestimate(
            lambda network, batches: reestimate(network, batches, reset=False)
        )
    with pytest.raises(AssertionError, match="work on a copy"):
        exercises.check_reestimate(in_place)
    with pytest.raises(AssertionError, match="training mode only"):
        exercises.check_reestimate(
            lambda network, batches: copy.deepcopy(network).eval()
        )
    with pytest.raises(AssertionError, match="evaluation mode"):
        exercises.check_reestimate(
            lambda network, batches: reestimate(network, batches).train()
        )
    with pytest.raises(AssertionError, match="returns nothing yet"):
        exercises.check_reestimate(lambda network, batches: None)


def in_place(network: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    made = reestimate(network, batches)
    network.load_state_dict(made.state_dict())
    return network
