"""Checks of the exercises of chapter 08: the best vector, its pull, weights by
rarity, and statistics made anew.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vlg_lib.distill import class_weights, cosine_loss


def check_best_vector(
    best_vector: Callable[[Tensor], tuple[Tensor, float]],
) -> None:
    """A unit vector, no other has a smaller loss, and the loss that is left is
    told.

    >>> check_best_vector(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: best_vector returns nothing yet
    """
    found = best_vector(torch.tensor([[1.0, 0.0], [0.28, 0.96]]))
    assert found is not None, "best_vector returns nothing yet"
    generator = torch.Generator().manual_seed(0)
    for count, dim in ((1, 3), (2, 2), (9, 5)):
        units = normalize(
            torch.randn(count, dim, generator=generator) + 1, dim=1
        )
        targets = units * (0.2 + 4 * torch.rand(count, 1, generator=generator))
        vector, left = best_vector(targets)
        assert tuple(vector.shape) == (dim,), (
            f"expected one vector of {dim} numbers, found {tuple(vector.shape)}"
        )
        assert abs(float(vector.norm()) - 1) < 1e-4, (
            f"the vector has length {float(vector.norm()):.3f}, not 1"
        )
        best = float(
            cosine_loss(units.mean(dim=0)[None].expand(count, dim), targets)
        )
        reached = float(cosine_loss(vector[None].expand(count, dim), targets))
        unlike = abs(reached - best) > 1e-5
        if unlike and torch.allclose(
            vector, normalize(targets.mean(dim=0), dim=0), atol=1e-4
        ):
            raise AssertionError(
                "long targets count more than short ones here: a cosine does"
                " not know about lengths"
            )
        assert not unlike, (
            f"there is a better vector: yours has the loss {reached:.4f}, the"
            f" best one {best:.4f}"
        )
        assert abs(float(left) - best) < 1e-4, (
            f"the vector is right, but its loss is {best:.4f}, not"
            f" {float(left):.4f}: how long is the mean?"
        )
    print("ok: best_vector")


def check_pull(pull: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The pull is the negative gradient: at right angles to the vector, and
    weaker on a long one.

    >>> check_pull(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: pull returns nothing yet
    """
    found = pull(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    assert found is not None, "pull returns nothing yet"
    generator = torch.Generator().manual_seed(1)
    for dim in (2, 3, 8):
        vector = (torch.randn(dim, generator=generator) * 2).requires_grad_()
        target = torch.randn(dim, generator=generator) * 3
        (gradient,) = torch.autograd.grad(
            cosine_loss(vector[None], target[None]), vector
        )
        answer = pull(vector.detach(), target)
        length = float(vector.detach().norm())
        assert tuple(answer.shape) == (dim,), (
            f"the pull has the shape of the vector, found {tuple(answer.shape)}"
        )
        assert not torch.allclose(answer, gradient, atol=1e-5), (
            "this is uphill: the pull goes towards the target"
        )
        assert abs(float(answer @ vector.detach())) < 1e-3, (
            "the pull has a part along the vector, which changes its length but"
            " not its cosine: take that part out"
        )
        assert not torch.allclose(answer, -gradient * length, atol=1e-5), (
            "the direction is right. But turning a long vector takes a longer"
            " way: where does its length come in?"
        )
        assert torch.allclose(answer, -gradient, atol=1e-5), (
            "the pull differs from the negative gradient: does the length of"
            " the target still matter in yours?"
        )
    print("ok: pull")


def check_rarity_weights(
    rarity_weights: Callable[[Tensor, int, float], Tensor],
) -> None:
    """Power 0 weighs all alike, 0.5 is the library's choice, with 1 each class
    counts the same in total.

    >>> check_rarity_weights(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: rarity_weights returns nothing yet
    """
    labels = torch.tensor([0, 0, 0, 0, 1, -1, -1])
    found = rarity_weights(labels, 3, 1.0)
    assert found is not None, "rarity_weights returns nothing yet"
    assert tuple(found.shape) == (3,), (
        f"one weight a class: expected shape (3,), found {tuple(found.shape)}"
    )
    assert bool(found.isfinite().all()), (
        "a class that never occurs divides by zero: give it the weight 0"
    )
    assert float(found[2]) == 0, "the class that never occurs gets the weight 0"
    generator = torch.Generator().manual_seed(2)
    for power in (0.0, 0.5, 1.0, 0.7):
        labels = (torch.rand(400, generator=generator).square() * 6).long() - 1
        weights = rarity_weights(labels, 5, power)
        labelled = labels[labels >= 0]
        mean = float(weights[labelled].mean())
        assert abs(mean - 1) < 1e-3, (
            f"the mean weight of the labelled points is {mean:.3f}, not 1:"
            " scale all weights by one number at the end (and points without a"
            " label do not count)"
        )
        shares = torch.bincount(labelled, minlength=5) / len(labelled)
        ratios = weights * shares**power
        assert float(ratios.max() - ratios.min()) < 1e-3 * float(
            ratios.max()
        ), (
            f"power {power}: a weight goes with 1 / (share of the class) **"
            " power"
        )
    assert torch.allclose(
        rarity_weights(labels, 5, 0.5), class_weights([labels], 5), atol=1e-4
    )
    print("ok: rarity_weights")


class _Centred(nn.Module):
    """A small network with two normalisations, the second of which sees what
    the first lets through.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2), nn.BatchNorm1d(2)
        )
        for number, parameter in enumerate(self.parameters()):
            nn.init.normal_(
                parameter, generator=torch.Generator().manual_seed(number)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def _counted_anew(
    network: nn.Module, rooms: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The state of a copy whose statistics are plain means over the rooms."""
    by_hand = copy.deepcopy(network)
    for module in by_hand.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_running_stats()
            module.momentum = None
    by_hand.train()
    for room in rooms:
        by_hand(room)
    return by_hand.state_dict()


def check_reestimate(
    reestimate: Callable[[nn.Module, Sequence[Tensor]], nn.Module],
) -> None:
    """The statistics are the plain means over all rooms, the weights stay, and
    the original stays as it was.

    >>> check_reestimate(lambda *given: None)
    Traceback (most recent call last):
        ...
    AssertionError: reestimate returns nothing yet
    """
    generator = torch.Generator().manual_seed(3)
    rooms = [
        torch.randn(50, 3, generator=generator) * (1 + i) + i for i in range(4)
    ]
    network = _Centred().train()
    # statistics of something else
    network(torch.randn(30, 3, generator=generator) - 5)
    network.eval()
    before = copy.deepcopy(network.state_dict())
    found = reestimate(network, rooms)
    assert found is not None, "reestimate returns nothing yet"
    assert all(
        torch.equal(before[name], tensor)
        for name, tensor in network.state_dict().items()
    ), "the network that was handed in has changed: work on a copy"
    assert not found.training, (
        "hand the network back in evaluation mode, or it would use the batch's"
        " own statistics"
    )
    assert all(
        torch.equal(before[name], tensor)
        for name, tensor in found.named_parameters()
    ), "weights have changed: nothing is learnt here, only counted"
    expected = torch.stack([room.mean(dim=0) for room in rooms]).mean(dim=0)
    first = next(
        module
        for module in found.modules()
        if isinstance(module, nn.BatchNorm1d)
    )
    assert first.running_mean is not None
    mean = first.running_mean
    if not torch.allclose(mean, expected, atol=1e-3):
        assert not torch.equal(mean, before["layers.0.running_mean"]), (
            "the statistics are the old ones: they are collected in training"
            " mode only"
        )
        raise AssertionError(
            f"the first layer's mean is {[round(v, 2) for v in mean.tolist()]},"
            " the mean over the rooms is"
            f" {[round(v, 2) for v in expected.tolist()]}. Do old values count,"
            " or the last rooms more? See momentum"
        )
    for name, tensor in _counted_anew(network, rooms).items():
        assert torch.allclose(
            found.state_dict()[name].float(), tensor.float(), atol=1e-3
        ), (
            f"{name} differs: every layer has to meet each room once, and no"
            " room twice"
        )
    print("ok: reestimate")
