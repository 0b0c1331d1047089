"""The catapult: an LR between 2 and 4 over the curvature raises the loss first, lowers the curvature, and trains.

The network is that of the paper's theory, one hidden layer without a nonlinearity and one example with the target 0:
f = v . u / sqrt(n) and a loss of f² / 2, whose curvature is lambda = (|u|² + |v|²) / n.
"""

from __future__ import annotations

import numpy as np

from benchmarks.reproduce.claims import Claim, Line, Picture, Result, verdict

CLAIM = Claim(
    title="The catapult",
    paper="Lewkowycz et al., 2020, [2003.02218](https://arxiv.org/abs/2003.02218)",
    claim=(
        "With gradient descent at an LR between 2 / lambda and 4 / lambda, lambda being the curvature at the start, "
        "the loss first rises, then falls to zero, and the curvature ends below 2 / LR; above 4 / lambda it diverges; "
        "below 2 / lambda the curvature stays."
    ),
    rule=(
        "In every seed: below 2 the loss never rises and the curvature keeps 90%; from 2.2 to 3.8 the loss rises to at "
        "least twice its start, ends below 1e-6 of it, and the curvature ends at most at 2 / LR; from 4.2 on the run "
        "diverges. Partly: two of the three."
    ),
    number="LR x curvature at the start from which on runs diverge",
    method=(
        "A linear network with one hidden layer of 1,024 units, one input and the target 0, the network of the paper's "
        "theory; 2,000 steps of gradient descent at 19 LRs. The number is the middle between the highest LR that "
        "trains and the lowest that diverges, its range that over seeds."
    ),
    seconds=2,
    limits="This is the model of the theory; networks with other nonlinearities may bear more than 4 / lambda.",
)
WIDTH, STEPS, SEEDS = 1024, 2000, 8
PRODUCTS = np.r_[0.5, 1, 1.5, 1.9, np.arange(2.2, 5.01, 0.2)]
"""LRs times the curvature at the start."""
SHOWN = (1.5, 2.6, 3.6)


def descend(products: np.ndarray, seed: int, width: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return loss and curvature before each step and after the last, each [steps + 1, LRs]; NaN after a divergence."""
    rng = np.random.default_rng(seed)
    u, v = (np.repeat(rng.standard_normal((1, width)), len(products), 0) for _ in range(2))
    rates = (products / ((u[0] @ u[0] + v[0] @ v[0]) / width))[:, None]
    losses, curvatures = np.empty((2, steps + 1, len(products)))
    for step in range(steps + 1):
        output = np.sum(u * v, 1, keepdims=True) / np.sqrt(width)
        output[np.abs(output) > 1e6] = np.nan
        losses[step] = output[:, 0] ** 2 / 2
        curvatures[step] = (np.sum(u * u, 1) + np.sum(v * v, 1)) / width
        u, v = u - rates * output * v / np.sqrt(width), v - rates * output * u / np.sqrt(width)
    return losses, curvatures


def reproduce(fast: bool = False) -> Result:
    """Train at all LRs, in the miniature a narrow network for few steps."""
    seeds, width, steps = (2, 64, 100) if fast else (SEEDS, WIDTH, STEPS)
    runs = [descend(PRODUCTS, seed, width, steps) for seed in range(seeds)]
    losses, curvatures = (np.stack(part) for part in zip(*runs, strict=True))  # [seeds, steps + 1, LRs]
    start, end, top = losses[:, 0], losses[:, -1], np.nanmax(losses, 1)
    kept = curvatures[:, -1] / curvatures[:, 0]
    trained = end < 1e-6 * start
    lazy, catapult, beyond = PRODUCTS < 2, (PRODUCTS > 2) & (PRODUCTS < 4), PRODUCTS > 4
    parts = (
        bool(np.all((top <= start)[:, lazy]) and np.all(kept[:, lazy] >= 0.9)),
        bool(np.all((trained & (top >= 2 * start) & (kept * PRODUCTS <= 2))[:, catapult])),
        bool(np.all(np.isnan(end)[:, beyond])),
    )
    edges = [_edge(np.isnan(of_seed)) for of_seed in end]
    rows: list[dict[str, str | float | None]] = [
        {
            "LR x curvature": float(product),
            "highest loss over the first": None if beyond[at] else float(np.median(top[:, at] / start[:, at])),
            "curvature kept": None if np.isnan(end[:, at]).any() else float(np.median(kept[:, at])),
            "seeds that diverge": f"{np.isnan(end[:, at]).sum()} of {seeds}",
        }
        for at, product in enumerate(PRODUCTS)
    ]
    held = verdict(parts, partly=2)
    bumps = np.median((top / start)[:, catapult])
    told = (
        f"Between 2 and 4 the loss rises to {bumps:.3g} times its start at the median before it falls, and the "
        f"curvature ends at {np.median(kept[:, catapult]):.2f} of its start, always below 2 / LR."
        if parts[1]
        else "Between 2 and 4 not every run rises, trains and ends below 2 / LR."
    )
    return Result(float(np.median(edges)), min(edges), max(edges), held, seeds, told, rows, _picture(losses[0], steps))


def _edge(diverged: np.ndarray) -> float:
    """The middle between the highest LR that trains and the lowest above it that diverges."""
    first = int(np.argmax(diverged)) if diverged.any() else len(diverged) - 1
    return float(PRODUCTS[max(first - 1, 0) : first + 1].mean())


def _picture(losses: np.ndarray, steps: int) -> Picture:
    shown = min(25, steps)
    lines = []
    for product in SHOWN:
        at = int(np.argmin(np.abs(PRODUCTS - product)))
        values = np.maximum(losses[:shown, at] / losses[0, at], 1e-8)
        lines.append(Line(f"LR x curvature {PRODUCTS[at]:.1f}", list(range(shown)), values.tolist()))
    return Picture("The loss over the steps at three LRs", "step", "loss over the first", lines)
