"""A run that is killed in each stage, just before a file is in place, ends with
the scores of a whole run."""

import fnmatch
import signal
from pathlib import Path

import pytest
from tiny import TINY, quiet, run_in_new_processes, scores

from vlg_lib.artifacts import read_json
from vlg_lib.pipeline.run import open_run

# Where each process dies, in order, and what it must have left behind.
STAGES = [
    ("/room-10001", 1, ["rooms-*/room-10000/scene.json"]),
    (
        "/fused/room-10001",
        1,
        ["rooms-*/room-10001/scene.json", "fused/room-10000-*"],
    ),
    ("/fused/room-15000", 1, ["fused/room-10001-*"]),
    (
        "/pseudo_labels/room-10001",
        1,
        ["fused/room-15000-*", "pseudo_labels/room-10000-*"],
    ),
    # some steps of 120 are stored
    ("/adapter/", 2, ["pseudo_labels/room-10001-*", "adapter/adapter-*"]),
    ("/network/cam", 1, ["adapter/adapter-*"]),
    # 6 steps of 8 are stored
    (
        "/network/3dss-vlg",
        2,
        ["network/openscene-*", "network/cross-entropy-*"],
    ),
    ("/table/", 1, ["network/supervised-*"]),
    ("/out/table.json", 1, ["table/table-*", "out/run.json"]),
]


@pytest.mark.timeout(300)
def test_a_run_killed_in_every_stage_ends_with_the_scores_of_a_whole_run(
    tiny_run: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    *killed, last = run_in_new_processes(
        cache, [(place, occasion) for place, occasion, _ in STAGES]
    )
    for (place, _, expected), process in zip(STAGES, killed, strict=True):
        assert process["status"] == -signal.SIGKILL, place
        assert [
            pattern
            for pattern in expected
            if not fnmatch.filter(process["files"], pattern)
        ] == [], place
        finished = {
            name: written
            for name, written in process["files"].items()
            if name.startswith("fused/room-")
        }
        assert finished.items() <= last["files"].items(), (
            f"{place}: what was made is not made again"
        )
    assert "out/table.json" not in killed[-1]["files"]
    assert last["status"] == 0
    whole = open_run(TINY, 0, quiet(tiny_run)).table.rows()
    assert scores(read_json(cache / "out" / "table.json")) == scores(whole)
