"""What changed from one plan to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lrflow.plan.plan import Plan


@dataclass(frozen=True)
class PlanDiff:
    """What changed from one plan to another."""

    same: bool


def diff(before: Plan, after: Plan) -> PlanDiff:
    """What changed from `before` to `after`."""
    return PlanDiff(before.fingerprint == after.fingerprint)
