"""Faults that are planted in a copy of the repository, one after another: the
check that each has to be met by, and whether it is.

    make test
    export PYTHONPATH=tests:tests/robustness
    .venv/bin/python tests/robustness/planted.py

It shows that what ``make test`` saves of its time (shared runs, forks, cells
without their chapters, few words of a kind) costs no check. Each line is one
JSON object: the fault, the phase and the check that must fail, whether the
check passes in the copy without the fault, whether it fails with it, and
whether what it prints names it. The faults of the site and of the browser need
what ``make test`` has built. What is not as it must be ends in a line on
standard error and exit status 1.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PYTEST = ["python", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]


@dataclass(frozen=True)
class Fault:
    """One fault: what stands for what in a file, and who has to notice."""

    name: str
    """What is wrong, in words."""
    phase: str
    """The target of the Makefile that has the check."""
    file: str
    """Where it is planted."""
    old: str
    """The text that is replaced, once."""
    new: str
    """The text that takes its place."""
    check: list[str]
    """The command that must fail."""
    told: str
    """What it must print."""


def tests(names: str, *more: str) -> list[str]:
    """The command that runs some tests."""
    return [*PYTEST, *more, *names.split()]


SITE = ["-m", "book"]
FAULTS = [
    Fault(
        "an import that nothing uses",
        "lint",
        "vlg_lib/scene.py",
        "import torch\n",
        "import os\n\nimport torch\n",
        ["ruff", "check", "vlg_lib/scene.py"],
        "F401",
    ),
    Fault(
        "a room imports from a floor above it",
        "lint",
        "vlg_lib/metrics.py",
        "import torch\n",
        "import torch\n\nimport vlg_lib.training.loop\n",
        ["lint-imports"],
        "BROKEN",
    ),
    Fault(
        "files are written under their final names",
        "unit",
        "vlg_lib/artifacts.py",
        'path.with_name(f".{path.name}.{os.getpid()}.part")',
        "path",
        tests("tests/test_artifacts.py", "-k", "killed_writer"),
        "test_a_killed_writer_leaves_no_half_file",
    ),
    Fault(
        "the adapter begins from another seed in each process",
        "unit",
        "vlg_lib/adapter.py",
        "        torch.manual_seed(seed)\n",
        "        import os\n        torch.manual_seed(seed + os.getpid())\n",
        tests("tests/test_determinism.py", "-k", "two_processes"),
        "test_two_processes_with_empty_folders_make_the_same_run",
    ),
    Fault(
        "a run prints although it is to be quiet",
        "unit",
        "vlg_lib/pipeline/run.py",
        "    run = open_run(profile, seed, options)\n",
        "    run = open_run(profile, seed, options)\n"
        '    import sys\n    print("!", file=sys.stderr)\n',
        tests("tests/test_cli.py", "-k", "prints_the_table"),
        "test_run_prints_the_table_and_stores_it",
    ),
    Fault(
        "two modules import each other",
        "unit",
        "vlg_lib/classes.py",
        "import torch\n",
        "import torch\n\nfrom vlg_lib.scene import Scene\n",
        tests("tests/test_packages.py", "-k", "imported_first"),
        "vlg_lib.classes",
    ),
    Fault(
        "two processes sum up what each has",
        "unit",
        "vlg_lib/training/distributed.py",
        "        processes.all_reduce(value := value.clone())\n",
        "",
        tests("tests/test_distributed.py", "-k", "batch_norm_over_two"),
        "test_a_batch_norm_over_two_processes_is_that_of_one",
    ),
    Fault(
        "the wheel leaves out the page of the figures",
        "unit",
        "pyproject.toml",
        '"assets/*", ',
        "",
        tests("tests/test_wheel.py", "-k", "holds_all"),
        "test_it_holds_all_of_the_library_and_nothing_else",
    ),
    Fault(
        "sums are taken in half precision",
        "unit",
        "vlg_lib/precision.py",
        "return torch.float32 if half else x.dtype",
        "return x.dtype",
        tests("tests/test_half_precision.py", "-k", "SumPooling or window"),
        "in_half_precision_at_every_size[SumPooling",
    ),
    Fault(
        "a chapter fails in a cell without a pinned output",
        "notebooks",
        "notebooks/01_cameras_and_projection.ipynb",
        "viz.use_style()",
        "viz.no_style()",
        ["python", "tools/execute.py", "--profile", "fast", "01"],
        "01_cameras_and_projection.ipynb: cell",
    ),
    Fault(
        "the mask of the tags lets every class pass",
        "nbval",
        "vlg_lib/pseudo_labels.py",
        "masked_fill(~scene_labels.to(logits.device), -torch.inf)",
        "clone()",
        tests("build/pinned.ipynb", "--nbval-lax", "--nbval-current-env"),
        "# 00_start_here",
    ),
    Fault(
        "a chapter's stored output is not what it prints",
        "nbval",
        "notebooks/09_evaluation.ipynb",
        "openscene  0.429",
        "openscene  0.430",
        tests("build/pinned.ipynb", "--nbval-lax", "--nbval-current-env"),
        "# 09_evaluation",
    ),
    Fault(
        "a page links to one that is not there",
        "site",
        "book/notation.md",
        "# Notation",
        "# Notation\n\n[a page](no_such_page.md)",
        ["python", "tools/build_site.py"],
        "book/notation.md links to no_such_page.md",
    ),
    Fault(
        "a page without a figure asks the network for a picture",
        "browser",
        "_build/html/glossary.html",
        "</article>",
        '<img src="https://example.org/a.png" alt="a picture"></article>',
        tests("tests/test_site.py", *SITE, "-k", "without_errors and glossary"),
        "https://example.org/a.png",
    ),
    Fault(
        "one kind of word in the code of a chapter is too pale to read",
        "browser",
        "_build/html/notebooks/09_evaluation.html",
        "</head>",
        "<style>.highlight .mi {color: #ddd !important}</style></head>",
        tests("tests/test_site.py", *SITE, "-k", "accessible and 09_"),
        "color-contrast",
    ),
    Fault(
        "a room without tags keeps its labels",
        "browser",
        "_build/html/_static/vlg3d.js",
        "    think() {",
        "    think() {\n      if (!this.allowed.some(Boolean)) return;",
        tests("tests/test_site.py", *SITE, "-k", "unticking and 04_"),
        "test_unticking_a_tag_recolours_the_room",
    ),
]


def copied(to: Path) -> None:
    """The files of the repository, and what it has built of them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in listed.split("\0"):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    for name in ("build/executed", "_build"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name)


def run(check: list[str], folder: Path) -> tuple[bool, str]:
    """Whether a check passes in a folder, and what it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "CI": "true",
        "VLG_PROFILE": "fast",
        "VLG_CACHE": str(folder / "build" / "cache"),
    }
    program, *arguments = check
    if "build/pinned.ipynb" in check:
        gather = [str(BIN / "python"), "tools/pinned.py"]
        subprocess.run(gather, cwd=folder, env=environment, check=True)
    done = subprocess.run(
        [str(BIN / program), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, done.stdout + done.stderr


def planted(fault: Fault, folder: Path, passed: dict[str, bool]) -> dict:
    """One line on a fault; ``passed``: the checks that were tried without."""
    path = folder / fault.file
    key = json.dumps(fault.check)
    if key not in passed:
        passed[key] = run(fault.check, folder)[0]
    before = path.read_bytes()
    assert fault.old in before.decode(), f"{fault.file} has no {fault.old!r}"
    path.write_text(before.decode().replace(fault.old, fault.new, 1))
    passes, printed = run(fault.check, folder)
    path.write_bytes(before)
    return {
        "name": fault.name,
        "file": fault.file,
        "phase": fault.phase,
        "check": " ".join(fault.check),
        "passes_without": passed[key],
        "fails_with": not passes,
        "told": fault.told in printed,
    }


def main() -> None:
    """Plant each fault; exit status 1 where one is not noticed."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", help="faults of one phase")
    given = parser.parse_args()
    passed: dict[str, bool] = {}
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "copy"
        copied(folder)
        for fault in FAULTS:
            if given.only in ("", fault.phase):
                line = planted(fault, folder, passed)
                print(json.dumps(line), flush=True)
                missed += not (
                    line["passes_without"]
                    and line["fails_with"]
                    and line["told"]
                )
    if missed:
        sys.exit(f"{missed} lines tell of a fault that was not noticed")


if __name__ == "__main__":
    main()
