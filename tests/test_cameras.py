"""Cameras, poses and visibility against OpenCV, against geometry worked out by
hand, and against broken input."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from vlg_lib.geometry import visibility
from vlg_lib.geometry.cameras import (
    camera_to_world_points,
    crop_camera,
    project,
    resize_camera,
    unproject,
    world_to_camera,
)
from vlg_lib.geometry.poses import check_pose
from vlg_lib.geometry.visibility import (
    MAX_SPLAT,
    PUBLISHED,
    SPLAT_SPACING,
    Visibility,
    depth_from_points,
    splat_radius,
    visible_points,
)
from vlg_lib.scene import Camera, Frame

CAMERA = Camera(fx=100.0, fy=100.0, cx=79.5, cy=59.5, width=160, height=120)
seeds = st.integers(0, 2**32 - 1)


def random_pose(generator: torch.Generator) -> Tensor:
    """A rigid camera-to-world pose: a random rotation (QR of a Gaussian matrix)
    and a few metres of translation."""
    rotation, _ = torch.linalg.qr(
        torch.randn(3, 3, generator=generator, dtype=torch.float64)
    )
    rotation[:, 0] *= torch.linalg.det(rotation)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = (
        rotation,
        5 * torch.randn(3, generator=generator, dtype=torch.float64),
    )
    return pose


def random_camera(generator: torch.Generator) -> Camera:
    f, c = (
        torch.rand(2, generator=generator).tolist(),
        torch.rand(2, generator=generator).tolist(),
    )
    return Camera(
        200 + 800 * f[0],
        200 + 800 * f[1],
        100 + 440 * c[0],
        100 + 280 * c[1],
        640,
        480,
    )


def points_before(
    pose: Tensor, generator: torch.Generator, count: int = 200
) -> Tensor:
    """Float32 world points between 0.3 and 8 m before a camera, well spread
    over the image and past its edges."""
    depth = 0.3 + 7.7 * torch.rand(
        count, 1, generator=generator, dtype=torch.float64
    )
    sideways = (
        2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1
    )
    return camera_to_world_points(
        torch.cat([sideways * depth, depth], dim=1), pose
    ).float()


def frame_with(
    depth: Tensor | None, pose: Tensor | None = None, camera: Camera = CAMERA
) -> Frame:
    shape = (camera.height, camera.width) if depth is None else depth.shape
    color = torch.zeros(*shape, 3, dtype=torch.uint8)
    return Frame(
        "0", camera, torch.eye(4) if pose is None else pose, color, depth
    )


def wall(z: float, camera: Camera = CAMERA) -> Tensor:
    return torch.full((camera.height, camera.width), z)


@pytest.mark.parametrize("seed", range(20))
def test_projection_agrees_with_opencv(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    camera, pose = random_camera(generator), random_pose(generator)
    points = points_before(pose, generator)
    world_to_cam = np.linalg.inv(pose.numpy())
    rotation_vector, _ = cv2.Rodrigues(world_to_cam[:3, :3])
    expected, _ = cv2.projectPoints(
        points.double().numpy(),
        rotation_vector,
        world_to_cam[:3, 3],
        camera.matrix.numpy(),
        None,
    )
    pixels, _ = project(points, camera, pose)
    assert np.abs(pixels.numpy() - expected[:, 0]).max() < 1e-4


def test_a_point_by_hand() -> None:
    # looks along the world's x
    pose = torch.tensor(
        [[0.0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 1.5], [0, 0, 0, 1]]
    )
    pixels, depth = project(
        torch.tensor([[3.0, 1.0, 2.0], [0.0, 2.0, 1.5]]), CAMERA, pose
    )
    # 1 m to the right, half a metre up
    assert pixels[0].tolist() == [79.5 + 100 * 1 / 2, 59.5 - 100 * 0.5 / 2]
    assert depth.tolist() == [2.0, -1.0]  # the second point is behind


def test_depth_is_along_the_axis_not_along_the_ray() -> None:
    points, pixels = unproject(wall(2.0), CAMERA, torch.eye(4))
    assert len(points) == 160 * 120
    assert torch.equal(
        points[:, 2], torch.full((len(points),), 2.0, dtype=torch.float64)
    )
    assert pixels[1].tolist() == [1, 0]  # row after row, as (column, row)


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_unprojection_and_projection_are_inverse(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    camera = crop_camera(random_camera(generator), 300, 200, 40, 30)
    pose = random_pose(generator)
    depth = 0.2 + 5 * torch.rand(30, 40, generator=generator)
    depth[torch.rand(30, 40, generator=generator) < 0.3] = 0
    points, pixels = unproject(depth, camera, pose)
    assert len(points) == int((depth > 0).sum())
    positions, z = project(points, camera, pose)
    assert torch.allclose(positions, pixels.double(), atol=1e-6, rtol=0)
    assert torch.allclose(z, depth[depth > 0].double(), atol=1e-9, rtol=0)


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_world_and_camera_frames_are_inverse_and_rigid(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pose, points = (
        random_pose(generator),
        torch.randn(20, 3, generator=generator, dtype=torch.float64),
    )
    in_camera = world_to_camera(points, pose)
    assert torch.allclose(
        camera_to_world_points(in_camera, pose), points, atol=1e-9
    )
    assert torch.allclose(
        torch.cdist(in_camera, in_camera),
        torch.cdist(points, points),
        atol=1e-6,
    )
    homogeneous = torch.cat(
        [points, torch.ones(20, 1, dtype=torch.float64)], dim=1
    )
    assert torch.allclose(
        in_camera, (torch.linalg.inv(pose) @ homogeneous.T).T[:, :3], atol=1e-9
    )
    assert torch.allclose(
        world_to_camera(pose[None, :3, 3], pose),
        torch.zeros(1, 3, dtype=torch.float64),
        atol=1e-9,
    )


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_stretched_rotations_are_inverted_and_not_transposed(seed: int) -> None:
    """As recordings have them: det R = 0.9995. What was unprojected comes back
    to its pixel; the transpose would be off by a twentieth of a pixel."""
    generator = torch.Generator().manual_seed(seed)
    pose, camera = random_pose(generator), random_camera(generator)
    stretch = 3e-4 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    matrix = torch.eye(3, dtype=torch.float64) + (stretch + stretch.T) / 2
    pose[:3, :3] @= matrix * (0.9995 / torch.linalg.det(matrix)) ** (1 / 3)
    assert float(torch.linalg.det(pose[:3, :3])) == pytest.approx(0.9995)
    depth = 0.2 + 5 * torch.rand(480, 640, generator=generator)
    points, pixels = unproject(depth, camera, pose)
    positions, z = project(points, camera, pose)
    assert torch.allclose(positions, pixels.double(), atol=1e-6, rtol=0)
    assert torch.allclose(z, depth.flatten().double(), atol=1e-9, rtol=0)
    transposed = (points - pose[:3, 3]) @ pose[:3, :3]
    assert float((transposed[:, 2] - z).abs().max()) > 1e-4


def test_a_pose_without_an_inverse_sees_nothing() -> None:
    pose = torch.eye(4)
    pose[2, 2] = 0.0
    assert world_to_camera(torch.rand(5, 3), pose).isnan().all()
    lost = torch.full((4, 4), torch.nan)
    for broken_pose in (pose, lost):
        frame = Frame(
            "0", CAMERA, broken_pose, torch.zeros(120, 160, 3).byte(), wall(2.0)
        )
        assert len(visible_points(torch.rand(50, 3) + 1, frame)) == 0
    both = torch.stack([pose, torch.eye(4)])
    assert not world_to_camera(torch.rand(5, 3), both)[1].isnan().any()


@given(seed=seeds, views=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_a_batch_of_poses_equals_a_loop(seed: int, views: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    poses = torch.stack([random_pose(generator) for _ in range(views)])
    points = torch.randn(15, 3, generator=generator)
    pixels, depth = project(points, CAMERA, poses)
    assert pixels.shape == (views, 15, 2)
    for view, pose in enumerate(poses):
        one_pixels, one_depth = project(points, CAMERA, pose)
        assert torch.allclose(pixels[view], one_pixels, rtol=1e-9)
        assert torch.allclose(depth[view], one_depth, rtol=1e-9)
    back = camera_to_world_points(world_to_camera(points, poses), poses)
    assert torch.allclose(
        back, points.double().expand(views, -1, -1), atol=1e-9
    )


def test_a_resized_camera_finds_the_point_in_the_resized_image() -> None:
    """Each pixel of the large image holds its own u (or v), so the small image
    tells where its pixels come from."""
    camera = Camera(fx=90.0, fy=120.0, cx=50.3, cy=41.7, width=160, height=120)
    small = resize_camera(camera, 40, 60)
    v, u = torch.meshgrid(
        torch.arange(120.0), torch.arange(160.0), indexing="ij"
    )
    resized = interpolate(
        torch.stack([u, v])[None], size=(60, 40), mode="area"
    )[0]
    points, pixels = unproject(wall(2.0, small), small, torch.eye(4))
    where_in_large, _ = project(points, camera, torch.eye(4))
    assert torch.allclose(
        where_in_large.float(),
        resized[:, pixels[:, 1], pixels[:, 0]].T,
        atol=1e-4,
    )


@given(
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    x=st.floats(-3, 3),
    y=st.floats(-3, 3),
    z=st.floats(0.1, 20),
)
def test_resizing_keeps_the_place_in_the_image(
    width: int, height: int, x: float, y: float, z: float
) -> None:
    camera = Camera(
        fx=300.0, fy=310.0, cx=170.0, cy=100.0, width=320, height=240
    )
    point = torch.tensor([[x, y, z]], dtype=torch.float64)
    size, new_size = (
        torch.tensor([320.0, 240.0]).double(),
        torch.tensor([width, height]).double(),
    )
    before = (project(point, camera, torch.eye(4))[0] + 0.5) / size
    after = (
        project(point, resize_camera(camera, width, height), torch.eye(4))[0]
        + 0.5
    ) / new_size
    assert torch.allclose(before, after, atol=1e-9, rtol=1e-9)
    back = resize_camera(resize_camera(camera, width, height), 320, 240)
    assert torch.allclose(back.matrix, camera.matrix, atol=1e-9)


def test_a_cropped_camera_finds_the_point_in_the_cropped_image() -> None:
    cropped = crop_camera(CAMERA, left=30, top=20, width=50, height=40)
    point = torch.tensor([[-0.5, -0.4, 2.0]])
    (u, v), (cu, cv) = (
        project(point, CAMERA, torch.eye(4))[0][0],
        project(point, cropped, torch.eye(4))[0][0],
    )
    assert (float(u - cu), float(v - cv)) == (30, 20)
    assert (cropped.width, cropped.height) == (50, 40)


@pytest.mark.parametrize(
    "box",
    [(-1, 0, 10, 10), (0, -1, 10, 10), (151, 0, 10, 10), (0, 111, 10, 10)],
)
def test_a_crop_outside_the_image_is_refused(
    box: tuple[int, int, int, int],
) -> None:
    with pytest.raises(ValueError, match="leaves the image of 160 x 120"):
        crop_camera(CAMERA, *box)


def test_what_a_pixel_covers() -> None:
    """Pixel i covers i - 1/2 <= u < i + 1/2: the left edge of the image belongs
    to it and the right edge does not."""
    positions = torch.tensor([-0.51, -0.5, 0.49, 0.5, 158.5, 159.49, 159.5])
    points = torch.stack(
        [
            (positions.double() - 79.5) / 100 * 2,
            torch.zeros(7),
            torch.full((7,), 2.0),
        ],
        dim=1,
    )
    pairs = visible_points(points.double(), frame_with(wall(2.0)))
    assert pairs.indices.tolist() == [1, 2, 3, 4, 5]
    assert pairs.pixels[:, 0].tolist() == [0, 0, 1, 159, 159]


def test_depth_decides_within_the_stated_tolerance() -> None:
    z = torch.tensor([1.89, 1.91, 2.0, 2.09, 2.11])
    points = torch.stack([torch.zeros(5), torch.zeros(5), z], dim=1)
    frame = frame_with(wall(2.0))
    assert visible_points(
        points, frame, Visibility(tolerance=0.03, slack=0.04)
    ).indices.tolist() == [1, 2, 3]
    assert visible_points(
        points, frame, Visibility(tolerance=0.0, slack=0.0)
    ).indices.tolist() == [2]
    assert len(visible_points(points, frame, PUBLISHED)) == 5
    pairs = visible_points(points, frame, PUBLISHED)
    assert torch.allclose(pairs.depth.float(), z)


def test_missing_depth_sees_nothing() -> None:
    depth = wall(2.0)
    depth[60, 80], depth[60, 81], depth[60, 82] = 0, torch.nan, torch.inf
    u = torch.tensor([80.0, 81, 82, 83])
    points = torch.stack(
        [(u - 79.5) / 100 * 2, torch.full((4,), 0.01), torch.full((4,), 2.0)],
        dim=1,
    )
    assert visible_points(
        points, frame_with(depth), PUBLISHED
    ).indices.tolist() == [3]
    assert visible_points(
        points, frame_with(depth), Visibility(slack=10.0)
    ).indices.tolist() == [3]


def test_points_behind_the_camera_or_in_its_centre_are_not_seen() -> None:
    points = torch.tensor([[0.0, 0, -2], [0, 0, 0], [0, 0, 2]])
    assert visible_points(
        points, frame_with(wall(2.0)), Visibility(slack=10.0)
    ).indices.tolist() == [2]
    assert visible_points(points, frame_with(None)).indices.tolist() == [2]


def test_the_border_is_cut_on_all_sides() -> None:
    points, pixels = unproject(wall(2.0), CAMERA, torch.eye(4))
    pairs = visible_points(points, frame_with(wall(2.0)), Visibility(border=10))
    assert len(pairs) == 140 * 100
    assert pairs.pixels.min(dim=0).values.tolist() == [10, 10]
    assert pairs.pixels.max(dim=0).values.tolist() == [149, 109]
    assert torch.equal(pairs.pixels, pixels[pairs.indices])


def test_a_frame_without_depth_uses_the_points_themselves() -> None:
    """A near wall over the left half of the view hides the left half of a far
    wall, and nothing else."""
    grid = torch.linspace(-1.2, 1.2, 121)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    far = torch.stack([x, y, torch.full_like(x, 3.0)], dim=-1).reshape(-1, 3)
    near = torch.stack([x / 2, y / 2, torch.full_like(x, 1.5)], dim=-1).reshape(
        -1, 3
    )
    near = near[near[:, 0] < 0]
    pairs = visible_points(
        torch.cat([far, near]), frame_with(None), Visibility(point_radius=0.01)
    )
    seen = torch.zeros(len(far) + len(near), dtype=torch.bool)
    seen[pairs.indices] = True
    assert seen[len(far) :].all()  # the near wall sees itself
    assert not seen[: len(far)][far[:, 0] < -0.05].any()
    assert seen[: len(far)][far[:, 0] > 0.05].all()


def test_the_z_buffer_by_hand() -> None:
    # the first two share a pixel
    points = torch.tensor(
        [[0.01, 0.01, 2.0], [0.005, 0.005, 1.0], [1.0, 0.5, 2.0]]
    )
    depth = depth_from_points(points, CAMERA, torch.eye(4), point_radius=0.0)
    assert depth[60, 80] == 1.0
    assert int((depth > 0).sum()) == 2
    # 2.4 pixels at 1 m, 1.2 at 2 m
    wide = depth_from_points(points, CAMERA, torch.eye(4), point_radius=0.024)
    assert int((wide == 1.0).sum()) == 25
    assert int((wide == 2.0).sum()) == 9
    assert int((wide == 0.0).sum()) == 160 * 120 - 34


@given(seed=seeds, count=st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_the_z_buffer_equals_drawing_one_square_after_another(
    seed: int, count: int
) -> None:
    """Squares of many sizes, cut off by the image's edges and by MAX_SPLAT."""
    generator = torch.Generator().manual_seed(seed)
    camera = Camera(fx=30.0, fy=30.0, cx=15.5, cy=11.5, width=32, height=24)
    points = 2 * torch.rand(count, 3, generator=generator) - 1
    points[:, 2] = 0.05 + 2 * torch.rand(count, generator=generator) ** 2
    expected = torch.full((24, 32), torch.inf, dtype=torch.float64)
    pixels, depth = project(points, camera, torch.eye(4))
    for (u, v), z in zip((pixels + 0.5).floor().tolist(), depth, strict=True):
        if 0 <= u < 32 and 0 <= v < 24:
            radius = min(int((30.0 * 0.1 / z).round()), MAX_SPLAT)
            rows = slice(max(0, int(v) - radius), int(v) + radius + 1)
            columns = slice(max(0, int(u) - radius), int(u) + radius + 1)
            expected[rows, columns] = expected[rows, columns].clamp(
                max=float(z)
            )
    found = depth_from_points(points, camera, torch.eye(4), point_radius=0.1)
    expected = torch.where(expected.isfinite(), expected, 0.0)
    assert torch.equal(found, expected)


def test_the_splat_follows_the_spacing_of_the_cloud() -> None:
    """A grid of 3 cm, twice as coarse, and with copies of its points."""
    steps = torch.arange(30) * 0.03
    grid = torch.cartesian_prod(steps, steps, torch.zeros(1))
    assert splat_radius(grid) == pytest.approx(0.03 * SPLAT_SPACING)
    assert splat_radius(2 * grid) == pytest.approx(0.06 * SPLAT_SPACING)
    copies = torch.cat([grid, grid[:500], torch.full((3, 3), torch.nan)])
    assert splat_radius(copies) == pytest.approx(0.03 * SPLAT_SPACING)
    some = splat_radius(grid, sample=50)
    assert some == pytest.approx(0.03 * SPLAT_SPACING)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_cloud_without_neighbours_has_no_radius(count: int) -> None:
    cloud = torch.tensor([[0.0, 0.0, 1.0]]).repeat(count, 1)
    assert splat_radius(cloud) == 0.0
    pairs = visible_points(cloud, frame_with(None))
    assert len(pairs) == count


def test_a_coarse_wall_without_depth_hides_what_is_behind() -> None:
    """Points 6 cm apart at 1 m, pixels of 1 cm: squares of a fixed centimetre
    would leave three quarters of the wall open."""
    steps = torch.arange(-10, 11) * 0.06
    near = torch.cartesian_prod(steps, steps, torch.ones(1))
    behind = near[:-1] * 2 + torch.tensor([0.06, 0.06, 0.5])
    cloud = torch.cat([near, behind])
    seen = visible_points(cloud, frame_with(None)).indices
    assert int((seen >= len(near)).sum()) == 0
    fixed = visible_points(
        cloud, frame_with(None), Visibility(point_radius=0.01)
    )
    assert int((fixed.indices >= len(near)).sum()) > 100


@given(
    seed=seeds,
    border=st.integers(0, 90),
    away=st.sampled_from([0.0, 1e2, 1e5]),
)
@settings(max_examples=60, deadline=None)
def test_all_points_in_the_image_are_found(
    seed: int, border: int, away: float
) -> None:
    """The quick test before the projection leaves none out, wherever in the
    world, on edges of the image and in blocks of any size."""
    generator = torch.Generator().manual_seed(seed)
    pose, camera = random_pose(generator), random_camera(generator)
    pose[:3, 3] += away
    size = torch.tensor([camera.width, camera.height])
    pixels = 1.4 * torch.rand(300, 2, generator=generator) * size - 0.2 * size
    z = 4 * torch.rand(300, generator=generator, dtype=torch.float64) - 0.5
    # a hundred-thousandth of a pixel on either side of an edge
    edges = torch.tensor([border, camera.width - border]).double() - 0.5
    edges = (edges[:, None] + torch.tensor([-1e-5, 1e-5])).flatten()
    pixels = pixels.double()
    pixels[:150, 0] = edges[torch.randint(4, (150,), generator=generator)]
    x = (pixels[:, 0] - camera.cx) / camera.fx * z
    y = (pixels[:, 1] - camera.cy) / camera.fy * z
    points = camera_to_world_points(torch.stack([x, y, z], dim=1), pose)
    positions, depth = project(points, camera, pose)
    u, v = (positions + 0.5).floor().unbind(-1)
    inside = (u >= border) & (u < camera.width - border)
    inside &= (v >= border) & (v < camera.height - border) & (depth > 0)
    found, _, _ = visibility._in_image(points, camera, pose, border)
    assert found.tolist() == inside.nonzero()[:, 0].tolist()


def test_a_cloud_is_searched_block_after_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points, _ = unproject(wall(2.0), CAMERA, torch.eye(4))
    whole = visible_points(points, frame_with(wall(2.0)))
    monkeypatch.setattr(visibility, "POINTS_AT_A_TIME", 777)
    parts = visible_points(points, frame_with(wall(2.0)))
    assert len(whole) == len(points)
    assert torch.equal(whole.indices, parts.indices)


def test_no_point_in_view_gives_no_hit() -> None:
    for depth in (wall(2.0), None):
        pairs = visible_points(
            torch.tensor([[0.0, 0.0, -1.0]]), frame_with(depth)
        )
        assert len(pairs) == 0
        assert pairs.pixels.shape == (0, 2)


def test_a_depth_map_of_another_size_is_refused() -> None:
    depth = torch.ones(60, 80)
    with pytest.raises(
        ValueError, match="80 x 60 pixels, its camera 160 x 120"
    ):
        visible_points(torch.zeros(1, 3), frame_with(depth))
    with pytest.raises(
        ValueError, match="80 x 60 pixels, its camera 160 x 120"
    ):
        unproject(depth, CAMERA, torch.eye(4))


@pytest.mark.parametrize(
    "setting", ["tolerance", "slack", "border", "point_radius"]
)
def test_negative_settings_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=">= 0"):
        Visibility(**{setting: -1 if setting == "border" else -1.0})


def broken(row: int, column: int, value: float) -> Tensor:
    pose = torch.eye(4)
    pose[row, column] = value
    return pose


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (torch.eye(3), r"4x4 .* found shape \(3, 3\)"),
        (torch.eye(4)[None], r"4x4 .* found shape \(1, 4, 4\)"),
        (broken(0, 3, torch.nan), "NaN or infinite"),
        (torch.full((4, 4), -torch.inf), "NaN or infinite"),
        (broken(3, 0, 0.5), "last row"),
        (broken(3, 3, 2.0), "last row"),
        (broken(0, 0, 1.1), "not rigid"),
        (broken(0, 1, 0.1), "not rigid"),
        (torch.diag(torch.tensor([2.0, 2, 2, 1])), "not rigid"),
        (broken(1, 1, -1.0), "mirrors"),
    ],
)
def test_each_invalid_pose_is_refused_with_its_reason(
    pose: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_pose(pose)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_valid_poses_pass_and_their_transposes_do_not(seed: int) -> None:
    pose = random_pose(torch.Generator().manual_seed(seed))
    check_pose(pose)
    check_pose(pose.float())
    # as text files store it
    check_pose(torch.from_numpy(np.round(pose.numpy(), 6)))
    with pytest.raises(ValueError, match="last row"):
        check_pose(pose.T)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_sees_the_same_points() -> None:
    generator = torch.Generator().manual_seed(0)
    pose = random_pose(generator)
    points = points_before(pose, generator, 2000)
    for depth in (wall(3.0), None):
        frame = frame_with(depth, pose)
        here, there = (
            visible_points(points, frame, PUBLISHED),
            visible_points(points.cuda(), frame, PUBLISHED),
        )
        assert there.indices.is_cuda
        assert torch.equal(here.indices, there.indices.cpu())
        assert torch.equal(here.pixels, there.pixels.cpu())
