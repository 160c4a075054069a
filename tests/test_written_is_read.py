"""What is written can be read: each writer either gives back through its reader
what it was handed, or refuses it with a word and leaves the old file alone.

Users hand in tensors of every type and shape, so the run-time checks of the
tests, which users do not have, are off here."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_scene import floor_scene

from vlg_lib.classes import ROOMS_12, own_class_set
from vlg_lib.data.embedding_files import read_fused, write_fused
from vlg_lib.data.layout import read_point_labels, read_scene, write_scene
from vlg_lib.data.ply import read_points, write_points
from vlg_lib.data.point_clouds import read_cloud, write_labelled

TYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
]
EACH = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def as_users_run_it():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def tensors(*shapes):
    """Numbers of any type, as users have them, of one of these shapes."""

    def of(kind, shape, scale, seed):
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(shape, generator=generator) * scale).to(kind)

    return st.builds(
        of,
        st.sampled_from(TYPES),
        st.sampled_from(shapes),
        st.sampled_from([1.0, 12.0, 255.0, 1e6, 1e300, -3.0]),
        st.integers(0, 9),
    )


def same(found, given):
    """Equal but for the type, to the precision of float32."""
    return found.shape == given.shape and torch.allclose(
        found.double(), given.double(), rtol=1e-6, atol=0
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def written_or_refused(folder, write) -> bool:
    """Whether a writer has written; where it refused, with a ValueError that
    says something, everything is as it was."""
    before = content(folder)
    refused = ""
    try:
        write()
    except ValueError as error:
        refused = str(error)
    if refused:
        assert len(refused) > 20
        assert content(folder) == before
    return not refused


@EACH
@given(
    points=tensors((4, 3), (4, 2), (4,), (0, 3)),
    colors=tensors((4, 3), (4, 4), (3,)),
    labels=st.none() | tensors((4,), (4, 1), (5,)),
    scores=st.none() | tensors((4,), (3,), ()),
    name=st.sampled_from(["score", "x", "Red", "a b", "größe", "", "label2"]),
)
def test_points(tmp_path, points, colors, labels, scores, name):
    path = tmp_path / "a.ply"
    write_points(path, torch.zeros(1, 3), torch.zeros(1, 3).byte())
    extra = {} if scores is None else {name: scores}
    if not written_or_refused(
        tmp_path,
        lambda: write_points(path, points, colors, labels, (), **extra),
    ):
        return
    found, found_colors, further = read_points(path)
    assert same(found, points)
    assert torch.equal(found_colors, colors)
    if labels is not None:
        assert same(further.pop("label"), labels)
    assert len(further) == len(extra)
    for each in further.values():
        assert same(each, scores)


@EACH
@given(
    points=tensors((4, 3), (4, 2), (0, 3)),
    colors=tensors((4, 3), (4, 4), (3,)),
    labels=st.none() | tensors((4,), (4, 1), (5,)),
    mask=tensors((12,), (11,), (12, 1)),
    depth_scale=st.sampled_from(
        [1000.0, 1000, 0, -1.0, float("nan"), float("inf"), True]
    ),
    provenance=st.sampled_from(
        [{}, {"by": Path("a")}, {"by": float("nan")}, {"by": [1, "ü"]}]
    ),
    skipped=st.sampled_from([{}, {"a": 2}, {"a": 0.5}, {"a": None}]),
)
def test_scenes_of_points(
    tmp_path, points, colors, labels, mask, depth_scale, provenance, skipped
):
    folder = tmp_path / "scene"
    write_scene(folder, floor_scene(1), provenance={})
    try:
        scene = replace(
            floor_scene(1),
            frames=(),
            points=points,
            colors=colors,
            scene_labels=mask,
            skipped=skipped,
        )
    except ValueError:
        return  # a Scene checks some of it itself
    write = partial(
        write_scene,
        folder,
        scene,
        point_labels=labels,
        provenance=provenance,
        depth_scale=depth_scale,
    )
    if not written_or_refused(tmp_path, write):
        return
    found = read_scene(folder)
    assert same(found.points, points)
    assert torch.equal(found.colors, colors)
    assert torch.equal(found.scene_labels, mask)
    assert found.skipped == skipped
    if labels is not None:
        assert same(read_point_labels(folder), labels)


@EACH
@given(
    name=st.text(min_size=0, max_size=6)
    | st.sampled_from(["..", ".a", "a.b", "²", "a b", "a\n", "٣"]),
    color=tensors((24, 32, 3), (24, 32), (24, 32, 4), (32, 24, 3)),
    depth=st.none() | tensors((24, 32), (24, 32, 1), (24, 31)),
    pose=tensors((4, 4), (3, 4)) | st.just(torch.eye(4, dtype=torch.float64)),
)
def test_scenes_of_frames(tmp_path, name, color, depth, pose):
    folder = tmp_path / "scene"
    write_scene(folder, floor_scene(1), provenance={})
    scene = floor_scene(1)
    frame = replace(
        scene.frames[0],
        name=name,
        color=color,
        depth=depth,
        camera_to_world=pose,
    )
    scene = replace(scene, frames=[frame])
    try:
        written = written_or_refused(
            tmp_path, lambda: write_scene(folder, scene, provenance={})
        )
    except OSError:
        return  # the file system has its own rules for names
    if not written:
        return
    (found,) = read_scene(folder).frames
    assert found.name == name
    assert torch.equal(found.color, color)
    assert torch.equal(found.camera_to_world, pose.double())
    assert (found.depth is None) == (depth is None)
    if depth is not None:
        assert (found.depth - depth.double()).abs().max() <= 0.0005 + 1e-6


@EACH
@given(
    block=tensors((4, 6), (4, 5), (4,), (3, 6)),
    counts=tensors((4,), (4, 1), (5,)),
)
def test_embeddings(tmp_path, block, counts):
    path = tmp_path / "a.safetensors"
    write_fused(path, [torch.ones(2, 3)], torch.ones(2).int(), 3)
    if not written_or_refused(
        tmp_path, lambda: write_fused(path, [block], counts, 6)
    ):
        return
    found = read_fused(path, 4, 6)
    assert torch.equal(found.embeddings, block.half().float())
    assert torch.equal(found.view_counts.long(), counts.long())


@EACH
@given(
    labels=tensors((4,), (5,), (4, 1)),
    scores=tensors((4,), (3,), (4, 1)),
    names=st.lists(
        st.text(min_size=1, max_size=5), min_size=1, max_size=3, unique=True
    ),
)
def test_labelled_points(tmp_path, labels, scores, names):
    try:
        class_set = own_class_set(names)
    except ValueError:
        return
    path = tmp_path / "a.ply"
    axes = tuple(torch.rand(3, 4).numpy())
    write_labelled(path, axes, torch.zeros(4).long(), torch.ones(4), ROOMS_12)
    if not written_or_refused(
        tmp_path, lambda: write_labelled(path, axes, labels, scores, class_set)
    ):
        return
    further = read_points(path)[2]
    assert same(further["label"], labels)
    assert same(further["score"], scores)
    assert torch.equal(
        read_cloud(path).positions().float(),
        torch.stack([torch.from_numpy(axis) for axis in axes], dim=1),
    )


def test_colours_from_open3d(tmp_path):
    """Floats from 0 to 1: the fix stands in the error, and works."""
    folder, scene = tmp_path / "scene", floor_scene(1)
    write_scene(folder, scene, provenance={})
    before = content(tmp_path)
    colors = scene.colors.double() / 255
    with pytest.raises(ValueError, match=r"give \(colors \* 255\).round\(\)"):
        write_scene(folder, replace(scene, colors=colors), provenance={})
    assert content(tmp_path) == before
    fixed = replace(scene, colors=(colors * 255).round().byte())
    write_scene(folder, fixed, provenance={})
    assert torch.equal(read_scene(folder).colors, scene.colors)
