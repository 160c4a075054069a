"""A converter that is killed in the middle and started again: what is there is
whole and kept, the rest is made."""

import pickle
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from programs import start_python

from vlg_lib.convert.batch import Summary
from vlg_lib.data.layout import read_scene


def finished_scenes(out: Path) -> list[Path]:
    """The scene folders in ``out``, without the hidden ones in which scenes are
    built."""
    return sorted(
        path for path in out.iterdir() if not path.name.startswith(".")
    )


def kill_and_go_on(
    convert: Callable[[], Summary], out: Path, names: Sequence[str], frames: int
) -> None:
    """SIGKILL of another process that converts, at a random moment after the
    first scene; then ``convert()`` in this process makes the rest.

    ``convert``: a ``partial`` of a function of the library, whose arguments
    can be pickled. ``names``: the scenes that come out, each with ``frames``
    frames.
    """
    call = f"import pickle; pickle.loads({pickle.dumps(convert)!r})()"
    process = start_python(["-c", call])
    while process.poll() is None and not (
        out.is_dir() and finished_scenes(out)
    ):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.wait()
    before = {
        path.name: (path / "scene.json").stat().st_mtime_ns
        for path in finished_scenes(out)
    }
    assert before
    assert all(len(read_scene(out / name).frames) == frames for name in before)
    result = convert()
    assert not result.failed, str(result)
    assert (
        f"{len(names) - len(before)} scenes converted, {len(before)} kept"
        in str(result)
    )
    # hidden folders are gone, too
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert all(len(read_scene(out / name).frames) == frames for name in names)
    assert before == {
        name: (out / name / "scene.json").stat().st_mtime_ns for name in before
    }
