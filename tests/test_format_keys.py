"""The tables of keys: in step with the readers, and the readers with them."""

import json
import re
from pathlib import Path

import foreign_files
import format_keys
import pytest
from test_convert_scan import OWN, room_frames

from vlg_lib.convert.formats.registry import FORMATS

JSON_FORMATS = {
    "nerfstudio": (foreign_files.write_nerfstudio, "transforms.json"),
    "record3d": (foreign_files.write_record3d, "metadata.json"),
    "polycam": (
        foreign_files.write_polycam,
        "keyframes/cameras/262195552089.json",
    ),
    "open3d": (foreign_files.write_open3d_json, "trajectory.json"),
}


def test_the_page_is_in_step():
    page = format_keys.PAGE.read_text(encoding="utf8")
    assert format_keys.BEGIN in page
    assert page == format_keys.with_tables(page)
    assert format_keys.with_tables("a" + format_keys.BEGIN + "b") != page


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_tells_its_keys(name):
    keys = FORMATS[name].keys
    assert {key.fate for key in keys} <= {"read", "refused", "ignored"}
    assert all(key.why for key in keys)
    assert len({key.name for key in keys}) == len(keys)


@pytest.mark.parametrize("name", FORMATS)
def test_every_key_that_a_reader_asks_for_is_in_its_table(name):
    """``values.get("key")`` and ``values["key"]`` in the source."""
    module = FORMATS[name].reader.partition(":")[0].rpartition(".")[2]
    folder = Path(__file__).parents[1] / "vlg_lib/convert/formats"
    source = (folder / f"{module}.py").read_text(encoding="utf8")
    asked = set(re.findall(r"""\.get\(\s*"([^"]+)\"""", source))
    asked |= set(
        re.findall(r"""(?:values|content|frame)\["([^"]+)"\]""", source)
    )
    told = " ".join(key.name for key in FORMATS[name].keys)
    # cam_params.json and a trajectory hold the others in these
    missing = {key for key in asked if key not in told}
    assert missing <= {"camera", "intrinsic"}


@pytest.mark.parametrize("name", JSON_FORMATS)
def test_every_key_of_a_file_is_in_the_table(name, tmp_path):
    write, file = JSON_FORMATS[name]
    write(tmp_path, room_frames(OWN))
    words = re.findall(
        r"[\w]+", " ".join(key.name for key in FORMATS[name].keys)
    )
    content = json.loads((tmp_path / file).read_text())
    for part in ("frames", "parameters"):
        if part in content:
            content |= content[part][0]
    rows = {f"t_{i}{j}" for i in range(3) for j in range(4)}
    assert content.keys() - set(words) - rows <= {"intrinsic"}
