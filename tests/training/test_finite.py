"""A state that is not finite is never saved as good: of weights, buffers, averages and the optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging

from lrflow.errors import DivergedError
from lrflow.health import NonFinite
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.finite import not_finite

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_tensors_that_are_not_finite(value: float, dtype: torch.dtype) -> None:
    broken = torch.zeros(3, 2, dtype=dtype)
    broken[1, 1] = value
    fine = [("a", torch.ones(4, dtype=dtype)), ("empty", torch.zeros(0)), ("count", torch.tensor(3)), ("text", "nan")]
    assert not_finite([*fine, ("b", broken), ("c", torch.tensor(value, dtype=dtype))]) == ["b", "c"]
    assert not_finite(fine) == []


class Breaks(pl.Callback):
    """Writes a value into the state of a run after step 10: never into the loss or the gradients of a step."""

    def __init__(self, what: str, value: float) -> None:
        self.what, self.value = what, value

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.global_step < 10:
            return
        if self.what == "buffer":
            module.model.body[1].running_mean[2] = self.value
        elif self.what == "optimizer":
            state = trainer.optimizers[0].state
            next(iter(state.values()))["exp_avg_sq"].view(-1)[0] = self.value
        elif self.what == "average":
            average = next(one for one in trainer.callbacks if isinstance(one, EMAWeightAveraging))._average_model
            next(average.parameters()).data.view(-1)[0] = self.value


NAMES = {"buffer": "model.body.1.running_mean", "optimizer": "exp_avg_sq of body.0.", "average": "model.body.0.weight"}


def broken_run(prepare: Any, folder: Path, what: str, value: float = NAN, **options: Any) -> Any:
    average = [EMAWeightAveraging(decay=0.5)] if what == "average" else []
    given = {"save_every": "2 steps", "val_every": "2 steps", "keep": 2, "monitor": "val/accuracy", **options}
    return prepare(folder, callbacks=[*average, Breaks(what, value)], **given)


@pytest.mark.parametrize(("what", "value"), [("buffer", NAN), ("buffer", INF), ("optimizer", NAN), ("average", INF)])
def test_the_run_ends_and_the_finite_checkpoints_stay(what: str, value: float, prepare: Any, tmp_path: Path) -> None:
    run = broken_run(prepare, tmp_path, what, value)
    run.watch("nonfinite", NonFinite())
    with pytest.raises(DivergedError) as caught:
        run.fit()
    assert "after 10 steps: not finite: " in str(caught.value)
    assert NAMES[what] in str(caught.value)
    assert [int(path.stem[5:]) for path in run.saved] == [6, 8]
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] <= 8


@pytest.mark.parametrize("action", ["warn", None])
def test_without_a_stop_the_last_finite_checkpoint_is_kept(
    action: Any, prepare: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = broken_run(prepare, tmp_path, "buffer")
    if action:
        run.watch("nonfinite", NonFinite(action))
    run.fit()
    assert [int(path.stem[5:]) for path in run.saved] == [8, 20, 21]
    assert read_checkpoint(run.newest)["lrflow"]["not_finite"] == [NAMES["buffer"]]
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] <= 8
    told = [message for message in caplog.messages if "is not finite" in message]
    assert told == [
        f"step-0000010.ckpt is not finite ({NAMES['buffer']}): it does not become the best, and the last finite one, "
        "step-0000008.ckpt, is kept"
    ]
    (told,) = [message for message in caplog.messages if "in the validation" in message]
    assert told.endswith(": val/loss is nan in the validation"), "the best is that of val/accuracy"


def test_what_is_infinite_from_the_start_is_fine(prepare: Any, train: Any, tmp_path: Path) -> None:
    def masked(**options: Any) -> Any:
        run = prepare(tmp_path, save_every="5 steps", **options)
        run.module.register_buffer("mask", torch.full((2, 2), -INF))
        run.watch("nonfinite", NonFinite())
        return run

    first = masked(max_epochs=1).fit()
    content = read_checkpoint(first.newest)
    assert content["lrflow"]["not_finite"] == []
    assert content["callbacks"]["Checkpoints"]["tolerated"] == ["mask"]
    assert masked(max_epochs=1).fit().trainer.global_step == 7


def test_a_metric_that_is_not_finite_is_reported_once(
    prepare: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Logs(pl.Callback):
        def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
            module.log("val/score", NAN)

    run = prepare(tmp_path, callbacks=[Logs()], monitor="val/score").fit()
    assert caplog.messages == ["step 7: val/score is nan in the validation, and so not the best"]
    assert run.checkpoints.best is None
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
