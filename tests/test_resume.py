"""A run that is killed in each stage, just before a file is in place, ends with the scores of a whole run."""

import signal
from pathlib import Path

import pytest
from tiny import TINY, run_in_new_process, scores

from vlg_lib.experiment import Experiment
from vlg_lib.store import load_tensors, read_json

# Where each process dies, in order, and what the one before it must have left behind.
STAGES = [
    ("/room-10001", 1, []),
    ("/fused/room-10001", 1, ["rooms-*/room-10001/scene.json", "fused/room-10000-*"]),
    ("/pseudo_labels/room-10001", 1, ["fused/room-10001-*", "pseudo_labels/room-10000-*"]),
    ("/adapter/", 2, ["pseudo_labels/room-10001-*", "adapter/adapter-*"]),
    ("/fused/room-15000", 1, ["adapter/adapter-*"]),
    ("/table/", 1, ["fused/room-15000-*"]),
    ("/out/table.json", 1, ["table/table-*", "out/run.json"]),
]


@pytest.mark.timeout(300)
def test_a_run_killed_in_every_stage_ends_with_the_scores_of_a_whole_run(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for place, occasion, left in STAGES:
        assert run_in_new_process(cache, die_at=place, occasion=occasion) == -signal.SIGKILL, place
        assert [pattern for pattern in left if not list(cache.glob(pattern))] == [], place
        if place == "/adapter/":
            (checkpoint,) = (cache / "adapter").glob("adapter-*")
            assert load_tensors(checkpoint)[1]["step"] == 50  # of 120: stopped on the way
    assert not (cache / "out" / "table.json").exists()
    made = {path: path.stat().st_mtime_ns for path in cache.glob("fused/room-*")}
    assert run_in_new_process(cache) == 0
    assert {path: path.stat().st_mtime_ns for path in cache.glob("fused/room-*")} == made, "nothing is made twice"
    resumed = read_json(cache / "out" / "table.json")
    whole = Experiment.open(TINY, 0, tmp_path / "whole", device="cpu", progress=False).table()
    assert scores(resumed) == scores(whole)
