"""Grids of runs that train together where they can, and comparisons of ways to train whose LRs are tuned alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import lrflow
from benchmarks.reproduce.claims import Line
from benchmarks.reproduce.measure import BARE, QUIET, interval, scratch
from lrflow.errors import LrflowError
from lrflow.sweeps.results import TrialResult

DIGITS = (
    "data=digits", "data.val_size=400", "data.drop_last=true", "model=mlp", "model.widths=[64]", "model.dropout=0",
    "optimizer.weight_decay=0", "layers=uniform",
)  # fmt: skip
"""Overrides of a perceptron that learns the digits; the optimizer and the schedule are added."""


@contextmanager
def population(*words: str, over: Mapping[str, Sequence[object]]) -> Iterator[np.ndarray]:
    """Train each combination of values, as one population if the runs can be one, and yield the runs.

    Args:
        words: overrides of all runs.
        over: values of each key that differs.

    Yields:
        `TrialResult`s, an array with one axis per key; their folders exist within the block.
    """
    shape = tuple(len(values) for values in over.values())
    swept = [f"{key}={','.join(map(str, values))}" for key, values in over.items()]
    launcher = ("hydra/launcher=vectorized", "hydra.launcher.measure=false")
    with scratch() as folder:
        found = lrflow.sweep(*QUIET, *BARE, *words, *swept, *launcher, f"hydra.sweep.dir={folder}/sweep")
        runs = {run.number: run for trial in found.trials for run in trial.runs or (trial,)}
        array = np.empty(shape, dtype=object)
        for number, at in enumerate(np.ndindex(*shape)):
            if number not in runs:
                raise LrflowError(f"run {number} of the grid failed")
            array[at] = runs[number]
        yield array


def values(runs: np.ndarray, metric: str = "val/loss") -> np.ndarray:
    """Return the final values of a metric, an array of the shape of `runs`; NaN: the run diverged."""

    def value(run: TrialResult) -> float:
        found = run.value(metric)
        if found is None:
            raise LrflowError(f"run {run.number} did not finish: {run.error}")
        return found

    return np.vectorize(value, otypes=[float])(runs)


def ends(*words: str, over: Mapping[str, Sequence[object]], metric: str = "val/loss") -> np.ndarray:
    """Train a grid, and return the final values of a metric; see `population` and `values`."""
    with population(*words, over=over) as runs:
        return values(runs, metric)


def best(losses: np.ndarray) -> int:
    """Return the index of the LR whose mean loss over seeds is lowest; an LR at which a seed diverged counts last.

    Args:
        losses: [LRs, seeds].
    """
    return int(np.argmin(np.where(np.isnan(losses).any(1), np.inf, losses.mean(1))))


def tuned(losses: np.ndarray) -> np.ndarray:
    """Return the losses of the seeds [seeds] at the best LR of losses [LRs, seeds]."""
    return np.asarray(losses[best(losses)])


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Return the mean difference of losses of equal seeds, ours minus theirs, with its 95% interval.

    The interval is that of resampled seeds, widened by sqrt(n / (n - 1)) around the mean, since few seeds vary too
    little.
    """
    gaps = ours - theirs
    mean, count = float(gaps.mean()), len(gaps)
    low, high = interval(count, lambda drawn: float(gaps[drawn].mean()))
    wider = math.sqrt(count / (count - 1))
    return mean, mean + wider * (low - mean), mean + wider * (high - mean)


def over_seeds(name: str, x: Sequence[float], values: np.ndarray) -> Line:
    """Return the line of the means of values [x, seeds], in the band that holds all seeds."""
    return Line(name, x, values.mean(1).tolist(), values.min(1).tolist(), values.max(1).tolist())


def spread(values: np.ndarray, digits: int = 3) -> str:
    """Return the lowest and the highest value in words: `2.451 to 2.479`."""
    return f"{values.min():.{digits}f} to {values.max():.{digits}f}"


def plays(width: int, depth: int = 2, batch: int = 8, length: int = 32, windows: int = 16_000) -> tuple[str, ...]:
    """Return the overrides of a small transformer that learns the characters of Shakespeare's plays.

    Args:
        width, depth: of the transformer, which has 2 heads.
        batch, length: windows of a step, and characters of a window.
        windows: of the data, of which 512 are held out for the validation.
    """
    facts = f"shape:[{length}],outputs:84,vocabulary:84,head:language_model,loss:cross_entropy,examples:{windows}"
    return (
        "trust=benchmarks", "data=custom", "data._target_=benchmarks.reproduce.data.Plays", f"data.length={length}",
        f"data.windows={windows}", f"data.batch_size={batch}", "data.val_size=512", "data.eval_batch_size=256",
        "data.drop_last=true", f"data.facts={{{facts}}}", "model=transformer", f"model.width={width}",
        f"model.depth={depth}", "model.heads=2", "optimizer=adamw", "trainer.max_epochs=null",
    )  # fmt: skip


def last_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run by rising step."""
    return sorted((folder / "checkpoints").glob("step-*.ckpt"))
