"""Sparse convolution against dense convolution on the same voxels, against
dictionaries, and against bad input."""

import sys

import numpy as np
import pytest
import torch
from dense_grid import (
    DenseGrid,
    cloud,
    dense_convolution,
    dense_transposed,
    random,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool3d, max_pool3d, pad

from vlg_lib import sparse
from vlg_lib.geometry.voxels import LIMIT, pack
from vlg_lib.sparse import (
    CoordinateManager,
    SparseTensor,
    functional,
    products,
)
from vlg_lib.sparse.clouds import find_clouds
from vlg_lib.sparse.products import LARGE, has_onednn, in_quanta

TIGHT = {"atol": 1e-12, "rtol": 1e-12}


def double(layer, seed=0):
    """The layer in float64 with weights large enough to see."""
    layer = layer.double()
    for index, parameter in enumerate(layer.parameters()):
        parameter.data = random(*parameter.shape, seed=seed + index)
    return layer


def compare(sparse_out, dense_out, *inputs):
    """Outputs equal to 1e-12, and so are the gradients of a random linear
    function of them."""
    torch.testing.assert_close(sparse_out, dense_out, **TIGHT)
    weights = random(*sparse_out.shape, seed=99)
    ours = torch.autograd.grad((sparse_out * weights).sum(), inputs)
    theirs = torch.autograd.grad(
        (dense_out * weights).sum(), inputs, retain_graph=True
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **TIGHT)


@pytest.mark.parametrize(
    ("size", "stride", "dilation", "spacing"),
    [
        (1, 1, 1, 1),
        (2, 1, 1, 1),
        (3, 1, 1, 1),
        (4, 1, 1, 1),
        (5, 1, 1, 1),
        (3, 1, 2, 1),
        (3, 1, 3, 1),
        (2, 1, 2, 1),
        (3, 1, 1, 2),
        (1, 2, 1, 1),
        (2, 2, 1, 1),
        (3, 2, 1, 1),
        (4, 2, 1, 1),
        (4, 2, 2, 1),
        (5, 2, 1, 1),
        (3, 3, 1, 1),
        (2, 2, 1, 2),
        (3, 2, 2, 1),
    ],
)
def test_convolution_equals_dense_convolution_on_the_voxels(
    size, stride, dilation, spacing
):
    coordinates = cloud(
        seed=size + stride, stride=spacing, reach=5 if spacing == 1 else 3
    )
    features = random(len(coordinates), 3, seed=1).requires_grad_()
    layer = double(sparse.Convolution(3, 4, size, stride, dilation, bias=True))
    x = SparseTensor(features, coordinates, stride=spacing)
    out = layer(x)
    assert out.stride == spacing * stride
    dense = (
        dense_convolution(
            x, layer.kernel, out.coordinates, size, stride, dilation
        )
        + layer.bias
    )
    compare(out.features, dense, features, layer.kernel, layer.bias)


@pytest.mark.parametrize(
    ("size", "stride", "dilation"),
    [
        (2, 2, 1),
        (3, 2, 1),
        (4, 2, 1),
        (5, 2, 1),
        (3, 3, 1),
        (3, 1, 1),
        (2, 1, 1),
        (3, 2, 2),
        (1, 1, 1),
    ],
)
def test_transposed_convolution_equals_dense_transposed_convolution(
    size, stride, dilation
):
    fine = SparseTensor(random(len(cloud()), 1), cloud())
    coarse = fine.manager.grid(stride)
    features = random(len(coarse), 3, seed=1).requires_grad_()
    x = SparseTensor(features, stride=stride, manager=fine.manager)
    layer = double(
        sparse.ConvolutionTranspose(3, 4, size, stride, dilation, bias=True)
    )
    out = layer(x)
    assert torch.equal(out.coordinates, fine.coordinates)
    dense = (
        dense_transposed(
            x, layer.kernel, out.coordinates, size, stride, dilation
        )
        + layer.bias
    )
    compare(out.features, dense, features, layer.kernel, layer.bias)


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1), (2, 1)])
def test_pooling_equals_dense_pooling_over_occupied_voxels(size, stride):
    coordinates = cloud(seed=4)
    features = random(len(coordinates), 3).requires_grad_()
    x = SparseTensor(features, coordinates)
    grid = DenseGrid(coordinates, stride)
    sides = [size // 2 if size % 2 else 0, size - 1] * 3

    def dense(pool, values, empty=0.0):
        return pool(
            pad(grid.fill(values, coordinates, 1, empty), sides, value=empty),
            size,
            stride,
        )

    summed = sparse.SumPooling(size, stride)(x)
    at = summed.coordinates
    total = grid.read(dense(avg_pool3d, features) * size**3, at, stride)
    count = grid.read(
        dense(avg_pool3d, torch.ones_like(features)) * size**3, at, stride
    )
    compare(summed.features, total, features)
    compare(
        sparse.AvgPooling(size, stride)(x).features, total / count, features
    )
    largest = grid.read(dense(max_pool3d, features, -torch.inf), at, stride)
    compare(sparse.MaxPooling(size, stride)(x).features, largest, features)


def test_max_pooling_keeps_minus_infinity_apart_from_nothing():
    """Masked logits may be minus infinity: not the zero of a window without
    voxels, which a dilated kernel can have."""
    x = SparseTensor(
        torch.tensor([[-torch.inf], [2.0]]),
        torch.tensor([[0, 0, 0, 0], [0, 5, 0, 0]]),
    )
    assert sparse.MaxPooling(2, 2)(x).features[:, 0].tolist() == [
        -torch.inf,
        2.0,
    ]
    assert sparse.MaxPooling(2, 4, dilation=2)(x).features[:, 0].tolist() == [
        -torch.inf,
        0.0,
    ]


def test_gradcheck():
    coordinates = cloud(voxels=8, reach=2)
    features = random(len(coordinates), 2).requires_grad_()
    for layer in (
        sparse.Convolution(2, 3, 3, bias=True),
        sparse.Convolution(2, 3, 2, stride=2),
    ):
        kernel = double(layer).kernel
        manager = CoordinateManager(coordinates)
        kernel_map = manager.kernel_map(1, layer.stride, layer.kernel_size)
        function = lambda x, w, used=kernel_map: sparse.sparse_convolution(
            x, w, used
        )
        assert torch.autograd.gradcheck(function, (features, kernel))


near = st.tuples(st.integers(0, 2), *[st.integers(-4, 4)] * 3)


@settings(max_examples=60, deadline=None)
@given(
    st.sets(near, min_size=1, max_size=50),
    st.sampled_from(
        [
            (1, 3, 1),
            (1, 2, 1),
            (1, 5, 1),
            (2, 3, 1),
            (2, 2, 1),
            (3, 3, 1),
            (1, 3, 2),
            (2, 3, 2),
        ]
    ),
)
def test_kernel_map_against_a_dictionary(rows, case):
    stride, size, dilation = case
    rows = sorted(rows, key=lambda row: hash(row) * 7919 % 1009)  # any order
    manager = CoordinateManager(torch.tensor(rows))
    kernel_map = manager.kernel_map(1, stride, size, dilation)
    outputs = [tuple(row) for row in manager.grid(stride).coordinates.tolist()]
    row_of = {row: index for index, row in enumerate(rows)}
    for (dx, dy, dz), (sources, targets) in zip(
        sparse.kernel_offsets(size), kernel_map.pairs, strict=True
    ):
        expected = set()
        for target, (b, x, y, z) in enumerate(outputs):
            source = row_of.get(
                (b, x + dx * dilation, y + dy * dilation, z + dz * dilation)
            )
            if source is not None:
                expected.add((source, target))
        found = list(zip(sources.tolist(), targets.tolist(), strict=True))
        assert set(found) == expected
        assert len(found) == len(expected)


def test_six_voxels_by_hand():
    """The example of chapter 07: a row of three voxels, one above its end, one
    apart, one in another cloud."""
    coordinates = torch.tensor(
        [
            [0, 0, 0, 0],
            [0, 1, 0, 0],
            [0, 2, 0, 0],
            [0, 2, 1, 0],
            [0, 9, 9, 9],
            [1, 1, 0, 0],
        ]
    )
    x = SparseTensor(
        torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]), coordinates
    )
    kernel_map = x.manager.kernel_map(1, 1, 3)
    right = sparse.kernel_offsets(3).index((1, 0, 0))
    assert [pair.tolist() for pair in kernel_map.pairs[right]] == [
        [1, 2],
        [0, 1],
    ]
    ones = sparse.Convolution(1, 1, 3)
    torch.nn.init.ones_(ones.kernel)
    assert ones(x).features[:, 0].tolist() == [3.0, 10.0, 9.0, 9.0, 5.0, 6.0]
    halved = sparse.SumPooling(2, stride=2)(x)
    assert halved.coordinates.tolist() == [
        [0, 0, 0, 0],
        [0, 2, 0, 0],
        [0, 8, 8, 8],
        [1, 0, 0, 0],
    ]
    assert halved.features[:, 0].tolist() == [3.0, 7.0, 5.0, 6.0]


def network():
    """Down and up again, with a skip: every kind of kernel map."""
    torch.manual_seed(0)
    down, up = (
        sparse.Convolution(3, 4, 3, stride=2),
        sparse.ConvolutionTranspose(4, 3, 2, stride=2),
    )
    first, last = sparse.Convolution(3, 3, 5), sparse.Convolution(6, 2, 3)
    for layer in (down, up, first, last):
        layer.double()
    return lambda x: last(sparse.cat(up(down(first(x))), x))


def test_the_order_of_points_does_not_matter():
    coordinates, net = cloud(), network()
    features = random(len(coordinates), 3)
    order = torch.randperm(
        len(coordinates), generator=torch.Generator().manual_seed(5)
    )
    straight = net(SparseTensor(features, coordinates)).features
    shuffled = net(SparseTensor(features[order], coordinates[order])).features
    torch.testing.assert_close(shuffled, straight[order], **TIGHT)


def test_the_order_of_clouds_does_not_matter_nor_does_their_company():
    coordinates, net = cloud(), network()
    features = random(len(coordinates), 3)
    together = net(SparseTensor(features, coordinates)).features
    swapped = coordinates.clone()
    swapped[:, 0] = 1 - swapped[:, 0]
    torch.testing.assert_close(
        net(SparseTensor(features, swapped)).features, together, **TIGHT
    )
    for batch in (0, 1):
        mine = coordinates[:, 0] == batch
        alone = net(SparseTensor(features[mine], coordinates[mine])).features
        torch.testing.assert_close(alone, together[mine], **TIGHT)


def test_moving_a_cloud_by_the_coarsest_stride_moves_the_output_only():
    coordinates, net = cloud(), network()
    features = random(len(coordinates), 3)
    moved = coordinates + torch.tensor([0, -6, 8, 200], dtype=coordinates.dtype)
    torch.testing.assert_close(
        net(SparseTensor(features, moved)).features,
        net(SparseTensor(features, coordinates)).features,
        **TIGHT,
    )


def test_two_runs_agree_to_the_last_bit():
    coordinates = cloud(voxels=400, reach=8)
    features = random(len(coordinates), 3).float()
    layer = sparse.Convolution(3, 8, 3)

    def run():
        out = layer(SparseTensor(features, coordinates)).features
        return out, torch.autograd.grad(out.square().sum(), layer.kernel)[0]

    for a, b in zip(run(), run(), strict=True):
        assert torch.equal(a, b)


def test_kernel_maps_are_made_once_and_shared_between_layers():
    x = SparseTensor(random(len(cloud()), 3), cloud())
    manager = x.manager
    assert manager.kernel_map(1, 1, 3) is manager.kernel_map(1, 1, 3)
    assert manager.kernel_map(1, 1, 3) is not manager.kernel_map(
        1, 1, 3, dilation=2
    )
    assert manager.grid(4) is manager.grid(4)
    down = double(sparse.Convolution(3, 3, 2, stride=2))(x)
    assert down.manager is manager
    up = double(sparse.ConvolutionTranspose(3, 3, 2, stride=2))(down)
    # two for 3x3x3, one for 2x2x2 that serves both ways
    assert len(manager._kernel_maps) == 3
    assert torch.equal(up.coordinates, x.coordinates)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1)])
def test_the_map_of_a_smaller_kernel_is_part_of_that_of_a_larger_one(
    stride, dilation
):
    for size in (3, 1):
        direct, derived = CoordinateManager(cloud()), CoordinateManager(cloud())
        derived.kernel_map(1, stride, size + 2, dilation)
        expected = direct.kernel_map(1, stride, size, dilation)
        found = derived.kernel_map(1, stride, size, dilation)
        assert (found.identity, found.output_size) == (
            expected.identity,
            expected.output_size,
        )
        for pair, expected_pair in zip(
            found.pairs, expected.pairs, strict=True
        ):
            assert all(
                torch.equal(a, b)
                for a, b in zip(pair, expected_pair, strict=True)
            )


def test_the_backward_pass_keeps_features_and_kernel_only():
    coordinates = cloud()
    features = random(len(coordinates), 3).requires_grad_()
    layer = double(sparse.Convolution(3, 4, 3))
    x = SparseTensor(features, coordinates)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        layer(x)
    assert sorted(kept) == sorted([features.numel(), layer.kernel.numel()])


@pytest.mark.parametrize("size", [None, 1, 50, 300, 1024, 10**6])
@pytest.mark.parametrize("voxels", [60, 1500])
def test_blocks_hold_every_pair_once_under_its_offset(voxels, size):
    kernel_map = CoordinateManager(cloud(voxels=voxels, reach=6)).kernel_map(
        1, 1, 3
    )
    found = []
    for block in kernel_map.blocks(size):
        assert len(block.sources) == len(block.targets) == sum(block.sizes)
        assert len(block.sources) <= (size or len(block.sources))
        # an offset at a time: no output row twice
        assert size is not None or len(block.offsets) == 1
        offsets = np.repeat(block.offsets, block.sizes).tolist()
        pairs = zip(block.sources.tolist(), block.targets.tolist(), strict=True)
        found += [(k, *pair) for k, pair in zip(offsets, pairs, strict=True)]
    expected = [
        (k, *pair)
        for k, (sources, targets) in enumerate(kernel_map.pairs)
        if k != kernel_map.identity
        for pair in zip(sources.tolist(), targets.tolist(), strict=True)
    ]
    # a block that offsets share stands where the first of them stood
    assert sorted(found) == sorted(expected)


def test_large_blocks_are_filled_with_rows_that_exist():
    kernel_map = CoordinateManager(cloud(voxels=1500, reach=6)).kernel_map(
        1, 1, 3
    )
    filled = 0
    for block in kernel_map.blocks(4096):
        for rows, more in (
            (block.sources, block.filled_sources),
            (block.targets, block.filled_targets),
        ):
            assert more[: len(rows)].equal(rows)
            assert 0 <= int(more.min()) <= int(more.max())
            assert int(more.max()) < kernel_map.input_size
            if len(rows) >= LARGE:
                assert len(more) == in_quanta(len(rows))
                filled += len(more) - len(rows)
            else:
                assert len(more) == len(rows)
    assert filled


@pytest.mark.parametrize("channels", [(64, 96), (96, 64), (32, 32), (3, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_large_blocks_agree_with_pair_by_pair(stride, channels):
    """Where blocks are large they are filled up, and oneDNN multiplies them
    in float32."""
    coordinates = cloud(voxels=1500, reach=6)
    kernel_map = CoordinateManager(coordinates).kernel_map(1, stride, 3)
    features = random(len(coordinates), channels[0])
    kernel = random(27, *channels)
    arriving = random(kernel_map.output_size, channels[1])

    def pair_by_pair(x, w, kernel_map):
        out = x.new_zeros(kernel_map.output_size, channels[1])
        for k, (sources, targets) in enumerate(kernel_map.pairs):
            out = out.index_add(0, targets, x[sources] @ w[k])
        return out

    def results(function, dtype):
        x, w = (t.to(dtype).requires_grad_() for t in (features, kernel))
        out = function(x, w, kernel_map)
        return out, *torch.autograd.grad(out, (x, w), arriving.to(dtype))

    expected = results(pair_by_pair, torch.float64)
    for dtype, largest in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        found = results(sparse.sparse_convolution, dtype)
        for a, b in zip(found, expected, strict=True):
            assert (a.double() - b).abs().max() <= largest * b.abs().max()


@pytest.mark.parametrize("rows", [1, 127, 128, 256, 300, 1024, 1500])
@pytest.mark.parametrize(("inner", "outer"), [(3, 5), (64, 96), (128, 128)])
def test_products_agree_with_double_precision(rows, inner, outer, monkeypatch):
    a, b, c = random(rows, inner), random(inner, outer), random(rows, outer)
    a, b, c = a.float(), b.float(), c.float()
    exact = a.double() @ b.double()
    exact_transposed = a.double().T @ c.double()
    for onednn in (has_onednn(), False):
        monkeypatch.setattr(products, "has_onednn", lambda value=onednn: value)
        for function in (products.times, products.times_all):
            error = (function(a, b).double() - exact).abs().max()
            assert error <= 1e-6 * exact.abs().max()
        found = products.times_transposed(a, c).double()
        error = (found - exact_transposed).abs().max()
        assert error <= 1e-6 * exact_transposed.abs().max()


def test_other_precisions_are_multiplied_by_pytorch(monkeypatch):
    """float64 loses nothing, and half precision is not what oneDNN is asked
    for.
    """

    def refuse(*_):
        raise AssertionError("asked oneDNN")

    monkeypatch.setattr(products, "_onednn", refuse)
    a, b = random(1024, 128), random(128, 128)
    for dtype in (torch.float64, torch.bfloat16):
        left, right = a.to(dtype), b.to(dtype)
        assert products.times(left, right).equal(left @ right)
        assert products.times_all(left, right).equal(left @ right)
        assert products.times_transposed(left, left).equal(left.T @ left)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_clouds_are_taken_apart_and_put_together(batch):
    batch = torch.tensor(batch)
    clouds = find_clouds(batch)
    rows = torch.arange(len(batch), dtype=torch.float64)[:, None]
    parts = clouds.split(rows)
    for index, part in enumerate(parts):
        assert part.equal(rows[batch == index])
    assert len(parts) == int(batch.max()) + 1
    assert clouds.join(parts).equal(rows)


def test_a_map_without_pairs_but_those_of_itself():
    x = SparseTensor(
        torch.tensor([[2.0]], requires_grad=True),
        torch.zeros(1, 4, dtype=torch.int64),
    )
    layer = sparse.Convolution(1, 1, 3)
    out = layer(x).features
    assert float(out.detach()) == pytest.approx(
        2 * float(layer.kernel[13].detach())
    )
    (gradient,) = torch.autograd.grad(out.sum(), layer.kernel)
    assert float(gradient[13]) == 2
    assert float(gradient.abs().sum()) == 2


def test_pieces_of_any_size_give_the_same(monkeypatch):
    coordinates = cloud(voxels=300, reach=4)
    features = random(len(coordinates), 3).requires_grad_()
    layer = double(sparse.Convolution(3, 4, 3))

    def run():
        out = layer(SparseTensor(features, coordinates)).features
        return out, *torch.autograd.grad(
            out.square().sum(), (features, layer.kernel)
        )

    whole = run()
    monkeypatch.setattr(functional, "pairs_at_a_time", lambda channels: 5)
    for a, b in zip(whole, run(), strict=True):
        torch.testing.assert_close(a, b, **TIGHT)


def test_parameters_are_minkowski_engines():
    shapes = lambda layer: {
        name: tuple(p.shape) for name, p in layer.state_dict().items()
    }
    assert shapes(sparse.Convolution(3, 8, 3)) == {"kernel": (27, 3, 8)}
    assert shapes(sparse.Convolution(3, 8, 1, bias=True)) == {
        "kernel": (3, 8),
        "bias": (1, 8),
    }
    assert shapes(sparse.Convolution(3, 8, 1, stride=2)) == {
        "kernel": (1, 3, 8)
    }
    assert shapes(sparse.ConvolutionTranspose(3, 8, 2, stride=2)) == {
        "kernel": (8, 3, 8)
    }
    assert set(sparse.BatchNorm(3).state_dict()) == {
        f"bn.{name}"
        for name in (
            "weight",
            "bias",
            "running_mean",
            "running_var",
            "num_batches_tracked",
        )
    }
    assert shapes(sparse.InstanceNorm(3)) == {"weight": (1, 3), "bias": (1, 3)}


@pytest.mark.parametrize(
    ("layer", "fan"),
    [(sparse.Convolution, 50), (sparse.ConvolutionTranspose, 70)],
)
def test_initial_values_are_uniform_within_the_fan(layer, fan):
    kernel = layer(50, 70, 3, bias=True).kernel.detach()
    bound = (fan * 27) ** -0.5
    assert float(kernel.abs().max()) <= bound
    assert float(kernel.abs().max()) > 0.99 * bound
    assert float(kernel.std()) == pytest.approx(bound / 3**0.5, rel=0.01)


def test_batch_norm_is_that_of_the_rows():
    coordinates = cloud()
    features = random(len(coordinates), 3).float() * 3 + 1
    out = sparse.BatchNorm(3)(SparseTensor(features, coordinates)).features
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        out.std(0, unbiased=False), torch.ones(3), atol=1e-4, rtol=0
    )


def test_instance_norm_is_that_of_each_cloud_alone():
    coordinates = cloud(batches=3)
    features = random(len(coordinates), 4) * 3 + coordinates[:, :1]
    layer = double(sparse.InstanceNorm(4))
    out = layer(SparseTensor(features, coordinates)).features
    for batch in range(3):
        mine = coordinates[:, 0] == batch
        rows = features[mine].T[None]
        expected = torch.nn.functional.instance_norm(
            rows, weight=layer.weight[0], bias=layer.bias[0]
        )[0].T
        torch.testing.assert_close(out[mine], expected, **TIGHT)


def test_global_pooling_by_cloud():
    coordinates = torch.tensor([[2, 0, 0, 0], [0, 0, 0, 0], [2, 1, 0, 0]])
    x = SparseTensor(torch.tensor([[1.0], [5.0], [-3.0]]), coordinates)
    # no voxel has batch index 1
    assert sparse.global_average(x)[:, 0].tolist() == [5.0, 0.0, -1.0]
    assert sparse.global_max(x)[:, 0].tolist() == [5.0, -torch.inf, 1.0]


def test_addition_and_concatenation():
    x = SparseTensor(
        torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]])
    )
    assert (x + x).features[:, 0].tolist() == [2.0, 4.0]
    assert sparse.cat(x, x + x).features.tolist() == [[1.0, 2.0], [2.0, 4.0]]
    signed = x.replace(torch.tensor([[-1.0], [2.0]]))
    assert sparse.ReLU()(signed).features[:, 0].tolist() == [0.0, 2.0]
    assert signed.features[:, 0].tolist() == [-1.0, 2.0]
    assert sparse.ReLU(inplace=True)(signed).features is signed.features
    assert signed.features[:, 0].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_multiplies_in_half_precision_and_adds_in_single(dtype):
    coordinates = cloud()
    features = random(len(coordinates), 8).float().requires_grad_()
    layer = sparse.Convolution(8, 4, 3)
    exact = layer(SparseTensor(features, coordinates)).features
    with torch.autocast("cpu", dtype=dtype):
        half = layer(SparseTensor(features, coordinates)).features
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), exact, atol=0.02, rtol=0.02)
    half.sum().backward()
    assert features.grad.dtype == torch.float32
    assert layer.kernel.grad.dtype == torch.float32


# Bad input


def rows(*cells, dtype=torch.int64):
    return torch.tensor([[0, *cell] for cell in cells], dtype=dtype)


@pytest.mark.parametrize(
    ("coordinates", "message"),
    [
        (
            rows((0, 0, 0), (1, 0, 0), (0, 0, 0)),
            "1 of 3 coordinates are repeated",
        ),
        (
            rows((0.5, 0, 0), (1, 0, 0), (2, 0, 0), dtype=torch.float32),
            "coordinates are integers",
        ),
        (
            rows((0, 0, 0), (1, 0, 0), (LIMIT, 0, 0)),
            "voxel coordinates must lie in",
        ),
        (
            rows((0, 0, 0), (1, 0, 0), (2, 0, 0))[:, 1:],
            r"expected coordinates \(N, 4\)",
        ),
        (
            rows((0, 0, 0), (1, 0, 0), (2, 0, 0)) - torch.tensor([1, 0, 0, 0]),
            "batch indices",
        ),
        (rows((0, 0, 0), (1, 0, 0)), "3 rows of features for 2 voxels"),
        (
            rows((0, 0, 0), (1, 0, 0), (2, 0, 0)).to("meta"),
            "features are on cpu, coordinates on meta",
        ),
        (None, "give either coordinates"),
    ],
)
def test_bad_coordinates(coordinates, message):
    with pytest.raises(ValueError, match=message):
        SparseTensor(torch.zeros(3, 2), coordinates)


def test_devices_do_not_mix():
    x = SparseTensor(torch.zeros(2, 2), rows((0, 0, 0), (1, 0, 0)))
    with pytest.raises(
        ValueError, match="features are on meta, their manager on cpu: move one"
    ):
        x.replace(torch.zeros(2, 2, device="meta"))
    for layer in (
        sparse.Convolution(2, 4),
        sparse.Convolution(2, 4, 1),
        sparse.ConvolutionTranspose(2, 4, 3),
    ):
        with pytest.raises(
            ValueError,
            match="the layer is on meta, the tensor on cpu: move one",
        ):
            layer.to("meta")(x)


def test_no_voxels():
    with pytest.raises(ValueError, match="at least one voxel"):
        SparseTensor(torch.zeros(0, 2), torch.zeros(0, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    "features", [torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1)]
)
def test_bad_features(features):
    with pytest.raises(ValueError, match="floating-point features"):
        SparseTensor(features, rows((0, 0, 0)))


def test_coordinates_lie_on_their_stride():
    with pytest.raises(ValueError, match="grid of stride 2"):
        SparseTensor(torch.zeros(1, 2), rows((1, 0, 0)), stride=2)


def test_tensors_of_different_grids_do_not_mix():
    x = SparseTensor(torch.zeros(2, 2), rows((0, 0, 0), (1, 0, 0)))
    twin = SparseTensor(torch.zeros(2, 2), rows((0, 0, 0), (1, 0, 0)))
    coarse = sparse.SumPooling(2, 2)(x)
    for combine in (sparse.cat, lambda a, b: a + b):
        with pytest.raises(ValueError, match="different coordinate managers"):
            combine(x, twin)
        with pytest.raises(ValueError, match="different strides, 1 and 2"):
            combine(x, coarse)


def test_layers_refuse_what_does_not_fit():
    x = SparseTensor(torch.zeros(2, 2), rows((0, 0, 0), (2, 0, 0)), stride=2)
    with pytest.raises(ValueError, match="takes 3 channels, the tensor has 2"):
        sparse.Convolution(3, 4)(x)
    with pytest.raises(
        ValueError, match=r"to 1, but there are voxels at strides \[2\] only"
    ):
        sparse.ConvolutionTranspose(2, 4, 2, stride=2)(x)
    with pytest.raises(ValueError, match="reaches too far"):
        sparse.Convolution(2, 4, 3, dilation=LIMIT)(x)
    with pytest.raises(ValueError, match="not a multiple of the finest"):
        x.manager.grid(3)
    for bad in ((0, 4), (2, 4, 0), (2, 4, 3, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            sparse.Convolution(*bad)
    with pytest.raises(ValueError, match="at least 1"):
        sparse.MaxPooling(0)
    with pytest.raises(ValueError, match="does not fit 27 offsets"):
        sparse.sparse_convolution(
            x.features, torch.zeros(8, 2, 4), x.manager.kernel_map(2, 2, 3)
        )
    with pytest.raises(
        ValueError, match="3 rows of features for a kernel map of 2"
    ):
        sparse.sparse_convolution(
            torch.zeros(3, 2),
            torch.zeros(27, 2, 4),
            x.manager.kernel_map(2, 2, 3),
        )
    with pytest.raises(ValueError, match="at least one sparse tensor"):
        sparse.cat()


def test_voxels_at_the_edge_of_the_range_have_no_false_neighbours():
    coordinates = rows(
        (LIMIT - 1, 0, 0),
        (-LIMIT, 1, 0),
        (0, LIMIT - 1, 0),
        (1, -LIMIT, 0),
        (0, 0, LIMIT - 1),
    )
    coordinates = torch.cat(
        [coordinates, torch.tensor([[1, -LIMIT, 0, -LIMIT]])]
    )
    kernel_map = CoordinateManager(coordinates).kernel_map(1, 1, 5)
    found = sum(len(sources) for sources, _ in kernel_map.pairs)
    assert found == len(coordinates)  # each voxel meets itself only
    assert len(pack(coordinates).unique()) == len(coordinates)


def test_backend_is_chosen_by_argument_alone(monkeypatch):
    # read by earlier versions
    monkeypatch.setenv("VLG_SPARSE_BACKEND", "minkowski")
    # as if it were not installed
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    assert sparse.get_backend().name == "torch"
    with pytest.raises(RuntimeError, match="make minkowski"):
        sparse.get_backend("minkowski")
    assert sparse.get_backend("torch").Convolution is sparse.Convolution
    with pytest.raises(
        ValueError,
        match="unknown sparse backend 'spconv'; known: torch, minkowski",
    ):
        sparse.get_backend("spconv")
