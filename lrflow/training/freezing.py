"""Groups of parameters that are frozen, for the whole run or until their first step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lrflow.errors import ConfigError, Problem
from lrflow.layers import Group


class Freezing(Callback):
    """Keeps groups from training until their first step, and the statistics of their batch norms with them.

    A frozen parameter asks for no gradient, so that no backward pass is made for it, and optimizers leave what has no
    gradient alone: it is neither moved nor decayed, and has no state. Batch norms whose parameters are all frozen are
    put into evaluation mode, where they normalise by their running statistics and do not change these.

    Args:
        network: the module whose parameters the groups hold.
        groups: all of them.
        starts: the first step of each group that trains, by its name: `Plan.first_steps`.
        step: optimizer steps behind a run that is resumed.
        compiled: whether `torch.compile` is at work in the run.
    """

    def __init__(
        self,
        network: nn.Module,
        groups: Sequence[Group],
        starts: Mapping[str, int],
        step: int = 0,
        compiled: bool = False,
    ) -> None:
        self._step = step
        self._compiled = compiled
        self._parameters: dict[float, list[nn.Parameter]] = {}  # by the step at which they begin to train
        self._norms: dict[float, list[nn.Module]] = {}
        fixed: dict[nn.Parameter, float] = {}  # until when, of those whose statistics stand still with them
        for group in groups:
            start = math.inf if group.frozen else starts[group.name]
            parameters = [parameter for _, parameter in group.parameters]
            if 0 < start < math.inf:
                self._parameters.setdefault(start, []).extend(parameters)
            if start and group.freeze_statistics:
                fixed |= dict.fromkeys(parameters, start)
        for module in network.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None and module.training:
                start = min((fixed.get(parameter, 0) for parameter in module.parameters()), default=0)
                if start:
                    self._norms.setdefault(start, []).append(module)
        self._next = min((start for start in self._parameters if start > step), default=math.inf)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze what is frozen at the first step of this fit, before the strategy wraps the module.

        Raises:
            ConfigError: the strategy shards parameters, and cannot have some of them join later.
        """
        if stage != "fit":
            return
        if self._next < math.inf and not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
            message = f"{type(trainer.strategy).__name__} cannot unfreeze parameters during a run"
            raise ConfigError([Problem("trainer.strategy", message, ..., "take ddp, or leave out unfreeze")])
        self._apply(self._step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Unfreeze the groups whose first step this is."""
        if trainer.global_step < self._next:
            return
        self._apply(trainer.global_step)
        if isinstance(trainer.strategy, DDPStrategy):
            # DDP reduces the gradients of those parameters that asked for one when it was made, and so is made again.
            trainer.strategy.model = trainer.strategy.lightning_module
            trainer.strategy.configure_ddp()
        if self._compiled:
            # What was compiled fits no more. Kept, it would count: after eight variants torch compiles no further one.
            torch.compiler.reset()

    def _apply(self, step: int) -> None:
        """Let everything train that does at this step, and nothing else."""
        for start, parameters in self._parameters.items():
            for parameter in parameters:
                parameter.requires_grad_(start <= step)
        for start, norms in self._norms.items():
            for norm in norms:
                norm.train(start <= step)
        self._next = min((start for start in self._parameters if start > step), default=math.inf)
