"""The group `callbacks` on the command line: several options, checked before anything is built."""

from __future__ import annotations

import pytest

from lrflow.config import compose
from lrflow.errors import ConfigError

EARLY = "callbacks.a._target_=pytorch_lightning.callbacks.EarlyStopping"


def test_several_options_are_chosen_at_once() -> None:
    config = compose(["callbacks=[early_stopping,timer]", "fast=true", "callbacks.timer=null"])
    assert config.choices["callbacks"] == "[early_stopping,timer]"
    assert [*config.callbacks.nodes()] == ["early_stopping"]
    assert compose([]).callbacks.nodes() == {}


WRONG = {
    ("callbacks=[early_stopping,timr]",): ("callbacks", "did you mean callbacks=timer?"),
    ("callbacks.timer.duration=3",): ("callbacks.timer._target_", "add callbacks=timer"),
    ("callbacks.mine.x=3",): ("callbacks.mine._target_", "such as pytorch_lightning.callbacks.Timer"),
    ("callbacks=timer", "callbacks.timre=null"): ("callbacks.timre", "did you mean callbacks.timer?"),
    ("callbacks=timer", "callbacks.timer.durration=3"): ("callbacks.timer.durration", "duration?"),
    (EARLY, "callbacks.a.monitor=val/los"): ("callbacks.a.monitor", "did you mean val/loss?"),
    (EARLY, "callbacks.a.monitor=val/loss", "trainer.limit_val_batches=0"): ("callbacks.a.monitor", "no validation"),
    (EARLY, "callbacks.a.monitor=train/loss"): ("callbacks.a.monitor", "such as val/loss"),
    ("callbacks=early_stopping", "callbacks.early_stopping.patience=-1"): ("callbacks.early_stopping.patience", "5"),
    ("callbacks=timer", "callbacks.timer.duration='3 hours'"): ("callbacks.timer.duration", "trainer.max_time"),
    ("callbacks=timer", "callbacks.timer.duration=5"): ("callbacks.timer.duration", "00:08:00:00"),
    ("callbacks=timer", "callbacks.timer.interval=epochs"): ("callbacks.timer.interval", "did you mean epoch?"),
    ("callbacks=device_stats", "logger=none"): ("callbacks.device_stats", "logger=csv"),
    (EARLY, "callbacks.a.monitor=val/f1", "callbacks.a.mode=min", "find.monitor=val/f1", "find.mode=max"): (
        "callbacks.a.mode", "find.mode"),
    ("trainer.callbacks=[]",): ("trainer.callbacks", "callbacks.NAME._target_"),
}  # fmt: skip


@pytest.mark.parametrize("given", WRONG, ids=" ".join)
def test_what_is_wrong_is_told(given: tuple[str, ...]) -> None:
    key, hint = WRONG[given]
    with pytest.raises(ConfigError) as error:
        compose(given)
    assert [problem.key for problem in error.value.problems] == [key]
    assert hint in str(error.value)
