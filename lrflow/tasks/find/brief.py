"""A run that is cut short and thrown away, by Lightning's loop: what a range test and its confirmation are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytorch_lightning as pl

from lrflow.config import Config
from lrflow.config.combinations import check_combination
from lrflow.errors import ConfigError, EndedEarlyError
from lrflow.layers import Group
from lrflow.plan import Plan
from lrflow.schedules import Duration, Horizon
from lrflow.tasks import build
from lrflow.training import EvaluationWeights
from lrflow.training.isolation import UndisturbedByValidation
from lrflow.training.loaders import count_horizon, ready_data
from lrflow.training.resume import Resumed
from lrflow.training.supply import supply_optimizer
from lrflow.training.trainer import SEEN_ENOUGH, Trainer, build_trainer, validate_every
from lrflow.tuning.midway import RestartingCheckpointIO


def short_fit(
    config: Config,
    seed: int,
    steps: int,
    folder: Path,
    plan_of: Callable[[Sequence[Group]], Plan],
    watching: Callable[[pl.Trainer, pl.LightningDataModule, Plan], Sequence[pl.Callback]],
    val_every: int | None = None,
    start: Resumed | None = None,
    may_end_early: bool = False,
) -> tuple[Trainer, pl.LightningModule, pl.LightningDataModule]:
    """Train a model for some steps under a plan of its own.

    Args:
        config: of the run that it is like.
        seed: of the model and the order of the data.
        steps: optimizer steps.
        folder: of the run; nothing is written there.
        plan_of: makes the plan, of the groups at the run's own peak.
        watching: makes what watches the training.
        val_every: optimizer steps between two validations; None: there are none.
        start: the checkpoint whose model and optimizer it goes on from; None: they are new.
        may_end_early: whether a run counts that something else ends before, such as a callback of the module's; one
            that `watching` ends by `Trainer.stop(SEEN_ENOUGH)` always does.

    Raises:
        ConfigError: the options do not go together.
        LrflowError: the checkpoint is of another model.
        EndedEarlyError: something else ended it.
    """
    pl.seed_everything(seed, verbose=False)
    trainer = build_trainer(build.lightning_options(config), folder, [], config.trainer.log_every)
    trainer.run_for(Horizon(steps))
    if val_every is None:
        trainer.check_val_every_n_epoch = NEVER
    else:
        validate_every(trainer, Duration(val_every, "steps"), Horizon(steps))
    if problems := check_combination(config, trainer.world_size):
        raise ConfigError(problems)
    data = ready_data(build.build_data(config), trainer, seed, start.position if start else None)
    module = build.build_module(config, start is None, trainer, data)
    if start is None:
        build.check_metrics(config, module)
    if start:
        start.check(module)
    groups = build.build_groups(config, module, trainer.world_size, data=data)
    plan = plan_of(groups)
    routes = {name: route.node() for name, route in config.optimizer.routes.items()}
    compiled = config.trainer.compile and not plan.moved
    make = partial(build.make_optimizer, config, groups, compiled=compiled)
    supply_optimizer(module, plan, make, config.optimizer.node(), compiled, routes)
    trainer.callbacks += [  # type: ignore[attr-defined]
        UndisturbedByValidation(),
        EvaluationWeights(config.trainer.batch_norm_batches, seed),
        *build.freezing_callbacks(config, module, plan, groups),
        *watching(trainer, data, plan),
    ]
    if start:
        trainer.strategy.checkpoint_io = RestartingCheckpointIO(groups, plan)
    trainer.fit(module, datamodule=data, ckpt_path=start.path if start else None)
    made = trainer.global_step
    if made < steps and trainer.ended_by != SEEN_ENOUGH and not may_end_early:
        why = trainer.ended_by or "the training loop ended"
        raise EndedEarlyError(f"a short run ended early after {made} of {steps} steps: {why}")
    return trainer, module, data


NEVER = 10**9  # epochs between two validations


def whole_horizon(config: Config, folder: Path) -> Horizon:
    """How long the run is that these are like, from the batches of its data."""
    trainer = build_trainer(build.lightning_options(config), folder, [], config.trainer.log_every)
    return count_horizon(config, ready_data(build.build_data(config), trainer, config.seed), trainer.world_size)
