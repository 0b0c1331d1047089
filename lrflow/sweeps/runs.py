"""The runs of a trial: their jobs and overrides, and the outcome of a trial once its runs decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from lrflow.config.composition.overrides import quoted
from lrflow.config.schemas.sweep import Sweep
from lrflow.errors import PrunedError
from lrflow.outcome import Outcome
from lrflow.sweeps.outcomes import recorded_runs
from lrflow.sweeps.repeats import Spread, combined, is_ranked, is_worse
from lrflow.sweeps.space import Assignment, Space
from lrflow.sweeps.study import storage_of


@dataclass(frozen=True)
class PendingRun:
    """A run of a trial, to be launched.

    Args:
        trial: of the study.
        assignment: its values of the swept keys.
        checkpoint: to resume from; None: the run starts from the beginning.
        repeat: which of the trial's runs it is.
        number: of its job and of its folder.
    """

    trial: optuna.Trial
    assignment: Assignment
    checkpoint: Path | None
    repeat: int
    number: int


def overrides_of(
    pending: PendingRun, space: Space, settings: Sweep, study: str, folder: Path, seed: int = 0
) -> list[str]:
    """Return the overrides of a job: its values, the keys of `trial`, and the checkpoint to resume from.

    Args:
        pending: the run.
        space: the search space.
        settings: of the sweeper.
        study: the study's name.
        folder: of the sweep.
        seed: of the first run of a trial, if a trial has several.
    """
    trial = {"number": pending.trial.number, "study": study, "storage": storage_of(settings.storage, folder)}
    trial |= {"metric": settings.metric, "mode": settings.mode}  # the run uses them too
    if settings.rank_ended_early:
        trial |= {"rank_ended_early": True}
    prunes = settings.pruner not in ("none", "race")
    if prunes:
        trial |= {"pruner": settings.pruner}
    values = space.overrides(pending.assignment)
    if settings.repeats > 1:
        trial |= {"repeat": pending.repeat}
        values = [text for text in values if text.lstrip("+").partition("=")[0] != "seed"]
        values.append(f"++seed={seed + pending.repeat}")
    texts = [f"++trial.{key}={quoted(value)}" for key, value in trial.items()]
    if prunes:
        texts += [f"++trial.pruning.{key}={value}" for key, value in settings.pruning.model_dump().items()]
    texts += [f"++resume.from={quoted(pending.checkpoint)}"] if pending.checkpoint else []
    return [*values, *texts]


def consecutive_runs(batch: Sequence[PendingRun]) -> Iterator[list[PendingRun]]:
    """Yield groups of consecutively numbered runs, as launchers number their jobs."""
    part: list[PendingRun] = []
    for pending in sorted(batch, key=lambda pending: pending.number):
        if part and pending.number != part[-1].number + 1:
            yield part
            part = []
        part.append(pending)
    if part:
        yield part


@dataclass
class OpenTrial:
    """A trial that this process has claimed, and whose outcome is not recorded.

    Args:
        trial: of the study.
        assignment: its values of the swept keys.
        ended: the outcomes of its runs that have ended, by the number of the repeat.
        running: its runs that are claimed by a worker.
        lost: its runs whose outcome is unknown, because their process may have died.
        checkpoints: from which its runs are resumed.
    """

    trial: optuna.Trial
    assignment: Assignment
    ended: dict[int, Outcome] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    checkpoints: dict[int, Path | None] = field(default_factory=dict)

    def open_runs(self, count: int) -> list[int]:
        """Return the numbers of its runs that have not been started, or that have to be resumed."""
        return [run for run in range(count) if run not in self.ended and run not in self.running | self.lost]


def verdict(
    found: OpenTrial, settings: Sweep, trials: Callable[[], Sequence[FrozenTrial]], folder: Path
) -> Outcome | None:
    """Return the outcome of a trial; None: it needs further runs.

    Args:
        found: the trial.
        settings: of the sweeper.
        trials: returns all trials of the study.
        folder: of the sweep.
    """
    if settings.repeats == 1:
        return found.ended.get(0)
    ranks, names = settings.rank_ended_early, {each.name for each in settings.objectives}
    unknown = any(is_ranked(run, ranks) and not names <= run.metrics.keys() for run in found.ended.values())
    settled = combined(found.ended, settings.repeats, ranks, last=unknown)
    if settled or settings.pruner == "none" or len(found.ended) < 2:
        return settled
    return _lost_race(found, settings, trials(), folder)


def _lost_race(found: OpenTrial, settings: Sweep, trials: Sequence[FrozenTrial], folder: Path) -> Outcome | None:
    """Return the outcome of a trial whose runs so far are worse than those of the best trial; None: they are not.

    Sweeps with a pruner have a single objective.
    """
    objective, ranks = settings.objectives[0], settings.rank_ended_early
    whole = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.user_attrs.get("counted", 0) > 1]
    if not whole:
        return None
    best = min(whole, key=lambda trial: objective.cost(trial.values[0]))

    def values(runs: Mapping[int, Outcome]) -> dict[int, float]:
        return {number: run.metrics[objective.name] for number, run in runs.items() if is_ranked(run, ranks)}

    own, others = values(found.ended), values(recorded_runs(best, folder))
    costs, lowest = ({number: objective.cost(value) for number, value in each.items()} for each in (own, others))
    outcome = combined(found.ended, settings.repeats, ranks, last=True)
    if not is_worse(costs, lowest, settings.pruning.p) or outcome is None or not is_ranked(outcome, ranks):
        return None
    count = f"{len(found.ended)} of {settings.repeats} runs"
    same = [others[number] for number in own.keys() & others.keys()]
    compared = f"{objective.name} {Spread.of(own.values())} is worse than the {Spread.of(same)} of trial {best.number}"
    reason = f"stopped after {count}: {compared} under the same seeds"
    return replace(outcome, status="pruned", reason=reason, error=PrunedError(reason, outcome.metrics))
