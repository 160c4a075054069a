"""Averaging over views: small cases by hand, a loop over single pixels as the
oracle, and broken input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from vlg_lib import fusion
from vlg_lib.classes import ROOMS_12
from vlg_lib.fusion import (
    FusionSettings,
    ViewAverager,
    fuse_scene,
    sample_embeddings,
    sampling_weights,
)
from vlg_lib.geometry.visibility import (
    PointPixelPairs,
    Visibility,
    visible_points,
)
from vlg_lib.scene import Camera, Frame, Scene

CAMERA = Camera(fx=4.0, fy=4.0, cx=3.5, cy=1.5, width=8, height=4)
seeds = st.integers(0, 2**32 - 1)


def wall_scene(
    views: int, generator: torch.Generator, points: int = 60
) -> Scene:
    """Points scattered over a wall 2 m away, and views of random colours moved
    sideways along it."""
    xy = 4 * torch.rand(points, 2, generator=generator) - 2
    frames = []
    for view in range(views):
        pose = torch.eye(4)
        pose[:2, 3] = torch.rand(2, generator=generator) - 0.5
        color = torch.randint(
            256, (4, 8, 3), generator=generator, dtype=torch.uint8
        )
        frames.append(
            Frame(str(view), CAMERA, pose, color, torch.full((4, 8), 2.0))
        )
    cloud = torch.cat([xy, torch.full((points, 1), 2.0)], dim=1)
    return Scene(
        "wall",
        cloud,
        torch.zeros(points, 3, dtype=torch.uint8),
        frames,
        ROOMS_12,
        torch.ones(12).bool(),
    )


def pixel_values(color: Tensor) -> Tensor:
    return color.float() / 255 + 0.1


def average_by_loop(scene: Scene, normalized: bool) -> tuple[Tensor, Tensor]:
    """The definition: for each point the list of its rows, one view and one
    pixel after another."""
    rows: list[list[Tensor]] = [[] for _ in scene.points]
    for frame in scene.frames:
        pairs = visible_points(scene.points, frame)
        for index, (u, v) in zip(
            pairs.indices.tolist(), pairs.pixels.tolist(), strict=True
        ):
            row = pixel_values(frame.color)[v, u]
            rows[index].append(row / row.norm() if normalized else row)
    means = [
        torch.stack(row).mean(dim=0) if row else torch.zeros(3) for row in rows
    ]
    if normalized:
        means = [
            mean / mean.norm() if mean.norm() > 0 else mean for mean in means
        ]
    return torch.stack(means), torch.tensor([len(row) for row in rows])


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("bytes_at_a_time", [1, 36, 2**20])
def test_fusing_a_scene_equals_the_definition(
    normalized: bool, bytes_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "BYTES_AT_A_TIME", bytes_at_a_time)
    scene = wall_scene(5, torch.Generator().manual_seed(0))
    fused = fuse_scene(
        scene, pixel_values, settings=FusionSettings(normalize=normalized)
    )
    means, counts = average_by_loop(scene, normalized)
    # some points are seen and some are not
    assert 0 < int(fused.seen.sum()) < len(scene.points)
    assert torch.equal(fused.view_counts.long(), counts)
    assert torch.allclose(fused.embeddings, means, atol=1e-6)
    assert fused.embeddings.dtype == torch.float32
    assert not fused.embeddings[~fused.seen].any()


def test_two_views_by_hand() -> None:
    """Three points; the first is seen twice, the second once, the third never.
    A long row has no more weight."""
    averager = ViewAverager(3, 2)
    averager.add(torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    averager.add(torch.tensor([0]), torch.tensor([[0.0, 100.0]]))
    result = averager.result()
    half = math.sqrt(0.5)
    assert torch.allclose(
        result.embeddings, torch.tensor([[half, half], [0.6, 0.8], [0.0, 0.0]])
    )
    assert result.view_counts.tolist() == [2, 1, 0]
    plain = ViewAverager(3, 2, normalize=False)
    plain.add(torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    plain.add(torch.tensor([0]), torch.tensor([[0.0, 100.0]]))
    assert plain.result().embeddings.tolist() == [
        [0.5, 50.0],
        [3.0, 4.0],
        [0.0, 0.0],
    ]


def test_an_embedding_of_length_zero_is_no_vote() -> None:
    """OpenSeg's maps are zero where no region lies. Black, though, is a
    colour."""
    rows, points = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([0, 1])
    for normalized, counts in ((True, [0, 2]), (False, [2, 2])):
        averager = ViewAverager(2, 2, normalize=normalized)
        for _ in range(2):
            averager.add(points, rows)
        result = averager.result()
        assert result.view_counts.tolist() == counts
        assert not result.embeddings[0].any()


@given(seed=seeds, normalized=st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_order_of_views_does_not_matter(
    seed: int, normalized: bool
) -> None:
    scene = wall_scene(4, torch.Generator().manual_seed(seed))
    backwards = Scene(**{**vars(scene), "frames": scene.frames[::-1]})
    one = fuse_scene(
        scene, pixel_values, settings=FusionSettings(normalize=normalized)
    )
    other = fuse_scene(
        backwards, pixel_values, settings=FusionSettings(normalize=normalized)
    )
    assert torch.equal(one.view_counts, other.view_counts)
    assert torch.allclose(one.embeddings, other.embeddings, atol=1e-6)
    if normalized:
        lengths = one.embeddings[one.seen].norm(dim=1)
        assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5)


def test_views_that_agree_give_their_common_embedding() -> None:
    scene = wall_scene(3, torch.Generator().manual_seed(1))
    direction = normalize(torch.tensor([1.0, -2.0, 0.5]), dim=0)
    fused = fuse_scene(scene, lambda color: (7 * direction).expand(2, 4, 3))
    assert torch.allclose(
        fused.embeddings[fused.seen],
        direction.expand(int(fused.seen.sum()), 3),
        atol=1e-6,
    )


@given(
    seed=seeds,
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    sampling=st.sampled_from(["nearest", "bilinear"]),
)
@settings(max_examples=60, deadline=None)
def test_sampling_agrees_with_torch_grid_sample(
    seed: int, width: int, height: int, sampling: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    camera = Camera(fx=10.0, fy=10.0, cx=0.0, cy=0.0, width=17, height=12)
    dense = torch.randn(height, width, 5, generator=generator)
    size = torch.tensor([17.0, 12.0])
    # anywhere in the image, between pixel centres too
    pixels = torch.rand(40, 2, generator=generator) * size - 0.5
    grid = (2 * (pixels + 0.5) / size - 1)[None, None]
    expected = grid_sample(
        dense.permute(2, 0, 1)[None],
        grid,
        mode=sampling,
        padding_mode="border",
        align_corners=False,
    )
    found = sample_embeddings(dense, pixels, camera, sampling)
    assert torch.allclose(found, expected[0, :, 0].T, atol=1e-4)


@given(seed=seeds, sampling=st.sampled_from(["nearest", "bilinear"]))
@settings(max_examples=20, deadline=None)
def test_a_map_of_the_image_size_is_read_at_the_pixel(
    seed: int, sampling: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(4, 8, 3, generator=generator)
    u, v = (
        torch.randint(8, (20,), generator=generator),
        torch.randint(4, (20,), generator=generator),
    )
    assert torch.equal(
        sample_embeddings(dense, torch.stack([u, v], dim=1), CAMERA, sampling),
        dense[v, u],
    )


def test_sampling_weights_by_hand() -> None:
    """A map of two cells over eight pixels: pixel 2 lies at (2 + 1/2) / 4 - 1/2
    = 1/8 between the cells' centres."""
    pixels = torch.tensor([[2, 1], [0, 0]])
    cells, weights = sampling_weights(pixels, CAMERA, 2, 1, "bilinear")
    share = torch.zeros(2, 2).scatter_add_(1, cells, weights)
    assert torch.allclose(share, torch.tensor([[0.875, 0.125], [1.0, 0.0]]))
    cells, weights = sampling_weights(
        torch.tensor([[3, 0], [4, 3]]), CAMERA, 2, 1, "nearest"
    )
    assert cells.tolist() == [[0], [1]]
    assert weights.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_any_memory_layout_gives_the_same(sampling: str) -> None:
    # channel-first in memory
    dense = torch.randn(
        3, 4, 8, generator=torch.Generator().manual_seed(0)
    ).permute(1, 2, 0)
    pixels = torch.tensor([[0, 0], [7, 3], [3, 2]])
    one, other = (
        sample_embeddings(d, pixels, CAMERA, sampling)
        for d in (dense, dense.contiguous())
    )
    assert torch.equal(one, other)


def test_a_map_of_the_image_size_is_read_one_cell_a_pixel() -> None:
    """The neighbours have no weight, so what they hold does not matter."""
    pixels = torch.tensor([[0, 0], [7, 3]])
    cells, weights = sampling_weights(pixels, CAMERA, 8, 4, "bilinear")
    assert cells.tolist() == [[0], [31]]
    assert weights.tolist() == [[1.0], [1.0]]
    dense = torch.full((4, 8, 1), torch.nan)
    dense[0, 0], dense[3, 7] = 1.0, 2.0
    assert sample_embeddings(dense, pixels, CAMERA).tolist() == [[1.0], [2.0]]
    # between pixels there are four
    between, _ = sampling_weights(pixels + 0.25, CAMERA, 8, 4, "bilinear")
    assert between.shape == (2, 4)


@given(
    seed=seeds,
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    at_a_time=st.integers(1, 40),
    half=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_views_of_any_memory_layout_add_the_same(
    seed: int, width: int, height: int, at_a_time: int, half: bool
) -> None:
    """Channel-first maps are turned a few rows at a time, into memory that the
    next map of the same averager overwrites."""
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randint(4, (2, 20), generator=generator)
    pairs = PointPixelPairs(
        torch.randperm(30, generator=generator)[:20].sort().values,
        torch.stack([2 * u, v], dim=1),
        torch.ones(20),
    )
    one, other = ViewAverager(30, 3), ViewAverager(30, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "CELLS_AT_A_TIME", at_a_time)
        for shape in ((height, width), (4, 8), (height, width)):
            dense = torch.randn(3, *shape, generator=generator)
            dense = (dense.half() if half else dense).permute(1, 2, 0)
            before = dense.clone()
            one.add_view(dense, pairs, CAMERA)
            other.add_view(dense.contiguous(), pairs, CAMERA)
            assert torch.equal(dense, before)
    assert torch.equal(one.sums, other.sums)
    assert torch.equal(one.view_counts, other.view_counts)


def test_rows_that_are_added_stay_as_they_are() -> None:
    rows = torch.tensor([[3.0, 4.0]])
    for normalized in (True, False):
        averager = ViewAverager(1, 2, normalize=normalized)
        averager.add(torch.tensor([0]), rows)
        assert rows.tolist() == [[3.0, 4.0]]


def test_frames_without_depth_share_one_splat_radius(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of the scene's cloud, which is not searched once a frame."""
    scene = wall_scene(3, torch.Generator().manual_seed(0))
    asked, used = [], []

    def radius(points: Tensor) -> float:
        asked.append(points)
        return 0.25

    def visible(
        points: Tensor, frame: Frame, visibility: Visibility
    ) -> PointPixelPairs:
        used.append(visibility.point_radius)
        return visible_points(points, frame, visibility)

    monkeypatch.setattr(fusion, "splat_radius", radius)
    monkeypatch.setattr(fusion, "visible_points", visible)
    fuse_scene(scene, pixel_values)
    assert asked == []
    blind = [Frame(**{**vars(f), "depth": None}) for f in scene.frames]
    without = Scene(**{**vars(scene), "frames": blind})
    fuse_scene(without, pixel_values)
    assert [points is without.points for points in asked] == [True]
    fuse_scene(without, pixel_values, Visibility(point_radius=2.0))
    assert len(asked) == 1
    assert used == [None] * 3 + [0.25] * 3 + [2.0] * 3


def test_half_precision_maps_are_summed_in_float32() -> None:
    """2,049 ones: in float16 the sum would stop at 2,048."""
    averager = ViewAverager(1, 1, normalize=False)
    pairs = PointPixelPairs(
        torch.tensor([0]), torch.tensor([[0, 0]]), torch.tensor([1.0])
    )
    for _ in range(2049):
        averager.add_view(
            torch.ones(1, 1, 1, dtype=torch.float16), pairs, CAMERA
        )
    assert float(averager.sums) == 2049
    assert averager.result().embeddings.tolist() == [[1.0]]


def test_frames_are_loaded_one_at_a_time() -> None:
    scene = wall_scene(3, torch.Generator().manual_seed(2))
    events: list[str] = []

    class Folder(tuple):
        def __iter__(self):
            for frame in tuple.__iter__(self):
                events.append(f"load {frame.name}")
                yield frame

    def embed(color: Tensor) -> Tensor:
        events.append("embed")
        return pixel_values(color)

    fuse_scene(Scene(**{**vars(scene), "frames": Folder(scene.frames)}), embed)
    assert events == ["load 0", "embed", "load 1", "embed", "load 2", "embed"]


def test_a_view_that_sees_nothing_changes_nothing() -> None:
    scene = wall_scene(2, torch.Generator().manual_seed(4))
    blind = Frame(
        "blind", CAMERA, torch.eye(4), scene.frames[0].color, torch.zeros(4, 8)
    )
    one = fuse_scene(scene, pixel_values)
    other = fuse_scene(
        Scene(**{**vars(scene), "frames": [*scene.frames, blind]}), pixel_values
    )
    assert torch.equal(one.embeddings, other.embeddings)
    assert torch.equal(one.view_counts, other.view_counts)


def test_a_coarse_map_may_be_read_between_its_cells() -> None:
    """A ramp of two cells over the image: nearest gives its two values,
    bilinear every value between them."""
    scene = wall_scene(1, torch.Generator().manual_seed(5))
    values = [
        fuse_scene(
            scene,
            lambda color: torch.tensor([[[1.0], [2.0]]]),
            settings=FusionSettings(normalize=False, sampling=sampling),
        )
        for sampling in ("nearest", "bilinear")
    ]
    nearest, bilinear = (
        set(value.embeddings[value.seen].flatten().tolist()) for value in values
    )
    assert nearest == {1.0, 2.0}
    assert bilinear >= {1.0, 1.125, 1.875, 2.0}


def test_the_visibility_setting_is_used() -> None:
    scene = wall_scene(2, torch.Generator().manual_seed(3))
    everywhere = fuse_scene(scene, pixel_values)
    inner = fuse_scene(scene, pixel_values, Visibility(border=1))
    assert int(inner.view_counts.sum()) < int(everywhere.view_counts.sum())


def test_a_scene_without_frames_is_refused() -> None:
    scene = wall_scene(0, torch.Generator())
    with pytest.raises(ValueError, match="'wall' has no frames"):
        fuse_scene(scene, pixel_values)


def test_embeddings_that_change_their_dimension_are_refused() -> None:
    scene = wall_scene(2, torch.Generator())
    dims = iter([3, 4])
    with pytest.raises(
        ValueError, match="expected embeddings of 3 dimensions, found 4"
    ):
        fuse_scene(scene, lambda color: torch.ones(2, 2, next(dims)))


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_embeddings_that_are_not_finite_are_refused(
    value: float, normalized: bool
) -> None:
    scene = wall_scene(1, torch.Generator())
    with pytest.raises(ValueError, match="NaN or infinite"):
        fuse_scene(
            scene,
            lambda color: torch.full((4, 8, 2), value),
            settings=FusionSettings(normalize=normalized),
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_cuda_fuses_the_same(sampling: str) -> None:
    scene = wall_scene(4, torch.Generator().manual_seed(0))
    here = fuse_scene(
        scene, pixel_values, settings=FusionSettings(sampling=sampling)
    )
    there = fuse_scene(
        scene,
        pixel_values,
        settings=FusionSettings(sampling=sampling),
        device="cuda",
    )
    assert there.embeddings.is_cuda
    assert torch.equal(here.view_counts, there.view_counts.cpu())
    assert torch.allclose(here.embeddings, there.embeddings.cpu(), atol=1e-5)
