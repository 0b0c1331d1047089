"""Short training runs that are discarded: range tests, confirmation runs and annealed rungs are built from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lrflow import assemble
from lrflow.config import Config
from lrflow.config.checks.compatibility import check_combination
from lrflow.config.checks.keys import settings_of
from lrflow.errors import ConfigError, EndedEarlyError
from lrflow.layers import Group, merge
from lrflow.plan import Plan
from lrflow.plan.averaging import Averaging
from lrflow.schedules import Duration, Horizon
from lrflow.training import EvaluationWeights
from lrflow.training.branches import Branch, compile_branched
from lrflow.training.checkpoint_file import AtomicCheckpointIO
from lrflow.training.configure_optimizers import regroup, supply_optimizer
from lrflow.training.freezing import freezing_callbacks
from lrflow.training.guard import build_guard
from lrflow.training.isolation import UndisturbedByValidation
from lrflow.training.loaders import count_horizon, set_up_data
from lrflow.training.preprocessing import restore_preprocessing
from lrflow.training.resume import Resumed
from lrflow.training.trainer import SHORT_RUN_DONE, Trainer, build_trainer, check_launched, validate_every
from lrflow.training.trainer_options import lightning_options
from lrflow.wording import counted

NEVER = 10**9  # epochs between two validations


def short_fit(
    config: Config,
    seed: int,
    steps: int,
    folder: Path,
    make_plan: Callable[[Sequence[Group]], Plan],
    make_callbacks: Callable[[pl.Trainer, pl.LightningDataModule, Plan], Sequence[pl.Callback]],
    val_every: int | None = None,
    start: Resumed | None = None,
    may_end_early: bool = False,
    averaging: Averaging | None = None,
    loaded: pl.LightningDataModule | None = None,
) -> tuple[Trainer, pl.LightningModule, pl.LightningDataModule]:
    """Train the model of a run for some steps under another plan.

    Args:
        config: of the run.
        seed: of the model and of the order of the data.
        steps: optimizer steps.
        folder: of the run; nothing is written there.
        make_plan: returns the plan, from the groups at the run's own peak LR.
        make_callbacks: returns further callbacks.
        val_every: optimizer steps between two validations; None: no validation.
        start: the checkpoint to start from; None: model and optimizer are new.
        may_end_early: accept a run that ends before its last step, for instance by a callback of the module. A run
            that is stopped by `Trainer.stop(SHORT_RUN_DONE)` is always accepted.
        averaging: the average of the weights to keep; None: none.
        loaded: data that is set up; None: it is built and read.

    Raises:
        ConfigError: the options cannot be combined.
        LrflowError: the checkpoint is of another model.
        EndedEarlyError: the run ended before its last step.
    """
    pl.seed_everything(seed, verbose=False)
    trainer = build_trainer(lightning_options(config), folder, [], config.trainer.log_every)
    check_launched(trainer)
    trainer.run_for(Horizon(steps))
    if val_every is None:
        trainer.check_val_every_n_epoch = NEVER
    else:
        validate_every(trainer, Duration(val_every, "steps"), Horizon(steps))
    if problems := check_combination(config, trainer.world_size):
        raise ConfigError(problems)
    data = loaded or assemble.build_data(config)
    if start:
        restore_preprocessing(data, start.preprocessing)
    set_up_data(data, trainer, seed, start.position if start else None, is_set_up=loaded is not None)
    module = assemble.build_module(config, start is None, trainer, data)
    if start is None:
        assemble.check_metrics(config, module)
    if start:
        start.check(module)
    groups = assemble.build_groups(config, module, trainer.world_size, data=data)
    plan = make_plan(groups)
    routes = {name: route.node() for name, route in config.optimizer.routes.items()}
    compiled = config.trainer.compile and not plan.scheduled_settings
    make = partial(assemble.make_optimizer, config, groups, compiled=compiled)
    supply_optimizer(module, plan, make, config.optimizer.node(), compiled, routes)
    trainer.callbacks += [  # type: ignore[attr-defined]
        UndisturbedByValidation(),
        EvaluationWeights(config.trainer.batch_norm_batches, seed, averaging),
        *freezing_callbacks(config, module, plan, groups),
        *([guard] if (guard := build_guard(config, module, groups)) else []),
        *make_callbacks(trainer, data, plan),
    ]
    if start:
        trainer.strategy.checkpoint_io = RestartingCheckpointIO(groups, plan)
    trainer.fit(module, datamodule=data, ckpt_path=start.path if start else None)
    made = trainer.global_step
    if made < steps and trainer.ended_by != SHORT_RUN_DONE and not may_end_early:
        reason = trainer.ended_by or "the training loop ended"
        raise EndedEarlyError(f"a short run ended early after {made} of {counted(steps, 'step')}: {reason}")
    return trainer, module, data


def short_plan(config: Config, groups: Sequence[Group], lr: float, whole: Horizon, steps: int) -> Plan:
    """Return the plan of the whole run scaled to a short run: all durations shrink alike, and the peak LR is `lr`.

    Args:
        config: of the whole run.
        groups: at the peak LR of the whole run.
        lr: the new peak; the ratios between the groups do not change.
        whole: the length of the whole run.
        steps: the length of the short run.
    """
    scaled = [replace(group, lr=group.lr * (lr / config.optimizer.lr)) for group in groups]
    branch = Branch(0, whole, "extend")  # stretches the schedule from its first step on
    horizon = Horizon(steps, whole.steps_per_epoch)
    return compile_branched(
        scaled,
        assemble.build_schedule(config),
        horizon,
        [branch],
        settings_of(config.optimizer),
        config.planned_scalars,
    )


def whole_horizon(config: Config, folder: Path) -> Horizon:
    """Return the length of the whole run, counted from the batches of its data."""
    trainer = build_trainer(lightning_options(config), folder, [], config.trainer.log_every)
    check_launched(trainer)
    return count_horizon(config, set_up_data(assemble.build_data(config), trainer, config.seed), trainer.world_size)


class RestartingCheckpointIO(AtomicCheckpointIO):
    """Reads a checkpoint for a short run that starts from it, but counts its own steps from 0.

    Weights, buffers, the optimizer's state, the state of the module and of the data module, and the position in the
    data come from the checkpoint; the plan is the short run's. The random generators are not restored: each short run
    draws from its own seed.

    Args:
        groups: the optimizer's parameter groups; the saved optimizer state is regrouped to match them.
        plan: of the short run.
    """

    def __init__(self, groups: Sequence[Group], plan: Plan) -> None:
        merged = merge(groups)
        self._groups = [[name for group in members for name, _ in group.parameters] for members in merged]
        self._routes = [members[0].route for members in merged]
        self._fingerprint = plan.fingerprint

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read the checkpoint, and reset its counters of optimizer steps."""
        content = super().load_checkpoint(path, map_location, weights_only)
        loops = content["loops"]["fit_loop"]
        steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        steps["total"] = steps["current"] = {"ready": 0, "completed": 0}
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = 0
        content["global_step"] = 0
        content["lr_schedulers"] = [{"step": 0, "fingerprint": self._fingerprint}]
        (saved,), before = content["optimizer_states"], content["lrflow"]["groups"]
        content["optimizer_states"] = [regroup(saved, before, self._groups, self._routes)]
        return content
