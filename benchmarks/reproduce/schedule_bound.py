"""What the bound of the last iterate says of schedules: their best LRs relative to each other, and their order."""

from __future__ import annotations

import numpy as np

from benchmarks.reproduce.claims import Claim, Line, Picture, Result, verdict
from benchmarks.reproduce.grids import ends as ends_of
from benchmarks.reproduce.measure import interval, vertex
from lrflow.schedules import Constant, Cosine, Horizon, Schedule
from lrflow.schedules.bound import last_iterate_of

CLAIM = Claim(
    title="A bound that knows the best LR of a schedule",
    paper=(
        "Schaipp et al., 2025, [2501.18965](https://arxiv.org/abs/2501.18965); the bound: Defazio et al., 2023, "
        "[2310.07831](https://arxiv.org/abs/2310.07831)"
    ),
    claim=(
        "The bound of the last iterate of SGD on convex losses describes real training: it gives the ratio of the best "
        "LRs of two schedules (WSD with a cooldown of 20% wants about half of cosine's), and the order of their "
        "final losses: cosine below WSD, WSD below constant."
    ),
    rule=(
        "On both problems, the best LR of WSD over that of cosine is within a factor of 1.3 of the bound's ratio, and "
        "the lowest loss of cosine is at most WSD's, and WSD's is below that of a constant LR. Partly: "
        "two of the four."
    ),
    number="best LR of WSD over that of cosine on the network, which the bound takes for 0.56",
    method=(
        "Digits with batches of 4, two epochs: a linear classifier under SGD, which is convex, and a perceptron with "
        "one hidden layer under AdamW; three schedules, seven LRs in factors of 2. The best LR is the vertex of a "
        "parabola through the losses around the lowest; its interval holds 95% of resampled seeds. 600 examples "
        "validate."
    ),
    seconds=60,
)
SCHEDULES = {
    "constant": Schedule(Constant()),
    "wsd": Schedule(Constant(), cooldown="20%", cooldown_shape="1-sqrt"),
    "cosine": Schedule(Cosine()),
}
WORDS = (
    "data=digits",
    "data.val_size=600",
    "data.batch_size=4",
    "layers=uniform",
    "optimizer.weight_decay=0",
    "schedule.warmup=0%",
)
PROBLEMS: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
    "linear classifier, SGD": (("model=logistic", "optimizer=sgd"), 2.0 ** np.arange(-5, 2)),
    "network, AdamW": (
        ("model=mlp", "model.widths=[64]", "model.dropout=0", "optimizer=adamw"),
        2.0 ** np.arange(-12, -5),
    ),
}
FACTOR = 1.3


def losses(problem: str, seeds: int, epochs: int) -> dict[str, np.ndarray]:
    """Return the validation losses at the end, by schedule: [seeds, LRs]."""
    options, rates = PROBLEMS[problem]
    over = {"schedule": list(SCHEDULES), "seed": range(seeds), "optimizer.lr": rates.tolist()}
    found = ends_of(*WORDS, *options, f"trainer.max_epochs={epochs}", over=over)
    return dict(zip(SCHEDULES, found, strict=True))


def reproduce(fast: bool = False) -> Result:
    """Train all LRs, seeds and schedules; the miniature has one epoch and two seeds."""
    seeds, epochs = (2, 1) if fast else (3, 2)
    steps = Horizon(epochs * 209)
    theory = {name: last_iterate_of(curve, steps) for name, curve in SCHEDULES.items()}
    parts, rows, lines = [], list[dict[str, str | float | None]](), list[Line]()
    number, low, high, told = 0.0, 0.0, 0.0, []
    for problem, (_, rates) in PROBLEMS.items():
        ends = losses(problem, seeds, epochs)
        best = {name: vertex(rates, np.nanmean(found, 0)) for name, found in ends.items()}
        least = {name: float(np.nanmin(np.nanmean(found, 0))) for name, found in ends.items()}

        def ratio(drawn: np.ndarray, ends: dict[str, np.ndarray] = ends, rates: np.ndarray = rates) -> float:
            wsd, cosine = (vertex(rates, np.nanmean(ends[name][drawn], 0)) for name in ("wsd", "cosine"))
            return wsd / cosine

        number, (low, high) = ratio(np.arange(seeds)), interval(seeds, ratio)
        expected = theory["wsd"].best_lr / theory["cosine"].best_lr  # type: ignore[union-attr]
        parts.append(1 / FACTOR <= number / expected <= FACTOR)
        parts.append(least["cosine"] <= least["wsd"] < least["constant"])
        told.append(
            f"{problem}: {number:.2f} ({low:.2f} to {high:.2f}), order {'as' if parts[-1] else 'not as'} claimed"
        )
        for name in SCHEDULES:
            bound = theory[name]
            assert bound
            assert theory["cosine"]
            rows.append({
                "problem": problem, "schedule": name, "best LR": best[name],
                "over cosine's": best[name] / best["cosine"],
                "by the bound": bound.best_lr / theory["cosine"].best_lr,
                "lowest loss": least[name], "bound over cosine's": bound.bound / theory["cosine"].bound,
            })  # fmt: skip
            if problem == list(PROBLEMS)[-1]:
                mean = np.nanmean(ends[name], 0)
                shown = [float(each) if each < 3 * min(least.values()) else None for each in mean]
                lines.append(Line(name, rates.tolist(), shown))
    picture = Picture("The loss against the peak LR under three schedules", "peak LR", "validation loss", lines)
    return Result(number, min(low, number), max(high, number), verdict(parts, partly=2), seeds,
                  f"By the bound {expected:.2f}. " + "; ".join(told) + ".", rows, picture)  # fmt: skip
