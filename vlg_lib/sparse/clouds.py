"""Which rows of a batch belong to which cloud.

What is done cloud by cloud takes them apart and puts them together again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Clouds:
    """The rows of the clouds of a batch.

    ``sizes``: how many rows each cloud has, some of them perhaps none.
    ``order``: the rows cloud by cloud, (N,) int64; None where they lie so.

    >>> clouds = find_clouds(torch.tensor([1, 0, 1]))
    >>> rows = torch.tensor([[1.0], [2.0], [3.0]])
    >>> [cloud.tolist() for cloud in clouds.split(rows)]
    [[[2.0]], [[1.0], [3.0]]]
    >>> clouds.join(clouds.split(rows)).equal(rows)
    True
    """

    sizes: tuple[int, ...]
    order: Tensor | None = None

    def split(self, rows: Float[Tensor, "N C"]) -> Sequence[Tensor]:
        """The rows of each cloud, in their order."""
        if self.order is not None:
            rows = rows.index_select(0, self.order)
        return rows.split(self.sizes)

    def join(self, clouds: Sequence[Tensor]) -> Float[Tensor, "N C"]:
        """The rows of all clouds, where they were before :meth:`split`."""
        rows = torch.cat(list(clouds)) if len(clouds) > 1 else clouds[0]
        if self.order is None:
            return rows
        return torch.empty_like(rows).index_copy(0, self.order, rows)


def find_clouds(batch: Int[Tensor, " N"]) -> Clouds:
    """The clouds of rows whose cloud is ``batch``, from 0; at least one row."""
    sizes = tuple(torch.bincount(batch).tolist())
    if bool((batch[1:] >= batch[:-1]).all()):
        return Clouds(sizes)
    return Clouds(sizes, batch.argsort(stable=True))
