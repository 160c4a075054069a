"""The hand-labelled regions of the HoloLens office, and how networks are scored
on them."""

import itertools
import json
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from score_hololens import (
    Region,
    Regions,
    line,
    main,
    read_regions,
    read_scan,
    region_of,
    score_regions,
)

from vlg_lib.classes import IGNORE_LABEL, ROOMS_12
from vlg_lib.convert.formats.rgbd_folder import (
    RgbdSettings,
    convert_rgbd_folder,
)
from vlg_lib.data.layout import write_scene
from vlg_lib.networks.zoo import FOLDER as FOLDER_OF_NETWORKS
from vlg_lib.scene import Scene

FLOOR, WALL = ROOMS_12.index("floor"), ROOMS_12.index("wall")
LOW = Region("low", FLOOR, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
HIGH = Region("high", WALL, (0.0, 0.0, 2.0), (1.0, 1.0, 3.0))


def regions_of(*boxes: Region, turn: float = 0.0) -> Regions:
    return Regions(ROOMS_12, 3, turn, boxes)


def test_points_lie_in_the_box_that_holds_them():
    points = torch.tensor(
        [[0.5, 0.5, 0.5], [1.0, 1.0, 3.0], [0.5, 0.5, 1.5], [9.0, 0.5, 0.5]]
    )
    where = region_of(points, regions_of(LOW, HIGH))
    assert where.tolist() == [0, 1, IGNORE_LABEL, IGNORE_LABEL]


def test_boxes_stand_in_the_turned_frame():
    """A quarter of a turn brings (x, y) = (.5, -.5) to (.5, .5)."""
    points = torch.tensor([[0.5, -0.5, 0.5], [0.5, 0.5, 0.5]])
    where = region_of(points, regions_of(LOW, turn=math.pi / 2))
    assert where.tolist() == [0, IGNORE_LABEL]


def test_a_point_in_two_boxes_is_refused():
    twin = replace(LOW, name="twin", low=(0.4, 0.4, 0.4))
    with pytest.raises(ValueError, match=r"'low' and 'twin' share 1 points"):
        region_of(torch.full((1, 3), 0.5), regions_of(LOW, twin))


def test_another_cloud_is_refused():
    with pytest.raises(ValueError, match=r"no point lies in region 'high'"):
        region_of(torch.full((1, 3), 0.5), regions_of(LOW, HIGH))
    with pytest.raises(ValueError, match="no point lies in region 'low'"):
        region_of(torch.zeros(0, 3), regions_of(LOW))


def test_scores_by_hand():
    """Three floor points, one taken for wall; two wall points, both right; a
    point outside counts for nothing. Floor 2 / 3, wall 2 / 3."""
    where = torch.tensor([0, 0, 0, 1, 1, IGNORE_LABEL])
    predicted = torch.tensor([FLOOR, FLOOR, WALL, WALL, WALL, FLOOR])
    found = score_regions(predicted, where, regions_of(LOW, HIGH))
    assert found.miou == pytest.approx(2 / 3)
    assert found.accuracy == pytest.approx(4 / 5)
    assert found.iou["floor"] == pytest.approx(2 / 3)
    assert found.iou["bed"] is None
    # two floors drawn, two walls, or one of each
    assert found.miou_interval == pytest.approx((2 / 3, 1.0))


def test_a_record_is_in_per_cent():
    where = torch.tensor([0, 1])
    found = score_regions(
        torch.tensor([FLOOR, FLOOR]), where, regions_of(LOW, HIGH)
    )
    record = line("net", 5, found, [1.0, 0.0])
    assert (record["network"], record["passes"]) == ("net", 5)
    assert record["miou"] == 25.0
    assert record["accuracy"] == record["mean_accuracy"] == 50.0
    assert record["iou"] == {"floor": 50.0, "wall": 0.0}
    assert record["right_by_region"] == [100.0, 0.0]


def written(path: Path, **changes: object) -> Path:
    region = {"name": "a", "class": "floor", "low": [0, 0, 0], "high": [1] * 3}
    path.write_text(
        json.dumps(
            {
                "class_set": "rooms-12",
                "points": 1,
                "turn_degrees": 0,
                "regions": [region | changes],
            }
        )
    )
    return path


def test_damaged_regions_name_what_is_wrong(tmp_path):
    path = tmp_path / "regions.json"
    assert len(read_regions(written(path)).boxes) == 1
    with pytest.raises(ValueError, match="each below its number in high"):
        read_regions(written(path, high=[1, 0, 1]))
    with pytest.raises(ValueError, match="expected three numbers"):
        read_regions(written(path, low=[0, 0]))
    with pytest.raises(ValueError, match="unknown class 'flor'"):
        read_regions(written(path, **{"class": "flor"}))


def test_the_regions_are_twenty_boxes_apart():
    regions = read_regions()
    assert 12 <= len(regions.boxes) <= 20
    assert len({box.name for box in regions.boxes}) == len(regions.boxes)
    assert regions.class_set == ROOMS_12
    assert len({box.label for box in regions.boxes}) == 9
    for one, other in itertools.combinations(regions.boxes, 2):
        assert any(
            one.high[axis] < other.low[axis] or other.high[axis] < one.low[axis]
            for axis in range(3)
        ), f"{one.name} meets {other.name}"


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Runs the script on a flat floor of 400 points; the lines it printed."""
    torch.set_num_threads(1)
    points = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    points[:, 2] *= 0.02
    scene = Scene(
        "flat",
        points,
        torch.full((400, 3), 120, dtype=torch.uint8),
        [],
        ROOMS_12,
        ROOMS_12.mask([]),
    )
    write_scene(tmp_path / "flat", scene, provenance={})
    regions = written(tmp_path / "regions.json", high=[1.0, 1.0, 0.5])

    def run(*words: str, points: int = 400) -> list[dict]:
        held = json.loads(regions.read_text()) | {"points": points}
        regions.write_text(json.dumps(held))
        scan = [str(tmp_path / "flat"), "--regions", str(regions)]
        monkeypatch.setattr(sys, "argv", ["script", *scan, *words])
        main()
        lines = capsys.readouterr().out.splitlines()
        return [json.loads(line) for line in lines]

    return run


def test_the_script_scores_names_and_files(typed, tmp_path):
    """A file of the same weights says the same as the name does."""
    copy = tmp_path / "copy.safetensors"
    shutil.copy(FOLDER_OF_NETWORKS / "3dss-vlg.safetensors", copy)
    lines = typed("--networks", "3dss-vlg", str(copy), "--augmentations", "1")
    assert [entry.pop("network") for entry in lines] == ["3dss-vlg", str(copy)]
    assert lines[0] == lines[1]
    assert lines[0]["accuracy"] == lines[0]["right_by_region"][0]
    with pytest.raises(ValueError, match="expected the 7 points"):
        typed(points=7)


FOLDER = os.environ.get("VLG_HOLOLENS_DIR", "")


@pytest.mark.skipif(
    not FOLDER or not Path(FOLDER).is_dir(),
    reason=(
        f"VLG_HOLOLENS_DIR={FOLDER!r} is not the folder of the scan;"
        " data_scripts/fetch_hololens.py fetches it"
    ),
)
def test_the_regions_fit_the_converted_scan(tmp_path):
    convert_rgbd_folder(
        Path(FOLDER), tmp_path / "hololens", RgbdSettings(up="y")
    )
    regions = read_regions()
    scene = read_scan(tmp_path / "hololens", regions)
    where = region_of(scene.points, regions)
    counts = torch.bincount(where[where >= 0], minlength=len(regions.boxes))
    assert int(counts.sum()) == 30060
    assert int(counts.min()) == 155
    with pytest.raises(ValueError, match="found 125926"):
        read_scan(tmp_path / "hololens", replace(regions, points=7))
    # floors lie low, ceilings high, and the black doors are dark
    heights, dark = scene.points[:, 2], scene.colors.float().mean(1)

    def of(name: str) -> torch.Tensor:
        return where == [box.name for box in regions.boxes].index(name)

    low, high = heights.quantile(torch.tensor([0.05, 0.95])).tolist()
    carpet = float(heights[of("blue carpet")].mean())
    ceiling = float(heights[of("ceiling above the long table")].mean())
    assert carpet == pytest.approx(low, abs=0.05)
    assert ceiling == pytest.approx(high, abs=0.05)
    assert float(dark[of("right black door")].mean()) < 70
