"""Superpoints against the published algorithm written out plainly, and votes by
hand.
"""

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlg_lib.classes import IGNORE_LABEL
from vlg_lib.metrics import confusion, mean_iou
from vlg_lib.superpoints import (
    SuperpointSettings,
    _Edges,
    _merged,
    _numbered,
    ceiling,
    soft_vote,
    superpoints,
    vote,
)

SEEDS = st.integers(0, 2**31)


def random_cloud(seed: int, count: int = 60) -> tuple[Tensor, Tensor]:
    """Points on two planes, in colours that change with the place."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator)
    points[: count // 2, 2] *= 0.02
    points[count // 2 :, 0] *= 0.02
    colors = 160 * (points[:, 1:2] > 0.5) + 60 * torch.rand(
        count, 3, generator=generator
    )
    return points, colors.byte()


def plain_edges(
    points: Tensor, colors: Tensor, wanted: SuperpointSettings
) -> list[tuple[float, int, int]]:
    """The graph, from the matrix of all distances and one plane a point."""
    places = points.double().numpy()
    shades = colors.numpy().astype(float) / 255
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    nearest = np.argsort(apart, axis=1)
    normals = [
        np.linalg.svd(cloud - cloud.mean(axis=0))[2][2]
        for cloud in places[nearest[:, : wanted.normal_neighbours]]
    ]
    pairs = {
        (min(i, j), max(i, j))
        for i, row in enumerate(nearest[:, 1 : wanted.neighbours + 1].tolist())
        for j in row
    }
    return sorted(
        (
            1
            - abs(float(normals[i] @ normals[j]))
            + wanted.color_weight
            * float(np.linalg.norm(shades[i] - shades[j])),
            i,
            j,
        )
        for i, j in pairs
    )


def heaviest_of_tree(
    edges: list[tuple[float, int, int]], piece: set[int]
) -> float:
    """Int of the paper by its definition: the heaviest edge of the minimum
    spanning tree of a piece.
    """
    graph = networkx.Graph()
    graph.add_weighted_edges_from(
        (i, j, weight) for weight, i, j in edges if {i, j} <= piece
    )
    tree = networkx.minimum_spanning_edges(graph, data=True)
    return max((data["weight"] for _, _, data in tree), default=0.0)


def plain_pieces(
    edges: list[tuple[float, int, int]], count: int, scale: float, least: int
) -> set[frozenset[int]]:
    """Felzenszwalb and Huttenlocher's algorithm 1 as it is printed, with sets
    of points, and the joining of small pieces.
    """
    piece = {i: {i} for i in range(count)}

    def join(i: int, j: int) -> None:
        whole = piece[i] | piece[j]
        piece.update(dict.fromkeys(whole, whole))

    for weight, i, j in edges:
        if j in piece[i]:
            continue
        limits = [
            heaviest_of_tree(edges, piece[k]) + scale / len(piece[k])
            for k in (i, j)
        ]
        if weight <= min(limits):
            join(i, j)
    for _, i, j in edges:
        if j not in piece[i] and min(len(piece[i]), len(piece[j])) < least:
            join(i, j)
    return {frozenset(each) for each in piece.values()}


def as_sets(regions: Tensor) -> set[frozenset[int]]:
    return {
        frozenset((regions == region).nonzero()[:, 0].tolist())
        for region in regions.unique()
    }


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.05, 0.3, 1.0, 5.0]), st.integers(1, 8))
def test_the_published_algorithm(seed: int, scale: float, least: int) -> None:
    points, colors = random_cloud(seed)
    wanted = SuperpointSettings(5, 6, scale, least)
    expected = plain_pieces(
        plain_edges(points, colors, wanted), len(points), scale, least
    )
    assert as_sets(superpoints(points, colors, wanted)) == expected


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.0, 3.0))
def test_the_merge_on_any_graph_with_equal_weights(
    seed: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    pairs = np.unique(np.sort(rng.integers(0, 30, (120, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    weights = rng.integers(0, 8, len(pairs)) / 8
    order = np.argsort(weights, kind="stable")
    pairs, weights = pairs[order], weights[order]
    found = _merged(_Edges(pairs[:, 0], pairs[:, 1], weights), 30, scale)
    listed = [
        (float(weight), int(i), int(j))
        for weight, (i, j) in zip(weights, pairs, strict=True)
    ]
    assert as_sets(torch.from_numpy(_numbered(found))) == plain_pieces(
        listed, 30, scale, least=1
    )


def test_a_spanning_tree_is_not_enough() -> None:
    # The pair in the middle (1, 2) is complete at 0: it has no slack for 0.6.
    # The ends 0 and 3 have, and the edge between them closes a circle.
    left, right = np.array([1, 0, 2, 0]), np.array([2, 1, 3, 3])
    weights = np.array([0.0, 0.6, 0.61, 0.62])
    found = _numbered(_merged(_Edges(left, right, weights), 4, scale=1.0))
    assert found.tolist() == [0, 1, 1, 0]


def test_colour_alone_divides_a_plane() -> None:
    grid = torch.cartesian_prod(torch.arange(12.0), torch.arange(12.0)) / 10
    points = torch.cat([grid, torch.zeros(144, 1)], dim=1)
    colors = torch.full((144, 3), 200, dtype=torch.uint8)
    board = (grid[:, 0] > 0.35) & (grid[:, 1] > 0.35)
    colors[board] = torch.tensor([20, 60, 20], dtype=torch.uint8)
    found = superpoints(points, colors, SuperpointSettings(least=5))
    assert as_sets(found) == as_sets(board.long())
    blind = SuperpointSettings(color_weight=0)
    assert superpoints(points, colors, blind).unique().tolist() == [0]


def test_shape_alone_divides_one_colour() -> None:
    flat = torch.cartesian_prod(torch.arange(1.0, 13), torch.arange(12.0)) / 10
    zero = torch.zeros(144, 1)
    floor = torch.cat([flat, zero], dim=1)
    wall = torch.cat([zero, flat[:, 1:], flat[:, :1]], dim=1)
    points = torch.cat([floor, wall])
    colors = torch.full((288, 3), 99, dtype=torch.uint8)
    found = superpoints(points, colors)
    assert int(found[:144].bincount().max()) > 100
    assert found[72:144].unique().tolist() == [found[72]]
    assert found[-72:].unique().tolist() != found[72:144].unique().tolist()


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_the_order_of_the_points_does_not_matter(seed: int) -> None:
    points, colors = random_cloud(seed, 80)
    wanted = SuperpointSettings(scale=0.2, least=4)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(seed))
    there = superpoints(points, colors, wanted)
    turned = superpoints(points[order], colors[order], wanted)
    back = torch.empty_like(turned)
    back[order] = turned
    assert as_sets(back) == as_sets(there)


def test_pieces_are_numbered_by_their_first_points_and_stay_so() -> None:
    points, colors = random_cloud(0)
    wanted = SuperpointSettings(scale=0.1, least=2)
    found = superpoints(points, colors, wanted)
    firsts = [found.tolist().index(i) for i in range(int(found.max()) + 1)]
    assert firsts == sorted(firsts)
    assert torch.equal(found, superpoints(points, colors, wanted))


def test_small_pieces_are_joined_where_an_edge_leaves_them() -> None:
    points, colors = random_cloud(1)
    for least in (5, 10**6):
        found = superpoints(points, colors, SuperpointSettings(least=least))
        assert int(found.bincount().min()) >= min(least, 60)
    far = torch.cat([points, points + 100])
    found = superpoints(
        far, torch.cat([colors, colors]), SuperpointSettings(least=10**6)
    )
    assert found.bincount().tolist() == [60, 60]


def test_scale_of_zero_merges_weights_of_zero_only() -> None:
    line = torch.arange(20.0)[:, None] * torch.tensor([0.1, 0.0, 0.0])
    colors = torch.zeros(20, 3, dtype=torch.uint8)
    colors[10:, 0] = torch.arange(10, 20, dtype=torch.uint8)
    wanted = SuperpointSettings(scale=0.0, least=1)
    assert superpoints(line, colors, wanted).bincount().tolist() == [
        10,
        *[1] * 10,
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_few_points_and_points_in_one_place(count: int) -> None:
    points = torch.ones(count, 3)
    colors = torch.zeros(count, 3, dtype=torch.uint8)
    assert superpoints(points, colors).tolist() == [0] * count


def test_clouds_that_make_no_sense() -> None:
    points, colors = random_cloud(2)
    with pytest.raises(ValueError, match=r"at least one, found shape \(0, 3\)"):
        superpoints(points[:0], colors[:0])
    broken = points.clone()
    broken[3, 0], broken[5] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 of 60 points are NaN or infinite"):
        superpoints(broken, colors)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("neighbours", 0),
        ("normal_neighbours", 2),
        ("least", 0),
        ("scale", -0.1),
        ("scale", float("nan")),
        ("color_weight", float("inf")),
    ],
)
def test_settings_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"expected {name} of"):
        SuperpointSettings(**{name: value})  # type: ignore[arg-type]


def test_votes_by_hand() -> None:
    labels = torch.tensor([2, 2, 0, -1, -1, 1, -1, 0, 1])
    regions = torch.tensor([7, 7, 7, 4, 4, 4, 9, 2, 2])
    # 7: class 2 by two to one. 4: one vote for 1, two without a label.
    # 9: nobody has a label. 2: a tie, and the first class wins.
    assert vote(labels, regions).tolist() == [2, 2, 2, 1, 1, 1, -1, 0, 0]
    counted = vote(labels, regions, unlabelled="counts")
    assert counted.tolist() == [2, 2, 2, -1, -1, -1, -1, 0, 0]


def test_a_class_wins_a_tie_with_unlabelled_points() -> None:
    labels, regions = torch.tensor([-1, 3, 3, -1]), torch.zeros(4).long()
    assert vote(labels, regions, unlabelled="counts").tolist() == [3] * 4


def test_soft_votes_by_hand() -> None:
    probabilities = torch.tensor(
        [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0, 0], [0, 0], [0.5, 0.5]]
    )
    regions = torch.tensor([3, 3, 3, 3, 5, 8])
    labels, scores = soft_vote(probabilities, regions)
    # 1.7 against 1.3 of three voters; the unseen point gets what they chose
    assert labels.tolist() == [0, 0, 0, 0, IGNORE_LABEL, 0]
    third = 1.7 / 3
    assert scores.tolist() == pytest.approx([third] * 4 + [0.0, 0.5])


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_a_vote_keeps_regions_whole_and_voting_again_changes_nothing(
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 4, (50,), generator=generator)
    regions = torch.randint(0, 9, (50,), generator=generator)
    for unlabelled in ("ignored", "counts"):
        voted = vote(labels, regions, unlabelled=unlabelled)
        for region in regions.unique():
            (only,) = voted[regions == region].unique().tolist()
            own = labels[regions == region]
            counts = own[own >= 0].bincount(minlength=4).tolist()
            none = int((own < 0).sum())
            most = none if unlabelled == "counts" else 0
            loses = max(counts) == 0 or most > max(counts)
            expected = -1 if loses else counts.index(max(counts))
            assert only == expected
        assert torch.equal(vote(voted, regions, unlabelled=unlabelled), voted)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_no_vote_is_better_than_its_ceiling(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(-1, 3, (60,), generator=generator)
    regions = torch.randint(0, 12, (60,), generator=generator)
    labels = torch.randint(0, 3, (60,), generator=generator)
    best = ceiling(truth, regions, 3)
    found = confusion(vote(labels, regions), truth, 3)
    assert int(best.diagonal().sum()) >= int(found.diagonal().sum())
    # points of their own: everything is right
    alone = ceiling(truth, torch.arange(60), 3)
    if bool((truth >= 0).any()):
        assert mean_iou(alone) == 1.0


def test_votes_that_make_no_sense() -> None:
    labels, regions = torch.tensor([0, 1]), torch.tensor([0, 0])
    with pytest.raises(ValueError, match="unknown choice 'dropped'"):
        vote(labels, regions, unlabelled="dropped")
    with pytest.raises(ValueError, match="expected regions from 0, found -1"):
        vote(labels, regions - 1)
    with pytest.raises(ValueError, match="expected labels from -1"):
        vote(labels - 2, regions)
    with pytest.raises(ValueError, match="found NaN or infinity"):
        soft_vote(torch.tensor([[torch.nan, 0.0], [0.5, 0.5]]), regions)
    assert vote(labels[:0], regions[:0]).tolist() == []
