"""Checks of the exercises of chapter 06: counting parameters, one affine map,
the push on a point, learnable noise.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from vlg_lib.adapter import AffineAdapter, create_adapter


def check_adapter_parameters(
    adapter_parameters: Callable[[int, int], int],
) -> None:
    """The count agrees with the adapter itself, for any dimensions, and with
    the paper's.

    >>> check_adapter_parameters(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: adapter_parameters returns nothing yet
    """
    found = adapter_parameters(4, 1)
    assert found is not None, "adapter_parameters returns nothing yet"
    assert found == 12, (
        "4 dimensions and a hidden size of 1 make 4 + 4 + 4 = 12 parameters,"
        f" found {found}: which of the two layers has a bias?"
    )
    for dim, hidden in ((64, 16), (10, 3), (3, 7)):
        expected = sum(
            parameter.numel()
            for parameter in AffineAdapter(dim, hidden).parameters()
        )
        assert adapter_parameters(dim, hidden) == expected, (
            f"dim {dim}, hidden {hidden}: {adapter_parameters(dim, hidden)},"
            f" but the adapter has {expected}"
        )
    assert adapter_parameters(768, 192) == 295_680
    print("ok: adapter_parameters")


def check_merge(merge: Callable[[nn.Module], tuple[Tensor, Tensor]]) -> None:
    """The merged map does what the adapter does, on any input, and is made of
    new tensors.

    >>> check_merge(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: merge returns nothing yet
    """
    inputs = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))
    for seed, hidden, mix in ((0, None, 0.95), (1, 4, 0.5), (2, 2, 1.0)):
        adapter = (
            create_adapter("affine", 6, seed=seed)
            if hidden is None
            else AffineAdapter(6, hidden, mix)
        )
        nn.init.normal_(
            dict(adapter.named_parameters())["up.bias"],
            generator=torch.Generator().manual_seed(seed),
        )
        with torch.no_grad():
            expected, offset = adapter(inputs), adapter(torch.zeros(1, 6))[0]
            merged = merge(adapter)
        assert merged is not None, "merge returns nothing yet"
        matrix, bias = (part.detach() for part in merged)
        assert tuple(matrix.shape) == (6, 6), (
            "the matrix maps 6 numbers to 6 numbers, found"
            f" {tuple(matrix.shape)}"
        )
        assert tuple(bias.shape) == (6,), (
            f"the bias has 6 numbers, found {tuple(bias.shape)}"
        )
        assert torch.allclose(bias, offset, atol=1e-5), (
            "the adapter maps the zero vector to its bias, yours is another: is"
            " the bias mixed, too?"
        )
        found = inputs @ matrix.T + bias
        if not torch.allclose(found, expected, atol=1e-5):
            assert not torch.allclose(
                inputs @ matrix + bias, expected, atol=1e-5
            ), (
                "this is the transpose: rows of points are multiplied by the"
                " matrix transposed"
            )
            raise AssertionError(
                "the merged map differs from the adapter: where does the share"
                " of x itself go?"
            )
    print("ok: merge")


def check_push(push: Callable[[Tensor, int, Tensor, float], Tensor]) -> None:
    """The push is the negative gradient of the loss, points away from rivals,
    and fades when the label is certain.

    >>> check_push(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: push returns nothing yet
    """
    found = push(torch.tensor([0.8, 0.6]), 1, torch.eye(2), 0.1)
    assert found is not None, "push returns nothing yet"
    assert tuple(found.shape) == (2,), (
        "the push on a point has its dimension: expected (2,), found"
        f" {tuple(found.shape)}"
    )
    assert float(found[1]) > 0 > float(found[0]), (
        "the example is pushed towards its word, the second, and off the first"
    )
    generator = torch.Generator().manual_seed(2)
    for temperature in (0.05, 0.3, 1.0):
        words = normalize(torch.randn(5, 8, generator=generator), dim=1)
        point = normalize(
            torch.randn(8, generator=generator), dim=0
        ).requires_grad_()
        (gradient,) = torch.autograd.grad(
            cross_entropy(
                (words @ point / temperature)[None], torch.tensor([3])
            ),
            point,
        )
        found = push(point.detach(), 3, words, temperature)
        off_by_a_factor = (
            torch.allclose(found * factor, -gradient, atol=1e-5)
            for factor in (temperature, 1 / temperature)
        )
        if temperature != 1 and any(off_by_a_factor):
            raise AssertionError(
                "there is a factor too few or too many: the temperature divides"
                " the logits"
            )
        assert not torch.allclose(found, gradient, atol=1e-5), (
            "this is uphill: the push lowers the loss"
        )
        assert torch.allclose(found, -gradient, atol=1e-4), (
            f"at temperature {temperature} the push differs from the negative"
            " gradient of the cross-entropy: each word pulls or pushes with a"
            " weight; what is the weight of the right one?"
        )
    print("ok: push")


def check_survivors(survivors: Callable[[Tensor], Tensor]) -> None:
    """True exactly for the classes whose own label is the commonest one among
    their points.

    >>> check_survivors(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: survivors returns nothing yet
    """
    example = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.4, 0.5], [0.2, 0.2, 0.6]])
    found = survivors(example)
    assert found is not None, "survivors returns nothing yet"
    assert found.dtype == torch.bool, (
        f"one True or False a class, found {found.dtype}"
    )
    assert found.tolist() == [True, False, True], (
        f"example: expected [True, False, True], found {found.tolist()}. A row"
        " holds what the points of one true class are called"
    )
    assert survivors(
        torch.tensor([[0.4, 0.3, 0.3], [0.0, 1.0, 0.0], [0.35, 0.25, 0.4]])
    ).all(), (
        "no class needs more than half of its labels right: the right one has"
        " to be the commonest"
    )
    generator = torch.Generator().manual_seed(3)
    for classes in (2, 6, 12):
        table = torch.rand(classes, classes, generator=generator).softmax(dim=1)
        expected = [
            row.index(max(row)) == k for k, row in enumerate(table.tolist())
        ]
        assert survivors(table).tolist() == expected, (
            "compare each diagonal entry with the rest of its own row"
        )
    print("ok: survivors")
