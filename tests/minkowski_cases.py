"""The same small computations on either engine, with weights from a formula;
and a recording of MinkowskiEngine's.

python tests/minkowski_cases.py (needs MinkowskiEngine) writes
tests/golden/minkowski.safetensors"""

from pathlib import Path

import torch
from dense_grid import cloud
from safetensors.torch import save_file

from vlg_lib.geometry.voxels import pack
from vlg_lib.networks.mink_unet import create_mink_unet
from vlg_lib.sparse import get_backend

GOLDEN = Path(__file__).parent / "golden" / "minkowski.safetensors"

CONVOLUTIONS = [
    (1, 1, 1),
    (2, 1, 1),
    (3, 1, 1),
    (5, 1, 1),
    (3, 1, 2),
    (1, 2, 1),
    (2, 2, 1),
    (3, 2, 1),
    (5, 2, 1),
    (3, 3, 1),
]
"""Kernel size, stride, dilation."""

TRANSPOSED = [(2, 2), (3, 2), (3, 3), (3, 1)]
"""Kernel size, stride."""


def wave(*shape, start=0.0):
    """Numbers between -1 and 1 that no random generator has to reproduce."""
    count = int(torch.tensor(shape).prod())
    return torch.sin(
        start + 1.7 * torch.arange(count, dtype=torch.float64) ** 1.1
    ).reshape(shape)


def with_wave_weights(module):
    """The module in float64, every parameter set by the formula: kernels at the
    scale of their fan, norms near one."""
    module = module.double()
    for index, (name, parameter) in enumerate(
        sorted(module.named_parameters())
    ):
        values = wave(*parameter.shape, start=index)
        if name.endswith("kernel"):
            parameter.data = values * (2 / parameter.shape[:-1].numel()) ** 0.5
        else:
            parameter.data = 0.1 * values + (
                1.0 if name.endswith("weight") else 0.0
            )
    return module


def sorted_by_coordinate(x):
    """The features of a tensor of either engine, rows in the order of their
    coordinates."""
    return x.features[pack(x.coordinates.cpu()).argsort()]


def computed(engine, networks=("MinkUNet14A",)):
    """Outputs and the gradients of a sum of squares, by name, of all cases on
    one engine."""
    coordinates = cloud(seed=7, voxels=60, reach=5)
    features = wave(len(coordinates), 3)
    results = {}

    def record(name, module, forward):
        x = features.clone().requires_grad_()
        out = forward(engine.SparseTensor(x, coordinates))
        gradients = torch.autograd.grad(
            out.features.square().sum(), [x, *module.parameters()]
        )
        results[name] = sorted_by_coordinate(out).detach()
        results[f"{name}, gradient of the features"] = gradients[0]
        for (parameter, _), gradient in zip(
            module.named_parameters(), gradients[1:], strict=True
        ):
            results[f"{name}, gradient of {parameter}"] = gradient

    for size, stride, dilation in CONVOLUTIONS:
        layer = engine.Convolution(
            3, 4, size, stride=stride, dilation=dilation, bias=True
        )
        record(
            f"convolution {size}^3, stride {stride}, dilation {dilation}",
            with_wave_weights(layer),
            layer,
        )
    for size, stride in TRANSPOSED:
        down = engine.Convolution(3, 4, size, stride=stride)
        up = engine.ConvolutionTranspose(4, 2, size, stride=stride, bias=True)
        both = with_wave_weights(torch.nn.Sequential(down, up))
        record(f"transposed {size}^3, stride {stride}", both, both)
    for name in networks:
        network = with_wave_weights(
            create_mink_unet(name, 3, 4, backend=engine.name)
        )
        record(f"{name} in training", network, network)
        record(f"{name} at test", network, network.eval())
    return results


def is_recorded(name):
    """Every output, and the gradients of the layers; of a network those of the
    features and of the last kernel."""
    return (
        "gradient" not in name
        or "MinkUNet" not in name
        or name.endswith(("features", "final.kernel"))
    )


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    recorded = computed(get_backend("minkowski"))
    save_file(
        {
            name: values.contiguous()
            for name, values in recorded.items()
            if is_recorded(name)
        },
        GOLDEN,
    )
    print(f"{GOLDEN}: {GOLDEN.stat().st_size / 1024:.0f} kB")
