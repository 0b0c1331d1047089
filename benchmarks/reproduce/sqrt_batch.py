"""Under Adam the best LR grows as the root of the batch, if the betas change with it."""

from __future__ import annotations

import numpy as np

from benchmarks.reproduce.claims import Claim, Line, Picture, Result, verdict
from benchmarks.reproduce.grids import DIGITS
from benchmarks.reproduce.grids import ends as ends_of
from benchmarks.reproduce.measure import exponent

CLAIM = Claim(
    title="The root of the batch, for Adam",
    paper="Malladi et al., 2022, [2205.10287](https://arxiv.org/abs/2205.10287)",
    claim=(
        "With k times the batch and the same number of examples, Adam trains alike if the LR is multiplied by the root "
        "of k, 1 - beta1 and 1 - beta2 by k, and eps divided by the root of k; so the best LR grows as the root of the "
        "batch."
    ),
    rule=(
        "The exponent of the best LR over batches is between 0.35 and 0.65, and at each batch the loss at the LR that "
        "the rule makes of the best LR at the reference is within 5% of the lowest there. Partly: one of the two."
    ),
    number="exponent of the best LR over the batch",
    method=(
        "A perceptron with one hidden layer on digits, six epochs with a linear decay, batches of 4, 16 and 64 around "
        "a reference of 16 with betas of 0.9 and 0.98; eight LRs in factors of 2. The best LR is the vertex of a "
        "parabola through the losses around the lowest; the interval of the exponent holds 95% of resampled seeds."
    ),
    seconds=60,
)
REFERENCE, BETAS, EPS = 16, (0.9, 0.98), 1e-8
BATCHES = (4, 16, 64)
RATES = 2.0 ** np.arange(-12, -4)
WORDS = (*DIGITS, "optimizer=adam", "schedule=linear", "schedule.warmup=0%")


def losses(batch: int, seeds: int, epochs: int, scaled: bool = True) -> np.ndarray:
    """Return the validation losses at the end, [seeds, LRs]; the betas are scaled with the batch, or not."""
    k = batch / REFERENCE if scaled else 1.0
    betas, eps = [1 - k * (1 - beta) for beta in BETAS], EPS / k**0.5
    words = (
        *WORDS, f"data.batch_size={batch}", f"optimizer.betas=[{betas[0]},{betas[1]}]", f"optimizer.eps={eps}",
        f"trainer.max_epochs={epochs}",
    )  # fmt: skip
    return ends_of(*words, over={"seed": range(seeds), "optimizer.lr": RATES.tolist()})


def reproduce(fast: bool = False) -> Result:
    """Train all batches and LRs; the miniature has two batches and one epoch."""
    seeds, batches, epochs = (2, (16, 64), 1) if fast else (3, BATCHES, 6)
    ends = np.stack([losses(batch, seeds, epochs) for batch in batches])  # [batches, seeds, LRs]
    best, number, (low, high) = exponent(batches, RATES, ends)
    vertices = np.log2(best)
    mean = np.log(np.nanmean(ends, 1))
    start = vertices[batches.index(REFERENCE)]
    rows, excess = list[dict[str, str | float | None]](), []
    for row, batch in enumerate(batches):
        lowest = float(np.exp(np.interp(vertices[row], np.log2(RATES), mean[row])))
        powers = {
            power: float(np.exp(np.interp(start + power * np.log2(batch / REFERENCE), np.log2(RATES), mean[row])))
            for power in (0, 0.5, 1)
        }
        excess.append(powers[0.5] / lowest - 1)
        rows.append({
            "batch": batch, "best LR": float(2 ** vertices[row]), "loss there": lowest,
            "at the reference's LR": powers[0], "by the root": powers[0.5], "in proportion": powers[1],
        })  # fmt: skip
    parts = (0.35 <= number <= 0.65, max(excess) <= 0.05)
    told = f"The LR by the root of the batch costs at most {max(excess):.1%} of the lowest loss."
    rates = (2**vertices).tolist()
    root = [2**start * (batch / REFERENCE) ** 0.5 for batch in batches]
    lines = [Line("best LR", batches, rates), Line("root of the batch", batches, root, style="reference")]
    picture = Picture("The best LR against the batch", "batch", "best LR", lines)
    return Result(number, min(low, number), max(high, number), verdict(parts), seeds, told, rows, picture)
