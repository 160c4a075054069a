import json
from pathlib import Path

import pytest
from tiny import TINY
from typer.testing import CliRunner

from vlg_lib import cli
from vlg_lib.pipeline import profiles
from vlg_lib.pipeline.table import ROWS


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


def test_run_prints_the_table_and_stores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    monkeypatch.setenv("VLG_CACHE", str(tmp_path / "cache"))
    arguments = (
        "run",
        "--source",
        "rooms",
        "--profile",
        "tiny",
        "--seed",
        "0",
        "--out",
        str(tmp_path / "out"),
    )
    result = invoke(*arguments, "--device", "cpu", "--quiet")
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["row"] for row in rows] == list(ROWS)
    assert {"row", "miou", "accuracy", "seconds"} <= rows[0].keys()
    for row in rows:
        (line,) = [
            line
            for line in result.stdout.splitlines()
            if line.startswith(row["row"] + "  ")
        ]
        assert f"{row['miou']:.1f}" in line
    assert result.stderr == ""


def test_help_shows_examples_and_files() -> None:
    text = invoke("run", "--help").output
    for part in (
        "Examples:",
        "--source layout --scenes",
        "table.json",
        "auto, fast, colab, book, full",
    ):
        assert part in text
    assert "run" in invoke("--help").output


def test_info_prints_profiles_and_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VLG_CACHE", str(tmp_path))
    text = invoke("info").output
    for part in (
        "profile fast\n  rooms: train=",
        "small-attributes",
        str(tmp_path),
    ):
        assert part in text


def test_plan_is_the_planner_of_the_checkout(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:
    assert (
        invoke(
            "plan", "--source", "scannet", "--scenes", "1201", "--dim", "768"
        ).exit_code
        == 0
    )
    assert "1201 scenes of 150000 points" in capfd.readouterr().out
    assert invoke("plan", "--source", "nowhere").exit_code != 0
    monkeypatch.setattr(
        cli.vlg_lib, "__file__", str(tmp_path / "vlg_lib" / "__init__.py")
    )
    with pytest.raises(
        ValueError,
        match=r"plan\.py: no such file: plan reads the rates in results/",
    ):
        raise invoke("plan").exception


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--profile", "huge"],
            "error: unknown profile 'huge'; known: auto, fast",
        ),
        (
            ["--source", "nowhere"],
            "error: unknown source 'nowhere'; known: rooms, layout",
        ),
        (["--seed", "-3"], "error: a seed is a whole number"),
        (
            ["--source", "layout"],
            "error: source 'layout' needs a folder of scenes",
        ),
        (
            ["--source", "layout", "--scenes", "no/such/folder"],
            "error: no/such/folder: expected folders with a scene",
        ),
        (["--seed", "many"], "Invalid value for '--seed'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["vlg_lib", "run", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == [], "nothing half-written"
