"""Scans in the coordinates of a country, moved near the origin.

A national grid (UTM and the like) counts metres from far away: 500,000 east and
4,000,000 north. Float32, in which points are kept, has steps of 25 cm there. So
a converter moves such a world near the origin while its numbers are float64,
poses and points together, and ``scene.json`` keeps the offset.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.convert.frames import Shots

FAR = 1000.0
"""Metres from the origin, up to which a world stays where it is: float32 has
steps of 0.06 mm there."""


def world_offset(poses: Float[Tensor, "F 4 4"]) -> Float[Tensor, "3"]:
    """What to subtract from all coordinates, whole metres (float64), of a world
    in which cameras stand at ``poses``; zero where they are near the origin.

    >>> pose = torch.eye(4, dtype=torch.float64)[None].repeat(3, 1, 1)
    >>> pose[:, :3, 3] = torch.tensor([500000.123, 4000000.456, 100.0])
    >>> world_offset(pose).tolist()
    [500000.0, 4000000.0, 100.0]
    """
    middle = poses[:, :3, 3].double().median(dim=0).values
    if len(poses) == 0 or not float(middle.abs().max()) > FAR:
        return torch.zeros(3, dtype=torch.float64)
    return middle.round()


def moved(shots: Shots, offset: Float[Tensor, "3"]) -> Shots:
    """The frames in the world whose origin is at ``offset`` of theirs."""
    shift = torch.zeros(4, 4, dtype=torch.float64)
    shift[:3, 3] = offset
    return replace(
        shots,
        shots=[
            replace(shot, camera_to_world=shot.camera_to_world - shift)
            for shot in shots.shots
        ],
    )


def with_offset(
    alignment: Float[Tensor, "4 4"], offset: Float[Tensor, "3"]
) -> Float[Tensor, "4 4"]:
    """The transform that subtracts ``offset`` and then applies a rotation."""
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = -offset
    return alignment.double() @ shift
