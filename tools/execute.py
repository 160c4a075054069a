"""Run the chapters with papermill into build/executed, from which the site is
built.

A chapter is run again only when it, the library, the profile or the seed has
changed; --force runs it anyway.
"""

import argparse
import hashlib
import os
import platform
import sys
import time
from pathlib import Path

import papermill
from chapters import EXECUTED, NOTEBOOKS, ROOT, chapters
from kernels import Kernels

from vlg_lib.artifacts import hash_files, read_json, write_json
from vlg_lib.pipeline.profiles import get_profile


def main() -> int:
    """Run the selected chapters; 1 where a chapter fails, naming its cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "chapters",
        nargs="*",
        help="leading digits, for example 01 04; all where none is given",
    )
    parser.add_argument("--profile", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--force",
        action="store_true",
        help="run chapters that have not changed, too",
    )
    options = parser.parse_args()
    try:
        profile = get_profile(options.profile).name
    except ValueError as error:
        parser.error(str(error))
    # Chapters run in notebooks/, so a relative cache folder is one of this
    # repository's root.
    os.environ["VLG_CACHE"] = str(
        ROOT / os.environ.get("VLG_CACHE", "build/cache")
    )
    todo = chapters(*options.chapters)
    print(
        f"{len(todo)} chapters, profile {profile}, seed {options.seed}",
        flush=True,
    )
    with Kernels() as kernels:
        for number, path in enumerate(todo, 1):
            begun = f"[{number}/{len(todo)}] {path.stem} ... "
            print(begun, end="", flush=True)
            done = execute(path, profile, options.seed, options.force, kernels)
            print(f"{done}, {len(todo) - number} left", flush=True)
    return 0


def execute(
    path: Path, profile: str, seed: int, force: bool, kernels: Kernels
) -> str:
    """Run one chapter into build/executed and record its time; returns what was
    done, in words.
    """
    output, record = EXECUTED / path.name, EXECUTED / f"{path.stem}.json"
    key = _key(path, profile, seed)
    if (
        not force
        and output.is_file()
        and record.is_file()
        and read_json(record)["key"] == key
    ):
        return "unchanged"
    EXECUTED.mkdir(parents=True, exist_ok=True)
    partial = EXECUTED / f"partial_{path.name}"
    start = time.perf_counter()
    try:
        papermill.execute_notebook(
            str(path),
            str(partial),
            parameters={"PROFILE": profile, "SEED": seed},
            cwd=str(NOTEBOOKS),
            # else it writes all figures so far once more at every cell
            request_save_on_cell_execute=False,
            progress_bar=False,
            kernel_name="python3",
            # no note on stderr about the local transport
            extra_arguments=["--IPKernelApp.log_level=40"],
            kernel_manager_class=kernels.manager(),
        )
    except papermill.PapermillExecutionError as error:
        print("FAILED", flush=True)
        sys.exit(
            f"{path.name}: cell {error.exec_count} failed; see"
            f" {partial.relative_to(ROOT)}\n{error}"
        )
    seconds = time.perf_counter() - start
    partial.replace(output)
    write_json(
        record,
        {
            "key": key,
            "chapter": path.stem,
            "profile": profile,
            "seed": seed,
            "seconds": round(seconds, 1),
            "peak_memory_mb": round(kernels.peak_memory() / 1024),
            "machine": (
                f"{os.cpu_count()} cores, {platform.machine()},"
                f" {platform.system()}"
            ),
            "python": platform.python_version(),
        },
    )
    return f"{seconds:.0f} s"


def _key(path: Path, profile: str, seed: int) -> str:
    """What a chapter's output depends on: its own text, the library's code and
    weights, profile and seed.
    """
    weights = sorted((ROOT / "vlg_lib").rglob("*.safetensors"))
    code = hash_files(ROOT / "vlg_lib", *weights)
    return hashlib.sha256(
        f"{path.read_text()} {code} {profile} {seed}".encode()
    ).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
