"""Published 3D networks of OpenScene and 3DSS-VLG, in our own form.

Their files come from ``torch.save``: a dictionary with the weights under
``state_dict``, beside the epoch, the best score (a NumPy number) and the state
of the optimiser. Such a file is a pickle, which can run code of its author as
it is read. Here only tensors, containers, texts and numbers are read; a file
that asks for anything else is refused.

Other programs keep the same weights under another entry (``model``,
``model_state_dict``), put words before their names (``module.``,
``backbone.``), or write a kernel of one offset as (1, C_in, C_out), as
MinkowskiEngine 0.4 does, and not as (C_in, C_out). Such files are read where
the names and the shapes of all weights then fit, and no others.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlg_lib.artifacts import StoreError, plain_name
from vlg_lib.networks.point_network import NetworkSettings, PointNetwork

HEAD = "final.kernel"
"""The weight that every MinkUNet has: what stands before its name stands before
all names."""

_DEEPEST = 3  # dictionaries in dictionaries that are looked through

Weights = dict[str, Tensor]

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
    network, whose names are then told, and where several networks in it fit.
    """
    readings = _readings(path)
    wanted = {
        name: PointNetwork(
            NetworkSettings(
                architecture,
                weights[HEAD].shape[-1],
                voxel_size,
                height=False,
            )
        )
        for name, weights in readings.items()
    }
    fitting = {
        name: network
        for name, network in wanted.items()
        if not _problems(network.unet.state_dict(), readings[name])
    }
    if not fitting:
        raise StoreError(_none_fits(path, architecture, readings, wanted))
    first = next(iter(fitting))
    _check_one(path, {name: readings[name] for name in fitting})
    network = fitting[first]
    network.unet.load_state_dict(
        {
            name: readings[first][name].reshape(tensor.shape)
            for name, tensor in network.unet.state_dict().items()
        }
    )
    return network.float().eval()


def _problems(wanted: Weights, found: Weights) -> dict[str, set[str]]:
    """What keeps weights from being those that are wanted; axes of length 1 do
    not.
    """
    problems = {
        "missing": wanted.keys() - found.keys(),
        "unexpected": found.keys() - wanted.keys(),
        "of another shape": {
            f"{name} (expected {tuple(wanted[name].shape)}, found"
            f" {tuple(found[name].shape)})"
            for name in wanted.keys() & found.keys()
            if wanted[name].squeeze().shape != found[name].squeeze().shape
        },
    }
    return {kind: names for kind, names in problems.items() if names}


def _none_fits(
    path: Path,
    architecture: str,
    readings: dict[str, Weights],
    wanted: dict[str, PointNetwork],
) -> str:
    """Why no reading of a file is the network that is wanted: of the one that
    has the most of its names.
    """
    expected = {name: wanted[name].unet.state_dict() for name in readings}
    nearest = max(
        readings,
        key=lambda name: len(expected[name].keys() & readings[name].keys()),
    )
    problems = _problems(expected[nearest], readings[nearest])
    found = "; ".join(
        f"{kind}: {_some(names)}" for kind, names in problems.items()
    )
    return (
        f"{path}: these are not the weights of a {architecture} on colours"
        f" ({nearest}). {found}"
    )


def _check_one(path: Path, fitting: dict[str, Weights]) -> None:
    """StoreError where several networks fit that are not one and the same."""
    (first, weights), *others = fitting.items()
    differing = [
        name
        for name, other in others
        if any(
            not torch.equal(other[key].reshape(tensor.shape).to(tensor), tensor)
            for key, tensor in weights.items()
        )
    ]
    if differing:
        raise StoreError(
            f"{path}: holds several networks that fit ({first},"
            f" {', '.join(differing)}): save the one that is meant alone, as"
            " torch.save({'state_dict': weights}, path)"
        )


def _readings(path: Path) -> dict[str, Weights]:
    """The networks that a file may hold: their weights by the names that
    follow a common prefix, for each entry and prefix, in words.

    StoreError where there is none.
    """
    content = _read(path)
    entries = {
        name: _plain(weights)
        for name, weights in _entries(content, "", _DEEPEST)
    }
    readings = {}
    for entry, weights in entries.items():
        for prefix in _prefixes(weights):
            words = f"under {entry!r}" if entry else "at the top"
            if prefix:
                words += f", names after {prefix!r}"
            readings[words] = _after(weights, prefix)
    if readings:
        return readings
    if entries:
        names = {name for weights in entries.values() for name in weights}
        raise StoreError(
            f"{path}: holds no MinkUNet: {HEAD} is missing, there are"
            f" {_some(names)}"
        )
    raise StoreError(
        f"{path}: expected tensors under 'state_dict', found {_some(content)}"
    )


def _plain(weights: Weights) -> Weights:
    """Weights by the names that they have without ``torch.compile``, where
    these differ.
    """
    plain = {plain_name(name): tensor for name, tensor in weights.items()}
    return plain if len(plain) == len(weights) else weights


def _prefixes(weights: Weights) -> list[str]:
    """What may stand before all names."""
    return sorted(
        name.removesuffix(HEAD)
        for name, tensor in weights.items()
        if name.endswith(HEAD) and tensor.ndim > 1
    )


def _after(weights: Weights, prefix: str) -> Weights:
    """Weights by what follows the prefix in their names; a name that does not
    start with it is told so, and fits nothing.
    """
    return {
        name.removeprefix(prefix)
        if name.startswith(prefix)
        else f"{name} without {prefix!r}": tensor
        for name, tensor in weights.items()
    }


def _entries(
    content: Any, name: str, deepest: int
) -> Iterator[tuple[str, Weights]]:
    """The dictionaries of nothing but tensors in what a file holds, by the way
    to them.
    """
    if not isinstance(content, dict) or not content or deepest < 0:
        return
    if all(
        isinstance(key, str) and isinstance(value, Tensor)
        for key, value in content.items()
    ):
        yield name, content
        return
    for key, value in content.items():
        if isinstance(key, str):
            way = f"{name}.{key}" if name else key
            yield from _entries(value, way, deepest - 1)


def _read(path: Path) -> Any:
    """What a file of ``torch.save`` holds; StoreError where that is more than
    numbers.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
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


def _some(names: Any) -> str:
    """A few names, and how many more there are."""
    if not isinstance(names, dict | set):
        return type(names).__name__
    shown = sorted(map(str, names))
    return ", ".join(shown[:6]) + (
        f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    )
