"""Branches of a run: the horizons that it had before it was resumed with other lengths, and the plan that follows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lrflow.layers import Group
from lrflow.plan import Plan
from lrflow.plan.scalars import PlanScalar
from lrflow.schedules import Continued, Curve, Horizon
from lrflow.schedules.wrappers import ContinueMode


@dataclass(frozen=True)
class Branch:
    """A point at which a run got another length; the run's plan is its schedule, continued at each branch.

    Args:
        at: the step at which the run was resumed with another length, or at which its cooldown began.
        before: the horizon up to there.
        how: how the schedule continues.
        reason: why a cooldown began while the run was under way; None: the run was resumed.
    """

    at: int
    before: Horizon
    how: ContinueMode
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        reason = {} if self.reason is None else {"reason": self.reason}
        return {"at": self.at, "before": self.before.to_dict(), "how": self.how, **reason}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Branch:
        """Return the branch that `as_dict` wrote."""
        return cls(data["at"], Horizon(**data["before"]), data["how"], data.get("reason"))


class FollowsPlan(ABC):
    """Base class of callbacks that read the plan of a run, and get another one where its cooldown begins."""

    @abstractmethod
    def follow(self, plan: Plan) -> None:
        """Read another plan from now on; its LRs are the same up to the step that was made last."""


def length_without_cooldown(branches: Sequence[Branch], horizon: Horizon) -> Horizon:
    """Return the length of a run as its config sets it: the horizon before the cooldown that it is in, if any."""
    for branch in reversed(branches):
        if branch.reason is None:
            break
        horizon = branch.before
    return horizon


def cooldown_record(branches: Sequence[Branch], horizon: Horizon) -> dict[str, Any]:
    """Return what the record of a run says about its cooldown, under `cooldown`; empty if there is none."""
    if not branches or branches[-1].reason is None:
        return {}
    last = branches[-1]
    planned = length_without_cooldown(branches, horizon).steps
    return {"cooldown": {"from": last.at, "to": horizon.steps, "planned": planned, "reason": last.reason}}


def compile_branched(
    groups: Sequence[Group],
    schedule: Curve,
    horizon: Horizon,
    branches: Sequence[Branch],
    settings: Mapping[str, Any] | None = None,
    scalars: Sequence[PlanScalar] = (),
) -> Plan:
    """Compile the plan of a run: the configured schedules, continued at each of its branches.

    A cooldown is of the LR only: a scalar then follows the rest of its own curve.
    """
    # Freezing is part of the continued curve, so that a new horizon does not freeze a group that has trained.
    own = [
        replace(group, schedule=continued(group.curve(schedule), branches), unfreeze=None, freeze_after=None, every=1)
        if group.schedule or group.unfreeze or group.freeze_after or group.every > 1
        else group
        for group in groups
    ]
    rest = [replace(branch, how="extend") if branch.how == "decay_now" else branch for branch in branches]
    moved = [replace(scalar, curve=continued(scalar.curve, rest)) for scalar in scalars]
    return Plan.compile(own, continued(schedule, branches), horizon, settings, moved)


def continued(schedule: Curve, branches: Sequence[Branch]) -> Curve:
    """Return a schedule as it continues in a run that was resumed with other lengths."""
    for branch in branches:
        schedule = Continued(schedule, branch.at, branch.before, branch.how)
    return schedule
