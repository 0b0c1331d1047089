"""How a run ended (`Outcome`), for summary.json, the exit code, loggers, the sweep and the Optuna study."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lrflow.errors import DivergedError, EndedEarlyError, LrflowError, PrunedError, StoppedError
from lrflow.redaction import redact_text

Status = Literal["finished", "ended_early", "stopped", "diverged", "failed", "pruned"]
"""finished: made every step of its plan. ended_early: ended before by something else, such as a callback or a time
limit. stopped: by a signal. diverged: no longer finite. pruned: by its sweep. failed: by any other error."""

STATUSES: tuple[Status, ...] = get_args(Status)

_INTERRUPTED = 130  # 128 + SIGINT


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        status: one of `STATUSES`.
        reason: why it did not finish; empty if it finished.
        metrics: last metrics by name; of a pruned run, the metrics when it was pruned.
        steps: optimizer steps made; None if unknown or if the task makes none.
        planned: optimizer steps of the plan.
        seconds: duration.
        folder: run folder.
        error: exception that ended the run; None if it finished.
        overrides: overrides of the job as typed.
        runs: of a trial of a sweep with `sweep.repeats`: how its runs ended; the metrics are then their means.
    """

    status: Status
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps: int | None = None
    planned: int | None = None
    seconds: float = 0.0
    folder: Path | None = None
    error: BaseException | None = None
    overrides: Sequence[str] = ()
    runs: Sequence[Outcome] = ()

    @classmethod
    def finished(cls, metrics: Mapping[str, float] | None = None, **facts: Any) -> Outcome:
        """Return the outcome of a run that finished; `facts` are further fields."""
        return cls("finished", metrics=dict(metrics or {}), **facts)

    @classmethod
    def ended_early(
        cls, reason: str, steps: int, planned: int, metrics: Mapping[str, float] | None = None, **facts: Any
    ) -> Outcome:
        """Return the outcome of a run that made fewer steps than its plan has.

        Args:
            reason: what ended it, such as `the callback EarlyStopping`.
            steps: optimizer steps made.
            planned: optimizer steps of the plan.
            metrics: last metrics by name.
            facts: further fields.
        """
        error = EndedEarlyError(f"ended early after {steps} of {planned} steps: {reason}", metrics)
        return cls.from_error(error, steps=steps, planned=planned, **facts)

    @classmethod
    def from_error(cls, error: BaseException, metrics: Mapping[str, float] | None = None, **facts: Any) -> Outcome:
        """Return the outcome of a run that raised; metrics of the error take precedence over `metrics`."""
        reason = str(error) if isinstance(error, LrflowError) else f"{type(error).__name__}: {error}".rstrip(": ")
        reason = redact_text(reason)  # for all that record it: the folder, dashboards, the sweep and its study
        metrics = dict(getattr(error, "metrics", None) or metrics or {})
        return cls(_status_of(error), reason, metrics, error=error, **facts)

    @classmethod
    def attached_to(cls, error: BaseException) -> Outcome | None:
        """Return the outcome that `error_with_outcome` attached to an exception, or None."""
        found = getattr(error, "outcome", None)
        return found if isinstance(found, Outcome) else None

    @classmethod
    def from_record(
        cls, status: str, reason: str = "", metrics: Mapping[str, Any] | None = None, **facts: Any
    ) -> Outcome:
        """Return the outcome from a recorded status, reason and metrics."""
        if status not in STATUSES:
            status, reason = "failed", f"ended as {status!r}, which this version does not know"
        numbers = numbers_in(metrics or {})
        if status == "finished":
            return cls.finished(numbers, **facts)
        kinds: dict[str, LrflowError] = {
            "ended_early": EndedEarlyError(reason, numbers),
            "stopped": StoppedError(reason, _INTERRUPTED),
            "diverged": DivergedError(reason),
            "failed": LrflowError(reason),
            "pruned": PrunedError(reason, numbers),
        }
        return cls.from_error(kinds[status], numbers, **facts)

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any], folder: Path | None = None) -> Outcome | None:
        """Return the outcome from the content of summary.json; None if the run has not ended."""
        if "status" not in summary:
            return None
        counts = {name: summary.get(name) for name in ("steps", "planned")}
        steps = {name: count if type(count) is int and abs(count) < 2**63 else None for name, count in counts.items()}
        reason, status = str(summary.get("error") or summary.get("reason") or ""), str(summary["status"])
        # lrflow 0.1 recorded a diverged run as `failed`, and wrote no `reason` beside the error.
        if status == "failed" and "reason" not in summary and _DIVERGED.search(reason):
            status = "diverged"
        seconds = _number(summary.get("seconds")) or 0.0
        seconds = seconds if math.isfinite(seconds) else 0.0
        return cls.from_record(status, reason, summary.get("metrics"), seconds=seconds, folder=folder, **steps)

    def summary(self, **facts: Any) -> dict[str, Any]:
        """Return the content of summary.json; `facts` are further entries."""
        content: dict[str, Any] = {"status": self.status}
        if self.status != "finished":
            content |= {"reason": self.short_reason, "error": self.reason}
        if self.steps is not None:
            content["steps"] = self.steps
        if self.planned is not None:
            content["planned"] = self.planned
        return {**content, "seconds": round(self.seconds, 2), **facts, "metrics": dict(self.metrics)}

    @property
    def short_reason(self) -> str:
        """First line of the reason."""
        return self.reason.partition("\n")[0]

    @property
    def exit_code(self) -> int:
        """Exit code of a process that ran only this run.

        0: finished or pruned. 1: failed or diverged. 2: invalid config. 3: ended early. 128 + signal: stopped.
        """
        if isinstance(self.error, KeyboardInterrupt):
            return _INTERRUPTED
        if isinstance(self.error, LrflowError):
            return self.error.exit_code
        return 0 if self.error is None else 1

    def raise_if_unfinished(self) -> Outcome:
        """Return this outcome if the run finished.

        Raises:
            BaseException: error that ended the run; `Outcome.attached_to` returns this outcome from it.
        """
        if self.error is not None:
            raise self.error_with_outcome()
        return self

    def error_with_outcome(self) -> BaseException:
        """Return the error that ended the run, with this outcome attached; see `attached_to`."""
        assert self.error is not None
        self.error.outcome = self  # type: ignore[attr-defined]
        return self.error

    def checked_finite(self, objectives: Iterable[str]) -> Outcome:
        """Return this outcome, or a diverged one if the run finished and one of these metrics is not finite."""
        values = {name: self.metrics[name] for name in objectives if name in self.metrics}
        not_finite = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if self.status != "finished" or not not_finite:
            return self
        error = DivergedError(", ".join(not_finite))
        return replace(self, status="diverged", reason=str(error), error=error)

    def picklable(self) -> Outcome:
        """Return this outcome for another process: an error that cannot be pickled is replaced by its message."""
        try:
            pickle.loads(pickle.dumps(self.error))
        except Exception:
            return replace(self, error=LrflowError(self.reason))
        return self


def numbers_in(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numeric values, without booleans, as floats; empty if `values`, read from a file, is no mapping."""
    given = values if isinstance(values, Mapping) else {}
    found = {str(name): _number(value) for name, value in given.items()}
    return {name: value for name, value in found.items() if value is not None}


def _number(value: Any) -> float | None:
    """Return a number as a float; None for any other value, and for a number that is too large."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def exit_code_of_sweep(outcomes: Iterable[Outcome]) -> int:
    """Return 1 if a job failed, diverged or was stopped; else 3 if one ended early; else 0."""
    found = {outcome.status for outcome in outcomes}
    return 1 if found & {"failed", "diverged", "stopped"} else EndedEarlyError.exit_code * ("ended_early" in found)


_DIVERGED = re.compile(r"\b(nan|inf)\b|not finite")


def _status_of(error: BaseException) -> Status:
    """Return the status of a run that ended with this exception."""
    match error:
        case DivergedError():
            return "diverged"
        case EndedEarlyError():
            return "ended_early"
        case PrunedError():
            return "pruned"
        case StoppedError() | KeyboardInterrupt():
            return "stopped"
    return "failed"
