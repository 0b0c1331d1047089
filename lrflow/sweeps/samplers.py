"""Samplers of trials: Optuna's, seeded per trial, and a grid."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from lrflow.errors import LrflowError
from lrflow.sweeps.gaussian_process import NoisyGPSampler
from lrflow.sweeps.space import Space
from lrflow.sweeps.study import quiet_optuna

ADAPTIVE = ("tpe", "gp", "cmaes", "nsga2")
"""The samplers that learn from earlier trials."""


def make_sampler(
    kind: str, seed: int, n_trials: int, common: Mapping[str, BaseDistribution], repeated: str | None = None
) -> BaseSampler:
    """Return a sampler.

    Args:
        kind: `random`, `qmc`, `tpe`, `gp`, `cmaes`, `nsga2`; `grid`: the random sampler, for trials beyond the grid.
        seed: of the sweep.
        n_trials: of the whole sweep; a third of them, from 3 to 10, are random before the sampler learns.
        common: the parameters that every trial has.
        repeated: the objective, if its trials are means over several runs; None: each is a single run.
    """
    samplers = optuna.samplers
    first = max(3, min(10, n_trials // 3))

    def make(seed: int) -> BaseSampler:
        with quiet_optuna():
            match kind:
                case "tpe":  # constant_liar: running trials count as bad, so that parallel trials differ
                    return samplers.TPESampler(
                        seed=seed, n_startup_trials=first, multivariate=True, group=True, constant_liar=True
                    )
                case "gp" if repeated:
                    return NoisyGPSampler(repeated, seed=seed, n_startup_trials=first)
                case "gp":
                    return samplers.GPSampler(seed=seed, n_startup_trials=first)
                case "cmaes":
                    return CmaEs(seed=seed)
                case "nsga2":
                    return samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, n_trials // 4)))
                case "qmc":
                    return samplers.QMCSampler(seed=seed, scramble=True)
            return samplers.RandomSampler(seed=seed)

    if kind == "qmc":  # a single sequence; the study stores its position
        sequence = make(seed)
        numeric = {name: axis for name, axis in common.items() if not isinstance(axis, CategoricalDistribution)}
        return Reseeded(lambda _: sequence, seed, numeric)
    return Reseeded(make, seed)


class CmaEs(optuna.samplers.CmaEsSampler):
    """Optuna's CMA-ES sampler, which reads its state from the study without running code.

    Optuna (5.0) stores the state as a pickle in the study, and a sweep may have been made by someone else.
    """

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        prefix = f"{self._attr_key_optimizer}:"
        for trial in reversed(completed_trials):
            parts = [name for name in trial.system_attrs if name.startswith(prefix)]
            if not parts:
                continue
            try:
                text = "".join(str(trial.system_attrs[f"{prefix}{index}"]) for index in range(len(parts)))
                return _State(io.BytesIO(bytes.fromhex(text))).load()
            except Exception as error:  # a pickle of other bytes raises many types
                message = f"trial {trial.number} of the study does not hold the state of a CMA-ES sampler: {error}"
                raise LrflowError(f"{message}; resume the sweep with sweep.sampler=tpe") from error
        return None


_STATE = {
    ("cmaes._cma", "CMA"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("_core", "core") for name in ("_reconstruct", "scalar")),
}
"""What the pickled state of the sampler is made of: numbers and arrays."""


class _State(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STATE:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


class Reseeded(BaseSampler):
    """A sampler that is created anew for each trial, seeded by the trial's number.

    A resumed sweep therefore continues the sequence instead of repeating it, and machines that share a study never draw
    the same values. Optuna's own seeded samplers start over in each process (5.0).

    Args:
        make: returns a sampler for a seed.
        seed: of the sweep.
        space: the parameters that are drawn jointly; None: the sampler infers them from earlier trials.
    """

    def __init__(
        self, make: Callable[[int], BaseSampler], seed: int, space: Mapping[str, BaseDistribution] | None = None
    ) -> None:
        self._make, self._seed, self._space = make, seed, space
        self._inner: tuple[int, BaseSampler] | None = None

    def _sampler_for(self, trial: FrozenTrial) -> BaseSampler:
        if self._inner is None or self._inner[0] != trial.number:
            seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
            self._inner = (trial.number, self._make(seed))
        return self._inner[1]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are drawn jointly."""
        if self._space is not None:
            return dict(self._space)
        return self._sampler_for(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the values of the parameters that are drawn jointly."""
        return self._sampler_for(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Return the value of any other parameter."""
        return self._sampler_for(trial).sample_independent(study, trial, name, distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Notify the sampler that a trial begins."""
        self._sampler_for(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Notify the sampler that a trial has ended."""
        self._sampler_for(trial).after_trial(study, trial, state, values)


class GridSampler(BaseSampler):
    """Samples the points of a grid in order.

    The point of a trial follows from its number alone, so that machines can share a grid. Trials that are run again
    under another number keep their point and do not count.

    Args:
        space: the choices to combine.
        rest: draws the trials beyond the grid.
    """

    def __init__(self, space: Space, rest: BaseSampler) -> None:
        self._points = [space.parameters(assignment) for assignment in space.grid()]
        self._axes = {axis.name: axis.distribution() for axis in space.axes}
        self._rest = rest

    def _point(self, study: Study, trial: FrozenTrial) -> dict[str, str]:
        earlier = study.get_trials(deepcopy=False)[: trial.number]
        position = trial.number - sum("retry_history" in other.system_attrs for other in earlier)
        return self._points[position] if position < len(self._points) else {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters of the trial's point."""
        return {name: self._axes[name] for name in self._point(study, trial)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the values of the parameters that are drawn jointly."""
        return dict(self._point(study, trial))

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Return the value of a parameter of a trial beyond the grid."""
        return self._rest.sample_independent(study, trial, name, distribution)
