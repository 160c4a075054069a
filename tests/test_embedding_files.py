"""Embeddings from files: OpenScene's in one piece or several, the book's own,
and files that are neither."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_scene import floor_scene
from torch import Tensor

from vlg_lib.artifacts import StoreError, load_tensors
from vlg_lib.convert.openscene_features import (
    FeatureSettings,
    convert_features,
    read_published,
)
from vlg_lib.data.embedding_files import read_fused, write_fused
from vlg_lib.data.layout import LayoutError, write_scene

POINTS, DIM = 20, 6


def published(
    path: Path,
    mask: Tensor | np.ndarray,
    rows: Tensor,
    more: dict[str, Tensor] | None = None,
) -> Path:
    torch.save({"feat": rows, "mask_full": mask, **(more or {})}, path)
    return path


def features(seed: int = 0) -> Tensor:
    return (
        3
        * torch.randn(
            POINTS, DIM, generator=torch.Generator().manual_seed(seed)
        ).half()
    )


def some_points(seed: int, count: int = 8) -> Tensor:
    mask = torch.zeros(POINTS, dtype=torch.bool)
    mask[
        torch.randperm(POINTS, generator=torch.Generator().manual_seed(seed))[
            :count
        ]
    ] = True
    return mask


def unit(rows: Tensor) -> Tensor:
    return rows.float() / rows.float().norm(dim=1, keepdim=True)


def rewritten(path: Path, old: bytes, new: bytes) -> bytes:
    """The file with other bytes in what it has pickled."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(content, "w") as target,
    ):
        pickled = next(
            name for name in source.namelist() if name.endswith("data.pkl")
        )
        assert old in source.read(pickled)
        for name in source.namelist():
            target.writestr(
                name,
                (
                    source.read(name).replace(old, new)
                    if name == pickled
                    else source.read(name)
                ),
            )
    return content.getvalue()


class TestPublished:
    def test_a_whole_scene_by_hand(self, tmp_path: Path) -> None:
        """Points 1 and 3 of four have rows (3, 4) and (0, 2), in this order."""
        rows = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).half()
        published(
            tmp_path / "scene0000_00.pt",
            torch.tensor([False, True, False, True]),
            rows,
        )
        read = read_published(tmp_path, "scene0000_00", 4, 2)
        expected = torch.tensor(
            [[0.0, 0.0], [0.6, 0.8], [0.0, 0.0], [0.0, 1.0]]
        )
        assert torch.allclose(read.embeddings, expected, atol=1e-6)
        assert read.embeddings.dtype == torch.float32
        assert read.view_counts.tolist() == [0, 1, 0, 1]
        plain = read_published(
            tmp_path, "scene0000_00", 4, normalize=False
        ).embeddings
        assert plain.tolist() == [[0, 0], [3, 4], [0, 0], [0, 2]]

    def test_pieces_overlap_and_add_up(self, tmp_path: Path) -> None:
        whole = features()
        masks = [some_points(seed) for seed in range(5)]
        for i, mask in enumerate(masks):
            published(tmp_path / f"room_{i}.pt", mask, whole[mask])
        read = read_published(tmp_path, "room", POINTS)
        counts = torch.stack(masks).sum(0)
        assert int(counts.max()) > 1
        assert int(counts.min()) == 0
        assert read.view_counts.tolist() == counts.tolist()
        assert torch.allclose(
            read.embeddings[counts > 0], unit(whole)[counts > 0], atol=1e-6
        )
        assert not read.embeddings[counts == 0].any()
        plain = read_published(
            tmp_path, "room", POINTS, normalize=False
        ).embeddings
        assert torch.allclose(
            plain[counts > 0], whole.float()[counts > 0], atol=1e-5
        )

    def test_a_mask_of_numpy_is_read_like_a_tensor(
        self, tmp_path: Path
    ) -> None:
        """OpenScene's script for nuScenes saves one; NumPy 2.0 moved the
        function that makes it."""
        whole, masks = features(), [some_points(seed) for seed in range(3)]
        for kind, of in (
            ("tensor", lambda mask: mask),
            ("numpy", Tensor.numpy),
        ):
            (tmp_path / kind).mkdir()
            published(
                tmp_path / kind / "room.pt", of(masks[0]), whole[masks[0]]
            )
            for i, mask in enumerate(masks):
                published(
                    tmp_path / kind / f"chunks_{i}.pt", of(mask), whole[mask]
                )
        expected = read_published(tmp_path / "tensor", "room", POINTS, DIM)
        for name in ("room", "chunks"):
            read, same = (
                read_published(tmp_path / kind, name, POINTS, DIM)
                for kind in ("numpy", "tensor")
            )
            assert torch.equal(read.embeddings, same.embeddings)
            assert read.view_counts.tolist() == same.view_counts.tolist()
        content = rewritten(
            tmp_path / "numpy" / "room.pt",
            b"numpy._core.multiarray",
            b"numpy.core.multiarray",
        )
        (tmp_path / "room.pt").write_bytes(content)
        assert torch.equal(
            read_published(tmp_path, "room", POINTS, DIM).embeddings,
            expected.embeddings,
        )
        # allowed while a file is read, no longer
        assert "numpy" not in str(torch.serialization.get_safe_globals())

    def test_a_row_of_zeros_is_a_point_that_nobody_saw(
        self, tmp_path: Path
    ) -> None:
        rows = features()
        rows[4] = 0
        published(
            tmp_path / "room.pt", torch.ones(POINTS, dtype=torch.bool), rows
        )
        assert read_published(tmp_path, "room", POINTS).seen.tolist() == [
            i != 4 for i in range(POINTS)
        ]

    def test_a_name_is_not_taken_for_another(self, tmp_path: Path) -> None:
        """scene0000_00.pt is no piece of scene0000, and [a] is a name and not a
        pattern."""
        mask = some_points(1)
        for name, seed in (
            ("scene0000_00", 1),
            ("scene0000_01", 2),
            ("[a]", 3),
            ("a", 4),
        ):
            published(tmp_path / f"{name}.pt", mask, features(seed)[mask])
        assert torch.allclose(
            read_published(tmp_path, "[a]", POINTS).embeddings[mask],
            unit(features(3)[mask]),
            atol=1e-6,
        )
        with pytest.raises(
            StoreError, match=r"scene 'scene0000' as .* found \[\]"
        ):
            read_published(tmp_path, "scene0000", POINTS)

    @pytest.mark.parametrize(
        ("mask", "rows", "message"),
        [
            (
                torch.ones(POINTS - 1).bool(),
                features()[1:],
                r"\(20,\) of torch.bool, found \(19,\)",
            ),
            (
                torch.ones(POINTS).int(),
                features(),
                r"\(20,\) of torch.bool, found \(20,\) of torch.int32",
            ),
            (
                torch.ones(POINTS).bool(),
                features()[1:],
                r"\(20, 6\) of torch.float16, found \(19, 6\)",
            ),
            (
                torch.ones(POINTS).bool(),
                features()[:, 1:],
                r"\(20, 6\) of torch.float16, found \(20, 5\)",
            ),
            (
                torch.ones(POINTS).bool(),
                features().int(),
                r"of torch.float16, found \(20, 6\) of torch.int32",
            ),
            (
                torch.ones(POINTS).bool(),
                features()[0],
                r"of torch.float16, found \(6,\)",
            ),
        ],
    )
    def test_sizes_types_and_numbers(
        self, tmp_path: Path, mask: Tensor, rows: Tensor, message: str
    ) -> None:
        published(tmp_path / "room.pt", mask, rows)
        with pytest.raises(
            StoreError,
            match=rf"room\.pt: expected .*{message}.*; take the points",
        ):
            read_published(tmp_path, "room", POINTS, DIM)

    def test_numbers_that_are_not_finite(self, tmp_path: Path) -> None:
        published(
            tmp_path / "room.pt",
            torch.ones(POINTS).bool(),
            features().fill_(torch.nan),
        )
        with pytest.raises(
            StoreError, match=r"room\.pt: found NaN or infinite numbers"
        ):
            read_published(tmp_path, "room", POINTS)

    def test_pieces_of_two_models_are_refused(self, tmp_path: Path) -> None:
        mask = some_points(0)
        published(tmp_path / "room_0.pt", mask, features()[mask])
        published(tmp_path / "room_1.pt", mask, features()[mask, :3])
        with pytest.raises(StoreError, match=r"room_1\.pt: expected \(8, 6\)"):
            read_published(tmp_path, "room", POINTS)

    def test_the_older_form_is_named(self, tmp_path: Path) -> None:
        published(
            tmp_path / "room.pt",
            some_points(0),
            features()[:8],
            {"mask": torch.ones(8).bool()},
        )
        with pytest.raises(
            StoreError,
            match=r"room\.pt: has 'mask' .* older form; fetch the newer",
        ):
            read_published(tmp_path, "room", POINTS)

    @pytest.mark.parametrize(
        "content",
        [
            {"feat": torch.ones(2, 2)},
            [1, 2],
            torch.ones(3),
            {"feat": 1, "mask_full": 2},
        ],
    )
    def test_other_contents_are_named(
        self, tmp_path: Path, content: object
    ) -> None:
        torch.save(content, tmp_path / "room.pt")
        with pytest.raises(
            StoreError,
            match=r"room\.pt: expected a tensor '(mask_full|feat)', found \[",
        ):
            read_published(tmp_path, "room", POINTS)


class TestForeignFiles:
    @pytest.mark.parametrize(
        "inside", [lambda call: call, lambda call: np.array([call], object)]
    )
    @pytest.mark.parametrize(
        ("function", "name"),
        [
            (os.mkdir, r"\w+\.mkdir"),
            (np.testing.rundocs, r"numpy\.\S+\.rundocs"),
            (np.fromfile, r"numpy\S*\.fromfile"),
        ],
    )
    def test_a_pickled_call_is_not_run(
        self, tmp_path: Path, inside: Callable, function: Callable, name: str
    ) -> None:
        """What unpickling would do: make a folder, run or read a file. A file
        of features must not be able to."""

        class Call:
            def __reduce__(self) -> tuple:
                return function, (str(tmp_path / "made"),)

        torch.save(
            {"feat": features(), "mask_full": inside(Call())},
            tmp_path / "room.pt",
        )
        with pytest.raises(
            StoreError,
            match=(
                rf"room\.pt: expected tensors, .* found '({name})', .* not"
                r" loaded"
            ),
        ):
            read_published(tmp_path, "room", POINTS)
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (np.array([True] * POINTS, object), r"found 'O8' of \(20,\):"),
            (np.ones(POINTS), r"found 'f8' of \(20,\) in 160 bytes"),
            (np.ones(POINTS, np.uint8), r"found 'u1' of \(20,\) in 20 bytes"),
            (
                np.ones(POINTS, [("a", bool)]),
                r"found 'V1' of \(20,\) in 20 bytes",
            ),
            (
                np.ones((POINTS, 1), bool),
                r"found 'b1' of \(20, 1\) in 20 bytes",
            ),
            (np.array(True), r"found 'b1' of \(\) in 1 bytes"),
            (np.dtype(bool), "found no array that NumPy writes"),
        ],
    )
    def test_other_masks_of_numpy_are_named(
        self, tmp_path: Path, mask: object, message: str
    ) -> None:
        torch.save(
            {"feat": features(), "mask_full": mask}, tmp_path / "room.pt"
        )
        with pytest.raises(
            StoreError,
            match=rf"room\.pt: expected 'mask_full' as N bools, .* {message}",
        ):
            read_published(tmp_path, "room", POINTS)

    def test_a_mask_of_numpy_of_another_size_is_named(
        self, tmp_path: Path
    ) -> None:
        path = published(
            tmp_path / "room.pt", np.ones(POINTS - 1, bool), features()[1:]
        )
        with pytest.raises(
            StoreError,
            match=r"room\.pt: expected \(20,\) of torch.bool, found \(19,\)",
        ):
            read_published(tmp_path, "room", POINTS)
        # says 20, and holds 19
        path.write_bytes(rewritten(path, b"K\x13\x85", b"K\x14\x85"))
        with pytest.raises(
            StoreError,
            match=(
                r"room\.pt: expected 'mask_full' .* found 'b1' of \(20,\) in 19"
                r" bytes"
            ),
        ):
            read_published(tmp_path, "room", POINTS)

    def test_memory_that_nobody_wrote_is_not_read(self, tmp_path: Path) -> None:
        """NumPy would make an array of a size and a type alone, from what lies
        in memory."""

        class Unwritten:
            def __reduce__(self) -> tuple:
                return np.ndarray, ((POINTS,), np.dtype(bool))

        torch.save(
            {"feat": features(), "mask_full": Unwritten()}, tmp_path / "room.pt"
        )
        with pytest.raises(
            StoreError,
            match=(
                r"room\.pt: expected 'mask_full' .* found no array that NumPy"
                r" writes"
            ),
        ):
            read_published(tmp_path, "room", POINTS)

    @settings(max_examples=500, deadline=None)
    @given(
        cut=st.floats(0, 1, exclude_max=True),
        flip=st.integers(0, 255),
        at=st.floats(0, 1, exclude_max=True),
    )
    def test_damaged_files_are_named(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        cut: float,
        flip: int,
        at: float,
    ) -> None:
        folder = tmp_path_factory.mktemp("damaged")
        path = published(
            folder / "room.pt", torch.ones(POINTS).bool(), features()
        )
        content = bytearray(path.read_bytes())
        content[int(at * len(content))] ^= flip
        path.write_bytes(bytes(content[: int(cut * len(content))]))
        with pytest.raises(StoreError, match=r"room\.pt: "):
            read_published(folder, "room", POINTS, DIM)

    @pytest.mark.parametrize(
        "content",
        [b"", b"\x80\x02}", b"not a tensor file", b"PK\x05\x06" + 18 * b"\0"],
    )
    def test_other_bytes_are_named(
        self, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "room.pt").write_bytes(content)
        with pytest.raises(
            StoreError, match=r"room\.pt: not a whole \.pt file"
        ):
            read_published(tmp_path, "room", POINTS)

    def test_rows_of_numpy_and_archives_are_named(self, tmp_path: Path) -> None:
        torch.save(
            {
                "feat": np.ones((POINTS, DIM)),
                "mask_full": np.ones(POINTS, bool),
            },
            tmp_path / "room.pt",
        )
        with pytest.raises(
            StoreError,
            match=(
                r"room\.pt: expected a tensor 'feat', found \['feat: Numpy',"
                r" 'mask_full: Te"
            ),
        ):
            read_published(tmp_path, "room", POINTS)
        with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
            archive.writestr("a.txt", "hello")
        with pytest.raises(
            StoreError,
            match=r"other\.pt: not a whole \.pt file of torch tensors",
        ):
            read_published(tmp_path, "other", POINTS)

    def test_two_forms_at_once_are_refused(self, tmp_path: Path) -> None:
        published(tmp_path / "room.pt", torch.ones(POINTS).bool(), features())
        published(tmp_path / "room_0.pt", torch.ones(POINTS).bool(), features())
        with pytest.raises(
            StoreError,
            match=r"scene 'room' as .* found \['room.pt', 'room_0.pt'\]",
        ):
            read_published(tmp_path, "room", POINTS)


class TestOwn:
    def test_round_trip_and_the_format_is_plain_safetensors(
        self, tmp_path: Path
    ) -> None:
        rows, counts = unit(features()), torch.arange(POINTS).int()
        write_fused(
            tmp_path / "room.safetensors",
            rows.split(7),
            counts,
            DIM,
            {"by": "me", "seconds": 1.5},
        )
        read = read_fused(tmp_path / "room.safetensors", POINTS, DIM)
        assert torch.equal(read.embeddings, rows.half().float())
        assert torch.equal(read.view_counts, counts)
        assert load_tensors(tmp_path / "room.safetensors")[1] == {
            "by": "me",
            "seconds": 1.5,
        }
        stored = load_file(tmp_path / "room.safetensors")
        assert torch.equal(stored["embeddings"], rows.half())
        assert [path.name for path in tmp_path.iterdir()] == [
            "room.safetensors"
        ]

    def test_the_bytes_are_those_of_the_documented_format(
        self, tmp_path: Path
    ) -> None:
        """Eight bytes of length, JSON, then the numbers: one row (1, -2) as
        float16, and the count 5."""
        write_fused(
            tmp_path / "a.safetensors",
            [torch.tensor([[1.0, -2.0]])],
            torch.tensor([5]),
            2,
        )
        content = (tmp_path / "a.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        assert length % 8 == 0
        header = json.loads(content[8 : 8 + length])
        assert header["embeddings"] == {
            "dtype": "F16",
            "shape": [1, 2],
            "data_offsets": [0, 4],
        }
        assert content[8 + length :] == struct.pack("<eei", 1.0, -2.0, 5)

    @pytest.mark.parametrize(
        ("blocks", "message"),
        [
            ([torch.ones(3, DIM)], "expected 20 rows, found another number"),
            ([torch.ones(POINTS, DIM + 1)], "expected rows of 6 numbers"),
            ([torch.full((POINTS, DIM), 1e5)], "below 65,504"),
            ([torch.full((POINTS, DIM), torch.nan)], "below 65,504"),
        ],
    )
    def test_wrong_rows_leave_no_file(
        self, tmp_path: Path, blocks: list[Tensor], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            write_fused(
                tmp_path / "room.safetensors",
                blocks,
                torch.zeros(POINTS).int(),
                DIM,
            )
        assert list(tmp_path.iterdir()) == []

    def test_a_file_of_another_scene_is_named(self, tmp_path: Path) -> None:
        write_fused(
            tmp_path / "room.safetensors",
            [unit(features())],
            torch.ones(POINTS).int(),
            DIM,
        )
        with pytest.raises(
            StoreError,
            match=(
                r"room\.safetensors: expected \(21, 6\) of .*, found \(20, 6\)"
            ),
        ):
            read_fused(tmp_path / "room.safetensors", POINTS + 1, DIM)
        with pytest.raises(
            StoreError,
            match=(
                r"room\.safetensors: expected \(20, 64\) of .*, found \(20, 6\)"
            ),
        ):
            read_fused(tmp_path / "room.safetensors", POINTS, 64)
        path = tmp_path / "room.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(
            StoreError, match=r"room\.safetensors: not a whole safetensors file"
        ):
            read_fused(tmp_path / "room.safetensors", POINTS, DIM)


class TestConverter:
    @staticmethod
    def scenes(root: Path, *names: str) -> Path:
        for name in names:
            write_scene(
                root / name, replace(floor_scene(1), name=name), provenance={}
            )
        return root

    def test_scenes_are_converted_once_and_a_bad_one_is_named(
        self, tmp_path: Path
    ) -> None:
        scenes, features_folder, out = (
            self.scenes(tmp_path / "scenes", "a", "b"),
            tmp_path / "f",
            tmp_path / "out",
        )
        features_folder.mkdir()
        points = len(floor_scene(1).points)
        rows = torch.randn(
            points, DIM, generator=torch.Generator().manual_seed(0)
        ).half()
        published(features_folder / "a.pt", torch.ones(points).bool(), rows)
        # of another scene
        published(
            features_folder / "b.pt", torch.ones(POINTS).bool(), features()
        )
        command = partial(
            convert_features, features_folder, scenes, out, progress=False
        )
        answer = command()
        assert list(answer.failed) == ["b"]
        assert "1 scenes converted, 0 kept, 1 failed" in str(answer)
        assert (
            f"failed: b: {features_folder / 'b.pt'}: expected ({points},)"
            in str(answer)
        )
        read = read_fused(out / "a.safetensors", points, DIM)
        assert torch.allclose(read.embeddings, unit(rows), atol=1e-3)
        assert bool(read.seen.all())
        published(features_folder / "b.pt", torch.ones(points).bool(), rows)
        assert "1 scenes converted, 1 kept, 0 failed" in str(command())
        again = command(FeatureSettings(normalize=False))
        assert "2 scenes converted, 0 kept, 0 failed" in str(again)
        assert torch.equal(
            read_fused(out / "a.safetensors", points, DIM).embeddings,
            rows.float(),
        )

    def test_files_of_an_earlier_release_are_kept(self, tmp_path: Path) -> None:
        """The converter had another name; the file was made alike."""
        scenes = self.scenes(tmp_path / "scenes", "a")
        points = len(floor_scene(1).points)
        (tmp_path / "f").mkdir()
        published(
            tmp_path / "f" / "a.pt",
            torch.ones(points).bool(),
            torch.ones(points, DIM).half(),
        )
        out = tmp_path / "out"
        for converter, source, kept in (
            ("data_scripts/convert_fused.py", "f", ["a"]),
            ("data_scripts/convert_fused.py", "g", []),
        ):
            write_fused(
                out / "a.safetensors",
                [torch.ones(points, DIM)],
                torch.ones(points).int(),
                DIM,
                {"converter": converter, "source": source, "normalize": True},
            )
            summary = convert_features(
                tmp_path / "f", scenes, out, progress=False
            )
            assert summary.kept == kept
        made = load_tensors(out / "a.safetensors")[1]
        assert made["converter"] == "vlg convert openscene-features"

    def test_a_folder_without_scenes(self, tmp_path: Path) -> None:
        with pytest.raises(
            LayoutError, match=r"expected folders with a scene\.json"
        ):
            convert_features(tmp_path, tmp_path, tmp_path / "out")
