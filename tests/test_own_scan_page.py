"""The commands of book/own_scan.md: every format has one, and they work as they
are printed, typed one after another."""

import re
from dataclasses import replace
from pathlib import Path

from foreign_files import write_record3d
from small_scene import write_rgbd
from typed_pages import ASKED, commands, options_of, stand_in, type_in

from vlg_lib.convert.formats.registry import FORMATS
from vlg_lib.data.layout import read_scene, write_scene
from vlg_lib.data.ply import write_points
from vlg_lib.geometry.upright import up_rotation
from vlg_lib.rooms.scenes import room_scene

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "own_scan.md").read_text(encoding="utf8")


def test_every_format_has_a_command():
    named = re.findall(r"`vlg convert ([\w-]+) FOLDER --out scenes`", PAGE)
    assert sorted(named) == sorted([*FORMATS, "rgbd"])
    rows = [
        line
        for line in PAGE.splitlines()
        if "`vlg convert " in line and line.startswith("|")
    ]
    for row, name in zip(rows, named, strict=True):
        for file in re.findall(r"`([^`]+)`", row.split("|")[2]):
            assert name in ("rgbd", "polycam", "arkitscenes") or (
                file.split("/")[0].split(".")[0] in FORMATS[name].needs
            ), (name, file)


def test_options_that_the_page_names_exist():
    # COLMAP's own, and that of a script
    asked = set(re.findall(r"(--[a-z][a-z_-]+)", PAGE)) - {"--output_type"}
    assert not asked - options_of()


def test_code_is_no_wider_than_the_page():
    for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL):
        assert max(map(len, block.splitlines())) <= 80


def test_a_kitchen_from_a_phone(tmp_path, monkeypatch):
    """Convert, describe, check, fuse and label, as the page begins: with the
    model that comes with the book, so its words are the page's."""
    monkeypatch.chdir(tmp_path)
    room = room_scene(15_001, views=6, width=80, height=60)[0]
    (tmp_path / "kitchen").mkdir()
    write_record3d(tmp_path / "kitchen", list(room.frames))
    convert, describe, check, fuse, label = commands(PAGE)[:5]
    assert "1 scenes converted" in type_in(convert)
    names = ("wall", "floor", "chair", "table")
    assert read_scene(Path("scenes/kitchen")).class_set.names == names
    assert "camera:" in type_in(describe)
    assert "no fault found" in type_in(check)
    assert "correlation of fused and own colours 0.9" in type_in(fuse)
    found = r"labels: wall \d+, floor \d+, chair \d+, table \d+, not seen 0"
    assert re.search(found, type_in(label))
    assert {path.name for path in Path("out").iterdir()} == {
        "fused.ply",
        "fused.html",
        "labelled.ply",
        "labelled.html",
    }


def test_the_office(tmp_path, monkeypatch):
    """A made room stands in for the scan that the page fetches: y up, in the
    same files (the real one: test_hololens.py)."""
    monkeypatch.chdir(tmp_path)
    room = room_scene(15_001, views=6, width=80, height=60)[0]
    turn = up_rotation("y").T
    frames = [
        replace(frame, camera_to_world=turn @ frame.camera_to_world)
        for frame in room.frames
    ]
    fetch, convert, check = commands(PAGE)[5:8]
    script = "data_scripts/fetch_hololens.py"
    assert fetch == ["python", script, "--out", "data/hololens"]
    assert (ROOT / script).is_file()
    write_rgbd(Path("data/hololens"), frames)
    assert "6 frames" in type_in(convert)
    assert "no fault found" in type_in(check)


def test_labels_and_a_network(tmp_path, monkeypatch):
    """With a model that guesses under the name of the one from the web."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLG_CACHE", str(tmp_path / "cache"))
    room = room_scene(15_001, views=4, width=80, height=60)[0]
    write_scene(tmp_path / "scenes" / "kitchen", room, provenance={})
    write_points(tmp_path / "hall.ply", room.points, room.colors)
    label, train, predict = commands(PAGE)[8:]
    assert train == [*label, "--train"]
    stand_in(monkeypatch, "fast")
    assert re.search(r"labels: wall \d+, .* fridge \d+", type_in(label))
    assert re.search(r"labels: wall \d+, .* fridge \d+", type_in(train))
    assert (tmp_path / "out" / "network.safetensors").is_file()
    assert "wall" in type_in(predict)
    assert ASKED == ["open_clip/ViT-B-16-quickgelu/openai/naclip"] * 3
