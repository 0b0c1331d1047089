"""The end of a run by the clock, with a clock that ticks once a step."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lrflow.callbacks.ends import TimeLimit, early_ends
from lrflow.config import compose
from lrflow.errors import ConfigError, EndedEarlyError
from lrflow.schedules import Duration, Horizon
from lrflow.tasks import train
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.vectorized.eligibility import ineligible_because

SHORT = ["model.widths=[8]", "trainer=cpu", "trainer.max_steps=80", "trainer.progress=false", "data.batch_size=128"]
SHORT += ["task.test=false", "schedule=constant", "trainer.val_every=10 steps", "trainer.checkpoint.every=1 steps"]
SHORT += ["trainer.checkpoint.keep=null", "trainer.max_time='40 s'"]


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which each step takes a second."""
    now, decide = [0.0], TimeLimit.on_train_batch_end

    def tick(self: TimeLimit, trainer: Any, *arguments: Any) -> None:
        now[0] = float(trainer.global_step)
        decide(self, trainer, *arguments)

    monkeypatch.setattr("lrflow.callbacks.ends.monotonic", lambda: now[0])
    monkeypatch.setattr(TimeLimit, "on_train_batch_end", tick)


def go(output: Path, *more: str) -> Path:
    torch.set_num_threads(1)
    return Path(train.run(compose([*SHORT, f"output={output}", *more], earlier=True))["folder"])


def rates(folder: Path) -> list[float]:
    return [float(row["lr/decay"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row["lr/decay"]]


@pytest.mark.parametrize(("share", "length"), [("10%", 8), ("50%", 36)])
def test_the_cooldown_begins_when_it_has_to(ticks: None, tmp_path: Path, share: str, length: int) -> None:
    folder = go(tmp_path, f"trainer.max_time_cooldown={share}")
    found = rates(folder)
    assert len(found) in (39, 40)  # one step may be left over
    start = len(found) - length
    assert found[:start] == [0.003] * start
    assert found[start:] == pytest.approx([0.003 * (length - step) / length for step in range(length)])
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["cooldown"]["from"]) == ("finished", start)
    assert summary["cooldown"]["reason"] == f"trainer.max_time=40 s leaves time for {length} steps"


def test_a_run_killed_in_its_cooldown_is_resumed_exactly(ticks: None, tmp_path: Path) -> None:
    folder = go(tmp_path)
    copy, last = tmp_path / "copy" / folder.name, len(rates(folder))
    shutil.copytree(folder, copy)
    for path in (copy / "checkpoints").glob("step-*.ckpt"):
        if int(path.stem.removeprefix("step-")) > last - 4:
            path.unlink()
    assert go(tmp_path / "copy", f"resume={copy}") == copy
    one, other = (read_checkpoint(each / "checkpoints" / f"step-{last:07d}.ckpt") for each in (folder, copy))
    assert all(torch.equal(tensor, other["state_dict"][name]) for name, tensor in one["state_dict"].items())
    assert rates(copy) == rates(folder)


COOLING = [f"callbacks.early_stopping.{key}" for key in ("patience=1", "min_delta=9", "then=cooldown", "then_for=50%")]


@pytest.mark.parametrize(("more", "planned"), [((), 80), (("callbacks=early_stopping", *COOLING), 60)])
def test_stopping_at_once_ends_early(ticks: None, tmp_path: Path, more: tuple[str, ...], planned: int) -> None:
    """Also in the cooldown of early stopping, which begins at step 20."""
    with pytest.raises(EndedEarlyError, match=f"after 40 of {planned} steps: trainer.max_time=40 s is over"):
        go(tmp_path, "trainer.at_max_time=stop", *more)


def test_a_plan_that_ends_in_time_is_left_alone(ticks: None, tmp_path: Path) -> None:
    assert rates(go(tmp_path, "trainer.max_steps=35")) == [0.003] * 35


def test_time_is_counted_over_all_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("lrflow.callbacks.ends.monotonic", lambda: now[0])
    trainer = train.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    first = TimeLimit("1 min", "stop", Duration.parse("10%"))
    assert first.state_dict() == {"seconds": 0.0}
    first.on_train_start(trainer, None)  # type: ignore[arg-type]
    now[0] += 25
    second = TimeLimit("1 min", "stop", Duration.parse("10%"))
    second.load_state_dict(first.state_dict())
    now[0] += 1000
    second.on_train_start(trainer, None)  # type: ignore[arg-type]
    ended = []
    for seconds in (34, 1):
        now[0] += seconds
        ended.append(second._decide(trainer)[0])
    assert ended == [None, 1]
    assert second.state_dict() == {"seconds": 60.0}


def test_it_is_told_before_the_run() -> None:
    config = compose(["trainer.max_time='3 hours'", "trainer.max_time_cooldown=20%"])
    assert early_ends(config, Horizon(400)) == [
        "trainer.max_time=3 hours: the LR falls to its floor over the last 80 steps within this time"
    ]
    assert "trainer.max_time" in str(ineligible_because(config))
    stops = compose(["trainer.max_time='90 min'", "trainer.at_max_time=stop"])
    assert early_ends(stops, Horizon(400)) == ["trainer.max_time=90 min: the run then ends at once"]
    with pytest.raises(ConfigError, match="the horizon has no steps_per_epoch"):
        early_ends(compose(["trainer.max_time='1 h'", "trainer.max_time_cooldown='1 epoch'"]), Horizon(400))
    with pytest.raises(ConfigError, match="a time with its unit"):
        compose(["trainer.max_time=3"])
