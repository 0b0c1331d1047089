"""Compare the CPU time of all learning rates of a run: lrflow in one call, torch's schedulers step by step.

python benchmarks/schedules.py --steps 1000000
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from lrflow.schedules import (
    Constant,
    Continued,
    Cosine,
    Curve,
    Exponential,
    Horizon,
    Linear,
    MultiStep,
    Polynomial,
    Schedule,
    Step,
)

Case = tuple[Curve, Callable[[Optimizer], LRScheduler] | None]


def cases(steps: int) -> dict[str, Case]:
    """Return each schedule with the equivalent torch scheduler, or None if torch has none."""
    warm = max(steps // 20, 1)
    gamma = 0.01 ** (1 / steps)  # two decades over the run

    def warmup_cosine(optimizer: Optimizer) -> LRScheduler:
        parts = [LinearLR(optimizer, 1 / (warm + 1), total_iters=warm), CosineAnnealingLR(optimizer, steps - warm)]
        return SequentialLR(optimizer, parts, milestones=[warm])

    def warmup_stable_decay(optimizer: Optimizer) -> LRScheduler:
        rise = LinearLR(optimizer, 1 / (warm + 1), total_iters=warm)
        fall = LinearLR(optimizer, 1.0, 0.0, 4 * warm)
        return SequentialLR(optimizer, [rise, ConstantLR(optimizer, 1.0), fall], milestones=[warm, steps - 4 * warm])

    cosine = Schedule(Cosine(), warm)
    return {
        "constant": (Schedule(Constant()), lambda o: ConstantLR(o, 1.0)),
        "linear": (Schedule(Linear()), lambda o: LinearLR(o, 1.0, 0.0, steps)),
        "cosine": (Schedule(Cosine()), lambda o: CosineAnnealingLR(o, steps)),
        "polynomial": (Schedule(Polynomial(2.0)), lambda o: PolynomialLR(o, steps, 2.0)),
        "exponential": (Schedule(Exponential(gamma, 1)), lambda o: ExponentialLR(o, gamma)),
        "step": (Schedule(Step(0.1, "30%")), lambda o: StepLR(o, round(0.3 * steps), 0.1)),
        "multistep": (Schedule(MultiStep()), lambda o: MultiStepLR(o, [steps // 2, steps * 3 // 4], 0.1)),
        "warmup, cosine": (cosine, warmup_cosine),
        "warmup, stable, cooldown": (Schedule(Constant(), warm, cooldown=4 * warm), warmup_stable_decay),
        "warmup, cosine, extended": (Continued(cosine, steps // 4, Horizon(max(steps // 2, 1)), "extend"), None),
    }


def time_lrflow(curve: Curve, steps: int, repeats: int) -> float:
    """Return the CPU seconds of one call over all steps, the minimum of `repeats`."""
    horizon, row = Horizon(steps), np.arange(steps)
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        curve(row, horizon)
        seconds.append(time.process_time() - start)
    return min(seconds)


def time_torch(make: Callable[[Optimizer], LRScheduler], steps: int) -> tuple[float, np.ndarray]:
    """Return the CPU seconds of `steps` calls of `scheduler.step()` on one parameter group, and the LRs."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    optimizer.step()  # torch warns if the scheduler steps before its optimizer
    group = optimizer.param_groups[0]
    rates = np.empty(steps)
    start = time.process_time()
    for step in range(steps):
        rates[step] = group["lr"]
        scheduler.step()
    return time.process_time() - start, rates


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000, help="length of the run (default: %(default)s)")
    parser.add_argument("--torch-steps", type=int, help="steps to measure with torch (default: all)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="calls of lrflow, of which the fastest counts (default: %(default)s)"
    )
    arguments = parser.parse_args()
    steps = arguments.steps
    asked = min(arguments.torch_steps or steps, steps)
    warnings.simplefilter("ignore")  # SequentialLR calls its parts in a way that makes torch warn

    table = Table(title=f"{steps:,} learning rates of one group, torch {torch.__version__}, numpy {np.__version__}")
    for column in ("schedule", "lrflow [s]", "torch [s]", "ratio", "max diff"):
        table.add_column(column, justify="left" if column == "schedule" else "right", no_wrap=True)
    for name, (curve, make) in cases(steps).items():
        ours = time_lrflow(curve, steps, arguments.repeats)
        if make is None:
            table.add_row(name, f"{ours:.4f}", "-", "-", "-")
            continue
        theirs, rates = time_torch(make, asked)
        theirs *= steps / asked
        difference = np.abs(curve(np.arange(asked), Horizon(steps)) - rates).max()
        table.add_row(name, f"{ours:.4f}", f"{theirs:.2f}", f"{theirs / ours:,.0f}x", f"{difference:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
