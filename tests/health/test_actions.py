"""What a run does about a finding: how far the LR moves, how often, and runs of the real task that do it."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lrflow.config import compose
from lrflow.errors import EndedEarlyError
from lrflow.finding import Finding
from lrflow.health import History, Overfitting, Plateau, TooLow, actions, detector
from lrflow.health.actions import Actions, make_adjustments
from lrflow.schedules import Horizon
from lrflow.tasks import prepare, train
from lrflow.training.adjustments import Adjustment
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.machine import varies


class Done:
    """What a run has adjusted, at a planned LR of a share of its peak."""

    def __init__(self, share: float = 0.2) -> None:
        self.active: list[Adjustment] = []
        self.lines: list[str] = []
        self.report = self.lines.append
        self._share = share

    def add(self, one: Adjustment) -> None:
        self.active.append(one)

    def factor(self, steps: np.ndarray) -> np.ndarray:
        return np.prod([one(steps) for one in self.active], axis=0) if self.active else np.ones(len(steps))

    def share(self, steps: np.ndarray) -> np.ndarray:
        return np.full(len(steps), self._share)


def respond(
    done: Done, action: Any, steps: list[int], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...] = (), **more: Any
) -> list[tuple[int, float, int | None]]:
    """Find the same at these steps of 1,000, and return step, factor and end of what is done about it."""
    monkeypatch.setattr(actions, "Adjustments", Done)
    health = compose(["health.raise.most=10", "health.raise.times=2", *words]).health
    trainer: Any = SimpleNamespace(adjustments=done, cooldown=more.pop("cooldown", None))
    for step in steps:
        finding = Finding("too_low", step, 0, "it is so", more)
        Actions(health, Horizon(1000)).respond(trainer, finding, action, step == steps[0])
    return [(one.step, one.factor, one.until) for one in done.active]


def test_a_raise_goes_to_the_factor_of_the_finding_in_bounded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Done()
    looks = list(range(100, 900, 50))
    assert respond(done, "raise", looks, monkeypatch, factor=30.0) == [(100, 10.0, None), (250, 3.0, None)]
    assert done.lines == [
        "step 100: too low: raise (1 of 2), LR x 10 over 20 steps",
        "step 250: too low: raise (2 of 2), LR x 3 over 20 steps",
    ]
    assert [one[0] for one in respond(Done(), "raise", looks, monkeypatch, factor=1e3)] == [100, 250]


def test_a_restart_rises_to_the_peak_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert respond(Done(), "restart", [500, 700], monkeypatch) == [(500, 5.0, 1000)]
    half = respond(Done(), "restart", [500], monkeypatch, ("health.restart.peak=0.5",))
    assert half == [(500, 2.5, 1000)]
    for share, why in ((1.0, "the LR is 1 times its planned peak"), (0.0, "the LR is 0 times its planned peak")):
        done = Done(share)
        assert respond(done, "restart", [500, 600], monkeypatch) == []
        assert done.lines == [f"step 500: too low: restart: nothing changes, since {why}"]


def test_kicks_are_short_and_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("health.kick.factor=4", "health.kick.over=40 steps", "health.kick.times=2")
    looks = list(range(500, 990, 10))
    assert respond(Done(), "kick", looks, monkeypatch, words) == [(500, 4.0, 540), (640, 4.0, 680)]
    done = Done()
    assert respond(done, "kick", [990], monkeypatch, words) == []
    assert done.lines[0].endswith("kick: nothing changes, since the run ends before the LR has risen over 20 steps")


def test_nothing_adjusts_the_lr_of_a_cooldown(monkeypatch: pytest.MonkeyPatch) -> None:
    cooling = SimpleNamespace(has_begun=True)
    assert respond(Done(), "kick", [500], monkeypatch, cooldown=cooling) == []


def test_a_resumed_run_keeps_adjustments_that_nothing_makes_any_more() -> None:
    adjusted: Any = SimpleNamespace(adjusted=True, recovered=0.3)
    given: Any = (SimpleNamespace(trainable=[]), ())
    expected = {"health=watch": (False, True), "health.on_plateau=kick": (True, True), "health=none": (False, False)}
    for word, made in expected.items():
        config = compose([word])
        assert tuple(make_adjustments(config, *given, one, print) is not None for one in (None, adjusted)) == made
    lines: list[str] = []
    for word in ("health=watch", "health=none", "health=recover"):
        actions.report_earlier_factors(compose([word]), adjusted, lines.append)
    had = "health: rollbacks had cut its LR to 0.3 times the planned one; "
    assert lines == [f"{had}it stays so; health=none would let it follow the plan", f"{had}it follows the plan now"]


SHORT = ["model.widths=[8]", "model.dropout=0.2", "trainer=cpu", "trainer.max_steps=40", "trainer.progress=false"]
SHORT += ["data.batch_size=128", "task.test=false", "trainer.checkpoint.every=10 steps", "logger=csv", "seed=3"]
ACTING = ["health.on_plateau=kick", "health.kick.over=8 steps", "health.on_too_low=raise"]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectors that find something from step 16 on, at looks that are 8 steps apart."""

    def judge(self: Any, history: History) -> Finding | None:
        return Finding(self.kind, history.step, 3, "a test", {"factor": 20.0}) if history.step >= 16 else None

    monkeypatch.setattr(detector, "_LEAST_INTERVAL", 8)
    for kind in (Plateau, TooLow, Overfitting):
        monkeypatch.setattr(kind, "judge", judge)


class Dies(pl.Callback):
    """Kills the process after the first adjustment, before the next checkpoint."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 18:
            os.kill(os.getpid(), signal.SIGKILL)


def go(output: Path, *more: str) -> Path:
    torch.set_num_threads(1)
    return Path(train.run(compose([*SHORT, f"output={output}", *more]))["folder"])


def record(folder: Path) -> tuple[Any, ...]:
    """What is equal for equal runs."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{name: cell for name, cell in row.items() if not varies(name)} for row in csv.DictReader(file)]
    summary = json.loads((folder / "summary.json").read_text()) | {"seconds": 0}
    return rows, summary, json.loads((folder / "plan.json").read_text())["events"]


def test_a_run_that_is_killed_after_an_adjustment_ends_as_one_that_is_not(
    tmp_path: Path, found: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(tmp_path / "whole", *ACTING)
    rows, summary, events = record(whole)
    assert [(one["step"], one["action"], one["factor"]) for one in events] == [
        (16, "raise", 10.0),
        (16, "kick", 3.0),
        (24, "raise", 2.0),
        (30, "kick", 3.0),
    ]
    assert summary["adjustments"] == events
    used = {
        int(row["step"]): float(row["lr/decay"]) / float(row["lr_planned/decay"]) for row in rows if row["lr/decay"]
    }
    assert used[15] == 1
    assert used[20] == pytest.approx(30)  # both at their height
    assert used[29] == pytest.approx(20)

    callbacks = prepare._callbacks

    def work() -> None:
        monkeypatch.setattr(prepare, "_callbacks", lambda *given: [Dies(), *callbacks(*given)])
        go(tmp_path / "killed", *ACTING)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (killed,) = (tmp_path / "killed").iterdir()
    assert go(tmp_path / "killed", *ACTING, f"resume.from={killed}") == killed
    assert record(killed) == record(whole)
    ends = [read_checkpoint(folder / "checkpoints" / "step-0000040.ckpt")["state_dict"] for folder in (whole, killed)]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_overfitting_ends_a_run_as_early_stopping_does(tmp_path: Path, found: None) -> None:
    with pytest.raises(EndedEarlyError, match="ended early after 16 of 40 steps: overfitting since step 3: a test"):
        go(tmp_path, "health.on_overfitting=stop")
    cooled = go(tmp_path, "health.on_overfitting=cooldown", "health.cooldown=5 steps")
    summary = json.loads((cooled / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["cooldown"]["from"]) == ("finished", 21, 16)
