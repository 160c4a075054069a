"""Random changes of a point cloud that do not change what its points are:
turns, tilts, flips, scale, colour, crops.

A network that met every room once in one pose would learn the pose. Each
training step therefore sees a room turned, scaled and tinted anew, and
voxelised anew after that (chapter 08).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlg_lib.geometry.poses import rotation_matrix


@dataclass(frozen=True)
class Augmentation:
    """How far a cloud may be changed; every amount is drawn evenly from its
    range.

    The paper's release: half a turn, pi / 64, 0.1, flips and colour jitter.
    """

    turn: float = math.pi
    """The largest angle about z, either way; radians."""
    tilt: float = math.pi / 64
    """The largest angle about x and about y, either way; radians."""
    scale: float = 0.1
    """The largest relative change of size, either way."""
    flip: float = 0.5
    """How likely x is mirrored; 0 to 1."""
    gain: float = 0.05
    """The largest relative change of each colour channel, either way."""
    offset: float = 0.05
    """The largest shift of all three channels, either way; colours lie in
    [-1, 1]."""
    noise: float = 0.02
    """The standard deviation of each point's own noise on colours in
    [-1, 1]."""


NO_AUGMENTATION = Augmentation(
    turn=0.0, tilt=0.0, scale=0.0, flip=0.0, gain=0.0, offset=0.0, noise=0.0
)
"""Leaves a cloud as it is."""


def augment(
    points: Float[Tensor, "N 3"],
    colors: Float[Tensor, "N 3"],
    augmentation: Augmentation,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
    """A changed copy of a cloud: points in metres, z up, and colours in [-1, 1]
    (clipped to it).

    >>> points, colors = torch.rand(5, 3), torch.zeros(5, 3)
    >>> moved, _ = augment(points, colors, NO_AUGMENTATION, torch.Generator())
    >>> torch.allclose(moved, points)
    True
    """
    limits = torch.tensor(
        [
            augmentation.turn,
            augmentation.tilt,
            augmentation.tilt,
            augmentation.scale,
            augmentation.offset,
        ]
        + 3 * [augmentation.gain]
    )
    yaw, roll, pitch, scale, offset, *gain = (
        (2 * torch.rand(len(limits), generator=generator) - 1) * limits
    ).tolist()
    linear = rotation_matrix(yaw, roll, pitch) * (1 + scale)
    if float(torch.rand(1, generator=generator)) < augmentation.flip:
        # mirror x first, then turn
        linear = linear * torch.tensor([-1.0, 1.0, 1.0])
    noise = augmentation.noise * torch.randn(colors.shape, generator=generator)
    changed = colors * (1 + torch.tensor(gain)) + offset + noise
    return points @ linear.T, changed.clamp(-1, 1)


def crop(
    points: Float[Tensor, "N 3"],
    size: float,
    generator: torch.Generator,
    sampling_weights: Float[Tensor, " N"] | None = None,
) -> Int[Tensor, " M"]:
    """The indices of the points in a square column of side ``size`` metres
    around a random point of the cloud.

    ``sampling_weights``: how likely each point is to be the centre, relative to
    the others; all alike if None or all zero.

    >>> points = torch.tensor([[0.0, 0, 0], [0.1, 0, 2.0], [9.0, 0, 0]])
    >>> crop(points, 1.0, torch.Generator(), torch.tensor([1.0, 0, 0]))
    tensor([0, 1])
    """
    if sampling_weights is None or not bool(sampling_weights.any()):
        index = int(torch.randint(len(points), (1,), generator=generator))
    else:
        heaped = sampling_weights.double().cumsum(0)
        drawn = (
            torch.rand(1, generator=generator, dtype=torch.float64) * heaped[-1]
        )
        index = min(
            int(torch.searchsorted(heaped, drawn, right=True)), len(points) - 1
        )
    centre = points[index]
    inside = (points[:, :2] - centre[:2]).abs().amax(dim=1) <= size / 2
    return inside.nonzero(as_tuple=True)[0]
