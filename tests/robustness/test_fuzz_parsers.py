"""500 malformed inputs a parser: a result or the parser's own error, nothing
else (see fuzz_parsers.py)."""

from pathlib import Path

import pytest
from fuzz_parsers import OPERATIONS, attempt, mutate, parsers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = (
    ".sens",
    "PLY",
    "SCENE.txt",
    "labels.combined.tsv",
    "aggregation.json",
    "segs.json",
    "4x4 matrix",
    "S3DIS text",
    "2D-3D-S pose",
    "alignmentAngle.txt",
    "scene labels",
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(OPERATIONS),
        st.floats(0, 1),
        st.floats(0, 1),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def known(folder):
    return {parser.name: parser for parser in parsers(folder)}


def test_every_parser_is_fuzzed(known):
    assert tuple(known) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_valid_files_are_read(known, folder, name):
    assert all(attempt(known[name], folder, data) for data in known[name].valid)


@pytest.mark.parametrize("name", NAMES)
def test_malformed_files_give_the_documented_error(known, folder, name):
    @settings(
        max_examples=500,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(which=st.integers(0, 9), edits=EDITS)
    def fuzz(which, edits):
        valid = known[name].valid
        attempt(known[name], folder, mutate(valid[which % len(valid)], edits))

    fuzz()
