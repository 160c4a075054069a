"""Matrix products at a core's own rate (chapter 07).

On a CPU PyTorch multiplies float32 matrices with MKL, which gives some
processors instructions half as wide as theirs. oneDNN, which PyTorch brings as
well, uses all of the width, but writes a routine for every shape that it meets:
a millisecond each. So it is asked where a product is large, and for numbers of
rows that come again: multiples of :data:`QUANTUM`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

QUANTUM = 128
"""What the rows of a large product are a multiple of."""

LARGE = 2 * QUANTUM
"""From so many rows on, a product is worth being filled up to whole quanta."""

_PIECE = 8 * QUANTUM
"""Rows of a piece where there are many."""

_WORTH = 2**20
"""Multiplications from which oneDNN is faster than MKL."""

_MIXING = 64
"""Columns from which it is faster where the sum runs over the rows, which it
has to turn first."""


def has_onednn() -> bool:
    """Whether this PyTorch multiplies float32 matrices with oneDNN when asked:
    it does on x86.
    """
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    )


def in_quanta(rows: int) -> int:
    """The next multiple of :data:`QUANTUM`.

    >>> in_quanta(129)
    256
    """
    return -(-rows // QUANTUM) * QUANTUM


def times(
    rows: Float[Tensor, "M K"], weight: Float[Tensor, "K N"]
) -> Float[Tensor, "M N"]:
    """``rows @ weight``; fastest for a multiple of :data:`QUANTUM` rows.

    >>> times(torch.ones(1, 2), torch.ones(2, 3))
    tensor([[2., 2., 2.]])
    """
    if _is_worth(rows, len(rows), weight.shape[1]):
        return _onednn(rows, weight.mT)
    return rows @ weight


def times_all(
    rows: Float[Tensor, "M K"], weight: Float[Tensor, "K N"]
) -> Float[Tensor, "M N"]:
    """``rows @ weight`` for any number of rows, in pieces whose shapes come
    again, and what is left over.

    >>> times_all(torch.ones(2, 2), torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    if len(rows) < LARGE or not _is_worth(rows, _PIECE, weight.shape[1]):
        return rows @ weight
    whole = len(rows) // QUANTUM * QUANTUM
    out = rows.new_empty(len(rows), weight.shape[1])
    for piece, product in zip(
        rows[:whole].split(_PIECE), out[:whole].split(_PIECE), strict=True
    ):
        product.copy_(times(piece, weight))
    torch.mm(rows[whole:], weight, out=out[whole:])
    return out


def times_transposed(
    left: Float[Tensor, "M K"], right: Float[Tensor, "M N"]
) -> Float[Tensor, "K N"]:
    """``left.T @ right``; fastest for a multiple of :data:`QUANTUM` rows.

    >>> times_transposed(torch.ones(2, 1), torch.ones(2, 3))
    tensor([[2., 2., 2.]])
    """
    narrow = min(left.shape[1], right.shape[1]) < _MIXING
    if not narrow and _is_worth(left, len(left), right.shape[1]):
        return _onednn(left.mT, right.mT)
    return left.mT @ right


def _is_worth(rows: Tensor, count: int, columns: int) -> bool:
    return (
        rows.dtype == torch.float32
        and rows.device.type == "cpu"
        and count % QUANTUM == 0
        and count * rows.shape[1] * columns >= _WORTH
        and has_onednn()
    )


def _onednn(rows: Tensor, columns: Tensor) -> Tensor:
    """The product of rows and transposed columns."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(
        rows, columns, None, "none", [], ""
    )
    return product
