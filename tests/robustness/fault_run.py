"""What the recorded faults share: commands in processes of their own, what they
leave on disk, and whether it is whole.

The run is ``vlg run`` at the smallest size (tests/tiny.py) over
twelve made rooms, nine to learn from and three unseen. A process is a fork of
one that has imported the library, which takes longer than much of the run.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tiny import TINY

from vlg_lib import cli
from vlg_lib.artifacts import load_tensors, read_json
from vlg_lib.pipeline import profiles

Main = Callable[[], object]
"""The entry of a command, which reads ``sys.argv``."""

PROFILE = replace(
    TINY,
    rooms=replace(TINY.rooms, train=9, test=3, views=2, width=64, height=48),
    adapter=replace(TINY.adapter, steps=40, points_per_room=500),
    training=replace(TINY.training, steps=4),
    cam=replace(TINY.cam, training=replace(TINY.cam.training, steps=2)),
    checkpoint_every=2,
)


@dataclass(frozen=True)
class Command:
    """A command: its arguments, and the entry that reads them from
    ``sys.argv``.
    """

    arguments: list[str]
    main: Main = cli.main


LEARNT = ("adapter", "network")
"""The folders of the cache whose files are checkpoints: a run that goes on
writes them anew."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status (minus the signal that killed it),
    its standard error, its seconds.

    ``outlived``: whether processes that it had started went on without it.
    """

    status: int
    errors: list[str]
    seconds: float
    outlived: bool


def run_command(cache: Path, *more: str) -> Command:
    """The run, with everything that it writes under ``cache``."""
    sizes = ["--profile", PROFILE.name, "--device", "cpu", "--quiet"]
    places = ["--cache", str(cache), "--out", str(cache / "out")]
    return Command(["run", *sizes, *places, *more])


def execute(command: Command, kill_after: float | None = None) -> Ended:
    """Run a command in a fork of this process, which is killed after so many
    seconds where it has not ended.
    """
    with tempfile.NamedTemporaryFile("r") as log:
        started = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os._exit(_in_child(command, Path(log.name)))
        status = None
        while status is None:
            found, code = os.waitpid(pid, os.WNOHANG)
            if found:
                status = os.waitstatus_to_exitcode(code)
            elif (
                kill_after is not None
                and time.perf_counter() - started >= kill_after
            ):
                os.kill(pid, signal.SIGKILL)
                kill_after = None
            else:
                time.sleep(0.001)
        return Ended(
            status,
            log.read().splitlines(),
            time.perf_counter() - started,
            _outlive(pid),
        )


def _outlive(group: int, at_most: float = 30.0) -> bool:
    """Whether processes that a process has started are there some time after
    its end; then they are ended, too.
    """
    until = time.perf_counter() + at_most
    while _is_there(group):
        if time.perf_counter() > until:
            os.killpg(group, signal.SIGKILL)
            return True
        time.sleep(0.01)
    return False


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _in_child(command: Command, log: Path) -> int:
    os.setpgid(0, 0)  # what it starts is of its group
    profiles.PROFILES[PROFILE.name] = PROFILE
    sys.argv = ["vlg", *command.arguments]
    with (
        log.open("w") as file,
        Path(os.devnull).open("w") as nowhere,
        redirect_stderr(file),
        redirect_stdout(nowhere),
    ):
        try:
            command.main()
        except SystemExit as stop:
            return (
                stop.code
                if isinstance(stop.code, int)
                else int(stop.code is not None)
            )
        except BaseException:
            traceback.print_exc()
            return 70
    return 0


def written(folder: Path) -> dict[str, Path]:
    """The files that stand under their final names, by their paths in
    ``folder``: no part of the path is hidden.
    """
    names = {
        path: path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file()
    }
    return {
        str(name): path
        for path, name in names.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def left_over(folder: Path) -> int:
    """How many temporary files there are, which a killed process could not
    remove.
    """
    return sum(path.is_file() for path in folder.rglob("*")) - len(
        written(folder)
    )


def times(folder: Path) -> dict[str, int]:
    """When each file was written, in nanoseconds."""
    return {
        name: path.stat().st_mtime_ns for name, path in written(folder).items()
    }


def digest(path: Path) -> str:
    """A hash of what a file says, without the seconds it took; StoreError where
    it is not whole.
    """
    sha = hashlib.sha256()
    if path.suffix == ".safetensors":
        tensors, manifest = load_tensors(path)
        for name in sorted(tensors):
            kind = f"{tensors[name].dtype} {tuple(tensors[name].shape)}"
            sha.update(f"{name} {kind}".encode())
            sha.update(
                tensors[name]
                .contiguous()
                .flatten()
                .view(torch.uint8)
                .numpy()
                .tobytes()
            )
        sha.update(json.dumps(_timeless(manifest), sort_keys=True).encode())
    elif path.suffix == ".json":
        sha.update(
            json.dumps(_timeless(read_json(path)), sort_keys=True).encode()
        )
    else:
        sha.update(path.read_bytes())
    return sha.hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _timeless(entry)
            for name, entry in value.items()
            if name != "seconds"
        }
    return (
        [_timeless(entry) for entry in value]
        if isinstance(value, list)
        else value
    )


def digests(folder: Path) -> dict[str, str]:
    """The hash of every file under its final name; the key in a table's name,
    which follows times, is left out.
    """
    return {
        re.sub(r"(?<=^table/table)-\w+", "", name): digest(path)
        for name, path in written(folder).items()
    }


def unlike(found: dict[str, str], whole: dict[str, str]) -> list[str]:
    """The files that an undisturbed run does not have so; those whose training
    goes on may be at an earlier step.
    """
    learning = tuple(f"{name}/" for name in LEARNT)
    return [
        n
        for n, what in found.items()
        if whole.get(n) != what and not (n in whole and n.startswith(learning))
    ]


def stage_of(folder: Path) -> str:
    """The part of the cache that was written last."""
    last = max(
        times(folder).items(), key=lambda entry: entry[1], default=("", 0)
    )[0]
    return last.split("/")[0].split("-")[0] or "nothing"


def empty(folder: Path) -> Path:
    """The folder, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
