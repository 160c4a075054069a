"""Python programs that start in a moment: each is a fork of one process that
has imported what takes long.

Importing torch and what is around it takes a process 5 to 10 seconds of a core;
every chapter and many a test is a process of its own. ``Warm`` starts one
process that imports such packages, and nothing of this project; a program is
then a fork of it, with an environment, a folder, arguments and standard streams
of its own, as if Python had been started for it::

    with Warm(["torch", "scipy"]) as warm:
        program = warm.start(["-c", "import torch; print(torch.ones(1))"])
        program.wait()

Linux only: elsewhere such libraries may not survive a fork.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

AVAILABLE = sys.platform == "linux"
SLOW = (
    "accelerate",
    "matplotlib.pyplot",
    "open_clip",
    "PIL.Image",
    "plotly.graph_objects",
    "plyfile",
    "safetensors.torch",
    "scipy.spatial.transform",
    "torch._dynamo",
    "torchvision",
    "tqdm.auto",
    "trimesh",
    "typer",
)
"""What the library is slow to import."""


class Program:
    """A program that runs: its ``pid``, and what subprocess.Popen would have
    of it.

    ``cpu`` and ``peak_memory``: the seconds that it took and its largest size
    in kB, of its children too, once it has ended.
    """

    stdin = stdout = stderr = None

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._told = b""
        self.returncode: int | None = None
        self.cpu, self.peak_memory = 0.0, 0
        self.pid = int(self._line())

    def _line(self) -> bytes:
        """The next line from the process that forks; empty where it ended."""
        while b"\n" not in self._told:
            more = self._channel.recv(4096)
            if not more:
                raise RuntimeError("the process that starts programs has ended")
            self._told += more
        line, _, self._told = self._told.partition(b"\n")
        return line

    def poll(self) -> int | None:
        """The exit status, minus a signal's number; None while it runs."""
        if self.returncode is None:
            ready = select.select([self._channel], [], [], 0)[0]
            if self._told or ready:
                status, self.cpu, self.peak_memory = json.loads(self._line())
                self.returncode = os.waitstatus_to_exitcode(status)
                self._channel.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; subprocess.TimeoutExpired where it takes longer."""
        end = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            select.select([self._channel], [], [], left)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Warm:
    """The process that has imported ``modules``, and starts programs.

    ``environment``: what is set while it imports, beside what is set here. It
    ends, with all that it has started, when this object is closed or this
    process ends.
    """

    def __init__(
        self,
        modules: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._own, others = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(others.fileno()), *modules],
            pass_fds=[others.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
        others.close()
        self.pid = self._process.pid

    def start(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        streams: tuple[int, int, int] | None = None,
    ) -> Program:
        """Start ``python ARGUMENTS``: a script, ``-m`` and a module or ``-c``
        and code, and what is its own.

        ``cwd``, ``env``: its folder and its whole environment, else those of
        this process. ``streams``: file descriptors for its standard input,
        output and errors.
        """
        request = {
            "arguments": [os.fspath(word) for word in arguments],
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
        }
        own, others = socket.socketpair()
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(request).encode())
            file.flush()
            descriptors = [
                others.fileno(),
                file.fileno(),
                *(streams or (0, 1, 2)),
            ]
            socket.send_fds(self._own, [b"+"], descriptors)
        others.close()
        return Program(own)

    def run(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, without input; its exit status and what it
        printed.
        """
        with (
            open(os.devnull) as nothing,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as errors,
        ):
            streams = (nothing.fileno(), out.fileno(), errors.fileno())
            program = self.start(arguments, cwd=cwd, env=env, streams=streams)
            try:
                status = program.wait(timeout)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
                raise
            out.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(
                list(arguments), status, out.read(), errors.read()
            )

    def close(self) -> None:
        """End the process, and whatever it has started."""
        self._own.close()
        self._process.wait()

    def __enter__(self) -> "Warm":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _serve(requests: socket.socket) -> list[str] | None:
    """Fork for each request, and tell what became of the programs.

    Returns twice: in a program, its arguments; in the process that forks, None
    once nobody can ask any more.
    """
    running: dict[int, socket.socket] = {}
    waker, waking = socket.socketpair()
    waking.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # an interruption is for whoever asked, who then ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    while True:
        ready = select.select([requests, waker], [], [])[0]
        if waker in ready:
            waker.recv(4096)
            _reap(running)
        if requests in ready:
            message, descriptors, _, _ = socket.recv_fds(requests, 1, 5)
            if not message:
                break
            answers = socket.socket(fileno=descriptors[0])
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for each in (
                    requests,
                    waker,
                    waking,
                    answers,
                    *running.values(),
                ):
                    each.close()
                return _become(descriptors[1], descriptors[2:])
            answers.sendall(f"{pid}\n".encode())
            running[pid] = answers
            for descriptor in descriptors[1:]:
                os.close(descriptor)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None


def _reap(running: dict[int, socket.socket]) -> None:
    """Tell of the programs that have ended."""
    for pid in list(running):
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            seconds = usage.ru_utime + usage.ru_stime
            line = json.dumps([status, seconds, usage.ru_maxrss]) + "\n"
            # an error: nobody is interested any more
            with running.pop(pid) as answers, contextlib.suppress(OSError):
                answers.sendall(line.encode())


def _become(request: int, streams: Sequence[int]) -> list[str]:
    """Make this fork look like a process of its own; its arguments."""
    for target, descriptor in enumerate(streams):
        os.dup2(descriptor, target)
        os.close(descriptor)
    with open(request, "rb") as file:
        file.seek(0)
        wanted = json.loads(file.read())
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(wanted["env"])
    os.chdir(wanted["cwd"])
    return wanted["arguments"]


def _run(arguments: list[str]) -> None:
    """Do what ``python ARGUMENTS`` does."""
    first, *rest = arguments
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [folder for folder in folders if folder]
    if first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        sys.modules["__main__"] = types.ModuleType("__main__")
        code = compile(rest[0], "<string>", "exec")
        exec(code, sys.modules["__main__"].__dict__)
    elif first == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


def _ended(arguments: list[str]) -> int:
    """Do it, and what Python does at the end but for taking everything apart,
    which takes longer than many a program; the exit status.
    """
    status = 0
    try:
        _run(arguments)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


def main() -> None:
    """Import, fork for whoever asks, and in each fork be the program."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    # what PYTHONPATH names is the programs' own
    wanted = os.environ.pop("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [folder for folder in sys.path if folder not in wanted]
    for name in sys.argv[2:]:
        try:
            importlib.import_module(name)
        except ImportError:
            traceback.print_exc()
    gc.collect()
    gc.freeze()  # so that a fork's own collections leave these pages alone
    arguments = _serve(requests)
    os._exit(0 if arguments is None else _ended(arguments))


if __name__ == "__main__":
    main()
