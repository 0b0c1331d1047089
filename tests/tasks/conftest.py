from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from lrflow.cli import main


@pytest.fixture(autouse=True)
def _undrawn(undrawn: None) -> None:
    pass


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs `python -m lrflow WORDS` in a copy of this process, and kills it (SIGKILL) when it gives a file its name.

    `before` or `after` says when, `name` which file, and `number` which of the files with such a name, from 1.
    """

    def run(*words: str, name: str, before: bool = True, number: int = 1) -> None:
        replace, left = os.replace, [number]

        def replacing(source: Any, target: Any) -> None:
            left[0] -= fnmatch(Path(target).name, name)
            due = left[0] == 0 and fnmatch(Path(target).name, name)
            if not (due and before):
                replace(source, target)
            if due:
                os.kill(os.getpid(), signal.SIGKILL)

        def work() -> None:
            monkeypatch.setattr(os, "replace", replacing)
            main(list(words))

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL

    return run


@pytest.fixture
def lrflow(lrflow_here: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """`python -m lrflow ARGS` in an empty folder, in this process."""
    return lrflow_here
