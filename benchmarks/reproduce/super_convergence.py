"""One cycle with a high LR against drops of a constant LR, in a quarter of the steps."""

from __future__ import annotations

import numpy as np

from benchmarks.reproduce.claims import Claim, Held, Picture, Result
from benchmarks.reproduce.grids import best, difference, over_seeds, population, spread, values

CLAIM = Claim(
    title="Super-convergence",
    paper="Smith and Topin, 2018, [1708.07120](https://arxiv.org/abs/1708.07120)",
    claim=(
        "One cycle of the LR, up to a high peak, with the momentum moving against it, trains a network with "
        "BatchNorm in a fraction of the steps to at least the accuracy of a piecewise constant LR, and more so with "
        "few training data."
    ),
    rule=(
        "The upper end of the 95% interval of the difference in error is at most 0. Partly: the mean is, or the one "
        "cycle is better than drops within the same few steps, by its whole interval."
    ),
    number="error of one cycle minus error of the drops with four times its steps, in points",
    method=(
        "A CNN with BatchNorm (8 and 16 channels) on 897 digits of 8 x 8 pixels, in batches of 64, by SGD with "
        "momentum: 560 steps at a constant LR that drops to a tenth at 50% and at 75%, and 140 steps of one cycle. "
        "Each has the same six LRs; its error, on 900 other digits, is that at the LR whose mean validation loss is "
        "lowest. The interval is that of resampled seeds."
    ),
    seconds=60,
    limits="The paper's networks are ResNets on CIFAR-10; the digits are an easy task.",
)
LONG, SEEDS = 560, 4
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
DROPS = ("schedule=multistep", "schedule.shape.milestones=[50%,75%]", "schedule.shape.gamma=0.1", "schedule.warmup=0%")
WORDS = (
    "data=digits",
    "data.val_size=900",
    "data.test_size=0",
    "data.batch_size=64",
    "model=cnn",
    "model.widths=[8,16]",
    "optimizer=momentum",
    "trainer.max_epochs=null",
)


def reproduce(fast: bool = False) -> Result:
    """Train all ways at all LRs, in the miniature at two LRs for a few steps."""
    long, rates, seeds = (16, RATES[1:3], 2) if fast else (LONG, RATES, SEEDS)
    ways = {
        f"drops, {long} steps": (long, DROPS),
        f"one cycle, {long // 4} steps": (long // 4, ("schedule=one_cycle",)),
        f"drops, {long // 4} steps": (long // 4, DROPS),
    }
    over = {"optimizer.lr": rates, "seed": range(seeds)}
    losses, errors = {}, {}
    for way, (steps, schedule) in ways.items():
        with population(*WORDS, *schedule, f"trainer.max_steps={steps}", over=over) as runs:
            losses[way] = values(runs)
            errors[way] = 100 * (1 - values(runs, "val/accuracy"))
    drops, cycle, short = (errors[way][best(losses[way])] for way in ways)
    number, low, high = difference(cycle, drops)
    against_short = difference(cycle, short)
    held: Held = True if high <= 0 else (number <= 0 or against_short[2] < 0) and "partly"
    told = (
        f"One cycle of {long // 4} steps ends at an error of {cycle.mean():.2f}%, the drops at {drops.mean():.2f}% "
        f"after {long} steps and at {short.mean():.2f}% after {long // 4}."
    )
    rows: list[dict[str, str | float | None]] = []
    for way, of in errors.items():
        at = best(losses[way])
        rows.append({
            "way": way, "best LR": rates[at], "error in %": f"{of[at].mean():.2f}",
            "spread over seeds": spread(of[at], 2),
            "validation loss": f"{losses[way][at].mean():.4f}",
        })  # fmt: skip
    lines = [
        over_seeds(way, rates, np.where(np.isnan(of).any(1, keepdims=True), 90.0, of)) for way, of in errors.items()
    ]
    picture = Picture("Error on held-out digits against the peak LR", "peak LR", "error in %", lines)
    return Result(number, low, high, held, seeds, told, rows, picture)
