"""Programs that are forks look like programs that Python has been started
for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm import AVAILABLE, Warm

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="Linux only")

TELL = """
import atexit, os, sys
atexit.register(print, "the end")
print(sys.argv[1:], __name__, os.getcwd(), os.environ.get("WORD"))
print(os.environ.get("HOME") is None, next(iter(sys.path)))
print("trouble", file=sys.stderr)
{last}
"""


@pytest.fixture(scope="module")
def warm():
    with Warm(["json"]) as warm:
        yield warm


def cold(words, **options):
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, **options
    )


@pytest.mark.parametrize(
    "last", ["", "sys.exit(3)", "sys.exit('a reason')", "1 / 0"]
)
@pytest.mark.parametrize("kind", ["script", "code", "module"])
def test_it_does_what_python_does(warm, tmp_path, kind, last):
    (tmp_path / "told.py").write_text(TELL.format(last=last))
    first = {
        "script": [str(tmp_path / "told.py")],
        "code": ["-c", TELL.format(last=last)],
        "module": ["-m", "told"],
    }[kind]
    options = {"cwd": tmp_path, "env": {"WORD": "hello"}}
    expected = cold([*first, "a", "b"], **options)
    found = warm.run([*first, "a", "b"], **options)
    assert found.returncode == expected.returncode
    assert found.stdout == expected.stdout
    # the frames above the program's own differ
    assert found.stderr[:7] == expected.stderr[:7]
    assert found.stderr.splitlines()[-1:] == expected.stderr.splitlines()[-1:]


def test_the_search_path_is_that_of_its_environment(warm, tmp_path):
    (tmp_path / "mine.py").write_text("word = 'found'")
    code = ["-c", "import mine; print(mine.word)"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert warm.run(code, env=env).stdout == "found\n"
    assert "No module named 'mine'" in warm.run(code).stderr


def test_nothing_of_one_program_is_in_the_next(warm):
    warm.run(["-c", "import os, json; json.left = os.environ['X'] = '1'"])
    code = "import os, json; print(hasattr(json, 'left'), 'X' in os.environ)"
    assert warm.run(["-c", code]).stdout == "False False\n"


def test_several_run_at_once_and_are_killed_one_by_one(warm):
    first, second = (
        warm.start(["-c", "import time; time.sleep(60)"]) for _ in range(2)
    )
    assert first.pid != second.pid
    assert first.poll() is second.poll() is None
    first.kill()
    assert first.wait() == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.01)
    second.terminate()
    assert second.wait() == -signal.SIGTERM


def test_it_tells_what_a_program_took(warm):
    busy = warm.start(["-c", "sum(range(10_000_000))"])
    idle = warm.start(["-c", "pass"])
    assert busy.wait() == idle.wait() == 0
    assert busy.cpu > idle.cpu
    assert busy.peak_memory > 1000


def test_what_it_has_started_ends_with_it(tmp_path: Path):
    with Warm([]) as warm:
        program = warm.start(["-c", "import time; time.sleep(60)"])
        started = time.monotonic()
    with pytest.raises(ProcessLookupError):
        os.kill(program.pid, 0)
    assert time.monotonic() - started < 50
