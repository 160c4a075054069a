"""Files between stages: whole or not at all, and read back as they were
written."""

import signal
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from programs import python

from vlg_lib.artifacts import (
    StoreError,
    atomic_folder,
    atomic_write,
    hash_files,
    key_of,
    load_tensors,
    read_json,
    save_tensors,
    write_json,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_after(write, content) -> None:
    write(content)
    raise RuntimeError("power cut")


class TestAtomicWrite:
    def test_a_failed_write_leaves_the_old_file_and_nothing_else(
        self, tmp_path
    ):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with (
            pytest.raises(RuntimeError, match="power cut"),
            atomic_write(path) as file,
        ):
            fail_after(file.write, b"half")
        assert path.read_text() == "old"
        assert names(tmp_path) == ["a.txt"]

    def test_the_file_is_not_there_before_the_block_ends(self, tmp_path):
        path = tmp_path / "new" / "a.txt"
        with atomic_write(path) as file:
            file.write(b"all")
            assert not path.exists()
        assert path.read_bytes() == b"all"
        assert names(path.parent) == ["a.txt"]

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
    def test_a_killed_writer_leaves_no_half_file(self, tmp_path):
        path = tmp_path / "a.bin"
        code = """
            import os, signal, sys
            from pathlib import Path
            from vlg_lib.artifacts import atomic_write
            with atomic_write(Path(sys.argv[1])) as file:
                file.write(b"x" * 100000)
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        """
        done = python(["-c", textwrap.dedent(code), path])
        assert done.returncode == -signal.SIGKILL
        assert not path.exists()
        write_json(path, [1])
        assert read_json(path) == [1]


class TestAtomicFolder:
    def test_the_folder_appears_whole(self, tmp_path):
        path = tmp_path / "deep" / "scene"
        with atomic_folder(path) as temporary:
            (temporary / "a").write_text("1")
            assert not path.exists()
        assert names(path) == ["a"]
        assert names(path.parent) == ["scene"]

    def test_an_earlier_folder_is_replaced_as_a_whole(self, tmp_path):
        path = tmp_path / "scene"
        for name in ("old", "new"):
            with atomic_folder(path) as temporary:
                (temporary / name).write_text(name)
        assert names(path) == ["new"]
        assert names(tmp_path) == ["scene"]

    def test_a_failure_leaves_the_earlier_folder_and_nothing_else(
        self, tmp_path
    ):
        path = tmp_path / "scene"
        with atomic_folder(path) as temporary:
            (temporary / "old").write_text("")
        with (
            pytest.raises(RuntimeError, match="power cut"),
            atomic_folder(path) as temporary,
        ):
            fail_after((temporary / "half").write_text, "")
        assert names(path) == ["old"]
        assert names(tmp_path) == ["scene"]

    def test_two_processes_that_finish_at_once_do_not_disturb_each_other(
        self, tmp_path, monkeypatch
    ):
        """The other one's folder appears in the moment between a look at
        ``path`` and the renaming."""
        path, rename, finished = tmp_path / "scene", Path.rename, []

        def late(source, target):
            if target == path and not finished:
                finished.append(source)
                path.mkdir()
                (path / "theirs").write_text("")
            return rename(source, target)

        monkeypatch.setattr(Path, "rename", late)
        with atomic_folder(path) as temporary:
            (temporary / "ours").write_text("")
        assert finished
        assert names(path) == ["ours"]
        assert names(tmp_path) == ["scene"]

    def test_the_earlier_folder_comes_back_when_the_new_one_cannot_be_renamed(
        self, tmp_path
    ):
        path = tmp_path / "scene"
        with atomic_folder(path) as temporary:
            (temporary / "old").write_text("")
        with pytest.raises(FileNotFoundError), atomic_folder(path) as temporary:
            temporary.rmdir()
        assert names(path) == ["old"]
        assert names(tmp_path) == ["scene"]


class TestJson:
    @given(value=JSON)
    def test_round_trip(self, tmp_path_factory, value):
        path = tmp_path_factory.mktemp("json") / "a.json"
        write_json(path, value)
        assert read_json(path) == value

    @pytest.mark.parametrize("value", [float("nan"), [float("inf")]])
    def test_nan_is_refused_and_nothing_is_written(self, tmp_path, value):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "a.json", value)
        assert names(tmp_path) == []

    @pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe\x00"])
    def test_a_file_that_is_not_json_is_named(self, tmp_path, content):
        path = tmp_path / "a.json"
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"a\.json: not JSON"):
            read_json(path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(StoreError, match=r"a\.json: no such file"):
            read_json(tmp_path / "a.json")


class TestTensors:
    @pytest.mark.parametrize(
        "dtype",
        [
            torch.float32,
            torch.float64,
            torch.int64,
            torch.uint8,
            torch.bool,
            torch.float16,
        ],
    )
    def test_round_trip_is_exact(self, tmp_path, dtype):
        tensor = (
            (torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 50)
            .abs()
            .to(dtype)
        )
        save_tensors(
            tmp_path / "a.safetensors",
            {"x": tensor.T, "empty": torch.zeros(0, 3)},
            {"seed": 3, "by": "me"},
        )
        tensors, manifest = load_tensors(tmp_path / "a.safetensors")
        assert torch.equal(tensors["x"], tensor.T)
        assert tensors["x"].dtype == dtype
        assert tensors["empty"].shape == (0, 3)
        assert manifest == {"seed": 3, "by": "me"}

    def test_no_gradient_is_kept(self, tmp_path):
        save_tensors(
            tmp_path / "a.safetensors", {"x": torch.ones(2, requires_grad=True)}
        )
        assert not load_tensors(tmp_path / "a.safetensors")[0][
            "x"
        ].requires_grad

    def test_every_cut_file_is_refused(self, tmp_path):
        path = tmp_path / "a.safetensors"
        save_tensors(path, {"x": torch.arange(10)}, {"a": 1})
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(
                StoreError,
                match=r"a\.safetensors: not a whole safetensors file",
            ):
                load_tensors(path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(StoreError, match=r"a\.safetensors: no such file"):
            load_tensors(tmp_path / "a.safetensors")


class TestKeys:
    def test_a_key_depends_on_every_part_and_not_on_their_order(self):
        assert key_of(a=1, b="x") == key_of(b="x", a=1)
        assert (
            len(
                {key_of(a=1), key_of(a=2), key_of(b=1), key_of(a="1"), key_of()}
            )
            == 5
        )

    def test_a_key_is_stable_between_runs(self):
        assert key_of(profile="fast", seed=0) == "3b676a6144ff"

    def test_a_hash_follows_contents_and_names_of_code(self, tmp_path):
        code = tmp_path / "package"
        code.mkdir()
        (code / "a.py").write_text("x = 1")
        first = hash_files(code)
        (code / "notes.txt").write_text("no code")
        assert hash_files(code) == first
        (code / "a.py").write_text("x = 2")
        second = hash_files(code)
        (code / "a.py").rename(code / "b.py")
        assert len({first, second, hash_files(code)}) == 3

    def test_contents_do_not_run_into_the_next_file(self, tmp_path):
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        (one / "a.py").write_text("xb.pyy")
        (two / "a.py").write_text("x")
        (two / "b.py").write_text("y")
        assert hash_files(one) != hash_files(two)

    def test_a_hash_does_not_depend_on_where_the_code_lies(self, tmp_path):
        for folder in ("z", "a"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "m.py").write_text("same")
        assert hash_files(tmp_path / "z") == hash_files(tmp_path / "a")
