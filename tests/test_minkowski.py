"""Parity with MinkowskiEngine: against its recorded numbers everywhere, against
itself where it is installed."""

import importlib.util

import pytest
import torch
from dense_grid import cloud
from minkowski_cases import GOLDEN, computed, sorted_by_coordinate, wave
from safetensors.torch import load_file

from vlg_lib import sparse
from vlg_lib.networks.mink_unet import create_mink_unet
from vlg_lib.sparse import SparseTensor, get_backend

needs_minkowski = pytest.mark.skipif(
    importlib.util.find_spec("MinkowskiEngine") is None,
    reason="MinkowskiEngine is not installed: make minkowski",
)


def assert_same(ours, theirs):
    """Equal to 1e-12 of the largest value."""
    assert ours.keys() >= theirs.keys()
    for name, expected in theirs.items():
        tolerance = 1e-12 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(
            ours[name],
            expected,
            atol=tolerance,
            rtol=0,
            msg=lambda text, n=name: f"{n}: {text}",
        )


@pytest.fixture(scope="module")
def ours():
    return computed(get_backend("torch"))


def test_numbers_recorded_from_minkowski_engine(ours):
    recorded = load_file(GOLDEN)
    assert len(recorded) > 60
    assert_same(ours, recorded)


@needs_minkowski
def test_the_same_numbers_as_minkowski_engine(ours):
    assert_same(ours, computed(get_backend("minkowski")))


def output_and_gradients(network, coordinates, features):
    """The output of a network, rows by coordinate, and the gradients of a sum
    of its squares."""
    x = features.clone().requires_grad_()
    out = network(network.engine.SparseTensor(x, coordinates))
    gradients = torch.autograd.grad(
        out.features.square().sum(), [x, *network.parameters()]
    )
    names = ["features", *(name for name, _ in network.named_parameters())]
    return {"output": sorted_by_coordinate(out).detach()} | dict(
        zip(names, gradients, strict=True)
    )


@needs_minkowski
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("MinkUNet14A", "batch"),
        ("MinkUNet18A", "batch"),
        ("MinkUNet34C", "batch"),
        ("MinkUNetSmall", "instance"),
    ],
)
def test_whole_networks_agree_with_one_state_dict(name, norm):
    coordinates = cloud(seed=3, voxels=150, reach=9)
    features = wave(len(coordinates), 3)
    ours, theirs = (
        create_mink_unet(
            name, 3, 5, norm=norm, seed=seed, backend=backend
        ).double()
        for seed, backend in enumerate(("torch", "minkowski"))
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    expected = output_and_gradients(theirs, coordinates, features)
    assert_same(output_and_gradients(ours, coordinates, features), expected)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(0.9)
    # the other way, with what its norms have seen
    ours.load_state_dict(theirs.state_dict(), strict=True)
    outputs = [
        sorted_by_coordinate(
            network.eval()(network.engine.SparseTensor(features, coordinates))
        ).detach()
        for network in (ours, theirs)
    ]
    assert_same({"at test": outputs[0]}, {"at test": outputs[1]})


@needs_minkowski
@pytest.mark.parametrize("kind", ["Sum", "Avg", "Max"])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_pooling(kind, size, stride):
    import MinkowskiEngine

    coordinates = cloud(seed=3)
    features = wave(len(coordinates), 3)
    theirs = getattr(MinkowskiEngine, f"Minkowski{kind}Pooling")(
        size, stride, dimension=3
    )
    expected = theirs(
        MinkowskiEngine.SparseTensor(features, coordinates=coordinates.int())
    )
    out = getattr(sparse, f"{kind}Pooling")(size, stride)(
        SparseTensor(features, coordinates)
    )
    torch.testing.assert_close(
        sorted_by_coordinate(out),
        sorted_by_coordinate(expected),
        atol=1e-12,
        rtol=0,
    )


@needs_minkowski
def test_initial_values_come_from_one_distribution():
    for ours, theirs in (
        (sparse.Convolution, "Convolution"),
        (sparse.ConvolutionTranspose, "ConvolutionTranspose"),
    ):
        other = getattr(get_backend("minkowski"), theirs)(30, 60, 3, bias=True)
        mine = ours(30, 60, 3, bias=True)
        assert float(mine.kernel.detach().abs().max()) == pytest.approx(
            float(other.kernel.detach().abs().max()), rel=0.01
        )
        assert float(mine.bias.detach().abs().max()) == pytest.approx(
            float(other.bias.detach().abs().max()), rel=0.3
        )


@needs_minkowski
def test_the_argument_chooses_the_engine():
    import MinkowskiEngine

    assert isinstance(
        create_mink_unet("MinkUNetSmall", 3, 5, backend="minkowski").conv0p1s1,
        MinkowskiEngine.MinkowskiConvolution,
    )
    assert isinstance(
        create_mink_unet("MinkUNetSmall", 3, 5).conv0p1s1, sparse.Convolution
    )


@needs_minkowski
def test_bad_coordinates_are_refused_by_either_engine():
    make = get_backend("minkowski").SparseTensor
    with pytest.raises(ValueError, match="repeated"):
        make(torch.zeros(2, 1), torch.zeros(2, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match="integers"):
        make(torch.zeros(1, 1), torch.full((1, 4), 0.5))
