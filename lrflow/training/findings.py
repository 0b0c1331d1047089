"""What monitors find in a run, and the record of it: the terminal, findings.jsonl, the checkpoints and the loggers."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning import Callback

from lrflow.config.schemas.health import OwnResponse
from lrflow.errors import DivergedError
from lrflow.finding import Finding, read_findings
from lrflow.runs import FINDINGS
from lrflow.training.trainer import Trainer

log = logging.getLogger("lrflow")


class Findings(Callback):
    """Records what the monitors of a run find.

    The first finding of each kind is logged in the terminal. All of them are in findings.jsonl, one per line, in
    summary.json, on dashboards, and in the checkpoints: a resumed run continues the record of its checkpoint.

    Args:
        folder: the run folder.

    Attributes:
        records: all findings so far, as plain data.
    """

    outlives_rollbacks = True  # what led to a rollback stays on record

    def __init__(self, folder: Path) -> None:
        self._path = folder / FINDINGS
        self.records: list[dict[str, Any]] = []
        self._earlier: set[tuple[str, int]] = set()  # kinds and steps that the run reported before it was interrupted

    def report(
        self,
        trainer: pl.Trainer,
        finding: Finding,
        response: OwnResponse = "watch",
        ends: str = "",
        suspects: bool = False,
    ) -> None:
        """Record a finding, log a line if it is the first of its kind, and respond to it.

        Args:
            trainer: of the run.
            finding: the finding.
            response: `watch` records it; `stop` also ends the run; `recover` returns it to an earlier state. Any other
                is left to `lrflow.health.actions`, and only recorded here.
            ends: how `stop` ends the run: `diverged`, or at this step as one that ended early.
            suspects: whether the batches of the steps that show it are the likely cause, so `recover` leaves them out.

        Raises:
            DivergedError: the run ends as diverged.
        """
        is_new = all(finding.kind != one["kind"] for one in self.records)
        if not self.record(trainer, finding):
            return
        if response == "stop" and ends == "diverged":
            raise DivergedError(finding.line.replace("; try", "\n    try"))
        if is_new:
            log.warning("%s", finding.line)
        if response == "recover" and isinstance(trainer, Trainer) and trainer.rollback is not None:
            trainer.rollback.request(finding.since, finding.message, finding.step - 1, suspects)
        if response == "stop":
            assert isinstance(trainer, Trainer)
            trainer.stop(finding.line)

    def record(self, trainer: pl.Trainer, finding: Finding) -> bool:
        """Record a finding without a line in the terminal, and return whether it counts.

        It does not if the run is about to return to a state before it: whether it is seen then depends on how many
        steps a block holds.
        """
        rollback = trainer.rollback if isinstance(trainer, Trainer) else None
        if rollback is not None and rollback.is_past(finding.step - 1):
            return False
        is_known = finding.record() in self.records  # after a rollback, the same steps may show it again
        if not is_known:
            self.records.append(finding.record())
        if trainer.is_global_zero:
            self._write([] if is_known else self.records[-1:], "a")
            for logger in trainer.loggers:
                if report := getattr(logger, "report_finding", None):
                    report(finding, is_known or (finding.kind, finding.step) in self._earlier)
        return True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the file of a resumed run, which may hold findings after its checkpoint."""
        if trainer.is_global_zero and (self.records or self._path.exists()):
            self._earlier = {(one.kind, one.step) for one in read_findings(self._path.parent)}
            self._write(self.records, "w")

    def state_dict(self) -> dict[str, Any]:
        """Return the findings, for the checkpoint."""
        return {"records": list(self.records)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the findings of a checkpoint."""
        self.records[:] = state_dict["records"]

    def _write(self, records: Sequence[Mapping[str, Any]], mode: Literal["a", "w"]) -> None:
        if not self._path.parent.is_dir():
            return  # a run that writes no files
        try:
            with self._path.open(mode, encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in records)
        except OSError as error:  # such as a full disk; the checkpoints and summary.json hold the findings, too
            log.warning("%s: could not be written: %s", self._path, error.strerror)
