"""Published 3D networks of OpenScene and 3DSS-VLG, in our own form.

Their files come from ``torch.save``: a dictionary with the weights under
``state_dict``, beside the epoch, the best score (a NumPy number) and the state
of the optimiser. Such a file is a pickle, which can run code of its author as
it is read. Here only tensors, containers, texts and numbers are read; a file
that asks for anything else is refused.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlg_lib.artifacts import StoreError
from vlg_lib.networks.point_network import NetworkSettings, PointNetwork

PREFIXES = ("module.", "net3d.")
"""Before each name: of the wrapper that trains on several GPUs, and of the
network in its authors' program."""

# What pickles of NumPy numbers are made from. NumPy 1 and NumPy 2 have two
# names for the function.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    *(
        (_SCALAR, f"numpy.{core}.multiarray.scalar")
        for core in ("core", "_core")
    ),
    np.dtype,
    *(
        type(np.dtype(name))
        for name in ("bool", "int32", "int64", "float16", "float32", "float64")
    ),
]


def load_published(
    path: Path, *, architecture: str = "MinkUNet18A", voxel_size: float = 0.02
) -> PointNetwork:
    """The published network in ``path`` (.pth, .pth.tar), in evaluation mode,
    on the CPU.

    It takes coloured points and gives as many numbers a point as its last layer
    has: embeddings, to compare with text embeddings of the same vision-language
    model. ``architecture``: one of
    ``vlg_lib.networks.mink_unet.ARCHITECTURES``; ``voxel_size``: metres (the
    file holds neither; both papers take MinkUNet18A and 2 cm). StoreError where
    the file is missing, cut, holds more than numbers, or weights of another
    network, whose names are then told.
    """
    weights = _network_weights(path)
    if "final.kernel" not in weights:
        raise StoreError(
            f"{path}: holds no MinkUNet: final.kernel is missing, there are"
            f" {_some(weights)}"
        )
    channels = weights["final.kernel"].shape[-1]
    network = PointNetwork(
        NetworkSettings(architecture, channels, voxel_size, height=False)
    )
    wanted = network.unet.state_dict()
    problems = {
        "missing": wanted.keys() - weights.keys(),
        "unexpected": weights.keys() - wanted.keys(),
        "of another shape": {
            f"{name} (expected {tuple(wanted[name].shape)}, found"
            f" {tuple(weights[name].shape)})"
            for name in wanted.keys() & weights.keys()
            if wanted[name].shape != weights[name].shape
        },
    }
    if any(problems.values()):
        found = "; ".join(
            f"{kind}: {_some(names)}"
            for kind, names in problems.items()
            if names
        )
        raise StoreError(
            f"{path}: these are not the weights of a {architecture} on colours."
            f" {found}"
        )
    network.unet.load_state_dict(weights)
    return network.float().eval()


def _network_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of the network by name, without prefixes."""
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            content: Any = torch.load(
                path, map_location="cpu", weights_only=True
            )
    # whatever torch raises for bytes that are no tensors
    except Exception as error:
        named = re.search(r"GLOBAL \S+", str(error))
        reason = named[0] if named else str(error).strip()[:200]
        raise StoreError(
            f"{path}: expected a file of torch.save that holds nothing but"
            f" tensors, texts and numbers ({reason}); get it again if it is"
            " cut; a file of other objects could run its author's code, and is"
            " not read"
        ) from error
    weights = (
        content.get("state_dict", content)
        if isinstance(content, dict)
        else None
    )
    if not isinstance(weights, dict) or not all(
        isinstance(value, Tensor) for value in weights.values()
    ):
        raise StoreError(
            f"{path}: expected tensors under 'state_dict', found"
            f" {_some(content)}"
        )
    return {_without_prefixes(name): tensor for name, tensor in weights.items()}


def _without_prefixes(name: str) -> str:
    return name.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1])


def _some(names: Any) -> str:
    """A few names, and how many more there are."""
    if not isinstance(names, dict | set):
        return type(names).__name__
    shown = sorted(map(str, names))
    return ", ".join(shown[:6]) + (
        f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    )
