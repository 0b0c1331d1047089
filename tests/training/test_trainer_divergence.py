"""Diverging runs end with a message, and never save a state that is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lrflow.health import DivergedError, NonFinite
from lrflow.schedules import Constant, Schedule
from lrflow.training.checkpoint_file import read_checkpoint

CONSTANT = Schedule(Constant())


@pytest.fixture
def watched(prepare: Any) -> Any:
    """Makes a run with the monitors of `task=train`."""

    def make(folder: Path, action: Any = "stop", **options: Any) -> Any:
        run = prepare(folder, **options)
        run.watch("nonfinite", NonFinite(action))
        return run

    return make


def test_broken_data_is_detected_at_the_first_step(watched: Any, tmp_path: Path) -> None:
    run = watched(tmp_path, nan=True, save_every="1 step", log_every=50)
    with pytest.raises(DivergedError) as caught:
        run.fit()
    assert "step 0: the loss is nan" in str(caught.value)
    assert "it was so from the first step: look for NaN or infinite values in the data" in str(caught.value)
    assert run.saved == []


@pytest.mark.parametrize("save_every", ["1 step", "1 epoch"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_an_lr_that_is_far_too_high(save_every: str, optimizer: Any, watched: Any, tmp_path: Path) -> None:
    settings = {"weight_decay": 0.0}
    options = {"optimizer": optimizer, "settings": settings, "schedule": CONSTANT, "save_every": save_every}
    run = watched(tmp_path, lr=1e30, log_every=50, **options)
    with pytest.raises(DivergedError) as caught:
        run.fit()
    assert "the LR is likely too high" in str(caught.value)
    assert run.trainer.global_step < 21
    for path in run.saved:
        weights = read_checkpoint(path)["state_dict"].values()
        assert all(torch.isfinite(weight).all() for weight in weights)


def test_nan_weights_of_the_last_step_are_not_saved(watched: Any, tmp_path: Path) -> None:
    """The loss and the gradient of that step are finite, and there is no later step to show the problem."""
    options = {"optimizer": torch.optim.SGD, "settings": {}, "schedule": CONSTANT, "lr": 1e37}
    run = watched(tmp_path, max_epochs=-1, max_steps=1, val_size=0, **options)
    with torch.no_grad():
        run.module.model.head.weight.mul_(1e3)
    with pytest.raises(DivergedError, match="after 1 step: the weights are not finite"):
        run.fit()
    assert not all(torch.isfinite(weight).all() for weight in run.module.parameters())
    assert run.saved == []


def test_a_nan_validation_is_not_the_best(watched: Any, tmp_path: Path) -> None:
    run = watched(tmp_path, "ignore", nan=True).fit()
    assert [row["val/loss"] for row in run.rows() if row["val/accuracy"]] == ["nan"] * 3
    assert run.checkpoints.best is None
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_the_rows_of_the_diverging_steps_are_kept(watched: Any, tmp_path: Path) -> None:
    run = watched(tmp_path, nan=True, log_every=5)
    with pytest.raises(DivergedError):
        run.fit()
    assert [row["train/loss"] for row in run.rows()] == ["nan"] * 5


@pytest.mark.parametrize("action", ["warn", "ignore"])
def test_warn_continues(action: str, watched: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = watched(tmp_path, action, nan=True).fit()
    assert run.trainer.global_step == 21
    assert len([record for record in caplog.records if "the loss is nan" in record.message]) == (action == "warn")


def test_a_resumed_run_reports_the_step_of_the_run(watched: Any, train: Any, tmp_path: Path) -> None:
    first = train(tmp_path, interrupt=10, save_every="5 steps")
    run = watched(tmp_path, resume=first.newest, nan=True, log_every=50)
    with pytest.raises(DivergedError, match=r"step 10: the loss is nan, at LR [\d., ]+\n    the LR is likely too high"):
        run.fit()
    assert run.newest == first.newest
