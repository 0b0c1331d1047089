"""Weights & Biases with one row per optimizer step, also for a run that was killed and is resumed."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from lrflow.finding import Finding, read_findings, spoken
from lrflow.history import read_history
from lrflow.loggers.wandb_access import ReachableWandbLogger
from lrflow.loggers.wandb_artifacts import staged_in
from lrflow.loggers.wandb_file import rows_of
from lrflow.outcome import Outcome
from lrflow.redaction import redact_text

log = logging.getLogger("lrflow")

STEP = "step"
"""The axis of all metrics: the optimizer step, as in metrics.csv."""

OF_LIGHTNING = "trainer/global_step"
"""The axis of Lightning's logger, which runs of earlier versions have; once they are resumed, they have both."""

_BETWEEN_ALERTS = 3600  # least seconds between two alerts of a kind


class WandbHistory(ReachableWandbLogger):
    """Logs rows to W&B under their optimizer step, which is also W&B's own step.

    All values of a step are one row, written when the next step begins: a killed run loses whole rows, not parts of
    them. A resumed run first writes those rows of `metrics.csv` that W&B does not have, and leaves out those that it
    has. A row whose step W&B refuses, because it already has later or other rows, gets the next free one.

    Args:
        folder: of the run; holds `metrics.csv`, and W&B's files in `wandb/`.
        options: of Lightning's logger.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(save_dir=folder.resolve(), **options)  # W&B's process may have another working directory
        self._folder = folder
        self._step: int | None = None
        self._row: dict[str, float] = {}
        self._attached: dict[str, Any] = {}  # pictures and tables, for the next row
        self._defined: set[str] = set()  # the metrics that W&B knows
        self.clock: dict[str, Callable[[int], float]] = {}  # further axes: the amount after a number of steps
        self._known: dict[int, set[str]] | None = None  # the metrics of each step that W&B has; None: not read yet
        self._is_restored = False  # whether W&B has the earlier rows of metrics.csv
        self.axis = STEP
        self._used: set[int] = set()  # W&B's own steps
        self._least = 0  # the first step that W&B takes
        self._shift = 0  # of W&B's steps against those of the optimizer

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the values of a step, which must not be lower than the last one; None: without a step."""
        if step is None:
            super().log_metrics(metrics)
            return
        if not self._is_restored:
            self._restore(step)
        if self._step is not None and step > self._step:
            self._write()
        self._step = step if self._step is None else max(step, self._step)
        self._row |= metrics

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Log the rows of `step` and later again after a rollback, under W&B's next steps: it has the abandoned ones.

        It does nothing at the start of a resumed run, which repeats the rows that W&B has.
        """
        if self._is_restored and self._known is not None:
            self._write()
            self._step = None
            self._known = {one: names for one, names in self._known.items() if one < step}

    @rank_zero_only
    def report_finding(self, finding: Finding, again: bool = False) -> None:
        """Send an alert, unless the run is resumed and sent it before, and list the findings in the summary."""
        lines = [redact_text(one.line) for one in read_findings(self._folder)]
        self.experiment.summary["findings"] = lines
        if not again:
            title = f"{self.experiment.name}: {spoken(finding.kind)}"
            self.experiment.alert(title, redact_text(finding.line), "WARN", _BETWEEN_ALERTS)

    @rank_zero_only
    def conclude(self, outcome: Outcome) -> None:
        """Write the last row."""
        self.close_rows()

    def attach(self, media: Mapping[str, Any]) -> None:
        """Log pictures and tables with the next row that is written."""
        self._attached |= media

    def close_rows(self) -> None:
        """Write the last row, the rows of `metrics.csv` that W&B lacks, and what is attached to none."""
        if not self._is_restored:
            self._restore(sys.maxsize)
        self._write()
        if self._attached:
            self._log(max([self._step or 0, *(self._known or {})]), {})

    def define(self, name: str) -> None:
        """Describe a metric to W&B before its first value."""

    def _write(self) -> None:
        if self._step is not None and self._row:
            self._put(self._step, self._row)
        self._row = {}

    def _put(self, step: int, row: Mapping[str, float]) -> None:
        assert self._known is not None
        if not row.keys() <= self._known.get(step, set()):
            self._log(step, row)

    def _log(self, step: int, row: Mapping[str, float]) -> None:
        at = max(step + self._shift, self._least)
        if at in self._used:
            at = max(self._used) + 1
        # A gap that is filled has its own steps; after a step that was taken, all later ones move.
        self._shift = max(self._shift, at - step)
        self._least = at + 1
        self._used.add(at)
        for name in row.keys() - self._defined:
            self.define(name)
        self._defined |= row.keys()
        axes = {STEP: step, self.axis: step, **{name: count(step + 1) for name, count in self.clock.items()}}
        with staged_in(self._folder / "wandb") if self._attached else nullcontext():
            self.experiment.log({**row, **self._attached, **axes}, step=at, commit=True)
        self._attached = {}

    def read_earlier(self) -> None:
        """Find out which rows W&B has of earlier processes of this run, and which axis they have."""
        if self._known is not None:
            return
        self._known = {}
        earlier = sorted((self._folder / "wandb").glob(f"*run-*-{self._id}/run-{self._id}.wandb"))
        for path in earlier:
            _wait_until_written(path)
            try:
                for own, values in rows_of(path):
                    self._used.add(own)
                    if (step_of := values.get(STEP, values.get(OF_LIGHTNING))) is not None:
                        self._remember(int(step_of), set(values))
                    if OF_LIGHTNING in values:
                        self.axis = OF_LIGHTNING
            except Exception as error:  # a damaged file raises many types of errors, and must not end the run
                log.warning("%s: cannot be read to its end (%s): W&B may get rows twice", path, type(error).__name__)

    def _restore(self, step: int) -> None:
        """Write the rows of `metrics.csv` before a step that W&B lacks."""
        self.read_earlier()
        self._is_restored = True
        experiment: Any = self.experiment
        if not getattr(experiment, "offline", False):
            self._least = int(getattr(experiment, "step", 0) or 0)  # of the server, which takes no earlier ones
        for before, row in read_history(self._folder / "metrics.csv").rows(before=step):
            self._put(before, row)

    def _remember(self, step: int, names: set[str]) -> None:
        """Note that W&B has these metrics of a step.

        A row that it had already was logged again after a rollback, which had abandoned all later ones.
        """
        assert self._known is not None
        if names <= self._known.get(step, set()):
            self._known = {one: known for one, known in self._known.items() if one < step}
        self._known.setdefault(step, set()).update(names)


def _wait_until_written(path: Path, patience: float = 5.0) -> None:
    """Wait for the service of a killed run, which writes what it had received and ends."""
    deadline = time.monotonic() + patience
    while time.time() - path.stat().st_mtime < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
