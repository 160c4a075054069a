"""How alike two colourings of the same points are."""

from jaxtyping import Real
from torch import Tensor


def color_correlation(
    first: Real[Tensor, "N 3"], second: Real[Tensor, "N 3"]
) -> float:
    """Pearson's correlation of two colourings of the same points, each channel
    less its mean, all channels together; 0 where one has a single colour.

    >>> import torch
    >>> colors = torch.tensor([[0, 10, 0], [200, 90, 30]])
    >>> round(color_correlation(colors, colors // 2), 6)
    1.0
    """
    a, b = (
        colors.double() - colors.double().mean(dim=0)
        for colors in (first, second)
    )
    scale = a.norm() * b.norm()
    return float((a * b).sum() / scale) if scale > 0 else 0.0
