"""Checks of the exercises of chapter 07: keys, coarse voxels, kernel maps,
fields of view, and a whole convolution.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlg_lib.geometry.voxels import batch_coordinates
from vlg_lib.sparse import Convolution, SparseTensor, kernel_offsets

PAPER = torch.tensor(
    [[-1, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0], [3, -1, 0]], dtype=torch.int32
)
"""The five voxels of the chapter's six points."""


def _voxels(seed: int, count: int = 60, reach: int = 3) -> Tensor:
    """Distinct voxels around the origin, (N, 3) int32, in random order."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(
        -reach, reach + 1, (count, 3), generator=generator, dtype=torch.int32
    ).unique(dim=0)
    return rows[torch.randperm(len(rows), generator=generator)]


def check_pack_keys(pack_keys: Callable[[Tensor], Tensor]) -> None:
    """One int64 a voxel, no two alike, in the order of the rows, and a step
    that is an addition.

    >>> check_pack_keys(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: pack_keys returns nothing yet
    """
    rows = _voxels(0, 3000, 4095)
    spill = torch.tensor(
        [
            [-1, 4095, 0],
            [0, -1, 0],
            [0, -1, 4095],
            [0, 0, -1],
            [-4096] * 3,
            [4095] * 3,
        ]
    )
    # sorted by x, then y, then z
    rows = torch.cat([PAPER, spill.int(), rows]).unique(dim=0)
    before = rows.clone()
    keys = pack_keys(rows)
    assert keys is not None, "pack_keys returns nothing yet"
    assert torch.equal(rows, before), (
        "the caller's coordinates were changed: work on a copy"
    )
    assert tuple(keys.shape) == (len(rows),), (
        f"one key a row: expected shape ({len(rows)},), found"
        f" {tuple(keys.shape)}"
    )
    assert keys.dtype == torch.int64, (
        "the coordinates are int32, and three fields do not fit in there:"
        f" {keys.dtype}"
    )
    assert len(keys.unique()) == len(rows), (
        "two voxels share a key: make the coordinates non-negative first, and"
        " give each a field that is wide enough"
    )
    assert bool((keys[1:] > keys[:-1]).all()), (
        "the keys do not sort like the rows (x, y, z): which coordinate belongs"
        " into the highest field?"
    )
    for offset in ([0, 0, 1], [0, -1, 0], [1, -1, 1], [-2, 0, 3]):
        inside = rows[(rows + torch.tensor(offset)).abs().amax(dim=1) < 4096]
        steps = pack_keys(
            inside + torch.tensor(offset, dtype=torch.int32)
        ) - pack_keys(inside)
        assert len(steps.unique()) == 1, (
            f"a step of {offset} adds {len(steps.unique())} different numbers"
            " to the key"
        )
    print("ok: pack_keys")


def check_count_strided(count_strided: Callable[[Tensor, int], int]) -> None:
    """Each coarse voxel counts once a cloud, and negative coordinates go
    down.

    >>> check_count_strided(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: count_strided returns nothing yet
    """
    paper = batch_coordinates([PAPER])
    answer = count_strided(paper, 2)
    assert answer is not None, "count_strided returns nothing yet"
    found = int(answer)
    assert found != 2, (
        "2 voxels instead of 3 on paper: -1 lies in the coarse voxel below 0."
        " Truncation merges it with that of 0"
    )
    assert found == 3, f"on paper the answer at stride 2 is 3, found {found}"
    assert int(count_strided(batch_coordinates([PAPER, PAPER]), 2)) == 6, (
        "the same voxels in two clouds are two clouds' voxels: the first column"
        " belongs to the name of a voxel"
    )
    for seed in range(6):
        rows = batch_coordinates(
            [_voxels(seed, 80, 9), _voxels(seed + 90, 20, 9)]
        )
        for stride in (1, 2, 4, 8):
            expected = len(
                {
                    (b, *(c // stride for c in cell))
                    for b, *cell in rows.tolist()
                }
            )
            found = int(count_strided(rows, stride))
            assert found == expected, (
                f"{len(rows)} voxels at stride {stride}: {found} counted, there"
                f" are {expected}"
            )
    print("ok: count_strided")


def check_kernel_pairs(
    kernel_pairs: Callable[
        [Tensor, Tensor, tuple[int, int, int]], Sequence[tuple[int, int]]
    ],
) -> None:
    """The pairs of one offset: which input row meets which output row.

    >>> check_kernel_pairs(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: kernel_pairs returns nothing yet
    """
    answer = kernel_pairs(PAPER, PAPER, (1, 0, 0))
    assert answer is not None, "kernel_pairs returns nothing yet"
    found = {(int(i), int(o)) for i, o in answer}
    assert found != {(0, 1), (1, 2)}, (
        "these are the pairs of the opposite offset: the input lies at output +"
        " offset, and a pair is (input, output)"
    )
    assert found == {(1, 0), (2, 1)}, (
        "the offset (1, 0, 0) has the pairs (1, 0) and (2, 1), found"
        f" {sorted(found)}"
    )
    for seed in range(4):
        inputs, outputs = _voxels(seed, 30, 2), _voxels(seed + 50, 20, 2)
        for offset in ((0, 0, 0), (0, -1, 0), (1, 0, 1), (-1, 1, -1)):
            expected = {
                (i, o)
                for i, a in enumerate(inputs.tolist())
                for o, b in enumerate(outputs.tolist())
                if a == [c + d for c, d in zip(b, offset, strict=True)]
            }
            pairs = [
                (int(i), int(o))
                for i, o in kernel_pairs(inputs, outputs, offset)
            ]
            assert len(pairs) == len(set(pairs)), (
                f"offset {offset}: a pair is listed twice"
            )
            assert set(pairs) == expected, (
                f"offset {offset}: {len(set(pairs) - expected)} pairs too many"
                f" and {len(expected - set(pairs))} missing. All three"
                " coordinates must agree, and input and output may be"
                " different voxels"
            )
    print("ok: kernel_pairs")


def _field_of_view(layers: Sequence[tuple[int, int]]) -> int:
    """How wide the inputs of output 0 lie along one axis, by going backwards
    through the layers.
    """
    reached = {0}
    for size, stride in reversed(layers):
        first = -(size // 2) if size % 2 else 0
        reached = {
            site * stride + offset
            for site in reached
            for offset in range(first, first + size)
        }
    return max(reached) - min(reached) + 1


def check_receptive_field(
    receptive_field: Callable[[list[tuple[int, int]]], int],
) -> None:
    """The width that the last layer's voxels see, whatever the kernels and
    strides before.

    >>> check_receptive_field(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: receptive_field returns nothing yet
    """
    answer = receptive_field([(3, 1), (3, 1)])
    assert answer is not None, "receptive_field returns nothing yet"
    assert int(answer) == 5, (
        f"two layers of size 3 see 5 voxels along an axis, found {answer}"
    )
    found = int(receptive_field([(3, 1), (2, 2), (3, 1)]))
    assert found != 6, (
        "the last layer stands on voxels that are two wide: its neighbours lie"
        " two steps away"
    )
    assert found == 8, (
        "size 3, then size 2 with stride 2, then size 3: 8 voxels, found"
        f" {found}"
    )
    found = int(receptive_field([(2, 2)]))
    assert found == 2, (
        "a layer's own stride widens only the layers after it: size 2, stride"
        f" 2 sees 2, found {found}"
    )
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        length = int(torch.randint(0, 6, (), generator=generator))
        layers = [
            (int(size), int(stride))
            for size, stride in zip(
                torch.randint(1, 6, (length,), generator=generator),
                torch.randint(1, 3, (length,), generator=generator),
                strict=True,
            )
            if size >= stride
        ]
        expected = _field_of_view(layers)
        found = int(receptive_field(list(layers)))
        assert found == expected, (
            f"layers (size, stride) {layers}: they see {expected} voxels, found"
            f" {found}"
        )
    print("ok: receptive_field")


def _library(coordinates: Tensor, features: Tensor, kernel: Tensor) -> Tensor:
    size = round(len(kernel) ** (1 / 3))
    layer = Convolution(features.shape[1], kernel.shape[2], size).double()
    layer.kernel.data = kernel.reshape(layer.kernel.shape)
    with torch.no_grad():
        out: Tensor = layer(
            SparseTensor(features, batch_coordinates([coordinates]))
        ).features
    return out


def check_submanifold(
    submanifold: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    """Equal to the library's layer on random voxels, for any odd size and any
    number of channels.

    >>> check_submanifold(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: submanifold returns nothing yet
    """
    for seed, (size, channels, width) in enumerate(
        ((3, 1, 1), (3, 4, 2), (5, 2, 3), (1, 2, 2))
    ):
        generator = torch.Generator().manual_seed(seed)
        coordinates = _voxels(seed, 50, 2)
        features = torch.randn(
            len(coordinates), channels, generator=generator, dtype=torch.float64
        )
        kernel = torch.randn(
            size**3, channels, width, generator=generator, dtype=torch.float64
        )
        out = submanifold(coordinates, features.clone(), kernel.clone())
        assert out is not None, "submanifold returns nothing yet"
        assert tuple(out.shape) == (len(coordinates), width), (
            f"one row of {width} numbers for each occupied voxel, in their"
            " order, and no others: expected shape"
            f" {(len(coordinates), width)}, found {tuple(out.shape)}"
        )
        expected = _library(coordinates, features, kernel)
        if torch.allclose(out, expected, atol=1e-9):
            continue
        turned = [
            kernel_offsets(size).index((z, y, x))
            for x, y, z in kernel_offsets(size)
        ]
        typical = (
            (
                kernel.flip(0),
                "the kernel was turned around: W[k] belongs to the input at u +"
                " offset_k",
            ),
            (
                kernel[turned],
                "the weights are in another order: x runs fastest in"
                " kernel_offsets",
            ),
        )
        for other, hint in typical:
            assert not torch.allclose(
                out, _library(coordinates, features, other), atol=1e-9
            ), hint
        where = f"size {size}, {channels} channels in, {width} out"
        raise AssertionError(
            f"{where}: the result is off by up to"
            f" {float((out - expected).abs().max()):.3g}"
        )
    print("ok: submanifold")
