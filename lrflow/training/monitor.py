"""The base class of whatever watches a run."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning import Callback

from lrflow.config import Config, instantiate
from lrflow.errors import ConfigError, Problem
from lrflow.plan import Plan
from lrflow.training.signals import Block, Signals


@dataclass(frozen=True)
class Watched:
    """What a monitor can know of its run before the first step.

    Args:
        trainer: with its loggers, its precision and its devices.
        data: set up for training.
        plan: the plan being executed; `plan.horizon` turns durations into steps.
        folder: the run folder.
        seed: the run's.
        signals: collects what the monitor is handed; its clock can be restarted after slow work between steps.
    """

    trainer: pl.Trainer
    data: pl.LightningDataModule
    plan: Plan
    folder: Path
    seed: int
    signals: Signals


class Monitor(Callback):
    """Watches a run: a Lightning callback that is also handed the signals of every optimizer step.

    Each monitor has a config node of its own, `health.NAME`, with its `_target_` and arguments. A subclass overrides
    what it needs of:

    - `on_block`: is handed every step once, in order, a few at a time, on every rank. Where one block ends and the
      next begins depends on the clock and on when the run validates and saves, so findings must not depend on it.
    - `before_save`: is called before each checkpoint is written, after all steps so far have been handed over. It may
      raise, so that a broken state is never saved.
    - every hook of a Lightning callback. What a monitor does to the module and to the random number generators it has
      to undo: see `lrflow.training.isolation.isolated`.
    - `state_dict` and `load_state_dict`: its state in the checkpoint, plain data, tensors or NumPy values, so that
      a resumed run goes on bit for bit.

    An `LrflowError` raised in any of them ends the run as diverged or failed, with its message.

    Attributes:
        name: the config key below `health`; it names the state in the checkpoint. Empty outside a configured run.
        run: the run; set before Lightning's first hook.
    """

    name: str = ""
    run: Watched

    @property
    def active(self) -> bool:
        """Whether it watches anything as it is configured; one that does not is left out of the run."""
        return True

    def begin(self, name: str, run: Watched) -> None:
        """Learn what is watched; called once, when the run has been prepared.

        Args:
            name: the config key below `health`.
            run: what is known of the run.

        Raises:
            ConfigError: the monitor cannot watch this run.
        """
        self.name, self.run = name, run

    def describe(self) -> str | None:
        """A line that is printed before the run starts; None: nothing."""
        return None

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        """Look at the signals of consecutive optimizer steps."""

    def before_save(self, trainer: pl.Trainer) -> None:
        """Look at the state that is about to be saved; raise an `LrflowError` to prevent it."""

    @property
    def state_key(self) -> str:
        """Names the state in a checkpoint: two monitors of one class are told apart by their config keys."""
        return f"health.{self.name}" if self.name else super().state_key


def monitors(trainer: pl.Trainer) -> Iterator[Monitor]:
    """The monitors among a trainer's callbacks, in their order."""
    return (one for one in trainer.callbacks if isinstance(one, Monitor))  # type: ignore[attr-defined]


def build_monitors(config: Config, run: Watched, only: Collection[str] | None = None) -> list[Monitor]:
    """Build the monitors of a run, and let each see what it watches.

    Args:
        config: of the run.
        run: what they watch.
        only: names in `health`; None: all.

    Returns:
        Those that have something to do, in the order of the config.

    Raises:
        ConfigError: some cannot watch this run, or a node builds no monitor; lists all of them.
    """
    found: list[Monitor] = []
    problems: list[Problem] = []
    for name, node in config.monitors.items():
        if only is not None and name not in only:
            continue
        try:
            monitor = instantiate(node)
            if not isinstance(monitor, Monitor):
                kind = type(monitor).__name__
                message = f"builds {'an' if kind[0] in 'AEIOU' else 'a'} {kind}, which is no lrflow.health.Monitor"
                hint = (
                    "return it from configure_callbacks of your LightningModule"
                    if isinstance(monitor, pl.Callback)
                    else None
                )
                raise ConfigError([Problem(f"health.{name}._target_", message, node["_target_"], hint)])
            if monitor.active:
                monitor.begin(name, run)
                found.append(monitor)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found
