"""Processes of Python that start at once, as copies of one that has imported torch, Lightning and lrflow already.

Those imports take seconds, which a test that kills a run and resumes it would pay three times. Run as a program, this
is the process that is copied: it has a single thread and never calls torch, so a copy lacks nothing.
"""

from __future__ import annotations

import atexit
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

IMPORTED = (
    "lrflow.cli.command",
    "lrflow.config",
    *(f"lrflow.tasks.{name}" for name in ("train", "plan", "find", "evaluate", "population")),
    "matplotlib.pyplot",
    "sklearn.datasets",
    "torch._dynamo",
    "torch.distributed.run",
)


class Process:
    """A process that runs `python ARGUMENTS` as a copy: what tests and Lightning need of a `subprocess.Popen`.

    Args:
        arguments: `["-m", "lrflow", ...]` or `["script.py", ...]`; Lightning puts `sys.executable` before them.
        cwd: its working directory; None: this process's own.
        env: its environment; None: this process's own.
        captured: whether what it writes is kept for `communicate`, rather than written where this process writes.
        leads: whether it leads a process group of its own, which its further processes join.
        stdout: the descriptor that it writes to instead of a captured stdout.
    """

    address = ""
    returncode: int | None = None

    def __init__(
        self,
        arguments: Sequence[str | Path],
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        captured: bool = False,
        leads: bool = False,
        stdout: int | None = None,
        **_: Any,
    ) -> None:
        words = [str(word) for word in arguments if word not in (sys.executable, "-u")]
        self._arguments = words
        environment = dict(os.environ if env is None else env)
        group = 0 if leads else os.getpgrp()
        request = {"words": words, "cwd": str(cwd or os.getcwd()), "env": environment, "group": group}
        self._written = (tempfile.TemporaryFile(), tempfile.TemporaryFile()) if captured else ()  # noqa: SIM115
        output = [file.fileno() for file in self._written] or [1, 2]
        output[0] = output[0] if stdout is None else stdout
        self._connection = _connected(self.address)
        socket.send_fds(self._connection, [json.dumps(request).encode() + b"\n"], output)
        self._answers = self._connection.makefile("r")
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended: that of a signal is negative."""
        code = self._look(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self._arguments, timeout)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended; it is ended when it takes longer."""
        try:
            self.wait(timeout)
        finally:
            self.kill()
        for file in self._written:
            file.seek(0)
        out, err = (file.read().decode() for file in self._written)
        return out, err

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """Sends a signal to its process group, as terminals do."""
        if self.poll() is None:
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """Ends it."""
        self.send_signal(signal.SIGKILL)

    def interrupt(self, number: int, when: Callable[[], Any], timeout: float = 120, group: bool = False) -> int:
        """Sends it, or its process group, a signal as soon as something is the case, and gives its exit code."""
        deadline = time.monotonic() + timeout
        try:
            while not when():
                assert self.poll() is None, self.communicate()
                assert time.monotonic() < deadline, self._arguments
                time.sleep(0.005)
            (self.signal_group if group else self.send_signal)(number)
            return self.wait(timeout)
        finally:
            self.kill()

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            self.returncode = int(self._answers.readline())
            self._connection.close()
        return self.returncode


@contextmanager
def ready(folder: Path) -> Iterator[None]:
    """Processes can be started within, once the imports are done: the first one waits for them.

    Args:
        folder: an empty one, whose path is short, as a socket's has to be.
    """
    Process.address = str(folder / "socket")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, Process.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as server:
        try:
            yield
        finally:
            server.kill()


def _connected(address: str, seconds: float = 120) -> socket.socket:
    """A connection to the process that is copied, once it listens."""
    deadline = time.monotonic() + seconds
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
            return connection
        except (FileNotFoundError, ConnectionRefusedError):  # it still imports
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _serve(address: str) -> None:
    """Forks a copy for each request; returns in the copies, and exits when nobody can ask any more."""
    for name in IMPORTED:
        with suppress(ImportError):  # a copy that needs it tells of it
            importlib.import_module(name)
    with suppress(Exception):  # a copy that needs it reports what is wrong
        importlib.import_module("lrflow.config.differences").shipped(())  # for the page of each run
    gc.freeze()  # or collections in the copies would write to every page, and so copy it
    os.fsync = lambda descriptor: None  # no test cuts the power, and each call waits for the disk
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for the copies
        while True:
            asked, _, _ = select.select([listener, sys.stdin], [], [])
            if listener not in asked:
                os._exit(0)
            connection, _ = listener.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection:
        request, descriptors, *_ = socket.recv_fds(connection, 1 << 20, 2)
        while not request.endswith(b"\n"):
            request += connection.recv(1 << 20)
        if pid := os.fork():
            connection.sendall(f"{pid}\n".encode())
            _, status = os.waitpid(pid, 0)
            with suppress(BrokenPipeError):  # who asked has ended, as a rank's first process may have
                connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)
    for own, given in enumerate(descriptors, start=1):
        os.dup2(given, own)
        os.close(given)
    _become(**json.loads(request))


def _become(words: list[str], cwd: str, env: dict[str, str], group: int) -> None:
    """Runs what `python WORDS` would run."""
    from lightning_fabric.utilities.rank_zero import _get_rank
    from pytorch_lightning.strategies.launchers import subprocess_script
    from pytorch_lightning.utilities import rank_zero_only
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    os.setpgid(0, group)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    rank_zero_only.rank = _get_rank() or 0  # which is read when it is imported
    Process.address = sys.argv[1]
    subprocess_script.subprocess = type("subprocess", (), {"Popen": Process})  # for the further processes of a run
    subprocess_handler.Popen = lambda args, env, **_: Process(args, env=env, leads=True)  # those of torchrun
    module, sys.argv = words[0] == "-m", words[words[0] == "-m" :]
    sys.path[:1] = [cwd if module else str(Path(words[0]).resolve().parent)]
    sys.path[1:1] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    code: str | int | None = None
    try:
        if module:
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    _end(code)


def _end(code: str | int | None) -> None:
    """Ends as Python does, except that no module is freed: that copies its memory, and takes as long as a short run."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError):  # what cannot be written ends as it does without this
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(code or 0)
    sys.exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
