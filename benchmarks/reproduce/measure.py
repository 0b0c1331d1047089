"""What several reproductions share: the best LR of a grid, intervals over seeds, and quiet runs of lrflow."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

import lrflow
from lrflow.tasks.result import Result as Run

QUIET = (
    "trainer=cpu",
    "trainer.progress=false",
    "trainer.val_every=100%",
    "trainer.checkpoint.every=100%",
    "logger=csv",
    "report=false",
    "task.test=false",
)
"""Overrides of a run that is only measured."""
BARE = ("health=none", "signals=none")
"""Overrides of runs in which nothing is measured beside the losses."""
DRAWS = 2000


@contextmanager
def trained(*words: str) -> Iterator[Run]:
    """Train a run into a folder that is thrown away at the end of the block.

    Args:
        words: overrides as they are typed on the command line.
    """
    with scratch() as folder:
        yield lrflow.train(*QUIET, *words, f"output={folder}")


@contextmanager
def scratch() -> Iterator[str]:
    """Give a folder that is thrown away at the end of the block; what the block prints is thrown away too."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        yield folder


def vertex(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return the LR at the vertex of the parabola through the log losses of the five LRs around the lowest.

    Args:
        rates: rising LRs [rates].
        losses: of each [rates]; NaN or infinite: the run diverged.
    """
    known = np.where(np.isfinite(losses), losses, np.inf)
    at = int(np.argmin(known))
    around = [one for one in range(max(at - 2, 0), min(at + 3, len(rates))) if np.isfinite(known[one])]
    x = np.log2(rates[around])
    if len(around) >= 3:
        a, b, _ = np.polyfit(x, np.log(known[around]), 2)
        if a > 0:
            return float(2 ** np.clip(-b / (2 * a), x[0], x[-1]))
    return float(rates[at])


def interval(
    count: int, value: Callable[[np.ndarray], float], share: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the interval that holds a share of the values that resampled seeds have.

    Args:
        count: number of seeds.
        value: of an array of the seeds that were drawn, [count] of 0 to count - 1.
        share: of the values.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    values = [value(rng.integers(count, size=count)) for _ in range(DRAWS)]
    low, high = np.quantile(values, ((1 - share) / 2, (1 + share) / 2))
    return float(low), float(high)


def exponent(
    sizes: Sequence[float], rates: np.ndarray, losses: np.ndarray
) -> tuple[np.ndarray, float, tuple[float, float]]:
    """Return the best LR of each size, the exponent with which it follows the sizes, and that of resampled seeds.

    Args:
        sizes: of batches, data or runs.
        rates: rising LRs, or other values of which one is best.
        losses: [sizes, seeds, rates].
    """

    def vertices(drawn: np.ndarray | slice = slice(None)) -> np.ndarray:
        return np.array([vertex(rates, np.nanmean(of_size[drawn], 0)) for of_size in losses])

    def slope(best: np.ndarray) -> float:
        return float(np.polyfit(np.log2(sizes), np.log2(best), 1)[0])

    best = vertices()
    return best, slope(best), interval(losses.shape[1], lambda drawn: slope(vertices(drawn)))
