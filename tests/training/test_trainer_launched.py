"""Runs on several nodes need a launcher, and no process of a run waits for another for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning_fabric.plugins.environments import LightningEnvironment

from lrflow.errors import ConfigError, LrflowError, SignalReceived, StoppedError
from lrflow.training import interrupt
from lrflow.training.interrupt import Launcher, ended_together
from lrflow.training.trainer import Trainer, build_trainer, check_launched

SET = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "0"}
ELASTIC = {
    **SET,
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "GROUP_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ELASTIC, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def made(folder: Path, **options: Any) -> Trainer:
    return build_trainer({"accelerator": "cpu", "devices": 1, **options}, folder, [], 50)


@pytest.mark.parametrize(
    ("options", "variables", "said"),
    [
        ({}, {}, None),
        ({"strategy": "ddp", "devices": 2}, {}, None),
        ({"num_nodes": 2}, {}, "set MASTER_ADDR, MASTER_PORT, NODE_RANK, which is not set here"),
        ({"num_nodes": 2}, {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}, "set NODE_RANK, which"),
        ({"num_nodes": 2}, SET, None),
        ({"num_nodes": 2}, {**ELASTIC, "WORLD_SIZE": "2"}, None),
        ({"num_nodes": 2}, {**ELASTIC, "WORLD_SIZE": "3"}, "trainer.num_nodes x trainer.devices = 2 x 1"),
        (
            {"strategy": "ddp", "devices": 2},
            {**ELASTIC, "WORLD_SIZE": "1"},
            "trainer.num_nodes x trainer.devices = 1 x 2",
        ),
    ],
)
def test_a_launcher_is_needed_where_others_are_waited_for(
    options: dict[str, Any],
    variables: dict[str, str],
    said: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    trainer = made(tmp_path, **options)
    if said is None:
        check_launched(trainer)
        return
    with pytest.raises(ConfigError) as caught:
        check_launched(trainer)
    assert said in caught.value.problems[0].message


def test_the_timeout_is_that_of_the_process_group(tmp_path: Path) -> None:
    assert made(tmp_path, strategy="ddp", devices=2, timeout=90.0).strategy._timeout == timedelta(seconds=90)
    assert made(tmp_path, timeout=90.0).world_size == 1  # a single process has none


@pytest.fixture
def further() -> Iterator[Callable[[str], Any]]:
    """Start a further process of a run, which runs a line of Python, and return the trainer of the first one."""
    started: list[subprocess.Popen[bytes]] = []

    def start(line: str) -> Any:
        started.append(subprocess.Popen([sys.executable, "-S", "-c", line]))
        launcher = Launcher(LightningEnvironment(), 2, 1)
        launcher.procs, launcher.is_ending = started, threading.Event()
        return SimpleNamespace(global_step=3, strategy=SimpleNamespace(launcher=launcher))

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("error", [RuntimeError("failed"), StoppedError("stopped", 143), SignalReceived(15)])
def test_a_process_that_hangs_does_not_outlive_its_run(
    error: BaseException, further: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupt, "GRACE", 0.1)
    trainer = further("import time; time.sleep(60)")
    expected = StoppedError if isinstance(error, SignalReceived) else type(error)
    with pytest.raises(expected), ended_together(trainer, "resume it"):
        raise error
    assert trainer.strategy.launcher.is_ending.is_set()  # the thread that watches them is to leave the end to the run
    assert trainer.strategy.launcher.procs[0].wait(10) == -9


def test_a_lost_connection_names_the_process_that_died(further: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "users_frames", lambda error: ())
    trainer = further("raise SystemExit(3)")
    trainer.strategy.launcher.procs[0].wait(10)
    with (
        pytest.raises(LrflowError, match="process 1 of 2 ended with exit code 3, so the run ended; resume it"),
        ended_together(trainer, "resume it"),
    ):
        raise RuntimeError("Connection closed by peer")
