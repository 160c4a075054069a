"""Python programs that tests start: forks of one process that has imported what
takes long, where the system allows it."""

import atexit
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from warm import AVAILABLE, SLOW, Warm

ROOT = Path(__file__).parents[1]


@cache
def _warm() -> Warm:
    """The process that is forked, one for all tests of this process."""
    warm = Warm(SLOW)
    atexit.register(warm.close)
    return warm


def python(
    arguments: Sequence[str | Path],
    *,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
    check: bool = False,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` in a process of its own, the library not yet
    imported, and with this process's environment but for ``env``."""
    words = [str(word) for word in arguments]
    options: dict[str, Any] = {"cwd": cwd, "env": {**os.environ, **(env or {})}}
    if AVAILABLE:
        done = _warm().run(words, timeout=timeout, **options)
    else:
        done = subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            **options,
        )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def start_python(arguments: Sequence[str | Path], **options: Any) -> Any:
    """Start one, and have what subprocess.Popen has of it."""
    words = [str(word) for word in arguments]
    if AVAILABLE:
        return _warm().start(words, **options)
    return subprocess.Popen([sys.executable, *words], **options)
