"""Two runs in two empty folders agree to the last bit: rooms, fused embeddings,
pseudo labels, adapter, scores."""

from pathlib import Path

import pytest
from tiny import TINY, contents, run_in_new_processes, same, scores

from vlg_lib.artifacts import read_json
from vlg_lib.pipeline.table import Experiment


@pytest.mark.timeout(300)
def test_two_processes_with_empty_folders_make_the_same_run(
    tmp_path: Path,
) -> None:
    assert [
        process["status"]
        for process in run_in_new_processes(tmp_path / "one", [])
    ] == [0]
    one, two = (
        Experiment.open(TINY, 0, tmp_path / name, device="cpu", progress=False)
        for name in ("one", "two")
    )
    assert not (tmp_path / "two").exists()
    second = two.table()
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
    one, other = (
        Experiment.open(TINY, seed, tmp_path, device="cpu", progress=False)
        for seed in (0, 1)
    )
    assert {scene.name for scene in one.scenes()}.isdisjoint(
        scene.name for scene in other.scenes()
    )
    one_room, other_room = one.scenes()[0], other.scenes()[0]
    assert len(one_room.points) != len(
        other_room.points
    ) or not one_room.points.equal(other_room.points)
    assert one._adapter_path() != other._adapter_path()
