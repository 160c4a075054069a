"""Two runs in two empty folders agree to the last bit: rooms, fused embeddings,
pseudo labels, adapter, scores."""

from pathlib import Path

import pytest
from tiny import (
    TINY,
    contents,
    quiet,
    run_in_new_processes,
    same,
    scores,
)

from vlg_lib.artifacts import read_json
from vlg_lib.pipeline.run import open_run


@pytest.mark.timeout(300)
def test_two_processes_with_empty_folders_make_the_same_run(
    tiny_run: Path, tmp_path: Path
) -> None:
    """One of them is this process, in which the tests share a run."""
    assert [
        process["status"]
        for process in run_in_new_processes(tmp_path / "one", [])
    ] == [0]
    one, two = (
        open_run(TINY, 0, quiet(cache))
        for cache in (tmp_path / "one", tiny_run)
    )
    open_run(TINY, 0, quiet(tmp_path / "two"))
    assert not (tmp_path / "two").exists()
    second = two.table.rows()
    assert scores(read_json(tmp_path / "one" / "out" / "table.json")) == scores(
        second
    )
    first_contents, second_contents = contents(one), contents(two)
    assert len(first_contents) > 40
    assert first_contents.keys() == second_contents.keys()
    assert [
        name
        for name, value in first_contents.items()
        if not same(value, second_contents[name])
    ] == []


def test_another_seed_makes_another_run(tmp_path: Path) -> None:
    one, other = (open_run(TINY, seed, quiet(tmp_path)) for seed in (0, 1))
    assert {scene.name for scene in one.scenes.split("train")}.isdisjoint(
        scene.name for scene in other.scenes.split("train")
    )
    one_room, other_room = (
        one.scenes.split("train")[0],
        other.scenes.split("train")[0],
    )
    assert len(one_room.points) != len(
        other_room.points
    ) or not one_room.points.equal(other_room.points)
    assert one.stages.adapter_artifact != other.stages.adapter_artifact
