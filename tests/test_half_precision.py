"""Sums, means and counts are taken in float32 or better whatever the type of
the numbers; a skipped update is counted."""

import warnings
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from vlg_lib.adapter import adapt, adapter_loss
from vlg_lib.artifacts import load_tensors, save_tensors
from vlg_lib.baselines import train_classifier
from vlg_lib.class_activation_maps import POOLINGS, mil_loss, pool_scores
from vlg_lib.data.depth_fusion import VoxelAverager
from vlg_lib.distill import class_weights, cosine_loss
from vlg_lib.fusion import ViewAverager, sample_embeddings
from vlg_lib.geometry.voxels import voxelize
from vlg_lib.networks.point_network import (
    NetworkSettings,
    PointNetwork,
    load_network,
    mean_of_rows,
    save_network,
)
from vlg_lib.pseudo_labels import compute_logits
from vlg_lib.scene import Camera, PointEmbeddings
from vlg_lib.sparse import (
    AvgPooling,
    BatchNorm,
    InstanceNorm,
    MaxPooling,
    SparseTensor,
    SumPooling,
    get_backend,
    global_average,
    global_max,
    sparse_convolution,
)
from vlg_lib.sparse.tensor import CoordinateManager
from vlg_lib.training.distributed import SyncedBatchNorm1d
from vlg_lib.training.loop import FitSettings, Optimization, fit, load_model
from vlg_lib.training.point_batches import Cloud, TrainingSettings
from vlg_lib.vision_language import VisionLanguageModel
from vlg_lib.vision_language.prompts import class_embeddings

MANY = 41**3  # more than float16 can count to
SIZES = (1, 2, 60, 4_097, 70_000)
HALF = (torch.float16, torch.bfloat16)
CUBE = torch.cartesian_prod(*[torch.arange(42)] * 3)
AT = torch.cat([torch.zeros(len(CUBE), 1, dtype=torch.long), CUBE], 1).int()


def numbers(*shape: int, mean: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator) + mean


def average_of_voxels(x):
    points = torch.zeros(len(x), 3)
    return voxelize(points, 1.0).average(x)


@cache
def voxels(rows):
    """So many voxels; what tests share is their maps, not their numbers."""
    return SparseTensor(torch.zeros(rows, 1), AT[:rows])


def on_voxels(layer):
    """A layer on as many voxels as there are rows."""
    return lambda x: layer(voxels(len(x)).replace(x))


def pooled(kind):
    return lambda x: pool_scores(x, torch.zeros(len(x)).long(), 1, kind)


def pulled(x):
    """The loss where the points of a voxel share a prediction, with weights."""
    rows = torch.arange(len(x)) // 2
    return cosine_loss(x[: int(rows[-1]) + 1], x, x[:, 0].abs(), rows)


def tagged(x):
    """The loss of a scene's labels, without and with columns."""
    tags, at = torch.tensor([[True, False, True]]), AT[: len(x)]
    return mil_loss(x, at, tags) + mil_loss(x, at, tags, cells=8)


def sampled(x):
    """A map of one row of cells, read between them."""
    camera = Camera(1.0, 1.0, 0.0, 0.0, width=3 * len(x), height=3)
    pixels = torch.cartesian_prod(torch.arange(3 * len(x)), torch.arange(3))
    return sample_embeddings(x[None], pixels, camera, "bilinear")


def voted(x):
    """The mean of two views, one of which is 1,024 times as long."""
    averager = ViewAverager(len(x), 3)
    for view in (x, x.flip(0) * 1024):
        averager.add(torch.arange(len(x)), view)
    return averager.result().embeddings


def piled(x):
    averager = VoxelAverager(1.0, channels=3)
    averager.add(torch.zeros(len(x), 3), x)
    return averager.result()[1]


def adapted(x):
    seen = torch.ones(len(x), dtype=torch.int32)
    return adapt(nn.Identity(), PointEmbeddings(x, seen)).embeddings


def batch_normalized(x):
    """In training, as one process and as several do it."""
    synced = SyncedBatchNorm1d(3)
    synced.counted = True
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    one = on_voxels(BatchNorm(3).to(wide))(x).features
    return torch.stack([one, synced.to(wide)(x)])


class HalfModel(VisionLanguageModel):
    """A model that answers in the type of its ``rows``."""

    def __init__(self, rows):
        self.rows = rows

    def dense_embeddings(self, image):
        raise NotImplementedError

    def text_embeddings(self, texts):
        return self.rows[: len(texts)]


def worded(x):
    """One class in up to 60 templates."""
    templates = [f"{index} {{name}}" for index in range(min(len(x), 60))]
    return class_embeddings(HalfModel(x), ["cup"], templates)


def looked_up(x):
    """The mean over all rows, a hundred times."""
    return mean_of_rows(x, torch.arange(len(x)).expand(100, -1))


REDUCTIONS = {
    "global_average": on_voxels(global_average),
    "global_max": on_voxels(global_max),
    "InstanceNorm": lambda x: (
        on_voxels(InstanceNorm(x.shape[1]).to(x.dtype))(x).features
    ),
    "BatchNorm": batch_normalized,
    "Voxels.average": average_of_voxels,
    "VoxelAverager": piled,
    "ViewAverager": voted,
    "sample_embeddings": sampled,
    "compute_logits": lambda x: compute_logits(x, x[:1]),
    "cosine_loss": lambda x: cosine_loss(x, x.flip(0)),
    "cosine_loss of voxels": pulled,
    "adapter_loss": lambda x: adapter_loss(
        nn.Identity(), x, torch.arange(len(x)) % 3, torch.eye(3).to(x), 0.05
    ),
    "adapt": adapted,
    "class_embeddings": worded,
    "mean_of_rows": looked_up,
    "mil_loss": tagged,
    "SumPooling": lambda x: on_voxels(SumPooling(3))(x).features,
    "AvgPooling": lambda x: on_voxels(AvgPooling(4, stride=4))(x).features,
    "MaxPooling": lambda x: on_voxels(MaxPooling(4, stride=4))(x).features,
    "interpolate": lambda x: voxelize(
        CUBE[: len(x)].float() + 0.5, 1.0
    ).interpolate(x, CUBE[: len(x)].float() + 0.3, 1.0),
    **{f"pool_scores {kind}": pooled(kind) for kind in POOLINGS},
}


def assert_right(found, right):
    """What differs is the rounding of the result, and what float32 loses over
    many rows: the numbers that went in are the same."""
    rounding = torch.finfo(found.dtype).eps
    torch.testing.assert_close(
        found.double(), right.double(), rtol=max(2 * rounding, 1e-4), atol=2e-4
    )


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_reduction_is_right_in_half_precision_at_every_size(name, dtype):
    for rows in SIZES:
        x = numbers(rows, 3).to(dtype)
        assert_right(REDUCTIONS[name](x), REDUCTIONS[name](x.double()))


@cache
def window():
    """The voxels of one window, whose map takes seconds."""
    at = AT[(AT < 41).all(dim=1)]
    return SparseTensor(torch.zeros(len(at), 1), at)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_window_of_more_voxels_than_float16_counts_to(dtype):
    layer, x = AvgPooling(41, stride=41), numbers(MANY, 3).to(dtype)
    found, right = (
        layer(window().replace(y)).features for y in (x, x.double())
    )
    assert_right(found, right)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_point_that_no_view_saw_has_no_class_in_half_precision(dtype):
    unseen = compute_logits(torch.zeros(1, 4).to(dtype), torch.eye(4).to(dtype))
    assert torch.equal(unseen, torch.zeros(1, 4))


def test_class_weights_of_many_small_labels():
    labels = (torch.arange(70_000) % 5 == 4).to(torch.int16)
    found = class_weights([labels], 3).double()
    assert_right(found, torch.tensor([0.83333333, 1.66666667, 0]).double())


def test_the_cases_that_people_met():
    at = AT[:MANY]
    twos = SparseTensor(torch.full((MANY, 1), 2.0).half(), at)
    assert global_average(twos).item() == 2.0
    one = InstanceNorm(1).half()(SparseTensor(numbers(MANY, 1).half(), at))
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
    network.settings = replace(network.settings, channels=9)
    with pytest.raises(ValueError, match=r"1 differ, first 'final\.kernel'"):
        save_network(tmp_path / "a.safetensors", network)
    network.settings = replace(network.settings, channels=8)
    save_network(tmp_path / "a.safetensors", network)


def test_statistics_beyond_float16_are_kept(tmp_path):
    """Rounded, a variance of 100,000 is infinite and its channel silent."""
    network = PointNetwork(NetworkSettings(channels=8))
    network.unet.bn0.bn.running_var.fill_(1e5)
    save_network(tmp_path / "a.safetensors", network)
    again, _ = load_network(tmp_path / "a.safetensors")
    assert torch.equal(
        again.unet.bn0.bn.running_var, network.unet.bn0.bn.running_var
    )


def test_a_compiled_training_goes_on_without_and_with_its_compiler(tmp_path):
    def learn(model, steps):
        return fit(
            model,
            lambda step, generator: torch.randn(8, 3, generator=generator),
            lambda model, batch: model(batch).square().mean(),
            Optimization(torch.optim.SGD(model.parameters(), lr=0.1), steps),
            FitSettings(checkpoint=tmp_path / f"{steps}.safetensors"),
        )

    for steps in (3, 4):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        compiled = torch.compile(plain, backend="eager")
        losses = learn(compiled if steps == 3 else plain, steps)
        torch.manual_seed(1)
        other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        again = torch.compile(other, backend="eager") if steps == 4 else other
        assert learn(again, steps) == losses
        assert torch.equal(plain[0].weight, other[0].weight)


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


@pytest.mark.filterwarnings("ignore:[0-9]+ of 90 steps were left out")
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


@pytest.mark.parametrize("backend", ["torch", "minkowski"])
def test_one_row_is_normalised_by_the_running_statistics(backend):
    """In one process and in several (here a class that asks for others' rows
    and finds none), by either engine."""
    try:
        engine = get_backend(backend)
    except RuntimeError as error:
        pytest.skip(str(error))
    norm = engine.BatchNorm(3)
    norm(engine.SparseTensor(numbers(9, 3), AT[:9]))
    seen = {name: value.clone() for name, value in norm.state_dict().items()}
    row = numbers(1, 3).requires_grad_()
    found = norm(engine.SparseTensor(row, AT[:1])).features
    found.sum().backward()
    synced = nn.BatchNorm1d(3)
    synced.load_state_dict(norm.bn.state_dict())
    synced.__class__ = SyncedBatchNorm1d
    synced.counted = True
    other = row.detach().clone().requires_grad_()
    synced(other).sum().backward()
    torch.testing.assert_close(synced(other), found)
    torch.testing.assert_close(other.grad, row.grad)
    at_test = norm.eval()(engine.SparseTensor(row, AT[:1])).features
    torch.testing.assert_close(found, at_test)
    for name, value in seen.items():
        assert torch.equal(norm.state_dict()[name], value)
        assert torch.equal(synced.state_dict()[name.removeprefix("bn.")], value)


def overflowing(steps, bad, path=None, stop=None):
    """A training in float16 of which some steps overflow."""
    model = nn.Linear(1, 1)

    def draw(step, generator):
        if step == stop:
            raise KeyboardInterrupt
        return 0.0 if step in bad else 1.0

    def loss(model, factor):
        # the root's slope at 0 is infinite, and the loss is not
        output = model(torch.ones(1, 1)) * factor
        return output.square().mean().sqrt()

    sgd = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = fit(
        model,
        draw,
        loss,
        Optimization(sgd, steps, half_precision=True),
        FitSettings(checkpoint=path, checkpoint_every=1),
    )
    return model, losses


def test_steps_that_overflow_are_counted_and_told(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.warns(UserWarning, match="12 of 60 steps were left out"):
        model, _ = overflowing(60, set(range(0, 60, 5)), path)
    progress = load_model(path, model)
    assert (progress.skipped, progress.start_up) == (12, 1)


def test_one_step_that_is_left_out_later_is_told_and_the_start_up_is_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        overflowing(40, set(range(9)))
    with pytest.warns(UserWarning, match="10 of 40 steps were left out"):
        overflowing(40, {*range(9), 20})


def test_a_resumed_training_counts_on_with_its_scale(tmp_path):
    bad, files = {0, 1, 2, 7, 11}, []
    for name, stops in (("whole", [None]), ("parts", [2, 8, None])):
        path = tmp_path / f"{name}.safetensors"
        for stop in stops:
            with (
                pytest.raises(KeyboardInterrupt)
                if stop
                else pytest.warns(UserWarning, match="5 of 20")
            ):
                overflowing(20, bad, path, stop)
        manifest = load_tensors(path)[1]
        files.append(
            {name: manifest[name] for name in ("skipped", "start_up", "scaler")}
        )
    assert files[0] == files[1]
    assert (files[0]["skipped"], files[0]["start_up"]) == (5, 3)
    assert files[0]["scaler"]["scale"] == 2.0**11


def test_a_scale_of_the_loss_that_comes_to_nothing_ends_the_training(tmp_path):
    """At 0 it would make NaN of all weights."""
    path = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        overflowing(40, set(), path, stop=5)
    tensors, manifest = load_tensors(path)
    manifest["scaler"]["scale"] = 2.0**-14
    save_tensors(path, tensors, manifest)
    with pytest.raises(ValueError, match=r"1 of 9 steps.*fell to 3.05176e-05"):
        overflowing(40, {8}, path)


def test_a_training_that_is_none_ends(tmp_path):
    with pytest.raises(ValueError, match=r"left out.*--mixed_precision bf16"):
        overflowing(100, set(range(100)), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="15 of 16 steps"):
        overflowing(16, set(range(15)))
