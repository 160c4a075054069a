"""MinkUNet: names, shapes and sizes of the published networks; equal to the
same network made of dense layers."""

import sys
from dataclasses import replace

import pytest
import torch
from dense_grid import cloud, dense_convolution, dense_transposed, random

from vlg_lib import sparse
from vlg_lib.networks.mink_unet import Architecture, MinkUNet, create_mink_unet
from vlg_lib.sparse import SparseTensor

# Stage by stage, as in MinkowskiEngine's examples/minkunet.py (MinkUNet14A):
# the names and shapes of a published file.
STRIDES = """
conv0p1s1 125 3 32 bn0
conv1p1s2 8 32 32 bn1
block1 32 32
conv2p2s2 8 32 32 bn2
block2 32 64
conv3p4s2 8 64 64 bn3
block3 64 128
conv4p8s2 8 128 128 bn4
block4 128 256
convtr4p16s2 8 256 128 bntr4
block5 256 128
convtr5p8s2 8 128 128 bntr5
block6 192 128
convtr6p4s2 8 128 96 bntr6
block7 128 96
convtr7p2s2 8 96 96 bntr7
block8 128 96
"""


def norm(name, channels):
    vectors = {
        f"{name}.bn.{part}": (channels,)
        for part in ("weight", "bias", "running_mean", "running_var")
    }
    return vectors | {f"{name}.bn.num_batches_tracked": ()}


def published_shapes(blocks, out_channels):
    shapes = {"final.kernel": (96, out_channels)}
    for line in STRIDES.split("\n")[1:-1]:
        name, *numbers = line.split()
        if name.startswith("conv"):
            volume, c_in, c_out, norm_name = *map(int, numbers[:3]), numbers[3]
            shapes |= {f"{name}.kernel": (volume, c_in, c_out)} | norm(
                norm_name, c_out
            )
            continue
        c_in, c_out = map(int, numbers)
        for index in range(blocks):
            shapes[f"{name}.{index}.conv1.kernel"] = (
                27,
                c_in if index == 0 else c_out,
                c_out,
            )
            shapes[f"{name}.{index}.conv2.kernel"] = (27, c_out, c_out)
            shapes |= norm(f"{name}.{index}.norm1", c_out) | norm(
                f"{name}.{index}.norm2", c_out
            )
            if index == 0 and c_in != c_out:
                shapes[f"{name}.0.downsample.0.kernel"] = (c_in, c_out)
                shapes |= norm(f"{name}.0.downsample.1", c_out)
    return shapes


@pytest.mark.parametrize(
    ("name", "blocks"), [("MinkUNet14A", 1), ("MinkUNet18A", 2)]
)
def test_names_and_shapes_are_those_of_the_published_networks(name, blocks):
    network = create_mink_unet(name, 3, 768, head_bias=False)
    assert {
        key: tuple(value.shape) for key, value in network.state_dict().items()
    } == published_shapes(blocks, 768)


@pytest.mark.parametrize(
    ("name", "out_channels", "head_bias", "parameters"),
    [
        # OpenScene and 3DSS-VLG with OpenSeg: 8.10 M
        ("MinkUNet14A", 768, False, 8_096_288),
        ("MinkUNet14A", 20, True, 8_024_500),
        ("MinkUNet18A", 768, False, 15_564_960),  # 15.56 M
        # a classifier of 20 classes: 15.49 M
        ("MinkUNet18A", 20, True, 15_493_172),
        ("MinkUNet34C", 768, False, 37_927_840),
        ("MinkUNet34C", 20, True, 37_856_052),
        ("MinkUNetSmall", 64, True, 3_071_248),
    ],
)
def test_numbers_of_parameters(name, out_channels, head_bias, parameters):
    network = create_mink_unet(name, 3, out_channels, head_bias=head_bias)
    assert (
        sum(parameter.numel() for parameter in network.parameters())
        == parameters
    )
    assert ("final.bias" in network.state_dict()) == head_bias


class DenseConvolution(sparse.Convolution):
    """The layer on a dense grid: zero wherever there is no voxel."""

    def forward(self, x):
        stride = x.stride * self.stride
        at = x.manager.grid(stride).coordinates
        kernel = self.kernel[None] if self.pointwise else self.kernel
        out = dense_convolution(x, kernel, at, self.kernel_size, self.stride, 1)
        return SparseTensor(
            out if self.bias is None else out + self.bias,
            stride=stride,
            manager=x.manager,
        )


class DenseConvolutionTranspose(sparse.ConvolutionTranspose):
    def forward(self, x):
        stride = x.stride // self.stride
        out = dense_transposed(
            x,
            self.kernel,
            x.manager.grid(stride).coordinates,
            self.kernel_size,
            self.stride,
            1,
        )
        return SparseTensor(out, stride=stride, manager=x.manager)


@pytest.mark.parametrize("training", [True, False])
def test_the_whole_network_equals_a_dense_one(training):
    tiny = Architecture((6, 8, 7, 5), (1, 2, 1, 1), stem=4)
    ours = MinkUNet(tiny, 3, 4).double().train(training)
    dense_engine = replace(
        ours.engine,
        Convolution=DenseConvolution,
        ConvolutionTranspose=DenseConvolutionTranspose,
    )
    theirs = MinkUNet(tiny, 3, 4, engine=dense_engine).double().train(training)
    theirs.load_state_dict(ours.state_dict())

    coordinates = cloud(voxels=80, reach=4)
    features = random(len(coordinates), 3)
    outputs = [
        network(SparseTensor(features, coordinates)).features
        for network in (ours, theirs)
    ]
    torch.testing.assert_close(*outputs, atol=1e-11, rtol=1e-11)
    gradients = [
        torch.autograd.grad(out.square().sum(), list(network.parameters()))
        for out, network in zip(outputs, (ours, theirs), strict=True)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(
            a, b, atol=1e-9 * float(b.abs().max()) + 1e-11, rtol=0
        )


def test_points_and_clouds_in_another_order():
    network = create_mink_unet("MinkUNetSmall", 3, 5).double().eval()
    coordinates = cloud(voxels=150, reach=8, batches=3)
    features = random(len(coordinates), 3)
    out = network(SparseTensor(features, coordinates)).features
    assert out.shape == (len(coordinates), 5)
    order = torch.randperm(
        len(coordinates), generator=torch.Generator().manual_seed(0)
    )
    shuffled = coordinates[order].clone()
    shuffled[:, 0] = 2 - shuffled[:, 0]
    torch.testing.assert_close(
        network(SparseTensor(features[order], shuffled)).features,
        out[order],
        atol=1e-11,
        rtol=0,
    )


def test_every_parameter_gets_a_gradient():
    for norm_name in ("batch", "instance"):
        network = create_mink_unet("MinkUNetSmall", 3, 5, norm=norm_name)
        coordinates = cloud(voxels=300, reach=10)
        out = network(
            SparseTensor(random(len(coordinates), 3).float(), coordinates)
        ).features
        out.square().mean().backward()
        assert all(bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_the_seed_alone_decides_the_initial_weights():
    torch.manual_seed(1)
    first = create_mink_unet("MinkUNetSmall", 3, 5, seed=3).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = create_mink_unet("MinkUNetSmall", 3, 5, seed=3).state_dict()
    other = create_mink_unet("MinkUNetSmall", 3, 5, seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["final.kernel"], other["final.kernel"])


def test_convolutions_start_as_kaiming_normal_by_the_fan_out():
    network = create_mink_unet("MinkUNet14A", 3, 20)
    kernel = network.get_parameter("block4.0.conv2.kernel")
    assert float(kernel.detach().std()) == pytest.approx(
        (2 / (27 * 256)) ** 0.5, rel=0.01
    )
    transposed = network.get_parameter("convtr4p16s2.kernel").detach()
    assert float(transposed.abs().max()) <= (1 / (8 * 128)) ** 0.5


def test_one_voxel_is_enough_at_test_time():
    network = create_mink_unet("MinkUNet14A", 3, 20).eval()
    out = network(
        SparseTensor(torch.ones(1, 3), torch.zeros(1, 4, dtype=torch.int64))
    ).features
    assert bool(out.isfinite().all())


def test_unknown_names_are_refused(monkeypatch):
    # as if it were not installed
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    with pytest.raises(
        ValueError, match="unknown network 'MinkUNet50'; known: MinkUNet14A"
    ):
        create_mink_unet("MinkUNet50", 3, 20)
    with pytest.raises(ValueError, match="unknown normalisation 'layer'"):
        create_mink_unet("MinkUNetSmall", 3, 20, norm="layer")
    with pytest.raises(RuntimeError, match="make minkowski"):
        create_mink_unet("MinkUNetSmall", 3, 20, backend="minkowski")
    with pytest.raises(ValueError, match="as many stages up"):
        Architecture((8, 16, 8), (1, 1, 1))


def test_the_wrong_number_of_input_channels():
    network = create_mink_unet("MinkUNetSmall", 6, 20)
    with pytest.raises(ValueError, match="takes 6 channels, the tensor has 3"):
        network(
            SparseTensor(torch.ones(1, 3), torch.zeros(1, 4, dtype=torch.int64))
        )
