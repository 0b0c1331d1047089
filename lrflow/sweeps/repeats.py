"""Repeats: the runs of a trial under several seeds, their mean and spread, and the race against the best trial."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from scipy.special import stdtrit

from lrflow.outcome import Outcome
from lrflow.wording import counted


def repeats(key: str) -> bool:
    """Return whether runs that differ only in this key repeat each other: a seed, or the fold of a cross-validation."""
    return key == "data.fold" or key.rpartition(".")[2].endswith("seed")


@dataclass(frozen=True)
class Spread:
    """Mean and spread of a metric over runs that repeat each other.

    Args:
        count: number of runs.
        mean: their mean; NaN without runs.
        std: the standard deviation of a sample (n - 1); NaN for fewer than two runs, or if a value is not finite.
    """

    count: int
    mean: float
    std: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of values."""
        given = list(values)
        if len(given) < 2 or not all(map(math.isfinite, given)):
            return cls(len(given), sum(given) / len(given) if given else math.nan, math.nan)
        return cls(len(given), mean(given), stdev(given))

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return self.std / math.sqrt(self.count) if self.count else math.nan

    def __str__(self) -> str:
        """`mean ± standard deviation`; the mean alone if there is no spread."""
        if not self.count:
            return ""
        return f"{self.mean:.4g}" if math.isnan(self.std) else f"{self.mean:.4g} ± {self.std:.2g}"


def is_ranked(run: Outcome, rank_ended_early: bool) -> bool:
    """Whether a run counts by its metrics."""
    return run.status == "finished" or (run.status == "ended_early" and rank_ended_early)


def spreads(runs: Iterable[Outcome], rank_ended_early: bool) -> dict[str, Spread]:
    """Return mean and spread of each metric over the runs that count."""
    counting = [run for run in runs if is_ranked(run, rank_ended_early)]
    names = dict.fromkeys(name for run in counting for name in run.metrics)
    return {name: Spread.of([run.metrics[name] for run in counting if name in run.metrics]) for name in names}


def combined(
    ended: Mapping[int, Outcome], count: int, rank_ended_early: bool = False, last: bool = False
) -> Outcome | None:
    """Return the outcome of a trial from those of its runs.

    It has the mean of each metric over the runs that finished. As in the analysis, it diverged or failed if at least
    half of its runs did. If its first run was pruned, so was the trial.

    Args:
        ended: the outcomes of the runs that have ended, by the number of the repeat.
        count: the runs that the trial has in all.
        rank_ended_early: whether runs that ended early count like those that finished.
        last: whether no further run follows.

    Returns:
        the outcome; None: it depends on runs that have not ended.
    """
    runs = [ended[number] for number in sorted(ended)]
    bad = [run for run in runs if not is_ranked(run, rank_ended_early)]
    is_bad = bool(runs) and 2 * len(bad) >= (len(runs) if last else count)
    is_pruned = 0 in ended and ended[0].status == "pruned"
    if not (is_bad or is_pruned or len(runs) == count or (last and runs)):
        return None
    facts: dict[str, Any] = {
        "runs": tuple(runs),
        "steps": sum(run.steps or 0 for run in runs),
        "planned": sum(run.planned or 0 for run in runs),
        "seconds": round(sum(run.seconds for run in runs), 3),
        "folder": runs[0].folder,
    }
    if is_pruned:
        return replace(ended[0], **facts)
    why = _why_bad(bad, len(runs))
    if is_bad:
        first = next(run for run in bad if run.status == _commonest(bad))
        reason = first.reason if count == 1 else f"{why}: {first.short_reason}"
        return replace(first, reason=reason, **facts)
    metrics = {name: spread.mean for name, spread in spreads(runs, rank_ended_early).items()}
    early = next((run for run in runs if run.status == "ended_early"), None)
    if rank_ended_early and early is not None:
        return replace(early, metrics=metrics, **facts)
    return Outcome.finished(metrics, reason=why, **facts)


def _commonest(bad: Sequence[Outcome]) -> str:
    return Counter(run.status for run in bad).most_common(1)[0][0]


def _why_bad(bad: Sequence[Outcome], count: int) -> str:
    """Return how many of the runs diverged, failed or ended early, in words; empty: none."""
    statuses = Counter(run.status for run in bad)
    return ", ".join(
        f"{number} of {counted(count, 'run')} {status.replace('_', ' ')}" for status, number in statuses.items()
    )


def is_worse(costs: Mapping[int, float], best: Mapping[int, float], p: float) -> bool:
    """Whether costs are significantly higher than those of the best trial under the same seeds.

    This is the one-sided paired t test, as in the t-race of irace (López-Ibáñez et al., 2016; after F-Race: Birattari
    et al., 2002), against the best trial only. What a seed does to all trials alike cancels.

    Args:
        costs: of the runs of a trial, by the number of the repeat; lower is better.
        best: of the runs of the best trial.
        p: significance level: how often a trial that is as good as the best counts as worse in one comparison.

    Returns:
        whether they are; False with fewer than two runs under the same seeds.
    """
    found = Spread.of(costs[number] - best[number] for number in costs.keys() & best.keys())
    if found.count < 2 or math.isnan(found.std) or found.mean <= 0:
        return False
    return found.mean > float(stdtrit(found.count - 1, 1 - p)) * found.error
