"""The learning curves of a sweep's trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lrflow.metric import TRAIN_LOSS
from lrflow.sweeps.recorded import TrialResult
from lrflow.sweeps.results import SweepResults

READINGS = 4  # of the metric that a curve needs, else the training loss is shown
POINTS = 150  # of a curve, at most
CURVES = 200  # of a sweep, at most: the best ones


@dataclass(frozen=True)
class LearningCurve:
    """A metric of one trial over its steps; of many steps, means of as many ranges as are drawn."""

    trial: TrialResult
    steps: tuple[float, ...]
    values: tuple[float, ...]


def learning_curves(sweep: SweepResults) -> tuple[str, list[LearningCurve]]:
    """The metric that trials are judged by over their steps, or the training loss where that is read more often.

    Returns:
        the name of the column, and the curves of the trials that have any.
    """
    ranked = sorted(sweep.trials, key=lambda trial: (np.isnan(sweep.cost(trial)), sweep.cost(trial)))[:CURVES]
    read = [(trial, trial.history(sweep.metric, TRAIN_LOSS)) for trial in ranked]
    longest = max((len(metric[0]) for _, (metric, _) in read), default=0)
    trained = any(loss[0] for _, (_, loss) in read)
    which = 0 if longest >= READINGS or not trained else 1
    curves = [_curve(trial, *histories[which]) for trial, histories in read if histories[which][0]]
    return (sweep.metric, TRAIN_LOSS)[which], curves


def _curve(trial: TrialResult, steps: Sequence[int], values: Sequence[float]) -> LearningCurve:
    known = np.isfinite(values)
    count = max(1, min(POINTS, int(known.sum())))
    means = [
        tuple(float(part.mean()) for part in np.array_split(np.asarray(column, float)[known], count) if part.size)
        for column in (steps, values)
    ]
    return LearningCurve(trial, means[0], means[1])
