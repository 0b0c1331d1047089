"""When a trial is given up: Optuna's pruners, and what a job tells and asks its study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import optuna
from optuna.pruners import BasePruner

from lrflow.errors import PrunedError
from lrflow.sweeps.study import open_storage, quiet

if TYPE_CHECKING:
    from lrflow.config.sweep import Pruning, Trial

WHOLE = 1000
"""A run's length in the study: reports stand at thousandths of it, so that runs of unequal steps can be compared."""


def rungs(pruning: Pruning) -> list[float]:
    """The shares of a run at which annealed runs are compared: 1/9, 1/3; the whole run comes after them."""
    found = [pruning.first]
    while found[-1] * pruning.reduction < 1 - 1e-6:
        found.append(found[-1] * pruning.reduction)
    return found


def make_pruner(kind: str, settings: Pruning) -> BasePruner:
    """A pruner.

    Args:
        kind: `none`, `median`, `asha` (Li et al., 2020, 1810.05934), `hyperband` (Li et al., 2018, 1603.06560),
            `wilcoxon`, `patience`.
        settings: of all kinds.
    """
    first = round(settings.first * WHOLE)
    pruners = optuna.pruners
    with quiet():
        match kind:
            case "median":
                return pruners.MedianPruner(n_startup_trials=settings.startup, n_warmup_steps=first - 1)
            case "asha":
                return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=settings.reduction)
            case "hyperband":
                return pruners.HyperbandPruner(first, WHOLE, settings.reduction)
            case "wilcoxon":
                return pruners.WilcoxonPruner(p_threshold=settings.p, n_startup_steps=2)
            case "patience":
                return pruners.PatientPruner(None, patience=settings.patience)
    return pruners.NopPruner()


class Reporter:
    """What a job tells its study, and whether the job is to go on.

    Args:
        trial: which one it is.

    Raises:
        LrflowError: the study cannot be opened.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._storage = open_storage(trial.storage)
        self._study = optuna.load_study(
            study_name=trial.study, storage=self._storage, pruner=make_pruner(trial.pruner, trial.pruning)
        )
        study = self._storage.get_study_id_from_name(trial.study)
        self._id = self._storage.get_trial_id_from_study_id_trial_number(study, trial.number)

    def knows(self, share: float) -> bool:
        """Whether the metric at this share of the run was told before."""
        return round(share * WHOLE) in self._storage.get_trial(self._id).intermediate_values

    def report(self, value: float, share: float) -> bool:
        """Tells the metric.

        Args:
            value: of the metric.
            share: of the run that is over.

        Returns:
            whether the trial is to be given up.
        """
        if value != value:
            return False  # health.nonfinite says what becomes of such a run
        self._storage.set_trial_intermediate_value(self._id, round(share * WHOLE), value)
        return share < 1 and optuna.Trial(self._study, self._id).should_prune()


def given_up(trial: Trial, metrics: Mapping[str, float], share: float) -> PrunedError:
    """The error that ends a trial, at a share of the run, with the metrics that it has there."""
    reached = f"{trial.objective.name} {metrics[trial.objective.name]:.4g} at {share:.0%} of the run"
    return PrunedError(f"trial {trial.number} was pruned by {trial.pruner}: {reached}", metrics)
