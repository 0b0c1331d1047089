"""The edge of stability: the curvature rises until the LR is just stable, under gradient descent and under Adam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.reproduce.claims import Claim, Line, Picture, Result, verdict
from benchmarks.reproduce.measure import trained
from lrflow.config.packages import trust_packages
from lrflow.history import read_history

CLAIM = Claim(
    title="The edge of stability, of SGD and Adam",
    paper=(
        "Cohen et al., 2021, [2103.00065](https://arxiv.org/abs/2103.00065); Adam: Cohen et al., 2022, "
        "[2207.14484](https://arxiv.org/abs/2207.14484)"
    ),
    claim=(
        "With the whole data as one batch, the largest eigenvalue of the Hessian rises until it is 2 / LR under "
        "gradient descent, and that of the preconditioned Hessian until it is 38 / LR under Adam with beta1 = 0.9; "
        "there it stays while the loss goes on falling."
    ),
    rule=(
        "In every run, the mean over the last quarter is between 0.9 and 1.15 of 2 / LR, or of 38 / LR, and the loss "
        "at the end is below that at half of the run. Partly: under one of the two optimizers."
    ),
    number="largest eigenvalue over 2 / LR (gradient descent) or 38 / LR (Adam), mean of the last quarters",
    method=(
        "A tanh perceptron of 2,410 parameters with a squared loss on 500 digits as one batch, three LRs per "
        "optimizer below the bound at the start, each with another seed, constant after a short warmup. "
        "`sharpness.every` measures the eigenvalue at 40 steps. The spread is that over runs."
    ),
    seconds=45,
)
COMMON = (
    "model=custom", "model._target_=docs.edge.network", "model.loss=mse", "data=custom",
    "data._target_=docs.edge.OneHotDigits", "layers=uniform", "optimizer.weight_decay=0", "sharpness.batches=1",
    "schedule=constant_with_warmup", "schedule.warmup=5%", "trainer.checkpoint.monitor=null", "health=none",
)  # fmt: skip
OPTIMIZERS = {
    "gradient descent": (("optimizer=sgd",), (1.5, 1.75, 2.0), 1200),
    "Adam": (("optimizer=adam", "optimizer.betas=[0.9, 0.99]"), (1e-3, 1.5e-3, 2e-3), 1000),
}
LIMITS = {"gradient descent": 2.0, "Adam": 38.0}


LAST = 0.25
"""The share of a run over whose end the means are taken."""
CLOSE = (0.9, 1.15)


@dataclass(frozen=True)
class Run:
    """What a run measured.

    Args:
        steps: of the measurements of the sharpness.
        share: sharpness over its bound at these steps.
        loss: training loss of each step.
    """

    steps: np.ndarray
    share: np.ndarray
    loss: np.ndarray

    @property
    def settled(self) -> float:
        """The mean over the last measurements."""
        return float(np.mean(self.share[-max(int(len(self.share) * LAST), 1) :]))

    @property
    def fell(self) -> bool:
        """Whether the loss at the end is below that at half of the run, each a mean over a twentieth of it."""
        half, few = len(self.loss) // 2, max(len(self.loss) // 20, 1)
        return bool(self.loss[-few:].mean() < self.loss[half - few : half].mean())


def run(options: Sequence[str], lr: float, seed: int, steps: int) -> Run:
    """Train at a constant LR and measure the sharpness at 40 steps."""
    words = (*COMMON, *options, f"optimizer.lr={lr}", f"seed={seed}", f"trainer.max_epochs={steps}")
    with trained(*words, f"sharpness.every={max(steps // 40, 1)} steps") as done:
        history = read_history(done.folder / "metrics.csv")
    share = history["sharpness/share"]
    return Run(share.steps, share.values, history["train/loss"].values)


def reproduce(fast: bool = False) -> Result:
    """Train with both optimizers; the miniature is too short for the edge."""
    trust_packages(["docs"])
    parts, rows, lines, settled, told = [], list[dict[str, str | float | None]](), list[Line](), list[float](), []
    for name, (options, rates, length) in OPTIMIZERS.items():
        of_optimizer: list[Run] = []
        for seed, lr in enumerate(rates[:1] if fast else rates):
            of_optimizer.append(one := run(options, lr, seed, 60 if fast else length))
            rows.append(
                {
                    "optimizer": name,
                    "LR": lr,
                    "limit of eigenvalue x LR": LIMITS[name],
                    "eigenvalue x LR, last quarter": one.settled * LIMITS[name],
                    "over the limit": one.settled,
                    "loss at the end": float(one.loss[-1]),
                }
            )
            lines.append(Line(f"{name}, LR {lr:g}", one.steps.tolist(), one.share.tolist()))
        ends = [one.settled for one in of_optimizer]
        parts.append(all(CLOSE[0] <= end <= CLOSE[1] for end in ends) and all(one.fell for one in of_optimizer))
        settled += [end for end in ends if np.isfinite(end)]
        fell = sum(one.fell for one in of_optimizer)
        told.append(
            f"{name} {np.nanmin(ends):.3f} to {np.nanmax(ends):.3f}, the loss still falls in {fell} of {len(ends)} runs"
        )
    span = [0, max(line.x[-1] for line in lines)]
    lines.append(Line("the bound", span, [1, 1], style="reference"))
    picture = Picture(
        "The largest eigenvalue over its bound, over the steps", "step", "eigenvalue over the bound", lines
    )
    sentence = "; ".join(told) + "."
    return Result(float(np.mean(settled)), min(settled), max(settled), verdict(parts), len(of_optimizer),
                  sentence[0].upper() + sentence[1:], rows, picture)  # fmt: skip
