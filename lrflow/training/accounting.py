"""Every parameter that asks for a gradient is one that the optimizer has, whenever it was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.optim import Optimizer

from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.layers.explain import abbreviated
from lrflow.training.module import planned_module


def check_accounted(module: pl.LightningModule, optimizer: Optimizer) -> None:
    """Compare the parameters of a module that is trained with those of its optimizer.

    Raises:
        ConfigError: names the parameters that have a gradient and would never move, and those that were replaced.
    """
    now = dict(planned_module(module).named_parameters())
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if problems := [*_problems(now, trained)]:
        raise ConfigError(problems)


def _problems(now: dict[str, nn.Parameter], trained: set[nn.Parameter]) -> Iterator[Problem]:
    new = [name for name, parameter in now.items() if parameter.requires_grad and parameter not in trained]
    if new:
        message = (
            f"{_counted(new)} made, replaced or unfrozen after the groups of parameters were, so that the optimizer "
            f"does not have them and they would not train: {abbreviated(new)}"
        )
        hint = "make parameters in __init__, setup() or configure_model(), before the training starts"
        yield Problem("model", message, ..., hint)
    elif gone := len(trained - {*now.values()}):
        message = f"{gone} of the optimizer's {len(trained)} parameters are no longer the module's"
        yield Problem("model", message, ..., "replace no parameters once the training starts")


def _counted(names: Sequence[str]) -> str:
    return "1 parameter was" if len(names) == 1 else f"{len(names)} parameters were"


class Accounting(Callback):
    """Checks, at the start of each epoch and where modules or parameters were added, that nothing is left out."""

    def __init__(self) -> None:
        self._changed = False
        self._first = 0  # step of this fit
        self._hooks = ExitStack()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look out for modules and parameters that are added, which costs a step nothing."""
        for register in (register_module_parameter_registration_hook, register_module_module_registration_hook):
            self._hooks.callback(register(self._note).remove)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where training begins."""
        self._first = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check."""
        self._check(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check where something was added."""
        if self._changed:
            self._check(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look out no more; nothing that was added in the last step is missed."""
        self._hooks.close()
        if self._changed:
            self._check(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look out no more, however the fit ended."""
        self._hooks.close()

    def _note(self, module: nn.Module, name: str, value: Any) -> None:
        self._changed = True

    def _check(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._changed = False
        try:
            check_accounted(module, trainer.optimizers[0])
        except ConfigError as error:
            if trainer.global_step == self._first:
                raise
            raise LrflowError(f"step {trainer.global_step}: {error}") from error
