"""The callback that saves checkpoints of a run and restores them, so that a resumed run continues exactly.

`regroup` maps saved optimizer state to other parameter groups.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from lrflow.config.literal import in_shell
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

log = logging.getLogger("lrflow")


class Checkpoints(AfterModuleHooks, Checkpoint):
    """Saves a run at optimizer-step boundaries, after a validation that is due at the step, and resumes it.

    Besides Lightning's content a checkpoint holds the state of every random number generator, the position in the
    data, and `extra`. Lightning (2.6.6) saves none of these, and saves before the step's validation.

    Args:
        folder: the folder of the checkpoints: `step-0000100.ckpt`, and `best.ckpt` for the best by `metric`.
        horizon: converts `every` into steps.
        every: time between two checkpoints; whole epochs are the real epochs of the data. None saves only when the run
            ends or is asked to stop.
        keep: number of latest checkpoints to keep; None keeps all.
        metric: decides which checkpoint is the best; None keeps no best one.
        stop: the request to stop the run.
        agree_every: on several devices, the steps between two checks whether any process was asked to stop.
        groups: parameter names of each of the optimizer's groups.
        routes: the route of each of these groups; empty: no group is routed.
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
        self._written_best: float | None = None  # the value of best.ckpt
        self._unwritten_best: tuple[int, float | None] | None = (
            None  # step and value of a best one that failed to write
        )
        self._every_epochs = every.whole_epochs if every else None
        self._every = max(1, every.steps(horizon)) if every and not self._every_epochs else None
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
        self._at_boundary = True  # false within an accumulation window: no checkpoint holds its gradients
        self._due = self._due_best = False
        self._restored: dict[str, Any] | None = None
        self._reset_batch_counter = False
        self._unsaved = UnsavedStateCheck()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the generators of a resumed run: after its iterator exists, before its first batch is loaded."""
        self._step = trainer.global_step
        self.stop.listen(trainer)
        if trainer.is_global_zero:
            self._unsaved.begin(pl_module)
        if self._restored is not None:
            set_random_state(self._restored)
            drop_rows_from(trainer, trainer.global_step)
            self._saved_step = trainer.global_step
            self._reset_batch_counter = True
            self._restored = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Right after resuming, restore the counter that Lightning uses as the step of logged rows."""
        if self._reset_batch_counter:
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
            self._reset_batch_counter = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a checkpoint is due at this step; a validation or the end of an epoch at this step comes first."""
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
        """Check whether this validation is the best so far."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._due_best |= self.improves(trainer)

    def after_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save a checkpoint that waited for this validation, now that its side effects are undone."""
        self._due |= self.stop.agreed(trainer)
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or trainer.global_step == trainer.max_steps
        if (self._due or self._due_best) and self._at_boundary and not last:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if the end of this epoch is due, or if a checkpoint waited for it."""
        if self._every_epochs and (trainer.current_epoch + 1) % self._every_epochs == 0:
            self._due = True
        self._due |= self.stop.agreed(trainer)
        if self._due or self._due_best:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the run, unless this step is saved already.

        Raises:
            LrflowError: the last checkpoint could not be written.
        """
        if self._saved_step != trainer.global_step:
            self._save(trainer)
        if self._failure:
            raise LrflowError(f"{self.folder}: the last checkpoint could not be written: {self._failure.strerror}")

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps of this callback."""
        return {"best": self.best, "metric": str(self._metric)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value so far; it is dropped if the run now uses another metric."""
        metric = str(self._metric)
        self.best = self._written_best = state_dict["best"] if state_dict.get("metric", metric) == metric else None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning does not save."""
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
        """Map the optimizer's state to the groups of this run; the generators are restored when training starts."""
        if trainer.state.fn == "fit":
            before, saved = checkpoint["lrflow"]["groups"], checkpoint["optimizer_states"][0]
            routes = [group.get("route") for group in saved["param_groups"]]
            if (before, routes) != (self._groups, self._routes):
                checkpoint["optimizer_states"] = [regroup(saved, before, self._groups, self._routes)]
            states = checkpoint["lrflow"]["random"]
            self._restored = states[trainer.global_rank % len(states)]

    def improves(self, trainer: pl.Trainer) -> bool:
        """Whether the latest validation is the best so far; stores its value if so."""
        logged = trainer.callback_metrics.get(self._metric.name) if self._metric else None
        # The first process decides: a user's metric may differ between devices, and either all of them save or none.
        own = None if logged is None else float(logged)
        better = own is not None and self._metric is not None and self._metric.better(own, self.best)
        value, better = trainer.strategy.broadcast((own, better))
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
        """Save now, as the best so far or as one of the latest; for training loops other than Lightning's.

        Raises:
            StoppedError: the run was asked to stop.
        """
        self._due_best = best
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint; if that fails, earlier ones remain and the run continues."""
        best, self._due, self._due_best = self._due_best, False, False
        if self._unwritten_best and self._unwritten_best[0] == trainer.global_step:
            best, self.best = True, self._unwritten_best[1]
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
            if best:  # the next one that beats best.ckpt becomes the best
                self._unwritten_best, self.best = (trainer.global_step, self.best), self._written_best
            log.warning(
                "%s: could not be written: %s; the run continues, and earlier checkpoints are kept",
                path,
                error.strerror,
            )
            trainer.strategy.barrier("after a failed save")
        else:
            self._saved, self._saved_step = path, trainer.global_step
            if best:
                self._unwritten_best, self._written_best = None, self.best
            if trainer.is_global_zero:
                self._clean_up(path, best)
        if self.stop.signal is not None:
            done = f"stopped as asked after {trainer.global_step} steps"
            if self._saved is None:
                raise StoppedError(f"{done}; nothing could be saved", self.stop.exit_code)
            hint = f"saved as {self._saved}; continue with {in_shell('resume', RunFolder.of(self._saved).path)}"
            raise StoppedError(f"{done}; {hint}", self.stop.exit_code)

    def _clean_up(self, path: Path, best: bool) -> None:
        """Link the best checkpoint, and delete the oldest ones and temporary files of killed processes."""
        if best:
            link_whole(path, self.folder / BEST)
        if self._keep is not None:
            for old in checkpoints_in(self.folder)[: -self._keep]:
                old.unlink(missing_ok=True)
        for partial in self.folder.glob(".*.part"):  # of a process that was killed while it wrote
            partial.unlink(missing_ok=True)


def _random_states(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """Return the random states of every rank, in order, on every rank."""
    states: list[Any] = [random_state()]
    if trainer.world_size > 1:
        states = [None] * trainer.world_size
        torch.distributed.all_gather_object(states, random_state())
    return states


def regroup(
    state: dict[str, Any],
    before: Sequence[Sequence[str]],
    now: Sequence[Sequence[str]],
    routes: Sequence[str | None] = (),
) -> dict[str, Any]:
    """Return an optimizer's state for other groups of the same parameters; momentum is matched by parameter name.

    A parameter that moved to another optimizer starts without state.

    Args:
        state: `Optimizer.state_dict()`; its indices count the parameters in the order of `before`.
        before: parameter names of each group when the state was saved.
        now: parameter names of each group of the optimizer that will load the state.
        routes: the route of each of these groups; empty: no group is routed.
    """
    index_of = {name: index for index, name in enumerate(name for group in before for name in group)}
    group_of = {name: group for group, names in zip(state["param_groups"], before, strict=True) for name in names}
    states, groups, count = {}, [], 0
    for names, route in zip(now, routes or [None] * len(now), strict=True):
        stayed = {name for name in names if name in group_of and group_of[name].get("route") == route}
        templates = [
            *(group_of[name] for name in names if name in stayed),
            *_of_route(state, route),
            state["param_groups"][0],
        ]
        groups.append({**templates[0], "params": list(range(count, count + len(names)))})
        for name in names:
            if name in stayed and index_of[name] in state["state"]:
                states[count] = state["state"][index_of[name]]
            count += 1
    return {"state": states, "param_groups": groups}


def _of_route(state: dict[str, Any], route: str | None) -> list[dict[str, Any]]:
    return [group for group in state["param_groups"] if group.get("route") == route]
