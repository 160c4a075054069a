"""Sums that do not fit into memory: the same means to the bit, little of the
file in memory, a full disk noticed."""

import math
import resource
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlg_lib.classes import ROOMS_12
from vlg_lib.data.embedding_files import read_fused
from vlg_lib.fusion import FusionSettings, ViewAverager, fuse_scene
from vlg_lib.geometry.visibility import visible_points
from vlg_lib.scene import Camera, Frame, Scene

CAMERA = Camera(fx=60.0, fy=60.0, cx=31.5, cy=23.5, width=64, height=48)
POINTS, DIM = 30_000, 48
SIZE = 4 * POINTS * DIM
LITTLE = SIZE // 20


def embed(color: Tensor) -> Tensor:
    """48 numbers a pixel that depend on its colour, of many different
    lengths."""
    return (
        torch.sin(
            color.float().sum(dim=2, keepdim=True) * torch.arange(1, DIM + 1)
        )
        + color[..., :1] / 100
    )


def wall(frames: int = 4) -> Scene:
    generator = torch.Generator().manual_seed(0)
    views = []
    for i in range(frames):
        pose = torch.eye(4)
        pose[0, 3] = 0.3 * i - 0.5
        color = torch.randint(
            256, (48, 64, 3), generator=generator, dtype=torch.uint8
        )
        views.append(
            Frame(str(i), CAMERA, pose, color, torch.full((48, 64), 2.0))
        )
    cloud = torch.cat(
        [
            4 * torch.rand(POINTS, 2, generator=generator) - 2,
            torch.full((POINTS, 1), 2.0),
        ],
        dim=1,
    )
    return Scene(
        "wall",
        cloud,
        torch.zeros(POINTS, 3, dtype=torch.uint8),
        views,
        ROOMS_12,
        torch.ones(12).bool(),
    )


def kilobytes_in_memory() -> list[int]:
    """How much of each mapped file without a name is in memory, by the kernel's
    own account."""
    text = Path("/proc/self/smaps").read_text()
    found = []
    for entry in text.split("VmFlags")[:-1]:
        lines = entry.splitlines()
        if any("(deleted)" in line for line in lines):
            sizes = {
                line.split(":")[0]: int(line.split()[1])
                for line in lines
                if line.endswith(" kB")
            }
            if sizes["Size"] == math.ceil(SIZE / 4096) * 4:
                found.append(sizes["Rss"])
    return found


@pytest.mark.parametrize("normalize", [True, False])
def test_the_result_is_the_same_to_the_bit(normalize: bool) -> None:
    whole = fuse_scene(
        wall(), embed, settings=FusionSettings(normalize=normalize)
    )
    parts = fuse_scene(
        wall(),
        embed,
        settings=FusionSettings(normalize=normalize, max_memory=LITTLE),
    )
    assert 0 < int(whole.seen.sum()) < POINTS
    assert torch.equal(whole.embeddings, parts.embeddings)
    assert torch.equal(whole.view_counts, parts.view_counts)


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    assert ViewAverager(POINTS, DIM, max_memory=SIZE)._file is None
    assert ViewAverager(POINTS, DIM, max_memory=SIZE - 1)._file is not None


@pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(),
    reason="needs the kernel's account of mappings",
)
def test_little_of_the_file_is_in_memory() -> None:
    scene = wall()
    averager = ViewAverager(POINTS, DIM, max_memory=LITTLE)
    largest = 0
    for frame in scene.frames:
        averager.add_view(
            embed(frame.color), visible_points(scene.points, frame), CAMERA
        )
        (held,) = kilobytes_in_memory()
        largest = max(largest, held)
    for _ in averager.means():
        (held,) = kilobytes_in_memory()
        largest = max(largest, held)
    assert float(averager.sums.abs().sum()) > 0
    # the sum before read it whole: the measure does see it
    assert kilobytes_in_memory() > [SIZE // 1024 - 4]
    assert largest * 1024 <= 3 * LITTLE


def test_the_file_is_gone_with_the_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    averager = ViewAverager(POINTS, DIM, max_memory=LITTLE)
    assert list(tmp_path.iterdir()) == []
    del averager
    assert kilobytes_in_memory() == []


def test_saved_means_are_those_of_the_whole_rounded_once(
    tmp_path: Path,
) -> None:
    scene = wall()
    averager = ViewAverager(POINTS, DIM, max_memory=LITTLE)
    for frame in scene.frames:
        averager.add_view(
            embed(frame.color), visible_points(scene.points, frame), CAMERA
        )
    averager.save(tmp_path / "wall.safetensors", {"scene": "wall"})
    whole, stored = (
        fuse_scene(scene, embed),
        read_fused(tmp_path / "wall.safetensors", POINTS, DIM),
    )
    assert torch.equal(stored.embeddings, whole.embeddings.half().float())
    assert torch.equal(stored.view_counts, whole.view_counts)


def test_a_full_disk_is_an_error_and_not_a_crash() -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"too large|No space"):
            ViewAverager(POINTS, DIM, max_memory=LITTLE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_embeddings_that_are_not_finite_are_refused_in_any_block() -> None:
    averager = ViewAverager(POINTS, DIM, max_memory=LITTLE)
    averager.add(torch.tensor([POINTS - 1]), torch.full((1, DIM), torch.nan))
    with pytest.raises(ValueError, match="NaN or infinite"):
        averager.result()
