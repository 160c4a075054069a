"""Fetching the HoloLens scan, against a small made-up repository served on this
machine."""

import hashlib
import json
import os
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fetch_hololens
import pytest
from fetch_hololens import Catalogue, FetchError, fetch
from typer.testing import CliRunner

FOLDER = "sample/000"
ALL = 9
KEPT = ("00000.png", "00004.png", "00008.png")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for part in ("images", "depth"):
        (root / FOLDER / part).mkdir(parents=True)
        for i in range(ALL):
            (root / FOLDER / part / f"{i:05}.png").write_bytes(
                f"{part} {i}".encode()
            )
    (root / FOLDER / "K.txt").write_text("1 0 0\n0 1 0\n0 0 1\n")
    (root / FOLDER / "poses.txt").write_text(
        "".join(f"pose {i}\n" for i in range(ALL))
    )
    (root / "LICENSE").write_text("MIT")
    return root


@pytest.fixture
def served(repository: Path):
    """The repository's address, and the list of the paths that were asked
    for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(repository))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def catalogue_of(repository: Path, address: str) -> Catalogue:
    digest = lambda content: hashlib.sha256(content).hexdigest()
    sums = {
        "LICENSE": digest(b"MIT"),
        "K.txt": digest((repository / FOLDER / "K.txt").read_bytes()),
        "poses.txt": digest(b"pose 0\npose 4\npose 8\n"),
        "frame_list.txt": digest(
            "".join(f"{name}\n" for name in KEPT).encode()
        ),
    }
    sums |= {
        f"{part}/{name}": digest(
            (repository / FOLDER / part / name).read_bytes()
        )
        for part in ("images", "depth")
        for name in KEPT
    }
    return Catalogue(address, FOLDER, 4, ALL, sums)


@pytest.fixture
def catalogue(repository: Path, served) -> Catalogue:
    return catalogue_of(repository, served[0])


def test_every_nth_frame_with_its_pose(catalogue, tmp_path):
    out = tmp_path / "data" / "scan"
    assert fetch(out, catalogue) == 10
    assert (out / "poses.txt").read_text() == "pose 0\npose 4\npose 8\n"
    assert (out / "frame_list.txt").read_text().split() == list(KEPT)
    assert sorted(path.name for path in (out / "depth").iterdir()) == list(KEPT)
    assert [path.name for path in out.parent.iterdir()] == ["scan"]


def test_what_is_there_is_not_fetched_again(catalogue, served, tmp_path):
    fetch(tmp_path / "scan", catalogue)
    served[1].clear()
    assert fetch(tmp_path / "scan", catalogue) == 0
    assert served[1] == []


def test_a_stopped_run_goes_on(catalogue, served, repository, tmp_path):
    lost = repository / FOLDER / "depth" / "00004.png"
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(
        FetchError, match=r"depth/00004\.png: the server answers 404"
    ):
        fetch(tmp_path / "scan", catalogue)
    assert not (tmp_path / "scan").exists()
    lost.write_bytes(content)
    served[1].clear()
    # the lost one and the one after it
    assert fetch(tmp_path / "scan", catalogue) == 2
    assert len(served[1]) == 2
    assert (tmp_path / "scan" / "depth" / "00004.png").read_bytes() == content


def test_another_file_than_expected_is_refused(catalogue, repository, tmp_path):
    (repository / FOLDER / "images" / "00004.png").write_bytes(b"changed")
    with pytest.raises(
        FetchError,
        match=(
            r"images/00004\.png: expected SHA-256 \w+\.\.\., found .*\(7"
            r" bytes\)"
        ),
    ):
        fetch(tmp_path / "scan", catalogue)
    assert not (tmp_path / "scan").exists()
    assert not (tmp_path / "scan.part" / "images" / "00004.png").exists()


def test_a_damaged_file_of_an_earlier_run_is_fetched_again(catalogue, tmp_path):
    (tmp_path / "scan.part").mkdir()
    (tmp_path / "scan.part" / "K.txt").write_text("half")
    assert fetch(tmp_path / "scan", catalogue) == 10


def test_poses_of_another_length_are_refused(catalogue, repository, tmp_path):
    (repository / FOLDER / "poses.txt").write_text("pose 0\npose 4\npose 8\n")
    with pytest.raises(
        FetchError, match=r"poses\.txt: expected 9 rows, found 3"
    ):
        fetch(tmp_path / "scan", catalogue)


def test_a_folder_of_other_things_is_left_alone(catalogue, tmp_path):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "mine.txt").write_text("keep")
    with pytest.raises(
        FetchError, match="exists, but 10 files are missing or differ"
    ):
        fetch(tmp_path / "scan", catalogue)
    assert (tmp_path / "scan" / "mine.txt").read_text() == "keep"


def test_without_a_network(catalogue, tmp_path):
    away = replace(catalogue, base_url="http://127.0.0.1:9")
    with pytest.raises(
        FetchError,
        match=(
            r"cannot be reached .*run this again \(what was fetched is kept\),"
            r" or .*--base-url"
        ),
    ):
        fetch(tmp_path / "scan", away)
    assert not (tmp_path / "scan").exists()


def test_from_a_folder(catalogue, repository, tmp_path):
    assert (
        fetch(
            tmp_path / "scan", replace(catalogue, base_url=repository.as_uri())
        )
        == 10
    )


class TestCommand:
    def run(self, *arguments):
        app = fetch_hololens.typer.Typer()
        app.command()(fetch_hololens.main)
        return CliRunner().invoke(
            app, [str(argument) for argument in arguments]
        )

    def test_an_error_is_one_line(self, tmp_path):
        result = self.run(
            "--out",
            tmp_path / "scan",
            "--base-url",
            (tmp_path / "nothing").as_uri(),
        )
        assert result.exit_code == 2
        assert result.output.startswith("error: ")
        assert "cannot be reached" in result.output

    def test_it_says_how_to_go_on(self, repository, tmp_path, monkeypatch):
        catalogue = catalogue_of(repository, repository.as_uri())
        monkeypatch.setattr(
            Catalogue, "read", classmethod(lambda cls: catalogue)
        )
        result = self.run("--out", tmp_path / "scan")
        assert result.exit_code == 0, result.output
        assert (
            "3 frames, 10 files fetched, all checksums right" in result.output
        )
        assert "vlg convert rgbd" in result.output


class TestCatalogue:
    def test_it_is_complete(self):
        catalogue = Catalogue.read()
        assert len(catalogue.frames) == 47
        assert len(catalogue.sha256) == 2 * 47 + 4
        assert all(len(digest) == 64 for digest in catalogue.sha256.values())
        assert catalogue.base_url.startswith(
            "https://raw.githubusercontent.com/ardaduz/deep-video-mvs/"
        )
        # a commit, not a branch
        assert len(catalogue.base_url.rsplit("/", 1)[1]) == 40
        assert len(range(0, catalogue.frames_in_all, catalogue.every)) == 47

    @pytest.mark.skipif(
        not os.environ.get("VLG_HOLOLENS_DIR"),
        reason="VLG_HOLOLENS_DIR is not set",
    )
    def test_it_fits_the_scan_that_the_tests_use(self):
        folder = Path(os.environ["VLG_HOLOLENS_DIR"])
        assert folder.is_dir(), f"VLG_HOLOLENS_DIR={folder} is no folder"
        for name, digest in Catalogue.read().sha256.items():
            assert (
                hashlib.sha256((folder / name).read_bytes()).hexdigest()
                == digest
            )

    def test_it_names_its_source_and_licence(self):
        entries = json.loads(fetch_hololens.CATALOGUE.read_text())
        assert "MIT" in entries["about"]
        assert "Arda Duzceker" in entries["about"]
