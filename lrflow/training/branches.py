"""What remains of a run's earlier lengths: the schedule goes on under each of them in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lrflow.layers import Group
from lrflow.plan import Plan
from lrflow.schedules import Continued, Curve, Horizon
from lrflow.schedules.wrappers import ContinueMode


@dataclass(frozen=True)
class Branch:
    """One time that a run was resumed with another length; its plan is the schedule with these on top.

    Args:
        at: the step where it was resumed.
        before: the horizon until then.
        how: what became of the schedule.
    """

    at: int
    before: Horizon
    how: ContinueMode

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        before = asdict(self.before)
        if self.before.samples_per_step is None:
            del before["samples_per_step"]  # as branches were before there were samples
        return {"at": self.at, "before": before, "how": self.how}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Branch:
        """What `as_dict` gave."""
        return cls(data["at"], Horizon(**data["before"]), data["how"])


def compile_branched(
    groups: Sequence[Group],
    schedule: Curve,
    horizon: Horizon,
    branches: Sequence[Branch],
    settings: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of a run: the configured schedules, with every change of its length on top."""
    # Freezing is a part of what is continued: a group that has trained is not counted anew on another horizon.
    own = [
        replace(group, schedule=continued(group.curve(schedule), branches), unfreeze=None)
        if group.schedule or group.unfreeze
        else group
        for group in groups
    ]
    return Plan.compile(own, continued(schedule, branches), horizon, settings)


def continued(schedule: Curve, branches: Sequence[Branch]) -> Curve:
    """The schedule of a run that was resumed with other lengths."""
    for branch in branches:
        schedule = Continued(schedule, branch.at, branch.before, branch.how)
    return schedule
