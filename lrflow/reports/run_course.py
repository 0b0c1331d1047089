"""The course of a run, as its page shows it: what it measured at its steps, and what happened at some of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lrflow.columns import COSINE, DATA_TIME, NOISE_SCALE, SHARPNESS, VARYING
from lrflow.finding import spoken
from lrflow.history import GrowingFile, History, read_history
from lrflow.metric import LOSS, TRAIN_LOSS, Metric, guess_mode, is_loss, is_test, is_validation
from lrflow.plan.table import Line, lines
from lrflow.reports.runs import Run
from lrflow.runs import ROLLBACKS, RunFolder
from lrflow.wording import counted

SHOWN = 12  # groups that charts show; of more, some of all depths

RESUMED = "resumed"
"""Kind of the event that a run was resumed."""

NORMS = ("grad_norm", "weight_norm", "update_norm", "update_ratio")
"""Kinds of columns with the norms of each group."""

_OF_GROUPS = ("lr", "lr_planned", "lr_estimate", "lr_effective", *NORMS)
"""Kinds of columns of which there is one per group."""

_TOO_LARGE = 2**63

_NO_METRICS = ("epoch", "train/grad_norm", "clip/factor", COSINE, NOISE_SCALE, DATA_TIME, *SHARPNESS)


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    Args:
        step: of the run.
        kind: what it is, in words, such as `rollback`.
        text: what happened, in words with numbers.
        found: whether a monitor found it.
    """

    step: int
    kind: str
    text: str
    found: bool = False


@dataclass(frozen=True)
class Best:
    """The best value of a metric.

    Args:
        metric: with its mode.
        value: the best one.
        step: at which it was measured; None: unknown.
    """

    metric: Metric
    value: float
    step: int | None


@dataclass(frozen=True)
class Course:
    """What a run measured, and what happened.

    Args:
        run: the run.
        recorded: its metrics.csv, of which each new course reads only what was added; None: it is read once, without
            the columns of groups that charts do not show.
    """

    run: Run
    recorded: GrowingFile | None = None

    @cached_property
    def lines(self) -> list[Line]:
        """The distinct curves of the LR; of more than `SHOWN`, some from the first to the last."""
        return _some(lines(self.run.plan)) if self.run.plan else []

    @cached_property
    def groups(self) -> list[str]:
        """The groups that charts show: all of them, or some from the first to the last."""
        return _some(self.all_groups)

    @cached_property
    def all_groups(self) -> list[str]:
        """The groups that train, in the order of the plan."""
        if self.run.plan:
            return list(self.run.plan.names)
        return read_history(RunFolder(self.run.folder).metrics, rows=1).groups("lr")

    @cached_property
    def history(self) -> History:
        """Its series; of those of groups, the ones that charts show."""
        if self.recorded is not None:
            return self.recorded.read()
        shown = {*self.groups, *(name for line in self.lines for name in line.names[:1])}

        def wanted(column: str) -> bool:
            kind, _, group = column.partition("/")
            return kind not in _OF_GROUPS or group in shown

        return read_history(RunFolder(self.run.folder).metrics, wanted)

    @cached_property
    def abandoned(self) -> list[History]:
        """The training losses of the steps that rollbacks replaced."""
        folder = self.run.folder / ROLLBACKS
        paths = sorted(folder.glob("*.csv"), key=lambda path: (len(path.name), path.name))
        return [read_history(path, TRAIN_LOSS.__eq__) for path in paths]

    @cached_property
    def metrics(self) -> list[str]:
        """The names of its metrics: losses first, those of validations before those of tests."""
        plan = self.run.plan
        moved = {name for name in self.history if plan and name.partition("/")[0] in plan.also}
        moved |= {scalar.column for scalar in plan.scalars} if plan else set()
        measured = [name for name in self.history if not (is_of_the_machinery(name) or name in moved)]
        names = dict.fromkeys([*measured, *self.run.metrics])
        return sorted(names, key=lambda name: (is_test(name), not is_loss(name), is_validation(name)))

    @cached_property
    def last_step(self) -> int:
        """The number of steps that it made, as far as its folder tells."""
        if self.run.outcome and self.run.outcome.steps is not None:
            return self.run.outcome.steps
        return max((int(series.steps.max()) + 1 for series in self.history.values()), default=0)

    @cached_property
    def planned_steps(self) -> int | None:
        """The number of steps that it should make; None: unknown."""
        planned = self.run.outcome.planned if self.run.outcome else None
        return planned or (self.run.plan.horizon.steps if self.run.plan else None)

    def best(self, name: str) -> Best | None:
        """Return the best value of a metric; None: it has no finite one."""
        metric, series = self.run.metric(name), self.history[name]
        if found := series.best(metric):
            return Best(metric, *found)
        value = self.run.metrics.get(name)
        return None if value is None or not math.isfinite(value) else Best(metric, value, None)

    def knows_better(self, name: str) -> bool:
        """Return whether the config or the name of a metric says which way it is better: not of `batch_size`."""
        return not self.run.metric(name).guessed or guess_mode(name) is not None

    @cached_property
    def main(self) -> str | None:
        """The name of the metric by which it is judged: that of the best checkpoint, or else of any validation."""
        given = self.run.config.get("trainer.checkpoint.monitor", LOSS)
        if given in self.metrics:
            return str(given)
        return next(filter(is_validation, self.metrics), TRAIN_LOSS if TRAIN_LOSS in self.metrics else None)

    def last(self, name: str) -> float | None:
        """Return the last value of a metric; None: it has none."""
        if name in self.run.metrics:
            return self.run.metrics[name]
        series = self.history[name]
        return float(series.values[-1]) if len(series) else None

    @cached_property
    def events(self) -> list[Event]:
        """What happened, in the order of the steps."""
        found = [
            Event(one.step, spoken(one.kind), one.line.partition(": ")[2], found=True) for one in self.run.findings
        ]
        summary, environment = self.run.summary, self.run.environment
        changes: list[Mapping[str, Any]] = [
            *({"action": "rollback", **one} for one in _records(summary.get("recoveries"))),
            *_records(summary.get("adjustments")),
        ]
        found += [_change(one) for one in changes if _has(one, "step", "factor")]
        if not changes and self.abandoned:
            steps = [int(one[TRAIN_LOSS].steps.min()) for one in self.abandoned if TRAIN_LOSS in one]
            found += [Event(step, "rollback", f"returned to step {step:,}") for step in steps]
        found += [
            Event(int(one["step"]), "feedback", f"factor {one['factor']:.4g} at a reading of {one['value']:.4g}")
            for one in _records(summary.get("feedback"), "step", "factor", "value")
        ]
        if cooldown := _records([summary.get("cooldown")], "from", "to"):
            start, end = int(cooldown[0]["from"]), int(cooldown[0]["to"])
            why = cooldown[0].get("reason", "")
            found.append(Event(start, "cooldown", f"the LR decays until step {end:,}{f': {why}' * bool(why)}"))
        for one in _records([environment.get("resumed")], "step"):
            found.append(Event(int(one["step"]), RESUMED, f"from {one.get('checkpoint', 'a checkpoint')}"))
        return sorted(found, key=lambda event: event.step)

    def at(self, step: int) -> str:
        """Return a step in words, with its epoch if that is known."""
        return f"step {step:,}" + (f", epoch {self.epochs(step)}" if self.epoch_length else "")

    def epochs(self, steps: int) -> str:
        """Return the number of epochs that steps take, as text; empty: unknown."""
        count = steps / self.epoch_length if self.epoch_length else None
        return "" if count is None else f"{count:,.0f}" if count >= 100 else f"{count:.3g}"

    @property
    def epoch_length(self) -> int | None:
        """Steps per epoch; None: unknown."""
        return self.run.plan.horizon.steps_per_epoch if self.run.plan else None


def _some(entries: Sequence[Any]) -> list[Any]:
    """Return the entries, or `SHOWN` of them, evenly spaced with both ends."""
    if len(entries) <= SHOWN:
        return list(entries)
    return [entries[place] for place in np.linspace(0, len(entries) - 1, SHOWN).round().astype(int)]


def is_of_the_machinery(column: str) -> bool:
    """Return whether a column is about the training itself instead of its result."""
    return column.partition("/")[0] in _OF_GROUPS or column in _NO_METRICS or column.startswith(VARYING)


def _records(content: Any, *numbers: str) -> list[Mapping[str, Any]]:
    """Return the records in the content of a file that have these numbers."""
    found = content if isinstance(content, list) else []
    return [one for one in found if isinstance(one, Mapping) and _has(one, *numbers)]


def _has(record: Mapping[str, Any], *numbers: str) -> bool:
    """Whether a record has these numbers, finite and of a size that steps and factors can have."""
    given = [record.get(name) for name in numbers]
    return all(isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < _TOO_LARGE for one in given)


def _change(record: Mapping[str, Any]) -> Event:
    """Return the event of a rollback, or of another change of the LR that a finding led to."""
    parts = [str(record.get("reason") or ""), f"returned to step {record['to']:,}" if _has(record, "to") else ""]
    text = "; ".join(filter(None, [*parts, f"LR x {record['factor']:.3g}"]))
    if isinstance(skipped := record.get("skipped"), list) and skipped:
        text += f", batches of {counted(len(skipped), 'step')} left out"
    return Event(int(record["step"]), str(record.get("action") or "change of the LR"), text)
