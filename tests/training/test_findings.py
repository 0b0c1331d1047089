"""What monitors find is in the terminal once, and in findings.jsonl, summary.json and the checkpoints."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lrflow.errors import DivergedError
from lrflow.finding import Finding, read_findings
from lrflow.training.findings import Findings

LOUD = Finding(
    "too_low", 40, 10, "the loss falls in a line", {"cosine": 0.99, "loss": float("nan")}, 0.8, "optimizer.lr=1"
)


class Trainer:
    is_global_zero, loggers = True, ()


def test_a_kind_is_logged_once_and_recorded_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    findings = Findings(tmp_path)
    later = replace(LOUD, step=50)
    for finding in (LOUD, later, LOUD):  # as of a rollback from which the run goes the same way again
        findings.report(cast(Any, Trainer), finding)
    assert caplog.messages == ["too low since step 10: the loss falls in a line; try optimizer.lr=1"]
    assert caplog.records[0].levelno == logging.WARNING
    assert findings.records == [LOUD.record(), later.record()]
    assert [one.record() for one in read_findings(tmp_path)] == findings.records


def test_a_resumed_run_keeps_the_findings_of_its_checkpoint(tmp_path: Path) -> None:
    findings, resumed = Findings(tmp_path), Findings(tmp_path)
    findings.report(cast(Any, Trainer), LOUD)
    state = json.loads(json.dumps(findings.state_dict()))
    findings.report(cast(Any, Trainer), replace(LOUD, step=45))
    assert len(read_findings(tmp_path)) == 2
    resumed.load_state_dict(state)
    resumed.on_train_start(cast(Any, Trainer), cast(Any, None))
    assert len(read_findings(tmp_path)) == 1
    told: list[tuple[int, bool]] = []
    logger = SimpleNamespace(report_finding=lambda finding, again: told.append((finding.step, again)))
    for finding in (LOUD, replace(LOUD, step=50)):
        resumed.report(cast(Any, SimpleNamespace(is_global_zero=True, loggers=[logger, None])), finding)
    assert told == [(40, True), (50, False)], "loggers know what the run reported before it was interrupted"


def test_stop_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"too low since step 10: the loss falls in a line\n    try optimizer.lr=1"):
        Findings(tmp_path).report(cast(Any, Trainer), LOUD, "stop", "diverged")
    assert len(read_findings(tmp_path)) == 1


def test_a_disk_that_cannot_be_written_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "findings.jsonl").mkdir()
    Findings(tmp_path).report(cast(Any, Trainer), LOUD)
    assert any("could not be written" in message for message in caplog.messages)
    Findings(tmp_path / "none").report(cast(Any, SimpleNamespace(**vars(Trainer))), LOUD)


def test_dashboards_get_to_know_whether_a_finding_was_reported_before(tmp_path: Path) -> None:
    again: list[bool] = []
    logger = SimpleNamespace(report_finding=lambda finding, known: again.append(known))
    trainer = cast(Any, SimpleNamespace(is_global_zero=True, loggers=[logger]))
    findings = Findings(tmp_path)
    for _ in range(2):  # as the steps after a rollback may show it again
        findings.record(trainer, LOUD)
    assert again == [False, True]
    assert len(findings.records) == 1
