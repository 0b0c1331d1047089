"""How a run ended is one value, whoever asks."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from lrflow.errors import ConfigError, DivergedError, EndedEarlyError, LrflowError, Problem, PrunedError, StoppedError
from lrflow.outcome import STATUSES, Outcome

ENDS = [
    (DivergedError("step 3: the loss is nan\n    lower the LR"), "diverged", 1),
    (EndedEarlyError("ended early after 3 of 9 steps: a callback", {"val/loss": 2.0}), "ended_early", 3),
    (PrunedError("trial 1 was pruned by asha", {"val/loss": 2.0}), "pruned", 0),
    (StoppedError("stopped as asked", 143), "stopped", 143),
    (KeyboardInterrupt(), "stopped", 130),
    (ConfigError([Problem("a.b", "is wrong")]), "failed", 2),
    (LrflowError("no room"), "failed", 1),
    (OSError("the disk is full"), "failed", 1),
    (ValueError(), "failed", 1),
]


@pytest.mark.parametrize(("error", "status", "code"), ENDS, ids=lambda value: str(value)[:20])
def test_an_error_is_one_status_and_one_exit_code(error: BaseException, status: str, code: int) -> None:
    outcome = Outcome.from_error(error, {"train/loss": 1.0}, steps=3, planned=9)
    assert (outcome.status, outcome.exit_code) == (status, code)
    assert outcome.reason
    assert outcome.metrics == ({"val/loss": 2.0} if hasattr(error, "metrics") else {"train/loss": 1.0})
    with pytest.raises(type(error)):
        outcome.raise_if_unfinished()


def test_every_status_can_be_reached() -> None:
    assert {status for _, status, _ in ENDS} | {Outcome.finished().status} == set(STATUSES)


def test_what_ended_early_says_by_what_and_after_how_many_steps() -> None:
    outcome = Outcome.ended_early("a time limit", 3, 9, {"val/loss": 1.5}, seconds=2.0)
    assert (outcome.status, outcome.exit_code, outcome.steps, outcome.planned) == ("ended_early", 3, 3, 9)
    assert outcome.reason == "ended early after 3 of 9 steps: a time limit"
    assert outcome.metrics == {"val/loss": 1.5}


@pytest.mark.parametrize(("error", "status", "code"), ENDS, ids=lambda value: str(value)[:20])
def test_a_summary_reads_back(error: BaseException, status: str, code: int, tmp_path: Path) -> None:
    before = Outcome.from_error(error, {"val/loss": 1.0}, steps=3, planned=9, seconds=1.234)
    record = json.loads(json.dumps(before.summary(feedback=[])))
    assert record["feedback"] == []
    assert "\n" not in record["reason"]
    after = Outcome.from_summary(record, tmp_path)
    assert after is not None
    assert (after.status, after.reason, after.metrics) == (before.status, before.reason, before.metrics)
    assert (after.steps, after.planned, after.seconds, after.folder) == (3, 9, 1.23, tmp_path)


def test_a_finished_summary_has_no_reason_and_reads_back() -> None:
    record = Outcome.finished({"val/loss": 1.0}, steps=9, planned=9, seconds=2.0).summary()
    assert record == {"status": "finished", "steps": 9, "planned": 9, "seconds": 2.0, "metrics": {"val/loss": 1.0}}
    assert Outcome.from_summary(record) == Outcome.finished({"val/loss": 1.0}, steps=9, planned=9, seconds=2.0)
    assert Outcome.from_summary({}) is None


@pytest.mark.parametrize(
    ("record", "status"),
    [
        ({"status": "finished", "metrics": {"a": 1.0}, "steps": 60, "seconds": 1.5}, "finished"),
        ({"status": "failed", "error": "step 3: the loss is nan, at LR 1\n    lower it", "metrics": {}}, "diverged"),
        ({"status": "failed", "error": "after 9 steps: the weights are not finite", "metrics": {}}, "diverged"),
        ({"status": "failed", "error": "OSError: no information", "metrics": {}}, "failed"),
        ({"status": "stopped", "error": "stopped as asked", "metrics": {}}, "stopped"),
        ({"status": "pruned", "error": "trial 8 was pruned by x", "metrics": {"a": 1.0}}, "pruned"),
    ],
)
def test_summaries_of_the_version_before_are_read(record: dict[str, object], status: str) -> None:
    outcome = Outcome.from_summary(record)
    assert outcome is not None
    assert outcome.status == status
    assert outcome.reason == record.get("error", "")
    assert outcome.metrics == record["metrics"]


def test_a_failure_that_speaks_of_nan_is_a_failure() -> None:
    failed = Outcome.from_error(ValueError("the column 'nan' is missing"))
    read = Outcome.from_summary(failed.summary())
    assert read is not None
    assert (read.status, read.reason) == (failed.status, failed.reason) == ("failed", failed.reason)


@pytest.mark.parametrize(("error", "status", "code"), ENDS, ids=lambda value: str(value)[:20])
def test_it_goes_to_another_process(error: BaseException, status: str, code: int) -> None:
    found = pickle.loads(pickle.dumps(Outcome.from_error(error, overrides=["a=1"]).picklable()))
    assert (found.status, found.exit_code, found.overrides) == (status, code, ["a=1"])
