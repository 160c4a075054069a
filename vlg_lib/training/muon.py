"""Muon, the optimizer of the 3D networks: steps of one length in all directions
of a weight matrix (chapter 08).

A gradient of a layer is a matrix in which few directions are long and most are
short. Adam evens out its entries, one by one; the short directions stay short,
and take most of a training. Muon (Jordan et al., 2024) evens out the
directions: of the gradients' running mean U S V^T it keeps about U V^T. For a
network of some 1,000 steps that is worth several times as many
(``results/recipe.json``).
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from vlg_lib.precision import sum_dtype

_CUBIC, _QUINTIC, _LINEAR = -4.7750, 2.0315, 3.4445
"""Jordan's polynomial 3.4445 s - 4.7750 s^3 + 2.0315 s^5: five times in a row
it brings all s between about .003 and 1 to between .7 and 1.2."""

_TIMES = 5


def orthogonalized(matrix: Float[Tensor, "M N"]) -> Float[Tensor, "M N"]:
    """U V^T of ``matrix`` = U S V^T, roughly: all singular values but the very
    small ones become 0.7 to 1.2. The dtype stays; it is computed in float32 or
    better. A matrix of zeros stays one.

    The polynomial of a matrix X is X times a polynomial of X^T X. So the large
    products are two, and all else is done with the smaller square (the
    published code multiplies with X three times in each of five rounds).

    >>> orthogonalized(torch.diag(torch.tensor([3.0, 0.3]))).diagonal() > 0.7
    tensor([True, True])
    """
    wide = matrix.to(sum_dtype(matrix))
    if len(wide) < wide.shape[1]:
        return orthogonalized(wide.mT).mT.to(matrix.dtype)
    square = wide.mT @ wide
    # the largest singular value is at most the root of this
    size = square.diagonal().sum().clamp(min=torch.finfo(wide.dtype).tiny)
    square = square / size
    factor = torch.eye(len(square), dtype=wide.dtype, device=wide.device)
    for _ in range(_TIMES):
        step = _CUBIC * square + _QUINTIC * (square @ square)
        step.diagonal().add_(_LINEAR)
        factor = factor @ step
        square = square @ (step @ step)
    return (wide @ (factor / size.sqrt())).to(matrix.dtype)


class Muon(Optimizer):
    """Muon for the weights that are matrices, Adam for the others (scales,
    shifts and biases).

    The kernel of a sparse convolution, (K, C_in, C_out), counts as one matrix
    (K C_in, C_out): all that an output sums up. The entries of a step have a
    root mean square of 0.2 times the rate, which is that of Adam's usual steps
    (Liu et al., 2025); so rates and weight decay mean what they mean there.

    ``learning_rate``: of the matrices. ``vector_rate``: of the others; None for
    the same. ``weight_decay`` shrinks the matrices alone. ValueError for rates
    below 0 and a momentum outside [0, 1).

    >>> layer = nn.Linear(2, 2)
    >>> optimizer = Muon(layer.parameters(), learning_rate=0.1)
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        vector_rate: float | None = None,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        rates = [
            learning_rate,
            learning_rate if vector_rate is None else vector_rate,
            weight_decay,
        ]
        if min(rates) < 0 or not 0 <= momentum < 1:
            raise ValueError(
                "rates and weight decay from 0 and a momentum from 0 to below 1"
                f" expected, found {rates} and {momentum}"
            )
        kinds: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in parameters:
            kinds[_is_matrix(parameter)].append(parameter)
        groups = [
            {
                "params": kinds[is_matrix],
                "is_matrix": is_matrix,
                "lr": rate,
                "weight_decay": decay,
            }
            for is_matrix, rate, decay in (
                (True, rates[0], weight_decay),
                (False, rates[1], 0.0),
            )
            if kinds[is_matrix]
        ]
        super().__init__(
            groups, {"momentum": momentum, "betas": (0.9, 0.999), "eps": 1e-8}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step with the gradients that the parameters have."""
        for group in self.param_groups:
            update = _matrix_step if group["is_matrix"] else _vector_step
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, self.state[parameter], group)


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.dim() > 1 and min(parameter.flatten(0, -2).shape) > 1


def _matrix_step(
    parameter: Tensor, state: dict[str, Any], group: dict[str, Any]
) -> None:
    """Nesterov's momentum, made orthogonal."""
    gradient = parameter.grad
    assert gradient is not None
    if not state:
        state["mean"] = torch.zeros_like(parameter)
    mean, momentum = state["mean"], group["momentum"]
    mean.lerp_(gradient, 1 - momentum)
    ahead = gradient.lerp(mean, momentum).flatten(0, -2)
    # entries of an orthogonal matrix have a mean square of 1 / its longer side
    rate = group["lr"] * 0.2 * max(ahead.shape) ** 0.5
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.sub_(orthogonalized(ahead).view_as(parameter), alpha=rate)


def _vector_step(
    parameter: Tensor, state: dict[str, Any], group: dict[str, Any]
) -> None:
    """Adam's step."""
    gradient = parameter.grad
    assert gradient is not None
    if not state:
        state["steps"] = torch.zeros(())
        state["mean"] = torch.zeros_like(parameter)
        state["square"] = torch.zeros_like(parameter)
    state["steps"] += 1
    fast, slow = group["betas"]
    state["mean"].lerp_(gradient, 1 - fast)
    state["square"].lerp_(gradient.square(), 1 - slow)
    count = float(state["steps"])
    root = (state["square"] / (1 - slow**count)).sqrt_().add_(group["eps"])
    parameter.addcdiv_(
        state["mean"], root, value=-group["lr"] / (1 - fast**count)
    )
