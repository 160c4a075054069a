"""The planner: sizes computed by hand, rates from records written here, and
what it says where it does not know."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vlg_lib import plan
from vlg_lib.cli import app
from vlg_lib.data.embedding_files import write_fused
from vlg_lib.plan import (
    Given,
    Job,
    Rate,
    disk,
    make_job,
    measured,
    memory,
    readable,
    seconds,
    with_given,
)

JOB = Job(
    scenes=10,
    points=1000,
    frames=4,
    width=32,
    height=24,
    dim=8,
    teacher="small-attributes",
    network="MinkUNet18A",
    adapter_points=50_000,
    network_scenes=200,
    voxels=500,
)


def rates(**values: float) -> dict[str, Rate]:
    names = ("model", "gather", "seen", "visible", "adapter", "network")
    return {name: Rate(name, "", values.get(name)) for name in names}


def record(
    folder: Path, name: str, lines: list[dict] | None = None, **more: object
) -> None:
    folder.mkdir(exist_ok=True)
    content = {"hardware": "2 cores, test", "lines": lines or [], **more}
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_disk_by_hand() -> None:
    """A scene: 3.1 x 32 x 24 x 4 + 34 x 1000 bytes; 2 x 1000 x 8 + 4 x 1000; 4
    maps of 6 x 8 cells x 8 x 2 bytes."""
    layout, fused, adapted, cache = disk(JOB).values()
    assert adapted == 10 * 16_000
    assert layout == pytest.approx(10 * (9523.2 + 34_000))
    assert fused == 10 * 20_000
    assert cache == 10 * 4 * 768


def test_the_stated_size_of_fused_embeddings_is_that_of_a_file(
    tmp_path: Path,
) -> None:
    write_fused(
        tmp_path / "a.safetensors",
        [torch.zeros(1000, 8)],
        torch.zeros(1000).int(),
        8,
    )
    header = (
        int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little")
        + 8
    )
    assert disk(JOB)["fused embeddings"] == 10 * (
        (tmp_path / "a.safetensors").stat().st_size - header
    )


def test_memory_by_hand() -> None:
    """Sums 4 x 1000 x 8, a map of 48 cells x 8 x 4 bytes, 200 x 1000, and 600
    MB; 31 bytes a point to learn from."""
    stage1, stage3 = memory(JOB).values()
    assert stage1 == 32_000 + 1536 + 200_000 + 600e6
    assert stage3 == 10 * 31_000 + 600e6
    limited = memory(Job(**{**vars(JOB), "max_memory": 5000}))
    assert limited["stage 1, one process"] == 5000 + 1536 + 200_000 + 600e6


def test_a_million_points_as_the_book_says() -> None:
    """3.07 GB of sums; OpenSeg's maps of 480 x 640 cells take 0.94 GB in
    float32 and 0.47 GB in a cache."""
    given = Given(scenes=1, points=1_000_000, frames=1, dim=768)
    job = make_job("scannet", given)
    assert job.cells == (480, 640)
    assert memory(job)["stage 1, one process"] == pytest.approx(
        3.072e9 + 2 * 0.943718e9 + 0.2e9 + 0.6e9, rel=1e-5
    )
    assert (
        disk(job)["cache of dense embeddings, if wanted"] == 2 * 480 * 640 * 768
    )
    assert disk(job)["fused embeddings"] == 1_540_000_000


def test_seconds_by_hand() -> None:
    """40 frames; of 1000 points a tenth is seen."""
    spent = list(
        seconds(
            JOB,
            rates(
                model=0.5,
                gather=1e-6,
                seen=0.1,
                visible=1e-5,
                adapter=1e-7,
                network=2e-3,
            ),
        ).values()
    )
    assert spent[0] == pytest.approx(40 * 0.5)
    assert spent[1] == pytest.approx(40 * (1e-6 * 100 * 8 + 1e-5 * 1000))
    assert spent[2] == pytest.approx(50_000 * 8 * 1e-7)
    assert spent[3] == pytest.approx(200 * 500 * 2e-3)


def test_what_nobody_measured_is_not_guessed() -> None:
    spent = seconds(JOB, rates(gather=1e-6, seen=0.1))
    assert set(spent.values()) == {None}
    text = plan.as_text(JOB, rates(model=2.0), "me")
    assert "not measured yet: gather, seen, visible, adapter, network" in text


def test_rates_are_read_from_records(tmp_path: Path) -> None:
    fusion = [
        {
            "name": "fusion, one view, each side in its own layout",
            "ours": 12.0,
            "visible": 300,
            "dim": 20,
            "points": 4000,
        },
        {"name": "share of copy bandwidth", "visible_points_ms": 8.0},
    ]
    record(tmp_path / "results", "fusion", fusion)
    record(
        tmp_path / "results",
        "dense",
        [
            {"device": "cpu"},
            {"name": "small-attributes", "frames_per_second": 20.0},
        ],
    )
    record(
        tmp_path / "results",
        "a-dense",
        [
            {"device": "cuda"},
            {"name": "small-attributes", "frames_per_second": 500.0},
        ],
    )
    title = "MinkUNet18A, against MinkowskiEngine"
    sparse = [
        {"name": f"{title}, inference", "ours": 9.0, "voxels": 6000},
        {"name": f"{title}, forward", "ours": 1.0, "voxels": 6000},
        {"name": f"{title}, backward", "ours": 2.0, "voxels": 6000},
        {"name": f"{title}, forward", "ours": 7.0, "voxels": 10},
        {"name": f"{title}, backward", "ours": 9.0, "voxels": 10},
        {
            "name": "MinkUNet34C, against MinkowskiEngine, backward",
            "ours": 9.0,
            "voxels": 9000,
        },
    ]
    record(tmp_path / "results", "sparse", sparse)
    rows = [
        {"row": "projection", "seconds": 10.0},
        {"row": "adapter", "seconds": 10.0 + 200 * 4 * 2000 * 64 * 1e-6},
    ]
    record(tmp_path / "results", "pipeline", profile="fast", tables={"0": rows})
    found = measured(JOB, tmp_path / "results")
    values = {name: rate.value for name, rate in found.items()}
    expected = {
        "gather": 2e-6,
        "seen": 0.075,
        "visible": 2e-6,
        "model": 0.002,
        "network": 5e-4,
        "adapter": 1e-6,
    }
    assert values == pytest.approx(expected)
    # a GPU's before a processor's
    assert found["model"].where == "results/a-dense.json, 2 cores, test, cuda"
    assert found["network"].where == "results/sparse.json, 2 cores, test"


def test_the_records_of_the_book_are_read() -> None:
    found = measured(make_job("scannet"), plan.find_results())
    for name in ("gather", "seen", "visible", "adapter", "network"):
        assert found[name].value is not None
        assert found[name].where.startswith("results/")
    assert 0 < found["seen"].value < 1


def test_rates_can_be_given() -> None:
    given = with_given(rates(), ["network=2.5e-6", "model=3"])
    assert (
        given["network"].value,
        given["model"].value,
        given["seen"].value,
    ) == (2.5e-6, 3.0, None)
    assert given["model"].where == "given"
    for wrong in ("speed=3", "model", "model=fast", "model=-1"):
        with pytest.raises(ValueError, match="NAME=VALUE"):
            with_given(rates(), [wrong])


@pytest.mark.parametrize(
    ("source", "given", "message"),
    [
        (
            "kitti",
            {},
            "unknown source 'kitti'; known: scannet, s3dis, rooms, own",
        ),
        ("own", {"scenes": 2}, "give --points --frames --voxels"),
        ("scannet", {"scenes": 0}, "give --scenes"),
    ],
)
def test_what_is_missing_is_named(
    source: str, given: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_job(source, Given(**given))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1, "1 B"),
        (999, "999 B"),
        (1540, "1.54 kB"),
        (277e9, "277 GB"),
        (3e18, "3e+03 PB"),
    ],
)
def test_sizes_are_readable(size: float, text: str) -> None:
    assert readable(size) == text


def ask(*arguments: str):
    return CliRunner().invoke(app, ["plan", *arguments])


def test_the_command_of_the_book() -> None:
    answer = ask("--source", "scannet", "--scenes", "1201", "--dim", "768")
    assert answer.exit_code == 0, answer.output
    assert "1201 scenes of 150000 points" in answer.stdout
    assert "fused embeddings                              277 GB" in (
        answer.stdout
    )
    answer = ask("--scenes", "1201", "--dim", "768", "--json")
    told = json.loads(answer.stdout)
    assert told["disk"]["fused embeddings"] == 1201 * (
        2 * 150_000 * 768 + 4 * 150_000
    )
    assert told["scenes"] == 1201
    text = ask("--scenes", "1201", "--rate", "model=3").stdout
    assert f"{1201 * 83 * 3 / 3600:.3g} h" in text
    wrong = ask("--source", "own")
    assert wrong.exit_code == 2


def test_the_records_of_the_checkout_are_found() -> None:
    """With their names, which tell where a rate was measured."""
    results = plan.find_results()
    assert results == Path(__file__).parents[1] / "results"
    assert measured(JOB, results)["gather"].where.startswith(
        "results/fusion.json, "
    )


def test_outside_a_checkout_it_says_which_rates_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel brings no records: sizes all the same, and times from the rates
    that are given."""
    monkeypatch.setattr(plan, "__file__", str(tmp_path / "vlg_lib" / "plan.py"))
    assert plan.find_results() is None
    text = ask("--scenes", "1201", "--dim", "768").stdout
    assert "277 GB" in text
    assert (
        "not measured yet: model, gather, seen, visible, adapter, network"
        in text
    )
    assert "name it with --results" in text
    text = ask("--scenes", "1201", "--rate", "model=3").stdout
    assert f"{1201 * 83 * 3 / 3600:.3g} h" in text
    assert "not measured yet: gather, seen" in text


def test_the_records_may_lie_elsewhere(tmp_path: Path) -> None:
    record(
        tmp_path / "mine",
        "dense",
        [{"name": "small-attributes", "frames_per_second": 20.0}],
    )
    given = ("--source", "rooms", "--results")
    text = ask(*given, str(tmp_path / "mine")).stdout
    assert "0.05 s a frame, small-attributes: mine/dense.json, 2 cores" in text
    wrong = ask(*given, str(tmp_path))
    assert "expected the folder of recorded rates" in wrong.output
