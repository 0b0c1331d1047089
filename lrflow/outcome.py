"""How a run ended: one value that reaches summary.json, the exit code, every logger, the sweep and its study."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lrflow.errors import DivergedError, EndedEarlyError, LrflowError, PrunedError, StoppedError

Status = Literal["finished", "ended_early", "stopped", "diverged", "failed", "pruned"]
"""finished: made every step of its plan. ended_early: something else than lrflow ended it before, such as a callback or
a time limit. stopped: by a signal. diverged: no longer finite. pruned: given up by its sweep. failed: else."""

STATUSES: tuple[Status, ...] = get_args(Status)

_INTERRUPTED = 130  # 128 + SIGINT


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        status: one of `STATUSES`.
        reason: why it did not finish; empty where it finished.
        metrics: its last metrics by name; those of a pruned run are the ones that it was pruned by.
        steps: optimizer steps that it made; None: not known, or the task makes none.
        planned: optimizer steps of its plan.
        seconds: how long it took.
        folder: where it wrote.
        error: the exception of a run that did not finish.
        overrides: of its job, as they were typed.
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

    @classmethod
    def finished(cls, metrics: Mapping[str, float] | None = None, **facts: Any) -> Outcome:
        """A run that did what it was asked for; `facts` are further fields."""
        return cls("finished", metrics=dict(metrics or {}), **facts)

    @classmethod
    def ended_early(
        cls, reason: str, steps: int, planned: int, metrics: Mapping[str, float] | None = None, **facts: Any
    ) -> Outcome:
        """A run that made fewer steps than its plan has.

        Args:
            reason: what ended it, as in `the callback EarlyStopping`.
            steps: that it made.
            planned: steps of its plan.
            metrics: its last ones.
            facts: further fields.
        """
        error = EndedEarlyError(f"ended early after {steps} of {planned} steps: {reason}", metrics)
        return cls.of_error(error, steps=steps, planned=planned, **facts)

    @classmethod
    def of_error(cls, error: BaseException, metrics: Mapping[str, float] | None = None, **facts: Any) -> Outcome:
        """A run that raised; an error that brings metrics is believed over `metrics`."""
        reason = str(error) if isinstance(error, LrflowError) else f"{type(error).__name__}: {error}".rstrip(": ")
        metrics = dict(getattr(error, "metrics", None) or metrics or {})
        return cls(_status_of(error), reason, metrics, error=error, **facts)

    @classmethod
    def carried_by(cls, error: BaseException) -> Outcome | None:
        """What was recorded of a run that raised; None: nothing was."""
        found = getattr(error, "outcome", None)
        return found if isinstance(found, Outcome) else None

    @classmethod
    def recorded(cls, status: str, reason: str = "", metrics: Mapping[str, Any] | None = None, **facts: Any) -> Outcome:
        """A run as a record says that it ended."""
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
        return cls.of_error(kinds[status], numbers, **facts)

    @classmethod
    def of_summary(cls, summary: Mapping[str, Any], folder: Path | None = None) -> Outcome | None:
        """What a run folder's summary says; None where the run has not ended."""
        if "status" not in summary:
            return None
        told = {name: summary.get(name) for name in ("steps", "planned")}
        reason, status = str(summary.get("error") or summary.get("reason") or ""), str(summary["status"])
        # lrflow 0.1 called a diverged run `failed`, and wrote no `reason` beside the error.
        if status == "failed" and "reason" not in summary and _SAYS_DIVERGED.search(reason):
            status = "diverged"
        seconds = float(summary.get("seconds") or 0.0)
        return cls.recorded(status, reason, summary.get("metrics"), seconds=seconds, folder=folder, **told)

    def summary(self, **facts: Any) -> dict[str, Any]:
        """The content of summary.json, with facts of the run that stand beside how it ended."""
        told: dict[str, Any] = {"status": self.status}
        if self.status != "finished":
            told |= {"reason": self.in_a_line, "error": self.reason}
        if self.steps is not None:
            told["steps"] = self.steps
        if self.planned is not None:
            told["planned"] = self.planned
        return {**told, "seconds": round(self.seconds, 2), **facts, "metrics": dict(self.metrics)}

    @property
    def in_a_line(self) -> str:
        """The first line of the reason."""
        return self.reason.partition("\n")[0]

    @property
    def exit_code(self) -> int:
        """0 where it finished or was pruned, 3 where it ended early, 1 where it failed or diverged.

        2 where its configuration cannot be run, 128 + the signal where it was stopped.
        """
        if isinstance(self.error, KeyboardInterrupt):
            return _INTERRUPTED
        if isinstance(self.error, LrflowError):
            return self.error.exit_code
        return 0 if self.error is None else 1

    def check(self) -> Outcome:
        """This outcome, if the run finished.

        Raises:
            BaseException: the error of a run that did not; `Outcome.carried_by` finds this outcome again.
        """
        if self.error is not None:
            raise self.carried()
        return self

    def carried(self) -> BaseException:
        """The error of a run that did not finish, which brings this outcome to whoever catches it."""
        assert self.error is not None
        self.error.outcome = self  # type: ignore[attr-defined]
        return self.error

    def judged_by(self, objectives: Iterable[str]) -> Outcome:
        """The same, but diverged where the run finished and one of these metrics is not finite."""
        ends = {name: self.metrics[name] for name in objectives if name in self.metrics}
        broken = [f"{name} is {value}" for name, value in ends.items() if not math.isfinite(value)]
        if self.status != "finished" or not broken:
            return self
        error = DivergedError(", ".join(broken))
        return replace(self, status="diverged", reason=str(error), error=error)

    def portable(self) -> Outcome:
        """The same for another process: an error that cannot be pickled is replaced by its message."""
        try:
            pickle.loads(pickle.dumps(self.error))
        except Exception:
            return replace(self, error=LrflowError(self.reason))
        return self


def numbers_in(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among what a task returned or a record holds: its metrics."""
    found = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in found.items() if not isinstance(value, bool)}


def exit_code_of_sweep(outcomes: Iterable[Outcome]) -> int:
    """1 where a job failed, diverged or was stopped; else 3 where one ended early; else 0."""
    found = {outcome.status for outcome in outcomes}
    return 1 if found & {"failed", "diverged", "stopped"} else EndedEarlyError.exit_code * ("ended_early" in found)


_SAYS_DIVERGED = re.compile(r"\b(nan|inf)\b|not finite")


def _status_of(error: BaseException) -> Status:
    """The one place that turns an error into how a run ended."""
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
