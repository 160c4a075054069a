"""In what precision things are added up: sums, means and counts overflow or
lose their small parts in the types that tensors are kept in.
"""

import torch
from torch import Tensor


def sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype to add up numbers of ``x`` in: float32 for half precision,
    that of ``x`` otherwise.

    >>> sum_dtype(torch.zeros(1, dtype=torch.float16))
    torch.float32
    """
    half = x.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if half else x.dtype
