"""The methods that are compared, replayed on a landscape with lrflow's own samplers and pruners."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna

from benchmarks.sweeps.landscape import EPOCHS, LENGTHS, OPTIMIZERS, Curve, Landscape, Run, rates
from lrflow.config.overrides import Override
from lrflow.config.sweep import Pruning
from lrflow.sweeps.samplers import WHOLE, make_pruner, make_sampler
from lrflow.sweeps.space import Space, read_space

BUDGET = 18
"""Whole runs that each method may spend; a grid of both optimizers and two LRs a decade takes as many."""
MOST = 150  # trials of a method that prunes, whatever they cost
SAMPLINGS = 8  # seeds of the sampler for each seed of the runs


@dataclass(frozen=True)
class Spent:
    """A run that is over.

    Args:
        steps: that the method has made up to its end.
        loss: what it ended at; infinite where it diverged or was given up.
    """

    steps: int
    loss: float


Method = Callable[[Landscape, int, int], list[Spent]]
"""From a landscape, a seed of its runs and a seed of the sampler to the runs in their order."""


def grid(landscape: Landscape, seed: int, sampling: int) -> list[Spent]:
    """Two LRs a decade for each optimizer, in an order drawn at random."""
    runs = [Run(optimizer, seed, rate) for rate in rates()[::2] for optimizer in OPTIMIZERS]
    random.Random(sampling).shuffle(runs)
    return _in_turn([landscape.kept[run] for run in runs])


def confirmed(landscape: Landscape, seed: int, sampling: int) -> list[Spent]:
    """A range test and a few annealed runs of half the length for each optimizer, then a run with what they found."""
    optimizers = list(OPTIMIZERS)
    random.Random(sampling).shuffle(optimizers)
    return _in_turn([landscape.kept[Run(optimizer, seed)] for optimizer in optimizers])


def sampled(sampler: str, pruner: str = "none", rungs: str = "validations") -> Method:
    """A sweep of lrflow's.

    Args:
        sampler: as in `sweep.sampler`.
        pruner: as in `sweep.pruner`.
        rungs: as in `sweep.pruning.rungs`.
    """

    def method(landscape: Landscape, seed: int, sampling: int) -> list[Spent]:
        budget = BUDGET * _steps(landscape, seed)
        space = _space()
        settings = Pruning(rungs=rungs)
        trials = BUDGET if pruner == "none" else 3 * BUDGET  # about as many as the budget allows
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(
                sampler=make_sampler(sampler, sampling, trials, space.common()), pruner=make_pruner(pruner, settings)
            )
        found: list[Spent] = []
        while (found[-1].steps if found else 0) < budget and len(found) < MOST:
            trial = study.ask()
            chosen = space.suggest(trial)
            optimizer, lr = chosen["optimizer"], _nearest(float(chosen["optimizer.lr"]))
            curves = [landscape.kept[Run(optimizer, seed, lr, epochs)] for epochs in LENGTHS]
            whole, *shorter = curves
            if pruner == "none" or rungs == "validations":
                spent, loss = _validated(trial, whole, pruner != "none")
            else:
                spent, loss = _climbed(trial, shorter[::-1], whole)
            finite = math.isfinite(loss)
            study.tell(trial, loss if finite else None, None if finite else optuna.trial.TrialState.PRUNED)
            found.append(Spent((found[-1].steps if found else 0) + spent, loss))
        return found

    return method


def _validated(trial: optuna.Trial, curve: Curve, asks: bool) -> tuple[int, float]:
    """The steps of a whole run and what it ended at, where it may be given up at each validation."""
    for step, loss in zip(curve.steps, curve.losses, strict=True):
        share = step / curve.steps[-1]
        if asks and not math.isnan(loss):
            trial.report(loss, round(share * WHOLE))
            if share < 1 and trial.should_prune():
                return step, math.inf
    return curve.spent, curve.loss


def _climbed(trial: optuna.Trial, rungs: Sequence[Curve], whole: Curve) -> tuple[int, float]:
    """The same of runs of growing length, each annealed to its end."""
    spent = 0
    for curve, epochs in zip(rungs, sorted(LENGTHS), strict=False):
        spent += curve.spent
        if curve.diverged:
            return spent, math.inf
        trial.report(curve.loss, round(epochs / EPOCHS * WHOLE))
        if trial.should_prune():
            return spent, math.inf
    return spent + whole.spent, whole.loss


METHODS: dict[str, Method] = {
    "grid": grid,
    "random": sampled("random"),
    "TPE": sampled("tpe"),
    "TPE + ASHA": sampled("tpe", "asha"),
    "TPE + ASHA, annealed rungs": sampled("tpe", "asha", "annealed"),
    "range test + short runs": confirmed,
}


Regrets = dict[str, list[list[Spent]]]
"""By method, for each seed of the runs and of the sampler: the steps spent and the regret after each run."""


def regrets(landscape: Landscape) -> Regrets:
    """How much worse than the best known loss the best of each method is after each of its runs."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return {
        name: [
            _best_so_far(method(landscape, seed, sampling), landscape.best(seed))
            for seed in landscape.seeds()
            for sampling in range(SAMPLINGS)
        ]
        for name, method in METHODS.items()
    }


def _best_so_far(runs: Sequence[Spent], best: float) -> list[Spent]:
    least = itertools.accumulate((run.loss for run in runs), min)
    return [Spent(run.steps, loss - best) for run, loss in zip(runs, least, strict=True)]


def after(curve: Sequence[Spent], steps: float) -> float:
    """The regret once so many steps are spent; infinite before the first run has ended."""
    return min((spent.loss for spent in curve if spent.steps <= steps), default=math.inf)


def whole_steps(landscape: Landscape) -> int:
    """The steps of a whole run."""
    return _steps(landscape, landscape.seeds()[0])


def _steps(landscape: Landscape, seed: int) -> int:
    whole = [curve for run, curve in landscape.kept.items() if run.lr and run.seed == seed and run.epochs == EPOCHS]
    return max(curve.spent for curve in whole)


def _in_turn(curves: Sequence[Curve]) -> list[Spent]:
    found: list[Spent] = []
    for curve in curves:
        found.append(Spent((found[-1].steps if found else 0) + curve.spent, curve.loss))
    return found


def _space() -> Space:
    typed = (f"optimizer={','.join(OPTIMIZERS)}", "optimizer.lr=interval(1e-4,1)")
    return read_space(None, None, map(Override.read, typed))


def _nearest(lr: float) -> float:
    """The LR of the landscape that is closest."""
    return min(rates(), key=lambda rate: abs(math.log(rate / lr)))
