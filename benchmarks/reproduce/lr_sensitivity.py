"""How a longer warmup and normalised queries and keys lessen the harm of a wrong LR."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.reproduce.claims import Claim, Picture, Result, verdict
from benchmarks.reproduce.grids import difference, ends, over_seeds, plays, spread

CLAIM = Claim(
    title="LR sensitivity",
    paper="Wortsman et al., 2023, [2309.14322](https://arxiv.org/abs/2309.14322)",
    claim=(
        "Normalising queries and keys (qk-norm) and a longer warmup each lower the LR sensitivity of a transformer: "
        "the mean loss over LRs of three decades, each at most the initial loss, minus the loss at the best LR."
    ),
    rule=(
        "The 95% interval of the difference of sensitivity, with minus without, lies below 0 for qk-norm and for the "
        "warmup. Partly: for one of the two."
    ),
    number="sensitivity with qk-norm minus sensitivity without",
    method=(
        "A transformer of two blocks of width 32 learns the characters of Shakespeare's plays for 150 steps of 256, "
        "by AdamW with a cosine to zero, at seven LRs from 0.001 to 1. Three ways: a warmup of 20%, the same with "
        "qk-norm, and a warmup of 1%. The interval of a difference is that of resampled seeds."
    ),
    seconds=70,
    limits="The paper finds that qk-norm matters more the larger the model is; this one is tiny.",
)
STEPS, SEEDS = 150, 3
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
WAYS = {
    "warmup 20%": ("schedule.warmup=20%",),
    "warmup 20%, qk-norm": ("schedule.warmup=20%", "model.qk_norm=true"),
    "warmup 1%": ("schedule.warmup=1%",),
}
START = math.log(84)
"""The initial loss: all 84 characters are equally likely."""


def sensitivity(losses: np.ndarray) -> np.ndarray:
    """Return the sensitivity [seeds] of losses [LRs, seeds]; NaN: the run diverged."""
    limited = np.minimum(np.nan_to_num(losses, nan=np.inf), START)
    return np.asarray(limited.mean(0) - limited.min(0))


def reproduce(fast: bool = False) -> Result:
    """Train all ways at all LRs, in the miniature at two LRs for a few steps."""
    steps, rates, seeds = (4, RATES[1:3], 2) if fast else (STEPS, RATES, SEEDS)
    losses, found = {}, {}
    for way, own in WAYS.items():
        words = (*plays(32), "schedule=cosine", f"trainer.max_steps={steps}", *own)
        losses[way] = ends(*words, over={"optimizer.lr": rates, "seed": range(seeds)})
        found[way] = sensitivity(losses[way])
    plain, normed, short = found.values()
    number, low, high = difference(normed, plain)
    warmup = difference(plain, short)
    parts = (high < 0, warmup[2] < 0)
    told = (
        f"qk-norm changes the sensitivity from {plain.mean():.3f} to {normed.mean():.3f}. A warmup of 20% instead of "
        f"1% changes it from {short.mean():.3f} to {plain.mean():.3f}, by {warmup[0]:.3f} ({warmup[1]:.3f} to "
        f"{warmup[2]:.3f})."
    )
    rows: list[dict[str, str | float | None]] = [
        {
            "way": way,
            "LR sensitivity": f"{found[way].mean():.3f}",
            "spread over seeds": spread(found[way]),
            "best loss": f"{np.nanmin(np.nanmean(of, 1)):.3f}",
            "loss at the highest LR": f"{np.minimum(np.nan_to_num(of[-1], nan=START), START).mean():.3f}",
        }
        for way, of in losses.items()
    ]
    lines = []
    for way, of in losses.items():
        drawn = np.minimum(np.nan_to_num(of, nan=START), START)
        lines.append(over_seeds(way, rates, drawn))
    alt = "Validation loss against the LR, at most the initial loss, with and without qk-norm and a long warmup"
    picture = Picture(alt, "peak LR", "validation loss", lines)
    return Result(number, low, high, verdict(parts), seeds, told, rows, picture)
