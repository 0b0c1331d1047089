"""The results of a sweep: its trials, the best of them, the Pareto front, and `sweep.csv`."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from lrflow.errors import did_you_mean, nearest
from lrflow.files import write_whole
from lrflow.metric import TRAIN_LOSS, Metric, is_test
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


@dataclass(frozen=True)
class SweepResults:
    """What a sweep folder holds.

    Args:
        folder: of the sweep.
        trials: by number.
        keys: that were swept, in the order in which they were typed.
        objectives: that trials are judged by, the first before the others.
        notes: what could not be read, each a sentence.
    """

    folder: Path
    trials: tuple[TrialResult, ...]
    keys: tuple[str, ...]
    objectives: tuple[Metric, ...]
    notes: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """The first objective's."""
        return self.objectives[0].name

    @property
    def mode(self) -> str:
        """The first objective's."""
        return self.objectives[0].mode

    def by(self, objective: Metric) -> SweepResults:
        """The same sweep, judged by one objective."""
        return replace(self, objectives=(objective,))

    @cached_property
    def ended(self) -> tuple[TrialResult, ...]:
        """The trials that ended well: each objective of theirs is known and finite."""
        return tuple(
            trial for trial in self.trials if all(math.isfinite(self._cost(trial, each)) for each in self.objectives)
        )

    @cached_property
    def front(self) -> tuple[TrialResult, ...]:
        """The Pareto front, sorted by the first objective: the trials that no other is better than.

        A trial is better than another where it is as good in every objective, and better in one. Trials that did not
        end well are not on it.
        """
        costs = np.array([[self._cost(trial, each) for each in self.objectives] for trial in self.ended])
        front = [place for place, cost in enumerate(costs) if not _is_beaten(cost, costs)]
        return tuple(self.ended[place] for place in sorted(front, key=lambda place: tuple(costs[place])))

    @property
    def best(self) -> TrialResult | None:
        """The trial with the best metric, among those the one with the best second one; None: none ended well."""
        return next(iter(self.front), None)

    def no_best(self) -> str | None:
        """Why no trial is the best, in a line that names the way out; None: one is."""
        if self.best or not self.trials:
            return None
        again = f"python -m lrflow task=analyze task.from={self.folder}"
        done = [t for t in self.trials if t.status == "finished" or (t.status == "ended_early" and t.ranks)]
        known = {name for trial in done for name in trial.metrics if not is_test(name)}
        if missing := [name for name in self._judged if done and not any(name in trial.metrics for trial in done)]:
            hint = did_you_mean(missing[0], sorted(known)) or "the trials have no metric but those of the test"
            near = nearest(missing[0], sorted(known), 1)
            wanted = [near[0] if name == missing[0] and near else name for name in self._judged]
            name = wanted[0] if len(wanted) == 1 else f"[{','.join(wanted)}]"
            way = f" Judge them by it: {again} task.metric={name} task.write=true" if near else ""
            way += f"; of the next sweep: trainer.checkpoint.monitor={name}" if near and len(wanted) == 1 else ""
            return f"no best: no trial has the metric {', '.join(missing)}; {hint}{way}"
        ends = Counter(trial.status for trial in self.trials)
        told = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in ends.items())
        if ends["ended_early"] and not all(trial.ranks for trial in self.trials):
            way = f"sweep.rank_ended_early=true judges trials that ended early; of this sweep: {again}"
            return f"no best: of {len(self.trials)} trials none finished ({told}). {way} task.rank_ended_early=true"
        if done:
            return f"no best: of the {len(done)} trials that ended well, none has a finite {', '.join(self._judged)}"
        return f"no best: of {len(self.trials)} trials none finished ({told})"

    @property
    def _judged(self) -> list[str]:
        return [objective.name for objective in self.objectives]

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics: those that trials are judged by, then the others."""
        names = {name for trial in self.trials for name in trial.metrics}
        return [*(name for name in self._judged if name in names), *sorted(names - {*self._judged})]

    @property
    def lr_key(self) -> str | None:
        """The learning rate that was swept; None: none was."""
        rates = [key for key in self.keys if key.rpartition(".")[2] == "lr" and len(self._rates(key)) > 1]
        return next((key for key in rates if key == "optimizer.lr"), rates[0] if rates else None)

    def cost(self, trial: TrialResult) -> float:
        """The metric of a trial, turned so that less is better; infinite: it diverged, nan: it is not known."""
        return self._cost(trial, self.objectives[0])

    def _cost(self, trial: TrialResult, objective: Metric) -> float:
        value = trial.value(objective.name)
        if value is None:
            return math.nan
        return objective.cost(value) if math.isfinite(value) else math.inf

    def _rates(self, key: str) -> set[float]:
        return {rate for trial in self.trials if (rate := trial.rate(key)) is not None}

    def write_csv(self, path: Path) -> Path:
        """Write one row a trial: number, status, swept keys, metrics, steps, seconds, folder, error.

        Of several objectives it has a column `pareto` too: whether the trial is on the front.
        """
        several = len(self.objectives) > 1
        head: Sequence[str] = ["trial", "status", *(["pareto"] if several else []), *self.keys, *self.metrics]
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow([*head, "steps", "seconds", "folder", "error"])
        for trial in self.trials:
            told = [trial.number, trial.status, *([str(trial in self.front).lower()] if several else [])]
            given = [trial.given.get(key) for key in self.keys]
            metrics = [trial.metrics.get(name) for name in self.metrics]
            ending = [trial.steps, trial.seconds, trial.folder.relative_to(self.folder), trial.error]
            rows.writerow([*told, *given, *metrics, *ending])
        return write_whole(path, text.getvalue())


def _is_beaten(cost: np.ndarray, others: np.ndarray) -> bool:
    """Whether one of the others [n, objectives] is as good in every objective, and better in one."""
    return bool(((others <= cost).all(axis=1) & (others < cost).any(axis=1)).any())
