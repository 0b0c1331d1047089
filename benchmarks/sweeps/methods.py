"""The compared methods, replayed on a landscape with lrflow's own samplers and pruners."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna

from benchmarks.sweeps.landscape import EPOCHS, LENGTHS, OPTIMIZERS, Curve, Landscape, Run, rates
from lrflow.config.composition.overrides import Override
from lrflow.config.schemas.sweep import Pruning
from lrflow.sweeps.pruners import WHOLE, make_pruner
from lrflow.sweeps.samplers import make_sampler
from lrflow.sweeps.space import Space, read_space

BUDGET = 18
"""Budget of each method in full runs, which equals a grid of both optimizers and two LRs per decade."""
MOST = 150  # maximum number of trials of a pruning method, whatever they cost
SAMPLINGS = 8  # sampler seeds per seed of the runs


@dataclass(frozen=True)
class Spent:
    """A finished run.

    Args:
        steps: total steps of the method up to the end of this run.
        loss: final loss; infinite if the run diverged or was pruned.
    """

    steps: int
    loss: float


Method = Callable[[Landscape, int, int], list[Spent]]
"""Maps a landscape, a seed of its runs and a seed of the sampler to the runs in order."""


def grid(landscape: Landscape, seed: int, sampling: int) -> list[Spent]:
    """Run two LRs per decade for each optimizer, in random order."""
    runs = [Run(optimizer, seed, rate) for rate in rates()[::2] for optimizer in OPTIMIZERS]
    random.Random(sampling).shuffle(runs)
    return _in_turn([landscape.kept[run] for run in runs])


def confirmed(landscape: Landscape, seed: int, sampling: int) -> list[Spent]:
    """Make a range test and short annealed runs per optimizer, then a full run with the LR found."""
    optimizers = list(OPTIMIZERS)
    random.Random(sampling).shuffle(optimizers)
    return _in_turn([landscape.kept[Run(optimizer, seed)] for optimizer in optimizers])


def sampled(sampler: str, pruner: str = "none", rungs: str = "validations") -> Method:
    """Return a method that is a sweep of lrflow.

    Args:
        sampler: value of `sweep.sampler`.
        pruner: value of `sweep.pruner`.
        rungs: value of `sweep.pruning.rungs`.
    """

    def method(landscape: Landscape, seed: int, sampling: int) -> list[Spent]:
        budget = BUDGET * _steps(landscape, seed)
        space = _space()
        settings = Pruning(rungs=rungs)
        trials = BUDGET if pruner == "none" else 3 * BUDGET  # about the number that the budget allows
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
    """Return steps and final loss of a full run that may be pruned at each validation."""
    for step, loss in zip(curve.steps, curve.losses, strict=True):
        share = step / curve.steps[-1]
        if asks and not math.isnan(loss):
            trial.report(loss, round(share * WHOLE))
            if share < 1 and trial.should_prune():
                return step, math.inf
    return curve.spent, curve.loss


def _climbed(trial: optuna.Trial, rungs: Sequence[Curve], whole: Curve) -> tuple[int, float]:
    """Return the same for runs of growing length, each with a complete schedule."""
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
"""By method, for each pair of run seed and sampler seed: steps spent and regret after each run."""


def regrets(landscape: Landscape) -> Regrets:
    """Return the regret of each method: its best loss so far minus the best known loss, after each run."""
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
    """Return the regret after `steps` steps; infinite before the first run has finished."""
    return min((spent.loss for spent in curve if spent.steps <= steps), default=math.inf)


def whole_steps(landscape: Landscape) -> int:
    """Return the steps of a full run."""
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
    """Return the closest LR of the landscape."""
    return min(rates(), key=lambda rate: abs(math.log(rate / lr)))
