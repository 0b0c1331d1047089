"""Signals of a run: loss, gradient norm, LR and time of every step, collected on the device and read in blocks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch.utils.hooks import RemovableHandle

from lrflow.clip import Gradients
from lrflow.errors import LrflowError
from lrflow.loggers.loggers import log_rows
from lrflow.optimizers.routed import member_optimizers
from lrflow.optimizers.traits import traits_of
from lrflow.plan import Plan, PlanScheduler
from lrflow.plan.lr_scheduler import read_setting
from lrflow.plan.table import setting_columns
from lrflow.training.block import Block
from lrflow.training.branches import FollowsPlan
from lrflow.training.group_norms import RunMeter
from lrflow.training.guard import StepGuard
from lrflow.training.hooks import switch_hooks
from lrflow.training.machine import machine_use
from lrflow.training.metric_reading import window_mean
from lrflow.training.noise_meter import NoiseMeter
from lrflow.training.step_record import Step, column, copied, numbers


class Signals(Callback, FollowsPlan):
    """Collects loss, gradient norm, LR and time of every step without device synchronization.

    Loss, gradient norm and the factor of a guard stay on the device. Every `every` steps (on a single
    device also once per second) they are read as a whole and passed to the loggers and, as a `Block`, to the hook
    `on_block` of callbacks that have one, such as each `Monitor`. The loggers get one row per step: `train/loss`,
    `train/grad_norm`, `train/step_time`, for each group `lr/NAME` (used by the optimizer) and `lr_planned/NAME`, and
    with a guard `clip/factor`. Other scheduled settings are logged as `momentum/NAME`, `weight_decay/NAME` and the
    like, and scalars as `scalar/NAME`. If the optimizer multiplies the LR by a factor of its own (the estimate of
    Prodigy and D-adaptation, SPAM's warmup after a reset), the factor is `lr_estimate/NAME`, and its product with the
    LR `lr_effective/NAME`.

    Args:
        plan: the plan of the run.
        every: number of steps between two readings.
        norms_every: number of steps between measurements of each group's norms (see `RunMeter`); None: none.
        halves_every: number of steps between measurements of the gradient noise by half a batch (see `NoiseMeter`);
            None: none. Steps whose batch has parts are measured together with the norms.
        machine: whether to log what the steps take of the machine (see `machine_use`), and their time waiting for data.
        guard: what clips the gradients; None: nothing does.
    """

    def __init__(
        self,
        plan: Plan,
        every: int,
        norms_every: int | None = None,
        halves_every: int | None = None,
        machine: bool = False,
        guard: StepGuard | None = None,
    ) -> None:
        self._plan = plan
        self._always = ["train/loss", "train/grad_norm", "train/step_time"]
        self._always += [f"lr/{name}" for name in plan.names] + [f"lr_planned/{name}" for name in plan.names]
        self._guard = guard
        self._always += ["clip/factor"] if guard else []
        self._scheduled = setting_columns(plan)
        self._always += [title for _, _, title in self._scheduled]
        self._always += [*plan.columns_of(np.zeros(1))]
        self._columns = self._always
        self._every = min(every, plan.horizon.steps)
        self._steps: list[Step] = []  # since the last reading
        self._last_step = 0
        self._parameters: list[torch.nn.Parameter] = []
        self._hooks: list[RemovableHandle] = []
        self._norms: dict[int, torch.Tensor] = {}  # of the optimizers that the module stepped itself in this step
        self._norms_every = norms_every
        self._machine = machine
        self._halves_every = halves_every
        self._meter: RunMeter | None = None
        self._noise: NoiseMeter | None = None
        self._saved: Mapping[str, Any] = {}  # of the checkpoint from which the run is resumed
        self._trained = False  # whether any step of the run had a gradient

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Create the buffer on the model's device, and start the clock."""
        self._optimizer = trainer.optimizers[0]
        groups = self._optimizer.param_groups
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        # The index of the optimizer group with the LR of each named group, in the order of the plan's columns.
        group_of = {name: index for index, group in enumerate(groups) for name in group["members"]}
        self._group_indices = [group_of[name] for name in self._plan.names]
        self._groups = groups
        # For each scheduled setting: the optimizer's group and the name of the setting there.
        self._setting_places = [
            (groups[self._group_indices[column]], setting.setting)
            for name, column, _ in self._scheduled
            for setting in self._plan.trainable[column].also
            if setting.name == name
        ]
        members = member_optimizers(self._optimizer).values()
        keys = [(traits_of(type(one)).factor, group) for one in members for group in one.param_groups]
        self._factor_keys = [key if key in group else None for key, group in keys]
        self._has_estimates = any(self._factor_keys)
        if self._has_estimates:
            names = [name for name in self._plan.names if self._factor_keys[group_of[name]]]
            self._columns = [
                *self._always,
                *(f"{kind}/{name}" for kind in ("lr_estimate", "lr_effective") for name in names),
            ]
        if self._guard is not None:
            self._guard.on_norms = self._see_norms
        self._steps.clear()
        self._step = Step()
        self._device, self._is_alone = pl_module.device, trainer.world_size == 1
        if self._norms_every is not None:
            self._meter = RunMeter(self._norms_every, groups, self._plan, self._every)
            self._meter.load_state_dict(self._saved.get("norms", {}))
        if self._norms_every is not None or self._halves_every is not None:
            noise = NoiseMeter(trainer, pl_module)
            noise.load_state_dict(self._saved.get("noise", {}))
            self._noise = noise if noise.can_measure else None
        has_parts = self._noise is not None and self._noise.has_parts
        sees = has_parts or (self._noise is not None and self._halves_every is not None)
        switch_hooks(
            trainer, self, on_train_batch_start=sees, on_before_backward=has_parts, on_after_backward=has_parts
        )
        self._losses: list[torch.Tensor] = []  # of the batches of this step
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, PlanScheduler)
        self._scheduler = scheduler
        while self._hooks:  # of this run before a rollback
            self._hooks.pop().remove()
        self._has_tensors = isinstance(groups[0]["lr"], torch.Tensor)
        if not self._has_tensors:  # copies of tensors would double the cost
            manual = not pl_module.automatic_optimization
            for one in member_optimizers(self._optimizer).values() if manual else [self._optimizer]:
                self._hooks.append(one.register_step_post_hook(self._record_rates_after))
        self._waited: float = trainer.fit_loop.epoch_loop.waited  # type: ignore[attr-defined]
        self._last_step = trainer.global_step
        self._clock = self._read_at = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at the batch if the gradient noise of this step is measured."""
        if self._noise is None:
            return
        step = self._last_step + len(self._steps)
        if self._noise.has_parts:
            self._noise.see(batch if self._meter is not None and self._meter.is_due(step) else None)
        elif self._halves_every is not None and step % self._halves_every == 0:
            self._noise.measure_half(trainer, pl_module, batch, batch_idx)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """Watch the gradient of a part of the step's batch."""
        if self._noise is not None and self._noise.has_parts:
            self._noise.begin(self._parameters)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the part of the step's batch."""
        if self._noise is not None:
            self._noise.end()

    def follow(self, plan: Plan) -> None:
        """Compare the LRs with another plan, which has the same LRs up to the step that was made last."""
        self._plan = plan

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Record the LR and the gradient norm of this step.

        L-BFGS evaluates a batch several times per step; the last evaluation counts, as for the loss.
        """
        parameters = self._parameters
        if optimizer is not self._optimizer:  # one of several that the module steps itself
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients, step = Gradients((), parameters), self._step
        if gradients.values:
            self._trained = True
            if self._guard is None:  # it calls this itself, as it needs the norms too
                self._see_norms(gradients, optimizer)
            if self._noise is not None:
                step.parts = self._noise.finish(len(self._steps))
        else:
            if self._noise is not None:
                self._noise.drop()
            if not self._norms:
                step.norm = None
        self._record_rates()

    def _see_norms(self, gradients: Gradients, optimizer: torch.optim.Optimizer) -> None:
        """Record the norms of the gradients of a step, which are not clipped yet."""
        norm = gradients.norm
        if self._meter is not None and self._meter.is_due(step := self._last_step + len(self._steps)):
            self._meter.read_gradients(step, gradients.parameters, gradients.norms, optimizer is self._optimizer)
            self._step.is_measured = True
        if optimizer is not self._optimizer:
            self._norms[id(optimizer)] = norm
            norm = torch.linalg.vector_norm(torch.stack([*self._norms.values()]))
        self._step.norm = norm

    def _record_rates(self) -> None:
        """Record the LRs and other settings that the optimizer uses for this step."""
        step = self._step
        step.rates = [group["lr"] for group in self._groups]
        if self._has_tensors:  # the plan overwrites them at each step
            step.rates = copied(step.rates)
        step.factor = self._scheduler.factor
        if self._setting_places:
            step.settings = [float(read_setting(group, setting)) for group, setting in self._setting_places]
        if self._has_estimates:
            keys = zip(self._groups, self._factor_keys, strict=True)
            step.estimates = copied([group[key] if key else math.nan for group, key in keys])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss; at the end of an accumulation window the step is complete.

        Raises:
            LrflowError: the module did not make a step that the plan has, or no step of the run had a gradient.
        """
        if outputs and "loss" in outputs:
            self._losses.append(outputs["loss"].detach())
        step = self._step
        if self._norms:
            self._norms.clear()
        if step.rates is None and not self._is_made(trainer, pl_module):
            return
        if not self._trained and trainer.global_step >= self._plan.horizon.steps:
            raise LrflowError(
                f"nothing was trained: in none of the {trainer.global_step} steps did a parameter have a gradient; "
                f"{type(pl_module).__name__}.training_step returned None for every batch, or a loss without one"
            )
        if self._losses:
            step.loss = window_mean(self._losses, trainer.accumulate_grad_batches)
            self._losses = []
        if self._guard is not None and self._guard.factor is not None:
            step.clip = self._guard.factor.clone()
        if step.is_measured:
            assert self._meter is not None
            self._meter.read_update(self._last_step + len(self._steps), len(self._steps))
        now = time.perf_counter()
        step.seconds, self._clock = now - self._clock, now
        if self._machine:
            waited: float = trainer.fit_loop.epoch_loop.waited  # type: ignore[attr-defined]
            step.waited, self._waited = waited - self._waited, waited
        self._steps.append(step)
        self._step = Step()
        # On several devices only the count decides, so that all of them read at the same step.
        if len(self._steps) == self._every or (self._is_alone and now - self._read_at > 1.0):
            self.flush(trainer)

    def _is_made(self, trainer: pl.Trainer, module: pl.LightningModule) -> bool:
        """Whether a step is complete of which no optimizer has told.

        Raises:
            LrflowError: the module did not make a step that the plan has.
        """
        number = self._last_step + len(self._steps)
        if trainer.global_step <= number:  # within an accumulation window
            return False
        if module.automatic_optimization:
            raise LrflowError(
                f"step {number}: {type(module).__name__}.optimizer_step did not call optimizer.step(closure="
                "optimizer_closure), so the step of the plan was not made"
            )
        self._record_rates()  # no optimizer had a step of its own here
        return True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Emit the collected steps, so that rows stay in the order of the run."""
        self.flush(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Exclude validation from the step times."""
        self.restart_clock()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Emit the remaining steps of an epoch."""
        self.flush(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps of this callback."""
        meters = {"norms": self._meter, "noise": self._noise}
        return {"trained": self._trained, **{name: one.state_dict() for name, one in meters.items() if one is not None}}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the state; runs of earlier versions, which did not save it, count as trained."""
        self._saved = checkpoint.get("callbacks", {}).get(self.state_key, {})
        self._trained = self._saved.get("trained", True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Emit the steps before the error."""
        self.flush(trainer, all_ranks=False)

    def restart_clock(self) -> None:
        """Exclude the time since the last step from the time of the next one."""
        self._clock = time.perf_counter()

    def flush(self, trainer: pl.Trainer, all_ranks: bool = True) -> None:
        """Read the buffer and pass it to the loggers and the monitors.

        Args:
            trainer: the trainer of the run.
            all_ranks: whether all ranks call this together; they then average the losses of their shards.

        Raises:
            LrflowError: a step used another LR than the plan's; not raised if `all_ranks` is false.
        """
        if not self._steps:
            return
        made, self._steps = self._steps, []
        columns = ([one.loss for one in made], [one.norm for one in made], [one.parts for one in made])
        collected = torch.stack([column(values, self._device) for values in columns], 1)
        if self._guard:
            clips = column([one.clip for one in made], self._device, 1.0)
            collected = torch.cat([collected, clips[:, None]], 1)
        collected = collected.double()
        if all_ranks and trainer.world_size > 1:
            torch.distributed.all_reduce(collected)
            collected /= trainer.world_size
        values = collected.cpu().numpy()
        first = self._last_step
        steps = np.arange(first, first + len(made))
        used = numbers([one.rates or [] for one in made])
        after = used if self._has_tensors else np.array([one.after or one.rates for one in made])
        factor = np.array([one.factor for one in made])
        seconds = np.array([one.seconds for one in made])
        table = np.array([one.settings for one in made]).reshape(len(made), -1)
        settings = {title: table[:, index] for index, (_, _, title) in enumerate(self._scheduled)}
        estimates = None
        if self._has_estimates:
            estimates = np.array([[float(d) for d in one.estimates] for one in made])[:, self._group_indices]
        block = Block(
            first=first,
            loss=values[:, 0],
            grad_norm=values[:, 1],
            seconds=seconds,
            planned=self._plan.lr(steps),
            actual=used[:, self._group_indices],
            estimate=estimates,
            settings=settings | self._plan.columns_of(steps),
            data_seconds=np.array([one.waited for one in made]) if self._machine else None,
            norms=self._meter.take()[0] if self._meter else None,
            noise=self._noise.take(values[:, 2], values[:, 1]) if self._noise else None,
            machine=machine_use(trainer, len(made), sum(seconds.tolist())) if self._machine else {},
            clip=values[:, 3] if self._guard else None,
            skipped=np.array([one.loss is None for one in made]),
        )
        self._last_step += len(made)
        self._read_at = time.perf_counter()
        self._log(trainer, block)
        if all_ranks:
            for rates in (block.actual, after[:, self._group_indices]):
                self._check(block, rates, factor)
        self._notify(trainer, block)

    def emit(self, trainer: pl.Trainer, block: Block) -> None:
        """Pass a block to the loggers, then to the monitors."""
        self._log(trainer, block)
        self._notify(trainer, block)

    def _record_rates_after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Record the LRs after a step, for optimizers that write their own LR."""
        self._step.after = [group["lr"] for group in self._groups]

    def _check(self, block: Block, rates: np.ndarray, factor: np.ndarray) -> None:
        """Check that steps used the plan's LR times what multiplies it, up to the rounding of float32."""
        expected = block.planned * factor[:, None]
        differ = ~np.isclose(rates, expected, rtol=1e-6, atol=1e-38)
        if differ.any():
            row, column = np.argwhere(differ)[0]
            raise LrflowError(
                f"step {block.first + row}: the LR used for {self._plan.names[column]} is {rates[row, column]:.6g}, "
                f"and the plan has {expected[row, column]:.6g}: something else writes the LR, such as the module "
                "(lr_scheduler_step, optimizer_step, ...), a callback or the optimizer itself"
            )

    def _log(self, trainer: pl.Trainer, block: Block) -> None:
        for columns, rows in block.rows(self._columns, self._plan.names):
            for logger in trainer.loggers:
                log_rows(logger, columns, rows)

    def _notify(self, trainer: pl.Trainer, block: Block) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if on_block := getattr(callback, "on_block", None):
                on_block(trainer, block)
