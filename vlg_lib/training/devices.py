"""Which device to compute on: the one check of what a person types."""

import torch


def choose_device(name: str | None = None) -> torch.device:
    """The device of a name: "cpu", "cuda", "cuda:1" ...; None takes CUDA where
    there is one, else the CPU.

    ValueError where the name is no device, is of a kind that the library does
    not support, or is not here.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"unknown device {name!r}; known: cpu, cuda, cuda:1 ..."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"device {name!r} is not supported; known: cpu, cuda, cuda:1 ..."
        )
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(
            f"device {name!r} is not here: {count} CUDA devices; take cpu"
        )
    return device
