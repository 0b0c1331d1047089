"""Schemas of a sweep: settings of `hydra/sweeper=lrflow`, and the trial that a job belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from hydra.core.config_store import ConfigStore

from lrflow.config.schemas import types as f
from lrflow.config.schemas.objects import Section
from lrflow.metric import Directions, Metric

TARGET = "hydra_plugins.lrflow.sweeper.LrflowSweeper"
SAMPLERS = ("grid", "random", "qmc", "tpe", "gp", "cmaes", "nsga2")
PRUNERS = ("none", "race", "median", "asha", "hyperband", "wilcoxon", "patience")
RUNGS = ("validations", "annealed")

_URL = r"(sqlite|postgresql|mysql)(\+\w+)?://.+"
_Storage = Annotated[
    str, f.expects("memory, journal or the URL of a database, such as sqlite:///sweeps.db", lambda v: is_storage(v))
]
_Mode = Annotated[Any, f.some_of("min", "max")]


def is_storage(value: Any) -> bool:
    """Return whether a value is `memory`, `journal` or the URL of a database."""
    return value in ("memory", "journal") or bool(re.fullmatch(_URL, str(value)))


class Pruning(Section):
    """Settings of the pruner; see `lrflow.sweeps.pruners`."""

    rungs: Annotated[str, f.one_of(*RUNGS)] = "validations"
    """Rungs at which trials are compared: their validations, or whole annealed runs of a fraction of the length."""
    first: Annotated[float, f.number(0, 1, above=True, below=True)] = 1 / 9
    """First rung as a fraction of the run; no trial is pruned before it."""
    reduction: Annotated[int, f.whole(2)] = 3
    """asha, hyperband: reduction factor; 1 of n trials reaches the next rung, which is n times as long."""
    startup: f.CountOrNone = 5
    """median: number of trials that run to their end before any is pruned."""
    patience: f.Count = 3
    """patience: number of validations without improvement before a trial is pruned."""
    p: Annotated[float, f.number(0, 1, above=True, below=True)] = 0.1
    """wilcoxon, and every pruner with repeats: significance level at which a trial counts as worse than the best."""


class Sweep(Section):
    """Settings of the sweeper, `sweep.KEY` or `hydra.sweeper.KEY`."""

    sampler: Annotated[str, f.one_of(*SAMPLERS)] = "tpe"
    """Sampler that proposes the next trial."""
    n_trials: f.Count | None = None
    """Number of trials, including those before the sweep was resumed; None: the whole grid, or 20 without a grid."""
    repeats: Annotated[int, f.whole(1, 10_000)] = 1
    """Number of runs of a trial, with the seeds `seed`, `seed + 1`, ...; its objective is their mean."""
    budget: f.ClockTime | None = None
    """Time after which no further trial starts; those that have begun finish. A resumed sweep counts earlier time."""
    metric: f.Texts | None = None
    """Metric to optimize, or a list of several objectives; None: the metric of the runs' best checkpoints."""
    mode: _Mode | None = None
    """min or max, or a list for several objectives; None: the runs' mode of the metric, or guessed by name."""
    storage: _Storage = "journal"
    """Storage of the trials: a journal in the sweep folder, a database that machines can share, or memory."""
    study: f.Text | None = None
    """Name of the study in a database; None: the name of the sweep folder."""
    resume: f.Text | None = None
    """Sweep folder to resume, or `last`."""
    seed: f.Seed = 0
    """Seed of the sampler; the runs have their own."""
    rank_ended_early: f.Switch = False
    """Rank a trial that ended before the last step of its plan by its metrics, like one that finished."""
    retries: f.CountOrNone = 2
    """Number of times that a trial is run again if its process died."""
    timeout: f.ClockTime | None = None
    """Time after which a trial is ended and counts as failed."""
    max_time: f.ClockTime | None = None
    """Time after which the sweep stops; its running trials save a checkpoint, and it can be resumed."""
    isolate: f.Switch = True
    """Run each job in a process of its own, if the launcher starts none, so that its crash does not end the sweep."""
    batch: f.Count | None = None
    """Number of trials at a time; None: as many as the launcher can run."""
    pruner: Annotated[str, f.one_of(*PRUNERS)] = "none"
    """Pruner that stops trials early."""
    pruning: Pruning = Pruning.model_construct()
    """Settings of the pruner."""
    params: dict[str, Any] | None = None
    """Search space by key, in Hydra's grammar; values on the command line override it."""
    when: dict[str, dict[str, Any]] | None = None
    """Conditional parts of the search space, by the choice that activates them, such as `optimizer=sgd`."""

    @property
    def objectives(self) -> tuple[Metric, ...]:
        """Metrics to optimize; the default metric if none is set."""
        return Directions.of({"sweep": self.model_dump(include={"metric", "mode"})}).objectives

    def with_objectives(self, objectives: Sequence[Metric]) -> Sweep:
        """Return the same settings with these objectives."""
        metrics, modes = [each.name for each in objectives], [each.mode for each in objectives]
        one = len(metrics) == 1
        return self.model_copy(update={"metric": metrics[0] if one else metrics, "mode": modes[0] if one else modes})


_DEFAULTS = {**vars(Sweep.model_construct()), "pruning": vars(Pruning.model_construct())}

ConfigStore.instance().store(
    group="hydra/sweeper", name="lrflow", node={"_target_": TARGET, **_DEFAULTS}, provider="lrflow"
)


class SweepRecord(Section):
    """The record of a sweep in its folder, `sweep.yaml`."""

    version: f.Text
    """Version of lrflow that wrote it."""
    study: f.Text
    """Name of the study."""
    overrides: list[str]
    """Overrides of the command line."""
    space: list[str]
    """The search space: a line for each key."""
    settings: Sweep
    """Settings of the sweeper."""


SWEEP_RECORD = "sweep-record"
"""Its definition in the JSON schema."""


class Trial(Section):
    """The trial of a sweep that a run is; set by the sweeper."""

    number: f.CountOrNone
    """Number of the trial in its study."""
    repeat: f.CountOrNone = 0
    """Which of the trial's runs this is; pruners compare the first runs of trials."""
    study: f.Text
    """Name of the study."""
    storage: f.Text
    """Storage of the study: the path of a journal or the URL of a database."""
    metric: f.Texts | None = None
    """Metric that the run reports to the sweep, or a list of several objectives."""
    mode: _Mode | None = None
    """min or max, or a list for several objectives."""
    rank_ended_early: f.Switch = False
    """Whether the sweep ranks trials that ended early, and so compares their short annealed runs that did."""
    pruner: Annotated[str, f.one_of(*PRUNERS)] = "none"
    """Pruner that may stop the run early."""
    pruning: Pruning = Pruning.model_construct()
    """Settings of the pruner."""

    @property
    def objectives(self) -> tuple[Metric, ...]:
        """Metrics that the sweep optimizes."""
        return Directions.of({"trial": self.model_dump(include={"metric", "mode"})}).objectives

    @property
    def objective(self) -> Metric:
        """Metric by which running trials are compared: the first objective."""
        return self.objectives[0]
