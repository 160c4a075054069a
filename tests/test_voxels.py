import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlg_lib.voxels import LIMIT, MAX_BATCH, batch_coordinates, coarsen, pack, quantize, step, unpack, voxelize

cell = st.integers(-LIMIT, LIMIT - 1)
row = st.tuples(st.integers(0, MAX_BATCH - 1), cell, cell, cell)
near = st.tuples(st.integers(0, 2), *[st.integers(-9, 9)] * 3)


def rows_of(rows):
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)


def test_quantize_floors_towards_minus_infinity():
    points = torch.tensor([[0.0, 0.099, 0.1], [-0.001, -0.1, -0.101], [0.25, -0.25, 10.0]])
    assert quantize(points, 0.1).tolist() == [[0, 0, 1], [-1, -2, -2], [2, -3, 100]]
    # float32 has no 0.1: its nearest number, 0.100000001, lies just beyond a tenth, on both sides of zero
    assert quantize(points, 0.1).dtype == torch.int32


def test_quantize_divides_in_float64():
    point = torch.tensor([[0.7, 0.0, 0.0]])  # in float32 0.69999999, which single precision would divide to exactly 7
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
    assert quantize(torch.tensor([[-0.02 * LIMIT, 0.0, 0.0]], dtype=torch.float64), 0.02)[0, 0] == -LIMIT


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
    """Also where the step leads out of the packable range: its key must then belong to no voxel inside of it."""
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
    expected = sorted({(b, *(c // stride * stride for c in cells)) for b, *cells in rows})
    assert unpack(coarsen(pack(rows_of(rows)).sort().values, stride)).tolist() == [list(r) for r in expected]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-4, 4)] * 3), min_size=1, max_size=60))
def test_voxelize_against_a_dictionary(cells):
    points = (torch.tensor(cells) + 0.5) * 0.1
    voxels = voxelize(points, 0.1)
    assert voxels.coordinates.tolist() == [list(c) for c in sorted(set(cells))]
    assert voxels.coordinates[voxels.point_to_voxel].tolist() == [list(c) for c in cells]
    values = torch.arange(len(cells), dtype=torch.float64)[:, None]
    for voxel, mean in zip(voxels.coordinates.tolist(), voxels.average(values)[:, 0].tolist(), strict=True):
        members = [i for i, c in enumerate(cells) if list(c) == voxel]
        assert mean == pytest.approx(sum(members) / len(members))


def test_average_passes_gradients_to_the_points():
    voxels = voxelize(torch.tensor([[0.01, 0.0, 0.0], [0.02, 0.0, 0.0], [0.55, 0.0, 0.0]]), 0.1)
    values = torch.tensor([[1.0], [3.0], [5.0]], requires_grad=True)
    mean = voxels.average(values)
    assert mean[:, 0].tolist() == [2.0, 5.0]
    mean[0].sum().backward()
    assert values.grad[:, 0].tolist() == [0.5, 0.5, 0.0]


def test_every_point_gets_its_own_voxels_value():
    voxels = voxelize(torch.tensor([[0.55, 0.0, 0.0], [0.01, 0.0, 0.0], [0.02, 0.0, 0.0]]), 0.1)
    assert voxels.to_points(torch.tensor([[10], [20]]))[:, 0].tolist() == [20, 10, 10]
    assert voxels.to_points(torch.tensor([7, 8])).tolist() == [8, 7, 7]


def test_a_cloud_has_points():
    with pytest.raises(ValueError, match="at least one point"):
        voxelize(torch.zeros(0, 3), 0.1)


def test_batch_coordinates_needs_a_cloud():
    with pytest.raises(ValueError, match="at least one cloud"):
        batch_coordinates([])
