"""Numbers of foreign files: what no float can hold ends in an error that names
file and key, in every reader."""

import json
from pathlib import Path

import foreign_files
import pytest
from test_scan_formats_fuzz import two_frames

from vlg_lib.convert.formats.base import LeftOut
from vlg_lib.convert.formats.registry import FORMATS
from vlg_lib.convert.parsing import floats_of, json_object, numbers_of
from vlg_lib.data.frames import LayoutError

HUGE = 10**400
PLACES = [
    (
        "record3d",
        foreign_files.write_record3d,
        "metadata.json",
        ["w", "K", "poses"],
    ),
    (
        "polycam",
        foreign_files.write_polycam,
        "keyframes/cameras/262195552089.json",
        ["fx", "height", "t_21"],
    ),
    (
        "nerfstudio",
        foreign_files.write_nerfstudio,
        "transforms.json",
        ["fl_x", "w", "depth_unit_scale_factor", "frames"],
    ),
    (
        "open3d",
        foreign_files.write_open3d_log,
        "intrinsic.json",
        ["width", "intrinsic_matrix"],
    ),
    (
        "open3d",
        foreign_files.write_open3d_json,
        "trajectory.json",
        ["parameters"],
    ),
    (
        "replica",
        foreign_files.write_replica,
        "../cam_params.json",
        ["camera"],
    ),
]


def with_huge_number(value: object) -> object:
    """The same, with the first number in it (in the last of its objects, whose
    order is that of the file) too large."""
    if isinstance(value, dict):
        # the matrix of a frame comes last, its camera in the middle
        key = list(value)[-1]
        return value | {key: with_huge_number(value[key])}
    if isinstance(value, list):
        return [with_huge_number(value[0]), *value[1:]]
    return HUGE


@pytest.mark.parametrize(
    ("form", "write", "file", "key"),
    [
        (form, write, file, key)
        for form, write, file, keys in PLACES
        for key in keys
    ],
)
def test_a_whole_number_too_large_for_a_float(tmp_path, form, write, file, key):
    folder = tmp_path / "scan"
    folder.mkdir()
    write(folder, two_frames())
    path = folder / file
    content = json.loads(path.read_text())
    content[key] = with_huge_number(content.get(key, 0))
    path.write_text(json.dumps(content))
    told = what_is_wrong(form, folder)
    assert path.name in told
    assert "numbers below 1e308, found a larger one" in told


def what_is_wrong(form: str, folder: Path) -> str:
    """The reader's error, or why it left an image out."""
    try:
        found = list(FORMATS[form].read(folder))
    except LayoutError as error:
        return str(error)
    (left_out,) = [item for item in found if isinstance(item, LeftOut)]
    return left_out.what


def test_the_error_names_the_key():
    with pytest.raises(
        LayoutError, match=r"a\.json: expected K to be numbers below 1e308"
    ):
        numbers_of(Path("a.json"), "K", [[1, 2], [HUGE, -HUGE]], 4)


def test_words_of_many_digits_are_infinite():
    assert floats_of(Path("a.txt"), 1, ["1" * 400], 1) == [float("inf")]


def test_a_number_of_more_digits_than_python_reads(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(f'{{"w": {"1" * 5000}}}')
    with pytest.raises(LayoutError, match=r"a\.json: not JSON .*4300 digits"):
        json_object(path)
