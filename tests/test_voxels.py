import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import grid_sample

from vlg_lib.geometry.voxels import (
    LIMIT,
    MAX_BATCH,
    batch_coordinates,
    coarsen,
    pack,
    quantize,
    step,
    unpack,
    voxelize,
)

cell = st.integers(-LIMIT, LIMIT - 1)
row = st.tuples(st.integers(0, MAX_BATCH - 1), cell, cell, cell)
near = st.tuples(st.integers(0, 2), *[st.integers(-9, 9)] * 3)


def rows_of(rows):
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)


def test_quantize_floors_towards_minus_infinity():
    points = torch.tensor(
        [[0.0, 0.099, 0.1], [-0.001, -0.1, -0.101], [0.25, -0.25, 10.0]]
    )
    assert quantize(points, 0.1).tolist() == [
        [0, 0, 1],
        [-1, -2, -2],
        [2, -3, 100],
    ]
    # float32 has no 0.1: its nearest number, 0.100000001, lies just beyond a
    # tenth, on both sides of zero
    assert quantize(points, 0.1).dtype == torch.int32


def test_quantize_divides_in_float64():
    # in float32 0.69999999, which single precision would divide to exactly 7
    point = torch.tensor([[0.7, 0.0, 0.0]])
    assert float(point[0, 0] / torch.tensor(0.1)) == 7.0
    assert quantize(point, 0.1)[0, 0] == 6


@pytest.mark.parametrize("size", [0.0, -0.1, float("nan")])
def test_a_voxel_size_is_positive(size):
    with pytest.raises(ValueError, match="must be positive"):
        quantize(torch.zeros(1, 3), size)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_points_are_finite(value):
    points = torch.zeros(4, 3)
    points[2, 1] = value
    with pytest.raises(ValueError, match="1 of 4 points"):
        quantize(points, 0.1)


def test_points_in_millimetres_are_told_apart_from_metres():
    with pytest.raises(ValueError, match="in millimetres"):
        quantize(torch.tensor([[0.0, 0.0, 3000.0]]), 0.02)
    assert (
        quantize(
            torch.tensor([[-0.02 * LIMIT, 0.0, 0.0]], dtype=torch.float64), 0.02
        )[0, 0]
        == -LIMIT
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(row, min_size=1, max_size=40))
def test_unpack_is_the_inverse_of_pack(rows):
    assert unpack(pack(rows_of(rows))).tolist() == [list(r) for r in rows]


@settings(max_examples=50, deadline=None)
@given(st.lists(row, min_size=2, max_size=40))
def test_keys_sort_like_rows_and_never_collide(rows):
    keys = pack(rows_of(rows)).tolist()
    assert min(keys) >= 0
    assert [r for _, r in sorted(zip(keys, rows, strict=True))] == sorted(rows)
    assert len(set(keys)) == len(set(rows))


@settings(max_examples=50, deadline=None)
@given(row, st.tuples(*[st.integers(-LIMIT, LIMIT)] * 3))
def test_a_step_is_an_addition_and_never_changes_another_field(start, offset):
    """Also where the step leads out of the packable range: its key must then
    belong to no voxel inside of it."""
    key = int(pack(rows_of([start]))) + step(offset)
    there = (start[0], *(c + d for c, d in zip(start[1:], offset, strict=True)))
    assert unpack(torch.tensor([key])).tolist() == [list(there)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((0, LIMIT, 0, 0), "voxel coordinates"),
        ((0, 0, -LIMIT - 1, 0), "voxel coordinates"),
        ((-1, 0, 0, 0), "batch indices"),
        ((MAX_BATCH, 0, 0, 0), "batch indices"),
    ],
)
def test_pack_refuses_what_does_not_fit(bad, message):
    with pytest.raises(ValueError, match=message):
        pack(rows_of([(0, 0, 0, 0), bad]))


def test_a_step_beyond_the_guard_is_refused():
    with pytest.raises(ValueError, match="reaches too far"):
        step((0, LIMIT + 1, 0))


@settings(max_examples=50, deadline=None)
@given(st.lists(near, min_size=1, max_size=40), st.integers(1, 5))
def test_coarsen_is_the_unique_floor(rows, stride):
    expected = sorted(
        {(b, *(c // stride * stride for c in cells)) for b, *cells in rows}
    )
    assert unpack(
        coarsen(pack(rows_of(rows)).sort().values, stride)
    ).tolist() == [list(r) for r in expected]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-4, 4)] * 3), min_size=1, max_size=60))
def test_voxelize_against_a_dictionary(cells):
    points = (torch.tensor(cells) + 0.5) * 0.1
    voxels = voxelize(points, 0.1)
    assert voxels.coordinates.tolist() == [list(c) for c in sorted(set(cells))]
    assert voxels.coordinates[voxels.point_to_voxel].tolist() == [
        list(c) for c in cells
    ]
    values = torch.arange(len(cells), dtype=torch.float64)[:, None]
    for voxel, mean in zip(
        voxels.coordinates.tolist(),
        voxels.average(values)[:, 0].tolist(),
        strict=True,
    ):
        members = [i for i, c in enumerate(cells) if list(c) == voxel]
        assert mean == pytest.approx(sum(members) / len(members))


def test_a_cloud_with_a_stray_point_has_the_same_voxels_otherwise():
    """Voxels of a compact cloud are ticked off in its box, those of a wide one
    sorted."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(500, 3, generator=generator) - torch.tensor(
        [0.4, 0.0, 7.0]
    )
    stray = torch.tensor([[300.0, 200.0, 100.0]])
    compact = voxelize(points, 0.1)
    wide = voxelize(torch.cat([points, stray]), 0.1)
    assert wide.coordinates[-1].tolist() == [3000, 2000, 1000]
    assert wide.coordinates[:-1].equal(compact.coordinates)
    assert wide.point_to_voxel[:-1].equal(compact.point_to_voxel)
    values = torch.randn(501, 4, generator=generator)
    assert wide.average(values)[:-1].equal(compact.average(values[:-1])), (
        "each voxel adds its points in their order"
    )


def test_average_passes_gradients_to_the_points():
    voxels = voxelize(
        torch.tensor([[0.01, 0.0, 0.0], [0.02, 0.0, 0.0], [0.55, 0.0, 0.0]]),
        0.1,
    )
    values = torch.tensor([[1.0], [3.0], [5.0]], requires_grad=True)
    mean = voxels.average(values)
    assert mean[:, 0].tolist() == [2.0, 5.0]
    mean[0].sum().backward()
    assert values.grad[:, 0].tolist() == [0.5, 0.5, 0.0]


def test_every_point_gets_its_own_voxels_value():
    voxels = voxelize(
        torch.tensor([[0.55, 0.0, 0.0], [0.01, 0.0, 0.0], [0.02, 0.0, 0.0]]),
        0.1,
    )
    assert voxels.to_points(torch.tensor([[10], [20]]))[:, 0].tolist() == [
        20,
        10,
        10,
    ]
    assert voxels.to_points(torch.tensor([7, 8])).tolist() == [8, 7, 7]


def test_values_between_voxels_by_hand():
    """Two voxels side by side, centres at 0.5 and 1.5; and one apart, whose
    neighbours are empty."""
    voxels = voxelize(
        torch.tensor([[0.5, 0.5, 0.5], [1.5, 0.5, 0.5], [5.5, 0.5, 0.5]]), 1.0
    )
    values = torch.tensor([[10.0], [20.0], [7.0]])
    places = {
        0.5: 10,
        0.75: 12.5,
        1.0: 15,
        1.5: 20,
        0.1: 10,
        1.9: 20,
        5.9: 7,
        6.4: 7,
        3.5: 0,
    }
    points = torch.tensor([[x, 0.5, 0.5] for x in places])
    assert voxels.interpolate(values, points, 1.0)[
        :, 0
    ].tolist() == pytest.approx(list(places.values()))
    # the empty voxels beside both leave the shares of the two alone
    diagonal = torch.tensor([[0.75, 0.9, 0.1]])
    assert float(voxels.interpolate(values, diagonal, 1.0)) == pytest.approx(
        12.5
    )


def test_interpolation_equals_grid_sample_on_a_dense_grid():
    """torch's own, of the values and of the occupancy; their quotient leaves
    the empty cells out."""
    generator = torch.Generator().manual_seed(0)
    own = (
        torch.rand(300, 3, generator=generator, dtype=torch.float64) * 0.8 - 0.4
    )
    voxels = voxelize(own, 0.1)
    values = torch.randn(
        len(voxels), 5, generator=generator, dtype=torch.float64
    ).requires_grad_()
    points = torch.cat(
        [
            own,
            torch.rand(200, 3, generator=generator, dtype=torch.float64) * 1.2
            - 0.6,
        ]
    )
    cells = (voxels.coordinates + 8).long().unbind(1)
    with_ones = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    dense = (
        torch.zeros(16, 16, 16, 6, dtype=torch.float64)
        .index_put(cells, with_ones)
        .permute(3, 2, 1, 0)[None]
    )
    sampled = grid_sample(
        dense, (points / 0.8)[None, None, None], align_corners=False
    )[0, :, 0, 0].T
    expected = torch.where(
        sampled[:, 5:] > 0, sampled[:, :5] / sampled[:, 5:], 0.0
    )
    found = voxels.interpolate(values, points, 0.1)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((out * weights).sum(), values, retain_graph=True)[0]
        for out in (found, expected)
    ]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=0)
    # some of the other points are far from all voxels
    assert bool((found[300:] == 0).all(dim=1).any())


@settings(max_examples=30, deadline=None)
@given(st.lists(near, min_size=1, max_size=30), st.floats(0.05, 2))
def test_interpolation_between_equal_values_changes_nothing(cells, size):
    points = (rows_of(cells)[:, 1:].double() + 0.3) * size
    voxels = voxelize(points, size)
    ones = torch.full((len(voxels), 1), 3.0)
    torch.testing.assert_close(
        voxels.interpolate(ones, points, size),
        torch.full((len(points), 1), 3.0),
    )


def test_interpolation_at_the_edge_of_the_range():
    edge = torch.tensor([[LIMIT - 0.1, 0.5, -LIMIT + 0.1]], dtype=torch.float64)
    voxels = voxelize(edge, 1.0)
    assert float(voxels.interpolate(torch.tensor([[4.0]]), edge, 1.0)) == 4.0


def test_values_belong_to_the_voxels_or_to_the_points():
    voxels = voxelize(
        torch.tensor([[0.5, 0.5, 0.5], [0.6, 0.5, 0.5], [5.5, 0.5, 0.5]]), 1.0
    )
    with pytest.raises(ValueError, match="each of 3 points, found 4 rows"):
        voxels.average(torch.zeros(4, 1))
    for devoxelize in (
        voxels.to_points,
        lambda values: voxels.interpolate(values, torch.zeros(1, 3), 1.0),
    ):
        with pytest.raises(ValueError, match="each of 2 voxels, found 3 rows"):
            devoxelize(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="1 of 1 points have a NaN"):
        voxels.interpolate(
            torch.zeros(2, 1), torch.full((1, 3), torch.nan), 1.0
        )


def test_a_cloud_has_points():
    with pytest.raises(ValueError, match="at least one point"):
        voxelize(torch.zeros(0, 3), 0.1)


def test_batch_coordinates_needs_a_cloud():
    with pytest.raises(ValueError, match="at least one cloud"):
        batch_coordinates([])
