"""The trials of a sweep as the jobs of a launcher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from lrflow.config.overrides import quoted
from lrflow.config.sweep import Sweep
from lrflow.sweeps.space import Assignment, Space
from lrflow.sweeps.study import storage_of


@dataclass(frozen=True)
class Pending:
    """A trial that is handed to the launcher.

    Args:
        trial: of the study.
        assignment: what it gives to the swept keys.
        checkpoint: where it goes on; None: it starts anew.
    """

    trial: optuna.Trial
    assignment: Assignment
    checkpoint: Path | None = None

    @property
    def number(self) -> int:
        """Of the trial, of its job and of its folder."""
        return self.trial.number


def overrides_of(pending: Pending, space: Space, settings: Sweep, study: str, folder: Path) -> list[str]:
    """The overrides of a job: its values, which trial it is, and where it goes on.

    Args:
        pending: the trial.
        space: that it was drawn from.
        settings: the sweeper's.
        study: the study's name.
        folder: of the sweep.
    """
    trial = {"number": pending.number, "study": study, "storage": storage_of(settings.storage, folder)}
    trial |= {"metric": settings.metric, "mode": settings.mode}  # which hold for the run too
    if settings.rank_ended_early:
        trial |= {"rank_ended_early": True}
    if settings.pruner != "none":
        trial |= {"pruner": settings.pruner}
    texts = [f"++trial.{key}={quoted(value)}" for key, value in trial.items()]
    if settings.pruner != "none":
        texts += [f"++trial.pruning.{key}={value}" for key, value in settings.pruning.model_dump().items()]
    texts += [f"++resume.from={quoted(pending.checkpoint)}"] if pending.checkpoint else []
    return [*space.overrides(pending.assignment), *texts]


def consecutive_trials(batch: Sequence[Pending]) -> Iterator[list[Pending]]:
    """Runs of trials whose numbers follow each other, as a launcher numbers its jobs."""
    part: list[Pending] = []
    for pending in sorted(batch, key=lambda pending: pending.number):
        if part and pending.number != part[-1].number + 1:
            yield part
            part = []
        part.append(pending)
    if part:
        yield part
