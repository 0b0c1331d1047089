"""How close a run is to the edge of stability, measured as it trains.

The sharpness of a module's loss as its optimizer sees it at the present weights.

The sharpness of a run against its stability bound, drawn from the run folder alone.
"""

from __future__ import annotations

import csv
import logging
import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lrflow.data import is_ordered
from lrflow.display import COLOURS, INK, number, plain_axes, save_figure
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.optimizers.traits import traits_of
from lrflow.schedules import Duration
from lrflow.training.curvature import (
    LossFunction,
    MeasuredSharpness,
    as_pure_function,
    check_twice_differentiable,
    measure_sharpness,
    module_loss,
    preconditioner,
    stability_limit,
)
from lrflow.training.isolation import isolated_batches, seed_generators, transfer_batch
from lrflow.training.loggers import log_rows
from lrflow.training.monitor import Monitor, Watched


def current_sharpness(
    module: pl.LightningModule,
    optimizer: torch.optim.Optimizer,
    loss: LossFunction,
    products: int = 20,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> MeasuredSharpness:
    """The sharpness at the present weights, under the optimizer's present LRs, settings and statistics.

    Parameters that do not move are left out: frozen ones, and those of which Adam and its kin have seen no gradient.

    Args:
        module: whose weights they are.
        optimizer: one whose stability bound is known.
        loss: of the module, within `as_pure_function`.
        products: Hessian-vector products at most.
        tolerance: of the relative error; enough then.
        seed: of the random direction that Lanczos starts from.

    Raises:
        ValueError: the curvature is not finite, or nothing moves.
    """
    traits = traits_of(type(optimizer))
    if (bound := traits.bound) is None:
        raise ValueError(f"no stability bound is known of {type(optimizer).__name__}")
    limit = stability_limit(bound, optimizer.param_groups[0])
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups: list[dict[str, Tensor]] = []
    divided: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        moving = [p for p in group["params"] if p.requires_grad and (bound == "sgd" or optimizer.state[p])]
        groups.append({names[p]: p.detach() for p in moving})
        found = {names[p]: preconditioner(bound, group, optimizer.state[p]) for p in moving}
        divided |= {name: divisor for name, divisor in found.items() if divisor is not None}
    if not any(groups):
        raise ValueError("no parameter moves")
    return measure_sharpness(
        loss,
        groups,
        rates=[float(group["lr"]) for group in optimizer.param_groups],
        limit=limit,
        preconditioners=divided or None,
        # Decay that passes through the gradient is part of the loss; what is taken off the weights is not.
        decay=[
            0.0 if traits.is_decoupled(group) else float(group.get("weight_decay", 0.0))
            for group in optimizer.param_groups
        ],
        products=products,
        tolerance=tolerance,
        seed=seed,
    )


COLUMNS = ("sharpness/top", "sharpness/share")
"""Of metrics.csv: the largest eigenvalue of P^-1 H, and the share of the stability bound that the step's LRs use."""


@dataclass(frozen=True)
class SharpnessRecord:
    """What a run measured of its sharpness, and the bound that its LRs set it.

    Args:
        steps: of the measurements; [n], int64.
        top: sharpness; [n], float64.
        share: of the bound; [n], float64.
        lr_steps: steps whose LRs are known; [m], int64.
        lr: the highest of any group at each; [m], float64.
    """

    steps: np.ndarray
    top: np.ndarray
    share: np.ndarray
    lr_steps: np.ndarray
    lr: np.ndarray

    @property
    def bound(self) -> np.ndarray:
        """The sharpness at which each step's LRs would be just stable; [m], infinite where the LR is 0.

        It is limit / LR. The limit is read from the measurements, and between them goes from one to the next: so it
        holds for groups with LRs of their own and for a momentum that moves, too.
        """
        at = np.interp(self.steps, self.lr_steps, self.lr)
        known = (self.share > 0) & (at > 0)
        if not known.any():
            return np.full(len(self.lr), np.inf)
        limit = self.top[known] / self.share[known] * at[known]
        with np.errstate(divide="ignore"):
            return np.interp(self.lr_steps, self.steps[known], limit) / self.lr


def read_sharpness(folder: Path) -> SharpnessRecord | None:
    """What the metrics.csv of a run folder says of the sharpness; None where nothing was measured."""
    measured: list[tuple[int, float, float]] = []
    rates: list[tuple[int, float]] = []
    if not (folder / "metrics.csv").exists():
        return None
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if not {*COLUMNS} <= {*header}:
            return None
        top, share = (header.index(name) for name in COLUMNS)
        groups = [index for index, name in enumerate(header) if name.startswith("lr/")]
        for row in rows:
            if len(row) < len(header):
                continue  # the torn last line of a run that was killed
            if row[top]:
                measured.append((int(row[0]), float(row[top]), float(row[share])))
            if used := [float(row[index]) for index in groups if row[index]]:
                rates.append((int(row[0]), max(used)))
    finite = [row for row in measured if np.isfinite(row[1:]).all()]
    if not finite or not rates:
        return None
    steps, tops, shares = (np.array(column) for column in zip(*finite, strict=True))
    lr_steps, lr = (np.array(column) for column in zip(*rates, strict=True))
    return SharpnessRecord(steps, tops, shares, lr_steps, lr)


def plot_sharpness(folder: Path) -> Path | None:
    """Draw `sharpness.png` in a run folder from its metrics.csv; None where nothing was measured."""
    record = read_sharpness(folder)
    if record is None:
        return None
    from matplotlib.figure import Figure  # itself and not pyplot: no state, no display

    figure = Figure(figsize=(9, 5.6), layout="constrained", facecolor="white")
    axes, below = figure.subplots(2, sharex=True, height_ratios=[2, 1])
    bound = record.bound
    axes.plot(record.lr_steps, bound, color=COLOURS[1], linewidth=1.4, label="stability bound (limit / LR)")
    axes.plot(record.steps, record.top, "o-", color=COLOURS[0], linewidth=1.4, markersize=3, label="sharpness")
    if (convex := record.top[record.top > 0]).size:
        axes.set_yscale("log")
        # A warmup starts, and a decay ends, where any sharpness is stable; the picture need not reach there.
        around = [*convex, bound.min()]
        axes.set_ylim(min(around) / 1.5, max(around) * 3)
        for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis(lambda value, _: number(value))
    axes.set_ylabel("sharpness", color=INK)
    axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=INK)
    below.axhline(1.0, color=COLOURS[1], linewidth=1.4)
    below.plot(record.steps, record.share, "o-", color=COLOURS[0], linewidth=1.4, markersize=3)
    below.set_ylim(0, max(1.25, 1.1 * float(record.share.max())))
    below.set_ylabel("share of the bound", color=INK)
    below.set_xlim(0, record.lr_steps[-1] + 1)
    below.set_xlabel("optimizer step", color=INK)
    below.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    for panel in (axes, below):
        plain_axes(panel)
        panel.tick_params(which="both", colors=INK, length=3)
    highest = int(record.share.argmax())
    title = f"at most {100 * record.share[highest]:.3g}% of the stability bound, at step {record.steps[highest]:,}"
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    return save_figure(figure, folder / "sharpness.png")


log = logging.getLogger("lrflow")

TOLERANCE = 1e-3
"""Of a measurement during training, relative: the sharpness itself moves by more between two steps."""


class Sharpness(Monitor):
    """Measures the sharpness before every so many steps of a run, and leaves the run as it would be without.

    The loggers get `sharpness/top`, the largest eigenvalue of P^-1 H, and `sharpness/share` of the stability bound that
    the LRs of the step about to be made use; not a number where the curvature is not finite. Each measurement is a
    function of the weights, the optimizer's state and the seed alone, so that a resumed run repeats it: the batches are
    the same throughout, dropout is off, batch norms take the batch's own statistics, and Lanczos starts from the same
    random direction. (To start from the last eigenvector instead saves about a quarter of the products, and would put
    a vector as large as the model into every checkpoint.) The numbers are those of single precision, under a mixed one
    too. `sharpness.png` is drawn when the run ends, however it does.

    Args:
        every: a duration, the steps between two measurements; None never measures. The first is at step 0, or at
            `every` of an optimizer that divides by statistics of its gradients.
        batches: of training data, the same ones throughout.
        products: Hessian-vector products of a measurement at most.
    """

    def __init__(self, every: str | float | Duration | None = None, batches: int = 4, products: int = 20) -> None:
        self._given = every
        self._count = batches
        self._products = products
        self._batches: list[Any] = []
        self._measured = -1  # the last step before which it was done

    @property
    def active(self) -> bool:
        """Whether it ever measures."""
        return self._given is not None

    def begin(self, name: str, run: Watched) -> None:
        """See that the same batches can be had throughout, and that something keeps what is measured.

        Raises:
            ConfigError: they cannot, or nothing does.
        """
        super().begin(name, run)
        assert self._given is not None
        self._every = max(1, Duration.parse(self._given).steps(run.plan.horizon))
        problems = []
        loaders = tree_leaves(run.data.train_dataloader())
        if own := [loader for loader in loaders if not is_ordered(loader)]:
            message = (
                f"is measured on the same batches throughout, and {type(own[0]).__name__} brings an order of its own"
            )
            problems.append(Problem("sharpness.every", message, str(self._given), "leave it out"))
        if not run.trainer.loggers:
            problems.append(Problem("sharpness.every", "no logger would keep it", str(self._given), "logger=csv"))
        if problems:
            raise ConfigError(problems)

    def describe(self) -> str:
        """When it is measured, and on what."""
        assert self._given is not None
        precision = str(self.run.trainer.precision)
        single = ", in single precision" if "mixed" in precision else ""
        batches = "batch" if self._count == 1 else f"{self._count} batches"
        return f"sharpness: every {Duration.parse(self._given)}, on the same {batches}{single}"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the batches, and see that the loss of one can be differentiated twice.

        Raises:
            LrflowError: it cannot.
        """
        with as_pure_function(pl_module), torch.enable_grad():
            seed_generators(self.run.seed)
            taken = islice(isolated_batches(trainer, self.run.seed), self._count)
            self._batches = [transfer_batch(trainer, pl_module, batch) for batch in taken]
            point = {name: p.detach() for name, p in pl_module.named_parameters() if p.requires_grad}
            try:
                check_twice_differentiable(module_loss(pl_module, self._batches[:1]), point)
            except (RuntimeError, ValueError) as error:
                why = str(error).partition("\n")[0]
                hint = "the loss has to be differentiated twice; leave out sharpness.every"
                raise LrflowError(f"the sharpness cannot be measured: {why}\n    {hint}") from error
        self.run.signals.restart_clock()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure, where it is time and an accumulation window begins."""
        step, optimizer = trainer.global_step, trainer.optimizers[0]
        if step % self._every or step == self._measured:
            return
        self._measured = step
        if traits_of(type(optimizer)).bound != "sgd" and not optimizer.state:
            return
        self.run.signals.flush(trainer)  # so that rows stay in the order of the run
        found = self._measure(pl_module, optimizer)
        row = [step, math.nan, math.nan] if found is None else [step, found.top, found.share]
        for logger in trainer.loggers:
            log_rows(logger, list(COLUMNS), [row])
        self.run.signals.restart_clock()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw what was measured."""
        self._draw(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Draw what was measured before the run ended early."""
        self._draw(trainer)

    def _measure(self, module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> MeasuredSharpness | None:
        """None where the curvature is not finite, as of a run that diverges; `NonFinite` ends that."""
        with as_pure_function(module), torch.enable_grad():
            seed_generators(self.run.seed)
            loss = module_loss(module, self._batches)
            try:
                return current_sharpness(module, optimizer, loss, self._products, TOLERANCE, self.run.seed)
            except ValueError:
                return None

    def _draw(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            try:
                plot_sharpness(self.run.folder)
            except OSError as error:
                log.warning("%s: sharpness.png could not be written: %s", self.run.folder, error.strerror)
