"""Runs on several nodes need a launcher, and no process of a run waits for another for ever."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lrflow.errors import ConfigError, StoppedError
from lrflow.training import trainer as trainers
from lrflow.training.trainer import Trainer, build_trainer, check_launched, others_ended

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


@pytest.mark.parametrize(("error", "ended"), [(RuntimeError, True), (StoppedError, False)])
def test_a_process_that_hangs_does_not_outlive_its_run(
    error: type[Exception], ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "_GRACE", 0.1)
    hanging = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    started = [hanging]
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=started)))
    try:
        with pytest.raises(error), others_ended(trainer):
            raise error("failed", 143) if error is StoppedError else error("failed")
        assert started == ([] if ended else [hanging])  # Lightning kills the run when one of these ends
        assert (hanging.wait(10) == -9) if ended else hanging.poll() is None
    finally:
        hanging.kill()
        hanging.wait()
