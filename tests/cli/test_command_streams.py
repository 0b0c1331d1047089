"""Standard streams that are closed, full or without UTF-8 change neither a run nor its files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lrflow.cli import main
from lrflow.display import QuietConsole
from lrflow.errors import LrflowError
from lrflow.output import put

RUN = "import sys; from lrflow.cli import main; sys.argv[1:] = {words}; sys.exit(main())"


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        (">/dev/full", 1, "lrflow: the output of this command could not be written: No space left on device"),
        (">&-", 0, ""),
        ("2>&- >&- <&-", 0, ""),
        ("", 0, ""),
    ],
)
def test_printing_a_config_to(redirected: str, code: int, said: str, tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m lrflow --cfg job {redirected}'
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    assert (done.returncode, done.stderr.strip()) == (code, said)


class Full:
    """A file on a full disk."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")

    def fileno(self) -> int:
        return self.descriptor

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor


def test_a_console_on_a_full_disk_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "file").open("w") as file:
        console = QuietConsole(file=Full(file.fileno()))  # type: ignore[arg-type]
        console.print("one")
        console.print("two")
    assert console.quiet
    assert capsys.readouterr().err == "lrflow: the output cannot be written, so it ends here: No space left on device\n"


def test_a_stream_that_cannot_be_flushed(tmp_path: Path) -> None:
    with pytest.raises(LrflowError, match="No space left on device"):
        put(Full(0), "x")  # type: ignore[arg-type]


def test_a_folder_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Callable[..., object], capsys: pytest.CaptureFixture[str]
) -> None:
    task()
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code = main(["seed=1"])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert (code, "the working directory does not exist any more" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "terminal", "term", "shown"),
    [
        (["seed=no"], True, "xterm", True),
        (["-m", "seed=no,1"], True, "xterm", True),
        (["seed=no"], True, "dumb", False),
        (["seed=no"], False, "xterm", False),
        (["seed=no", "--cfg", "job"], True, "xterm", False),
        (["--help"], True, "xterm", False),
        (["--version"], True, "xterm", False),
        (["--info", "plugins"], True, "xterm", False),
        (["--shell-completion", "query=bash"], True, "xterm", False),
        (["list"], True, "xterm", False),
    ],
)
def test_a_terminal_shows_at_once_that_a_run_starts(
    words: list[str], terminal: bool, term: str, shown: bool, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """At once is before the config is composed, which finds what is wrong with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    monkeypatch.setenv("TERM", term)
    main(words)
    assert (capsys.readouterr().err.partition("\n")[0] == "starting ...") is shown
