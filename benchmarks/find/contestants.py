"""A run of the grid, and the answers that are set against it."""

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
    """The validation loss that a run of `task=train` ends at, infinite where it diverged, and its steps."""
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
    """What a command says as it is shipped.

    Returns:
        `answers`, with each rule alone where there are no trial runs; `steps`; with trial runs `short_steps`, theirs,
        and what was `tried`; the `intervals` and `doubts` of the answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = _quietly(find.run, [*options, *command.split(), f"seed={seed}"], folder)
        except ConfigError as error:  # the range does not hold the LR: no answer
            return {"answers": {}, "steps": 0, "error": str(error)}
        record = Record.read(Path(result["folder"]))
    answer = record.confirmed or record.reading
    found = {"intervals": {command: answer.interval}, "doubts": {command: answer.doubts}, "steps": record.test.steps}
    if record.confirmed:
        tried = {"short_steps": record.short_steps, "tried": record.confirmed.tried}
        return {"answers": {command: answer.lr}, **found, **tried}
    alone = {f"{name} alone": lr for name, lr in record.reading.marks.items() if name != "halfway"}
    return {"answers": {command: answer.lr, **alone}, **found}


def _quietly(task: Callable[[Any], dict[str, Any]], options: Sequence[str], folder: str) -> dict[str, Any]:
    """The result of a task, of which nothing is printed."""
    with contextlib.redirect_stdout(io.StringIO()):
        return task(compose([*options, f"output={folder}", "trainer.progress=false"]))


def ask(job: Job, options: Sequence[str]) -> dict[str, Any]:
    """Makes a run of the grid, or asks a contestant for an answer.

    Args:
        job: which.
        options: of the problem.
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
