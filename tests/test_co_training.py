"""Shapes of superpoints against their definitions, and a second labeller that
repairs planted errors which the first one makes because of colour."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlg_lib.co_training import (
    SHAPE_FEATURES,
    CoTrainingSettings,
    Pieces,
    co_train,
    make_pieces,
    shape_features,
)

FAST = CoTrainingSettings(rounds=2, folds=2, trees=25)


@given(st.integers(0, 2**31 - 1), st.integers(1, 5))
def test_shapes_are_what_numpy_says_of_each_region(
    seed: int, count: int
) -> None:
    draws = np.random.default_rng(seed)
    points = draws.normal(size=(40, 3)).astype(np.float32) * [2, 1, 0.5]
    regions = np.concatenate([np.arange(count), draws.integers(0, count, 40)])
    regions = regions[:40]
    found = shape_features(
        torch.from_numpy(points).float(), torch.from_numpy(regions)
    )
    assert found.shape == (count, len(SHAPE_FEATURES))
    floor, size = points.min(0), points.max(0) - points.min(0)
    for region in range(count):
        own = points[regions == region] - floor
        covariance = (
            np.cov(own.T, bias=True) if len(own) > 1 else np.zeros((3, 3))
        )
        values, vectors = np.linalg.eigh(covariance)
        middle = own.mean(0)
        expected = [
            middle[2],
            own[:, 2].min(),
            own[:, 2].max(),
            *np.ptp(own, axis=0),
            *np.sqrt(values.clip(min=0)),
            abs(vectors[2, 0]),
            abs(vectors[2, 2]),
            np.log(len(own)),
            np.minimum(middle, size - middle)[:2].min(),
        ]
        if len(own) > 3:  # fewer have no direction of their own
            assert found[region].numpy() == pytest.approx(expected, abs=2e-3)
        else:
            assert found[region, :6].numpy() == pytest.approx(
                expected[:6], abs=2e-3
            )


def test_shapes_know_no_colour_and_no_place_of_the_scene() -> None:
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    regions = torch.arange(50) % 4
    moved = points + torch.tensor([100.0, -50.0, 7.0])
    assert torch.allclose(
        shape_features(points, regions),
        shape_features(moved, regions),
        atol=1e-4,
    )
    nothing = shape_features(points[:0], regions[:0])
    assert nothing.shape == (0, len(SHAPE_FEATURES))


def test_pieces_average_over_the_points_that_were_seen() -> None:
    chances = torch.tensor([[0.8, 0.2], [0.0, 0.0], [0.4, 0.6], [0.0, 0.0]])
    regions = torch.tensor([5, 5, 5, 2])
    pieces = make_pieces(torch.rand(4, 3), regions, chances)
    assert pieces.sizes.tolist() == [1, 3]
    assert pieces.index.tolist() == [1, 1, 1, 0]
    assert pieces.beliefs[0].tolist() == [0, 0]
    assert pieces.beliefs[1].tolist() == pytest.approx([0.6, 0.4])
    with pytest.raises(ValueError, match="4 points, 3 regions and 4"):
        make_pieces(torch.rand(4, 3), regions[:3], chances)


def planted_rooms(
    rooms: int, wrong: float, tags: torch.Tensor | None = None
) -> tuple[list[Pieces], list[torch.Tensor]]:
    """Rooms of low and high pieces, whose first labeller takes a share of each
    for the other: by chance, so not because of their shape."""
    generator = torch.Generator().manual_seed(0)
    made, truths = [], []
    for _ in range(rooms):
        truth = torch.arange(30) % 2
        shapes = torch.rand(30, len(SHAPE_FEATURES), generator=generator)
        shapes[:, 0] = truth + 0.1 * torch.randn(30, generator=generator)
        fooled = torch.rand(30, generator=generator) < wrong
        said = torch.where(fooled, 1 - truth, truth)
        beliefs = torch.full((30, 3), 0.25)
        beliefs[torch.arange(30), said] = 0.5
        if tags is not None:
            beliefs = beliefs * tags
            beliefs = beliefs / beliefs.sum(1, keepdim=True)
        sizes = torch.full((30,), 10)
        made.append(Pieces(shapes, beliefs, sizes, torch.arange(30), tags))
        truths.append(truth)
    return made, truths


def right(beliefs: list[torch.Tensor], truths: list[torch.Tensor]) -> float:
    answers = torch.cat([part.argmax(1) for part in beliefs])
    return float((answers == torch.cat(truths)).float().mean())


def test_the_second_labeller_repairs_what_shape_contradicts() -> None:
    rooms, truths = planted_rooms(8, wrong=0.25)
    first = [room.beliefs for room in rooms]
    both = co_train(rooms, FAST)
    assert right(first, truths) < 0.8
    assert right(both, truths) > 0.9
    for part in both:
        assert torch.allclose(part.sum(1), torch.ones(30), atol=1e-5)


def test_errors_that_follow_the_shape_are_learnt_and_stay() -> None:
    """The guarantee is independence, and nothing repairs what both see."""
    rooms, truths = planted_rooms(8, wrong=1.0)
    assert right(co_train(rooms, FAST), truths) < 0.05


def test_without_a_round_the_first_opinion_stays() -> None:
    rooms, _ = planted_rooms(3, wrong=0.3)
    unchanged = co_train(rooms, CoTrainingSettings(rounds=0))
    for room, beliefs in zip(rooms, unchanged, strict=True):
        assert torch.allclose(beliefs, room.beliefs, atol=1e-6)


def test_no_superpoint_gets_a_class_that_its_room_lacks() -> None:
    rooms, _ = planted_rooms(4, 0.2, tags=torch.tensor([True, False, True]))
    for beliefs in co_train(rooms, FAST):
        assert (beliefs[:, 1] == 0).all()


def test_a_room_is_judged_by_the_others_alone() -> None:
    """Its own first opinion may be anything: the forests of its fold do not
    change."""
    rooms, truths = planted_rooms(4, wrong=0.2)
    blank = Pieces(
        rooms[0].features,
        torch.zeros(30, 3),
        rooms[0].sizes,
        rooms[0].index,
        None,
    )
    once = CoTrainingSettings(rounds=1, folds=4, trees=25)
    second = co_train([blank, *rooms[1:]], once)[0]
    together = co_train(rooms, once)[0]
    assert torch.allclose((rooms[0].beliefs + second) / 2, together, atol=1e-6)
    assert right([second], truths[:1]) >= 0.9


def test_superpoints_that_nobody_knows_stay_unknown_without_other_rooms() -> (
    None
):
    rooms, _ = planted_rooms(2, wrong=0.2)
    blank = [
        Pieces(room.features, torch.zeros(30, 3), room.sizes, room.index, None)
        for room in rooms
    ]
    assert not torch.cat(co_train(blank, FAST)).any()


def test_the_same_seed_makes_the_same_beliefs() -> None:
    rooms, _ = planted_rooms(4, wrong=0.3)
    one, same, other = (
        torch.cat(co_train(rooms, FAST, seed=seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_bad_settings_and_a_single_room_are_refused() -> None:
    rooms, _ = planted_rooms(1, wrong=0.2)
    with pytest.raises(ValueError, match="needs two scenes or more"):
        co_train(rooms)
    for name, low in (("rounds", 0), ("folds", 2), ("trees", 1), ("least", 1)):
        with pytest.raises(ValueError, match=f"expected {name} of {low}"):
            CoTrainingSettings(**{name: low - 1})
