"""In what precision things are added up: sums, means and counts overflow or
lose their small parts in the types that tensors are kept in.

With that, half precision costs a training little. Measured on a CPU over the
shipped networks (``benchmarks/precision.py``, ``results/precision.json``), the
gradient of a batch is off the float32 one by 0.2 to 0.6 % of its length in
float16 and by 0.8 to 2.2 % in bfloat16; in the worst group of layers by 3 and
8 %. The gradient of the next batch is another one by 90 to 110 %. After 120
steps the loss lies within 1.3 % of float32's in float16, and within 1.6 % in
bfloat16 (higher in five of six trainings), while two seeds differ by 3 to 7 %.
So float16 is the choice on a GPU, and bfloat16 the one where gradients overflow
float16. Longer trainings, and any on a GPU, were not compared.
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
