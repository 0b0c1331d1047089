"""Where a run stands in its data, told to Lightning's loops so that they go on there exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.progress import _ProcessedTracker


@dataclass(frozen=True)
class Position:
    """The next batch of a run.

    Args:
        epoch: the epoch it belongs to, from 0.
        batch: its number in that epoch, from 0; batches of this device.
        seen: batches behind it, over all epochs.
    """

    epoch: int = 0
    batch: int = 0
    seen: int = 0

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Position:
        """Where a trainer stands after a batch, before the next one."""
        loop = trainer.fit_loop
        progress = loop.epoch_loop.batch_progress
        begun = loop.epoch_progress.current
        assert isinstance(begun, _ProcessedTracker)
        epoch, batch = begun.started - 1, progress.current.ready
        if progress.is_last_batch or batch >= trainer.num_training_batches:
            return cls(epoch + 1, 0, progress.total.ready)
        return cls(epoch, batch, progress.total.ready)

    def as_dict(self) -> dict[str, int]:
        """Plain data for a checkpoint."""
        return asdict(self)

    def write_into(self, loops: dict[str, Any]) -> None:
        """Rewrite the state of Lightning's loops so that they resume at this position.

        Lightning saves its counters as they stand inside whatever hook saves, and tells from their differences
        where it was; several of those places resume wrongly (an epoch's end counts an empty epoch, a step's end
        skips its validation; 2.6.6). Two places are enough, and both resume exactly: between two batches of an
        epoch, all counters equal and the epoch begun; between two epochs, all counters equal and none begun.

        Args:
            loops: `checkpoint["loops"]["fit_loop"]`, changed in place.
        """
        begun = self.epoch + (1 if self.batch else 0)
        epochs = {"ready": begun, "started": begun, "processed": self.epoch, "completed": self.epoch}
        loops["epoch_progress"] = {"total": epochs, "current": dict(epochs)}
        loops["epoch_loop.batch_progress"] = {
            "total": _all(self.seen),
            "current": _all(self.batch),
            "is_last_batch": False,
        }
        validation = loops["epoch_loop.val_loop.batch_progress"]
        validation["total"] = validation["current"] = _all(0)


START = Position()


def stand_at(trainer: pl.Trainer, step: int, steps_per_epoch: int) -> None:
    """Set the counters of a trainer as they are after so many steps of one batch each, before a validation.

    For a loop that is not Lightning's, whose trainers still save checkpoints and tell where they are.

    Args:
        trainer: changed in place.
        step: optimizer steps done, at least one.
        steps_per_epoch: batches of an epoch.
    """
    epoch, batch = divmod(step - 1, steps_per_epoch)
    fit, loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    counts = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
    fit.epoch_progress.load_state_dict({"total": counts, "current": counts})
    last = batch + 1 == steps_per_epoch
    loop.batch_progress.load_state_dict({"total": _all(step), "current": _all(batch + 1), "is_last_batch": last})
    loop._batches_that_stepped = step
    loop.scheduler_progress.total.ready = loop.scheduler_progress.total.completed = step
    optimizer = loop.automatic_optimization.optim_progress.optimizer
    for progress in (optimizer.step.total, optimizer.zero_grad.total):
        progress.ready = progress.completed = step


def _all(count: int) -> dict[str, int]:
    return {"ready": count, "started": count, "processed": count, "completed": count}
