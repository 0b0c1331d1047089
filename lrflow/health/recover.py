"""What a run changes when it rolls back: it leaves out batches that hold NaN, and cuts its LR where that diverges."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl

from lrflow.config import Config
from lrflow.config.schemas.health import Skip
from lrflow.errors import ConfigError, Problem
from lrflow.runs import RunFolder
from lrflow.schedules import Horizon
from lrflow.training.block import Block
from lrflow.training.recovery import Changes, KeptCut, Recovery, Request
from lrflow.training.resume import Resumed
from lrflow.training.rollback import Rollback

LOOKS_BACK = 50
"""Number of losses, before the step of a request, that show whether they had exploded."""

LEAST_INTERVAL = 10
"""Least number of steps between two snapshots, unless their interval is given in steps: each takes milliseconds."""

EXPLODES = 10.0
"""A loss of more than so many times the usual one is no healthy one."""


class Recover:
    """Decides between batches that are at fault and an LR that is too high.

    - The losses before one that is not finite were usual ones: a batch is at fault. The LR stays, and batches are
      checked from the snapshot on, so that exactly those that are not finite are left out. The batch of a finite loss
      with a gradient that is not finite is left out by its step, and gradients are checked for the rest of the run.
    - They had exploded, or the batches were checked already: the LR is at fault. It is cut, and the run returns to a
      state before the explosion; if the last rollback has led nowhere, to an earlier one than that did.
    - A spike (`suspects`): the batches in question are left out, and the LR is cut as well.

    Rolling back and leaving out batches after a spike is from PaLM (Chowdhery et al., 2022, arXiv 2204.02311).

    Args:
        cut: factor on the LR at each rollback that blames it.
        rewarm: steps over which the LR then rises from 0.
        times: the most rollbacks of a run.
        skip: whether batches in question are left out.
        margin: steps after a rollback within which another one means that it has led nowhere, and for which batches
            are checked.
        longest: the most steps of a block.
    """

    def __init__(self, cut: float, rewarm: int, times: int, skip: Skip, margin: int, longest: int = 50) -> None:
        self.times = times
        self._cut, self._rewarm, self._skip, self._margin = cut, rewarm, skip, margin
        self._losses: deque[tuple[int, float]] = deque(maxlen=LOOKS_BACK + longest)

    def observe(self, block: Block) -> None:
        """Remember the losses of the latest steps."""
        steps = np.arange(block.first, block.first + len(block))[~block.skipped]
        self._losses.extend(zip(steps.tolist(), block.losses.tolist(), strict=True))

    def respond(self, request: Request, past: Sequence[Recovery]) -> Changes:
        """Return what to change."""
        known = [one for one in self._losses if one[0] <= request.step][-LOOKS_BACK - 1 :]  # wherever blocks end
        before = [(step, loss) for step, loss in known if step < request.since]
        onset = self._onset(before)
        last = past[-1] if past else None
        again = last is not None and request.step <= last.step + self._margin
        same = last is not None and request.step == last.step
        if request.not_finite and self._skip == "batches" and onset is None and (same or not again):
            until = math.inf if request.gradient_only else request.step + 1 + self._margin
            return Changes(request.since, guard=until, skip=[request.step] if same or request.gradient_only else ())
        if last is not None and (request.step, request.since) == (last.step, last.since) and last.skipped:
            # The same batches fail with other weights, so the last cut was a mistake.
            before_it = past[-2].factor if len(past) > 1 else 1.0
            steps, until = range(request.since, request.step + 1), request.step + 1 + self._margin
            return Changes(request.since, before_it / last.factor, 0, steps, until, is_certain=True)
        since = request.since if onset is None else min(onset, request.since)
        if last is not None and again and last.factor < 1:
            since = min(since, last.to - 1)
        skip = range(request.since, request.step + 1) if request.suspects and self._skip == "batches" else ()
        return Changes(since, self._cut, self._rewarm, skip)

    @staticmethod
    def _onset(before: Sequence[tuple[int, float]]) -> int | None:
        """Return the step at which the losses began to explode; None: they are usual ones up to the last."""
        sizes = np.abs([loss for _, loss in before if math.isfinite(loss)])
        if not len(sizes) or sizes[-1] <= EXPLODES * np.median(sizes[: max(1, len(sizes) // 2)]):
            return None
        usual = EXPLODES / 3 * np.quantile(sizes, 0.25)
        return _first_of_run(before, usual)

    def state_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"losses": [list(one) for one in self._losses]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the losses."""
        self._losses.clear()
        self._losses.extend((step, loss) for step, loss in state["losses"])


def make_rollback(
    config: Config,
    trainer: pl.Trainer,
    length: Horizon,
    folder: RunFolder,
    resumed: Resumed | None,
    report: Callable[[str], None],
) -> Rollback | KeptCut | None:
    """Return the callback that rolls a run back, or that keeps the LR as earlier rollbacks cut it; None: neither.

    Args:
        config: of the run.
        trainer: of the run.
        length: of the run without its cooldown.
        folder: of the run.
        resumed: the run that is resumed; None: a new run.
        report: is called with one line per rollback.

    Raises:
        ConfigError: the run cannot return to an earlier state.
    """
    recover = config.health.recover
    if not config.health.may("recover") or config.trainer.fast_dev_run:
        return KeptCut() if resumed and resumed.recovered != 1 and config.monitors else None
    if trainer.strategy.restore_checkpoint_after_setup:
        message = f"{type(trainer.strategy).__name__} divides the weights, and a rollback needs whole ones"
        raise ConfigError([Problem("health.recover", message, ..., "take trainer.strategy=ddp")])
    least = 1 if recover.every.unit == "steps" else LEAST_INTERVAL
    every, rewarm = max(least, recover.every.steps(length)), recover.rewarm.steps(length)
    policy = Recover(recover.cut, rewarm, recover.times, config.health.skip, every, config.trainer.log_every)
    source = resumed.path if resumed else None
    return Rollback(policy, every, recover.keep, folder if folder.is_written else None, source, report)


def _first_of_run(losses: Sequence[tuple[int, float]], above: float) -> int:
    """Return the first step of the last steps whose losses are all larger, or not finite."""

    def run() -> Iterator[int]:
        for step, loss in reversed(losses):
            if abs(loss) <= above:
                return
            yield step

    return min(run())
