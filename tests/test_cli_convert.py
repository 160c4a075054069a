"""vlg convert: every format, its help, its options, and where things go."""

import re
from pathlib import Path

import foreign_files
import numpy as np
import pytest
from convert_command import vlg_convert
from small_scene import floor_scene, write_rgbd

from vlg_lib.convert.formats.registry import FORMATS, OTHER_CONVERTERS
from vlg_lib.convert.scannet import ScannetSettings, ScannetSource
from vlg_lib.data.layout import read_manifest, read_scene

WRITERS = {
    "7-scenes": foreign_files.write_seven_scenes,
    "tum": foreign_files.write_tum,
    "replica": foreign_files.write_replica,
    "open3d": foreign_files.write_open3d_log,
    "record3d": foreign_files.write_record3d,
    "polycam": foreign_files.write_polycam,
    "arkitscenes": foreign_files.write_arkitscenes,
    "nerfstudio": foreign_files.write_nerfstudio,
    "colmap": foreign_files.write_colmap,
}
GIVEN = ("--quiet", "--classes", "floor, chair", "--tags", "floor")


def test_help_lists_all_formats_with_what_each_needs():
    listed = " ".join(vlg_convert("--help").output.split())
    for name, form in FORMATS.items():
        assert f" {name} {form.needs}" in listed
    for name, needs in OTHER_CONVERTERS.items():
        assert f" {name} {needs}" in listed


@pytest.mark.parametrize("form", FORMATS)
def test_help_of_a_format_says_what_lies_there_and_shows_a_line(form):
    text = vlg_convert(form, "--help").output
    assert FORMATS[form].needs in " ".join(text.split())
    assert f"vlg convert {form} my_scan --out scenes" in text
    assert "--depth-scale" in text


@pytest.mark.parametrize("form", OTHER_CONVERTERS)
def test_help_of_the_others_shows_a_line(form):
    assert f"vlg convert {form} " in vlg_convert(form, "--help").output


@pytest.mark.parametrize("form", FORMATS)
def test_each_scan_becomes_a_scene_of_its_name(form, tmp_path):
    scan = tmp_path / "my scan"
    scan.mkdir()
    WRITERS[form](scan, list(floor_scene(5).frames))
    result = vlg_convert(
        form, scan, "--out", tmp_path / "scenes", "--up", "z", *GIVEN
    )
    assert result.exit_code == 0, result.output
    assert "1 scenes converted, 0 kept, 0 failed" in result.output
    scene = read_scene(tmp_path / "scenes" / "my scan")
    assert len(scene.frames) == 5
    assert scene.class_set.names == ("floor", "chair")
    assert scene.class_set.present(scene.scene_labels) == ("floor",)


def test_a_plain_folder_becomes_a_scene_of_its_name(tmp_path):
    write_rgbd(tmp_path / "mine", floor_scene(3).frames)
    result = vlg_convert(
        "rgbd", tmp_path / "mine", "--out", tmp_path / "scenes", *GIVEN
    )
    assert result.exit_code == 0, result.output
    assert len(read_scene(tmp_path / "scenes" / "mine").frames) == 3


def test_what_was_typed_is_what_the_scene_was_made_with(tmp_path):
    write_rgbd(tmp_path / "mine", floor_scene(4).frames, depth_scale=500)
    poses = np.loadtxt(tmp_path / "mine" / "poses.txt").reshape(-1, 4, 4)
    np.savetxt(
        tmp_path / "mine" / "poses.txt", np.linalg.inv(poses).reshape(-1, 16)
    )
    typed = ("--poses", "world-to-camera", "--depth-scale", "500")
    more = ("--every", "2", "--depth-missing", "0,65000", "--cell", "0.1")
    result = vlg_convert(
        "rgbd",
        tmp_path / "mine",
        "--out",
        tmp_path / "o",
        *GIVEN,
        *typed,
        *more,
    )
    assert result.exit_code == 0, result.output
    manifest = read_manifest(tmp_path / "o" / "mine")
    assert manifest["depth_scale"] == 500
    assert "world-to-camera" in str(manifest["provenance"])
    assert len(read_scene(tmp_path / "o" / "mine").frames) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tum", "."], "Missing option '--out'"),
        (["tumb", "."], "No such command 'tumb'"),
        (["rgbd", ".", "--out", "o", "--depth-missing", "none"], "--depth-m"),
        (["s3dis", ".", "--out", "o", "--areas", "five"], "--areas"),
        (["scannet", ".", "--out", "o", "--size", "big"], "a size like"),
        (["openscene-network", "a", "--out", "b.safetensors"], "class"),
    ],
)
def test_bad_input_is_told_in_words(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = vlg_convert(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not Path("o").exists()


def test_options_of_scannet_reach_the_converter(tmp_path, monkeypatch):
    """Among them those that have another name in the library."""
    asked = []

    class Done(Exception):
        pass

    def remember(source, out, settings, *, jobs, progress):
        asked.append((source, out, settings, jobs, progress))
        raise Done

    monkeypatch.setattr("vlg_lib.convert.scannet.convert_scannet", remember)
    typed = (
        "scannet scans --out o --only a,b --split s.txt --every 5 --size"
        " 320x240 --align --images i --tsv t.tsv --tags-file l.txt"
        " --least-points 7 --ignore-extrinsics --points-only --jobs 3 --quiet"
    )
    assert isinstance(vlg_convert(*typed.split()).exception, Done)
    source = ScannetSource(
        scans=Path("scans"),
        images=Path("i"),
        tsv=Path("t.tsv"),
        tags=Path("l.txt"),
        scenes=("a", "b"),
        split=Path("s.txt"),
    )
    settings = ScannetSettings(
        frame_skip=5,
        size=(320, 240),
        align=True,
        least_points=7,
        ignore_extrinsics=True,
        points_only=True,
    )
    assert asked == [(source, Path("o"), settings, 3, False)]


def test_lines_of_help_fit_a_page():
    for form in (*FORMATS, *OTHER_CONVERTERS):
        lines = vlg_convert(form, "--help").output.splitlines()
        examples = [line for line in lines if re.match(r" +vlg convert", line)]
        assert examples
        assert max(map(len, examples)) <= 80


def test_an_empty_name_is_refused_before_anything_is_written(tmp_path):
    result = vlg_convert(
        "tum", tmp_path, "--out", tmp_path / "out", "--classes", "chair,"
    )
    assert result.exit_code == 2
    assert "one is empty in 'chair,'" in result.output
    assert not (tmp_path / "out").exists()
