"""Pruners of trials: Optuna's, and the reports of a running trial by which it is pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import optuna
from optuna.pruners import BasePruner

from lrflow.errors import PrunedError
from lrflow.sweeps.study import open_storage, quiet_optuna

if TYPE_CHECKING:
    from lrflow.config.schemas.sweep import Pruning, Trial

WHOLE = 1000
"""The length of every run in the study. Reports are in thousandths of a run, so that unequal lengths are comparable."""


def make_pruner(kind: str, settings: Pruning) -> BasePruner:
    """Return a pruner.

    Args:
        kind: `none`, `median`, `asha` (Li et al., 2020, 1810.05934), `hyperband` (Li et al., 2018, 1603.06560),
            `wilcoxon`, `patience`.
        settings: of all pruners.
    """
    first = round(settings.first * WHOLE)
    pruners = optuna.pruners
    with quiet_optuna():
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


def rungs(pruning: Pruning) -> list[float]:
    """Return the shares of a run at which annealed runs are compared, without the whole run: 1/9 and 1/3 by default."""
    shares = [pruning.first]
    while shares[-1] * pruning.reduction < 1 - 1e-6:
        shares.append(shares[-1] * pruning.reduction)
    return shares


class Reporter:
    """Reports the metric of a trial to its study, and asks whether to prune the trial.

    Args:
        trial: of the run.

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

    def has_reported(self, share: float) -> bool:
        """Whether the metric at this share of the run has been reported before."""
        return round(share * WHOLE) in self._storage.get_trial(self._id).intermediate_values

    def report(self, value: float, share: float) -> bool:
        """Report the metric.

        Args:
            value: of the metric.
            share: of the run, at which it was measured.

        Returns:
            whether the trial is pruned.
        """
        if value != value:
            return False  # the option health.nonfinite handles such a run
        self._storage.set_trial_intermediate_value(self._id, round(share * WHOLE), value)
        return share < 1 and optuna.Trial(self._study, self._id).should_prune()


def pruned_error(trial: Trial, metrics: Mapping[str, float], share: float) -> PrunedError:
    """Return the error that ends a pruned trial at a share of its run, with its metrics there."""
    reached = f"{trial.objective.name} {metrics[trial.objective.name]:.4g} at {share:.0%} of the run"
    return PrunedError(f"trial {trial.number} was pruned by {trial.pruner}: {reached}", metrics)
