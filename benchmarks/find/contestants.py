"""A run of the grid, and the answers that are compared with it."""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.find.peers import Answer, fastai, lightning, torch_lr_finder
from benchmarks.find.problems import CONFIRMED, CONSENSUS, CONTESTANTS, RUNS, Job
from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.health import DivergedError
from lrflow.tasks import find, train
from lrflow.tuning.find_record import Record


def whole_run(options: Sequence[str], lr: float, seed: int) -> dict[str, Any]:
    """Return final validation loss (infinite if it diverged) and steps of a run of `task=train`."""
    words = [*options, f"optimizer.lr={lr}", f"seed={seed}", "task.test=false", "trainer.checkpoint.every=100%"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = _quietly(train.run, words, folder)
        except DivergedError:
            return {"loss": math.inf, "steps": 0}
        steps = json.loads((Path(result["folder"]) / "summary.json").read_text())["steps"]
    loss = float(result["val/loss"])
    return {"loss": loss if math.isfinite(loss) else math.inf, "steps": steps}


def lrflow(command: str, options: Sequence[str], seed: int) -> Answer:
    """Return the answer of one of lrflow's commands with its defaults.

    Returns:
        `answers`, including each rule alone if there are no trial runs; `steps`; `intervals` and `doubts` of the
        answer; with trial runs also their `short_steps` and the LRs `tried`.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = _quietly(find.run, [*options, *command.split(), f"seed={seed}"], folder)
        except ConfigError as error:  # the LR is outside the range: no answer
            return {"answers": {}, "steps": 0, "error": str(error)}
        record = Record.read(Path(result["folder"]))
    answer = record.confirmed or record.suggestion
    found = {"intervals": {command: answer.interval}, "doubts": {command: answer.doubts}, "steps": record.test.steps}
    if record.confirmed:
        tried = {"short_steps": record.short_steps, "tried": record.confirmed.tried}
        return {"answers": {command: answer.lr}, **found, **tried}
    alone = {f"{name} alone": lr for name, lr in record.suggestion.marks.items() if name != "halfway"}
    return {"answers": {command: answer.lr, **alone}, **found}


def _quietly(task: Callable[[Any], dict[str, Any]], options: Sequence[str], folder: str) -> dict[str, Any]:
    """Run a task without output and return its result."""
    with contextlib.redirect_stdout(io.StringIO()):
        return task(compose([*options, f"output={folder}", "trainer.progress=false"]))


def ask(job: Job, options: Sequence[str]) -> dict[str, Any]:
    """Make a run of the grid, or get the answer of a contestant.

    Args:
        job: run or answer to make.
        options: overrides of the problem.
    """
    if job.contestant == RUNS:
        assert job.lr is not None
        return whole_run(options, job.lr, job.seed)
    finders: tuple[Callable[[Sequence[str], int], Answer], ...] = (
        partial(lrflow, CONSENSUS),
        partial(lrflow, CONFIRMED),
        lightning,
        torch_lr_finder,
        fastai,
    )
    return dict(zip(CONTESTANTS, finders, strict=True))[job.contestant](options, job.seed)
