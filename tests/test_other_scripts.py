"""Class names in other scripts, and a set of one class, from the command line
into every file and back."""

import json
import os
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from plyfile import PlyData, PlyElement
from typer.testing import CliRunner

from vlg_lib.classes import ClassSet, own_class_set, split_names
from vlg_lib.cli import app
from vlg_lib.cli.options import split_words
from vlg_lib.convert.scene_labels import read_tags
from vlg_lib.data.layout import read_scene, write_scene
from vlg_lib.data.ply import (
    label_comments,
    read_columns,
    read_label_names,
    write_columns,
)
from vlg_lib.data.point_clouds import read_cloud
from vlg_lib.metrics import evaluate
from vlg_lib.networks.point_network import (
    NetworkSettings,
    PointNetwork,
    save_network,
)
from vlg_lib.rooms.scenes import room_scene
from vlg_lib.vision_language.prompts import split_synonyms
from vlg_lib.viz import use_style

NAMES = ("椅子", "كرسي", "стол для еды", "कुर्सी", "caf\u00e9", "a\\b")
WORDS = st.text(min_size=1, max_size=8).map(str.strip).filter(bool)


def cloud(path: Path, comments=()) -> Path:
    rng = np.random.default_rng(0)
    columns = dict(zip("xyz", rng.random((3, 300)), strict=True))
    colors = rng.integers(0, 256, (3, 300)).astype(np.uint8)
    columns |= dict(zip(("red", "green", "blue"), colors, strict=True))
    write_columns(path, columns, comments)
    return path


def with_comment(path: Path, comment: bytes) -> Path:
    """The file with a line more in its header, as another program writes it."""
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\ncomment " + comment + b"\n" + rest)
    return path


def network(path: Path, names) -> Path:
    save_network(
        path,
        PointNetwork(NetworkSettings(channels=len(names), output="scores")),
        class_set={"name": "own", "names": list(names)},
    )
    return path


@given(st.lists(WORDS, min_size=1, max_size=4, unique=True))
def test_names_come_back_from_the_header_of_a_cloud(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("a") / "a.ply"
    write_columns(
        path, {"x": np.zeros(1)}, label_comments(own_class_set(names))
    )
    assert read_label_names(path) == {-1: "none", **dict(enumerate(names))}
    assert len(read_columns(path)[0]) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_that_another_program_wrote(tmp_path, encoding):
    path = with_comment(
        cloud(tmp_path / "a.ply"), "label 7 fen\u00eatre".encode(encoding)
    )
    assert read_label_names(path) == {7: "fen\u00eatre"}
    with_comment(path, b"label 8 C:\\new")
    assert 8 in read_label_names(path)


def test_a_cloud_with_other_letters_in_its_comments_is_read(tmp_path):
    plain, other = (cloud(tmp_path / name) for name in ("a.ply", "b.ply"))
    with_comment(other, "made of 扫描.las".encode())
    right, found = read_columns(plain)[0], read_columns(other)[0]
    assert np.array_equal(found, right)
    assert isinstance(found, np.memmap), "it is mapped as any other"
    assert torch.equal(read_cloud(other).colors, read_cloud(plain).colors)
    text = tmp_path / "c.ply"
    text.write_text(
        "ply\nformat ascii 1.0\ncomment 扫描\nelement vertex 2\nproperty float"
        " x\nend_header\n1.5\n2.5\n",
        encoding="utf-8",
    )
    assert read_columns(text)[0]["x"].tolist() == [1.5, 2.5]


def test_lists_after_such_a_header_are_read_as_they_are(tmp_path):
    """They are read value by value, and not mapped: what reads a letter as
    "?" must not touch them."""
    faces = np.zeros(1, dtype=[("vertex_indices", "O")])
    faces["vertex_indices"][0] = np.arange(200, dtype="i4")
    points = np.zeros(9, dtype=[("x", "f4"), ("near", "O")])
    points["x"] = np.random.default_rng(0).normal(size=9)
    for row in range(9):
        points["near"][row] = np.arange(row, dtype="i4") + 200
    path = tmp_path / "a.ply"
    elements = [
        PlyElement.describe(faces, "face", len_types={"vertex_indices": "u1"}),
        PlyElement.describe(points, "vertex", len_types={"near": "u1"}),
    ]
    PlyData(elements).write(str(path))
    with_comment(path, "made of 扫描.las".encode())
    found, _ = read_columns(path)
    assert np.array_equal(found["x"], points["x"])
    assert [list(near) for near in found["near"]] == [
        list(near) for near in points["near"]
    ]


def test_commas_of_other_keyboards_and_accents_of_two_kinds():
    for comma in ",，、،":
        assert split_words(f"椅子{comma} стол") == ("椅子", "стол")
    assert split_names(unicodedata.normalize("NFD", "café")) == ("caf\u00e9",)
    assert split_synonyms("椅子 = 凳子，沙发") == {"椅子": ("凳子", "沙发")}
    with pytest.raises(ValueError, match="one is empty"):
        split_words("椅子，")


def test_tags_from_a_file_of_windows(tmp_path):
    """With the mark that Notepad puts first."""
    path = tmp_path / "tags.txt"
    path.write_text("教室: 椅子，стол\n", encoding="utf-8-sig")
    tags = read_tags(path, own_class_set(["стол", "墙", "椅子"]))
    assert {name: tag.tolist() for name, tag in tags.items()} == {
        "教室": [True, False, True]
    }


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_predict_carries_names_into_every_file(tmp_path, encoding):
    """Whatever letters the terminal has."""
    checkpoint = network(tmp_path / "a.safetensors", NAMES)
    out = tmp_path / "выход.ply"
    words = ["-m", "vlg_lib", "predict", str(cloud(tmp_path / "点.ply"))]
    words += ["--checkpoint", str(checkpoint), "--out", str(out)]
    words += ["--classes", "椅子，كرسي", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode(encoding)
    assert ("椅子" if encoding == "utf-8" else "\\u6905\\u5b50") in said
    assert read_label_names(out) == {-1: "none", 0: "椅子", 1: "كرسي"}
    summary = json.loads(out.with_suffix(".json").read_text("utf-8"))
    assert summary["classes"] == ["椅子", "كرسي"]
    page = out.with_suffix(".html").read_text("utf-8")
    assert '<meta charset="utf-8">' in page
    assert "椅子" in page
    assert "点.ply: predicted classes" in page


def in_classes(folder: Path, class_set: ClassSet) -> Path:
    room, labels = room_scene(90_001, views=3, width=64, height=48)
    tags = torch.ones(len(class_set), dtype=torch.bool)
    scene = replace(room, class_set=class_set, scene_labels=tags)
    known = labels.where(labels < len(class_set), -1)
    write_scene(folder, scene, point_labels=known, provenance={})
    return folder


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_scene_with_names_in_other_scripts(tmp_path):
    folder = in_classes(tmp_path / "教室", own_class_set(NAMES))
    assert read_scene(folder).class_set.names == NAMES
    said = run("describe", folder)
    assert all(name in said for name in NAMES)
    run("fuse", folder, "--out", tmp_path / "出", "--quiet")
    done = CliRunner().invoke(app, ["label", str(folder), "--quiet"])
    assert done.exit_code == 2, "the small model knows English alone"
    assert "'椅子'" in done.output


def test_a_set_of_one_class(tmp_path):
    folder, out = in_classes(tmp_path / "a", own_class_set(["wall"])), tmp_path
    assert "scene labels:  wall" in run("describe", folder)
    assert "labels: wall" in run("label", folder, "--out", out, "--quiet")
    checkpoint = network(tmp_path / "one.safetensors", ["墙"])
    for words in (["--checkpoint", checkpoint], ["--classes", "wall"]):
        said = run(
            "predict", folder / "points.ply", *words, "--out", out / "p.ply"
        )
        assert "100.0%   score 1.00" in said
    labels = torch.tensor([0, 0, -1])
    found = torch.tensor([0, -1, 0])
    scores = evaluate([found], [labels], own_class_set(["wall"]))
    assert scores.iou == {"wall": 0.5}


def test_fonts_for_other_letters_stand_behind_the_usual_one(monkeypatch):
    monkeypatch.setattr(
        "vlg_lib.viz.pictures.get_font_names",
        lambda: ["DejaVu Sans", "Noto Sans Arabic", "Noto Sans CJK SC"],
    )
    with plt.rc_context():
        use_style()
        assert plt.rcParams["font.family"] == [
            "sans-serif",
            "Noto Sans CJK SC",
            "Noto Sans Arabic",
        ]
        assert plt.rcParams["font.sans-serif"][0] == "DejaVu Sans"
