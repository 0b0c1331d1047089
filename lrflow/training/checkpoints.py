"""The callback that saves checkpoints of a run and restores them, so that a resumed run continues exactly."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from lrflow.config.checkpoint_names import NamePattern
from lrflow.config.composition.literal import in_shell
from lrflow.errors import LrflowError, SettingError, StoppedError
from lrflow.files import copy_whole, remove_parts, set_aside
from lrflow.loggers.loggers import drop_rows_from
from lrflow.metric import Metric
from lrflow.remote import upload
from lrflow.runs import BEST, RunFolder, checkpoints_in, name_of_step, step_of
from lrflow.schedules import Duration, Horizon
from lrflow.schedules.time import Periods
from lrflow.seal import newest_undamaged
from lrflow.training.best import Best
from lrflow.training.checkpoint_file import AtomicCheckpointIO, encode
from lrflow.training.configure_optimizers import regroup
from lrflow.training.finite import not_finite, not_finite_in
from lrflow.training.hooks import switch_hooks
from lrflow.training.interrupt import StopRequest
from lrflow.training.loaders import Position
from lrflow.training.monitor import look, monitors
from lrflow.training.rollback import Rollback
from lrflow.training.state import UnsavedStateCheck, random_states, set_random_state
from lrflow.training.trainer import Trainer
from lrflow.training.validation_loop import AfterModuleHooks
from lrflow.wording import counted, joined

log = logging.getLogger("lrflow")


class Checkpoints(AfterModuleHooks, Checkpoint):
    """Saves a run at optimizer-step boundaries, after a validation that is due at the step, and resumes it.

    Besides Lightning's content a checkpoint holds the state of every random number generator, the position in the
    data, and `extra`. Lightning (2.6.6) saves none of these, and saves before the step's validation.

    A state that is not finite is saved only if no monitor prevents it. It never becomes the best, and the last finite
    checkpoint is kept beside it, however many follow.

    Args:
        folder: the folder of the checkpoints: `step-0000100.ckpt`, `best.ckpt` for the best, other `best` ones.
        horizon: converts `every` into steps.
        every: time between two checkpoints; whole epochs are real ones. None saves only when the run ends or has to.
        keep: number of latest checkpoints to keep; None keeps all.
        metric: decides which checkpoint is the best; None keeps no best one.
        stop: the request to stop the run.
        agree_every: on several devices, the most steps between two checks whether any process was asked to stop.
        groups: parameter names of each of the optimizer's groups.
        routes: the route of each of these groups; empty: no group is routed.
        extra: plain data to save under `lrflow` in each checkpoint.
        source: the checkpoint that the run is resumed from; None: a new run.
        broken: names of damaged checkpoints in the folder, which are set aside once the run has saved.
        best: number of best checkpoints to keep.
        name: pattern of their names; None: the default one, or `best.ckpt` of only one.
        writes: whether checkpoints are written; False only checks that they could be loaded again.
        rollback: takes snapshots at the same points; None: the run does not roll back.
    """

    outlives_rollbacks = True  # the files are those that they were

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
        source: Path | None = None,
        broken: Iterable[str] = (),
        best: int = 1,
        name: NamePattern | None = None,
        writes: bool = True,
        rollback: Rollback | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self._best = Best(folder / BEST, metric, best, name)
        self._source, self._broken = source, list(broken)
        self._every_epochs = every.whole_epochs if every else None
        self._every = Periods(every, horizon) if every and not self._every_epochs else None
        self._keep, self._writes, self._rollback = keep, writes, rollback
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
        self._due = self._due_best = self._saves_best = False
        self._not_finite: list[str] = []  # tensors of the last checkpoint
        self._finite_step: int | None = None  # of the last finite checkpoint
        self._tolerated: list[str] | None = None  # tensors that are not finite when the run starts
        self._reported = False
        self._restored: dict[str, Any] | None = None
        self._must_repair = self._begun = False
        self._unsaved = UnsavedStateCheck()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the generators of a resumed run: after its iterator exists, before its first batch is loaded."""
        again = self._begun  # after a rollback
        switch_hooks(trainer, self, on_train_batch_start=self._restored is not None)
        self._step, self._begun = trainer.global_step, True
        if again:
            self.stop.start_at(self._step)
            self._due = self._due_best = False
            self._best.drop_unsaved()
        else:
            self.stop.begin(trainer)
            self.begin(pl_module)
            if trainer.is_global_zero:
                self._unsaved.begin(pl_module)
        if self._restored is not None:
            set_random_state(trainer.fit_loop.random_state or self._restored)  # type: ignore[attr-defined]
            trainer.fit_loop.random_state = self._restored = None  # type: ignore[attr-defined]
            drop_rows_from(trainer, trainer.global_step)
            self._must_repair = trainer.is_global_zero and not again
            self._saved_step = -1 if again else trainer.global_step
        if self._rollback:
            self._rollback.begin(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the end of a run that has no step left, so that it is tested as if it had just been trained."""
        if self._restored is None:
            return
        set_random_state(self._restored)
        self._restored = None
        drop_rows_from(trainer, trainer.global_step)
        if trainer.is_global_zero:
            self._repair(trainer.global_step)
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        epochs = trainer.fit_loop.epoch_progress.current
        epochs.completed = epochs.processed = epochs.started  # type: ignore[attr-defined]  # ended with the run

    def begin(self, module: pl.LightningModule) -> None:
        """Look which tensors of the module are not finite from the start, such as a mask of minus infinity."""
        if self._tolerated is None:
            self._tolerated = not_finite([*module.named_parameters(), *module.named_buffers()])

    def _repair(self, step: int) -> None:
        """Make again what a killed process left undone, and what was damaged, of the checkpoints up to a step."""
        self._must_repair = False
        if self._source and self._source.resolve() == self._best.path.resolve():  # in place of its damaged original
            copy_whole(self._source, self.folder / name_of_step(step))
            self._broken = [name for name in self._broken if name != name_of_step(step)]
        self._best.restore(self._source)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Right after resuming, restore the counter that Lightning uses as the step of logged rows."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        switch_hooks(trainer, self, on_train_batch_start=False)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a checkpoint is due at this step; a validation or the end of an epoch at this step comes first."""
        if self._unsaved.is_watching:
            self._unsaved.after_batch(pl_module)
        step = trainer.global_step
        self._at_boundary = step != self._step
        if not self._at_boundary:
            return
        if self._must_repair:  # only now, since a run that makes no step leaves its folder as it was
            self._repair(self._step)
        self._step = step
        if self._every and self._every.end_with(step):
            self._due = True
        self._due |= self.stop.agreed_after_step(trainer, self._agree_every)
        wanted = self._rollback is not None and self._rollback.is_due(step)
        if wanted or self._due or self._due_best:
            loop = trainer.fit_loop.epoch_loop
            last = loop.batch_progress.is_last_batch or step == trainer.max_steps
            fetcher = trainer.fit_loop._data_fetcher
            assert fetcher is not None
            validates = loop._should_check_val_fx(fetcher) and sum(trainer.num_val_batches) > 0
            if not last and not validates:
                self._keep_state(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check whether this validation is the best so far."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._due_best |= self.improves(trainer)
            self._due |= self._best.missing is not None  # the run is saved, then ended

    def after_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save a checkpoint that waited for this validation, now that its side effects are undone."""
        self._due |= self.stop.agreed(trainer)
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or trainer.global_step == trainer.max_steps
        if self._at_boundary and not last:
            self._keep_state(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if the end of this epoch is due, or if a checkpoint waited for it."""
        if self._every_epochs and (trainer.current_epoch + 1) % self._every_epochs == 0:
            self._due = True
        self._due |= self.stop.agreed(trainer)
        self._keep_state(trainer)

    def _keep_state(self, trainer: pl.Trainer) -> None:
        """Take a snapshot and save, as far as they are due."""
        if self._rollback and self._rollback.is_due(trainer.global_step):
            self._rollback.take(trainer)
        if self._due or self._due_best:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the run, unless this step is saved already.

        Raises:
            LrflowError: the last checkpoint could not be written.
        """
        if self._saved_step != trainer.global_step:
            self._save(trainer)
            trainer.fit_loop.epoch_loop.check_rollback()  # type: ignore[attr-defined]
        if self._failure:
            raise LrflowError(f"{self.folder}: the last checkpoint could not be written: {self._failure.strerror}")

    @property
    def best(self) -> float | None:
        """The metric of the best validation so far."""
        return self._best.value

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps of this callback."""
        return {**self._best.state_dict(), "finite_step": self._finite_step, "tolerated": self._tolerated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; the best is dropped if the run now uses another metric."""
        self._best.load_state_dict(state_dict)
        self._finite_step, self._tolerated = state_dict.get("finite_step"), state_dict.get("tolerated")

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
            **({"batch_unit": unit} if (unit := getattr(trainer, "batch_unit", None)) else {}),
            "random": random_states(trainer),
            "end": trainer.end if isinstance(trainer, Trainer) else None,
        }
        found = not_finite_in(checkpoint, self._groups, self._tolerated or ())
        self._not_finite = checkpoint["lrflow"]["not_finite"] = trainer.strategy.broadcast(found)
        if self._not_finite:
            self._handle_not_finite(trainer)
        own = self.state_dict()
        if not self._not_finite:
            own["finite_step"] = trainer.global_step
        checkpoint.setdefault("callbacks", {})[self.state_key] = own

    def _handle_not_finite(self, trainer: pl.Trainer) -> None:
        """Let monitors prevent that a state which is not finite is saved; otherwise it is not saved as the best."""
        for monitor in monitors(trainer):
            monitor.on_not_finite(trainer, self._not_finite)
        if self._saves_best:
            self._saves_best = False
            self._best.give_up()
        if not self._reported and trainer.is_global_zero:
            self._reported = True
            last = "there is no finite one"
            if self._finite_step is not None:
                last = f"the last finite one, {name_of_step(self._finite_step)}, is kept"
            name, what = name_of_step(trainer.global_step), joined(self._not_finite, 5)
            log.warning("%s is not finite (%s): it does not become the best, and %s", name, what, last)

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
            position, divided = Position(**checkpoint["lrflow"]["position"]), checkpoint["lrflow"]["accumulate"]
            now = divided if getattr(trainer, "batch_unit", None) else trainer.accumulate_grad_batches
            if position.batch and divided != now:  # of the same effective batch
                position.redivided(divided, now).write_into(checkpoint["loops"]["fit_loop"])
            if not position.batch:
                trainer.fit_loop.random_state = self._restored  # type: ignore[attr-defined]

    def improves(self, trainer: pl.Trainer) -> bool:
        """Whether the latest validation is the best so far; stores its value if so."""
        return self._best.improves(trainer)

    def save(self, trainer: pl.Trainer, best: bool = False) -> None:
        """Save now, as the best so far or as one of the latest; for training loops other than Lightning's.

        Raises:
            StoppedError: the run was asked to stop.
        """
        self._due_best = best
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint; if that fails, earlier ones remain and the run continues."""
        look(trainer)
        if self._rollback and self._rollback.is_pending:
            return
        self._saves_best = self._best.claim(trainer.global_step, self._due_best)
        self._due = self._due_best = False
        self._unsaved.at_save(trainer.lightning_module)
        path = self.folder / name_of_step(trainer.global_step)
        self._failure = None
        if isinstance(checkpoint_io := trainer.strategy.checkpoint_io, AtomicCheckpointIO):
            checkpoint_io.spare = self._spare
        try:
            content = trainer._checkpoint_connector.dump_checkpoint()
            if self._rollback and self._rollback.is_pending:  # something in it is not finite
                return
            if self._rollback and self._writes and trainer.is_global_zero:
                self._rollback.write()
            if self._writes:
                trainer.strategy.save_checkpoint(content, path)
                trainer.strategy.barrier("after a save")
            else:
                encode(content)
        except OSError as error:
            self._failure = error
            if self._saves_best:
                self._best.give_up(failed=True)
            kept = "the run continues, and earlier checkpoints are kept"
            log.warning("%s: could not be written: %s; %s", path, error.strerror, kept)
            trainer.strategy.barrier("after a failed save")
        else:
            self._saved, self._saved_step = path if self._writes else None, trainer.global_step
            if not self._not_finite:
                self._finite_step = trainer.global_step
            if trainer.is_global_zero and self._writes:
                self._clean_up(path)
                upload(RunFolder.of(path))
        self._saves_best = False
        if self._best.missing:
            missing = self._best.missing
            again = f"saved as {self._saved}; resume it with another {missing.key}" if self._saved else ""
            raise SettingError("\n    ".join(filter(None, [str(missing), again])))
        if self.stop.agreed(trainer):
            done = f"stopped as asked after {counted(trainer.global_step, 'step')}"
            if self._saved is None:
                raise StoppedError(f"{done}; nothing could be saved", self.stop.exit_code)
            hint = f"saved as {self._saved}; continue with {in_shell('resume', RunFolder.of(self._saved).path)}"
            raise StoppedError(f"{done}; {hint}", self.stop.exit_code)

    def _clean_up(self, path: Path) -> None:
        """Delete the oldest checkpoints and temporary files of killed processes, and copy the best checkpoint."""
        while self._broken:
            broken = self.folder / self._broken.pop()
            if broken != path and broken.exists():
                set_aside(broken)
        for abandoned in checkpoints_in(self.folder) if self._rollback else ():
            if step_of(abandoned) > step_of(path):  # the run went back to an earlier step
                abandoned.unlink(missing_ok=True)
        if self._keep is not None:
            for old in checkpoints_in(self.folder)[: -self._keep]:
                if step_of(old) not in {self._finite_step, *self._best.sources}:
                    old.unlink(missing_ok=True)
        remove_parts(self.folder)
        if self._rollback:
            self._rollback.clean_up()
        if self._saves_best or self._best.sources:
            self._best.write(path, self._spare)

    def _spare(self) -> list[Path]:
        """Return the checkpoints that may go where the disk is full, the oldest first: those before the newest whole.

        The last finite one and the only copies of the best stay, and so does every one if all are to be kept.
        """
        saved, broken = checkpoints_in(self.folder), sorted(self.folder.glob("*.broken-*"))
        newest = newest_undamaged(saved)
        if self._keep is None or newest is None:
            return broken
        needed = {self._finite_step, *self._best.sources}
        return [*broken, *(path for path in saved[: saved.index(newest)] if step_of(path) not in needed)]
