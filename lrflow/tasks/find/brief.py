"""A run that is cut short and thrown away, by Lightning's loop: what a range test and its confirmation are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytorch_lightning as pl

from lrflow.config import Config
from lrflow.config.combinations import check_combination
from lrflow.errors import ConfigError
from lrflow.layers import Group
from lrflow.plan import Plan
from lrflow.tasks import build
from lrflow.tasks.data import ready_data
from lrflow.tasks.train import freezing, lightning_options
from lrflow.training import EvaluationWeights
from lrflow.training.supply import supply_optimizer
from lrflow.training.trainer import build_trainer


def brief_fit(
    config: Config,
    seed: int,
    steps: int,
    folder: Path,
    plan_of: Callable[[Sequence[Group]], Plan],
    callback_of: Callable[[Plan], pl.Callback],
) -> tuple[pl.Trainer, pl.LightningModule, pl.LightningDataModule]:
    """Train a new model for some steps, without validation, under a plan of its own.

    Args:
        config: of the run that it is like.
        seed: of the model and the order of the data.
        steps: optimizer steps.
        folder: of the run; nothing is written there.
        plan_of: makes the plan, of the groups at the run's own peak.
        callback_of: makes what listens, of the plan.

    Raises:
        ConfigError: the options do not go together.
    """
    pl.seed_everything(seed, verbose=False)
    options = lightning_options(config) | {"max_epochs": -1, "max_steps": steps}
    trainer = build_trainer(options, folder, [], config.trainer.log_every)
    trainer.check_val_every_n_epoch = NEVER
    if problems := check_combination(config, trainer.world_size):
        raise ConfigError(problems)
    data, module = ready_data(config, trainer, seed), build.build_module(config)
    groups = build.build_groups(config, module, trainer.world_size)
    plan = plan_of(groups)
    routes = {name: route.node() for name, route in config.optimizer.routes.items()}
    compiled = config.trainer.compile and not plan.moved
    make = partial(build.make_optimizer, config, groups, compiled=compiled)
    supply_optimizer(module, plan, make, config.optimizer.node(), compiled, routes)
    trainer.callbacks += [  # type: ignore[attr-defined]
        EvaluationWeights(config.trainer.batch_norm_batches, seed),
        *freezing(config, module, plan, groups),
        callback_of(plan),
    ]
    trainer.fit(module, datamodule=data)
    return trainer, module, data


NEVER = 10**9  # epochs between two validations
