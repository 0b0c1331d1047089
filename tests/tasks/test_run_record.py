"""However a run ends: its folder, its dashboards and whoever runs it are told the same."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lrflow.config import compose
from lrflow.errors import DivergedError, EndedEarlyError, PrunedError, SignalReceived, StoppedError
from lrflow.loggers.loggers import close_loggers
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.tasks import prepare, train
from lrflow.tasks.run_record import open_loggers

SHORT = ["model.widths=[8]", "trainer=cpu", "trainer.max_steps=12", "trainer.progress=false", "data.batch_size=128"]


@pytest.fixture(autouse=True)
def _as_before() -> Any:
    before = signal.getsignal(signal.SIGINT)
    torch.set_num_threads(1)
    yield
    signal.signal(signal.SIGINT, before)  # Lightning has it ignored after a Ctrl-C


@pytest.fixture
def ended(tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Trains, does something after step 5, and gives what was raised, the summary and what the loggers were told."""

    def run(act: Callable[[pl.Trainer], None], hook: str = "on_train_batch_end") -> tuple[Any, dict[str, Any], Outcome]:
        told: list[Outcome | None] = []

        def close(loggers: list[Any], outcome: Outcome | None = None) -> None:
            if loggers:
                told.append(outcome)
            close_loggers(loggers, outcome)

        class Acts(pl.Callback):
            pass

        def acts(self: Any, trainer: pl.Trainer, *_: Any) -> None:
            if hook != "on_train_batch_end" or trainer.global_step == 5:
                act(trainer)

        setattr(Acts, hook, acts)
        callbacks = prepare._callbacks
        for where in ("lrflow.tasks.train.close_loggers", "lrflow.tasks.run_record.close_loggers"):
            monkeypatch.setattr(where, close)
        monkeypatch.setattr("lrflow.tasks.prepare._callbacks", lambda *given: [*callbacks(*given), Acts()])
        error: BaseException | None = None
        try:
            train.run(compose([*SHORT, f"output={tmp_path}"]))
        except BaseException as raised:
            error = raised
        (folder,) = tmp_path.iterdir()
        (outcome,) = told
        assert outcome is not None
        return error, RunFolder(folder).read_summary(), outcome

    return run


def raises(error: BaseException) -> Callable[[pl.Trainer], None]:
    def act(trainer: pl.Trainer) -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ValueError("oh"), "failed", 1),
        (DivergedError("step 4: the loss is nan"), "diverged", 1),
        (PrunedError("trial 0 was pruned", {"val/loss": 9.0}), "pruned", 0),
        (StoppedError("stopped as asked", 143), "stopped", 143),
        (SystemExit(0), "failed", 1),
        (KeyboardInterrupt(), "stopped", 130),  # which Lightning turns into an exit with code 1
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_an_error(error: BaseException, status: str, code: int, ended: Any) -> None:
    raised, summary, told = ended(raises(error))
    assert type(raised) is type(error)
    assert (summary["status"], told.status, told.exit_code) == (status, status, code)
    assert (summary["steps"], summary["planned"]) == (told.steps, told.planned) == (5, 12)
    assert summary["reason"] == told.reason
    assert summary["metrics"] == ({"val/loss": 9.0} if status == "pruned" else {})


@pytest.mark.parametrize("error", [SIGTERMException(), SignalReceived(15)], ids=lambda error: type(error).__name__)
def test_a_signal_during_the_test_is_a_stop(error: BaseException, ended: Any) -> None:
    raised, summary, told = ended(raises(error), "on_test_batch_start")
    assert isinstance(raised, StoppedError)
    assert (summary["status"], summary["steps"], told.exit_code) == ("stopped", 12, 143)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start"])
def test_an_error_before_the_first_step(hook: str, ended: Any) -> None:
    raised, summary, told = ended(raises(ValueError("oh")), hook)
    assert type(raised) is ValueError
    assert (summary["status"], summary["steps"], told.status) == ("failed", 0, "failed")


def test_a_run_that_ended_early_is_validated_tested_and_not_finished(ended: Any) -> None:
    def stop(trainer: pl.Trainer) -> None:
        trainer.should_stop = True

    raised, summary, told = ended(stop)
    assert isinstance(raised, EndedEarlyError)
    assert raised.exit_code == told.exit_code == 3
    assert summary["status"] == told.status == "ended_early"
    assert (summary["steps"], summary["planned"]) == (5, 12)
    assert summary["reason"].startswith("ended early after 5 of 12 steps: ")
    assert {"val/loss", "test/loss"} <= summary["metrics"].keys()
    assert summary["metrics"] == told.metrics == raised.metrics


def test_a_whole_run(ended: Any) -> None:
    raised, summary, told = ended(lambda trainer: None)
    assert raised is None
    assert (summary["status"], summary["steps"], summary["planned"]) == ("finished", 12, 12)
    assert (told.status, told.exit_code) == ("finished", 0)
    assert "reason" not in summary


def test_a_key_of_weights_and_biases_alone_asks_for_it_with_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr("lrflow.tasks.run_record.build_loggers", lambda settings, *_: told.append(settings) or [])
    open_loggers(compose(["logger.wandb.project=x"]), RunFolder(tmp_path))
    open_loggers(compose(["logger=wandb", "logger.wandb.project=x"]), RunFolder(tmp_path))
    assert told[0] == told[1]
    assert told[0]["wandb"]["project"] == "x"
