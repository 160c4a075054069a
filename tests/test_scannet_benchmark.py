"""Predictions packed for the ScanNet benchmark server: ids, lines, and the
check of the archive."""

import zipfile
from pathlib import Path

import pytest
import torch
from scannet_files import POINTS, write_scan

from vlg_lib.classes import ROOMS_12, SCANNET_20
from vlg_lib.convert.scannet import (
    ScannetSettings,
    ScannetSource,
    convert_scannet,
)
from vlg_lib.convert.scannet_benchmark import (
    Submission,
    check_archive,
    export_submission,
)
from vlg_lib.data.layout import LayoutError
from vlg_lib.data.ply import write_points
from vlg_lib.data.point_clouds import write_labelled


class TestExport:
    @pytest.fixture
    def scenes(self, tmp_path):
        for name in ("scene0707_00", "scene0708_00"):
            write_scan(tmp_path / "scans", name, labels=False)
            write_points(
                tmp_path / "found" / f"{name}.ply",
                torch.from_numpy(POINTS),
                torch.zeros(6, 3, dtype=torch.uint8),
                labels=torch.tensor([0, 1, 19, -1, 12, 5]),
            )
        scans, out = tmp_path / "scans", tmp_path / "scenes"
        convert_scannet(
            ScannetSource(scans),
            out,
            ScannetSettings(points_only=True),
            progress=False,
        )
        return tmp_path

    def export(self, root: Path) -> Submission:
        return export_submission(
            root / "found", root / "scenes", root / "out.zip"
        )

    def test_one_id_a_line_in_a_file_a_scene(self, scenes):
        result = self.export(scenes)
        assert result.unlabelled == {"scene0707_00": 1, "scene0708_00": 1}
        assert "2 scenes, checked; 2 points without a label" in str(result)
        with zipfile.ZipFile(scenes / "out.zip") as packed:
            assert sorted(packed.namelist()) == [
                "scene0707_00.txt",
                "scene0708_00.txt",
            ]
            assert packed.read("scene0707_00.txt") == b"1\n2\n39\n0\n14\n6\n"

    def test_predictions_that_do_not_fit(self, scenes):
        write_points(
            scenes / "found" / "scene0708_00.ply",
            torch.zeros(5, 3),
            torch.zeros(5, 3, dtype=torch.uint8),
            labels=torch.zeros(5, dtype=torch.int64),
        )
        with pytest.raises(
            LayoutError,
            match="a label for each of the 6 points of scene0708_00",
        ):
            self.export(scenes)
        assert not (scenes / "out.zip").exists()

    @pytest.mark.parametrize(
        ("class_set", "fits"), [(SCANNET_20, True), (ROOMS_12, False)]
    )
    def test_a_file_that_names_its_labels_must_mean_the_benchmark_s(
        self, scenes, class_set, fits
    ):
        write_labelled(
            scenes / "found" / "scene0708_00.ply",
            tuple(POINTS.T),
            torch.tensor([0, 1, 2, -1, 3, 5]),
            torch.ones(6),
            class_set,
        )
        if fits:
            assert self.export(scenes).unlabelled["scene0708_00"] == 1
            return
        with pytest.raises(
            LayoutError,
            match=r"0708_00\.ply: expected label 0 to be 'wall'.*'ceiling'",
        ):
            self.export(scenes)
        assert not (scenes / "out.zip").exists()

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"a.txt": "1\n2\n", "b.txt": "1\n"}, "wrong or missing"),
            ({}, "wrong or missing"),
            ({"a.txt": "1\n"}, "expected 2 lines"),
            ({"a.txt": "1\n13\n"}, "each an NYU40 id or 0"),
            ({"a.txt": "1\n" * 5000}, "expected 2 lines"),
        ],
    )
    def test_the_check_of_an_archive(self, tmp_path, files, message):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
            for name, text in files.items():
                packed.writestr(name, text)
        with pytest.raises(ValueError, match=message):
            check_archive(tmp_path / "a.zip", {"a": 2})
        (tmp_path / "a.zip").write_bytes(b"PK")
        with pytest.raises(ValueError, match="not a whole zip archive"):
            check_archive(tmp_path / "a.zip", {"a": 2})
