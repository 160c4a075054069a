"""The wheel: pure Python, whole, and enough to convert, check, label and
predict outside the repository."""

import shutil
import zipfile
from pathlib import Path

import pytest
from foreign_files import write_tum
from programs import python

from vlg_lib.data.ply import read_points
from vlg_lib.rooms.scenes import room_scene

ROOT = Path(__file__).parents[1]
BUILD = """
import sys
from setuptools import build_meta
print(build_meta.build_wheel(sys.argv[1]))
"""
WORDS = "wall,floor,chair,table"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the sources: a build leaves folders behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("vlg_lib", "tests"):
        shutil.copytree(
            ROOT / name,
            source / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    out = tmp_path_factory.mktemp("wheel")
    python(["-c", BUILD, out], cwd=source, check=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def test_it_is_pure_python(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")


def test_it_holds_all_of_the_library_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "vlg_lib").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == there
    for name in (
        "vlg_lib/convert/formats/tum.py",
        "vlg_lib/networks/weights/3dss-vlg.safetensors",
        "vlg_lib/vision_language/weights/small-attributes.safetensors",
        "vlg_lib/assets/page3d.html",
        "vlg_lib/py.typed",
    ):
        assert name in held


def test_the_command_is_in_it(unpacked: Path) -> None:
    (folder,) = unpacked.glob("*.dist-info")
    points = (folder / "entry_points.txt").read_text()
    assert "vlg = vlg_lib.cli:main" in points


def test_it_works_outside_the_repository(
    unpacked: Path, tmp_path: Path
) -> None:
    """From a scan to labels in one process, since each would import torch."""
    room = room_scene(15_001, views=6, width=80, height=60)[0]
    (tmp_path / "desk").mkdir()
    write_tum(tmp_path / "desk", list(room.frames))
    script = f"""
import sys
from pathlib import Path
import vlg_lib
from vlg_lib.cli import app
assert Path(vlg_lib.__file__).is_relative_to({str(unpacked)!r})
for line in (
    "convert tum desk --out scenes --quiet --classes {WORDS} --tags {WORDS}",
    "check scenes/desk",
    "label scenes/desk --out out --quiet",
    "predict scenes/desk/points.ply --out out/predicted.ply --quiet",
    "plan --scenes 2",
):
    app(line.split(), standalone_mode=False)
"""
    result = python(
        ["-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(unpacked)},
        check=True,
    )
    assert "1 scenes converted, 0 kept, 0 failed" in result.stdout
    assert "no fault found" in result.stdout
    assert "no recorded rates here" in result.stdout
    for name in ("labelled", "predicted"):
        labels = read_points(tmp_path / "out" / f"{name}.ply")[2]["label"]
        assert len(labels.unique()) > 2
