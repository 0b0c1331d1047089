"""The importance of the swept keys for the metric, and the learning curves of the trials."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrflow.history import Series
from lrflow.metric import TRAIN_LOSS
from lrflow.sweeps.repeats import repeats
from lrflow.sweeps.results import SweepResults, TrialResult, Value, number_or_none

MIN_TRIALS = 10  # for an importance
TREES, DEPTH = 32, 8  # of fANOVA's random forest; of 400 trials, twice as many and deeper trees take six times as long
BINS = 5  # ranges of a number with more values than that
MIN_VALIDATIONS = 4  # of a learning curve; with fewer, the training loss is shown instead of the metric
MAX_POINTS = 150  # of a learning curve
MAX_CURVES = 200  # of a sweep; those of the best trials


@dataclass(frozen=True)
class Importance:
    """The shares of the variance of the metric that the swept keys explain.

    Args:
        shares: by key, the largest first.
        method: of the estimate, in a few words.
        trials: their number.
    """

    shares: dict[str, float]
    method: str
    trials: int


def importance(sweep: SweepResults) -> Importance | None:
    """Estimate the importance of each swept key, over all trials that finished or diverged.

    With Optuna installed, this is fANOVA (Hutter, Hoos, Leyton-Brown, 2014): the variance of the prediction of a random
    forest of `TREES` trees of depth `DEPTH`, over the whole space. Otherwise it is the variance between the trials of
    each value of a key, which ignores interactions.

    Returns:
        the importance; None: there are fewer than ten trials or fewer than two keys to compare.
    """
    trials = [trial for trial in sweep.trials if not math.isnan(sweep.cost(trial))]
    columns = {key: [trial.given.get(key) for trial in trials] for key in sweep.keys}
    columns = {key: column for key, column in columns.items() if None not in column and len({*map(repr, column)}) > 1}
    costs = np.array([sweep.cost(trial) for trial in trials])
    ended = costs[np.isfinite(costs)]
    if len(ended) < MIN_TRIALS or len(columns) < 2 or float(np.ptp(ended)) == 0:
        return None
    costs = np.minimum(costs, ended.max())  # a diverged trial counts like the worst of the others
    if importlib.util.find_spec("optuna"):
        shares, method = _fanova(columns, costs), "fANOVA (Hutter et al., 2014), by Optuna"
    else:
        shares, method = (
            {key: _between(column, costs) for key, column in columns.items()},
            "variance between its values",
        )
    return Importance(dict(sorted(shares.items(), key=lambda item: -item[1])), method, len(trials))


@dataclass(frozen=True)
class LearningCurve:
    """A metric of a trial over its steps; long curves are averaged over ranges of steps."""

    trial: TrialResult
    steps: tuple[float, ...]
    values: tuple[float, ...]


def learning_curves(sweep: SweepResults) -> tuple[str, list[LearningCurve]]:
    """Return the learning curves of the trials: the metric, or the training loss if there are too few validations.

    Returns:
        the name of the column, and the curves of the trials that have values in it.
    """
    ranked = sorted(sweep.runs, key=lambda trial: (np.isnan(sweep.cost(trial)), sweep.cost(trial)))[:MAX_CURVES]
    histories = [(trial, trial.history(sweep.metric, TRAIN_LOSS)) for trial in ranked]
    longest = max((len(history[sweep.metric]) for _, history in histories), default=0)
    has_loss = any(TRAIN_LOSS in history for _, history in histories)
    column = sweep.metric if longest >= MIN_VALIDATIONS or not has_loss else TRAIN_LOSS
    return column, [_curve(trial, history[column]) for trial, history in histories if column in history]


def _fanova(columns: dict[str, list[Value]], costs: np.ndarray) -> dict[str, float]:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        distributions: dict[str, BaseDistribution] = {}
        placed: dict[str, list[Any]] = {}
        for key, column in columns.items():
            if _is_number(key, column):
                placed[key] = _positions(column).tolist()
                distributions[key] = FloatDistribution(min(placed[key]), max(placed[key]))
            else:
                placed[key] = [repr(value) for value in column]
                distributions[key] = CategoricalDistribution(sorted({*map(repr, column)}))
        study = optuna.create_study()
        for index, cost in enumerate(costs):
            given = {key: values[index] for key, values in placed.items()}
            study.add_trial(optuna.create_trial(params=given, distributions=distributions, value=float(cost)))
        found = get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=0)
        )
        return {key: float(share) for key, share in found.items()}
    finally:
        optuna.logging.set_verbosity(verbosity)


def _between(column: Sequence[Value], costs: np.ndarray) -> float:
    """Return the share of the variance of the costs that lies between the values of a key."""
    levels = np.array([repr(value) for value in column])
    if _is_number("", column) and len({*levels}) > BINS:
        positions = _positions(column)
        edges = np.linspace(positions.min(), positions.max(), BINS + 1)[1:-1]
        levels = np.digitize(positions, edges).astype(str)
    means = np.empty_like(costs)
    for level in {*levels}:
        means[levels == level] = costs[levels == level].mean()
    return float(means.var() / costs.var())


def _is_number(key: str, column: Sequence[Value]) -> bool:
    return not repeats(key) and all(number_or_none(value) is not None for value in column)


def _positions(column: Sequence[Value]) -> np.ndarray:
    """Return numbers, or their logarithms if they span more than a decade."""
    values = np.array([number_or_none(value) for value in column], float)
    return np.log10(values) if values.min() > 0 and values.max() / values.min() > 10 else values


def _curve(trial: TrialResult, series: Series) -> LearningCurve:
    means = series.smoothed(MAX_POINTS)
    return LearningCurve(trial, tuple(means.steps.tolist()), tuple(means.values.tolist()))
