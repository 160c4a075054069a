"""500 malformed inputs for each parser of the library's own files: a result or
the documented error, nothing else."""

import random
from pathlib import Path

import pytest
from fuzz_own_files import own_parsers
from fuzz_parsers import Parser, attempt, mutate, random_edits

NAMES = (
    "layout: scene.json",
    "layout: points.ply",
    "layout: labels.ply",
    "layout: superpoints.safetensors",
    "layout: intrinsic/intrinsic_color.txt",
    "layout: pose/1.txt",
    "layout: color/1.png",
    "layout: depth/1.png",
    "colour image",
    "depth image",
    "PLY of any origin",
    "safetensors",
    "fused embeddings",
    "stored JSON",
    "published embeddings",
    "published network",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def known(folder) -> dict[str, Parser]:
    return {parser.name: parser for parser in own_parsers(folder)}


def test_every_parser_is_fuzzed(known):
    assert tuple(known) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_are_read_and_malformed_ones_give_the_documented_error(
    known, folder, name
):
    parser, rng = known[name], random.Random(0)
    assert all(attempt(parser, folder, data) for data in parser.valid)
    read = [
        attempt(
            parser, folder, mutate(rng.choice(parser.valid), random_edits(rng))
        )
        for _ in range(500)
    ]
    # a damaged frame is counted
    left_out = name.startswith(
        ("layout: pose", "layout: color", "layout: depth")
    )
    assert all(read) == left_out
