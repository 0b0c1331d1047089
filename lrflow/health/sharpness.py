"""The monitor that measures sharpness during a run, and its plot against the stability bound of the LR.

`lrflow.training.curvature` holds the mathematics; the plot is drawn from metrics.csv alone.
"""

from __future__ import annotations

import logging
import math
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lrflow.columns import SHARPNESS
from lrflow.data import is_ordered
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.health.sharpness_record import plot_sharpness
from lrflow.loggers.loggers import log_rows
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
from lrflow.training.monitor import Monitor, Watched, monitors

log = logging.getLogger("lrflow")

TOLERANCE = 1e-3
"""Relative error of a measurement during training; the sharpness itself changes by more between two steps."""


class Sharpness(Monitor):
    """Measures the sharpness at regular intervals, without changing the run.

    It logs `sharpness/top`, the largest eigenvalue of P^-1 H, and `sharpness/share`, the share of the stability bound
    that the LRs of the next step use; both are NaN if the curvature is not finite.

    A measurement depends only on the weights, the optimizer's state and the seed, so a resumed run repeats it: all
    measurements use the same batches, dropout is off, batch norms use the statistics of the batch, and Lanczos starts
    from the same random direction. (Starting from the last eigenvector would save about a quarter of the products, but
    put a vector as large as the model into every checkpoint.) Under mixed precision it measures in single precision.
    `sharpness.png` is drawn at the end of the run, also of a failed one.

    Args:
        every: a duration, the steps between two measurements; None never measures. The first is at step 0, or at
            `every` for optimizers that divide by statistics of the gradients.
        batches: number of training batches, the same ones for all measurements.
        products: maximum number of Hessian-vector products per measurement.
    """

    def __init__(self, every: str | float | Duration | None = None, batches: int = 4, products: int = 20) -> None:
        self._interval = every
        self._batch_count = batches
        self._products = products
        self._batches: list[Any] = []
        self._measured = -1  # the step of the last measurement

    @property
    def active(self) -> bool:
        """Whether `every` is set."""
        return self._interval is not None

    def begin(self, name: str, run: Watched) -> None:
        """Check that every measurement can use the same batches, and that a logger stores the results.

        Raises:
            ConfigError: a training loader has its own order, or there is no logger.
        """
        super().begin(name, run)
        assert self._interval is not None
        self._every = max(1, Duration.parse(self._interval).steps(run.horizon))
        problems = []
        loaders = tree_leaves(run.data.train_dataloader())
        if own := [loader for loader in loaders if not is_ordered(loader)]:
            message = f"every measurement needs the same batches, but {type(own[0]).__name__} has its own order"
            problems.append(Problem("sharpness.every", message, str(self._interval), "leave it out"))
        if not run.trainer.loggers:
            problems.append(Problem("sharpness.every", "no logger would keep it", str(self._interval), "logger=csv"))
        if problems:
            raise ConfigError(problems)

    def describe(self) -> str:
        """Return a line about how often and on how many batches the sharpness is measured."""
        assert self._interval is not None
        precision = str(self.run.trainer.precision)
        single = ", in single precision" if "mixed" in precision else ""
        batches = "batch" if self._batch_count == 1 else f"{self._batch_count} batches"
        return f"sharpness: every {Duration.parse(self._interval)}, on the same {batches}{single}"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the batches, and check that the loss can be differentiated twice.

        Raises:
            LrflowError: the loss has no second derivatives.
        """
        with as_pure_function(pl_module), torch.enable_grad():
            seed_generators(self.run.seed)
            taken = islice(isolated_batches(trainer, self.run.seed), self._batch_count)
            self._batches = [transfer_batch(trainer, pl_module, batch) for batch in taken]
            point = {name: p.detach() for name, p in pl_module.named_parameters() if p.requires_grad}
            try:
                check_twice_differentiable(module_loss(pl_module, self._batches[:1]), point)
            except (RuntimeError, ValueError) as error:
                reason = str(error).partition("\n")[0]
                hint = "the loss has to be differentiated twice; leave out sharpness.every"
                raise LrflowError(f"the sharpness cannot be measured: {reason}\n    {hint}") from error
        self._measured = -1
        self.run.signals.restart_clock()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure if the sharpness is due at this step; only the first batch of an accumulation window counts."""
        step, optimizer = trainer.global_step, trainer.optimizers[0]
        if step % self._every or step == self._measured:
            return
        self._measured = step
        if traits_of(type(optimizer)).bound != "sgd" and not optimizer.state:
            return
        self.run.signals.flush(trainer)  # keeps the rows of metrics.csv in order
        found = self._measure(pl_module, optimizer)
        top, share = (math.nan, math.nan) if found is None else (found.top, found.share)
        for logger in trainer.loggers:
            log_rows(logger, list(SHARPNESS), [[step, top, share]])
        for monitor in monitors(trainer):
            monitor.on_sharpness(step, top, share)
        self.run.signals.restart_clock()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw `sharpness.png`."""
        self._draw(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Draw `sharpness.png` of a run that failed."""
        self._draw(trainer)

    def _measure(self, module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> MeasuredSharpness | None:
        """Return the sharpness; None if the curvature is not finite, as in a diverging run, which `NonFinite` ends."""
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


def current_sharpness(
    module: pl.LightningModule,
    optimizer: torch.optim.Optimizer,
    loss: LossFunction,
    products: int = 20,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> MeasuredSharpness:
    """Return the sharpness at the current weights, with the optimizer's current LRs, settings and statistics.

    Parameters that do not move are left out: frozen ones, and those without optimizer state in Adam-like optimizers.

    Args:
        module: the module that trains.
        optimizer: an optimizer with a known stability bound.
        loss: the module's loss, called within `as_pure_function`.
        products: maximum number of Hessian-vector products.
        tolerance: stop once the relative error is below this.
        seed: seed of the random direction that Lanczos starts from.

    Raises:
        ValueError: the curvature is not finite, no parameter moves, or no stability bound is known.
    """
    traits = traits_of(type(optimizer))
    if (bound := traits.bound) is None:
        raise ValueError(f"no stability bound is known for {type(optimizer).__name__}")
    limit = stability_limit(bound, optimizer.param_groups[0])
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups: list[dict[str, Tensor]] = []
    preconditioners: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        moving = [p for p in group["params"] if p.requires_grad and (bound == "sgd" or optimizer.state[p])]
        groups.append({names[p]: p.detach() for p in moving})
        diagonals = {names[p]: preconditioner(bound, group, optimizer.state[p]) for p in moving}
        preconditioners |= {name: diagonal for name, diagonal in diagonals.items() if diagonal is not None}
    if not any(groups):
        raise ValueError("no parameter moves")
    return measure_sharpness(
        loss,
        groups,
        rates=[float(group["lr"]) for group in optimizer.param_groups],
        limit=limit,
        preconditioners=preconditioners or None,
        # Weight decay added to the gradient is part of the loss; decoupled weight decay is not.
        decay=[
            0.0 if traits.is_decoupled(group) else float(group.get("weight_decay", 0.0))
            for group in optimizer.param_groups
        ],
        products=products,
        tolerance=tolerance,
        seed=seed,
    )
