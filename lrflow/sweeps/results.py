"""The results of a sweep: its trials, the best of them, and the table that they are written to."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from lrflow.errors import did_you_mean, nearest
from lrflow.files import write_whole
from lrflow.metric import Metric, is_of_test
from lrflow.sweeps.recorded import TrialResult


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
        known = {name for trial in done for name in trial.metrics if not is_of_test(name)}
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
