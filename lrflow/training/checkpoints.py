"""When a run is saved, and how it is put back: interrupted equals uninterrupted.

Optimizer state from one grouping of the parameters to another.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from lrflow.errors import LrflowError, StoppedError, did_you_mean
from lrflow.files import link_whole
from lrflow.metric import Metric
from lrflow.runs import BEST, RunFolder, checkpoints_in
from lrflow.schedules import Duration, Horizon
from lrflow.training.interrupt import StopRequest
from lrflow.training.loaders import Position
from lrflow.training.loggers import drop_rows_from
from lrflow.training.loops import AfterModuleHooks
from lrflow.training.monitor import monitors
from lrflow.training.signals import Signals
from lrflow.training.state import UnsavedStateCheck, random_state, set_random_state


def regroup(
    state: dict[str, Any],
    before: Sequence[Sequence[str]],
    now: Sequence[Sequence[str]],
    routes: Sequence[str | None] = (),
) -> dict[str, Any]:
    """An optimizer's state for other groups of the same parameters, so that their momentum is carried over by name.

    A parameter that another optimizer is to train starts without state, which would mean nothing to that one.

    Args:
        state: of `Optimizer.state_dict()`, whose numbers count the parameters in the order of `before`.
        before: names of the parameters of each group, when it was saved.
        now: names of the parameters of each group of the optimizer that is to load it.
        routes: of these groups; empty: none of them is routed.
    """
    number = {name: index for index, name in enumerate(name for group in before for name in group)}
    home = {name: group for group, names in zip(state["param_groups"], before, strict=True) for name in names}
    states, groups, count = {}, [], 0
    for names, route in zip(now, routes or [None] * len(now), strict=True):
        stayed = {name for name in names if name in home and home[name].get("route") == route}
        alike = [*(home[name] for name in names if name in stayed), *_of_route(state, route), state["param_groups"][0]]
        groups.append({**alike[0], "params": list(range(count, count + len(names)))})
        for name in names:
            if name in stayed and number[name] in state["state"]:
                states[count] = state["state"][number[name]]
            count += 1
    return {"state": states, "param_groups": groups}


def _of_route(state: dict[str, Any], route: str | None) -> list[dict[str, Any]]:
    return [group for group in state["param_groups"] if group.get("route") == route]


log = logging.getLogger("lrflow")


class Checkpoints(AfterModuleHooks, Checkpoint):
    """Saves whole runs at optimizer-step boundaries, after the validation that belongs there, and resumes them.

    A checkpoint holds, besides what Lightning puts there, the state of every random number generator, the
    position in the data, and `extra`. Lightning alone saves none of these, and saves a step's checkpoint before
    the step's validation (2.6.6).

    Args:
        folder: where checkpoints go: `step-0000100.ckpt`, and `best.ckpt` for the best by `metric`.
        horizon: turns `every` into steps.
        every: how often to save; whole epochs are those that the data really have. None saves only when the run ends
            or is asked to stop.
        keep: how many of the latest to keep; None keeps all.
        metric: decides which is best; None keeps no best one.
        stop: tells when the run was asked to stop.
        agree_every: on several devices, steps between two questions whether one was asked to stop.
        groups: the names of the parameters in each of the optimizer's groups.
        routes: the route of each of these groups; empty: none is routed.
        extra: plain data to save under `lrflow` in each checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        horizon: Horizon,
        every: Duration | None,
        keep: int | None = 2,
        metric: Metric | None = None,
        stop: StopRequest | None = None,
        agree_every: int = 50,
        groups: Sequence[Sequence[str]] = (),
        routes: Sequence[str | None] = (),
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.best: float | None = None
        self._best_kept: float | None = None  # that of best.ckpt
        self._missed: tuple[int, float | None] | None = None  # a best one that could not be written: its step, value
        self._each_epochs = every.whole_epochs if every else None
        self._every = max(1, every.steps(horizon)) if every and not self._each_epochs else None
        self._keep = keep
        self._metric = metric
        self.stop = stop or StopRequest()
        self._agree_every = agree_every
        self._groups = [list(names) for names in groups]
        self._routes = list(routes) or [None] * len(self._groups)
        self._extra = extra or {}
        self._step = 0
        self._saved_step = -1
        self._saved: Path | None = None
        self._failure: OSError | None = None
        self._at_boundary = True  # not within an accumulation window, whose gradients no checkpoint holds
        self._due = self._due_best = False
        self._restored: dict[str, Any] | None = None
        self._relabel = False
        self._unsaved = UnsavedStateCheck()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put a resumed run's generators back: after its iterator was made, before its first batch is fetched."""
        self._step = trainer.global_step
        self.stop.listen(trainer)
        if trainer.is_global_zero:
            self._unsaved.begin(pl_module)
        if self._restored is not None:
            set_random_state(self._restored)
            drop_rows_from(trainer, trainer.global_step)
            self._saved_step = trainer.global_step
            self._relabel = True
            self._restored = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Right after resuming, put back the counter that Lightning labels its rows with."""
        if self._relabel:
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
            self._relabel = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At a step boundary, see whether to save; a validation or an epoch's end here has to come first."""
        self._unsaved.after_batch(pl_module)
        step = trainer.global_step
        self._at_boundary = step != self._step
        if not self._at_boundary:
            return
        self._step = step
        if self._every and step % self._every == 0:
            self._due = True
        if trainer.world_size == 1 or step % self._agree_every == 0:
            self._due |= self.stop.agreed(trainer)
        if self._due or self._due_best:
            loop = trainer.fit_loop.epoch_loop
            last = loop.batch_progress.is_last_batch or step == trainer.max_steps
            fetcher = trainer.fit_loop._data_fetcher
            assert fetcher is not None
            validates = loop._should_check_val_fx(fetcher) and sum(trainer.num_val_batches) > 0
            if not last and not validates:
                self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See whether it is the best so far."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._due_best |= self.improves(trainer)

    def after_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what waited for this validation, and for its traces to be undone."""
        self._due |= self.stop.agreed(trainer)
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or trainer.global_step == trainer.max_steps
        if (self._due or self._due_best) and self._at_boundary and not last:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where the end of the epoch is due, and what waited for it."""
        if self._each_epochs and (trainer.current_epoch + 1) % self._each_epochs == 0:
            self._due = True
        self._due |= self.stop.agreed(trainer)
        if self._due or self._due_best:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the run, if that was not just done.

        Raises:
            LrflowError: the last state could not be written.
        """
        if self._saved_step != trainer.global_step:
            self._save(trainer)
        if self._failure:
            raise LrflowError(f"{self.folder}: the last checkpoint could not be written: {self._failure.strerror}")

    def state_dict(self) -> dict[str, Any]:
        """What of this callback belongs to the run."""
        return {"best": self.best, "metric": str(self._metric)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best value of the run so far; what is best by another metric is found anew."""
        metric = str(self._metric)
        self.best = self._best_kept = state_dict["best"] if state_dict.get("metric", metric) == metric else None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning leaves out."""
        position = Position.of(trainer)
        position.write_into(checkpoint["loops"]["fit_loop"])
        checkpoint["lrflow"] = {
            **checkpoint.get("lrflow", {}),
            **self._extra,
            "groups": self._groups,
            "accumulate": trainer.accumulate_grad_batches,
            "position": position.as_dict(),
            "random": _random_states(trainer),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Fit the optimizer's state to the groups of this run, and keep the generators until training starts."""
        if trainer.state.fn == "fit":
            before, saved = checkpoint["lrflow"]["groups"], checkpoint["optimizer_states"][0]
            routes = [group.get("route") for group in saved["param_groups"]]
            if (before, routes) != (self._groups, self._routes):
                checkpoint["optimizer_states"] = [regroup(saved, before, self._groups, self._routes)]
            states = checkpoint["lrflow"]["random"]
            self._restored = states[trainer.global_rank % len(states)]

    def improves(self, trainer: pl.Trainer) -> bool:
        """Whether the validation that was just made is the best so far; notes it."""
        found = trainer.callback_metrics.get(self._metric.name) if self._metric else None
        # The first process decides: a user's metric may differ between devices, and all of them save or none.
        known = None if found is None else float(found)
        better = known is not None and self._metric is not None and self._metric.better(known, self.best)
        value, better = trainer.strategy.broadcast((known, better))
        if self._metric is None:
            return False
        if value is None:
            name, self._metric = self._metric.name, None
            hint = did_you_mean(name, trainer.callback_metrics) or "the module logs none"
            log.warning("no best checkpoint is kept: there is no metric %r; %s", name, hint)
            return False
        if better:
            self.best = value
        return bool(better)

    def save(self, trainer: pl.Trainer, best: bool = False) -> None:
        """Save now, as the best so far or as one of the latest: for a loop that is not Lightning's.

        Raises:
            StoppedError: the run was asked to stop.
        """
        self._due_best = best
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint; one that fails leaves the earlier ones and lets the run go on."""
        best, self._due, self._due_best = self._due_best, False, False
        if self._missed and self._missed[0] == trainer.global_step:
            best, self.best = True, self._missed[1]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Signals):
                callback.flush(trainer)
        for monitor in monitors(trainer):
            monitor.before_save(trainer)
        self._unsaved.at_save(trainer.lightning_module)
        path = self.folder / f"step-{trainer.global_step:07d}.ckpt"
        self._failure = None
        try:
            trainer.save_checkpoint(path)
        except OSError as error:
            self._failure = error
            if best:  # a later one that is better than the best on the disk is the best
                self._missed, self.best = (trainer.global_step, self.best), self._best_kept
            log.warning("%s: could not be written: %s; the run goes on, earlier ones are kept", path, error.strerror)
            trainer.strategy.barrier("after a failed save")
        else:
            self._saved, self._saved_step = path, trainer.global_step
            if best:
                self._missed, self._best_kept = None, self.best
            if trainer.is_global_zero:
                self._tidy(path, best)
        if self.stop.signal is not None:
            done = f"stopped as asked after {trainer.global_step} steps"
            if self._saved is None:
                raise StoppedError(f"{done}; nothing could be saved", self.stop.exit_code)
            go_on = f"saved as {self._saved}; go on with resume={RunFolder.of(self._saved).path}"
            raise StoppedError(f"{done}; {go_on}", self.stop.exit_code)

    def _tidy(self, path: Path, best: bool) -> None:
        """Give the best one its second name, and let go of the oldest and of what a killed process left."""
        if best:
            link_whole(path, self.folder / BEST)
        if self._keep is not None:
            for old in checkpoints_in(self.folder)[: -self._keep]:
                old.unlink(missing_ok=True)
        for left in self.folder.glob(".*.part"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)


def _random_states(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """The generators of every rank, in order; on all of them."""
    states: list[Any] = [random_state()]
    if trainer.world_size > 1:
        states = [None] * trainer.world_size
        torch.distributed.all_gather_object(states, random_state())
    return states
