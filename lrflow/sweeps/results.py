"""The results of a sweep: its trials, the best of them, the Pareto front, and `sweep.csv`."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from lrflow.config.composition.literal import in_shell
from lrflow.errors import did_you_mean, nearest
from lrflow.files import write_whole
from lrflow.finding import kinds_of, read_findings
from lrflow.history import History, read_history
from lrflow.metric import TRAIN_LOSS, Metric, is_test
from lrflow.runs import RunFolder
from lrflow.sweeps.repeats import Spread

Value = str | float | bool | None


@dataclass(frozen=True)
class TrialResult:
    """A trial of a sweep, as recorded in its run folder.

    Args:
        number: of its job; a folder without a job number counts by its position.
        folder: of the run.
        status: one of `lrflow.outcome.STATUSES`, or `unfinished` if the run is still going or was killed.
        given: the values of the swept keys; None: the trial has no such key.
        metrics: the final values by name; of a pruned trial, those at which it was pruned.
        steps, seconds: the length of the run; None: it has not ended.
        error: why it did not finish.
        ranks: whether a trial that ended early is ranked by its metrics (`sweep.rank_ended_early`).
        runs: its runs under several seeds or folds, which are among their values; its metrics are then the means over
            those that finished, and its folder is that of the first.
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
    runs: tuple[TrialResult, ...] = ()

    @property
    def counting(self) -> tuple[TrialResult, ...]:
        """Its runs that its metrics are the means of."""
        return tuple(run for run in self.runs if run.is_ranked)

    @property
    def is_ranked(self) -> bool:
        """Whether the trial is ranked by its metrics."""
        return self.status == "finished" or (self.status == "ended_early" and self.ranks)

    def spread(self, metric: str) -> Spread | None:
        """Return mean and spread of a metric over its runs; None: it has a single run, or fewer than two values."""
        found = Spread.of(run.metrics[metric] for run in self.counting if metric in run.metrics)
        return found if found.count > 1 else None

    @property
    def diverged(self) -> bool:
        """Whether the trial diverged."""
        return self.status == "diverged"

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """The kinds of what its monitors found, each once."""
        return kinds_of(found for run in self.runs or (self,) for found in read_findings(run.folder))

    @property
    def reason(self) -> str:
        """Why the trial did not finish, without its number."""
        return self.error.removeprefix(f"trial {self.number} was ")

    def value(self, metric: str) -> float | None:
        """Return the final value of a metric; NaN: the trial diverged, None: it did not finish."""
        if self.diverged:
            return math.nan
        return self.metrics.get(metric) if self.is_ranked else None

    def rate(self, key: str | None) -> float | None:
        """Return the trial's LR under this key; None: it has none, or one that is not positive."""
        value = number_or_none(self.given.get(key or ""))
        return value if value is not None and value > 0 else None

    def first_loss(self) -> float | None:
        """Return the training loss before the first step; None: it was not recorded, or is not finite."""
        loss = read_history(RunFolder(self.folder).metrics, TRAIN_LOSS.__eq__, rows=1)[TRAIN_LOSS]
        if not len(loss) or loss.steps[0] != 0 or not math.isfinite(loss.values[0]):
            return None
        return float(loss.values[0])

    def history(self, *columns: str) -> History:
        """Return these columns of its metrics.csv."""
        return read_history(RunFolder(self.folder).metrics, lambda name: name in columns)


def number_or_none(value: object) -> float | None:
    """Return a value as a number; None: it is not a number."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class SweepResults:
    """The trials of a sweep folder, and the objectives that rank them.

    Args:
        folder: of the sweep.
        trials: by rising number.
        keys: the swept keys, in the order in which they were typed.
        objectives: the metrics that rank the trials, the most important first.
        warnings: what could not be read, one sentence each.
        asks_for_best: whether a metric was named; False: the objective is the default, which trials need not have.
    """

    folder: Path
    trials: tuple[TrialResult, ...]
    keys: tuple[str, ...]
    objectives: tuple[Metric, ...]
    warnings: tuple[str, ...] = ()
    asks_for_best: bool = True

    @property
    def metric(self) -> str:
        """The name of the first objective."""
        return self.objectives[0].name

    @property
    def mode(self) -> str:
        """The mode of the first objective, `min` or `max`."""
        return self.objectives[0].mode

    def by(self, objective: Metric) -> SweepResults:
        """Return the same sweep with a single objective."""
        return replace(self, objectives=(objective,))

    @property
    def runs(self) -> tuple[TrialResult, ...]:
        """The runs of all trials; a trial without repeats is its own run."""
        return tuple(run for trial in self.trials for run in trial.runs or (trial,))

    @property
    def numbered(self) -> dict[int, TrialResult]:
        """Trials, and the runs of a grid over seeds, by number."""
        return {trial.number: trial for trial in (*self.runs, *self.trials)}

    @property
    def has_repeats(self) -> bool:
        """Whether trials have several runs each."""
        return any(trial.runs for trial in self.trials)

    @cached_property
    def found(self) -> dict[str, list[int]]:
        """The numbers of the trials in which monitors found each kind, the most frequent kind first."""
        counts = Counter(kind for trial in self.trials for kind in trial.findings).most_common()
        return {kind: [trial.number for trial in self.trials if kind in trial.findings] for kind, _ in counts}

    @cached_property
    def ended(self) -> tuple[TrialResult, ...]:
        """The trials with a finite value of every objective."""
        return tuple(
            trial for trial in self.trials if all(math.isfinite(self._cost(trial, each)) for each in self.objectives)
        )

    @cached_property
    def front(self) -> tuple[TrialResult, ...]:
        """The Pareto front, sorted by the first objective: the trials that no other trial dominates.

        A trial dominates another if it is at least as good in every objective and better in one. Only trials with a
        finite value of every objective count.
        """
        costs = np.array([[self._cost(trial, each) for each in self.objectives] for trial in self.ended])
        front = [index for index, cost in enumerate(costs) if not _is_dominated(cost, costs)]
        return tuple(self.ended[index] for index in sorted(front, key=lambda index: tuple(costs[index])))

    @property
    def best(self) -> TrialResult | None:
        """The best trial by the first objective, ties broken by the others; None: no trial has finite objectives."""
        return next(iter(self.front), None)

    def why_no_best(self) -> str | None:
        """Return why no trial is the best, with a remedy, in one line; None: there is one, or nobody asks for it."""
        if self.best or not self.trials:
            return None
        command = f"python -m lrflow task=analyze {in_shell('task.from', self.folder)}"
        ranked = [trial for trial in self.trials if trial.is_ranked]
        known = {name for trial in ranked for name in trial.metrics if not is_test(name)}
        if missing := [n for n in self._objective_names if ranked and not any(n in t.metrics for t in ranked)]:
            if not self.asks_for_best:
                return None
            hint = did_you_mean(missing[0], sorted(known)) or "the trials only have metrics of the test"
            near = nearest(missing[0], sorted(known), 1)
            names = [near[0] if name == missing[0] and near else name for name in self._objective_names]
            value = names[0] if len(names) == 1 else f"[{','.join(names)}]"
            remedy = f" Rank the trials by it: {command} task.metric={value} task.write=true" if near else ""
            remedy += f"; in the next sweep: trainer.checkpoint.monitor={value}" if near and len(names) == 1 else ""
            return f"no best: no trial has the metric {', '.join(missing)}; {hint}{remedy}"
        statuses = Counter(trial.status for trial in self.trials)
        counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in statuses.items())
        if statuses["ended_early"] and not all(trial.ranks for trial in self.trials):
            remedy = f"Rank trials that ended early: sweep.rank_ended_early=true; for this sweep: {command}"
            return (
                f"no best: none of {len(self.trials)} trials finished ({counts}). {remedy} task.rank_ended_early=true"
            )
        if ranked:
            metrics = ", ".join(self._objective_names)
            return f"no best: none of the {len(ranked)} trials that finished has a finite {metrics}"
        return f"no best: none of {len(self.trials)} trials finished ({counts})"

    @property
    def _objective_names(self) -> list[str]:
        return [objective.name for objective in self.objectives]

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics, the objectives first."""
        names = {name for trial in self.trials for name in trial.metrics}
        return [*(n for n in self._objective_names if n in names), *sorted(names - {*self._objective_names})]

    @property
    def lr_key(self) -> str | None:
        """The key of the swept LR; None: no LR was swept."""
        rates = [key for key in self.keys if key.rpartition(".")[2] == "lr" and len(self._rates(key)) > 1]
        return next((key for key in rates if key == "optimizer.lr"), rates[0] if rates else None)

    def cost(self, trial: TrialResult) -> float:
        """Return the first objective of a trial such that lower is better; infinite: it diverged, NaN: unknown."""
        return self._cost(trial, self.objectives[0])

    def _cost(self, trial: TrialResult, objective: Metric) -> float:
        value = trial.value(objective.name)
        if value is None:
            return math.nan
        return objective.cost(value) if math.isfinite(value) else math.inf

    def _rates(self, key: str) -> set[float]:
        return {rate for trial in self.trials if (rate := trial.rate(key)) is not None}

    def write_csv(self, path: Path) -> Path:
        """Write one row per trial: number, status, swept keys, metrics, steps, seconds, folder, findings, error.

        If there are several objectives, a column `pareto` marks the trials on the Pareto front. With repeats, metrics
        are means, and columns for the number of runs that count, the standard deviation of each metric and the standard
        error of its mean follow.
        """
        columns: dict[str, list[Value]] = {
            "trial": [trial.number for trial in self.trials],
            "status": [trial.status for trial in self.trials],
        }
        if len(self.objectives) > 1:
            columns["pareto"] = [str(trial in self.front).lower() for trial in self.trials]
        columns |= {key: [trial.given.get(key) for trial in self.trials] for key in self.keys}
        columns |= {name: [trial.metrics.get(name) for trial in self.trials] for name in self.metrics}
        if self.has_repeats:
            columns["runs"] = [len(trial.counting) for trial in self.trials]
            for name in self.metrics:
                found = [trial.spread(name) for trial in self.trials]
                columns[f"{name} std"] = [each.std if each else None for each in found]
                columns[f"{name} stderr"] = [each.error if each else None for each in found]
        columns["steps"] = [trial.steps for trial in self.trials]
        columns["seconds"] = [trial.seconds for trial in self.trials]
        columns["folder"] = [str(trial.folder.relative_to(self.folder)) for trial in self.trials]
        columns["findings"] = [", ".join(trial.findings) for trial in self.trials]
        columns["error"] = [trial.error for trial in self.trials]
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
        return write_whole(path, text.getvalue())


def _is_dominated(cost: np.ndarray, others: np.ndarray) -> bool:
    """Whether one of the others [n, objectives] is at least as good in every objective, and better in one."""
    return bool(((others <= cost).all(axis=1) & (others < cost).any(axis=1)).any())
