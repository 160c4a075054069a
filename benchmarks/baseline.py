"""An older commit of this repository as the baseline of a benchmark: both
builds are driven in processes of their own and take turns.

A benchmark has a *driver*, a script in this folder that does the work. It says
what it can do with :func:`serve`, and finds the new names and the old ones:

    # benchmarks/fusion_driver.py
    from baseline import serve

    def fuse(request):          # a dictionary in, a dictionary out
        ...
        return {"cpu_s": seconds}

    if __name__ == "__main__":
        serve({"fuse": fuse})

The benchmark runs this driver once on each build and asks in turns:

    with builds("fusion_driver.py", "56fcabe", threads=1) as sides:
        answers = take_turns(sides, {"do": "fuse", "dim": 512}, runs=7)
    median(each["cpu_s"] for each in answers["baseline"])

``sides`` is ``{"ours": Side, "baseline": Side}``, without ``baseline`` where
the commit is None. What a driver imports of ``vlg_lib`` comes from its own
build, never from the other one: this is checked with every answer. ``Side.ask``
sends one request, such as input that is too large for each of them: ``{"do":
"load", "path": ...}``. To each answer ``serve`` adds the seconds of the work as
a whole, ``wall_s`` and ``cpu_s`` (all threads), unless the answer has them, and
``peak_MB``, the most memory that the process ever held (on Linux).

The old build lies in a worktree in a temporary folder, made and removed by git.
:func:`old_tree` alone makes it for a benchmark with other needs. A commit that
is not there, as in a shallow clone, is a ``MissingHistoryError`` that says how
to get it; :func:`add_option` adds ``--baseline-commit`` to a parser.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OLD_BUILD = "56fcabe"
"""The commit that speed is measured against."""

Request = Mapping[str, Any]
Answer = dict[str, Any]


_DRIVEN = "BENCHMARK_BUILD"
"""Set in the processes of drivers."""


def _forget_editable_installs() -> None:
    """An editable install answers for every module of its package: one that an
    old build does not have would come from the new one.
    """
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if "editable" not in getattr(finder, "__module__", "")
    ]


# before a driver imports anything of the library
if _DRIVEN in os.environ:
    _forget_editable_installs()


class MissingHistoryError(SystemExit):
    """The repository does not hold the commit that is asked for; a benchmark
    ends with this line, and without a traceback.
    """


def add_option(parser: argparse.ArgumentParser) -> None:
    """``--baseline-commit COMMIT``; None where it is not given."""
    parser.add_argument(
        "--baseline-commit",
        metavar="COMMIT",
        help="measure against the build of this commit, such as"
        f" {OLD_BUILD}, in a process of its own",
    )


def full_hash(commit: str, repository: Path = ROOT) -> str:
    """The commit's whole hash; MissingHistoryError where it is not there."""
    try:
        found = _git(
            repository, "rev-parse", "--verify", f"{commit}^{{commit}}"
        )
    except FileNotFoundError:
        raise MissingHistoryError(
            f"git is not installed: commit {commit} is needed as the baseline"
        ) from None
    if found.returncode:
        raise MissingHistoryError(
            f"{repository} holds no commit {commit}: the history is missing (a"
            " shallow clone, or no clone at all). Fetch it (git fetch"
            " --unshallow), or leave --baseline-commit out"
        )
    return found.stdout.strip()


@contextmanager
def old_tree(commit: str, repository: Path = ROOT) -> Iterator[Path]:
    """The files of a commit in a temporary worktree, which is removed in the
    end; MissingHistoryError where the commit is not there.
    """
    whole = full_hash(commit, repository)
    with tempfile.TemporaryDirectory(prefix="baseline-") as folder:
        tree = Path(folder) / "tree"
        made = _git(repository, "worktree", "add", "--detach", tree, whole)
        if made.returncode:
            raise MissingHistoryError(
                f"git could not check out {commit}: {made.stderr.strip()}"
            )
        try:
            yield tree
        finally:
            _git(repository, "worktree", "remove", "--force", tree)


def _git(
    repository: Path, *words: str | Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(repository), *map(str, words)],
        capture_output=True,
        text=True,
    )


class Side:
    """A driver at work on one build: a process that answers requests until
    :meth:`close`.

    RuntimeError where it ends early or imports another build; what it writes
    to stderr is seen at once.
    """

    def __init__(
        self,
        tree: Path,
        driver: Path,
        arguments: Sequence[str] = (),
        threads: int = 1,
    ) -> None:
        self.tree, self._driver = tree, driver
        environment = os.environ | {
            "PYTHONPATH": str(tree),
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "passive",
            _DRIVEN: str(tree),
            # nothing is written beside the files of the tree
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(driver), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
            env=environment,
        )
        library = Path(str(self._read()["library"]))
        if not library.is_relative_to(tree.resolve()):
            self.close()
            raise RuntimeError(
                f"{driver.name} was to use the build in {tree}, and imported"
                f" {library}"
            )

    def ask(self, request: Request) -> Answer:
        """Send a request, wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dict(request)) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(
                f"{self._driver.name} on {self.tree} ended with code {code}"
            )
        return dict(json.loads(line))


@contextmanager
def builds(
    driver: str | Path,
    commit: str | None,
    *,
    arguments: Sequence[str] = (),
    threads: int = 1,
) -> Iterator[dict[str, Side]]:
    """The driver on this build (``ours``) and on that of ``commit``
    (``baseline``), which None leaves out.

    ``driver``: a script, relative to this folder. ``arguments`` follow it on
    its command line; ``threads`` sets OMP_NUM_THREADS.
    """
    path = Path(__file__).parent / driver
    with ExitStack() as stack:
        trees = {"ours": ROOT}
        if commit is not None:
            trees["baseline"] = stack.enter_context(old_tree(commit))
        sides = {}
        for name, tree in trees.items():
            sides[name] = Side(tree, path, arguments, threads)
            stack.callback(sides[name].close)
        yield sides


def take_turns(
    sides: Mapping[str, Side], request: Request, runs: int, warm_up: int = 1
) -> dict[str, list[Answer]]:
    """The answers of each side to one request asked ``runs`` times, the sides
    one after another each time; those of the warm-up are left out.
    """
    answers: dict[str, list[Answer]] = {name: [] for name in sides}
    for run in range(-warm_up, runs):
        for name, side in sides.items():
            answer = side.ask(request)
            if run >= 0:
                answers[name].append(answer)
    return answers


def serve(functions: Mapping[str, Callable[[Answer], Answer]]) -> None:
    """Answer requests until there are no more: the main of a driver.

    A request names its function (``do``). What a function prints goes to
    stderr, so that it is not taken for an answer.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    import vlg_lib

    def answer(values: Answer) -> None:
        print(json.dumps(values), file=answers, flush=True)

    answer({"library": str(Path(vlg_lib.__file__).resolve())})
    for line in sys.stdin:
        request = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        found = functions[request.pop("do")](request)
        seconds = {
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
        }
        _check_modules(Path(vlg_lib.__file__).resolve().parent)
        answer(seconds | {"peak_MB": peak_megabytes()} | found)


def _check_modules(library: Path) -> None:
    """RuntimeError where a module of the library came from another build."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or name.partition(".")[0] != library.name:
            continue
        if not Path(file).resolve().is_relative_to(library):
            raise RuntimeError(f"{name} of {library} came from {file}")


def peak_megabytes() -> float | None:
    """The most memory this process has held, from /proc (getrusage would count
    the parent's too); None where the system does not tell.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
