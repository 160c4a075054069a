"""The optimizer Muon against the SVD, PyTorch's own one and Adam."""

import contextlib
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vlg_lib.networks.mink_unet import create_mink_unet
from vlg_lib.training.loop import FitSettings, Optimization, fit
from vlg_lib.training.muon import Muon, orthogonalized


def evened_out(values: Tensor) -> Tensor:
    """What the published polynomial makes of a singular value."""
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


@settings(deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(0, 999), st.booleans()
)
def test_the_singular_values_are_evened_out_and_the_vectors_stay(
    rows: int, columns: int, seed: int, tiny: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator).double()
    if tiny:
        matrix *= 1e-30
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    expected = left * evened_out(values / values.norm()) @ right
    torch.testing.assert_close(
        orthogonalized(matrix), expected, rtol=1e-7, atol=1e-7
    )


def test_all_directions_but_tiny_ones_become_about_one_long() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(864, 32, generator=generator)
    values = torch.linalg.svdvals(orthogonalized(matrix))
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_zeros_stay_zeros_and_half_precision_stays_half() -> None:
    assert not orthogonalized(torch.zeros(3, 2)).any()
    half = torch.full((70_000, 1), 300.0, dtype=torch.float16)
    made = orthogonalized(half)
    assert made.dtype == torch.float16
    assert made.isfinite().all()
    assert 0.6 < made.float().norm() < 1.3


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        x = torch.randn(20, 6, generator=generator)
        optimizer.zero_grad()
        (model(x) - x[:, :4].sin()).square().mean().backward()
        optimizer.step()


def test_a_matrix_moves_as_with_pytorchs_own_muon() -> None:
    ours = nn.Linear(6, 4, bias=False)
    theirs = copy.deepcopy(ours)
    start = ours.weight.detach().clone()
    train(ours, Muon(ours.parameters(), 0.02, weight_decay=0.1))
    train(
        theirs,
        torch.optim.Muon(
            theirs.parameters(),
            lr=0.02,
            weight_decay=0.1,
            adjust_lr_fn="match_rms_adamw",
        ),
    )
    # it computes in bfloat16
    difference = (ours.weight - theirs.weight).norm()
    assert difference < 0.02 * (theirs.weight - start).norm()


def test_a_vector_moves_as_with_adam() -> None:
    ours = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4))
    ours[0].weight.requires_grad_(False)
    theirs = copy.deepcopy(ours)
    train(ours, Muon(ours.parameters(), 1.0, vector_rate=0.02))
    train(
        theirs,
        torch.optim.Adam(
            [p for p in theirs.parameters() if p.requires_grad], lr=0.02
        ),
    )
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_a_kernel_is_one_matrix_and_a_scale_is_a_vector() -> None:
    network = create_mink_unet("MinkUNetSmall", 4, 8, norm="instance")
    kinds = {
        group["is_matrix"]: {id(parameter) for parameter in group["params"]}
        for group in Muon(network.parameters(), 0.01).param_groups
    }
    for name, parameter in network.named_parameters():
        assert id(parameter) in kinds[name.endswith("kernel")], name
    kernel = nn.Parameter(torch.zeros(8, 3, 4))
    kernel.grad = torch.randn(8, 3, 4)
    Muon([kernel], 0.5).step()
    flat = kernel.detach().flatten(0, 1)
    values = torch.linalg.svdvals(flat)
    assert values.max() / values.min() < 2
    assert float(flat.square().mean().sqrt()) == pytest.approx(0.1, rel=0.25)


def test_the_rate_of_the_schedule_reaches_both_kinds() -> None:
    layer = nn.Linear(3, 2)
    before = copy.deepcopy(layer.state_dict())
    fit(
        layer,
        lambda step, generator: torch.randn(4, 3, generator=generator),
        lambda model, batch: model(batch).square().mean(),
        Optimization(Muon(layer.parameters(), 0.1), 3, lambda progress: 0.0),
    )
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path) -> None:
    def run(steps: int, checkpoint, schedule_steps: int = 8) -> Tensor:
        torch.manual_seed(0)
        model = nn.Linear(5, 3)

        def batches(step: int, generator: torch.Generator) -> Tensor:
            if step == steps:
                raise InterruptedError
            return torch.randn(6, 5, generator=generator)

        with contextlib.suppress(InterruptedError):
            fit(
                model,
                batches,
                lambda model, batch: model(batch).square().mean(),
                Optimization(Muon(model.parameters(), 0.05), schedule_steps),
                FitSettings(checkpoint=checkpoint, checkpoint_every=1),
            )
        return model.weight.detach()

    whole = run(8, tmp_path / "whole.safetensors")
    run(4, tmp_path / "halves.safetensors")
    assert torch.equal(run(8, tmp_path / "halves.safetensors"), whole)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": -1.0},
        {"learning_rate": 1.0, "vector_rate": -0.1},
        {"learning_rate": 1.0, "weight_decay": -0.1},
        {"learning_rate": 1.0, "momentum": 1.0},
    ],
)
def test_rates_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="from 0"):
        Muon(nn.Linear(2, 2).parameters(), **wrong)
