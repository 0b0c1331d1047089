"""What monitors find in a run, and the record of it: the terminal, findings.jsonl, the checkpoints and the loggers."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning import Callback

from lrflow.config.run_schema import Response
from lrflow.errors import DivergedError
from lrflow.runs import FINDINGS
from lrflow.training.trainer import Trainer

log = logging.getLogger("lrflow")


@dataclass(frozen=True)
class Finding:
    """Something that a monitor found in a run.

    Args:
        kind: what it is, such as `diverging`: the name of its monitor in `health`.
        step: the number of optimizer steps that were made when it was found.
        since: the first step that shows it.
        message: what happened, in words with numbers, without a full stop: `the loss rose from 0.3 to 2.1`.
        evidence: the numbers that it was judged by.
        confidence: the probability that it is true, as measured by `benchmarks/health`; from 0 to 1.
        remedy: what to change, in words of the config: `optimizer.lr=0.003, or schedule.warmup=10%`. Empty: unknown.
    """

    kind: str
    step: int
    since: int
    message: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    confidence: float = 1.0
    remedy: str = ""

    @property
    def line(self) -> str:
        """The finding in one line."""
        since = f" since step {self.since:,}" if self.since < self.step else f" at step {self.step:,}"
        remedy = f"; try {self.remedy}" if self.remedy else ""
        return f"{self.kind.replace('_', ' ')}{since}: {self.message}{remedy}"

    def record(self) -> dict[str, Any]:
        """Return the finding as plain data; numbers that are not finite are text, which JSON can hold."""
        evidence = {name: float(value) for name, value in self.evidence.items()}
        finite = {name: value if math.isfinite(value) else str(value) for name, value in evidence.items()}
        return {**asdict(self), "step": int(self.step), "since": int(self.since), "evidence": finite}


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

    def report(self, trainer: pl.Trainer, finding: Finding, response: Response = "watch", ends: str = "") -> None:
        """Record a finding, and respond to it.

        Args:
            trainer: of the run.
            finding: the finding.
            response: `watch` records it; `stop` also ends the run; `recover` returns it to an earlier state.
            ends: how `stop` ends the run: `diverged`, or at this step as one that ended early.

        Raises:
            DivergedError: the run ends as diverged.
        """
        rollback = trainer.rollback if isinstance(trainer, Trainer) else None
        if rollback is not None and rollback.is_past(finding.step - 1):
            return  # whether this is seen depends on how many steps a block holds, and the run goes back anyway
        is_new = all(finding.kind != one["kind"] for one in self.records)
        self.records.append(finding.record())
        if trainer.is_global_zero:
            self._write(self.records[-1:], "a")
            for logger in trainer.loggers:
                if report := getattr(logger, "report_finding", None):
                    report(self.records[-1], finding.line)
        if response == "stop" and ends == "diverged":
            raise DivergedError(f"{finding.line}" if not finding.remedy else finding.line.replace("; try", "\n    try"))
        if is_new:
            log.warning("%s", finding.line)
        if response == "recover" and rollback is not None:
            rollback.request(finding.since, finding.message, step=finding.step - 1)
        if response == "stop":
            assert isinstance(trainer, Trainer)
            trainer.stop(finding.line)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the file of a resumed run, which may hold findings after its checkpoint."""
        if trainer.is_global_zero and (self.records or self._path.exists()):
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


def read_findings(folder: Path) -> list[dict[str, Any]]:
    """Return the findings in the findings.jsonl of a run folder; a torn last line is left out."""
    records = []
    try:
        lines = (folder / FINDINGS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
