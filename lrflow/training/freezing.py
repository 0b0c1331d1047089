"""The callback that keeps parameter groups frozen: for the whole run, until their first step, or after their last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lrflow.config import Config
from lrflow.errors import ConfigError, Problem
from lrflow.layers import Group
from lrflow.plan import Plan
from lrflow.training.hooks import switch_hooks
from lrflow.training.module import planned_module

_Span = tuple[float, float]  # the first step at which a group trains, and the first one at which it no longer does

_ALWAYS: _Span = (0, math.inf)


class Freezing(Callback):
    """Freezes groups before their first step and after their last one, and the statistics of their batch norms.

    A frozen parameter has `requires_grad=False`, so it costs no backward pass, and optimizers skip it: it is neither
    updated nor decayed, and has no state. Batch norms whose parameters are all frozen are in evaluation mode: they
    normalize by their running statistics and do not update them.

    Args:
        network: the module whose parameters the groups hold.
        groups: all parameter groups.
        starts: the first step of each group that trains, by its name: `Plan.first_steps`.
        step: the first step of this fit; above 0 in a resumed run.
        compiled: whether the run uses `torch.compile`.
        stops: the first step at which a group no longer trains, by its name: `Plan.frozen_from`.
    """

    def __init__(
        self,
        network: nn.Module,
        groups: Sequence[Group],
        starts: Mapping[str, int],
        step: int = 0,
        compiled: bool = False,
        stops: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._step = step
        self._compiled = compiled
        self._parameters: dict[_Span, list[nn.Parameter]] = {}
        self._norms: dict[tuple[_Span, ...], list[nn.Module]] = {}
        fixed: dict[nn.Parameter, _Span] = {}  # of parameters whose statistics are frozen too
        for group in groups:
            start = math.inf if group.frozen else starts[group.name]
            span = start, stops.get(group.name, math.inf)
            parameters = [parameter for _, parameter in group.parameters]
            if start < math.inf and span != _ALWAYS:
                self._parameters.setdefault(span, []).extend(parameters)
            if span != _ALWAYS and group.freeze_statistics:
                fixed |= dict.fromkeys(parameters, span)
        for module in network.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None and module.training:
                spans = tuple(dict.fromkeys(fixed.get(parameter, _ALWAYS) for parameter in module.parameters()))
                if spans and _ALWAYS not in spans:
                    self._norms.setdefault(spans, []).append(module)
        self._next = self._change_after(step)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze the groups that are frozen at the first step of this fit, before the strategy wraps the module.

        Raises:
            ConfigError: a group is unfrozen later, and the strategy shards parameters, which does not allow that; or
                BatchNorms that are frozen would be replaced by synchronized ones.
        """
        if stage != "fit":
            return
        if self._next < math.inf and not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
            message = f"{type(trainer.strategy).__name__} cannot freeze or unfreeze parameters during a run"
            hint = "take ddp, or leave out unfreeze and freeze_after"
            raise ConfigError([Problem("trainer.strategy", message, ..., hint)])
        if self._norms and getattr(trainer.strategy, "_layer_sync", None) is not None:
            message = "replaces the BatchNorms whose statistics a frozen group keeps"
            hint = "leave it out, or set freeze_statistics: false in the rules of frozen groups"
            raise ConfigError([Problem("trainer.sync_batchnorm", message, True, hint)])
        self._apply(self._step)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze again what a rollback has returned to before its first step."""
        if trainer.global_step < self._step:
            self._change(trainer)
        switch_hooks(trainer, self, on_train_batch_start=self._next < math.inf)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Freeze and unfreeze the groups for which this is the step."""
        if trainer.global_step >= self._next:
            self._change(trainer)
            switch_hooks(trainer, self, on_train_batch_start=self._next < math.inf)

    def _change(self, trainer: pl.Trainer) -> None:
        self._apply(trainer.global_step)
        if isinstance(trainer.strategy, DDPStrategy):
            # DDP reduces only gradients of parameters that required one when it was built, so it is built again.
            trainer.strategy.model = trainer.strategy.lightning_module
            trainer.strategy.configure_ddp()
        if self._compiled:
            # The compiled code is outdated. If kept, it would count towards the eight variants that torch compiles.
            torch.compiler.reset()

    def _apply(self, step: int) -> None:
        """Unfreeze the groups that train at this step, and freeze the others."""
        self._step = step
        for (start, stop), parameters in self._parameters.items():
            for parameter in parameters:
                parameter.requires_grad_(start <= step < stop)
                if step >= stop:
                    parameter.grad = None  # an optimizer would step with a gradient that is left
        for spans, norms in self._norms.items():
            for norm in norms:
                norm.train(any(start <= step < stop for start, stop in spans))
        self._next = self._change_after(step)

    def _change_after(self, step: int) -> float:
        return min((at for span in self._parameters for at in span if at > step), default=math.inf)


def freezing_callbacks(
    config: Config, module: pl.LightningModule, plan: Plan, groups: Sequence[Group], step: int = 0
) -> list[pl.Callback]:
    """Return the callback that keeps groups frozen, for a run that starts at `step`; empty if no group is frozen."""
    changes = any(plan.first_steps.values()) or plan.frozen_from
    if not changes and not any(group.frozen and group.freeze_statistics for group in groups):
        return []
    return [Freezing(planned_module(module), groups, plan.first_steps, step, config.trainer.compile, plan.frozen_from)]
