"""How many steps of tuned AdamW a step of tuned Muon is worth."""

from __future__ import annotations

import numpy as np

from benchmarks.reproduce.claims import Claim, Held, Picture, Result
from benchmarks.reproduce.grids import best, ends, over_seeds, plays, spread, tuned
from benchmarks.reproduce.measure import interval

CLAIM = Claim(
    title="Muon against tuned AdamW",
    paper="Wen et al., 2025, [2509.02046](https://arxiv.org/abs/2509.02046)",
    claim=(
        "Against AdamW with a tuned LR, Muon and its kin need 1.1 to 1.4 times fewer steps for the same loss, not "
        "twice fewer as claims against untuned AdamW say; small models gain most."
    ),
    rule=(
        "The 95% interval of the ratio of steps lies within 1.1 and 1.4. Partly: the ratio does, or its interval lies "
        "above 1."
    ),
    number="steps of AdamW for the loss of Muon, over the steps of Muon",
    method=(
        "A transformer of two blocks of width 32 learns the characters of Shakespeare's plays, 256 per step, with a "
        "warmup of 10% and a cosine to zero. Muon runs 150 steps on the hidden matrices, with updates as large as "
        "AdamW's (2502.16982), and AdamW at the same LR on the rest; AdamW alone runs 150 and 210 steps. Each has "
        "the same five LRs to choose from. The steps of AdamW for Muon's loss are interpolated linearly in log steps "
        "through its two tuned losses; the interval is that of resampled seeds."
    ),
    seconds=90,
    limits="The paper's models have 130 million to 1.2 billion parameters and are trained far longer.",
)
STEPS, SEEDS = (150, 210), 3
RATES = (0.002, 0.004, 0.008, 0.016, 0.032)
MUON = (
    "optimizer=muon",
    "optimizer.routes.muon.adjust_lr_fn=match_rms_adamw",
    "optimizer.routes.muon.lr=${optimizer.lr}",
    "optimizer.routes.muon.weight_decay=${optimizer.weight_decay}",
)


def steps_for(loss: float, steps: np.ndarray, losses: np.ndarray) -> float:
    """Return the number of steps after which a loss is reached, linear in log steps; losses fall with the steps."""
    at = int(np.clip(np.searchsorted(-losses, -loss), 1, len(steps) - 1))
    slope = (losses[at] - losses[at - 1]) / np.log(steps[at] / steps[at - 1])
    return float(steps[at - 1] * np.exp((loss - losses[at - 1]) / slope))


def reproduce(fast: bool = False) -> Result:
    """Train both at all LRs, in the miniature at two LRs for a few steps."""
    lengths, rates, seeds = ((4, 6), RATES[:2], 2) if fast else (STEPS, RATES, SEEDS)
    over = {"optimizer.lr": rates, "seed": range(seeds)}
    schedule = ("schedule=cosine", "schedule.warmup=10%")
    found = {
        f"AdamW, {steps} steps": ends(*plays(32), *schedule, f"trainer.max_steps={steps}", over=over)
        for steps in lengths
    }
    adamw = np.stack([tuned(losses) for losses in found.values()])  # [lengths, seeds]
    words = (*plays(32), *schedule, f"trainer.max_steps={lengths[0]}", *MUON)
    found = {f"Muon, {lengths[0]} steps": (losses := ends(*words, over=over)), **found}
    muon = tuned(losses)

    def ratio(drawn: np.ndarray) -> float:
        return steps_for(muon[drawn].mean(), np.array(lengths), adamw[:, drawn].mean(1)) / lengths[0]

    number = ratio(np.arange(seeds))
    low, high = interval(seeds, ratio)
    within = low >= 1.1 and high <= 1.4
    held: Held = within or ((1.1 <= number <= 1.4 or low > 1) and "partly")
    told = (
        f"After {lengths[0]} steps the tuned losses are {muon.mean():.3f} with Muon and {adamw[0].mean():.3f} with "
        f"AdamW, which reaches {adamw[-1].mean():.3f} after {lengths[-1]}"
        + (": the ratio is extrapolated." if muon.mean() < adamw[-1].mean() else ".")
    )
    rows: list[dict[str, str | float | None]] = [
        {
            "way": way,
            "best LR": rates[best(losses)],
            "validation loss": f"{tuned(losses).mean():.3f}",
            "spread over seeds": spread(tuned(losses)),
            "edge of the LRs": "yes" if best(losses) in (0, len(rates) - 1) else "no",
        }
        for way, losses in found.items()
    ]
    lines = [over_seeds(way, rates, of) for way, of in found.items()]
    picture = Picture("Validation loss against the LR, of Muon and AdamW", "peak LR", "validation loss", lines)
    return Result(number, low, high, held, seeds, told, rows, picture)
