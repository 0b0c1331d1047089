"""A run that is cut short and thrown away, by Lightning's loop: what a range test and its confirmation are made of.

Starting a sweep in the middle of a run: with all that its checkpoint holds, at the first step of another plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lrflow import assemble
from lrflow.config import Config
from lrflow.config.compatibility import check_combination
from lrflow.errors import ConfigError, EndedEarlyError
from lrflow.layers import Group, merge
from lrflow.plan import Plan
from lrflow.schedules import Duration, Horizon
from lrflow.training import EvaluationWeights
from lrflow.training.checkpoint_file import AtomicCheckpointIO
from lrflow.training.checkpoints import regroup
from lrflow.training.configure_optimizers import supply_optimizer
from lrflow.training.isolation import UndisturbedByValidation
from lrflow.training.loaders import count_horizon, set_up_data
from lrflow.training.resume import Resumed
from lrflow.training.trainer import SHORT_RUN_DONE, Trainer, build_trainer, validate_every


class RestartingCheckpointIO(AtomicCheckpointIO):
    """Reads a checkpoint for a training that begins where it stands, but counts its own steps from 0.

    Weights, buffers, the optimizer's state, what the data module and the module have saved, and the place in the data
    are the checkpoint's; the plan is the sweep's. The generators are not put back: each sweep draws from its own seed.

    Args:
        groups: that the optimizer is made of; its state is fitted to them.
        plan: of the sweep.
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
        """Read it, and turn the counters of optimizer steps back."""
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
            that `watching` ends by `Trainer.stop(SHORT_RUN_DONE)` always does.

    Raises:
        ConfigError: the options do not go together.
        LrflowError: the checkpoint is of another model.
        EndedEarlyError: something else ended it.
    """
    pl.seed_everything(seed, verbose=False)
    trainer = build_trainer(assemble.lightning_options(config), folder, [], config.trainer.log_every)
    trainer.run_for(Horizon(steps))
    if val_every is None:
        trainer.check_val_every_n_epoch = NEVER
    else:
        validate_every(trainer, Duration(val_every, "steps"), Horizon(steps))
    if problems := check_combination(config, trainer.world_size):
        raise ConfigError(problems)
    data = set_up_data(assemble.build_data(config), trainer, seed, start.position if start else None)
    module = assemble.build_module(config, start is None, trainer, data)
    if start is None:
        assemble.check_metrics(config, module)
    if start:
        start.check(module)
    groups = assemble.build_groups(config, module, trainer.world_size, data=data)
    plan = plan_of(groups)
    routes = {name: route.node() for name, route in config.optimizer.routes.items()}
    compiled = config.trainer.compile and not plan.scheduled_settings
    make = partial(assemble.make_optimizer, config, groups, compiled=compiled)
    supply_optimizer(module, plan, make, config.optimizer.node(), compiled, routes)
    trainer.callbacks += [  # type: ignore[attr-defined]
        UndisturbedByValidation(),
        EvaluationWeights(config.trainer.batch_norm_batches, seed),
        *assemble.freezing_callbacks(config, module, plan, groups),
        *watching(trainer, data, plan),
    ]
    if start:
        trainer.strategy.checkpoint_io = RestartingCheckpointIO(groups, plan)
    trainer.fit(module, datamodule=data, ckpt_path=start.path if start else None)
    made = trainer.global_step
    if made < steps and trainer.ended_by != SHORT_RUN_DONE and not may_end_early:
        why = trainer.ended_by or "the training loop ended"
        raise EndedEarlyError(f"a short run ended early after {made} of {steps} steps: {why}")
    return trainer, module, data


NEVER = 10**9  # epochs between two validations


def whole_horizon(config: Config, folder: Path) -> Horizon:
    """How long the run is that these are like, from the batches of its data."""
    trainer = build_trainer(assemble.lightning_options(config), folder, [], config.trainer.log_every)
    return count_horizon(config, set_up_data(assemble.build_data(config), trainer, config.seed), trainer.world_size)
