"""The base class of detectors, which read the history of a run, and the monitor that runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, get_args

import pytorch_lightning as pl

from lrflow.config.schemas.health import OwnResponse, Response
from lrflow.errors import LrflowError
from lrflow.finding import Finding
from lrflow.health.actions import Actions
from lrflow.health.history import Facts, History
from lrflow.training.block import Block
from lrflow.training.monitor import Monitor
from lrflow.training.trainer import Trainer

LOOKS = 100
"""Detectors look at the history at most about this many times per run."""

_LEAST_INTERVAL = 25  # steps; a look costs as much as a part of a small model's step
_QUIET = 3  # after this many looks without it, something counts as over, and may be found again


class Detector(ABC):
    """Finds one kind of problem in the history of a run: a pure function of the history.

    Each detector has its config node, `health.KIND`. A subclass implements `judge`, which is called at steps that
    depend only on the length of the run, and after each validation. Something that is found at several consecutive
    looks is one finding.

    Args:
        action: what the run does about it: `watch`, `stop`, `recover`, one of `lrflow.health.actions`, or `ignore`,
            with which it is not looked for; None: as `health.action` says if the kind is one that is worth it, else
            `watch`.

    Attributes:
        kind: name of what it finds, and key below `health`; set by the run.
        diverges: whether `stop` ends the run as diverged.
        suspects_batches: whether `recover` leaves out the batches of the steps that show it, as their likely cause.
        covers: kinds that are a part of the same story: once this one is found, they are not reported any more.
        acts: the values of `health.action` that hold for it unless it has an `action` of its own.
        reads_validations: whether it also looks after each validation; false saves time where they say nothing.
    """

    kind: str = ""
    diverges: ClassVar[bool] = False
    suspects_batches: ClassVar[bool] = False
    covers: ClassVar[tuple[str, ...]] = ()
    acts: ClassVar[tuple[Response, ...]] = ()
    reads_validations: ClassVar[bool] = True
    action: OwnResponse | None = None  # of a subclass whose `__init__` does not set it

    def __init__(self, action: OwnResponse | None = None) -> None:
        if action not in (None, *get_args(OwnResponse)):
            raise ValueError(f"action: expected one of {', '.join(get_args(OwnResponse))}, got {action!r}")
        self.action = action

    @abstractmethod
    def judge(self, history: History) -> Finding | None:
        """Return what the history shows, or None."""

    def response(self, default: Response) -> OwnResponse:
        """Return what the run does about a finding.

        Args:
            default: `health.action`.
        """
        if self.action is None or self.action == "ignore":
            return default if default in self.acts else "watch"
        return self.action


class Watch:
    """Shows the history of a run to detectors; it needs no trainer, so recorded runs can be judged as well.

    Args:
        facts: what is known of the run.
        detectors: by their kinds.

    Attributes:
        every: steps between two looks; detectors that read validations also look after each.
        found: what the last look found, new or not, by kind.
    """

    def __init__(self, facts: Facts, detectors: Mapping[str, Detector]) -> None:
        self.history = History(facts)
        self.detectors = dict(detectors)
        self.every = max(_LEAST_INTERVAL, facts.steps // LOOKS)
        self.found: dict[str, Finding] = {}
        self._validated = {kind: one for kind, one in detectors.items() if one.reads_validations}
        self._quiet: dict[str, int] = {}  # looks without it since it was found, for each kind that is not over
        self._covered: set[str] = set()  # kinds of which nothing more is reported
        for kind, detector in self.detectors.items():
            detector.kind = kind

    def extend(self, block: Block) -> Iterator[Finding]:
        """Add the next steps, and yield what is found at the steps at which it is time to look."""
        start = 0
        while start < len(block):
            stop = min(len(block), start + self.every - (block.first + start) % self.every)
            self.history.extend(block, start, stop)
            if self.history.step % self.every == 0:
                yield from self._look(self.detectors)
            start = stop

    def add_validation(self, step: int, metrics: Mapping[str, float]) -> Iterator[Finding]:
        """Add the metrics of a validation after a number of steps, and yield what is found."""
        self.history.add_validation(step, metrics)
        yield from self._look(self._validated)

    def state_dict(self) -> dict[str, Any]:
        """Return the history, which findings are not over, and of which kinds nothing more is reported."""
        own = {"quiet": dict(self._quiet), "covered": sorted(self._covered)}
        return {"history": self.history.state_dict(), **{name: one for name, one in own.items() if one}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the history; that of other groups, or of a version that kept it in another form, is dropped."""
        if self.history.load_state_dict(state["history"]):
            self._quiet, self._covered = dict(state.get("quiet", {})), set(state.get("covered", ()))

    def _look(self, detectors: Mapping[str, Detector]) -> Iterator[Finding]:
        self.found.clear()
        for kind, detector in detectors.items():
            finding = None if kind in self._covered else _judged(kind, detector, self.history)
            if finding is not None:
                self.found[kind] = finding
                is_known = kind in self._quiet
                self._quiet[kind] = 0
                if not is_known:
                    if detector.covers:  # it ends the story, so that it is not found again either
                        self._covered |= {kind, *detector.covers}
                    yield finding
            elif kind in self._quiet:
                self._quiet[kind] += 1
                if self._quiet[kind] >= _QUIET:
                    del self._quiet[kind]


def _judged(kind: str, detector: Detector, history: History) -> Finding | None:
    """Return what a detector finds, under the name that it has in `health`.

    Raises:
        LrflowError: it returns something else.
    """
    finding = detector.judge(history)
    if finding is None:
        return None
    if not isinstance(finding, Finding):
        raise LrflowError(
            f"health.{kind}: {type(detector).__name__}.judge returned {finding!r}; expected a Finding, or None"
        )
    return finding if finding.kind == kind else replace(finding, kind=kind)


class Detection(Monitor):
    """The monitor that shows the history of a run to detectors, and reports what they find.

    Args:
        watch: with the detectors.
        action: `health.action`, for detectors without an action of their own.
        actions: what the run does besides a rollback; None: nothing.
    """

    def __init__(self, watch: Watch, action: Response = "watch", actions: Actions | None = None) -> None:
        self.watch, self._actions = watch, actions
        self._responses = {kind: detector.response(action) for kind, detector in watch.detectors.items()}
        # A rollback depends on the step that shows a finding, all other actions on the step at which it is seen.
        self._acts = actions is not None and not {*self._responses.values()} <= {"watch", "recover"}
        if not self._acts:
            self.on_train_batch_end = None  # type: ignore[assignment]  # which Lightning (2.6.6) does not call

    def on_block(self, trainer: pl.Trainer, block: Block) -> None:
        """Add the steps to the history; look at it whenever it is time."""
        self._respond(trainer, self.watch.extend(block))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the signals at once where it is time to look, so that the step of an action depends on no clock."""
        if trainer.global_step % self.watch.every == 0:
            self.run.signals.flush(trainer)

    def on_sharpness(self, step: int, top: float, share: float) -> None:
        """Add the measurement to the history."""
        self.watch.history.add_sharpness(step, top, share)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the metrics of the validation, and look at the history."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            own = {name: float(value) for name, value in trainer.callback_metrics.items()}
            metrics = trainer.strategy.broadcast(own)  # a module may log other values in each process
            self._respond(trainer, self.watch.add_validation(trainer.global_step, metrics))

    def state_dict(self) -> dict[str, Any]:
        """Return the history, and which findings are not over."""
        return self.watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history; that of other groups is dropped."""
        self.watch.load_state_dict(state_dict)

    def _respond(self, trainer: pl.Trainer, findings: Iterator[Finding]) -> None:
        """Report what is new, and act on all that is there at the last look."""
        self.watch.found.clear()
        new = set()
        for finding in findings:
            detector = self.watch.detectors[finding.kind]
            new.add(finding.kind)
            ends, suspects = "diverged" if detector.diverges else "", detector.suspects_batches
            self.run.findings.report(trainer, finding, self._responses[finding.kind], ends, suspects)
        if self._acts and isinstance(trainer, Trainer) and not (trainer.rollback and trainer.rollback.is_pending):
            assert self._actions is not None
            for finding in self.watch.found.values():
                response = self._responses[finding.kind]
                self._actions.respond(trainer, finding, response, finding.kind in new)
