"""The sharpness of a run: of its loss as its optimizer sees it, now, or every so often as it trains."""

from __future__ import annotations

import logging
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from lrflow.errors import LrflowError
from lrflow.optimizers.traits import traits_of
from lrflow.training.beside import as_trained, batches_beside, seed_generators, undisturbed
from lrflow.training.loggers import log_rows
from lrflow.training.signals import Signals
from lrflow.tuning.module_loss import as_a_function, module_loss
from lrflow.tuning.sharpness import (
    Loss,
    Sharpness,
    check_twice_differentiable,
    measure_sharpness,
    preconditioner,
    stability_limit,
)
from lrflow.tuning.sharpness_picture import COLUMNS, draw_sharpness

log = logging.getLogger("lrflow")

TOLERANCE = 1e-3
"""Of a measurement during training, relative: the sharpness itself moves by more between two steps."""


def present_sharpness(
    module: pl.LightningModule,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    products: int = 20,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> Sharpness:
    """The sharpness at the present weights, under the optimizer's present LRs, settings and statistics.

    Parameters that do not move are left out: frozen ones, and those of which Adam and its kin have seen no gradient.

    Args:
        module: whose weights they are.
        optimizer: one whose stability bound is known.
        loss: of the module, within `as_a_function`.
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


class SharpnessProbe(Callback):
    """Measures the sharpness before every so many steps of a run, and leaves the run as it would be without.

    The loggers get `sharpness/top`, the largest eigenvalue of P^-1 H, and `sharpness/share` of the stability bound that
    the LRs of the step about to be made use; not a number where the curvature is not finite. Each measurement is a
    function of the weights, the optimizer's state and the seed alone, so that a resumed run repeats it: the batches are
    the same throughout, dropout is off, batch norms take the batch's own statistics, and Lanczos starts from the same
    random direction. (To start from the last eigenvector instead saves about a quarter of the products, and would put
    a vector as large as the model into every checkpoint.) The numbers are those of single precision, under a mixed one
    too. `sharpness.png` is drawn when the run ends, however it does.

    Args:
        every: optimizer steps between two measurements; the first is at step 0, or at `every` of an optimizer that
            divides by statistics of its gradients.
        batches: of training data.
        products: Hessian-vector products of a measurement at most.
        seed: of the batches' order and of what their steps draw.
        signals: handed over before each measurement, so that rows stay in the order of the run.
        folder: of the run, whose metrics.csv is drawn.
    """

    def __init__(self, every: int, batches: int, products: int, seed: int, signals: Signals, folder: Path) -> None:
        self._every = every
        self._count = batches
        self._products = products
        self._seed = seed
        self._signals = signals
        self._folder = folder
        self._batches: list[Any] = []
        self._measured = -1  # the last step before which it was done

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the batches, and see that the loss of one can be differentiated twice.

        Raises:
            LrflowError: it cannot.
        """
        with undisturbed(pl_module):
            seed_generators(self._seed)
            taken = islice(batches_beside(trainer, self._seed), self._count)
            self._batches = [as_trained(trainer, pl_module, batch) for batch in taken]
            point = {name: p.detach() for name, p in pl_module.named_parameters() if p.requires_grad}
            with as_a_function(pl_module), torch.enable_grad():
                try:
                    check_twice_differentiable(module_loss(pl_module, self._batches[:1]), point)
                except (RuntimeError, ValueError) as error:
                    why = str(error).partition("\n")[0]
                    hint = "the loss has to be differentiated twice; leave out sharpness.every"
                    raise LrflowError(f"the sharpness cannot be measured: {why}\n    {hint}") from error
        self._signals.restart_clock()

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
        self._signals.flush(trainer)
        found = self._measure(pl_module, optimizer)
        row = [step, math.nan, math.nan] if found is None else [step, found.top, found.share]
        for logger in trainer.loggers:
            log_rows(logger, list(COLUMNS), [row])
        self._signals.restart_clock()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw what was measured."""
        self._draw(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Draw what was measured before the run ended early."""
        self._draw(trainer)

    def _measure(self, module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> Sharpness | None:
        """None where the curvature is not finite, as of a run that diverges; `health` ends that."""
        with undisturbed(module), as_a_function(module), torch.enable_grad():
            seed_generators(self._seed)
            loss = module_loss(module, self._batches)
            try:
                return present_sharpness(module, optimizer, loss, self._products, TOLERANCE, self._seed)
            except ValueError:
                return None

    def _draw(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            try:
                draw_sharpness(self._folder)
            except OSError as error:
                log.warning("%s: sharpness.png could not be written: %s", self._folder, error.strerror)
