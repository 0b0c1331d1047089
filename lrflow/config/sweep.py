"""Schemas of a sweep: settings of `hydra/sweeper=lrflow`, and the trial that a job belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from hydra.core.config_store import ConfigStore

from lrflow.config import types as f
from lrflow.config.schema import Section
from lrflow.metric import Directions, Metric

TARGET = "hydra_plugins.lrflow.sweeper.LrflowSweeper"
SAMPLERS = ("grid", "random", "qmc", "tpe", "gp", "cmaes", "nsga2")
PRUNERS = ("none", "median", "asha", "hyperband", "wilcoxon", "patience")
RUNGS = ("validations", "annealed")

_URL = r"(sqlite|postgresql|mysql)(\+\w+)?://.+"
_Storage = Annotated[
    str, f.expects("memory, journal or the URL of a database, such as sqlite:///sweeps.db", lambda v: _is_storage(v))
]
_Mode = Annotated[Any, f.some_of("min", "max")]


def _is_storage(value: Any) -> bool:
    return value in ("memory", "journal") or bool(re.fullmatch(_URL, str(value)))


class Pruning(Section):
    """When a trial is given up before its end; see `lrflow.sweeps.pruners`."""

    rungs: Annotated[str, f.one_of(*RUNGS)] = "validations"
    """What trials are compared by: their validations, or whole annealed runs of a fraction of the length."""
    first: Annotated[float, f.number(0, 1, above=True, below=True)] = 1 / 9
    """Share of a run before which none is given up: the first rung."""
    reduction: Annotated[int, f.whole(2)] = 3
    """asha, hyperband: one of so many trials goes on to the next rung, which is so many times as long."""
    startup: f.CountOrNone = 5
    """median: trials that run to their end before any is given up."""
    patience: f.Count = 3
    """patience: validations without improvement that are put up with."""
    p: Annotated[float, f.number(0, 1, above=True, below=True)] = 0.1
    """wilcoxon: the significance at which a trial counts as worse than the best."""


class Sweep(Section):
    """The settings of the sweeper, `sweep.KEY` or `hydra.sweeper.KEY`."""

    sampler: Annotated[str, f.one_of(*SAMPLERS)] = "tpe"
    """How the next trial is chosen."""
    n_trials: f.Count | None = None
    """Trials in all, those before a resumption included; None: the whole grid, else 20."""
    metric: f.Texts | None = None
    """What is optimised; a list for several objectives; None: what the runs' best checkpoints are best by."""
    mode: _Mode | None = None
    """Whether the best is the smallest or the largest, or a list; None: as the runs have it, or by the name."""
    storage: _Storage = "journal"
    """Where the trials are noted: a file in the sweep folder, a database that machines can share, or nowhere."""
    study: f.Text | None = None
    """The study's name in a database; None: the sweep folder's."""
    resume: f.Text | None = None
    """A sweep folder to go on with, or `last`."""
    seed: f.Seed = 0
    """Of the sampler; the runs have their own."""
    rank_ended_early: f.Switch = False
    """Whether a trial that ended before the last step of its plan is ranked by its metrics as one that finished."""
    retries: f.CountOrNone = 2
    """How often a trial whose process died is run again."""
    batch: f.Count | None = None
    """Trials at a time; None: as many as the launcher can use."""
    pruner: Annotated[str, f.one_of(*PRUNERS)] = "none"
    """What gives trials up early."""
    pruning: Pruning = Pruning.model_construct()
    """Its settings."""
    params: dict[str, Any] | None = None
    """The search space by key, in Hydra's grammar; the command line's comes first."""
    when: dict[str, dict[str, Any]] | None = None
    """Parts of the space by the choice that they hold under, `optimizer=sgd`."""

    @property
    def objectives(self) -> tuple[Metric, ...]:
        """What is optimised; of settings without a metric, what runs are judged by where nobody says another."""
        return Directions.of({"sweep": self.model_dump(include={"metric", "mode"})}).objectives

    def with_objectives(self, objectives: Sequence[Metric]) -> Sweep:
        """The same settings with these objectives."""
        metrics, modes = [each.name for each in objectives], [each.mode for each in objectives]
        one = len(metrics) == 1
        return self.model_copy(update={"metric": metrics[0] if one else metrics, "mode": modes[0] if one else modes})


_DEFAULTS = {**vars(Sweep.model_construct()), "pruning": vars(Pruning.model_construct())}

ConfigStore.instance().store(
    group="hydra/sweeper", name="lrflow", node={"_target_": TARGET, **_DEFAULTS}, provider="lrflow"
)


class Trial(Section):
    """Which trial of which sweep a run is; the sweeper fills it in."""

    number: f.CountOrNone
    """Of the trial in its study."""
    study: f.Text
    """The study's name."""
    storage: f.Text
    """Where the study is: a journal's path or the URL of a database."""
    metric: f.Texts | None = None
    """What the sweep is judged by, and what is reported to it; a list for several objectives."""
    mode: _Mode | None = None
    """Whether less of it is better, or more; a list for several objectives."""
    rank_ended_early: f.Switch = False
    """Whether the sweep ranks a trial that ended early, and so compares its short annealed runs that did."""
    pruner: Annotated[str, f.one_of(*PRUNERS)] = "none"
    """What decides whether the run goes on."""
    pruning: Pruning = Pruning.model_construct()
    """Its settings."""

    @property
    def objectives(self) -> tuple[Metric, ...]:
        """What the sweep is judged by."""
        return Directions.of({"trial": self.model_dump(include={"metric", "mode"})}).objectives

    @property
    def objective(self) -> Metric:
        """What trials are compared by while they run: the first of what the sweep is judged by."""
        return self.objectives[0]
