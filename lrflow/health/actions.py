"""What a run does about a finding besides a rollback: it adjusts its LR, or it ends early."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from lrflow.config import Config
from lrflow.config.schemas.health import ADJUSTMENTS, NOTICEABLE, Health, OwnResponse
from lrflow.finding import Finding, spoken
from lrflow.plan import Plan
from lrflow.schedules import Horizon
from lrflow.training.adjustments import Adjustment, Adjustments
from lrflow.training.branches import Branch
from lrflow.training.cooldown import end_run
from lrflow.training.resume import Resumed
from lrflow.training.trainer import Trainer
from lrflow.wording import counted

SETTLES = 0.1
"""After an adjustment, share of the planned run in which no other follows for the same kind of finding."""


class Actions:
    """Responds to findings that are there at a look, whether they are new or not.

    - `stop` and `cooldown` end the run as early stopping does: at once, or after the LR has decayed to its floor.
    - `restart` lets the LR rise to its planned peak, and then fall to the plan by the end of the run: a warm restart
      (SGDR; Loshchilov & Hutter, 2017, arXiv 1608.03983) whose plan is nevertheless executed to its end.
    - `kick` raises the LR for a short time.
    - `raise` raises it for the rest of the run, towards the `factor` in the evidence of the finding.

    Args:
        health: the settings.
        length: of the run without its cooldown, of which durations may be shares.
    """

    def __init__(self, health: Health, length: Horizon) -> None:
        self._health, self._length = health, length

    def respond(self, trainer: Trainer, finding: Finding, response: OwnResponse, is_new: bool) -> None:
        """Do what a finding asks for; every process calls it at the same step.

        Args:
            trainer: of the run.
            finding: at the present step.
            response: the action.
            is_new: whether the look before did not show it.
        """
        if response in ("stop", "cooldown"):
            end_run(trainer, finding.line, response, self._health.cooldown)
        elif response in ADJUSTMENTS and isinstance(trainer.adjustments, Adjustments):
            cooling = trainer.cooldown is not None and trainer.cooldown.has_begun
            if not cooling and self._is_due(trainer.adjustments, finding, response):
                self._adjust(trainer.adjustments, finding, response, is_new)

    def _is_due(self, done: Adjustments, finding: Finding, action: str) -> bool:
        """Whether the run may make another one of these, and the last one for this kind has shown its effect."""
        if sum(one.action == action for one in done.active) >= self._times(action):
            return False
        settled = [_end(one) + SETTLES * self._length.steps for one in done.active if one.kind == finding.kind]
        return finding.step >= max(settled, default=0.0)

    def _times(self, action: str) -> int:
        health = self._health
        return {"restart": health.restart.times, "kick": health.kick.times, "raise": health.raise_.times}[action]

    def _adjust(self, done: Adjustments, finding: Finding, action: str, is_new: bool) -> None:
        """Make an adjustment and report it, or report once why it would change nothing."""
        made, why_small = self._proposed(done, finding, action)
        line = f"step {made.step:,}: {spoken(made.kind)}: {action}"
        rise, why = f"over {counted(made.rewarm, 'step')}", ""
        if made.factor < NOTICEABLE:
            why = why_small
        elif made.step + made.rewarm >= self._length.steps:
            why = f"the run ends before the LR has risen {rise}"
        if why:
            if is_new:
                done.report(f"{line}: nothing changes, since {why}")
            return
        done.add(made)
        count = f"{sum(one.action == action for one in done.active)} of {self._times(action)}"
        back = "" if made.until is None else f", and back to the planned one by step {made.until:,}"
        done.report(f"{line} ({count}), LR x {made.factor:.3g} {rise}{back}")

    def _proposed(self, done: Adjustments, finding: Finding, action: str) -> tuple[Adjustment, str]:
        """Return the adjustment that an action asks for, and why its factor is small if it is."""
        health, step, end = self._health, finding.step, self._length.steps
        make = partial(Adjustment, step, action, finding.kind, reason=finding.message)
        if action == "restart":
            rewarm, peak = health.restart.rewarm.steps(self._length, step), health.restart.peak
            at = np.array([min(step + rewarm, end - 1)])
            share = float((done.share(at) * done.factor(at))[0])
            why = f"the LR is {share:.3g} times its planned peak"
            why += f", and health.restart.peak is {peak:g}" * (peak < 1)
            return make(factor=peak / share if share > 0 else 0.0, rewarm=rewarm, until=end, peak=peak), why
        if action == "kick":
            over = max(2, health.kick.over.steps(self._length, step))
            return make(factor=health.kick.factor, rewarm=over // 2, until=step + over), ""
        wanted = finding.evidence.get("factor", math.inf)
        raised = math.prod(one.factor for one in done.active if one.action == action)
        why = f"the LR is {raised:.3g} times the planned one, and {wanted:.3g} times would do"
        factor, rewarm = min(health.raise_.most, wanted / raised), health.raise_.rewarm.steps(self._length, step)
        return make(factor=factor, rewarm=rewarm), why


def _end(one: Adjustment) -> int:
    """Return the step after which an adjustment shows its effect."""
    return one.until if one.action == "kick" and one.until is not None else one.step + one.rewarm


def make_adjustments(
    config: Config, plan: Plan, branches: Sequence[Branch], resumed: Resumed | None, report: Callable[[str], None]
) -> Adjustments | None:
    """Return the callback that adjusts the LR; None: no finding does, and none has in the run that is resumed.

    Args:
        config: of the run.
        plan: of the run.
        branches: that the run has made.
        resumed: the run that is resumed; None: a new run.
        report: is called with one line per adjustment.
    """
    may = any(map(config.health.may, ADJUSTMENTS))
    if may or (resumed is not None and resumed.adjusted and config.monitors):
        return Adjustments(plan, branches, report)
    return None


def report_earlier_factors(config: Config, resumed: Resumed, report: Callable[[str], None]) -> None:
    """Report that a resumed run keeps, or loses, factors on its LR that nothing would make any more."""
    cut = resumed.recovered != 1 and not config.health.may("recover")
    if not cut and not (resumed.adjusted and not config.monitors):
        return
    had = f"rollbacks had cut its LR to {resumed.recovered:.3g} times" if cut else "findings had moved its LR off"
    rest = "it stays so; health=none would let it follow the plan" if config.monitors else "it follows the plan now"
    report(f"health: {had} the planned one; {rest}")
