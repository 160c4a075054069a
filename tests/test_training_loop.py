from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vlg_lib.artifacts import StoreError, load_tensors, save_tensors
from vlg_lib.training.loop import (
    FitSettings,
    Optimization,
    constant,
    fit,
    load_model,
    poly_decay,
    step_decay,
    step_seed,
)

TARGET = torch.tensor([[1.0, -2.0, 0.5]])


class Net(nn.Module):
    """A small network with everything a checkpoint must carry: weights, running
    statistics, random draws."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(
            nn.Linear(3, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(8, 1),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


def draw(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(32, 3, generator=generator)
    return inputs, inputs @ TARGET.T


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def train(
    checkpoint: Path | None,
    *,
    steps: int = 40,
    seed: int = 0,
    stop_at: int | None = None,
) -> tuple[Net, list]:
    model = Net()

    def interrupted(
        step: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        if step == stop_at:
            raise KeyboardInterrupt
        return draw(step, generator)

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    losses = fit(
        model,
        interrupted,
        squared,
        Optimization(optimizer, steps, poly_decay, max_grad_norm=1.0),
        FitSettings(seed, checkpoint, checkpoint_every=7),
    )
    return model, losses


def test_losses_fall_on_a_linear_problem() -> None:
    model = nn.Linear(3, 1)
    losses = fit(
        model,
        draw,
        squared,
        Optimization(torch.optim.Adam(model.parameters(), lr=0.05), steps=300),
    )
    assert losses[-1] < 1e-3 * losses[0]
    torch.testing.assert_close(model.weight.detach(), TARGET, atol=0.05, rtol=0)


@pytest.mark.parametrize("stop_at", [1, 7, 20, 39])
def test_an_interrupted_run_continues_bit_for_bit(
    tmp_path: Path, stop_at: int
) -> None:
    whole, losses = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run.safetensors", stop_at=stop_at)
    resumed, resumed_losses = train(tmp_path / "run.safetensors")
    assert resumed_losses == losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_finished_run_only_loads(tmp_path: Path) -> None:
    model, losses = train(tmp_path / "run.safetensors")
    # any step would raise
    again, again_losses = train(tmp_path / "run.safetensors", stop_at=0)
    assert again_losses == losses
    loaded = Net()
    load_model(tmp_path / "run.safetensors", loaded)
    for other in (again, loaded):
        assert all(
            torch.equal(a, b)
            for a, b in zip(model.parameters(), other.parameters(), strict=True)
        )
    assert not loaded.training


def test_the_seed_decides() -> None:
    assert train(None, seed=1)[1] == train(None, seed=1)[1]
    assert train(None, seed=1)[1] != train(None, seed=2)[1]
    assert (
        len({step_seed(seed, step) for seed in range(20) for step in range(50)})
        == 1000
    )


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = nn.Linear(3, 1)
    torch.manual_seed(5)
    fit(
        model,
        draw,
        squared,
        Optimization(torch.optim.SGD(model.parameters(), lr=0.1), steps=2),
    )
    assert torch.equal(torch.rand(1), expected)


def test_the_schedule_scales_the_rate_of_each_step() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    fit(
        model,
        lambda step, generator: None,
        lambda m, batch: -m.weight.sum(),
        Optimization(
            torch.optim.SGD(model.parameters(), lr=1.0),
            steps=4,
            schedule=lambda progress: 1 - progress,
        ),
    )
    # slope 1: the weight sums the rates
    assert model.weight.item() == pytest.approx(1 + 0.75 + 0.5 + 0.25)


def test_schedules_by_hand() -> None:
    assert constant(0.9) == 1.0
    assert [
        step_decay(p) for p in (0.0, 0.24, 0.25, 0.5, 0.99)
    ] == pytest.approx([1, 1, 0.7, 0.49, 0.343])
    assert poly_decay(0.0) == 1.0
    assert poly_decay(0.5) == pytest.approx(0.5358867312681466)


def test_clipping_limits_a_step() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    fit(
        model,
        lambda step, generator: None,
        lambda m, batch: -1000 * m.weight.sum(),
        Optimization(
            torch.optim.SGD(model.parameters(), lr=1.0),
            steps=1,
            max_grad_norm=0.5,
        ),
    )
    assert model.weight.item() == pytest.approx(0.5, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_its_step(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return squared(network, batch) * (
            torch.nan if calls.append(1) or len(calls) == 3 else 1.0
        )

    calls: list[int] = []
    with pytest.raises(ValueError, match="nan at step 2"):
        fit(
            model,
            draw,
            loss,
            Optimization(torch.optim.SGD(model.parameters(), lr=0.1), steps=5),
        )


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(path)
    with pytest.raises(StoreError, match="another run"):
        train(path, seed=9)
    with pytest.raises(StoreError, match="another run"):
        train(path, steps=50)
    with pytest.raises(StoreError, match="another model"):
        load_model(path, nn.Linear(3, 1))
    with pytest.raises(StoreError, match="no such file"):
        load_model(tmp_path / "missing.safetensors", Net())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StoreError, match="not a whole safetensors file"):
        train(path)


def test_the_checkpoint_holds_tensors_and_json_only(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(path)
    tensors, manifest = load_tensors(path)
    assert manifest["step"] == 40
    assert {name.split(".")[0] for name in tensors} == {
        "model",
        "optimizer",
        "losses",
    }
    save_tensors(path, tensors, manifest)  # survives a round trip
    assert train(path)[1] == tensors["losses"].tolist()
