"""Dense embeddings kept in files: made once, told apart by all that they depend
on, within a limit of bytes."""

import os
from pathlib import Path

import pytest
import torch
from small_scene import floor_scene
from torch import Tensor
from torch.nn.functional import normalize

from vlg_lib.artifacts import StoreError
from vlg_lib.fusion import fuse_scene
from vlg_lib.geometry.visibility import Visibility
from vlg_lib.vision_language.base import VisionLanguageModel
from vlg_lib.vision_language.cache import CachedModel

# bytes of a map of 40 x 50 cells of 8 numbers in half precision
FRAME = 2 * 40 * 50 * 8
ROOM = FRAME + 4096  # what is reserved for it: the file has a header


class Counting(VisionLanguageModel):
    """A map of 40 x 50 cells that depends on the image; counts how often it is
    asked."""

    dim, stride = 8, 1

    def __init__(
        self, name: str = "counting/maskclip", fingerprint: str = ""
    ) -> None:
        self.name, self.fingerprint = name, fingerprint or name
        self.asked = 0

    def dense_embeddings(self, image: Tensor) -> Tensor:
        self.asked += 1
        seed = int(image.long().sum()) + len(image) + 1000 * len(self.name)
        return normalize(
            torch.randn(
                40, 50, 8, generator=torch.Generator().manual_seed(seed)
            ),
            dim=-1,
        )

    def text_embeddings(self, texts: list[str]) -> Tensor:
        return torch.eye(8)[: len(texts)]


def picture(value: int, height: int = 6, width: int = 8) -> Tensor:
    return torch.full((height, width, 3), value, dtype=torch.uint8)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def set_times(folder: Path, known: set[Path], time: int) -> set[Path]:
    """Give the files that are new the time ``time`` (in seconds), so that tests
    need not wait."""
    for path in set(files(folder)) - known:
        os.utime(path, (time, time))
    return set(files(folder))


def test_a_frame_passes_the_model_once(tmp_path: Path) -> None:
    model = Counting()
    cached = CachedModel(model, tmp_path / "cache", 10 * ROOM)
    first, second = (
        cached.dense_embeddings(picture(1)),
        cached.dense_embeddings(picture(1)),
    )
    again = CachedModel(model, tmp_path / "cache", 10 * ROOM).dense_embeddings(
        picture(1)
    )
    assert model.asked == 1
    assert torch.equal(first, second)
    assert torch.equal(first, again)
    whole = Counting().dense_embeddings(picture(1))
    assert torch.allclose(first, whole, atol=1e-3)
    assert torch.allclose(first, normalize(whole.half().float(), dim=-1))
    assert first.dtype == torch.float32


def test_it_stands_in_for_its_model(tmp_path: Path) -> None:
    cached = CachedModel(Counting(), tmp_path, 10 * ROOM)
    assert (cached.name, cached.dim, cached.stride) == (
        "counting/maskclip",
        8,
        1,
    )
    # what it gives is rounded
    assert cached.fingerprint != Counting().fingerprint
    assert torch.equal(cached.text_embeddings(["a", "b"]), torch.eye(8)[:2])
    plain = Counting().segment(picture(5), torch.eye(8)[:4])
    assert torch.equal(cached.segment(picture(5), torch.eye(8)[:4]), plain)


def test_what_a_map_depends_on_tells_files_apart(tmp_path: Path) -> None:
    """Another image, size, read-out, or weights: each its own file, and its own
    map."""
    one = (
        Counting("clip/sclip"),
        Counting("clip/naclip"),
        Counting("clip/sclip", "other weights"),
    )
    CachedModel(one[0], tmp_path, 99 * ROOM).dense_embeddings(picture(1))
    CachedModel(one[0], tmp_path, 99 * ROOM).dense_embeddings(picture(2))
    # the same bytes, another size
    CachedModel(one[0], tmp_path, 99 * ROOM).dense_embeddings(picture(1, 8, 6))
    CachedModel(one[1], tmp_path, 99 * ROOM).dense_embeddings(picture(1))
    CachedModel(one[2], tmp_path, 99 * ROOM).dense_embeddings(picture(1))
    assert [model.asked for model in one] == [3, 1, 1]
    assert len(files(tmp_path)) == 5


def test_the_layout_of_an_image_in_memory_does_not_matter(
    tmp_path: Path,
) -> None:
    model = Counting()
    image = torch.arange(6 * 8 * 3).reshape(6, 8, 3).to(torch.uint8)
    cached = CachedModel(model, tmp_path, 10 * ROOM)
    cached.dense_embeddings(image)
    cached.dense_embeddings(
        image.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    )
    assert model.asked == 1


def test_the_frame_that_was_not_used_for_longest_makes_room(
    tmp_path: Path,
) -> None:
    model = Counting()
    cached = CachedModel(model, tmp_path, 3 * ROOM)
    known: set[Path] = set()
    for value in (1, 2, 3):
        cached.dense_embeddings(picture(value))
        known = set_times(tmp_path, known, 1000 + value)
    cached.dense_embeddings(picture(1))  # used now, so 2 is the oldest
    cached.dense_embeddings(picture(4))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 3 * ROOM
    assert model.asked == 4
    for value, asked in ((1, 4), (3, 4), (4, 4), (2, 5)):
        cached.dense_embeddings(picture(value))
        assert model.asked == asked, value


def test_a_limit_below_one_frame_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError,
        match=(
            rf"a frame of 'counting/maskclip' takes {ROOM} bytes, the limit is"
            rf" {FRAME}"
        ),
    ):
        CachedModel(Counting(), tmp_path, FRAME).dense_embeddings(picture(1))
    assert files(tmp_path) == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    cached = CachedModel(Counting(), tmp_path, 10 * ROOM)
    cached.dense_embeddings(picture(1))
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StoreError, match="not a whole safetensors file"):
        cached.dense_embeddings(picture(1))


def test_what_the_model_refuses_leaves_no_file(tmp_path: Path) -> None:
    class Refusing(Counting):
        def dense_embeddings(self, image: Tensor) -> Tensor:
            raise ValueError("too small")

    with pytest.raises(ValueError, match="too small"):
        CachedModel(Refusing(), tmp_path, 10 * ROOM).dense_embeddings(
            picture(1)
        )
    assert files(tmp_path) == []


def test_fusing_twice_asks_the_model_once_a_frame(tmp_path: Path) -> None:
    """What the cache is for: the same frames for other points or another test
    of visibility."""
    model, scene = Counting(), floor_scene(3)
    cached = CachedModel(model, tmp_path, 10 * ROOM)
    fused = [
        fuse_scene(scene, cached.dense_embeddings, visibility)
        for visibility in (None, Visibility(border=2))
    ]
    assert (
        model.asked
        == len({frame.color.numpy().tobytes() for frame in scene.frames})
        == 3
    )
    whole = fuse_scene(scene, Counting().dense_embeddings)
    assert torch.equal(fused[0].view_counts, whole.view_counts)
    assert torch.allclose(fused[0].embeddings, whole.embeddings, atol=2e-3)
    assert int(fused[1].view_counts.sum()) < int(whole.view_counts.sum())


def test_the_stated_bytes_of_a_frame(tmp_path: Path) -> None:
    CachedModel(Counting(), tmp_path, 10 * ROOM).dense_embeddings(picture(1))
    assert FRAME < files(tmp_path)[0].stat().st_size <= ROOM
