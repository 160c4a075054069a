"""Malformed inputs for every parser: valid bytes, broken at random, must give a
result or the documented error.

    PYTHONPATH=tests python tests/robustness/fuzz.py --inputs 110000 --seed 0

``make robustness`` runs it. The parsers and how bytes are broken are those of
fuzz_parsers.py (ScanNet, S3DIS), fuzz_own_files.py (the library's own files,
and tensors of others) and tests/test_scan_formats_fuzz.py (scans in foreign
formats); the tests try 500 inputs each.

Each line is one JSON object about a parser: how many inputs it read and
refused, with what errors, how many different messages (numbers and quoted parts
left out), and the longest time; the last line has the sums and the most memory.
A parser that leaves out a damaged frame and counts it has read the scene.

Another error, a crash, five seconds of processor time or two gigabytes more
than at the start end the run with the input that did it.
"""

import argparse
import json
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from fuzz_own_files import own_parsers
from fuzz_parsers import Parser, mutate, parsers, random_edits
from test_scan_formats_fuzz import FILES, two_frames

from vlg_lib.artifacts import StoreError
from vlg_lib.convert.formats.registry import FORMATS
from vlg_lib.data.frames import LayoutError
from vlg_lib.networks.point_network import (
    NetworkSettings,
    PointNetwork,
    load_network,
    save_network,
)

SECONDS, BYTES = 5.0, 2**31


class Tally:
    """What a parser did."""

    def __init__(self) -> None:
        self.read, self.refused, self.longest = 0, Counter[str](), 0.0
        self.messages: set[str] = set()

    def line(self, name: str) -> dict[str, object]:
        """One JSON line."""
        return {
            "parser": name,
            "read": self.read,
            "refused": self.refused.total(),
            "errors": dict(self.refused),
            "messages": len(self.messages),
            "longest_ms": round(1000 * self.longest, 1),
        }


def scan_parsers(root: Path) -> list[Parser]:
    """The parsers of scans in foreign formats, each with a scan of its own in
    ``root``.
    """
    made = []
    for which, (name, write, file) in FILES.items():
        folder = root / which / "scan"
        folder.mkdir(parents=True)
        write(folder, two_frames())
        parse = partial(read_scan, name, folder)
        made.append(
            Parser(
                which,
                [(folder / file).read_bytes()],
                parse,
                LayoutError,
                str(folder / file),
            )
        )
    return made


def network_parser(folder: Path) -> Parser:
    """The parser of a stored 3D network, whose files are too large for the
    tests.
    """
    path = folder / "network.safetensors"
    save_network(path, PointNetwork(NetworkSettings("MinkUNetSmall", 3, 0.1)))
    return Parser(
        "network", [path.read_bytes()], load_network, StoreError, path.name
    )


def read_scan(name: str, folder: Path, _: Path) -> None:
    """All that a format reads: posed images (the first hundred) and, where it
    has some, points.
    """
    list(islice(FORMATS[name].read(folder), 100))
    points = FORMATS[name].points
    if points is not None:
        points(folder)


def attempt(parser: Parser, folder: Path, data: bytes, tally: Tally) -> None:
    """Let a parser read the bytes; errors that it does not document pass
    through.
    """
    path = folder / parser.file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        result = parser.parse(path)
    except parser.error as error:
        if parser.error is not ValueError and type(error) is ValueError:
            raise
        tally.refused[type(error).__name__] += 1
        tally.messages.add(
            re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|[0-9.]+", "_", str(error))[:200]
        )
    else:
        left_out = isinstance(result, str)  # one frame, with the reason why
        tally.read += not left_out
        tally.refused.update([f"left out: {result}"] if left_out else [])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        tally.longest = max(tally.longest, time.process_time() - started)


def megabytes(what: str) -> int:
    """Memory of this process: VmRSS now, VmHWM the most it ever had, VmSize
    with all that is mapped.
    """
    return (
        int(
            Path("/proc/self/status")
            .read_text()
            .split(f"{what}:")[1]
            .split()[0]
        )
        // 1024
    )


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def main() -> None:
    """Run many malformed inputs over all parsers."""
    arguments = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--inputs", type=int, default=110_000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    rng, start = random.Random(given.seed), time.process_time()
    signal.signal(signal.SIGPROF, _too_slow)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = [
            *parsers(folder),
            *own_parsers(folder),
            network_parser(folder),
            *scan_parsers(folder / "scans"),
        ]
        tallies = {parser.name: Tally() for parser in known}
        assert len(tallies) == len(known), "two parsers have one name"
        for parser in known:
            for data in parser.valid:
                attempt(parser, folder, data, tally := Tally())
                assert tally.read == 1 or parser.name == "2D-3D-S pose", (
                    f"{parser.name}: a whole file is refused"
                )
        before = megabytes("VmRSS")
        resource.setrlimit(
            resource.RLIMIT_AS,
            (megabytes("VmSize") * 2**20 + BYTES, resource.RLIM_INFINITY),
        )
        for number in range(given.inputs):
            parser = known[number % len(known)]
            data = mutate(rng.choice(parser.valid), random_edits(rng))
            try:
                attempt(parser, folder, data, tallies[parser.name])
            except BaseException:
                print(
                    f"{parser.name}, input {number} of seed {given.seed}:"
                    f" {data[:5000]!r}",
                    file=sys.stderr,
                )
                raise
    for parser in known:
        print(json.dumps(tallies[parser.name].line(parser.name)))
    print(
        json.dumps(
            {
                "inputs": given.inputs,
                "parsers": len(known),
                "seed": given.seed,
                "read": sum(tally.read for tally in tallies.values()),
                "refused": sum(
                    tally.refused.total() for tally in tallies.values()
                ),
                "undocumented_errors": 0,
                "cpu_seconds": round(time.process_time() - start),
                "MB_before": before,
                "MB_at_most": megabytes("VmHWM"),
            }
        )
    )


if __name__ == "__main__":
    main()
