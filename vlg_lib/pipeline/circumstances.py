"""On what a figure was measured: date, commit, hardware, versions."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "open_clip_torch", "embreex")
"""The packages whose versions a figure may depend on."""


def circumstances() -> dict[str, Any]:
    """Date, commit, hardware, threads and versions of this process.

    ``commit``: of the checkout that the library is in, with ``-dirty`` where it
    has changes of its own; None where there is no checkout.

    >>> sorted(circumstances())
    ['commit', 'date', 'hardware', 'system', 'threads', 'versions']
    """
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
        "hardware": f"{os.cpu_count()} cores, {_processor()}",
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "versions": (
            {"python": platform.python_version()}
            | {name: _installed(name) for name in PACKAGES}
        ),
    }


def _commit() -> str | None:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's name where the system tells it."""
    told = Path("/proc/cpuinfo")
    if told.is_file():
        for line in told.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"
