"""Fetch a real posed RGB-D scan (47 frames of a HoloLens, 18 MB, MIT licence)
from its public repository.

The files come from one fixed commit and must have the SHA-256 checksums in
``hololens.json``. What is fetched is kept in ``OUT.part`` until all is there
and then renamed to ``OUT``, so a stopped run continues where it was.

The checksums are those of the copy that the tests use. Of that copy, the
intrinsics, the licence and samples of the poses were compared with the
repository's text; the images could not be, so a checksum that differs there is
worth a report.

    python data_scripts/fetch_hololens.py --out data/hololens
    vlg convert rgbd data/hololens --out scenes --up y
    vlg fuse scenes/hololens --out out
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import typer
from tqdm.auto import tqdm

from vlg_lib.artifacts import atomic_write

CATALOGUE = Path(__file__).with_name("hololens.json")
_TIMEOUT = 60.0


class FetchError(RuntimeError):
    """A file could not be fetched or is not the one expected; what was fetched
    before is kept.
    """


@dataclass(frozen=True)
class Catalogue:
    """Where the files are and what they must be; ``every``: the step between
    the frames that are taken.
    """

    base_url: str
    folder: str
    every: int
    frames_in_all: int
    sha256: Mapping[str, str]

    @classmethod
    def read(cls, path: Path = CATALOGUE) -> "Catalogue":
        """The catalogue beside this script."""
        entries = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{name: entries[name] for name in cls.__dataclass_fields__})

    @property
    def frames(self) -> list[str]:
        """The file names of the frames, in order."""
        return sorted(
            Path(name).name
            for name in self.sha256
            if name.startswith("images/")
        )


def fetch(out: Path, catalogue: Catalogue) -> int:
    """Fetch what is missing and rename the folder into place; returns the
    number of files fetched.

    FetchError, naming the file and the fix, without a network or for a file
    with another checksum; ``out`` does not exist then, and the files that were
    right wait in ``out.part``.
    """
    if out.exists():
        wrong = [
            name
            for name, digest in catalogue.sha256.items()
            if _digest(out / name) != digest
        ]
        if wrong:
            raise FetchError(
                f"{out}: exists, but {len(wrong)} files are missing or differ"
                f" ({wrong[0]}); delete or rename it"
            )
        return 0
    part = out.with_name(f"{out.name}.part")
    missing = [
        name
        for name, digest in catalogue.sha256.items()
        if _digest(part / name) != digest
    ]
    for name in tqdm(missing, desc="fetching", unit="file", disable=None):
        content = _content(name, catalogue)
        found = hashlib.sha256(content).hexdigest()
        if found != catalogue.sha256[name]:
            raise FetchError(
                f"{name}: expected SHA-256 {catalogue.sha256[name][:12]}...,"
                f" found {found[:12]}... ({len(content)} bytes); the download"
                " was damaged or the file was changed: try again, or report it"
            )
        with atomic_write(part / name) as file:
            file.write(content)
    part.rename(out)
    return len(missing)


def _content(name: str, catalogue: Catalogue) -> bytes:
    """A file as it is kept: fetched, and for the two lists reduced to our
    frames.
    """
    if name == "frame_list.txt":
        return "".join(f"{frame}\n" for frame in catalogue.frames).encode()
    if name == "LICENSE":
        return _download(f"{catalogue.base_url}/{name}")
    content = _download(f"{catalogue.base_url}/{catalogue.folder}/{name}")
    if name != "poses.txt":
        return content
    rows = content.decode("ascii", errors="replace").splitlines()
    if len(rows) != catalogue.frames_in_all:
        raise FetchError(
            f"poses.txt: expected {catalogue.frames_in_all} rows, found"
            f" {len(rows)}; report it"
        )
    return "".join(f"{row}\n" for row in rows[:: catalogue.every]).encode()


def _download(url: str) -> bytes:
    try:
        with urlopen(url, timeout=_TIMEOUT) as answer:
            content: bytes = answer.read()
            return content
    except HTTPError as error:
        raise FetchError(
            f"{url}: the server answers {error.code} {error.reason}; has the"
            " repository moved?"
        ) from error
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise FetchError(
            f"{url}: cannot be reached ({reason}); connect to the internet and"
            " run this again (what was fetched is kept), or name a mirror with"
            " --base-url"
        ) from error


def _digest(path: Path) -> str | None:
    return (
        hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else None
    )


def main(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path(
        "data/hololens"
    ),
    base_url: Annotated[
        str | None,
        typer.Option(help="Another place with the repository's files."),
    ] = None,
) -> None:
    """Fetch the HoloLens scan, checksummed, and say how to go on."""
    catalogue = Catalogue.read()
    if base_url is not None:
        catalogue = Catalogue(
            base_url.rstrip("/"),
            catalogue.folder,
            catalogue.every,
            catalogue.frames_in_all,
            catalogue.sha256,
        )
    try:
        count = fetch(out, catalogue)
    except FetchError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(
        f"{out}: {len(catalogue.frames)} frames, {count} files fetched, all"
        " checksums right"
    )
    typer.echo(f"next: vlg convert rgbd {out} --out scenes --up y")
    typer.echo(
        f"the tests on it: VLG_HOLOLENS_DIR={out} python -m pytest"
        " tests/test_hololens.py"
    )


if __name__ == "__main__":
    typer.run(main)
