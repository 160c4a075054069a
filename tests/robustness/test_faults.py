"""Faults on purpose, as faults.py records them at length: three
random kills, a full disk, a lost frame."""

import errno
import json
import os
import resource
from pathlib import Path

import pytest
import torch
from programs import ROOT, python
from small_scene import floor_scene

from vlg_lib.artifacts import save_tensors, write_json
from vlg_lib.data.layout import write_scene

HERE = Path(__file__).parent


@pytest.mark.timeout(900)
def test_killed_conversions_end_with_every_byte_of_a_whole_one() -> None:
    command = [
        HERE / "faults.py",
        "convert",
        "--kills",
        "3",
        "--only",
        "ScanNet, 12 scenes, 1",
    ]
    environment = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, ROOT))),
    }
    done = python(command, env=environment, check=True)
    undisturbed, *kills = [
        json.loads(line) for line in done.stdout.splitlines()
    ]
    assert len(kills) == 3
    for line in kills:
        assert (
            line["partial"],
            line["equal"],
            line["status"],
            line["remade"],
        ) == ([], True, 0, 0)
        assert line["reused"] == line["files"] < undisturbed["files"]
        assert line["temporary"][1] == 0


@pytest.fixture
def small_files():
    """No file may grow beyond 2 kB: what a full disk does to a program, without
    one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_tensors(path, {"a": torch.zeros(1000)}),
        lambda path: write_json(path, list(range(1000))),
        lambda path: write_scene(path, floor_scene(1), provenance={}),
    ],
    ids=["tensors", "json", "scene"],
)
def test_a_disk_that_gets_full_leaves_what_was_there(
    tmp_path, small_files, write
) -> None:
    with pytest.raises(OSError, match="too large") as found:
        write(tmp_path / "new")
    assert found.value.errno == errno.EFBIG
    assert str(tmp_path / "new") in str(found.value)
    assert "make room or choose another folder" in str(found.value)
    assert list(tmp_path.iterdir()) == []


def test_room_made_later_is_used(tmp_path, monkeypatch) -> None:
    """The system says that the disk is full when a file is brought onto it; the
    next try finds room."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_json(tmp_path / "table.json", "old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_json(tmp_path / "table.json", "new")
    assert (tmp_path / "table.json").read_text() == '"old"\n'
    write_json(tmp_path / "table.json", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ['"new"\n']
