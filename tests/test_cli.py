"""The command vlg: its commands and options, what it prints, and that help
costs no torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from click.testing import Result
from small_scene import floor_scene
from typer.testing import CliRunner

from vlg_lib import cli, plan
from vlg_lib.classes import CLASS_SETS
from vlg_lib.cli import options
from vlg_lib.data.layout import write_scene
from vlg_lib.data.point_clouds import UNITS
from vlg_lib.geometry.upright import AXES
from vlg_lib.networks.zoo import list_checkpoints
from vlg_lib.pipeline import profiles
from vlg_lib.pipeline.experiments import EXPERIMENTS
from vlg_lib.pipeline.networks import NETWORKS
from vlg_lib.pipeline.table import ROWS
from vlg_lib.training.devices import choose_device

HEAVY = ("torch", "numpy", "scipy", "open_clip", "PIL", "matplotlib")
COMMANDS = {
    "convert",
    "check",
    "describe",
    "fuse",
    "label",
    "predict",
    "run",
    "predict-scenes",
    "export-scannet",
    "plan",
    "models",
    "info",
}


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, list(arguments))


def every_command() -> dict[str, dict[str, set[str]]]:
    """The options of every command, by their names in the code."""
    found = {}

    def collect(command, name: str) -> None:
        for child, sub in getattr(command, "commands", {}).items():
            collect(sub, f"{name} {child}".strip())
        found[name] = {
            parameter.name: set(parameter.opts)
            for parameter in command.params
            if parameter.param_type_name == "option"
        }

    collect(typer.main.get_command(cli.app), "")
    return found


def imported_by(*command: str) -> set[str]:
    """The heavy packages that a Python process has imported at its end."""
    code = (
        "import atexit, sys; atexit.register(lambda: print('LOADED', *sorted("
        f"set(sys.modules) & set({HEAVY!r})))); import runpy;"
    )
    result = subprocess.run(
        [sys.executable, "-c", code + command[0], *command[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (line,) = [
        line for line in result.stdout.splitlines() if line.startswith("LOADED")
    ]
    return set(line.split()[1:])


@pytest.mark.parametrize(
    "command",
    [
        ["import vlg_lib"],
        ["import vlg_lib.cli"],
        ["runpy.run_module('vlg_lib', alter_sys=True)", "--help"],
        ["runpy.run_module('vlg_lib', alter_sys=True)", "convert", "--help"],
        ["runpy.run_module('vlg_lib')", "convert", "tum", "--help"],
        ["runpy.run_module('vlg_lib', alter_sys=True)", "run", "--help"],
    ],
    ids=lambda command: " ".join(command)[-24:],
)
def test_help_costs_no_torch(command: list[str]) -> None:
    assert imported_by(*command) == set()


def test_the_list_of_what_is_heavy_is_looked_at() -> None:
    assert {"torch", "numpy"} <= imported_by("import vlg_lib.scene")


def test_the_names_in_help_are_those_of_the_library() -> None:
    """They are written out, so that help needs no torch."""
    assert tuple(profiles.PROFILES) == options.PROFILES
    assert tuple(list_checkpoints()) == options.CHECKPOINTS
    assert options.NETWORKS == NETWORKS
    assert tuple(EXPERIMENTS) == options.EXPERIMENTS
    assert tuple(UNITS) == options.UNITS
    assert options.UP_AXES == AXES
    assert tuple(CLASS_SETS) == options.CLASS_SETS
    assert tuple(plan.SOURCES) == options.SOURCES


def test_every_command_is_in_the_help() -> None:
    _, _, listed = invoke("--help").output.partition("Commands:")
    assert set(re.findall(r"^  ([a-z-]+) ", listed, re.M)) == COMMANDS


def test_one_name_in_the_code_is_one_spelling_everywhere() -> None:
    spellings: dict[str, set[str]] = {}
    for known in every_command().values():
        for name, spelt in known.items():
            spellings.setdefault(name, set()).update(spelt)
    assert not {n: s for n, s in spellings.items() if len(s) > 1}


def test_no_old_spelling_is_left() -> None:
    spelt = {
        option
        for known in every_command().values()
        for options in known.values()
        for option in options
    }
    assert not spelt & {
        "--model",
        "--scene-labels",
        "--prompt",
        "--frame-skip",
        "--passes",
    }


@pytest.mark.parametrize(
    ("option", "commands"),
    [
        ("--out", "fuse label predict run predict-scenes export-scannet"),
        ("--quiet", "fuse label predict run predict-scenes"),
        ("--device", "label predict run predict-scenes"),
        ("--teacher", "label run predict-scenes plan"),
        ("--prompts", "label run predict-scenes"),
        ("--profile", "label run predict-scenes"),
        ("--seed", "run predict-scenes"),
        ("--cache", "run predict-scenes"),
    ],
)
def test_commands_that_could_have_an_option_have_it(
    option: str, commands: str
) -> None:
    known = every_command()
    for name in commands.split():
        assert any(option in spelt for spelt in known[name].values()), name


def test_every_conversion_has_out() -> None:
    for name, known in every_command().items():
        if name.startswith("convert "):
            assert "--out" in set().union(*known.values()), name


def test_a_wrong_experiment_or_method_is_named_with_those_there_are() -> None:
    unknown = invoke("experiment", "all")
    assert unknown.exit_code == 2
    assert "unknown experiment 'all'; known: main" in unknown.output
    method = invoke("experiment", "length", "--methods", "voted,cam")
    assert method.exit_code == 2
    assert "has no method 'cam'; it has: openscene" in method.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--profile", "fast"],
        ["label", "scenes/a", "--tags", "floor,wall"],
        ["label", "scenes/a", "--tags", "floor,wall", "--train"],
        ["predict", "a.ply"],
        ["predict-scenes", "scenes", "--scenes", "train"],
    ],
    ids=["run", "label", "label --train", "predict", "predict-scenes"],
)
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "unknown device 'gpu'; known: cpu, cuda, cuda:1 ..."),
        ("mps", "device 'mps' is not supported; known: cpu, cuda, cuda:1 ..."),
        ("cuda:99", "device 'cuda:99' is not here: "),
    ],
)
def test_a_device_that_is_not_there_is_one_line(
    arguments: list[str],
    device: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["vlg", *arguments, "--device", device])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}")
    assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_label_hands_its_device_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {}
    write_scene(tmp_path / "a", floor_scene(), provenance={"by": "test"})

    def spy(*_: object, **more: object) -> dict[str, int]:
        given.update(more)
        return {}

    monkeypatch.setattr("vlg_lib.own_scan.label.label_scan", spy)
    folder = str(tmp_path / "a")
    words = ["label", folder, "--tags", "floor", "--device", "cpu"]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert given["device"] == "cpu"


def test_without_a_name_there_is_always_a_device() -> None:
    assert choose_device().type in ("cpu", "cuda")


def test_models_say_what_they_need() -> None:
    text = invoke("models").output
    for part in (
        "small-attributes: comes with the library",
        "open_clip/MODEL/TAG/READOUT",
        "naclip",
        "VLG_OPENSEG",
        "3dss-vlg: comes with the library; MinkUNetSmall, voxels of 0.08 m;"
        " any words of small-attributes",
        "supervised: comes with the library; MinkUNetSmall, voxels of 0.08 m;"
        " the 12 classes of rooms-12",
    ):
        assert part in text


def test_run_prints_the_table_and_stores_it(
    typed_run: tuple[Path, Result],
) -> None:
    folder, result = typed_run
    rows = json.loads((folder / "out" / "table.json").read_text())
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
    monkeypatch.setattr("sys.argv", ["vlg", "run", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == [], "nothing half-written"
