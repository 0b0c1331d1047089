"""The best checkpoints of a run: which ones they are, and their files, copies that a resumed run makes again."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lrflow.config.checkpoint_names import COUNTERS, DEFAULT, NamePattern
from lrflow.errors import Problem, did_you_mean
from lrflow.files import copy_whole
from lrflow.metric import LOSS, Metric
from lrflow.runs import BEST, SUFFIX, is_reserved, name_of_step
from lrflow.seal import find_damage
from lrflow.training.checkpoint_file import making_room, step_in
from lrflow.training.metric_reading import progress_metrics

log = logging.getLogger("lrflow")


@dataclass(frozen=True)
class Kept:
    """One of the best checkpoints.

    Args:
        value: the metric of its validation.
        step: its optimizer step; None: an earlier version did not record it.
        file: the name of its file; None: it has none besides `best.ckpt`.
    """

    value: float
    step: int | None
    file: str | None


class Best:
    """The best checkpoints of a run by a metric. Only those whose checkpoint was written count.

    Args:
        path: path of `best.ckpt`, a copy of the very best.
        metric: decides which checkpoints are the best; None keeps none.
        count: number of best checkpoints to keep.
        pattern: names their files; None: the default one, and no names if only one is kept.

    Attributes:
        missing: the problem of a metric that the first validation did not log; None for the default metric, which a
            run may lack.
    """

    def __init__(self, path: Path, metric: Metric | None, count: int = 1, pattern: NamePattern | None = None) -> None:
        self.path, self._metric, self._count = path, metric, count
        self._pattern = NamePattern.parse(DEFAULT) if pattern is None and count > 1 else pattern
        self.missing: Problem | None = None
        self._kept: list[Kept] = []  # the best first, with the one that is being saved
        self._earlier: list[Kept] = []  # without that one
        self._written: list[Kept] = []  # those with a file of their own
        self._candidate: tuple[float, Mapping[str, float]] | None = None  # a validation that is not saved yet
        self._unwritten: tuple[int, tuple[float, Mapping[str, float]]] | None = None  # one that failed to write
        self._claimed: tuple[float, Mapping[str, float]] | None = None
        self._reported: set[str] = set()

    @property
    def value(self) -> float | None:
        """The metric of the best validation so far; None: there is none."""
        values = [kept.value for kept in self._kept] + ([self._candidate[0]] if self._candidate else [])
        return self._metric.best(values) if self._metric else next(iter(values), None)

    @property
    def step(self) -> int | None:
        """The optimizer step of the best checkpoint; None: there is none, or it is unknown."""
        return self._kept[0].step if self._kept else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps."""
        kept = [[one.value, one.step, one.file] for one in self._kept]
        return {"best": self.value, "best_step": self.step, "metric": str(self._metric), "kept": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; it is dropped if the run now uses another metric."""
        metric = str(self._metric)
        if state.get("metric", metric) != metric:
            return
        before = [] if state["best"] is None else [[state["best"], state.get("best_step"), None]]
        self._kept = [self._with_file(Kept(*entry)) for entry in state.get("kept", before)[: self._count]]
        self._written = list(self._kept)

    def _with_file(self, kept: Kept) -> Kept:
        """Return one of the best with a name for its file, or without one if it needs none."""
        if self._pattern is None or kept.step is None:
            return Kept(kept.value, kept.step, None)
        default = NamePattern.parse(DEFAULT).format({"step": kept.step}) + SUFFIX
        return Kept(kept.value, kept.step, kept.file or default)

    def improves(self, trainer: pl.Trainer) -> bool:
        """Whether the latest validation is one of the best so far; stores its value if so.

        Reports, once each, metrics of the validation that are not finite; such a value is never among the best.
        """
        logged = trainer.callback_metrics.get(self._metric.name) if self._metric else None
        # The first process decides: a user's metric may differ between devices, and either all of them save or none.
        own = None if logged is None else float(logged)
        better = own is not None and self._enters(own)
        found: tuple[float | None, bool, dict[str, float]] = (own, better, self._fields(trainer))
        value, better, fields = trainer.strategy.broadcast(found)
        self._report_not_finite(trainer)
        if self._metric is None:
            return False
        if value is None:
            name, self._metric = self._metric.name, None
            hint = did_you_mean(name, trainer.callback_metrics) or "the module logs none"
            if name == LOSS:
                log.warning("no best checkpoint is kept: there is no metric %r; %s", name, hint)
            else:
                self._lacks("monitor", name, hint, trainer, "so none would be the best")
            return False
        wanted = self._pattern.fields if self._pattern else ()
        if lacking := [name for name in wanted if name not in fields and name not in COUNTERS]:
            hint = did_you_mean(lacking[0], [*COUNTERS, *trainer.callback_metrics]) or ""
            self._lacks("name", lacking[0], hint, trainer, "so the best checkpoints cannot be named after it")
            return False
        if better:
            self._candidate = value, fields
        return bool(better)

    def _enters(self, value: float) -> bool:
        """Whether a value is among the best of those that are kept, and better than one that waits to be saved."""
        metric = self._metric
        if metric is None or (self._candidate and not metric.better(value, self._candidate[0])):
            return False
        return metric.better(value, self._kept[-1].value if len(self._kept) >= self._count else None)

    def _fields(self, trainer: pl.Trainer) -> dict[str, float]:
        """Return the values by which the latest validation would be named, as far as they were logged."""
        if self._pattern is None:
            return {}
        logged = trainer.callback_metrics
        found = {name: float(logged[name]) for name in self._pattern.fields if name in logged}
        return {**found, "epoch": trainer.current_epoch}

    def _lacks(self, key: str, metric: str, hint: str, trainer: pl.Trainer, so: str) -> None:
        message = f"the validation at step {trainer.global_step} logged no such metric, {so}"
        self.missing = Problem(f"trainer.checkpoint.{key}", message, metric, hint or None)

    def _report_not_finite(self, trainer: pl.Trainer) -> None:
        found = {name: value for name, value in progress_metrics(trainer).items() if not math.isfinite(value)}
        for name in found.keys() - self._reported if trainer.is_global_zero else ():
            so = ", and so not the best" if self._metric and name == self._metric.name else ""
            log.warning("step %d: %s is %s in the validation%s", trainer.global_step, name, found[name], so)
        self._reported |= found.keys()

    def claim(self, step: int, best: bool) -> bool:
        """Whether the checkpoint that is about to be saved is one of the best: it is new, or failed to write before.

        Args:
            step: of the checkpoint.
            best: whether the validation that was stored last is saved with it.
        """
        if self._unwritten and self._unwritten[0] == step:
            best, self._candidate = True, self._unwritten[1]
        if not (best and self._candidate and self._metric):
            return False
        self._claimed, self._candidate = self._candidate, None
        self._earlier = list(self._kept)
        value, fields = self._claimed
        new = Kept(value, step, self._file(step, fields))
        sign = self._metric.sign
        self._kept = sorted([*self._kept, new], key=lambda kept: sign * kept.value)[: self._count]
        return True

    def _file(self, step: int, fields: Mapping[str, float]) -> str | None:
        if self._pattern is None:
            return None
        name = self._pattern.format({**fields, "step": step})
        taken = {kept.file for kept in self._kept} if self._count > 1 else set()
        if is_reserved(f"{name}{SUFFIX}") or f"{name}{SUFFIX}" in taken:  # such as another length of an epoch
            name = f"{name}-{step}"
        return f"{name}{SUFFIX}"

    def give_up(self, failed: bool = False) -> None:
        """Return to the best before the one that was claimed; the next one that beats them becomes one of them.

        Args:
            failed: whether the checkpoint could not be written, so that it is tried again at the same step.
        """
        new = next((kept for kept in self._kept if kept not in self._earlier), None)
        if failed and new and new.step is not None and self._claimed:
            self._unwritten = new.step, self._claimed
        self._kept = list(self._earlier)

    def drop_unsaved(self) -> None:
        """Forget what was validated and has no file: the state of its step is gone."""
        self._candidate = self._unwritten = None
        self._kept = list(self._written)

    @property
    def sources(self) -> set[int | None]:
        """Steps of the checkpoints that are among the best and have no copy yet: they must not be deleted."""
        return {kept.step for kept in self._kept if kept not in self._written}

    def write(self, newest: Path, spare: Callable[[], Sequence[Path]]) -> None:
        """Copy the checkpoints that became the best, and delete the files of those that no longer are.

        If a copy fails, it is logged, the earlier files stay, and the next call tries again. By then its source is
        no longer the newest checkpoint and can become `best.ckpt` itself, which takes no space.

        Args:
            newest: the checkpoint that was saved last, in the folder of all sources.
            spare: returns the checkpoints that may be deleted where there is no space.
        """
        for new in [kept for kept in self._kept if kept not in self._written]:
            source = newest.with_name(name_of_step(new.step or 0))
            copies = [self.path.with_name(new.file)] if new.file else []
            copies += [self.path] if new == self._kept[0] else []
            if not source.exists():
                self._kept.remove(new)
                continue
            if not all(self._copy(source, path, spare) for path in copies):
                if new.file or source == newest:
                    return
                os.replace(source, self.path)
            self._written.append(new)
        files = {kept.file for kept in self._kept}
        for old in self._written:
            if old.file and old.file not in files:
                self.path.with_name(old.file).unlink(missing_ok=True)
        self._unwritten, self._written = None, list(self._kept)

    def restore(self, source: Path | None) -> None:
        """Make the files of the best checkpoints again where a killed process left others or none.

        Args:
            source: the checkpoint that the run is resumed from.
        """
        named = [kept for kept in self._kept if kept.file]
        lost = [kept for kept in named if not self._restored(self.path.with_name(str(kept.file)), kept, source)]
        self._kept = [kept for kept in self._kept if kept not in lost]
        if self._kept and self._kept[0].step is not None and not self._restored(self.path, self._kept[0], source):
            del self._kept[0]
        self._written = list(self._kept)
        self._delete_others()

    def _restored(self, path: Path, kept: Kept, source: Path | None) -> bool:
        """Make one file again if it is not of its step; return whether its checkpoint still counts."""
        found = step_in(path)
        if found == kept.step:
            return True
        was = "missing or damaged" if found is None else f"of step {found}"
        elsewhere = source is not None and source.parent != path.parent and not path.exists()  # of a branch
        names = [name_of_step(kept.step or 0), *([kept.file] if kept.file else []), BEST]
        others = [source, *(source.with_name(name) for name in names)] if source else []
        for other in [*(self.path.with_name(name) for name in names), *others]:
            whole = other != path and step_in(other) == kept.step and find_damage(other) is None
            if whole and self._copy(other, path):
                if not elsewhere:
                    log.warning("%s was %s; it is now a copy of %s", path, was, other.name)
                return True
        if found is None or found < (kept.step or 0):  # a later one is made again by the resumed run
            log.warning("%s is %s, and the best one, of step %d, is gone: the next is the best", path, was, kept.step)
            return False
        return True

    def _delete_others(self) -> None:
        """Delete files of checkpoints that were among the best by this metric, and that a killed process left."""
        files = {kept.file for kept in self._kept}
        for path in self.path.parent.glob(f"*{SUFFIX}"):
            if not is_reserved(path.name) and path.name not in files and self._was_kept(path):
                path.unlink(missing_ok=True)

    def _was_kept(self, path: Path) -> bool:
        """Whether a file says of itself that it was kept under its name, as one of the best by this metric."""
        try:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            states, step = content["callbacks"].values(), content["global_step"]
        except Exception:  # torch's reader raises many types of errors
            return False
        own = [one for one in states if isinstance(one, dict) and one.get("metric") == str(self._metric)]
        return any([step, path.name] == entry[1:] for one in own for entry in one.get("kept", ()))

    def _copy(self, source: Path, path: Path, spare: Callable[[], Sequence[Path]] = tuple) -> bool:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)  # a branch has no folder of checkpoints yet
            making_room(spare, lambda: copy_whole(source, path))
        except OSError as error:
            left = "an earlier one is kept" if self.path.exists() else f"there is no {BEST} yet"
            log.warning("%s: could not be written: %s; %s", path, error.strerror, left)
            return False
        return True
