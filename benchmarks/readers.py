"""Speed of the readers of foreign formats: .sens streams against plain
decoding, S3DIS text against numpy.loadtxt.

    python benchmarks/readers.py --frames 60 --lines 300000 --runs 5

Each line is one JSON object with ``name, ours, baseline, ratio, unit, runs,
threads`` (ratio > 1: ours is better): medians of runs in which ours and the
baseline take turns. The data are generated: a stream of smooth noisy images of
ScanNet's sizes (1296 x 968 JPEG, 640 x 480 depth, zlib), and a room of random
points as S3DIS writes them.

The baseline of the stream is what no reader can do without: ``zlib.decompress``
and Pillow's JPEG decoder over the same bytes, already in memory. Ours opens the
file, finds the frames, reads them, decodes and checks them, and turns depth
into metres; "open and seek" is the time to find all frames of the file and to
read the last. "conversion" is a whole run of ``vlg convert scannet`` on one
scene, which decodes each frame twice (once to know that it is whole), resamples
it and writes two PNG files, against decoding it once. On a busy machine use
``--cpu-time``.
"""

import argparse
import io
import json
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fusion import take_turns
from PIL import Image

from vlg_lib.convert.registration import parse_size
from vlg_lib.convert.s3dis_text import read_text
from vlg_lib.convert.scannet import (
    ScannetSettings,
    ScannetSource,
    convert_scene,
)
from vlg_lib.convert.sens import SensFile
from vlg_lib.data.ply import write_points

COLOR, DEPTH = (1296, 968), (640, 480)


def frame_bytes(rng: np.random.Generator) -> tuple[bytes, bytes]:
    """One JPEG of about ScanNet's size and one zlib depth image: smooth shapes
    with some noise.
    """
    x, y = np.meshgrid(np.linspace(0, 9, COLOR[0]), np.linspace(0, 7, COLOR[1]))
    shape = 127 + 90 * np.sin(x + rng.uniform(0, 6)) * np.cos(
        y + rng.uniform(0, 6)
    )
    color = np.clip(
        shape[..., None] * [1, 0.8, 0.6] + rng.normal(0, 6, (*x.shape, 3)),
        0,
        255,
    ).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(color).save(buffer, "jpeg", quality=85)
    x, y = np.meshgrid(np.linspace(0, 3, DEPTH[0]), np.linspace(0, 3, DEPTH[1]))
    codes = (
        2000 + 900 * np.sin(x + rng.uniform(0, 6)) + rng.normal(0, 3, x.shape)
    )
    codes[rng.random(codes.shape) < 0.02] = 0
    return buffer.getvalue(), zlib.compress(codes.astype("<u2").tobytes())


def write_stream(path: Path, frames: list[tuple[bytes, bytes]]) -> None:
    """The frames as a .sens file of version 4."""
    matrix = struct.pack("<16f", *np.eye(4).ravel())
    color_matrix, depth_matrix = (
        struct.pack(
            "<16f",
            focal,
            0,
            width / 2,
            0,
            0,
            focal,
            height / 2,
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            1,
        )
        for focal, (width, height) in ((1170.0, COLOR), (578.0, DEPTH))
    )
    with path.open("wb") as file:
        file.write(
            struct.pack("<IQ", 4, 3)
            + b"cam"
            + color_matrix
            + matrix
            + depth_matrix
            + matrix
        )
        file.write(
            struct.pack("<iiIIIIfQ", 2, 1, *COLOR, *DEPTH, 1000.0, len(frames))
        )
        for color, depth in frames:
            file.write(
                matrix
                + struct.pack("<QQQQ", 0, 0, len(color), len(depth))
                + color
                + depth
            )


def report(
    name: str,
    ours: float,
    baseline: float,
    unit: str,
    runs: int,
    **facts: object,
) -> None:
    """One JSON line of two rates (more is better)."""
    line = {
        "name": name,
        "ours": round(ours, 2),
        "baseline": round(baseline, 2),
        "ratio": round(ours / baseline, 2),
    }
    print(
        json.dumps(
            line
            | {
                "unit": unit,
                "runs": runs,
                "threads": torch.get_num_threads(),
                **facts,
            }
        ),
        flush=True,
    )


def read_stream(path: Path) -> None:
    with SensFile(path) as sens:
        for index in range(len(sens)):
            sens.color(index)
            sens.depth(index)


def read_last(path: Path) -> None:
    with SensFile(path) as sens:
        sens.color(len(sens) - 1)
        sens.depth(len(sens) - 1)


def decode(frames: list[tuple[bytes, bytes]]) -> None:
    for color, depth in frames:
        np.asarray(Image.open(io.BytesIO(color)))
        np.frombuffer(zlib.decompress(depth), "<u2").reshape(DEPTH[1], DEPTH[0])


def measure_sens(
    folder: Path, given: argparse.Namespace, clock: Callable[[], float]
) -> None:
    rng = np.random.default_rng(0)
    frames = [frame_bytes(rng) for _ in range(given.frames)]
    path = folder / "a.sens"
    write_stream(path, frames)
    seconds = take_turns(
        {
            "ours": lambda: read_stream(path),
            "baseline": lambda: decode(frames),
            "last": lambda: read_last(path),
        },
        given.runs,
        clock,
    )
    megabytes = path.stat().st_size / 1e6
    facts = {"frames": given.frames, "file_MB": round(megabytes, 1)}
    ours, baseline = seconds["ours"], seconds["baseline"]
    report(
        "sens decoding",
        megabytes / ours,
        megabytes / baseline,
        "MB/s",
        given.runs,
        **facts,
    )
    report(
        "sens decoding",
        given.frames / ours,
        given.frames / baseline,
        "frames/s",
        given.runs,
        **facts,
    )
    report(
        "sens open and seek",
        1 / seconds["last"],
        1 / ours,
        "1/s against the whole stream",
        given.runs,
        **facts,
    )


def measure_conversion(
    folder: Path, given: argparse.Namespace, clock: Callable[[], float]
) -> None:
    rng = np.random.default_rng(0)
    frames = [frame_bytes(rng) for _ in range(min(given.frames, 20))]
    name = "scene0000_00"
    write_points(
        folder / name / f"{name}_vh_clean_2.ply",
        torch.zeros(1, 3),
        torch.zeros(1, 3, dtype=torch.uint8),
    )
    write_stream(folder / name / f"{name}.sens", frames)
    for size in ("320x240", "depth"):
        settings = ScannetSettings(frame_skip=1, size=parse_size(size))
        convert = partial(
            convert_scene,
            name,
            folder / "out" / name,
            ScannetSource(folder),
            settings,
        )
        seconds = take_turns(
            {"ours": convert, "baseline": lambda: decode(frames)},
            given.runs,
            clock,
        )
        rates = len(frames) / seconds["ours"], len(frames) / seconds["baseline"]
        report(
            f"sens conversion, size {size}",
            *rates,
            "frames/s",
            given.runs,
            frames=len(frames),
        )


def measure_text(
    folder: Path, given: argparse.Namespace, clock: Callable[[], float]
) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-30, 40, (given.lines, 3))
    colors = rng.integers(0, 256, (given.lines, 3))
    rows = zip(points.tolist(), colors.tolist(), strict=True)
    path = folder / "room_1.txt"
    path.write_text(
        "".join(
            f"{x:.3f} {y:.3f} {z:.3f} {r} {g} {b}\n"
            for (x, y, z), (r, g, b) in rows
        )
    )
    expected, (found, _, _) = np.loadtxt(path), read_text(path)
    assert np.array_equal(found.numpy(), expected[:, :3].astype(np.float32))
    seconds = take_turns(
        {"ours": lambda: read_text(path), "baseline": lambda: np.loadtxt(path)},
        given.runs,
        clock,
    )
    megabytes = path.stat().st_size / 1e6
    facts = {"lines": given.lines, "file_MB": round(megabytes, 1)}
    rates = megabytes / seconds["ours"], megabytes / seconds["baseline"]
    report(
        "S3DIS text against numpy.loadtxt", *rates, "MB/s", given.runs, **facts
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--lines", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor time instead of wall-clock time",
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time if given.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as name:
        measure_sens(Path(name), given, clock)
        measure_conversion(Path(name), given, clock)
        measure_text(Path(name), given, clock)


if __name__ == "__main__":
    main()
