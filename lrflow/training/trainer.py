"""Lightning's Trainer for a run under a plan: limited by the horizon, without Lightning's output and checkpoints."""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lrflow.errors import ConfigError, Problem
from lrflow.launch import check_port
from lrflow.plan import PlanChangedWarning
from lrflow.schedules import Duration, Horizon
from lrflow.training.accumulation import WindowMean
from lrflow.training.agreement import connect_restarted
from lrflow.training.checkpoint_file import AtomicCheckpointIO
from lrflow.training.interrupt import Launcher, NoHandlers
from lrflow.training.loops import FitLoop
from lrflow.training.metric_reading import ValidationTimes
from lrflow.training.parameters import CoverageCheck
from lrflow.training.trainer_options import NoProfiler

SHORT_RUN_DONE = "the short run is complete"
"""The reason of a stop by the purpose of a short run."""

_STEP_HOOKS = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end",
)  # fmt: skip


class Trainer(pl.Trainer):
    """A Trainer whose only limit is the horizon of its run, and that records what stopped the run earlier.

    Attributes:
        horizon: length of the run; None before `run_for`.
        cooldown: the `lrflow.training.cooldown.Cooldown` with which the run may end before its plan does; None: there
            is none.
        rollback: the `lrflow.training.rollback.Rollback` that returns the run to earlier states; None: nothing does.
        adjustments: the `lrflow.training.adjustments.Adjustments` of the LR; None: nothing adjusts it.
        batch_unit: samples of a batch on all devices, of which each step accumulates as many as its size in the plan
            needs; None: all steps accumulate the same number.
        varies_loader: whether the batches of its loader change their size.
        batch_guard: its `lrflow.training.batch_guard.BatchGuard`; None: every batch is trained on.
        loop: `lightning` trains by Lightning's loop over the batches; otherwise the lean one does if it can.
    """

    cooldown: Any = None
    rollback: Any = None
    adjustments: Any = None
    batch_guard: Any = None
    loop: str = "auto"
    batch_unit: int | None = None
    varies_loader: bool = False

    fit_loop: FitLoop

    def __init__(self, **options: Any) -> None:
        self.horizon: Horizon | None = None
        self._ended_by: str | None = None
        self._ender: object = None
        super().__init__(max_epochs=-1, **options)
        self.fit_loop = FitLoop(self)
        self._signal_connector = NoHandlers(self)
        Launcher.replace(self)

    def fit(self, *args: Any, **options: Any) -> None:
        """Train; hooks that lrflow's own callbacks do not have are not called."""
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if type(callback).__module__.startswith("lrflow."):
                for hook in _STEP_HOOKS:
                    if getattr(type(callback), hook) is getattr(pl.Callback, hook):
                        setattr(callback, hook, None)  # which Lightning (2.6.6) skips, as it is not callable
        super().fit(*args, **options)

    def run_for(self, horizon: Horizon) -> None:
        """Set the length of the run: exactly the steps of a horizon, over as many epochs as they take."""
        self.horizon = horizon
        self.fit_loop.epoch_loop.max_steps = horizon.steps
        self.fit_loop.epoch_loop.length = horizon

    def run_at_least(self, epochs: int | None, steps: int | None) -> None:
        """Ignore requests to end the run before these epochs and steps; None: no minimum."""
        self.fit_loop.min_epochs = epochs or 0  # Lightning takes None with a number of steps for one epoch
        self.fit_loop.epoch_loop.min_steps = steps

    @property
    def global_step(self) -> int:
        """Number of optimizer steps made."""
        loop = self.fit_loop.epoch_loop
        return loop.own_steps.completed if loop.is_lean else loop.global_step

    @property
    def planned_steps(self) -> int:
        """Number of optimizer steps of the plan that the run follows now."""
        assert self.horizon is not None
        return self.horizon.steps

    def stop(self, reason: str) -> None:
        """End the run after this step; its outcome reports the reason. Ignored before `min_epochs` and `min_steps`."""
        if self.fit_loop._can_stop_early:
            self._ended_by = self._ended_by or reason
            self.should_stop = True

    @property
    def ended_by(self) -> str | None:
        """What requested a stop before the last step, with its own message if it has one; None: nothing did."""
        message = getattr(self._ender, "stopping_reason_message", None)  # EarlyStopping sets it after its request
        if not (self._ended_by and message):
            return self._ended_by
        return f"{self._ended_by}: {str(message).removesuffix(' Signaling Trainer to stop.').rstrip('.')}"

    @property
    def is_last_step_validated(self) -> bool:
        """Whether the current weights were validated, or the run does not validate its end."""
        loop = self.fit_loop.epoch_loop
        return loop.is_validated or not loop.validates_at_end or not self.enable_validation

    @property
    def end(self) -> dict[str, Any] | None:
        """What the end of a run needs after its last step, as plain data for a checkpoint; None: it is not over."""
        if not (self.should_stop or self.global_step >= self.max_steps > -1):
            return None
        metrics = {name: float(value) for name, value in self.callback_metrics.items()}
        return {"ended_by": self.ended_by, "validated": self.is_last_step_validated, "metrics": metrics}

    @property
    def should_stop(self) -> bool:
        """Whether the run is to end after this step."""
        return self._should_stop

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        # A request before `min_epochs` or `min_steps` is dropped, not kept until then as Lightning does (2.6.6): no
        # checkpoint holds it, so a resumed run would end at another step.
        if value and not self.fit_loop._can_stop_early:
            return
        self._should_stop = bool(value)
        if not value:
            self._ended_by = self._ender = None
        elif self._ended_by is None:
            self._ended_by, self._ender = _stop_requester(sys._getframe(1))

    @property
    def max_epochs(self) -> int:
        """Number of epochs in the plan, for modules that use it; -1 if unknown. It does not limit the run."""
        if self.horizon is None or not self.horizon.has_epochs:
            return -1
        return max(math.ceil(self.horizon.epochs), self.current_epoch)


def _stop_requester(frame: FrameType | None) -> tuple[str, object]:
    """Return the callback or module that a frame belongs to: the reason of a stop, and the object itself."""
    while frame is not None:
        first = frame.f_code.co_varnames[:1] if frame.f_code.co_argcount else ()
        one = frame.f_locals.get(first[0]) if first else None
        if isinstance(one, Timer):
            return "the time limit of the callback Timer", one
        if isinstance(one, pl.Callback):
            return f"the callback {type(one).__name__}", one
        if isinstance(one, pl.LightningModule):
            return f"the module {type(one).__name__}", one
        frame = frame.f_back
    return "trainer.should_stop", None


def build_trainer(options: Mapping[str, Any], folder: Path, loggers: Sequence[Logger], log_every: int) -> Trainer:
    """Return a Trainer without Lightning's own progress bar, summary, sanity check, sampler and checkpoints.

    `Trainer.run_for` sets the length of the run.

    Args:
        options: arguments of Lightning's Trainer; None means Lightning's default. `timeout`: seconds that a process of
            a data-parallel run waits for the others.
        folder: the run folder.
        loggers: loggers from `build_loggers`.
        log_every: number of steps between two rows of metrics that a user's own module logs.

    Raises:
        ConfigError: Lightning, on this machine, rejects the options.
    """
    quieten_lightning()
    given = {name: value for name, value in options.items() if value is not None}
    timeout = given.pop("timeout", None)
    accumulate, loop = given.get("accumulate_grad_batches", 1), given.pop("loop", "auto")
    try:
        trainer = Trainer(
            default_root_dir=folder,
            logger=list(loggers) or False,
            log_every_n_steps=log_every,
            callbacks=[CoverageCheck(), *([WindowMean()] if accumulate > 1 else [])],
            plugins=[AtomicCheckpointIO(), *given.pop("plugins", ())],
            profiler=given.pop("profiler", None) or NoProfiler(),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=given.pop("enable_model_summary", False),
            enable_autolog_hparams=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **given,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ModuleNotFoundError) as error:
        raise ConfigError([_rejected(given, str(error))]) from error
    trainer.loop = loop
    device = trainer.strategy.root_device.type
    if given.get("sync_batchnorm") and device != "cuda":
        message = f"torch synchronizes BatchNorm between GPUs only, and the run is on {device}"
        raise ConfigError([Problem("trainer.sync_batchnorm", message, True, "leave it out")])
    if timeout is not None and hasattr(trainer.strategy, "_timeout"):  # of the strategies with several processes
        trainer.strategy._timeout = timedelta(seconds=timeout)
    return trainer


def check_launched(trainer: Trainer) -> None:
    """Check that the processes of a run on several nodes were started by a launcher, before they wait for each other.

    Raises:
        ConfigError: this process does not know where the others are, or the launcher started another number of them.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None:
        return
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment):
        lacking = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        lacking += [] if {"NODE_RANK", "GROUP_RANK"} & os.environ.keys() else ["NODE_RANK"]
        if lacking:
            message = f"a launcher has to start lrflow on each node and set {', '.join(lacking)}, which is not set here"
            hint = "use torchrun or Slurm's srun on every node, or trainer.num_nodes=1"
            raise ConfigError([Problem("trainer.num_nodes", message, trainer.num_nodes, hint)])
    if trainer.world_size > 1:
        check_port()
    try:
        environment.validate_settings(num_devices=trainer.num_devices, num_nodes=trainer.num_nodes)
    except ValueError as error:
        asked = f"{trainer.num_nodes} x {trainer.num_devices}"
        message = f"the launcher started other processes than trainer.num_nodes x trainer.devices = {asked}: {error}"
        raise ConfigError([Problem("trainer.devices", message, trainer.num_devices)]) from error
    if isinstance(environment, TorchElasticEnvironment) and hasattr(trainer.strategy, "_get_process_group_backend"):
        connect_restarted(trainer.strategy._get_process_group_backend(), trainer.strategy._timeout)  # type: ignore[attr-defined]


def _rejected(given: Mapping[str, Any], message: str) -> Problem:
    """Return the problem that Lightning reported, under the key that its message mentions."""
    for name in ("strategy", "precision", "devices", "accelerator"):
        if name in message or (name in given and f"{given[name]}" in message):
            hint = "trainer=auto takes the best device of this machine" if name == "accelerator" else ""
            return Problem(f"trainer.{name}", f"Lightning rejects it: {message.rstrip('.!')}", given.get(name), hint)
    return Problem("trainer", f"Lightning rejects it: {message.rstrip('.!')}")


def validate_every(trainer: Trainer, every: Duration, horizon: Horizon) -> None:
    """Set how often a trainer validates; it also validates at the end of the run.

    Whole epochs are the real epochs of the data. Shares of an epoch are counted in batches, from the length of the
    loaders; steps, shares of the run and 1.5 epochs in optimizer steps over the whole run.
    """
    loop = trainer.fit_loop.epoch_loop
    loop.validates_at_end = True
    loop.validations = times = ValidationTimes.of(every, horizon)
    # Lightning checks at the end of these epochs, or after every batch; the loop decides.
    trainer.val_check_interval = 1.0 if times.epochs else 1
    trainer.check_val_every_n_epoch = times.epochs or (1 if times.share else None)


def quieten_lightning() -> None:
    """Hide Lightning's messages and those warnings that a user cannot act on."""
    warnings.filterwarnings("ignore", category=PlanChangedWarning)  # a resumed run reports its changes itself
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*is smaller than the logging interval.*",
        ".*your dataloader is not resumable.*",  # lrflow's loaders are
        ".*Found .* module.s. in eval mode.*",
        "There is a performance drop because we have not yet implemented the batching rule.*",  # populations are timed
        "Using backward.. with create_graph=True will create a reference cycle.*",  # the cycle is broken after the step
        ".*`isinstance.treespec, LeafSpec.`.*",
        ".*Total length of `list` across ranks is zero.*",  # a data module may hold nothing out
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
    ):
        warnings.filterwarnings("ignore", message=message)
