"""How close a run is to the edge of stability, measured as it trains."""

from __future__ import annotations

import logging
import math
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils._pytree import tree_leaves

from lrflow.data import is_ordered
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.health.sharpness_picture import COLUMNS, draw_sharpness
from lrflow.optimizers.traits import traits_of
from lrflow.schedules import Duration
from lrflow.training.beside import as_trained, batches_beside, seed_generators
from lrflow.training.loggers import log_rows
from lrflow.training.monitor import Monitor, Watched
from lrflow.tuning.module_loss import as_a_function, module_loss
from lrflow.tuning.probe import present_sharpness
from lrflow.tuning.sharpness import MeasuredSharpness, check_twice_differentiable

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
        with as_a_function(pl_module), torch.enable_grad():
            seed_generators(self.run.seed)
            taken = islice(batches_beside(trainer, self.run.seed), self._count)
            self._batches = [as_trained(trainer, pl_module, batch) for batch in taken]
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
        with as_a_function(module), torch.enable_grad():
            seed_generators(self.run.seed)
            loss = module_loss(module, self._batches)
            try:
                return present_sharpness(module, optimizer, loss, self._products, TOLERANCE, self.run.seed)
            except ValueError:
                return None

    def _draw(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            try:
                draw_sharpness(self.run.folder)
            except OSError as error:
                log.warning("%s: sharpness.png could not be written: %s", self.run.folder, error.strerror)
