"""The commands of book/datasets.md for ScanNet and S3DIS, typed one after
another on small files of these formats.

Rooms of the book stand in for the data sets, a 2D model of random vectors for
OpenSeg, and the profiles are small; the commands are those of the page."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from s3dis_files import write_room, write_view
from scannet_files import camera_matrix, mesh_bytes, sens_bytes
from typed_pages import ASKED, commands, options_of, stand_in, type_in
from typer.testing import CliRunner

from vlg_lib import cli
from vlg_lib.artifacts import read_json
from vlg_lib.classes import S3DIS_13, SCANNET_20
from vlg_lib.convert.scannet_labels import NYU40_IDS
from vlg_lib.data.layout import read_scene
from vlg_lib.data.ply import read_label_names
from vlg_lib.pipeline.table import ROWS, ROWS_3D
from vlg_lib.rooms.scenes import room_scene

PAGE = (Path(__file__).parents[1] / "book" / "datasets.md").read_text()
TABLE = [row for row in ROWS if ROWS_3D.get(row, "3dss-vlg") == "3dss-vlg"]


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """An empty folder to type commands in, with its own cache, small profiles
    and the model that guesses."""
    stand_in(monkeypatch, "paper-scannet", "paper-s3dis", "fast")
    monkeypatch.setenv("VLG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def section(title: str) -> str:
    """A section of the page."""
    (text,) = re.findall(
        rf"^## {title}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    return text


def test_options_that_the_page_names_exist() -> None:
    assert not set(re.findall(r"(--[a-z][a-z-]+)", PAGE)) - options_of()


def write_scannet(
    scans: Path, name: str, seed: int, labelled: bool = True
) -> int:
    """A room as a scan of ScanNet; the number of its points."""
    room, labels = room_scene(seed, views=2, width=64, height=48)
    shots = [
        (
            f.camera_to_world.numpy(),
            f.color.numpy(),
            np.rint(f.depth.numpy() * 1000).astype(np.uint16),
        )
        for f in room.frames
    ]
    folder, camera = scans / name, camera_matrix(room.frames[0].camera)
    folder.mkdir(parents=True)
    ids = np.where(labels.numpy() >= 0, np.array(NYU40_IDS)[labels.numpy()], 0)
    for what, values in [("", None), *([(".labels", ids)] if labelled else [])]:
        mesh = mesh_bytes(room.points.numpy(), room.colors.numpy(), values)
        (folder / f"{name}_vh_clean_2{what}.ply").write_bytes(mesh)
    if labelled:
        (folder / f"{name}.sens").write_bytes(sens_bytes(shots, camera, camera))
        mask = (
            torch.rand(
                len(labels), generator=torch.Generator().manual_seed(seed)
            )
            < 0.5
        )
        features = {
            "feat": torch.randn(int(mask.sum()), 768).half(),
            "mask_full": mask,
        }
        Path("scannet_multiview_openseg").mkdir(exist_ok=True)
        torch.save(features, f"scannet_multiview_openseg/{name}_0.pt")
    return len(labels)


def write_s3dis(area: str, room: str, seed: int) -> None:
    """A room as one of S3DIS, with its images in 2D-3D-S."""
    scene, labels = room_scene(seed, views=2, width=48, height=48)
    objects = [
        (
            f"{S3DIS_13.names[label]}_1",
            scene.points[labels == label].numpy(),
            scene.colors[labels == label].numpy(),
        )
        for label in labels.unique().tolist()
        if label >= 0
    ]
    write_room(Path("Stanford3dDataset_v1.2") / area / room, objects)
    images = Path("2D-3D-S/noXYZ") / {"Area_5": "area_5a"}.get(
        area, area.lower()
    )
    for number, frame in enumerate(scene.frames):
        write_view(
            images,
            f"{number:032x}",
            room,
            number,
            frame.camera_to_world.numpy(),
            frame.camera.matrix.numpy(),
            frame.color.numpy(),
            frame.depth.numpy(),
        )


def test_scannet(desk: Path) -> None:
    """Conversion, training, evaluation; the same from published features; the
    archive for the benchmark."""
    splits = {
        "train": "scene0000_00",
        "val": "scene0011_00",
        "test": "scene0707_00",
    }
    for seed, (split, name) in enumerate(splits.items()):
        Path(f"scannetv2_{split}.txt").write_text(f"{name}\n")
        points = write_scannet(
            desk / ("scans_test" if split == "test" else "scans"),
            name,
            seed,
            split != "test",
        )
    outputs = [type_in(words) for words in commands(section("ScanNet"))]
    assert "1 scenes converted, 0 kept, 0 failed" in outputs[0]
    assert (
        read_scene(
            desk / "scannet" / "test" / "scene0011_00"
        ).frames.camera.width
        == 320
    )
    assert set(ASKED) == {
        "openseg",
        "open_clip/ViT-B-16-quickgelu/openai/naclip",
    }
    for out in ("scannet", "few", "points"):
        assert [
            row["row"] for row in read_json(Path("out") / out / "table.json")
        ] == TABLE
    with zipfile.ZipFile("submission.zip") as packed:
        lines = packed.read("scene0707_00.txt").split()
    assert len(lines) == points
    assert {int(line) for line in lines} <= set(NYU40_IDS)
    named = read_label_names(Path("predictions/scene0707_00.ply"))
    assert tuple(named[i] for i in range(20)) == SCANNET_20.names
    cloud = "scannet-server/scene0707_00/points.ply"
    network = "predictions/network.safetensors"
    type_in(["vlg", "predict", cloud, "--checkpoint", network])


def test_s3dis(desk: Path) -> None:
    """Conversion, training and evaluation by the protocol of Area 5."""
    for seed, (area, room) in enumerate(
        [("Area_6", "office_1"), ("Area_5", "WC_1")]
    ):
        write_s3dis(area, room, seed)
    outputs = [
        type_in(words) for words in commands(section("S3DIS with 2D-3D-S"))
    ]
    assert all(
        "1 scenes converted, 0 kept, 0 failed" in output
        for output in outputs[:2]
    )
    scene = read_scene(desk / "s3dis" / "test" / "Area_5_WC_1")
    assert (len(scene.frames), scene.frames.camera.height, scene.class_set) == (
        2,
        320,
        S3DIS_13,
    )
    assert [
        row["row"] for row in read_json(Path("out/s3dis/table.json"))
    ] == TABLE


def test_what_was_not_trained_is_not_used_to_label(desk: Path) -> None:
    for number, split in enumerate(("train", "test")):
        write_scannet(desk / split, f"scene000{number}_00", number)
        convert = ["vlg", "convert", "scannet", split, "--points-only"]
        type_in([*convert, "--out", f"scannet/{split}"])
    result = CliRunner().invoke(
        cli.app, ["predict-scenes", "scannet/test", "--scenes", "scannet"]
    )
    assert (
        result.exit_code,
        "train it first (vlg run)" in result.output,
    ) == (2, True), result.output
    assert not Path("predictions").exists()
