"""Kernel maps: which voxels meet under which weight of a convolution (chapter
07).

A convolution on voxels is out[u] = sum over k of W[k]^T x[u + offset_k], where
only occupied voxels take part. So a layer needs, for each offset k, the list of
pairs (input row, output row) for which both voxels exist: its kernel map. It
depends on the voxels alone, not on the features: all layers of one size on one
grid share it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor

from vlg_lib.geometry.voxels import step
from vlg_lib.sparse.products import LARGE, QUANTUM, in_quanta

Pair = tuple[Tensor, Tensor]
END = torch.iinfo(torch.int64).max
"""Larger than any key: closes a list of keys, so that a search ends there."""


@dataclass(frozen=True)
class Block:
    """Pairs that are multiplied at a time.

    ``offsets``, ``sizes``: which kernel offsets, and how many pairs of each,
    one after another. ``sources``, ``targets``: their input and output rows.
    ``filled_sources``, ``filled_targets``: the same, and after them any rows,
    up to a number of rows that products like
    (:mod:`vlg_lib.sparse.products`).
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    sources: Int64[Tensor, " P"]
    targets: Int64[Tensor, " P"]
    filled_sources: Int64[Tensor, " F"]
    filled_targets: Int64[Tensor, " F"]


@dataclass(frozen=True)
class KernelMap:
    """For each kernel offset, which input rows go to which output rows.

    ``pairs[k]``: two (P_k,) int64 tensors, input rows and output rows; within
    one offset every row occurs at most once on either side. ``output_size``:
    the number of output rows. ``identity``: the offset, if any, that pairs
    every voxel with itself.
    """

    pairs: tuple[Pair, ...]
    input_size: int
    output_size: int
    identity: int | None = None
    _blocks: dict[int | None, list[Block]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def transposed(self) -> "KernelMap":
        """The same pairs from output to input: the map of a transposed
        convolution, with the kernel not flipped.
        """
        swapped = tuple((targets, sources) for sources, targets in self.pairs)
        return KernelMap(
            swapped, self.output_size, self.input_size, self.identity
        )

    def with_rows(
        self,
        inputs: Int64[Tensor, " N"] | None,
        outputs: Int64[Tensor, " M"] | None,
    ) -> "KernelMap":
        """The map for features whose rows are in another order: row r of this
        map is row ``inputs[r]`` of theirs.
        """
        if inputs is None and outputs is None:
            return self
        renamed = tuple(
            (
                s if inputs is None else inputs.index_select(0, s),
                t if outputs is None else outputs.index_select(0, t),
            )
            for s, t in self.pairs
        )
        return KernelMap(
            renamed, self.input_size, self.output_size, self.identity
        )

    def counts(self) -> Int64[Tensor, " M"]:
        """How many input rows each output row meets."""
        targets = torch.cat([targets for _, targets in self.pairs])
        return torch.bincount(targets, minlength=self.output_size)

    def smaller(self, kernel_size: int) -> "KernelMap":
        """The map of a smaller kernel between the same grids, both kernels odd:
        its offsets are among these.
        """
        pairs = dict(
            zip(
                kernel_offsets(round(len(self.pairs) ** (1 / 3))),
                self.pairs,
                strict=True,
            )
        )
        kept = tuple(pairs[offset] for offset in kernel_offsets(kernel_size))
        return KernelMap(
            kept,
            self.input_size,
            self.output_size,
            None if self.identity is None else len(kept) // 2,
        )

    def blocks(self, size: int | None = None) -> list[Block]:
        """The pairs of all offsets but the identity, in blocks of up to
        ``size`` pairs; None: a block for each offset. Made once a size.

        A large offset is cut into several blocks, and small neighbouring ones
        share one.
        """
        if size not in self._blocks:
            self._blocks[size] = self._cut(size)
        return self._blocks[size]

    def _cut(self, size: int | None) -> list[Block]:
        counts = [
            0 if k == self.identity else len(sources)
            for k, (sources, _) in enumerate(self.pairs)
        ]
        plan = _plan(counts, size)
        spare = self.pairs[0][0].new_zeros(QUANTUM)
        filled = []
        for side in range(2):
            pieces: list[Tensor] = []
            for planned in plan:
                for k, start, count in planned.parts:
                    pieces.append(self.pairs[k][side][start : start + count])
                pieces.append(spare[: planned.filling])
            filled.append(
                torch.cat([spare[:0], *pieces]).split([p.rows for p in plan])
            )
        return [
            Block(
                tuple(k for k, _, _ in planned.parts),
                tuple(count for _, _, count in planned.parts),
                sources[: planned.rows - planned.filling],
                targets[: planned.rows - planned.filling],
                sources,
                targets,
            )
            for planned, sources, targets in zip(plan, *filled, strict=True)
        ]


@dataclass
class _Planned:
    """A block to be made: of each of its offsets (k, first pair, how many), and
    how many rows are filled up.
    """

    parts: list[tuple[int, int, int]]
    rows: int = 0
    filling: int = 0


def _plan(counts: Sequence[int], size: int | None) -> list[_Planned]:
    """How offsets of so many pairs each are cut into blocks."""
    plan: list[_Planned] = []
    shared: _Planned | None = None
    for k, count in enumerate(counts):
        if size is None or count >= min(size, LARGE):
            piece = size or max(1, count)
            for start in range(0, count, piece):
                rows = min(piece, count - start)
                whole = rows
                if size is not None and rows >= LARGE:
                    whole = in_quanta(rows)
                plan.append(_Planned([(k, start, rows)], whole, whole - rows))
        elif count:
            if shared is None or shared.rows + count > size:
                shared = _Planned([])
                plan.append(shared)
            shared.parts.append((k, 0, count))
            shared.rows += count
    return plan


def kernel_offsets(kernel_size: int) -> list[tuple[int, int, int]]:
    """The offsets of a cubic kernel in MinkowskiEngine's order: x runs fastest,
    k = kx + K ky + K^2 kz.

    An odd kernel is centred on its voxel; an even one starts at it and reaches
    forwards.

    >>> kernel_offsets(2)[:4]
    [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)]
    >>> kernel_offsets(3)[0], kernel_offsets(3)[13]
    ((-1, -1, -1), (0, 0, 0))
    """
    axis = _axis(kernel_size)
    return [(x, y, z) for z in axis for y in axis for x in axis]


def build_kernel_map(
    inputs: Int64[Tensor, " N"],
    outputs: Int64[Tensor, " M"],
    kernel_size: int,
    spacing: int,
    dilation: int = 1,
) -> KernelMap:
    """The pairs (i, o) with key inputs[i] = key outputs[o] + offset_k * spacing
    * dilation, for every offset k.

    ``inputs`` and ``outputs`` are sorted keys
    (:func:`vlg_lib.geometry.voxels.pack`), and the coordinates of ``inputs``
    are multiples of ``spacing``, their stride. Pairs are sorted by row.

    Where both grids are one and the kernel is odd, (i, o) belongs to an offset
    exactly if (o, i) belongs to the opposite one: half of the offsets are
    searched, the other half mirrored.
    """
    mirrored = kernel_size % 2 == 1 and inputs is outputs
    ended = torch.cat([inputs, inputs.new_tensor([END])])
    pairs: dict[tuple[int, int, int], Pair] = {}
    for x, y in itertools.product(_axis(kernel_size), repeat=2):
        if mirrored and (x, y) < (0, 0):
            continue  # the column (-x, -y) finds these pairs
        for z, pair in _search_column(
            ended,
            outputs,
            (x, y),
            kernel_size,
            spacing * dilation,
            dilation == 1,
        ):
            pairs[x, y, z] = pair
            if mirrored:
                pairs[-x, -y, -z] = pair[::-1]
    in_order = tuple(pairs[offset] for offset in kernel_offsets(kernel_size))
    return KernelMap(
        in_order,
        len(inputs),
        len(outputs),
        identity=len(in_order) // 2 if mirrored else None,
    )


def _search_column(
    ended: Int64[Tensor, " E"],
    outputs: Int64[Tensor, " M"],
    column: tuple[int, int],
    kernel_size: int,
    distance: int,
    adjacent: bool,
) -> Iterator[tuple[int, Pair]]:
    """The pairs of the offsets (x, y, z) for every z, from lowest to highest.

    ``distance`` is that between two offsets, in finest voxels; ``adjacent``
    says that it is the stride of the inputs. Then the keys of a column's
    neighbouring voxels are neighbours in the sorted list, and one binary search
    serves the whole column: its next voxel, where it is occupied, is the next
    in the list.
    """
    x, y = column
    position: Tensor | None = None
    for z in _axis(kernel_size):
        wanted = outputs + step((x * distance, y * distance, z * distance))
        if position is None or not adjacent:
            position = torch.searchsorted(ended, wanted)
        found = ended.index_select(0, position) == wanted
        rows = found.nonzero().squeeze(1)
        yield z, (position.index_select(0, rows), rows)
        position = position + found


def _axis(kernel_size: int) -> range:
    start = -(kernel_size // 2) if kernel_size % 2 else 0
    return range(start, start + kernel_size)
