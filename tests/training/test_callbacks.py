"""The group `callbacks`: a user's and Lightning's callbacks in a run, resumed exactly; what is refused, and why."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from lrflow.config import compose
from lrflow.config.packages import trust_packages
from lrflow.errors import ConfigError
from lrflow.runs import RunFolder
from lrflow.tasks import train
from lrflow.training.callbacks import unsaved_state
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.vectorized.eligibility import ineligible_because

SHORT = ["model.widths=[8]", "trainer=cpu", "trainer.max_steps=8", "trainer.progress=false", "data.batch_size=128"]
SHORT += ["trainer.checkpoint.every=4 steps", "trainer.checkpoint.keep=null", "task.test=false"]

MINE = '''
from pytorch_lightning.callbacks import Callback, EarlyStopping, TQDMProgressBar

ORDER = []

class Counts(Callback):
    """Counts batches, and keeps the count in checkpoints."""

    def __init__(self, by: int = 1, monitor: str = "val/loss", mode: str = "min") -> None:
        self.by, self.count, self.mode = by, 0, mode

    @property
    def state_key(self):
        return f"Counts{self.by}"

    def on_train_batch_end(self, trainer, *args):
        self.count += self.by
        ORDER.append([type(one).__name__ for one in trainer.callbacks])

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

class Forgets(Callback):
    def __init__(self):
        self.seen, self.fixed = [], 1

    def setup(self, trainer, pl_module, stage):
        self.made = 2

    def on_train_batch_end(self, trainer, *args):
        self.seen.append(trainer.global_step)

class Same(Counts):
    state_key = "Counts1"

class Bar(TQDMProgressBar):
    pass

class Nothing:
    pass
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's package of callbacks."""
    (tmp_path / "my_callbacks.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_callbacks", raising=False)
    trust_packages(["my_callbacks"])
    return __import__("my_callbacks")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    def go(*more: str) -> Path:
        return Path(train.run(compose([*SHORT, f"output={tmp_path / 'outputs'}", *more], earlier=True))["folder"])

    return go


def test_callbacks_of_several_options_and_a_users_own_are_resumed_exactly(
    mine: Any, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    own = [f"callbacks.{name}._target_=my_callbacks.Counts" for name in ("one", "ten")]
    folder = run("callbacks=[early_stopping,timer]", *own, "callbacks.ten.by=10")
    assert "callbacks:" not in capsys.readouterr().out  # every state is in the checkpoint
    names = mine.ORDER[0]
    assert names.index("Signals") < names.index("EarlyStopping") < names.index("Timer") < names.index("Counts")
    assert names[-1] == "Checkpoints"
    whole = read_checkpoint(RunFolder(folder).checkpoints / "step-0000008.ckpt")
    (folder / "checkpoints" / "step-0000008.ckpt").unlink()
    assert run(f"resume={folder}") == folder
    again = read_checkpoint(RunFolder(folder).checkpoints / "step-0000008.ckpt")
    states = [{key: one["callbacks"][key] for key in ("Counts1", "Counts10")} for one in (whole, again)]
    assert states == [{"Counts1": {"count": 8}, "Counts10": {"count": 80}}] * 2
    config = compose([f"resume={folder}"], earlier=True)
    assert config.choices["callbacks"] == "[early_stopping,timer]"
    assert "callbacks.early_stopping, callbacks.timer" in str(
        ineligible_because(compose(["callbacks=[early_stopping,timer]"]))
    )


def test_state_that_no_checkpoint_holds_is_named_before_the_run(
    mine: Any, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    limit = "callbacks.timer.duration='00:01:00:00'"
    run("trainer.max_steps=1", "callbacks=timer", limit, "callbacks.mine._target_=my_callbacks.Forgets")
    said = "callbacks: a resumed run does not continue exactly with timer: its limit, a time on the clock; mine: its "
    assert f"{said}state seen, which is in no checkpoint\n" in capsys.readouterr().out
    found = {one: unsaved_state(one()) for one in (pl.callbacks.DeviceStatsMonitor, pl.callbacks.ModelSummary)}
    assert found == dict.fromkeys(found)


REFUSED = {
    "my_callbacks.Nothing": "builds Nothing, which is no Lightning callback",
    "my_callbacks.Bar": "lrflow shows the progress of a run itself",
    "lrflow.health.NonFinite": "is a lrflow.health.Monitor",
    "pytorch_lightning.callbacks.ModelCheckpoint": "lrflow saves checkpoints itself",
    "lightning.pytorch.callbacks.LearningRateFinder": "it replaces the LR of the plan",
    "pytorch_lightning.callbacks.GradientAccumulationScheduler": "a plan has the same number in every epoch",
    "pytorch_lightning.callbacks.EarlyStoping": "pytorch_lightning.callbacks",
    "os.system": "a config may not build this",
}


@pytest.mark.parametrize("target", REFUSED)
def test_a_callback_that_cannot_work_is_refused(mine: Any, run: Callable[..., Path], target: str) -> None:
    with pytest.raises(ConfigError) as error:
        run(f"callbacks.mine._target_={target}")
    assert error.value.problems[0].key == "callbacks.mine._target_"
    assert REFUSED[target] in str(error.value)


def test_two_states_of_one_name_are_refused(mine: Any, run: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="the same name as that of callbacks"):
        run("callbacks.one._target_=my_callbacks.Counts", "callbacks.two._target_=my_callbacks.Same")


def test_a_callback_gets_the_mode_of_its_metric(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    start = pl.callbacks.EarlyStopping.__init__

    @functools.wraps(start)
    def record(self: Any, *arguments: Any, **given: Any) -> None:
        made.append(given)
        start(self, *arguments, **given)

    monkeypatch.setattr(pl.callbacks.EarlyStopping, "__init__", record)
    target = "callbacks.stop._target_=pytorch_lightning.callbacks.EarlyStopping"
    run(target, "callbacks.stop.monitor=val/accuracy", "trainer.max_steps=1")
    assert made == [{"monitor": "val/accuracy", "mode": "max"}]
