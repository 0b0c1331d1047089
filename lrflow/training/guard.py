"""The callback that lets a guard clip the gradients of each step, and counts the steps that it clipped or skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from lrflow.clip import Clip, Gradients
from lrflow.config import Config, instantiate
from lrflow.errors import ConfigError, Problem
from lrflow.layers import Group
from lrflow.training.block import Block

HOOK = "configure_gradient_clipping"
"""Lightning's hook of a module, after all other hooks that see the gradients of a step."""


class StepGuard(Callback):
    """Passes the gradients of each step to a guard in place of Lightning's own clipping.

    They are those of the whole accumulation window, averaged over all devices, and without a loss scale.

    Args:
        clip: the guard.
        groups: the parameter groups, for the names of parameters.

    Attributes:
        factor: the factor of the last step: 1 if nothing was clipped, 0 if it was skipped; on the device.
        on_norms: called with the gradients of each step and its optimizer before they are clipped; None: nothing is. So
            their norms are computed once.
        record: number of steps made, and of those that were clipped and skipped.
    """

    def __init__(self, clip: Clip, groups: Sequence[Group]) -> None:
        self.clip = clip
        self.record = {"steps": 0, "clipped": 0, "skipped": 0}
        self.factor: Tensor | None = None
        self.on_norms: Callable[[Gradients, torch.optim.Optimizer], None] | None = None
        self._names = {id(parameter): name for group in groups for name, parameter in group.parameters}
        self._losses: list[Tensor] = []  # of the batches of the accumulation window
        self._restored: Mapping[str, Any] | None = None
        self._trainer: pl.Trainer

    def __deepcopy__(self, memo: dict[int, Any]) -> StepGuard:
        return self  # a copy of the module, as callbacks make one for its weights, needs no guard of its own

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the place of the module's own hook."""
        self._trainer = trainer
        setattr(pl_module, HOOK, self)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the state of a resumed run, if there is one, on the device of the model.

        Raises:
            ConfigError: a setting of the guard does not fit the parameters.
        """
        self._losses.clear()
        self.clip.begin([self._names[id(one)] for one in _parameters(trainer.optimizers[0])])
        if self._restored is not None:
            state, self._restored = self._restored, None
            device = pl_module.device
            self.clip.load_state_dict({k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.items()})

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the loss of a batch; it is read only if the guard needs it."""
        self._losses.append(loss.detach())

    @torch.no_grad()
    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip the gradients of a step; Lightning calls this between the last backward pass and the optimizer's step.

        Args:
            optimizer: of the step.
        """
        parameters = _parameters(optimizer)
        gradients = Gradients(self.clip.names, parameters, self._mean_loss)
        if gradients and self.on_norms is not None:
            self.on_norms(gradients, optimizer)
        self.factor = self.clip(gradients) if gradients else None
        self._losses.clear()

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        """Count the steps that were clipped or skipped."""
        if block.clip is None:  # of a short run
            return
        self.record["steps"] += len(block)
        self.record["skipped"] += int((block.clip == 0).sum())
        self.record["clipped"] += int(((block.clip > 0) & (block.clip < 1)).sum())

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the guard, with its class, and the numbers of steps."""
        return {"kind": type(self.clip).__name__, "state": self.clip.state_dict(), "record": dict(self.record)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the numbers of steps, and the state of the guard unless it was of another class."""
        self.record |= state_dict["record"]
        if state_dict["kind"] == type(self.clip).__name__:
            self._restored = state_dict["state"]

    def _mean_loss(self) -> Tensor:
        """Return the mean loss of the accumulation window over all devices; Lightning divides each by the batches."""
        loss = torch.stack(self._losses).float().mean() * self._trainer.accumulate_grad_batches
        scaler = getattr(self._trainer.precision_plugin, "scaler", None)
        if scaler is not None and (scale := scaler._get_scale_async()) is not None:
            loss = loss / scale
        reduced: Tensor = self._trainer.strategy.reduce(loss, reduce_op="mean")
        return reduced


def _parameters(optimizer: Any) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def build_guard(config: Config, module: pl.LightningModule, groups: Sequence[Group]) -> StepGuard | None:
    """Return the guard of a run; None: there is none, or Lightning clips.

    Lightning passes the norm or the value to a module that clips gradients itself, and clips where devices share the
    gradients of a parameter.

    Args:
        config: of the run.
        module: the module to train.
        groups: its parameter groups.

    Raises:
        ConfigError: `clip` builds no guard, or the module clips gradients itself.
    """
    node = config.guard
    if node is None:
        return None
    own = is_overridden(HOOK, module)
    if node.of_lightning and (own or config.trainer.strategy_name.startswith(("fsdp", "deepspeed"))):
        return None
    if own:
        message = f"{type(module).__name__}.{HOOK} clips gradients already"
        raise ConfigError([Problem("clip", message, node.target, "leave out one of the two")])
    clip = instantiate(node.node(), "clip")
    if not isinstance(clip, Clip):
        message = f"expected a guard, such as lrflow.clip.Norm, got {type(clip).__name__}"
        raise ConfigError([Problem("clip._target_", message, node.target)])
    return StepGuard(clip, groups)


def describe_guard(config: Config, record: Mapping[str, int] | None) -> str | None:
    """Return the line about a guard at the end of a run: `clip=zclip: 37 of 4,000 steps clipped, 2 skipped`."""
    if record is None:
        return None
    clipped, steps, skipped = (record[name] for name in ("clipped", "steps", "skipped"))
    return "{}={}".format(*config.guard_choice) + f": {clipped:,} of {steps:,} steps clipped, {skipped:,} skipped"
