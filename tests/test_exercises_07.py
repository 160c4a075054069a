"""Chapter 07's exercise checks pass the solution and fail typical wrong answers
with a hint."""

import pytest
import torch
from torch import Tensor

from vlg_lib.exercises import chapter07 as exercises
from vlg_lib.sparse import kernel_offsets

Pairs = list[tuple[int, int]]
Offset = tuple[int, int, int]


def pack_keys(coordinates: Tensor) -> Tensor:
    x, y, z = (coordinates.long() + 8192).unbind(1)
    return (x << 28) + (y << 14) + z


def test_pack_keys(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_pack_keys(pack_keys)
    assert "ok: pack_keys" in capsys.readouterr().out

    def no_shift(coordinates: Tensor) -> Tensor:
        x, y, z = coordinates.long().unbind(1)
        return (x * 4096 + y) * 4096 + z

    def narrow(coordinates: Tensor) -> Tensor:
        x, y, z = (coordinates.long() + 4096).unbind(1)
        return (x << 24) + (y << 12) + z

    def z_first(coordinates: Tensor) -> Tensor:
        return pack_keys(coordinates.flip(1))

    def in_place(coordinates: Tensor) -> Tensor:
        coordinates += 4096
        return pack_keys(coordinates)

    # sorted and unique, but a step is no addition
    def uneven(coordinates: Tensor) -> Tensor:
        return 2 * pack_keys(coordinates) + coordinates[:, 2] % 2

    def in_int32(coordinates: Tensor) -> Tensor:
        x, y, z = (coordinates + 4096).unbind(1)
        return (x << 26) + (y << 13) + z

    for wrong, hint in (
        (no_shift, "share a key"),
        (narrow, "share a key"),
        (z_first, "highest field"),
        (in_place, "work on a copy"),
        (uneven, "different numbers"),
        (in_int32, "do not fit"),
        (lambda coordinates: pack_keys(coordinates)[:, None], "one key a row"),
        (lambda coordinates: None, "returns nothing"),
    ):
        with pytest.raises(AssertionError, match=hint):
            exercises.check_pack_keys(wrong)  # type: ignore[arg-type]


def count_strided(coordinates: Tensor, stride: int) -> int:
    cells = torch.div(coordinates[:, 1:], stride, rounding_mode="floor")
    return len(torch.cat([coordinates[:, :1], cells], dim=1).unique(dim=0))


def test_count_strided() -> None:
    exercises.check_count_strided(count_strided)

    def truncated(coordinates: Tensor, stride: int) -> int:
        cells = torch.div(coordinates[:, 1:], stride, rounding_mode="trunc")
        return len(torch.cat([coordinates[:, :1], cells], dim=1).unique(dim=0))

    for wrong, hint in (
        (truncated, "Truncation"),
        (lambda c, s: len(c), "on paper"),
        (
            lambda c, s: len(
                torch.div(c[:, 1:], s, rounding_mode="floor").unique(dim=0)
            ),
            "first column",
        ),
        (
            lambda c, s: len(
                torch.div(c, s, rounding_mode="floor").unique(dim=0)
            ),
            "first column",
        ),
        (lambda c, s: count_strided(c, 2), "at stride 1"),
        (lambda c, s: None, "returns nothing"),
    ):
        with pytest.raises(AssertionError, match=hint):
            exercises.check_count_strided(wrong)  # type: ignore[arg-type]


def kernel_pairs(inputs: Tensor, outputs: Tensor, offset: Offset) -> Pairs:
    row_of = {tuple(cell): row for row, cell in enumerate(inputs.tolist())}
    wanted = [tuple(cell) for cell in (outputs + torch.tensor(offset)).tolist()]
    return [
        (row_of[cell], row) for row, cell in enumerate(wanted) if cell in row_of
    ]


def test_kernel_pairs() -> None:
    exercises.check_kernel_pairs(kernel_pairs)

    def same_voxels(inputs: Tensor, outputs: Tensor, offset: Offset) -> Pairs:
        return kernel_pairs(inputs, inputs, offset)

    def flat(inputs: Tensor, outputs: Tensor, offset: Offset) -> Pairs:
        return kernel_pairs(
            inputs * torch.tensor([1, 1, 0]),
            outputs * torch.tensor([1, 1, 0]),
            (*offset[:2], 0),
        )

    for wrong, hint in (
        (lambda i, o, d: kernel_pairs(i, o, tuple(-x for x in d)), "opposite"),
        (
            lambda i, o, d: [pair[::-1] for pair in kernel_pairs(i, o, d)],
            "opposite",
        ),
        (lambda i, o, d: [], "has the pairs"),
        (same_voxels, "different voxels"),
        (flat, "All three"),
        (lambda i, o, d: 2 * kernel_pairs(i, o, d), "listed twice"),
        (lambda i, o, d: None, "returns nothing"),
    ):
        with pytest.raises(AssertionError, match=hint):
            exercises.check_kernel_pairs(wrong)  # type: ignore[arg-type]


def receptive_field(layers: list[tuple[int, int]]) -> int:
    width, spacing = 1, 1
    for size, stride in layers:
        width += (size - 1) * spacing
        spacing *= stride
    return width


def test_receptive_field() -> None:
    exercises.check_receptive_field(receptive_field)

    def own_stride_first(layers: list[tuple[int, int]]) -> int:
        width, spacing = 1, 1
        for size, stride in layers:
            spacing *= stride
            width += (size - 1) * spacing
        return width

    def odd_only(layers: list[tuple[int, int]]) -> int:
        width, spacing = 1, 1
        for size, stride in layers:
            width += size // 2 * 2 * spacing - (size == 2)
            spacing *= stride
        return width

    for wrong, hint in (
        (lambda layers: 1 + sum(size - 1 for size, _ in layers), "two wide"),
        (lambda layers: 1 + sum(size for size, _ in layers), "5 voxels"),
        (own_stride_first, "8 voxels|own stride"),
        (odd_only, "they see"),
        (lambda layers: None, "returns nothing"),
    ):
        with pytest.raises(AssertionError, match=hint):
            exercises.check_receptive_field(wrong)  # type: ignore[arg-type]


def submanifold(
    coordinates: Tensor, features: Tensor, kernel: Tensor
) -> Tensor:
    out = features.new_zeros(len(coordinates), kernel.shape[2])
    for weights, offset in zip(
        kernel, kernel_offsets(round(len(kernel) ** (1 / 3))), strict=True
    ):
        for source, target in kernel_pairs(coordinates, coordinates, offset):
            out[target] += features[source] @ weights
    return out


def test_submanifold() -> None:
    exercises.check_submanifold(submanifold)

    def z_fastest(
        coordinates: Tensor, features: Tensor, kernel: Tensor
    ) -> Tensor:
        size = round(len(kernel) ** (1 / 3))
        order = [
            kernel_offsets(size).index((z, y, x))
            for x, y, z in kernel_offsets(size)
        ]
        return submanifold(coordinates, features, kernel[order])

    def last_wins(
        coordinates: Tensor, features: Tensor, kernel: Tensor
    ) -> Tensor:
        out = features.new_zeros(len(coordinates), kernel.shape[2])
        for weights, offset in zip(
            kernel, kernel_offsets(round(len(kernel) ** (1 / 3))), strict=True
        ):
            for source, target in kernel_pairs(
                coordinates, coordinates, offset
            ):
                out[target] = features[source] @ weights
        return out

    def sorted_rows(
        coordinates: Tensor, features: Tensor, kernel: Tensor
    ) -> Tensor:
        order = coordinates.unique(dim=0, return_inverse=True)[1].argsort()
        return submanifold(coordinates, features, kernel)[order]

    for wrong, hint in (
        (lambda c, x, w: submanifold(c, x, w.flip(0)), "turned around"),
        (z_fastest, "x runs fastest"),
        (last_wins, "off by"),
        (sorted_rows, "off by"),
        (lambda c, x, w: submanifold(c, x, w).repeat(2, 1), "no others"),
        (lambda c, x, w: None, "returns nothing"),
    ):
        with pytest.raises(AssertionError, match=hint):
            exercises.check_submanifold(wrong)  # type: ignore[arg-type]
