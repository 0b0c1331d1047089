"""Rollbacks: snapshots of a run's whole state, and the return to one of them within the same process.

A rollback is a resume without a new process: the state is that of a checkpoint, and it is restored the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torchmetrics import Metric

from lrflow.errors import DivergedError
from lrflow.files import remove_parts, write_whole
from lrflow.runs import ROLLBACKS, RunFolder
from lrflow.training.batch_guard import BatchGuard
from lrflow.training.block import Block
from lrflow.training.checkpoint_file import AtomicCheckpointIO, BrokenCheckpointError, decode, encode, read_checkpoint
from lrflow.training.monitor import look
from lrflow.training.recovery import STATE_KEY, Policy, Recovery, Request, RollbackDue, apply_recoveries, summary_of
from lrflow.training.signals import Signals
from lrflow.training.snapshots import PREFIX, Snapshot, copied, snapshot_name, snapshots_of, superfluous
from lrflow.training.state import preserve_random_state, set_random_state
from lrflow.wording import counted

log = logging.getLogger("lrflow")


class Rollback(Callback):
    """Keeps snapshots of a run, and returns it to one of them on request, at most a number of times.

    `Checkpoints` takes the snapshots, at the same points as checkpoints, and writes those that are not on the disk yet
    beside each checkpoint, so that a run that is killed and resumed has the same ones. The first state of a run is kept
    as well. The callback has to come before all that request a rollback.

    Args:
        policy: decides what a rollback changes.
        every: steps between two snapshots.
        keep: number of snapshots to keep besides the first state; see `lrflow.training.snapshots.superfluous`.
        folder: the folder of the run; None: nothing is written.
        source: the checkpoint that the run is resumed from; None: a new run.
        report: is called with one line per rollback.

    Attributes:
        facts: fields of the summary: the rollbacks so far as plain data, their number and that of steps left out.
    """

    def __init__(
        self,
        policy: Policy,
        every: int,
        keep: int = 5,
        folder: RunFolder | None = None,
        source: Path | None = None,
        report: Callable[[str], None] = log.info,
    ) -> None:
        self.policy, self.every, self.report = policy, max(1, every), report
        self.guard = BatchGuard(self)
        self.facts = summary_of(())
        self.recoveries: list[Recovery] = []
        self._keep, self._folder, self._source = keep, folder, source
        self._ring: list[Snapshot] = []
        self._saved_names: list[str] = []  # of the ring of the checkpoint that the run is resumed from
        self._requests: list[Request] = []
        self._is_due = self._begun = False
        self._unnamed: list[Snapshot] = []  # those that were written and that no checkpoint names yet
        self._resumed_at = 0  # the step at which this process began

    # Snapshots

    def is_due(self, step: int) -> bool:
        """Whether to take a snapshot after this many steps, or at the next point that allows it."""
        self._is_due |= step % self.every == 0
        self._is_due &= not self._ring or self._ring[-1].step != step
        return self._is_due

    def take(self, trainer: pl.Trainer) -> None:
        """Take a snapshot, unless the state is not good."""
        self._is_due = False
        look(trainer)
        if self._requests or self.guard.is_failing:
            return
        step = trainer.global_step
        snapshot = Snapshot(snapshot_name(step, len(self.recoveries)), encode(self._dump(trainer)))
        if self._requests or snapshot.content["lrflow"]["not_finite"]:
            return
        snapshot.content = copied(snapshot.content)
        self._ring = [one for one in self._ring if one.step != step] + [snapshot]
        if len(self._ring) > 1 + self._keep:
            del self._ring[superfluous([one.step for one in self._ring])]

    @staticmethod
    def _dump(trainer: pl.Trainer) -> dict[str, Any]:
        return trainer._checkpoint_connector.dump_checkpoint()

    def write(self) -> None:
        """Write the snapshots that have no file yet, before the checkpoint is written that names them.

        On a full disk a checkpoint is worth more: what was written since the last one is deleted again.
        """
        if self._folder is None:
            return
        for snapshot in self._ring:
            if not snapshot.is_written:
                path = snapshots_of(self._folder) / snapshot.name
                try:
                    AtomicCheckpointIO().save_checkpoint(snapshot.content, path)
                except OSError as error:
                    log.warning("%s: could not be written: %s; it is only in memory", path, error.strerror)
                    for one in self._unnamed:
                        (path.parent / one.name).unlink(missing_ok=True)
                        one.is_written = False
                    self._unnamed.clear()
                    return
                snapshot.is_written = True
                self._unnamed.append(snapshot)

    def clean_up(self) -> None:
        """Delete the files of snapshots that the checkpoint which was just written does not name."""
        self._unnamed.clear()
        if self._folder is None or not snapshots_of(self._folder).is_dir():
            return
        names = {snapshot.name for snapshot in self._ring}
        for path in snapshots_of(self._folder).iterdir():
            if path.name.startswith(PREFIX) and path.name not in names:
                path.unlink(missing_ok=True)
        remove_parts(snapshots_of(self._folder))

    def begin(self, trainer: pl.Trainer) -> None:
        """Start with the first state of a run, the snapshots of the one that is resumed, or after a rollback."""
        if self._begun:
            apply_recoveries(trainer, self.recoveries, self.facts)
            return
        self._begun, self._resumed_at = True, trainer.global_step
        if self._source is not None:
            self._ring = [*filter(None, map(self._read, self._saved_names))] or [*filter(None, [self._resumed()])]
        elif (before := trainer.fit_loop.first_random_state) is not None:  # type: ignore[attr-defined]
            with preserve_random_state():
                set_random_state(before)  # of the first epoch, whose loaders exist now
                self.take(trainer)
        apply_recoveries(trainer, self.recoveries, self.facts)

    def _read(self, name: str) -> Snapshot | None:
        assert self._source is not None
        path = snapshots_of(RunFolder.of(self._source)) / name
        try:
            content = read_checkpoint(path, map_location="cpu")
        except (OSError, BrokenCheckpointError) as error:
            log.warning("%s: cannot be read, so the run cannot return to it: %s", path, getattr(error, "reason", error))
            return None
        return Snapshot(name, encode(content), is_written=self._folder == RunFolder.of(self._source))

    def _resumed(self) -> Snapshot | None:
        """Return the state that the run is resumed from as a snapshot, if it is finite."""
        assert self._source is not None
        content = read_checkpoint(self._source, map_location="cpu")
        if content["lrflow"].get("not_finite"):
            return None
        return Snapshot(snapshot_name(content["global_step"], len(self.recoveries)), encode(content))

    # Requests

    def request(
        self,
        since: int,
        reason: str,
        step: int | None = None,
        suspects: bool = False,
        not_finite: bool = False,
        gradient_only: bool = False,
    ) -> None:
        """Ask for a rollback; every process has to ask for the same one, in the hook that receives a block.

        The rollback follows between two batches. No checkpoint is saved until then. Of several requests that of the
        earliest step counts, so that it does not matter which steps a block holds.

        Args:
            since: the first step that is in question.
            reason: why, for people.
            step: the step whose signals are evidence enough; None: `since`.
            suspects: whether the batches of the steps in question are the likely cause.
            not_finite: whether something is not finite.
            gradient_only: whether that is the gradient, and the loss is finite.
        """
        step = since if step is None else step
        self._requests.append(Request(step, since, reason, suspects, not_finite, gradient_only))

    def is_past(self, step: int) -> bool:
        """Whether the run goes back because of an earlier step than this one."""
        return bool(self._requests) and step > self._request().step

    @property
    def is_pending(self) -> bool:
        """Whether a rollback was requested, and the state of the run is not good."""
        return bool(self._requests)

    def check(self, trainer: pl.Trainer) -> None:
        """Leave the loops if a rollback is due; called between two batches.

        Raises:
            RollbackDue: it is.
            DivergedError: it is, and the run may roll back no more.
        """
        if not self._requests:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Signals):
                callback.flush(trainer)
        request = self._request()
        if not self._ring or len(self.recoveries) >= self.policy.times:
            done = [f"step {one.step}: {one.reason}; back to step {one.to}" for one in self.recoveries]
            why = f"rolled back {counted(len(done), 'time')} before" if done else "there is no state to return to"
            raise DivergedError("\n    ".join([f"step {request.step}: {request.reason}; {why}", *done]))
        raise RollbackDue

    def _request(self) -> Request:
        return min(self._requests, key=lambda request: request.step)

    # The rollback

    def roll_back(self, trainer: pl.Trainer) -> None:
        """Restore a snapshot, as Lightning does when it resumes, so that the loops run on from there."""
        request = self._request()
        self._requests.clear()
        changes = self.policy.respond(request, self.recoveries)
        snapshot = next((one for one in reversed(self._ring) if one.step <= changes.since), self._ring[0])
        factor = changes.cut * (self.recoveries[-1].factor if self.recoveries else 1.0)
        recovery = Recovery(request.step, request.since, snapshot.step, factor, changes.rewarm, request.reason)
        self.recoveries.append(recovery)
        self.guard.begin(changes.guard, changes.skip, changes.is_certain)
        self._ring = [one for one in self._ring if one.step <= snapshot.step]
        self._is_due = False
        if trainer.is_global_zero:
            self._keep_rows(recovery)
        self._restore(trainer, snapshot)
        text = "the LR stays" if changes.cut == 1 else f"LR x {factor:.3g}"
        text += f", re-warming over {counted(recovery.rewarm, 'step')}" * bool(recovery.rewarm)
        text += ", batches that are not finite are left out" * bool(changes.guard)
        number = f"{len(self.recoveries)} of {self.policy.times}"
        self.report(f"step {request.step}: {request.reason}; rolled back to step {snapshot.step} ({number}), {text}")

    def _restore(self, trainer: pl.Trainer, snapshot: Snapshot) -> None:
        content = decode(copied(snapshot.content))
        states = content["callbacks"]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if getattr(callback, "outlives_rollbacks", False):
                states[callback.state_key] = callback.state_dict()
        states[self.state_key] = {**self.state_dict(), "policy": states[self.state_key]["policy"]}
        trainer.should_stop = False
        trainer.training = True
        module = trainer.lightning_module
        for part in module.modules():
            if isinstance(part, Metric):
                part.reset()
        module.zero_grad()
        trainer._logger_connector.reset_results()
        trainer._logger_connector.reset_metrics()
        connector = trainer._checkpoint_connector
        connector._loaded_checkpoint = content
        connector.restore_model()
        connector.restore_datamodule()
        connector.restore_callbacks()
        batch = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
        trainer.fit_loop.rewind(content["lrflow"]["position"]["epoch"], batch)  # type: ignore[attr-defined]
        connector.restore_training_state()
        connector._loaded_checkpoint = {}

    def _keep_rows(self, recovery: Recovery) -> None:
        """Copy the rows of metrics.csv that the rollback drops."""
        if self._folder is None:
            return
        try:
            _keep_rows(self._folder, len(self.recoveries), recovery.to, self._resumed_at)
        except (OSError, ValueError) as error:  # a full disk, or a file of metrics that is damaged
            log.warning("%s: the rows of a rollback could not be kept: %s", self._folder.path, error)

    # The callback

    state_key = STATE_KEY

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let the loops of a fit find it."""
        if stage == "fit":
            trainer.rollback, trainer.batch_guard = self, self.guard  # type: ignore[attr-defined]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Let the guard look at the gradient of a step, before anything else reads it."""
        self.guard.check_gradient(trainer, optimizer)

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        """Pass the signals to the policy."""
        self.policy.observe(block)

    def note_skipped(self, step: int) -> None:
        """Record that a batch of a step was left out."""
        skipped = self.recoveries[-1].skipped
        if skipped[-1:] != [step]:
            skipped.append(step)
            self.facts["recoveries"][-1]["skipped"].append(step)
            self.facts["recovery"]["left_out"] += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps."""
        return {
            "recoveries": [recovery.to_dict() for recovery in self.recoveries],
            "snapshots": [snapshot.name for snapshot in self._ring],
            "guard": self.guard.state_dict(),
            "policy": self.policy.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.recoveries = [Recovery(**one) for one in state_dict["recoveries"]]
        self._saved_names = list(state_dict["snapshots"])
        self.guard.load_state_dict(state_dict["guard"])
        self.policy.load_state_dict(state_dict["policy"])


def _keep_rows(folder: RunFolder, number: int, step: int, resumed_at: int) -> None:
    """Copy the rows of metrics.csv that a rollback replaces, those of `step` and later.

    A process that was killed after the same rollback has already replaced rows before the step at which this one began,
    so they are those that it kept.

    Args:
        folder: of the run.
        number: of the rollback, from 1.
        step: the step to which the run returns.
        resumed_at: the step at which this process began.
    """
    path = folder.path / ROLLBACKS / f"{number}.csv"
    header, rows = _rows_of(folder.metrics)
    known, earlier = _rows_of(path)
    if known == header:
        rows = [row for row in earlier if row[0] < resumed_at] + [row for row in rows if row[0] >= resumed_at]
    if header:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, "".join([header, *(line for at, line in rows if at >= step)]))


def _rows_of(path: Path) -> tuple[str, list[tuple[int, str]]]:
    """Return the header and the rows of a table, each with its step; without both if there is no such file."""
    header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else [""]
    return header, [(int(cell), line) for line in lines if (cell := line.partition(",")[0]).isdecimal()]
