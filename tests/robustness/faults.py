"""Faults on purpose: a run and conversions over twelve scenes, killed at random
moments and started again.

    export PYTHONPATH=tests
    python tests/robustness/faults.py kill --kills 20 --seed 0
    python tests/robustness/faults.py convert --kills 20 --seed 0

``make robustness`` runs both.

Each line is one JSON object. ``kill`` runs the whole method once undisturbed,
then again and again from nothing, killed (SIGKILL) at a moment drawn from each
twentieth of the undisturbed run's time, and started again to its end. After the
kill every file under a final name must be whole and hold what the undisturbed
run's file holds (a checkpoint may be of an earlier step); in the end all files
must. ``reused``: files that the second start took as they were; ``remade``:
those that it wrote anew; ``temporary``: files under temporary names that the
killed process left, and how many of them are there in the end; ``outlived``:
whether a process that it had started went on without it. ``convert`` does so
with the converters of ScanNet and S3DIS, byte for byte, in one process and, for
a fifth of the kills, in two.

What is not as it must be ends in a line on standard error and exit status 1.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from fault_run import (
    Command,
    digests,
    empty,
    execute,
    left_over,
    run_command,
    stage_of,
    times,
    unlike,
)
from s3dis_files import write_room, write_view
from scannet_files import floor_shots, write_scan

from vlg_lib.rooms.scenes import room_scene


@dataclass(frozen=True)
class Work:
    """Something to do that writes into a folder: its name, and the command for
    a folder.
    """

    name: str
    command: Callable[[Path], Command]
    slow: bool = False

    def share(self, kills: int) -> int:
        """How often it is killed: where processes take longer to start than to
        work, a fifth of the times.
        """
        return -(-kills // 5) if self.slow else kills


RUN = Work("run over 12 scenes", run_command)


def conversions(folder: Path) -> list[Work]:
    """The converters of ScanNet and S3DIS over twelve scenes each, in one
    process and in two; the scenes are written for the first that needs them.
    """
    return [
        work
        for jobs in (1, 2)
        for work in (
            conversion(
                "ScanNet, 12 scenes", jobs, "scannet", write_scans, folder
            ),
            conversion("S3DIS, 12 rooms", jobs, "s3dis", write_rooms, folder),
        )
    ]


def conversion(
    name: str,
    jobs: int,
    form: str,
    write: Callable[[Path], list[str]],
    folder: Path,
) -> Work:
    """A conversion of what ``write`` puts into a folder, so many scenes at
    once.
    """

    def command(out: Path) -> Command:
        source = write(folder / form)
        return convert_command(form, source, out, "--jobs", str(jobs))

    return Work(f"{name}, {jobs} at once", command, slow=jobs > 1)


def convert_command(
    form: str, source: list[str], out: Path, *options: str
) -> Command:
    """The command that converts a data set in one format; ``source`` names it,
    and what it is read with.
    """
    return Command(["convert", form, *source, "--out", str(out), *options])


@cache
def write_scans(folder: Path) -> list[str]:
    """Twelve ScanNet scenes of twenty frames."""
    for index in range(12):
        write_scan(folder, f"scene{index:04d}_00", floor_shots(20))
    return [str(folder), "--every", "1"]


@cache
def write_rooms(folder: Path) -> list[str]:
    """Twelve rooms of S3DIS, and their images."""
    for index in range(12):
        scene, _ = room_scene(index, views=8, width=96, height=72)
        name = f"office_{index + 1}"
        objects = [("wall_1", scene.points.numpy(), scene.colors.numpy())]
        write_room(folder / "rooms" / "Area_1" / name, objects)
        for number, frame in enumerate(scene.frames):
            assert frame.depth is not None
            write_view(
                folder / "images" / "area_1",
                f"{number:032x}",
                name,
                number,
                frame.camera_to_world.numpy(),
                frame.camera.matrix.numpy(),
                frame.color.numpy(),
                frame.depth.numpy(),
            )
    return [str(folder / "rooms"), "--images", str(folder / "images")]


def killed(
    work: Work, folder: Path, whole: dict[str, str], after: float
) -> dict[str, object] | None:
    """One line about a kill and the start after it; None where the work had
    ended before the kill.
    """
    command = work.command(empty(folder))
    first = execute(command, kill_after=after)
    if first.status != -9:
        return None
    stage, before, found = stage_of(folder), times(folder), digests(folder)
    left = left_over(folder)
    again = execute(command)
    kept = [
        name
        for name, moment in times(folder).items()
        if before.get(name) == moment
    ]
    return {
        "name": f"{work.name}, killed",
        "after_seconds": round(after, 2),
        "last_written": stage,
        "files": len(found),
        "partial": unlike(found, whole),
        "temporary": [left, left_over(folder)],
        "reused": len(kept),
        "remade": len(before) - len(kept),
        "outlived": first.outlived,
        "status": again.status,
        "equal": digests(folder) == whole,
    }


def kills(
    work: Work, folder: Path, count: int, seed: int
) -> Iterator[dict[str, object]]:
    """One line for the undisturbed work, and one for each kill: a random moment
    in each of ``count`` parts of it.
    """
    rng = random.Random(seed)
    undisturbed = execute(work.command(empty(folder)))
    whole, seconds = digests(folder), undisturbed.seconds
    yield {
        "name": f"{work.name}, undisturbed",
        "status": undisturbed.status,
        "seconds": round(seconds, 1),
        "files": len(whole),
    }
    for part in range(count):
        while (
            line := killed(
                work, folder, whole, (part + rng.random()) / count * seconds
            )
        ) is None:
            seconds *= 0.9  # the machine has become faster than it was
        yield {**line, "seed": seed, "kill": part + 1}


def wrong(line: dict[str, object]) -> bool:
    """Whether a line tells of a fault that was not fixed."""
    return bool(
        line["status"] != 0
        or line.get("partial")
        or line.get("equal") is False
        or line.get("outlived")
    )


def main() -> None:
    """Kill, start again, compare; exit status 1 where something is not as it
    must be.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=["kill", "convert"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="work whose name begins so")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where everything is written [the system's temporary folder]",
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    faults = 0
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        works = [RUN] if given.kind == "kill" else conversions(folder)
        for work in works:
            if not work.name.startswith(given.only):
                continue
            share = work.share(given.kills)
            for line in kills(work, folder / "work", share, given.seed):
                print(json.dumps(line), flush=True)
                faults += wrong(line)
    if faults:
        sys.exit(f"{faults} lines tell of faults")


if __name__ == "__main__":
    main()
