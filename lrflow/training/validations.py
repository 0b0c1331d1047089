"""When a run validates."""

from __future__ import annotations

from dataclasses import dataclass

from lrflow.schedules import Duration, Horizon


@dataclass(frozen=True)
class ValidationTimes:
    """When a run validates before its end; one of these is given.

    Args:
        epochs: at the end of every so many epochs, as long as the data make them.
        share: after every such share of an epoch's batches.
        steps: after every so many optimizer steps, over all of the run.
    """

    epochs: int | None = None
    share: float | None = None
    steps: int | None = None

    @classmethod
    def of(cls, every: Duration, horizon: Horizon) -> ValidationTimes:
        """Whole epochs, a share of one, or what else in steps: shares of the run, and one and a half epochs."""
        if every.whole_epochs:
            return cls(epochs=every.whole_epochs)
        if every.unit == "epochs" and every.value < 1:
            return cls(share=float(every.value))
        return cls(steps=max(1, every.steps(horizon)))

    def after_epoch(self, epochs: int) -> bool:
        """Whether it does so at the end of an epoch.

        Args:
            epochs: that are over.
        """
        return self.epochs is not None and epochs % self.epochs == 0

    def after_batch(self, batch: int, batches: int, steps: int | None) -> bool:
        """Whether it does so after a batch, wherever in an epoch that is.

        Args:
            batch: its number in the epoch, from 1.
            batches: of the epoch.
            steps: of the run that are made; None: the batch made none.
        """
        if self.share is not None:
            return batch % max(1, int(batches * self.share)) == 0
        return self.steps is not None and steps is not None and steps % self.steps == 0
