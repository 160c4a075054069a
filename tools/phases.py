"""Run targets of the Makefile as phases, and print where the time went.

    python tools/phases.py "lint unit" "notebooks nbval site browser"

Each argument is a track: its phases run one after another and end with the
first that fails, while the other tracks go on. At the end every phase has a
line with its wall-clock and its CPU seconds, those of all its processes
together. Each line that a phase prints begins with its name.
"""

import ctypes
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

PRINTING = threading.Lock()
WAIT = "--wait-for-all"
PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 10.0
"""Seconds that what a phase has left may take to end."""


@dataclass
class Phase:
    """One target: what became of it, and what it took."""

    name: str
    status: str = "not run"
    wall: float = 0.0
    cpu: float = 0.0


def run(phase: Phase, earlier: list[str], width: int) -> bool:
    """Make one target, and hand on what it prints line by line; False where
    it fails.

    Targets that were made ``earlier`` count as done, so that make does not
    start them again for the sake of this one.
    """
    done = [option for name in earlier for option in ("-o", name)]
    make = [os.environ.get("MAKE", "make"), "--no-print-directory"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, __file__, WAIT, *make, *done, phase.name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    for line in process.stdout:
        with PRINTING:
            print(f"{phase.name:>{width}} | {line.rstrip()}", flush=True)
    # wait4 rather than wait: it tells what this child took, and all of its own
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    phase.wall = time.perf_counter() - start
    phase.cpu = usage.ru_utime + usage.ru_stime
    phase.status = "failed" if process.returncode else "passed"
    return process.returncode == 0


def wait_for_all(command: list[str]) -> int:
    """Run a command; its exit status, once whatever it has left is gone, too.

    On Linux, processes that outlive their parents become this process's
    children (a browser's do, which draw), so that what they took is counted.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    process = subprocess.Popen(command)
    status = process.wait()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)
        except ChildProcessError:
            break
    return status


def walk(track: list[Phase], width: int) -> None:
    """Run the phases of one track, until one fails."""
    earlier = ["env"]
    for phase in track:
        if not run(phase, earlier, width):
            return
        earlier.append(phase.name)


def table(phases: list[Phase], wall: float) -> str:
    """Phase by phase, and all of them together."""
    everything = Phase("together", "", wall, sum(each.cpu for each in phases))
    lines = [f"{'phase':12}{'wall s':>8}{'CPU s':>8}"]
    for each in [*phases, everything]:
        line = f"{each.name:12}{each.wall:8.1f}{each.cpu:8.1f}  {each.status}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run the tracks side by side; 1 where a phase failed or was not run."""
    if arguments[:1] == [WAIT]:
        return wait_for_all(arguments[1:])
    tracks = [[Phase(name) for name in track.split()] for track in arguments]
    phases = [phase for track in tracks for phase in track]
    if not phases:
        sys.exit('usage: python tools/phases.py "TARGET ..." ["TARGET ..."]')
    width = max(len(phase.name) for phase in phases)
    start = time.perf_counter()
    threads = [
        threading.Thread(target=walk, args=(track, width)) for track in tracks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(table(phases, time.perf_counter() - start), flush=True)
    return int(any(phase.status != "passed" for phase in phases))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
