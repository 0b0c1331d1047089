"""A Gaussian process that knows how much the objective of each trial may be off: by the spread of its runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

PRIOR_RUNS = 2
"""Weight of the usual variance of all trials against that of a trial's own runs, which are few, as a number of runs."""


class NoisyGPSampler(optuna.samplers.GPSampler):
    """Optuna's sampler by a Gaussian process, with the standard error of each trial as the noise of its value.

    Optuna (5.0) estimates one noise for all trials, and compares candidates with the best value observed, which is the
    luckiest. Here the variance of each mean is added to the covariance of the trials (Goldberg et al., 1998); the noise
    that Optuna estimates comes on top. The next trial is then chosen by a second process without noise through the
    means of the first (re-interpolation: Forrester et al., 2006, 10.2514/1.20068): all trials have the same seeds, so
    that nothing is learnt from another one at the same point. Without measured spreads, and for several objectives, it
    is Optuna's sampler.

    Args:
        metric: name of the objective, under which trials record the spread of their runs.
        settings: of Optuna's sampler.
    """

    def __init__(self, metric: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._metric = metric

    def _sample_relative_impl(
        self,
        study: Study,
        completed_trials: list[FrozenTrial],
        running_trials: list[FrozenTrial],
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        squares = squared_errors(completed_trials, self._metric)
        if squares is None or len(study.directions) > 1:
            return super()._sample_relative_impl(study, completed_trials, running_trials, search_space)
        import torch
        from optuna._gp import acqf, gp
        from optuna._gp.search_space import SearchSpace
        from optuna.samplers._gp.sampler import _get_params

        class Regressor(gp.GPRegressor):
            """A regressor that adds the squared errors of the observations to their covariance."""

            def kernel(self, X1: Any = None, X2: Any = None) -> Any:  # noqa: N803
                found = super().kernel(X1, X2)
                return found + torch.diag(noise) if X1 is None else found

        space = SearchSpace(search_space)
        points = space.get_normalized_params(completed_trials)
        sign = -1.0 if study.direction is StudyDirection.MINIMIZE else 1.0
        values = sign * np.array([trial.values[0] for trial in completed_trials])
        scale = max(float(values.std()), 1e-10)
        noise = torch.from_numpy(squares / scale**2)
        ones = torch.ones(points.shape[1] + 2, dtype=torch.float64)
        regressor = Regressor(
            torch.from_numpy(space.is_categorical), torch.from_numpy(points),
            torch.from_numpy((values - values.mean()) / scale), ones[:-2].clone(), ones[-2].clone(), ones[-1].clone(),
        )  # fmt: skip
        try:
            regressor._fit_kernel_params(self._log_prior, self._minimum_noise, False, 1e-2)
        except RuntimeError:  # of the optimizer or of a Cholesky factorisation
            return super()._sample_relative_impl(study, completed_trials, running_trials, search_space)
        with torch.no_grad():
            means, _ = regressor.posterior(torch.from_numpy(points))
        best = int(means.argmax())
        exact = gp.GPRegressor(
            torch.from_numpy(space.is_categorical), torch.from_numpy(points), means,
            regressor.inverse_squared_lengthscales, regressor.kernel_scale, torch.tensor(self._minimum_noise),
        )  # fmt: skip
        exact._cache_matrix()
        common: dict[str, Any] = {"gpr": exact, "search_space": space, "threshold": float(means[best])}
        function: acqf.BaseAcquisitionFunc = acqf.LogEI(**common)
        if running_trials:
            running = space.get_normalized_params(running_trials, [_get_params(trial) for trial in running_trials])
            function = acqf.qLogEI(
                **common, n_qmc_samples=self._n_qmc_samples_qei, qmc_seed=self._rng.rng.randint(1 << 30),
                normalized_params_of_running_trials=running,
            )  # fmt: skip
        return space.get_unnormalized_param(self._optimize_acqf(function, points[best : best + 1]))


def squared_errors(trials: list[FrozenTrial], metric: str) -> np.ndarray | None:
    """Return the variance of the mean of each trial over its runs; None: no trial has measured it.

    The variance of two or three runs says little. It is therefore averaged with the usual variance of all trials, their
    median, with the weight of `PRIOR_RUNS` runs, as in the moderated t statistic (Smyth, 2004).

    Args:
        trials: that are complete.
        metric: their objective.
    """
    variances = [float(trial.user_attrs.get("std", {}).get(metric, np.nan)) ** 2 for trial in trials]
    counts = [max(1, int(trial.user_attrs.get("counted", 1))) for trial in trials]
    known = np.isfinite(variances)
    if not known.any():
        return None
    usual = float(np.median(np.array(variances)[known]))
    freedom = np.where(known, np.array(counts) - 1, 0)
    own = np.where(known, variances, 0.0)
    return (PRIOR_RUNS * usual + freedom * own) / (PRIOR_RUNS + freedom) / np.array(counts)
