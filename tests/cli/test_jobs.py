"""How a job ended is what its run folder says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from lrflow.cli.jobs import run_job
from lrflow.config import compose, validate
from lrflow.errors import LrflowError, StoppedError
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.tasks import prepare, train

SHORT = ["trainer=cpu", "model=logistic", "trainer.max_steps=4", "trainer.progress=false", "trainer.val_every=2"]


class Ends(pl.Callback):
    """Ends a run after its second step: by an error, by an exception that is no lrflow's, or by asking it to stop."""

    def __init__(self, how: Exception | None) -> None:
        self.how = how

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 2 and self.how is not None:
            raise self.how
        trainer.should_stop |= trainer.global_step == 2


@pytest.mark.parametrize(
    ("ends", "status", "code", "steps"),
    [
        ([], "finished", 0, 4),
        ([Ends(None)], "ended_early", 3, 2),
        ([Ends(LrflowError("no room"))], "failed", 1, 2),
        ([Ends(OSError("the disk is full"))], "failed", 1, 2),
        ([Ends(StoppedError("stopped as asked", 143))], "stopped", 143, 2),
    ],
)
def test_the_outcome_of_a_job_is_the_one_in_its_folder(
    ends: list[pl.Callback], status: str, code: int, steps: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    callbacks = prepare._callbacks
    monkeypatch.setattr(prepare, "_callbacks", lambda *given: [*callbacks(*given), *ends])
    config = compose(SHORT)
    outcome = run_job(validate(config.source, config.choices, ["seed=0"], tmp_path / "7"))
    assert (outcome.status, outcome.exit_code, outcome.steps, outcome.planned) == (status, code, steps, 4)
    recorded = Outcome.from_summary(RunFolder(tmp_path / "7").read_summary(), tmp_path / "7")
    assert recorded is not None
    same = replace(outcome, overrides=(), error=None, seconds=round(outcome.seconds, 2))
    assert same == replace(recorded, error=None)
    assert outcome.overrides == ["seed=0"]


def test_resuming_a_finished_run_returns_its_outcome(tmp_path: Path) -> None:
    first = train.outcome(compose([*SHORT, f"output={tmp_path}"]))
    again = train.outcome(compose([*SHORT, f"output={tmp_path}", f"resume={first.folder}"]))
    assert replace(again, seconds=0.0) == replace(first, seconds=0.0)
