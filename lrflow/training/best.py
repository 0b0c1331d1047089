"""The best checkpoint of a run: which one it is, and its file `best.ckpt`, a copy that a resumed run makes again."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lrflow.errors import Problem, did_you_mean
from lrflow.files import copy_whole
from lrflow.metric import LOSS, Metric
from lrflow.seal import find_damage
from lrflow.training.checkpoint_file import making_room, step_in
from lrflow.training.metric_reading import progress_metrics

log = logging.getLogger("lrflow")


class Best:
    """The best checkpoint of a run by a metric. Only one that was written counts.

    Args:
        path: path of `best.ckpt`.
        metric: decides which checkpoint is the best; None keeps none.

    Attributes:
        value: the metric of the best validation so far; None: there is none.
        step: its optimizer step; None: there is none, or it is unknown.
        missing: the message on a metric that the first validation did not log; None for the default metric, which a
            run may lack.
    """

    def __init__(self, path: Path, metric: Metric | None) -> None:
        self.path, self._metric = path, metric
        self.value: float | None = None
        self.step: int | None = None
        self.missing: str | None = None
        self._written: tuple[float | None, int | None] = (None, None)
        self._unwritten: tuple[int, float | None] | None = None  # step and value of one that failed to write
        self._reported: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps."""
        return {"best": self.value, "best_step": self.step, "metric": str(self._metric)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; it is dropped if the run now uses another metric."""
        metric = str(self._metric)
        if state.get("metric", metric) == metric:
            self._written = self.value, self.step = state["best"], state.get("best_step")

    def improves(self, trainer: pl.Trainer) -> bool:
        """Whether the latest validation is the best so far; stores its value if so.

        Reports, once each, metrics of the validation that are not finite; such a value is never the best.
        """
        logged = trainer.callback_metrics.get(self._metric.name) if self._metric else None
        # The first process decides: a user's metric may differ between devices, and either all of them save or none.
        own = None if logged is None else float(logged)
        better = own is not None and self._metric is not None and self._metric.better(own, self.value)
        value, better = trainer.strategy.broadcast((own, better))
        self._report_not_finite(trainer)
        if self._metric is None:
            return False
        if value is None:
            name, self._metric = self._metric.name, None
            hint = did_you_mean(name, trainer.callback_metrics) or "the module logs none"
            if name == LOSS:
                log.warning("no best checkpoint is kept: there is no metric %r; %s", name, hint)
            else:
                message = (
                    f"the validation at step {trainer.global_step} logged no such metric, so none would be the best"
                )
                self.missing = str(Problem("trainer.checkpoint.monitor", message, name, hint))
            return False
        if better:
            self.value = value
        return bool(better)

    def _report_not_finite(self, trainer: pl.Trainer) -> None:
        found = {name: value for name, value in progress_metrics(trainer).items() if not math.isfinite(value)}
        for name in found.keys() - self._reported if trainer.is_global_zero else ():
            so = ", and so not the best" if self._metric and name == self._metric.name else ""
            log.warning("step %d: %s is %s in the validation%s", trainer.global_step, name, found[name], so)
        self._reported |= found.keys()

    def claim(self, step: int, best: bool) -> bool:
        """Whether the checkpoint that is about to be saved is the best: it is new, or failed to write before.

        Args:
            step: of the checkpoint.
            best: whether it has the best validation.
        """
        if self._unwritten and self._unwritten[0] == step:
            best, self.value = True, self._unwritten[1]
        if best:
            self.step = step
        return best

    def give_up(self, failed: bool = False) -> None:
        """Return to the best that is written; the next one that beats it becomes the best.

        Args:
            failed: whether the checkpoint could not be written, so that it is tried again at the same step.
        """
        if failed and self.step is not None:
            self._unwritten = self.step, self.value
        self.value, self.step = self._written

    def write(self, source: Path, spare: Callable[[], Sequence[Path]]) -> None:
        """Copy the checkpoint that was claimed; if that fails, the earlier one stays and a warning says so.

        Args:
            source: the checkpoint.
            spare: returns the checkpoints that may be deleted where there is no space.
        """
        if self._copy(source, spare):
            self._unwritten, self._written = None, (self.value, self.step)
        else:
            self.give_up()

    def restore(self, sources: Sequence[Path]) -> None:
        """Make `best.ckpt` the best checkpoint again if a killed process left another one or none.

        Args:
            sources: checkpoints that may be of its step.
        """
        if self.value is None or self.step is None:
            return
        found = step_in(self.path)
        if found == self.step:
            return
        was = "missing or damaged" if found is None else f"of step {found}"
        for source in sources:
            if step_in(source) == self.step and find_damage(source) is None and self._copy(source):
                log.warning("%s was %s; it is now a copy of %s", self.path, was, source.name)
                return
        if found is None or found < self.step:  # a later one is made again by the resumed run
            log.warning(
                "%s is %s, and the best one, of step %d, is gone: the next is the best", self.path, was, self.step
            )
            self.value = self.step = None
            self._written = (None, None)

    def _copy(self, source: Path, spare: Callable[[], Sequence[Path]] = tuple) -> bool:
        try:
            making_room(spare, lambda: copy_whole(source, self.path))
        except OSError as error:
            log.warning("%s: could not be written: %s; an earlier one is kept", self.path, error.strerror)
            return False
        return True
