"""The commands of book/own_scan.md: every format has one, and they work when
they are typed one after another."""

import re
import shlex
from pathlib import Path

import foreign_files
import pytest
import typer
from typer.testing import CliRunner

from vlg_lib import cli
from vlg_lib.convert import scan as convert_scan
from vlg_lib.convert.formats import rgbd_folder as convert_rgbd
from vlg_lib.convert.formats.registry import FORMATS
from vlg_lib.data.layout import read_scene
from vlg_lib.own_scan import label as scan
from vlg_lib.pipeline import get_profile, with_words
from vlg_lib.rooms.scenes import room_scene

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "own_scan.md").read_text(encoding="utf8")
TYPED = [
    line
    for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line
]


def run(line: str) -> str:
    """Type a command of the page; what it prints."""
    words = shlex.split(line)
    if words[1:3] == ["-m", "vlg_lib"]:
        result = CliRunner().invoke(cli.app, words[3:])
    else:
        app = typer.Typer()
        app.command()(
            {"convert_scan.py": convert_scan, "convert_rgbd.py": convert_rgbd}[
                Path(words[1]).name
            ].main
        )
        result = CliRunner().invoke(app, words[2:])
    assert result.exit_code == 0, (line, result.output, result.exception)
    return result.output


def test_every_format_has_a_command():
    named = re.findall(r"`convert_scan\.py ([\w-]+) FOLDER --out scenes`", PAGE)
    assert sorted(named) == sorted(FORMATS)
    rows = [
        line
        for line in PAGE.splitlines()
        if "`convert_scan.py " in line and line.startswith("|")
    ]
    for row, name in zip(rows, named, strict=True):
        for file in re.findall(r"`([^`]+)`", row.split("|")[2]):
            assert file.split("/")[0].split(".")[0] in FORMATS[
                name
            ].holds or name in ("polycam", "arkitscenes"), (
                name,
                file,
            )


def test_options_that_the_page_names_exist():
    # COLMAP's own
    asked = set(re.findall(r"(--[a-z][a-z_-]+)", PAGE)) - {"--output_type"}
    helps = []
    for app in (convert_scan, convert_rgbd):
        command = typer.Typer()
        command.command()(app.main)
        helps.append(
            CliRunner()
            .invoke(command, ["--help"], env={"COLUMNS": "300"})
            .output
        )
    helps += [
        CliRunner().invoke(cli.app, [name, "--help"]).output
        for name in ("scan", "predict", "run")
    ]
    assert not [
        option for option in asked if not any(option in text for text in helps)
    ]


def test_a_kitchen_from_a_phone(tmp_path, monkeypatch):
    """Convert, describe, check and label, as the page begins; the model of the
    book knows the words."""
    monkeypatch.chdir(tmp_path)
    room = room_scene(15_001, views=6, width=80, height=60)[0]
    (tmp_path / "kitchen").mkdir()
    foreign_files.write_record3d(tmp_path / "kitchen", list(room.frames))
    convert, describe, check, label = [
        line.replace("fridge", "table") for line in TYPED[:4]
    ]
    assert "1 scenes converted" in run(convert)
    assert read_scene(tmp_path / "scenes" / "kitchen").class_set.names == (
        "wall",
        "floor",
        "chair",
        "table",
    )
    assert "camera:" in run(describe)
    assert "no fault found" in run(check)
    assert re.search(
        r"labels: wall \d+, floor \d+, chair \d+, table \d+, not seen 0",
        run(label),
    )
    assert (tmp_path / "out" / "labelled.html").is_file()


def test_the_training_of_the_page(monkeypatch):
    """Its command is the one before and --train, and reaches the training with
    the model that it names."""
    plain, train = TYPED[-4:-2]
    assert train == f"{plain} --train"
    asked = []
    monkeypatch.setattr(cli, "scan_folder", lambda *given, **options: "")
    monkeypatch.setattr(
        cli,
        "train_on_scan",
        lambda *given, **options: asked.append(given) or {},
    )
    assert callable(scan.train_on_scan)
    run(train)
    model = "open_clip/ViT-B-16-quickgelu/openai/naclip"
    _, _, tags, profile, _ = asked[0]
    assert tags == ["wall", "floor", "chair", "fridge"]
    assert profile == with_words(get_profile(), model)


@pytest.mark.parametrize("line", TYPED)
def test_scripts_that_are_typed_exist(line):
    words = shlex.split(line)
    assert words[0] == "python"
    assert words[1] == "-m" or (ROOT / words[1]).is_file()
