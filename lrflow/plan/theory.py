"""What theory says of a plan, in words: the bound of the last iterate, and the best LR against that of another plan."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lrflow.plan.values import PlanBase
from lrflow.schedules import Curve, Horizon
from lrflow.schedules.bound import BestLRRatio, best_lr_ratio, last_iterate_of, relative_bound
from lrflow.wording import counted, joined, number

MAX_NAMES = 3  # groups that a line names


def describe_bound(plan: PlanBase) -> list[str]:
    """Return a line per value of the bound: how the best LR of a curve compares with a linear decay to zero."""
    found: dict[str, list[str]] = {}
    for curve, columns in plan.curves:
        if relative := relative_bound(curve, plan.horizon):
            found.setdefault(f"{number(relative)}x", []).extend(plan.names[column] for column in columns)
    than = f"that of a linear decay to zero over {counted(plan.horizon.steps, 'step')}"
    return [
        f"theory: at the best LR, the bound of the last iterate is {text} {than}"
        + (f" ({joined(names, MAX_NAMES)})" if len(found) > 1 else "")
        for text, names in found.items()
    ]


def record_bound(plan: PlanBase) -> list[dict[str, Any]]:
    """Return the same as plain data for plan.json: the bound and the best LR of each curve, and its groups."""
    return [
        {
            "groups": [plan.names[column] for column in columns],
            "bound": found.bound,
            "best_lr": found.best_lr,
            "relative": relative_bound(curve, plan.horizon),
        }
        for curve, columns in plan.curves
        if (found := last_iterate_of(curve, plan.horizon))
    ]


def main_curve(plan: PlanBase) -> Curve | None:
    """Return the curve that most of the trained parameters follow; None if nothing is trained."""
    sizes = [sum(plan.trainable[column].parameters for column in columns) for _, columns in plan.curves]
    return plan.curves[sizes.index(max(sizes))][0] if sizes else None


def ratio_texts(pairs: Iterable[tuple[str, Curve, Curve]], before: Horizon, after: Horizon) -> dict[str, list[str]]:
    """Return how the best LRs of groups changed from one plan to another, each text with the names of its groups.

    Args:
        pairs: of each group the name, and its curve before and after.
        before: length of the earlier plan.
        after: length of the later plan.
    """
    found: dict[str, list[str]] = {}
    for name, was, now in pairs:
        if ratio := best_lr_ratio((now, after), (was, before)):
            found.setdefault(describe_ratio(ratio, "x"), []).append(name)
    return found


def describe_ratio(ratio: BestLRRatio, unit: str = "") -> str:
    """Return the ratio, with its parts if both differ from 1: `0.373 (schedule 0.528, length 0.707)`."""
    total, schedule, length = (number(value) + unit for value in (ratio.total, ratio.schedule, ratio.length))
    return total if f"1{unit}" in (schedule, length) else f"{total} (schedule {schedule}, length {length})"
