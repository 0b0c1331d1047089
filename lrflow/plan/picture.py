"""The plan drawn: the LR of every group over the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lrflow.plan.files import sampled
from lrflow.plan.view import lines

if TYPE_CHECKING:
    from lrflow.plan.plan import Plan


def plot(plan: Plan, path: Path) -> Path:
    """Draw the LR of every group over the run into `path` and return it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps = sampled(plan, 2000)
    rates = plan.lr(steps)
    for line in lines(plan):
        axes.plot(steps, rates[:, line.column], label=line.label())
    axes.set(xlabel="step", ylabel="learning rate")
    axes.legend()
    figure.savefig(path, dpi=120)
    return path
