"""Parity with MinkowskiEngine: against its recorded numbers everywhere, against itself where it is installed."""

import importlib.util

import pytest
import torch
from dense_grid import cloud
from minkowski_cases import GOLDEN, computed, sorted_by_coordinate, wave
from safetensors.torch import load_file

from vlg_lib import sparse
from vlg_lib.mink_unet import create_mink_unet
from vlg_lib.sparse import SparseTensor, get_backend

needs_minkowski = pytest.mark.skipif(
    importlib.util.find_spec("MinkowskiEngine") is None, reason="MinkowskiEngine is not installed: make minkowski"
)


def assert_same(ours, theirs):
    """Equal to 1e-12 of the largest value."""
    assert ours.keys() >= theirs.keys()
    for name, expected in theirs.items():
        tolerance = 1e-12 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(
            ours[name], expected, atol=tolerance, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
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


@needs_minkowski
@pytest.mark.parametrize("name", ["MinkUNet18A", "MinkUNet34C", "MinkUNetSmall"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_weights_fit_both_ways(name, norm):
    coordinates = cloud(seed=3, voxels=150, reach=9)
    features = wave(len(coordinates), 3)
    for ours, theirs in (("torch", "minkowski"), ("minkowski", "torch")):
        from_network = create_mink_unet(name, 3, 5, norm=norm, seed=1, backend=ours).double().eval()
        to_network = create_mink_unet(name, 3, 5, norm=norm, seed=2, backend=theirs).double().eval()
        to_network.load_state_dict(from_network.state_dict(), strict=True)
        outputs = [
            sorted_by_coordinate(network(network.engine.SparseTensor(features, coordinates)))
            for network in (from_network, to_network)
        ]
        torch.testing.assert_close(*outputs, atol=1e-11, rtol=1e-11)


@needs_minkowski
@pytest.mark.parametrize("kind", ["Sum", "Avg", "Max"])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_pooling(kind, size, stride):
    import MinkowskiEngine

    coordinates = cloud(seed=3)
    features = wave(len(coordinates), 3)
    theirs = getattr(MinkowskiEngine, f"Minkowski{kind}Pooling")(size, stride, dimension=3)
    expected = theirs(MinkowskiEngine.SparseTensor(features, coordinates=coordinates.int()))
    out = getattr(sparse, f"{kind}Pooling")(size, stride)(SparseTensor(features, coordinates))
    torch.testing.assert_close(sorted_by_coordinate(out), sorted_by_coordinate(expected), atol=1e-12, rtol=0)


@needs_minkowski
def test_initial_values_come_from_one_distribution():
    for ours, theirs in ((sparse.Convolution, "Convolution"), (sparse.ConvolutionTranspose, "ConvolutionTranspose")):
        other = getattr(get_backend("minkowski"), theirs)(30, 60, 3, bias=True)
        mine = ours(30, 60, 3, bias=True)
        assert float(mine.kernel.detach().abs().max()) == pytest.approx(
            float(other.kernel.detach().abs().max()), rel=0.01
        )
        assert float(mine.bias.detach().abs().max()) == pytest.approx(float(other.bias.detach().abs().max()), rel=0.3)


@needs_minkowski
def test_bad_coordinates_are_refused_by_either_engine():
    make = get_backend("minkowski").SparseTensor
    with pytest.raises(ValueError, match="repeated"):
        make(torch.zeros(2, 1), torch.zeros(2, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match="integers"):
        make(torch.zeros(1, 1), torch.full((1, 4), 0.5))
