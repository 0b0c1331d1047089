"""A trial as its run folder records it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lrflow.metric import TRAIN_LOSS
from lrflow.runs import RunFolder

Value = str | float | bool | None


@dataclass(frozen=True)
class TrialResult:
    """A job of a sweep, as its run folder tells of it.

    Args:
        number: its job number, or its place among folders without one.
        folder: of the run.
        status: one of `lrflow.outcome.STATUSES`, or `unfinished`: it is running, or was killed.
        given: the swept keys and their values; None: the trial has no such key.
        metrics: the last of each, by name; of a pruned trial those that it was given up with.
        steps, seconds: that it took; None: it did not end.
        error: why it did not finish.
        ranks: whether it is judged by its metrics; a trial that ended early is only where the sweep was told to.
    """

    number: int
    folder: Path
    status: str
    given: Mapping[str, Value]
    metrics: Mapping[str, float]
    steps: int | None = None
    seconds: float | None = None
    error: str = ""
    ranks: bool = True

    @property
    def diverged(self) -> bool:
        """Whether it failed because its numbers were no longer finite."""
        return self.status == "diverged"

    @property
    def why(self) -> str:
        """Why it did not end well, without its number."""
        return self.error.removeprefix(f"trial {self.number} was ")

    def value(self, metric: str) -> float | None:
        """The metric that it ended with: not finite where it diverged, None where it did not get so far."""
        if self.diverged:
            return math.nan
        ended = self.status == "finished" or (self.status == "ended_early" and self.ranks)
        return self.metrics.get(metric) if ended else None

    def rate(self, key: str | None) -> float | None:
        """The learning rate that it was given by this key; None: it has none, or one that is not positive."""
        value = number_or_none(self.given.get(key or ""))
        return value if value is not None and value > 0 else None

    def first_loss(self) -> float | None:
        """The training loss before the first step; None: it is not known, or not finite."""
        try:
            with RunFolder(self.folder).metrics.open(newline="") as file:
                first = next(csv.DictReader(file), {})
        except OSError:
            return None
        loss = number_or_none(first.get(TRAIN_LOSS)) if first.get("step") == "0" else None
        return loss if loss is not None and math.isfinite(loss) else None

    def history(self, *columns: str) -> list[tuple[list[int], list[float]]]:
        """Steps and values of columns of `metrics.csv`; empty where there is nothing to read."""
        found: list[tuple[list[int], list[float]]] = [([], []) for _ in columns]
        try:
            with RunFolder(self.folder).metrics.open(newline="") as file:
                rows = csv.reader(file)
                header = next(rows, [])
                places = [
                    (header.index(name), into) for name, into in zip(columns, found, strict=True) if name in header
                ]
                for row in rows:
                    for place, (steps, values) in places:
                        if len(row) > place and row[place]:
                            values.append(float(row[place]))
                            steps.append(int(row[0]))
        except (OSError, ValueError):
            pass  # the last row of a run that was killed may be half a row
        return found


def number_or_none(value: object) -> float | None:
    """A value as a number; None where it is none."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
