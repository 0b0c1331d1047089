"""The base class of monitors, which watch a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning import Callback

from lrflow.plan import Plan
from lrflow.schedules import Horizon
from lrflow.training.block import Block
from lrflow.training.findings import Findings
from lrflow.training.signals import Signals


@dataclass(frozen=True)
class Watched:
    """The run that a monitor watches, as it is before the first step.

    Args:
        trainer: with its loggers, its precision and its devices.
        data: set up for training.
        plan: the plan of the run.
        folder: the run folder.
        seed: seed of the run.
        signals: collects the signals that monitors receive; restart its clock after slow work between steps.
        lr: `optimizer.lr` of the config.
        length: the length of a run without its cooldown, if it is resumed in one; None: that of the plan.
        findings: receives what monitors find.
    """

    trainer: pl.Trainer
    data: pl.LightningDataModule
    plan: Plan
    folder: Path
    seed: int
    signals: Signals
    lr: float
    length: Horizon | None = None
    findings: Findings = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "findings", Findings(self.folder))

    @property
    def horizon(self) -> Horizon:
        """The length of the run, which converts durations into steps."""
        return self.length or self.plan.horizon


class Monitor(Callback):
    """Watches a run: a Lightning callback that also receives the signals of every optimizer step.

    Each monitor has its own config node, `health.NAME`, with its `_target_` and arguments. A subclass overrides any of:

    - `on_block`: receives every step once, in order, several at a time, on every rank. The boundaries of blocks depend
      on the clock and on when the run validates and saves, so results must not depend on them.
    - `on_sharpness`: receives each measurement of the sharpness, if the run makes any.
    - `before_save`: runs before each checkpoint is written, after `on_block` has received all steps so far. It may
      raise to prevent saving a broken state.
    - `on_not_finite`: runs before a checkpoint is written whose tensors are not all finite. It may raise, too.
    - every hook of a Lightning callback. A monitor has to undo its changes to the module and to the random number
      generators: see `lrflow.training.isolation.isolated`.
    - `state_dict` and `load_state_dict`: its state in the checkpoint (plain data, tensors or NumPy values), so that a
      resumed run continues bit for bit.

    What it finds it passes to `self.run.findings.report`. An `LrflowError` raised in any of these hooks ends the run as
    diverged or failed, with its message.

    Attributes:
        name: the config key below `health`, which also names the state in the checkpoint. Empty outside a configured
            run.
        run: the run; set before Lightning's first hook.
    """

    name: str = ""
    run: Watched

    @property
    def active(self) -> bool:
        """Whether its configuration makes it watch anything; an inactive monitor is not added to the run."""
        return True

    def begin(self, name: str, run: Watched) -> None:
        """Receive the run to watch; called once, when the run has been prepared.

        Args:
            name: the config key below `health`.
            run: the run.

        Raises:
            ConfigError: the monitor cannot watch this run.
        """
        self.name, self.run = name, run

    def describe(self) -> str | None:
        """Return a line to print before the run starts, or None."""
        return None

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        """Receive the signals of consecutive optimizer steps."""

    def on_sharpness(self, step: int, top: float, share: float) -> None:
        """Receive a measurement of the sharpness and of the share of the stability bound, before a step."""

    def before_save(self, trainer: pl.Trainer) -> None:
        """Check the state before it is saved; raise an `LrflowError` to prevent saving."""

    def on_not_finite(self, trainer: pl.Trainer, names: Sequence[str]) -> None:
        """Receive the names of a checkpoint's tensors that are not finite; raise an `LrflowError` to prevent saving.

        Besides the weights these may be buffers, averages of the weights and the optimizer's state.
        """

    @property
    def state_key(self) -> str:
        """The key of the state in a checkpoint; the config key distinguishes monitors of the same class."""
        return f"health.{self.name}" if self.name else super().state_key


def monitors(trainer: pl.Trainer) -> Iterator[Monitor]:
    """Return the monitors among a trainer's callbacks, in their order."""
    return (one for one in trainer.callbacks if isinstance(one, Monitor))  # type: ignore[attr-defined]


def look(trainer: pl.Trainer) -> None:
    """Let monitors see all steps so far and the state after them, before it is saved or kept."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Signals):
            callback.flush(trainer)
    for monitor in monitors(trainer):
        monitor.before_save(trainer)
