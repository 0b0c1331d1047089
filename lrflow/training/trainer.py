"""Lightning's Trainer, set up so that lrflow's plan, signals and checkpoints are all that acts on the run.

Which of several processes this one is.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lrflow.errors import ConfigError, Problem
from lrflow.plan import PlanChangedWarning
from lrflow.schedules import Duration, Horizon
from lrflow.training.checkpoint_file import AtomicCheckpointIO
from lrflow.training.loops import FitLoop, WindowMean
from lrflow.training.metrics import ValidationTimes
from lrflow.training.parameters import CoverageCheck


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

SHORT_RUN_DONE = "lrflow has seen enough"
"""The reason of a stop by what a short run was made for."""


class Trainer(pl.Trainer):
    """A Trainer whose only limit is the horizon of its run, and that knows what ended the run before.

    Attributes:
        horizon: of the run; None until `run_for`.
    """

    fit_loop: FitLoop

    def __init__(self, **options: Any) -> None:
        self.horizon: Horizon | None = None
        self._ended_by: str | None = None
        self._ender: object = None
        super().__init__(max_epochs=-1, **options)
        self.fit_loop = FitLoop(self)

    def run_for(self, horizon: Horizon) -> None:
        """Make exactly the steps of a horizon, over as many epochs as they take."""
        self.horizon = horizon
        self.fit_loop.epoch_loop.max_steps = horizon.steps
        self.fit_loop.epoch_loop.steps_per_epoch = horizon.steps_per_epoch

    def stop(self, why: str) -> None:
        """End the run after this step, for a reason that its outcome tells."""
        self._ended_by = self._ended_by or why
        self.should_stop = True

    @property
    def ended_by(self) -> str | None:
        """What asked it to stop before the last step, with its own words where it has any; None: nothing did."""
        words = getattr(self._ender, "stopping_reason_message", None)  # EarlyStopping sets it after it has asked
        if not (self._ended_by and words):
            return self._ended_by
        return f"{self._ended_by}: {str(words).removesuffix(' Signaling Trainer to stop.').rstrip('.')}"

    @property
    def is_last_step_validated(self) -> bool:
        """Whether the weights are those of the last validation of the fit, or are not to be validated."""
        loop = self.fit_loop.epoch_loop
        return loop.is_validated or not loop.validates_at_end or not self.enable_validation

    @property
    def should_stop(self) -> bool:
        """Whether the run is to end after this step."""
        return self._should_stop

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        self._should_stop = bool(value)
        if not value:
            self._ended_by = self._ender = None
        elif self._ended_by is None:
            self._ended_by, self._ender = _stop_requester(sys._getframe(1))

    @property
    def max_epochs(self) -> int:
        """Epochs that the plan counts, for modules that ask; -1 where nobody knows them. They end nothing."""
        if self.horizon is None or self.horizon.steps_per_epoch is None:
            return -1
        return max(math.ceil(self.horizon.epochs), self.current_epoch)


def _stop_requester(frame: FrameType | None) -> tuple[str, object]:
    """Which callback or module a frame belongs to, as the reason of a stop, and the very one."""
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
    """A Trainer without Lightning's own progress bar, summary, sanity check, sampler and checkpoints.

    How long it trains is told by `Trainer.run_for`.

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
    accumulate = given.get("accumulate_grad_batches", 1)
    try:
        return Trainer(
            **given,
            default_root_dir=folder,
            logger=list(loggers) or False,
            log_every_n_steps=log_every,
            callbacks=[CoverageCheck(), *([WindowMean(accumulate)] if accumulate > 1 else [])],
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


def validate_every(trainer: Trainer, every: Duration, horizon: Horizon) -> None:
    """Set how often a trainer validates; it does so at the end of the run as well.

    Whole epochs are those that the data really have. Shares of one are counted in batches of the length that the data
    say; steps, shares of the run and one and a half epochs in optimizer steps over all of the run.
    """
    loop = trainer.fit_loop.epoch_loop
    loop.validates_at_end = True
    loop.validations = times = ValidationTimes.of(every, horizon)
    # Lightning asks at the end of each so many epochs, or after every batch: which of them, the loop tells.
    trainer.val_check_interval = 1.0 if times.epochs else 1
    trainer.check_val_every_n_epoch = times.epochs or (1 if times.share else None)


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
        "There is a performance drop because we have not yet implemented the batching rule.*",  # populations are timed
        "Using backward.. with create_graph=True will create a reference cycle.*",  # which is broken after the step
        ".*`isinstance.treespec, LeafSpec.`.*",
        ".*Total length of `list` across ranks is zero.*",  # a data module may hold nothing out
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def rank() -> int:
    """The global rank, known from the environment before any Trainer is made; 0 for a single process."""
    return int(getattr(rank_zero_only, "rank", 0) or 0)
