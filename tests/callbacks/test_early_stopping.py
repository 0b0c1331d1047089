"""Early stopping: when it acts, the cooldown that the run then makes, and a run that is killed at any step of it."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lrflow.callbacks import EarlyStopping
from lrflow.cli import main
from lrflow.config import compose
from lrflow.config.targets import locate
from lrflow.errors import ConfigError, EndedEarlyError, SettingError
from lrflow.metric import Metric
from lrflow.plan import Plan
from lrflow.runs import RunFolder
from lrflow.schedules import Horizon
from lrflow.tasks import prepare, train
from lrflow.tasks.plan import run as run_plan
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.machine import varies
from lrflow.training.resume import Resumed

SHORT = ["model.widths=[8]", "model.dropout=0.2", "trainer=cpu", "trainer.max_steps=40", "trainer.progress=false"]
SHORT += ["data.batch_size=128", "task.test=false", "schedule=constant", "schedule.warmup=10%", "seed=3"]
SHORT += ["trainer.val_every=5%", "trainer.checkpoint.every=1 steps", "trainer.checkpoint.keep=null", "logger=csv"]
EARLY = ["callbacks=early_stopping", "callbacks.early_stopping.patience=2", "callbacks.early_stopping.min_delta=10"]
COOLDOWN = [*EARLY, "callbacks.early_stopping.then=cooldown", "callbacks.early_stopping.then_for=25%"]


def go(output: Path, *more: str) -> Path:
    torch.set_num_threads(1)
    return Path(train.run(compose([*SHORT, f"output={output}", *more]))["folder"])


@pytest.fixture(scope="module")
def cooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose metric never improves by as much as it has to: its cooldown begins at the third validation."""
    return go(tmp_path_factory.mktemp("cooled"), *COOLDOWN)


def rates(folder: Path) -> dict[int, float]:
    rows = csv.DictReader((folder / "metrics.csv").open())
    return {int(row["step"]): float(row["lr/decay"]) for row in rows if row["lr/decay"]}


def test_the_lr_falls_in_a_straight_line_and_the_run_ends(cooled: Path) -> None:
    found, peak = rates(cooled), 0.003  # of optimizer=adamw
    assert [*found] == [*range(16)]  # 6 steps until the third validation, then 25% of 40
    expected = [peak * (step + 1) / 5 for step in range(4)] + [peak] * 2
    expected += [peak * (16 - step) / 10 for step in range(6, 16)]
    assert [*found.values()] == pytest.approx(expected, rel=1e-6)
    summary = json.loads((cooled / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["planned"]) == ("finished", 16, 16)
    noted = {"from": 6, "to": 16, "planned": 40, "reason": summary["cooldown"]["reason"]}
    assert summary["cooldown"] == noted
    assert noted["reason"].startswith("val/loss has not been better than ")
    assert noted["reason"].endswith(" since step 2")
    written = json.loads((cooled / "plan.json").read_text())
    assert (written["cooldown"], written["horizon"]["steps"]) == (noted, 16)
    plan = Plan.from_dict(written, resolve=locate)
    assert plan.lr(range(16))[:, 1] == pytest.approx([*found.values()], rel=1e-6)
    validated = [int(row["step"]) for row in csv.DictReader((cooled / "metrics.csv").open()) if row["val/loss"]]
    assert validated == [1, 3, 5, 7, 9, 11, 13, 15]  # 5% of the run as it was planned


def test_a_missing_metric_is_reported_under_the_key_of_the_node(tmp_path: Path) -> None:
    words = ["callbacks.mine._target_=lrflow.callbacks.EarlyStopping", "callbacks.mine.monitor=train/other"]
    with pytest.raises(SettingError, match=r"callbacks\.mine\.monitor"):
        go(tmp_path, *words)


def test_a_method_of_the_same_name_is_not_taken_for_one_that_follows_the_plan(
    tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(pl.Callback):
        def follow(self, leader: Any) -> None:
            raise AssertionError

    callbacks = prepare._callbacks
    monkeypatch.setattr(prepare, "_callbacks", lambda *given: [Mine(), *callbacks(*given)])
    folder = go(tmp_path, *COOLDOWN)
    assert json.loads((folder / "summary.json").read_text())["steps"] == 16


class DiesIn(pl.Callback):
    """Kills the process within the cooldown."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 9:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(output: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was killed in its cooldown."""
    callbacks = prepare._callbacks

    def work() -> None:
        monkeypatch.setattr(prepare, "_callbacks", lambda *given: [DiesIn(), *callbacks(*given)])
        go(output, *COOLDOWN)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (folder,) = output.iterdir()
    return folder


@pytest.mark.parametrize("step", [3, 6, 7, 15, None])
def test_a_run_killed_at_any_step_is_resumed_exactly(
    cooled: Path, tmp_path: Path, step: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "outputs" / cooled.name
    if step is None:
        folder = killed(tmp_path / "outputs", monkeypatch)
    else:
        shutil.copytree(cooled, folder)
        for path in (folder / "checkpoints").glob("step-*.ckpt"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()
        (folder / "summary.json").unlink()
    config = compose([f"resume={folder}", f"output={tmp_path / 'outputs'}"], earlier=True)
    assert Path(train.run(config)["folder"]) == folder
    whole, again = (read_checkpoint(one / "checkpoints" / "step-0000016.ckpt") for one in (cooled, folder))
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, again["state_dict"][name]), name
    assert whole["callbacks"]["EarlyStopping val/loss (min)"] == again["callbacks"]["EarlyStopping val/loss (min)"]
    assert (folder / "plan.json").read_bytes() == (cooled / "plan.json").read_bytes()
    rows = [[{k: v for k, v in row.items() if not varies(k)} for row in csv.DictReader((one / "metrics.csv").open())]
            for one in (cooled, folder)]  # fmt: skip
    assert rows[0] == rows[1]
    summaries = [json.loads((one / "summary.json").read_text()) for one in (cooled, folder)]
    assert summaries[0] | {"seconds": 0} == summaries[1] | {"seconds": 0}


def test_a_run_that_has_cooled_down_is_finished_until_it_is_made_longer(
    cooled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / cooled.name
    shutil.copytree(cooled, folder)
    assert main([f"resume={folder}", f"output={tmp_path}"]) == 0
    assert "is finished: all 16 steps are done" in capsys.readouterr().out
    assert main([f"resume={folder}", f"output={tmp_path}", "trainer.max_steps=44"]) == 2
    assert "the run was 16 steps long and is 44 now" in capsys.readouterr().err
    longer = ["trainer.max_steps=20", "resume.horizon=rescale", "callbacks.early_stopping.patience=4"]
    assert main([f"resume={folder}", f"output={tmp_path}", *longer]) == 0
    assert json.loads((folder / "summary.json").read_text())["steps"] == 20
    last = Resumed.read(RunFolder(folder).checkpoints / "step-0000020.ckpt")
    assert [(branch.at, branch.how, branch.reason is None) for branch in last.branches] == [
        (6, "decay_now", False),
        (16, "rescale", True),
    ]


def test_stopping_at_once_ends_early(tmp_path: Path) -> None:
    with pytest.raises(EndedEarlyError, match="ended early after 6 of 40 steps: val/loss has not been better than"):
        go(tmp_path, *EARLY)


def test_a_cooldown_waits_until_every_group_trains(tmp_path: Path) -> None:
    rules = "layers.rules=[{name: late, match: '*bias', unfreeze: 20 steps}, {name: decay, match: '*'}]"
    found = rates(go(tmp_path, *COOLDOWN, rules, "schedule.warmup=0"))
    assert len(found) == 30  # the first validation at which no group has an LR of 0 is at step 20
    assert (found[20], found[29]) == (pytest.approx(0.003), pytest.approx(0.0003))


CASES: dict[str, tuple[dict[str, Any], list[float], int | None]] = {
    "two without an improvement": ({"patience": 2}, [3, 2, 2, 2], 4),
    "an improvement starts anew": ({"patience": 2}, [3, 3, 2, 2, 1, 1, 1], 7),
    "less than min_delta": ({"patience": "2 validations", "min_delta": 0.5}, [3, 2.6, 2.4, 2.0, 2.0], 5),
    "higher is better": ({"patience": 1, "monitor": "val/accuracy"}, [1, 2, 3, 2], 4),
    "not finite": ({"patience": 2}, [float("nan"), 1, float("nan"), float("inf")], 4),
    "in steps": ({"patience": "25 steps"}, [3, 3, 3, 3, 3], 4),
    "a share": ({"patience": "15%"}, [3, 3, 3, 3, 3], 3),
    "it never ends": ({"patience": 3}, [5, 4, 4, 4, 3, 3, 3], None),
}


@pytest.mark.parametrize("name", CASES)
def test_when_patience_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, values, expected = CASES[name]
    one, ends = EarlyStopping(**given), []
    monkeypatch.setattr("lrflow.callbacks.early_stopping.logged_metric", lambda *_, **__: values[step - 1])
    monkeypatch.setattr("lrflow.callbacks.early_stopping.end_run", lambda *_: ends.append(step))
    trainer = train.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.run_for(Horizon(100))
    trainer.state.fn = "fit"  # type: ignore[assignment]
    for step in range(1, len(values) + 1):
        monkeypatch.setattr(train.Trainer, "global_step", 10 * step)
        resumed = EarlyStopping(**given)
        resumed.load_state_dict(one.state_dict())
        one = resumed
        one.on_validation_end(trainer, None)  # type: ignore[arg-type]
        if ends:
            break
    assert (ends or [None])[0] == expected


def test_the_plan_says_what_would_happen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_plan(compose([*SHORT, *COOLDOWN, f"output={tmp_path}"]))
    line = "callbacks.early_stopping: after 2 validations without a better val/loss (min), at step 6 of 40 at the "
    assert f"{line}earliest, the LR falls to its floor over 10 steps and the run ends" in capsys.readouterr().out
    one = EarlyStopping("val/f1", patience="50%")
    assert one.metric == Metric("val/f1", "max")
    told = "after 50% without a better val/f1 (max), at step 60 of 100 at the earliest, the run ends at once"
    assert one.describe(Horizon(100), 10) == told
    assert "too short" in EarlyStopping(patience=9).describe(Horizon(100), 10)
    longer = EarlyStopping(patience=7, then="cooldown", then_for="90%")
    assert "over 20 steps" in longer.describe(Horizon(100), 10)
    assert one.describe(Horizon(100), None) == "after 50% without a better val/f1 (max), the run ends at once"


@pytest.mark.parametrize(
    ("given", "expected"),
    {
        "patience=0": "a number of validations (5), or a duration",
        "patience=soon": "a number of validations (5), or a duration",
        "then=decay": "one of stop, cooldown",
        "then_for=0": "a duration above 0",
        "min_delta=-1": "at least 0",
        "monitor=val/los": "did you mean val/loss?",
        "patiense=3": "did you mean callbacks.early_stopping.patience?",
    }.items(),
)
def test_what_is_wrong_is_told_before_the_run(given: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose(["callbacks=early_stopping", f"callbacks.early_stopping.{given}"])
    assert expected in str(error.value)


@pytest.mark.parametrize("average", [("ema", "start=4 steps"), ("tail", "last=33 steps"), ("ema", "start=20 steps")])
def test_averages_of_weights_keep_their_times_in_a_cooldown(tmp_path: Path, average: tuple[str, str]) -> None:
    """The times of the last two do not fit into the 16 steps that the run has in the end."""
    more = [*COOLDOWN, f"average={average[0]}", f"average.{average[1]}", "trainer.val_every=2 steps"]
    cooled = go(tmp_path, *more)
    folder = tmp_path / "copy" / cooled.name
    shutil.copytree(cooled, folder)
    for path in (folder / "checkpoints").glob("step-*.ckpt"):
        if int(path.stem.removeprefix("step-")) > 9:
            path.unlink()
    train.run(compose([f"resume={folder}", f"output={tmp_path / 'copy'}"], earlier=True))
    files = [(one / "metrics.csv").open() for one in (cooled, folder)]
    losses = [[row["val/loss"] for row in csv.DictReader(file) if row["val/loss"]] for file in files]
    assert losses[0] == losses[1]
