"""A converter that is killed in the middle and started again: what is there is
whole and kept, the rest is made."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vlg_lib.data.layout import read_scene


def finished_scenes(out: Path) -> list[Path]:
    """The scene folders in ``out``, without the hidden ones in which scenes are
    built."""
    return sorted(
        path for path in out.iterdir() if not path.name.startswith(".")
    )


def kill_and_go_on(
    script: Path,
    arguments: Sequence[object],
    out: Path,
    names: Sequence[str],
    frames: int,
    run: Callable,
) -> None:
    """SIGKILL at a random moment after the first scene; then
    ``run(*arguments)`` in this process makes the rest.

    ``names``: the scenes that come out, each with ``frames`` frames.
    """
    command = [sys.executable, str(script), *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (
        out.is_dir() and finished_scenes(out)
    ):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {
        path.name: (path / "scene.json").stat().st_mtime_ns
        for path in finished_scenes(out)
    }
    assert before
    assert all(len(read_scene(out / name).frames) == frames for name in before)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert (
        f"{len(names) - len(before)} scenes converted, {len(before)} kept"
        in result.output
    )
    # hidden folders are gone, too
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert all(len(read_scene(out / name).frames) == frames for name in names)
    assert before == {
        name: (out / name / "scene.json").stat().st_mtime_ns for name in before
    }
