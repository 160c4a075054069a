"""What converters share: scenes kept, failed and resumed, processes that die,
names, tags."""

import multiprocessing
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from programs import python, start_python
from small_scene import floor_scene

from vlg_lib.classes import ROOMS_12
from vlg_lib.convert.batch import (
    Summary,
    chosen,
    convert_all,
    provenance,
)
from vlg_lib.convert.scene_labels import known_classes, read_tags, tags_of
from vlg_lib.data.layout import read_scene, write_scene

SETTINGS = {"every": 2, "size": (32, 24)}
SLOWLY = """
import os, time
from pathlib import Path
from vlg_lib.convert.batch import convert_all
from vlg_lib.artifacts import write_json

def slowly(name, folder):
    write_json(folder.with_name(name + ".pid"), os.getpid())
    time.sleep(100)

if __name__ == "__main__":
    convert_all(["a", "b"], slowly, Path("."), settings={}, jobs=2)
"""


def convert_floor(name: str, folder: Path, settings: dict) -> None:
    """A converter of floors; the name says what goes wrong."""
    if name.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("corrupt"):
        raise ValueError(f"{name}.sens: cut short")
    if name.startswith("defect"):
        raise KeyError("label")
    if name.startswith("silent"):
        return
    write_scene(
        folder, floor_scene(2), provenance=provenance("test", name, settings)
    )


def is_running(process: int) -> bool:
    """Whether a process is there and does something: one that nobody has waited
    for is not running."""
    told = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)],
        capture_output=True,
        text=True,
    ).stdout.strip()
    return bool(told) and not told.startswith("Z")


def run(names, out, settings=SETTINGS, **options) -> Summary:
    return convert_all(
        names,
        partial(convert_floor, settings=settings),
        out,
        settings=settings,
        **options,
    )


class TestConvertAll:
    def test_a_bad_scene_among_good_ones(self, tmp_path):
        summary = run(
            ["a", "corrupt", "defect", "silent", "b"], tmp_path / "out"
        )
        assert summary.converted == ["a", "b"]
        assert summary.failed["corrupt"] == "corrupt.sens: cut short"
        assert summary.failed["defect"].startswith(
            "KeyError: 'label' (test_convert_batch.py, line "
        )
        assert (
            "no scene with these settings was written"
            in summary.failed["silent"]
        )
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "a",
            "b",
        ]
        shown = str(summary)
        assert "2 scenes converted, 0 kept, 3 failed" in shown
        assert "failed: corrupt: corrupt.sens: cut short" in shown
        assert summary.headline == shown.splitlines()[0]

    def test_finished_scenes_are_kept_and_others_made_again(self, tmp_path):
        run(["a", "b"], tmp_path)
        (tmp_path / "b" / "scene.json").unlink()
        (tmp_path / "b" / "points.ply").unlink()
        before = (tmp_path / "a" / "points.ply").stat()
        summary = run(["a", "c"], tmp_path)
        assert (summary.kept, summary.converted) == (["a"], ["c"])
        assert (tmp_path / "a" / "points.ply").stat() == before
        assert run(["a"], tmp_path, settings={"every": 3}).converted == ["a"]
        assert not run(["a", "c"], tmp_path).failed

    def test_leftovers_of_a_killed_run_go_and_those_of_others_stay(
        self, tmp_path
    ):
        """What is left is what the library's own writer leaves when it is
        killed in the middle."""
        write = (
            "from pathlib import Path; from vlg_lib.artifacts import"
            " atomic_folder; import os\n"
        )
        write += (
            f"with atomic_folder(Path({str(tmp_path / 'a')!r})):"
            " os.kill(os.getpid(), 9)"
        )
        assert python(["-c", write]).returncode == -signal.SIGKILL
        assert [path.name[:3] for path in tmp_path.iterdir()] == [".a."]
        others = {".a.b.abcdefgh", ".b.abcdefgh", ".a.abc", ".a.ABCDEFGH"}
        for name in others:
            (tmp_path / name).mkdir()
        run(["a"], tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"a", *others}

    def test_several_at_once_and_one_that_takes_its_process_down(
        self, tmp_path, monkeypatch
    ):
        # five processes, each of which would import torch and this file
        ready = multiprocessing.get_context("forkserver")
        ready.set_forkserver_preload([__name__])
        monkeypatch.setattr(multiprocessing, "get_context", lambda _: ready)
        names = ["a", "killed", "b", "corrupt", "c"]
        summary = run(names, tmp_path, jobs=2)
        assert sorted(summary.converted) == ["a", "b", "c"]
        assert sorted(summary.failed) == ["corrupt", "killed"]
        assert "out of memory?" in summary.failed["killed"]
        assert [len(read_scene(tmp_path / name).frames) for name in "abc"] == [
            2,
            2,
            2,
        ]

    @pytest.mark.timeout(120)
    def test_processes_end_with_the_one_that_started_them(self, tmp_path):
        """Two scenes that take for ever; the command is killed, and then its
        processes are gone."""
        script = tmp_path / "convert_slowly.py"
        script.write_text(SLOWLY)
        main = start_python([script], cwd=tmp_path)
        while len(workers := list(tmp_path.glob("*.pid"))) < 2:
            assert main.poll() is None
            time.sleep(0.05)
        main.send_signal(signal.SIGKILL)
        main.wait()
        waited = time.monotonic()
        while (
            any(is_running(int(worker.read_text())) for worker in workers)
            and time.monotonic() < waited + 60
        ):
            time.sleep(0.05)
        assert not any(
            is_running(int(worker.read_text())) for worker in workers
        )

    def test_what_scenes_left_out_is_counted(self, tmp_path):
        run(["a", "b"], tmp_path)
        for name, count in (("a", 2), ("b", 3)):
            path = tmp_path / name / "scene.json"
            path.write_text(
                path.read_text().replace(
                    '"skipped": {}', f'"skipped": {{"invalid pose": {count}}}'
                )
            )
        summary = run(["a", "b"], tmp_path)
        assert summary.skipped == {"invalid pose": 5}
        assert str(summary).endswith("left out: 5 x invalid pose")

    @pytest.mark.parametrize(("names", "jobs"), [(["a", "a"], 1), (["a"], 0)])
    def test_settings_that_make_no_sense(self, tmp_path, names, jobs):
        with pytest.raises(
            ValueError, match="one job or more and different names"
        ):
            run(names, tmp_path, jobs=jobs)


class TestSummary:
    def test_what_it_says(self):
        summary = Summary(
            Path("out"), ["a"], ["b", "c"], {"d": "d.sens: cut short"}
        )
        summary.notes.append("1 of 2 rooms are there")
        summary.skipped.update({"missing image": 1, "invalid pose": 2})
        assert str(summary).splitlines() == [
            "out: 1 scenes converted, 2 kept, 1 failed; left out: 2 x invalid"
            " pose, 1 x missing image",
            "note: 1 of 2 rooms are there",
            "failed: d: d.sens: cut short",
        ]

    def test_a_setting_that_no_file_can_hold(self):
        with pytest.raises(TypeError, match="set is no setting"):
            provenance("test", "a", {"names": {"a"}})
        made = provenance("test", "a", {"cloud": Path("a.ply"), "size": (1, 2)})
        assert made["settings"] == {"cloud": "a.ply", "size": [1, 2]}


class TestChosen:
    def test_all_named_or_listed(self, tmp_path):
        split = tmp_path / "val.txt"
        split.write_text("b\n\nc \n")
        assert chosen("abc") == ["a", "b", "c"]
        assert chosen("abc", ["c", "a"]) == ["c", "a"]
        assert chosen("abc", ["c"], split) == ["c", "b"]

    def test_a_scene_that_is_not_there(self, tmp_path):
        with pytest.raises(
            ValueError, match="2 scenes are not there, first 'x'; there are 3"
        ):
            chosen("abc", ["a", "x", "y"])
        with pytest.raises(ValueError, match=r"val\.txt: no such file"):
            chosen("abc", split=tmp_path / "val.txt")

    def test_an_empty_split_is_not_everything(self, tmp_path):
        (tmp_path / "val.txt").write_text("\n")
        assert chosen("abc", split=tmp_path / "val.txt") == []


class TestTags:
    @given(st.lists(st.integers(-1, 11)), st.integers(1, 4))
    def test_classes_that_enough_points_carry(self, labels, at_least):
        mask = tags_of(
            torch.tensor(labels, dtype=torch.int64), ROOMS_12, at_least
        )
        assert mask.tolist() == [labels.count(i) >= at_least for i in range(12)]

    def test_own_words_go_before_a_known_set(self):
        assert known_classes("rooms-12", ()) == ROOMS_12
        assert known_classes("rooms-12", ("cup", "plate")).names == (
            "cup",
            "plate",
        )
        with pytest.raises(ValueError, match="unknown class 'sofa'"):
            known_classes("rooms-12", ("cup", "plate"), ("sofa",))

    def test_typed_by_a_person(self, tmp_path):
        path = tmp_path / "tags.txt"
        path.write_text("# office\na: wall, floor\n\nb:\n")
        tags = read_tags(path, ROOMS_12)
        assert {
            name: ROOMS_12.present(mask) for name, mask in tags.items()
        } == {"a": ("floor", "wall"), "b": ()}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: wal", "line 1: unknown class 'wal'"),
            ("a: wall\na: floor", "line 2: expected"),
            ("wall", "line 1"),
        ],
    )
    def test_lines_that_are_wrong(self, tmp_path, text, message):
        (tmp_path / "tags.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_tags(tmp_path / "tags.txt", ROOMS_12)
