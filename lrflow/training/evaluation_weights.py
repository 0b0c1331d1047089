"""The callback that swaps in the weights that are evaluated, where they are not those that are trained.

They are averages of the weights, or the evaluation weights of schedule-free optimizers.

BatchNorm's running statistics are estimated anew at these weights.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.trainer.states import RunningStage
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from lrflow.errors import ConfigError, Problem
from lrflow.optimizers.routed import member_optimizers
from lrflow.optimizers.traits import traits_of
from lrflow.plan import PlanScheduler
from lrflow.plan.averaging import Averaging
from lrflow.training.averaging import WeightAverages
from lrflow.training.hooks import switch_hooks
from lrflow.training.isolation import isolated, isolated_batches, seed_generators, transfer_batch

log = logging.getLogger("lrflow")


class EvaluationWeights(Callback):
    """Validates, tests and saves weights that are not those of the training: an average, or an optimizer's own.

    An average (`average=ema`, ...) is brought up to date after each step. A schedule-free optimizer (Defazio et al.,
    2024, arXiv 2405.15682) computes gradients at y, between the point z that it moves and the average x of all z; x is
    the result. Its `eval()` and `train()` turn y into x and back, up to rounding. Any optimizer with these two methods
    counts as one, unless its traits say otherwise. With neither, the callback removes itself when the fit starts.

    - Validation uses the evaluation weights, with BatchNorm statistics estimated there. Afterwards the training's
      weights and statistics are restored from copies, bit for bit.
    - A checkpoint's `state_dict` and `optimizer_states` are those of evaluation; tensors that differ in training are in
      `checkpoint["lrflow"]["training"]`, and a resumed run starts from these.
    - After the fit the module holds the evaluation weights.
    - The state of an average is in `checkpoint["lrflow"]["average"]`. One that has not begun, or is not to be
      evaluated, changes none of the above.

    Args:
        batches: number of training batches for estimating BatchNorm statistics; 0 keeps those of the training.
        seed: seed of the order of these batches.
        averaging: the average of the weights to keep; None: none.
    """

    def __init__(self, batches: int, seed: int, averaging: Averaging | None = None) -> None:
        self._batches = batches
        self._seed = seed
        self._averaging = averaging
        self._averages: WeightAverages | None = None
        self._step = 0
        self._optimizers: list[Optimizer] = []
        self._parameters: list[Tensor] = []
        self._estimated: tuple[int, list[Tensor]] | None = None  # the step, and BatchNorm statistics at x
        self._restored: dict[str, Tensor] | None = None
        self._restored_averages: dict[str, Any] | None = None
        self._replaced: list[Tensor] = []  # tensors of the training during a validation
        self._result: list[Tensor] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the optimizers that have evaluation weights, and the parameters to average.

        Raises:
            ConfigError: there are some, and the strategy shards the weights.
        """
        parts = [one for optimizer in trainer.optimizers for one in member_optimizers(optimizer).values()]
        self._optimizers = [one for one in parts if traits_of(type(one)).modes]
        if not (self._optimizers or self._averaging or self._restored):
            trainer.callbacks = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
            return
        if trainer.strategy.restore_checkpoint_after_setup:
            name = type(self._optimizers[0]).__name__ if self._optimizers else "an average of the weights"
            message = f"shards the weights, and {name} needs whole ones to change between training and evaluation"
            problem = Problem("trainer.strategy", message, type(trainer.strategy).__name__, "take ddp")
            raise ConfigError([problem])
        groups = [group for one in (parts if self._averaging else self._optimizers) for group in one.param_groups]
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        if self._averaging:
            trained = {id(parameter) for parameter in self._parameters}
            named = {name: one for name, one in pl_module.named_parameters() if id(one) in trained}
            self._averages = WeightAverages(self._averaging, named)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the training's weights until the optimizers have been restored too, and the averages."""
        if trainer.state.fn == "fit":
            self._restored = checkpoint["lrflow"].get("training")
            self._restored_averages = checkpoint["lrflow"].get("average")
            self._estimated = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Switch to the training's weights; those of the checkpoint in a resumed run."""
        for optimizer in self._optimizers:
            optimizer.train()  # type: ignore[attr-defined]
        if self._restored is not None:
            pl_module.load_state_dict(self._restored, strict=False)
            self._restored = None
        self._step = trainer.global_step
        if self._averages and self._restored_averages:
            self._averages.load_state_dict(self._restored_averages, self._step)
        self._restored_averages = None
        switch_hooks(trainer, self, on_train_batch_end=bool(self._averages))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the weights after an optimizer step enter the averages."""
        if self._averages and trainer.global_step != self._step:
            self._step = trainer.global_step
            self._averages.update(self._step, self._decay(trainer))

    def _decay(self, trainer: pl.Trainer) -> float | None:
        """Return the decay of the average at the step that was made last, if a scalar of the plan sets it."""
        name = self._averaging.scalar if self._averaging else None
        if name is None:
            return None
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, PlanScheduler)
        plan = scheduler.plan
        return next(float(one(self._step - 1, plan.horizon)) for one in plan.scalars if one.name == name)

    @property
    def _differs(self) -> bool:
        """Whether the evaluation weights are not those of the training."""
        averages = self._averages
        return bool(self._optimizers or (averages and averages.averaging.evaluate and averages.entered))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Switch to the evaluation weights."""
        if trainer.state.fn == "fit" and self._differs:
            self._replaced = self._enter(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Switch back to the training's weights."""
        if self._replaced:
            self._leave(pl_module, self._replaced)
            self._replaced = []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the evaluation weights, and those tensors of the training that differ."""
        own = checkpoint.setdefault("lrflow", {})
        if self._averages:
            own["average"] = self._averages.state_dict()
        if not self._differs:
            return
        training = checkpoint["state_dict"]
        with self._evaluation(trainer, pl_module):
            state = trainer.strategy.lightning_module_state_dict()
            used = {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
            checkpoint["optimizer_states"] = [trainer.strategy.optimizer_state(one) for one in trainer.optimizers]
        if self._averages:  # the tensors of the average itself, so that the file holds them once
            averaged = self._averages.evaluated()
            used |= {name: one for name, one in averaged.items() if name in used and used[name].dtype == one.dtype}
        checkpoint["state_dict"] = used
        own["training"] = {
            name: value
            for name, value in training.items()
            if isinstance(value, Tensor) and not torch.equal(value, used[name])
        }

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store the evaluation weights as the result; the module still holds the training's weights for saving."""
        if not self._differs:
            return
        with self._evaluation(trainer, pl_module):
            self._result = _copies(self._tensors(pl_module))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the result into the module; if no step was left to train, the module holds it already.

        Warns of an average that the run was to evaluate and that has not begun.
        """
        averages = self._averages
        if averages and averages.averaging.evaluate and not averages.entered and trainer.is_global_zero:
            log.warning(
                "the run ended after step %d, before its average of the weights began: the weights of the training "
                "are evaluated",
                trainer.global_step,
            )
        if self._result:
            _write(self._result, self._tensors(pl_module))
            self._result = []

    @contextmanager
    def _evaluation(self, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
        training = self._enter(trainer, module)
        try:
            yield
        finally:
            self._leave(module, training)

    def _enter(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[Tensor]:
        """Write the evaluation weights into the module, and return copies of the tensors that they replace."""
        training = _copies(self._tensors(module))
        with torch.inference_mode(False):
            for optimizer in self._optimizers:
                optimizer.eval()  # type: ignore[attr-defined]
            if self._averages:
                self._averages.write()
        statistics = running_statistics(module)
        # Once per step: a validation and a checkpoint of the same step share the estimate.
        if self._estimated is None or self._estimated[0] != trainer.global_step:
            estimate_statistics(trainer, module, self._batches, self._seed)
            self._estimated = trainer.global_step, _copies(statistics)
        _write(self._estimated[1], statistics)
        return training

    def _leave(self, module: pl.LightningModule, training: list[Tensor]) -> None:
        with torch.inference_mode(False):
            for optimizer in self._optimizers:
                optimizer.train()  # type: ignore[attr-defined]
        _write(training, self._tensors(module))

    def _tensors(self, module: pl.LightningModule) -> list[Tensor]:
        """Return all tensors that differ between training and evaluation."""
        return [*self._parameters, *running_statistics(module)]


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Return the running means, variances and counts of all BatchNorm layers, in the order of the layers."""
    return [
        statistic
        for layer in module.modules()
        if isinstance(layer, _BatchNorm)
        for statistic in (layer.running_mean, layer.running_var, layer.num_batches_tracked)
        if statistic is not None
    ]


def estimate_statistics(trainer: pl.Trainer, module: pl.LightningModule, batches: int, seed: int) -> None:
    """Set the running statistics to plain averages over training batches at the current weights.

    Layers in evaluation mode, such as those of a frozen backbone, keep their statistics. The module's `training_step`
    runs without gradients. The batches depend on the seed alone and are the same on every device. Nothing else of the
    training changes: generators, the loader's iterator, other buffers, metrics and logged values stay as they are.

    Args:
        trainer: the trainer of the fit; its training loaders provide the data.
        module: changed in place.
        batches: maximum number of batches, at most one epoch; 0 changes nothing.
        seed: seed of the order of the batches and of random numbers in data and model.
    """
    with torch.inference_mode(False), torch.no_grad(), _in_training(trainer, module):
        layers = [
            layer
            for layer in module.modules()
            if isinstance(layer, _BatchNorm) and layer.training and layer.running_mean is not None
        ]
        if not layers or not batches:
            return
        with isolated(module, [statistic for layer in layers for statistic in running_statistics(layer)]):
            seed_generators(seed)
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # a cumulative average
            for index, batch in enumerate(islice(isolated_batches(trainer, seed), batches)):
                _run_step(trainer, module, batch, index)


def _run_step(trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
    """Run a training step as Lightning does, but without the strategy's wrapper around the module."""
    batch = transfer_batch(trainer, module, batch)
    arguments = trainer.fit_loop.epoch_loop._build_kwargs(OrderedDict(), batch, index)
    with trainer.precision_plugin.train_step_context():
        module.training_step(*arguments.values())


@contextmanager
def _in_training(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Give the trainer the stage, and every module the mode, of training, even during a validation."""
    stage, modes = trainer.state.stage, {one: one.training for one in module.modules()}
    if trainer.validating:
        trainer.fit_loop.epoch_loop.val_loop._module_mode.restore(module)
    trainer.state.stage = RunningStage.TRAINING
    try:
        yield
    finally:
        trainer.state.stage = stage
        for one, mode in modes.items():
            one.training = mode


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    with torch.inference_mode(False):
        return [tensor.detach().clone() for tensor in tensors]


def _write(values: list[Tensor], tensors: list[Tensor]) -> None:
    with torch.inference_mode(False), torch.no_grad():
        for value, tensor in zip(values, tensors, strict=True):
            tensor.copy_(value)
