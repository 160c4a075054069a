"""The table of README.md is the record's, and the record is its cells'."""

import evidence_page
from chapters import ROOT

from vlg_lib.artifacts import read_json
from vlg_lib.pipeline.evidence_table import read_evidence, tables


def test_the_table_of_the_readme_is_that_of_the_record() -> None:
    page = evidence_page.README.read_text(encoding="utf8")
    assert evidence_page.BEGIN in page
    assert page == evidence_page.with_table(page)


def test_every_recorded_table_follows_from_its_matrices() -> None:
    records = sorted((ROOT / "results" / "evidence").glob("*.json"))
    assert records
    for path in records:
        record = read_json(path)
        folder = path.with_suffix("")
        assert record == tables(read_evidence(folder, record["seeds"])), path


def test_networks_voted_are_left_to_the_chapter() -> None:
    row = {
        "needs": "points",
        "learnt_from": "images",
        "miou": 71.24,
        "interval": [70.0, 72.06],
        "share_of_gap": 12.3,
    }
    record = {
        "seeds": [3],
        "test_rooms": [2],
        "rows": [row | {"row": "A"}, row | {"row": "A, voted"}],
    }
    lines = evidence_page.table(record).splitlines()
    assert lines[0].startswith("Seeds 3, 2 unseen rooms each")
    assert lines[4:] == [
        "| 3D network, A | points | images | 71.2 (70.0 to 72.1) | 12 % |"
    ]
