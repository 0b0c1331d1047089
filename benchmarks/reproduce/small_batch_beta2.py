"""Small batches train as well as large ones under Adam, if beta2 keeps its half-life in examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.reproduce.claims import Claim, Line, Picture, Result, verdict
from benchmarks.reproduce.grids import DIGITS
from benchmarks.reproduce.grids import ends as ends_of
from benchmarks.reproduce.measure import interval

CLAIM = Claim(
    title="Small batches, with the half-life of beta2 in examples",
    paper="Marek et al., 2025, [2507.07101](https://arxiv.org/abs/2507.07101)",
    claim=(
        "Adam with a batch of one example reaches per example the loss of larger batches or a lower one, if beta2 "
        "keeps its half-life in examples; with the beta2 of a larger batch it does not."
    ),
    rule=(
        "At its best LR, a batch of 1 with the half-life of beta2 kept ends at most 5% above a batch of 16; and with "
        "beta2 fixed at the larger batch's it ends at least 5% above the same batch with the half-life kept. Partly: "
        "one of the two."
    ),
    number="lowest loss of batches of 1 over that of batches of 16, half-life kept",
    method=(
        "A perceptron with one hidden layer on digits, six epochs with a linear decay, batches of 1 and 16 with "
        "beta1 = 0.9; beta2 is 0.95 at a batch of 16, and 0.95 ^ (batch / 16) or 0.95 at a batch of 1; nine LRs in "
        "factors of 2. The interval holds 95% of resampled seeds."
    ),
    seconds=60,
    limits=(
        "An earlier setup compared with batches of 64 after three epochs: 48 steps, too few for any LR, so the small "
        "batch had won beforehand. Batches of 16 take 384 steps in six epochs; the margins of the rule are the same. "
        "The paper trains language models of up to 1.3B parameters on a single pass over the data."
    ),
)
REFERENCE, BETA2 = 16, 0.95
BATCHES = (1, 16)
RATES = 2.0 ** np.arange(-12, -3)
WORDS = (*DIGITS, "optimizer=adam", "schedule=linear", "schedule.warmup=0%")


def losses(batch: int, beta2: Sequence[float], seeds: int, epochs: int) -> np.ndarray:
    """Return the validation losses at the end, [values of beta2, seeds, LRs]."""
    betas = [f"[0.9,{one}]" for one in beta2]
    over = {"optimizer.betas": betas, "seed": range(seeds), "optimizer.lr": RATES.tolist()}
    return ends_of(*WORDS, f"data.batch_size={batch}", f"trainer.max_epochs={epochs}", over=over)


def reproduce(fast: bool = False) -> Result:
    """Train all batches and LRs; the miniature has larger batches and one epoch."""
    seeds, batches, epochs = (2, (8, 16), 1) if fast else (3, BATCHES, 6)
    small = batches[0]
    both = losses(small, (BETA2 ** (small / REFERENCE), BETA2), seeds, epochs)
    large = losses(REFERENCE, (BETA2,), seeds, epochs)[0]
    kept, fixed = {small: both[0], REFERENCE: large}, {small: both[1], REFERENCE: large}

    def lowest(ends: np.ndarray, drawn: np.ndarray | None = None) -> float:
        return float(np.nanmin(np.nanmean(ends if drawn is None else ends[drawn], 0)))

    number = lowest(kept[small]) / lowest(kept[REFERENCE])
    low, high = interval(seeds, lambda drawn: lowest(kept[small], drawn) / lowest(kept[REFERENCE], drawn))
    penalty = lowest(fixed[small]) / lowest(kept[small]) - 1
    rows: list[dict[str, str | float | None]] = [
        {
            "batch": batch,
            "beta2, half-life kept": BETA2 ** (batch / REFERENCE),
            "best LR": float(RATES[np.nanargmin(np.nanmean(kept[batch], 0))]),
            "lowest loss": lowest(kept[batch]),
            "best LR, beta2 0.95": float(RATES[np.nanargmin(np.nanmean(fixed[batch], 0))]),
            "lowest loss, beta2 0.95": lowest(fixed[batch]),
        }
        for batch in batches
    ]
    told = (
        f"With beta2 = {BETA2} a batch of {small} ends {abs(penalty):.1%} {'above' if penalty > 0 else 'below'} that."
    )
    most = 4 * min(lowest(ends) for ends in kept.values())
    named = {f"batch {batch}, half-life kept": kept[batch] for batch in batches}
    named[f"batch {small}, beta2 {BETA2}"] = fixed[small]
    lines = [
        Line(name, RATES.tolist(), [float(loss) if loss < most else None for loss in np.nanmean(ends, 0)])
        for name, ends in named.items()
    ]
    picture = Picture("The loss against the LR for batches and values of beta2", "peak LR", "validation loss", lines)
    held = verdict((number <= 1.05, penalty >= 0.05))
    return Result(number, min(low, number), max(high, number), held, seeds, told, rows, picture)
