"""Lightning's Trainer, set up so that lrflow's plan, signals and checkpoints are all that acts on the run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lrflow.errors import ConfigError, Problem
from lrflow.plan import PlanChangedWarning
from lrflow.schedules import Duration, Horizon
from lrflow.training.accounting import Accounting
from lrflow.training.checkpoint_io import AtomicCheckpointIO


class NoProfiler(Profiler):
    """Measures nothing, for less: Lightning's own way to do so enters a generator 37 times a step (2.6.6)."""

    def start(self, action_name: str) -> None:
        """Nothing."""

    def stop(self, action_name: str) -> None:
        """Nothing."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """A context that does nothing."""
        return _NOTHING


_NOTHING = nullcontext()


def build_trainer(options: Mapping[str, Any], folder: Path, loggers: Sequence[Logger], log_every: int) -> pl.Trainer:
    """A Trainer without Lightning's own progress bar, summary, sanity check, sampler and checkpoints.

    Args:
        options: Lightning's own arguments; None leaves one at Lightning's default.
        folder: the run folder.
        loggers: what `build_loggers` made.
        log_every: steps between two rows of what a user's own module logs.

    Raises:
        ConfigError: this machine, or Lightning, does not have what the options ask for.
    """
    quieten_lightning()
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return pl.Trainer(
            **given,
            default_root_dir=folder,
            logger=list(loggers) or False,
            log_every_n_steps=log_every,
            callbacks=[Accounting()],
            plugins=[AtomicCheckpointIO()],
            profiler=NoProfiler(),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_autolog_hparams=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ModuleNotFoundError) as error:
        raise ConfigError([_refused(given, str(error))]) from error


def _refused(given: Mapping[str, Any], message: str) -> Problem:
    """What Lightning refused, under the key whose value its message speaks of."""
    for name in ("strategy", "precision", "devices", "accelerator"):
        if name in message or (name in given and f"{given[name]}" in message):
            return Problem(f"trainer.{name}", f"Lightning refuses it: {message.rstrip('.!')}", given.get(name))
    return Problem("trainer", f"Lightning refuses it: {message.rstrip('.!')}")


def validate_every(trainer: pl.Trainer, every: Duration, horizon: Horizon) -> None:
    """Set how often a trainer validates.

    Whole epochs and shares of one are counted in each epoch; steps, shares of the run and one and a half epochs in
    optimizer steps over all of it.
    """
    if every.unit == "epochs" and every.value >= 1 and float(every.value).is_integer():
        trainer.check_val_every_n_epoch = int(every.value)
        trainer.val_check_interval = 1.0
    elif every.unit == "epochs" and every.value < 1:
        trainer.check_val_every_n_epoch = 1
        trainer.val_check_interval = float(every.value)
    else:
        trainer.check_val_every_n_epoch = None
        trainer.val_check_interval = 1  # every batch; which of them, is told by the steps
        _validate_at_steps(trainer, max(1, every.steps(horizon)))


def _validate_at_steps(trainer: pl.Trainer, every: int) -> None:
    """Validate where a multiple of `every` optimizer steps is done.

    Lightning counts batches (2.6.6), of which the last step of an epoch may have fewer than the others.
    """
    loop = trainer.fit_loop.epoch_loop
    by_batch = loop._should_check_val_fx

    def at_steps(fetcher: Any) -> bool:
        done = not loop._should_accumulate() and trainer.global_step % every == 0
        return by_batch(fetcher) and (done or trainer.should_stop)

    loop._should_check_val_fx = at_steps  # type: ignore[method-assign, assignment]


def quieten_lightning() -> None:
    """Keep what Lightning says about itself to warnings that a user can do something about."""
    warnings.filterwarnings("ignore", category=PlanChangedWarning)  # a resumed run says what changed by itself
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*is smaller than the logging interval.*",
        ".*your dataloader is not resumable.*",  # the order of lrflow's loaders is
        ".*Found .* module.s. in eval mode.*",
        "Using backward.. with create_graph=True will create a reference cycle.*",  # which is broken after the step
        ".*`isinstance.treespec, LeafSpec.`.*",
        ".*Total length of `list` across ranks is zero.*",  # a data module may hold nothing out
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
    ):
        warnings.filterwarnings("ignore", message=message)
