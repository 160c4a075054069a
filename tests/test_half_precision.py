"""Sums, means and counts are taken in float32 or better whatever the type of
the numbers; a skipped update is counted."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vlg_lib.baselines import train_classifier
from vlg_lib.class_activation_maps import POOLINGS, pool_scores
from vlg_lib.distill import cosine_loss
from vlg_lib.geometry.voxels import voxelize
from vlg_lib.networks.point_network import (
    NetworkSettings,
    PointNetwork,
    load_network,
    save_network,
)
from vlg_lib.sparse import (
    AvgPooling,
    InstanceNorm,
    SparseTensor,
    SumPooling,
    global_average,
    sparse_convolution,
)
from vlg_lib.sparse.tensor import CoordinateManager
from vlg_lib.training.loop import FitSettings, Optimization, fit, load_model
from vlg_lib.training.point_batches import Cloud, TrainingSettings

MANY = 41**3  # more than float16 can count to
HALF = (torch.float16, torch.bfloat16)
CUBE = torch.cartesian_prod(*[torch.arange(41)] * 3)
AT = torch.cat([torch.zeros(MANY, 1, dtype=torch.long), CUBE], 1).int()


def numbers(*shape: int, mean: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator) + mean


def average_of_voxels(x):
    points = torch.zeros(len(x), 3)
    return voxelize(points, 1.0).average(x)


def pooled(kind):
    return lambda x: pool_scores(x, torch.zeros(len(x)).long(), 1, kind)


def pooling(layer):
    return lambda x: layer(SparseTensor(x, AT)).features


REDUCTIONS = {
    "global_average": lambda x: global_average(SparseTensor(x, AT)),
    "InstanceNorm": lambda x: (
        InstanceNorm(x.shape[1]).to(x.dtype)(SparseTensor(x, AT)).features
    ),
    "Voxels.average": average_of_voxels,
    "cosine_loss": lambda x: cosine_loss(x, x.flip(0)),
    "AvgPooling": pooling(AvgPooling(41, stride=41)),
    "SumPooling": pooling(SumPooling(3)),
    "interpolate": lambda x: voxelize(CUBE.float() + 0.5, 1.0).interpolate(
        x, CUBE[:999].float() + 0.3, 1.0
    ),
    **{f"pool_scores {kind}": pooled(kind) for kind in POOLINGS},
}


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_reduction_of_many_rows_is_right_in_half_precision(name, dtype):
    """Against float64 on the same (rounded) numbers: what differs is the
    rounding of the result, and what float32 loses over many rows."""
    reduce = REDUCTIONS[name]
    x = numbers(MANY, 3).to(dtype)
    found, right = reduce(x).double(), reduce(x.double())
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found, right, rtol=2 * rounding, atol=2e-4)


def test_the_cases_that_people_met():
    twos = SparseTensor(torch.full((MANY, 1), 2.0).half(), AT)
    assert global_average(twos).item() == 2.0
    one = InstanceNorm(1).half()(SparseTensor(numbers(MANY, 1).half(), AT))
    spread, mean = torch.std_mean(one.features.float().detach())
    assert abs(float(mean)) < 1e-3
    assert abs(float(spread) - 1) < 1e-3
    same = numbers(70_000, 8, mean=0.0).half()
    assert abs(float(cosine_loss(same, same))) < 1e-3


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_one_voxel_has_a_finite_gradient(dtype):
    norm = InstanceNorm(4)
    x = numbers(1, 4).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        y = norm(SparseTensor(x.to(dtype), AT[:1])).features
    y.float().square().sum().backward()
    assert bool(x.grad.isfinite().all())
    assert y.dtype == dtype


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_products_of_a_convolution_are_added_up_in_float32(dtype):
    rows = AT[:4000]
    kernel_map = CoordinateManager(rows).kernel_map(1, 1, 3)
    x, kernel = numbers(4000, 8).to(dtype), numbers(27, 8, 4).to(dtype)
    found = sparse_convolution(x, kernel, kernel_map).double()
    right = sparse_convolution(x.double(), kernel.double(), kernel_map)
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found, right, rtol=8 * rounding, atol=1.0)


def test_a_compiled_network_is_saved_under_names_that_load(tmp_path):
    torch.manual_seed(0)
    network = PointNetwork(NetworkSettings(channels=8))
    plain = network.unet.state_dict()
    network.unet = torch.compile(network.unet, backend="eager")
    save_network(tmp_path / "a.safetensors", network, half=False)
    again, _ = load_network(tmp_path / "a.safetensors")
    for name, tensor in again.unet.state_dict().items():
        assert torch.equal(tensor, plain[name])


def test_weights_that_could_not_be_read_back_are_not_written(tmp_path):
    network = PointNetwork(NetworkSettings(channels=8))
    network.unet.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"2 differ, first 'extra\.bias'"):
        save_network(tmp_path / "a.safetensors", network)
    assert not list(tmp_path.iterdir())
    network = PointNetwork(NetworkSettings(channels=8))
    network.settings = replace(network.settings, channels=8)
    save_network(tmp_path / "a.safetensors", network)


def train_small(precision, norm, monkeypatch, steps=90):
    """A thing of 40 cm whose colour says its class, and a small network."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    torch.manual_seed(0)
    points, labels = torch.rand(60, 3) * 0.4, torch.arange(60) % 2
    colors = labels[:, None] * 200 + torch.tensor([20, 30, 40])
    network = PointNetwork(
        NetworkSettings(channels=2, norm=norm, output="scores")
    )
    return train_classifier(
        network,
        [Cloud(points, colors.to(torch.uint8))],
        [labels],
        TrainingSettings(steps=steps, batch_rooms=1),
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_small_cloud_is_learnt_in_half_precision(precision, monkeypatch):
    steps, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self, *given, **named: (
            steps.append(1),
            step(self, *given, **named),
        )[1],
    )
    losses = train_small(precision, "instance", monkeypatch)
    assert len(steps) > 80
    assert losses[-1] < 0.5 < losses[0]


def test_one_voxel_on_the_coarsest_grid_trains_with_batch_norm(monkeypatch):
    losses = train_small("no", "batch", monkeypatch, steps=40)
    assert losses[-1] < 0.5 * losses[0]


def overflowing(steps, bad, path=None):
    """A training in float16 of which some steps overflow."""
    model = nn.Linear(1, 1)
    taken = iter(range(10**6))

    def loss(model, batch):
        factor = 0.0 if next(taken) in bad else 1.0
        # the root's slope at 0 is infinite, and the loss is not
        return (model(batch) * factor).square().mean().sqrt()

    sgd = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = fit(
        model,
        lambda step, generator: torch.ones(1, 1),
        loss,
        Optimization(sgd, steps, half_precision=True),
        FitSettings(checkpoint=path),
    )
    return model, losses


def test_steps_that_overflow_are_counted_and_told(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.warns(UserWarning, match="12 of 60 steps were left out"):
        model, _ = overflowing(60, set(range(0, 60, 5)), path)
    assert load_model(path, model).skipped == 12


def test_a_training_that_is_none_ends(tmp_path):
    with pytest.raises(ValueError, match=r"left out.*--mixed_precision bf16"):
        overflowing(100, set(range(100)), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="15 of 16 steps"):
        overflowing(16, set(range(15)))
