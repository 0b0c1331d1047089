"""The difference of two plans on a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import RenderResult
from rich.text import Text

from lrflow.plan.view import Grid, joined, length, number

if TYPE_CHECKING:
    from lrflow.plan.diff import PlanDiff

WORDS = {
    "lr": "peak LR",
    "scale": "LR scale",
    "weight_decay": "weight decay",
}  # settings as the plan's table calls them


def render(diff: PlanDiff, arrow: str) -> RenderResult:
    """What changed, most telling first: the run, the groups, their settings, the LRs."""
    yield Text.assemble(
        ("Plan ", "bold"), (f"{diff.before.fingerprint[:12]} {arrow} {diff.after.fingerprint[:12]}", "dim")
    )
    if diff.same:
        yield Text("nothing changed: every LR is the same at every step")
        return
    yield Text()
    yield _summary(diff, arrow)
    if diff.rates:
        yield Text()
        yield _rates(diff, arrow)
    if diff.before.horizon.steps != diff.after.horizon.steps:
        how = "step by step, as far as both go" if diff.stepwise else "at the same fraction of each"
        yield Text(f"runs of different lengths, compared {how}", "dim")


def _summary(diff: PlanDiff, arrow: str) -> Grid:
    table = Grid("<", "<")
    was, now = length(diff.before), length(diff.after)
    if was != now:
        table.row(Text("run", "bold"), f"{was} {arrow} {now}")
    for name in diff.removed:
        table.row(Text("group", "bold"), f"- {name}", style="red")
    for name in diff.added:
        table.row(Text("group", "bold"), f"+ {name}", style="green")
    for old, new in diff.renamed.items():
        table.row(Text("group", "bold"), f"{old} {arrow} {new}, renamed")
    for (setting, before, after), names in _alike(diff).items():
        told = f"{_shown(setting, before)} {arrow} {_shown(setting, after)}"
        if setting in ("lr", "scale") and isinstance(before, float) and isinstance(after, float):
            told += f" ({_times(after / before if before else math.inf)})"
        table.row(Text(WORDS.get(setting, setting), "bold"), f"{_whose(diff, names)}: {told}")
    if diff.furthest is None:
        whose = " in the groups of both plans" if diff.added or diff.removed else ""
        told = f"the same at every step{whose}" if diff.compared else "no group is trained in both"
        table.row(Text("LR", "bold"), told)
    else:
        far = diff.furthest
        told = f"{number(far.before)} {arrow} {number(far.after)} ({_times(far.ratio)})"
        table.row(
            Text("furthest apart", "bold"), f"{_whose(diff, far.groups)} at step {_steps(far.steps, arrow)}: {told}"
        )
        shares: dict[str, list[str]] = {}
        for name, ratio in diff.budget.items():
            shares.setdefault(_times(ratio), []).append(name)
        told = "; ".join(f"{times} ({_whose(diff, names)})" for times, names in shares.items())
        table.row(Text("LR, summed", "bold"), told)
    return table


def _rates(diff: PlanDiff, arrow: str) -> Grid:
    table = Grid("step", "<when", "<groups", "before", "after", "change")
    for change in diff.rates:
        table.row(
            _steps(change.steps, arrow),
            change.why,
            _whose(diff, change.groups),
            number(change.before),
            number(change.after),
            _times(change.ratio),
        )
    return table


def _alike(diff: PlanDiff) -> dict[tuple[str, object, object], list[str]]:
    """The changed settings, groups that changed alike together."""
    found: dict[tuple[str, object, object], list[str]] = {}
    for change in diff.changes:
        found.setdefault((change.setting, change.before, change.after), []).append(change.group)
    return found


def _whose(diff: PlanDiff, names: list[str] | tuple[str, ...]) -> str:
    everyone = len(names) > 1 and set(diff.compared) <= set(names)
    return "all groups" if everyone else joined(names)


def _steps(steps: tuple[float, float], arrow: str) -> str:
    before, after = (round(step) for step in steps)
    return f"{after:,}" if before == after else f"{before:,} {arrow} {after:,}"


def _shown(setting: str, value: object) -> str:
    if value is None:
        return "the main optimizer" if setting == "route" else "the optimizer's"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _times(ratio: float) -> str:
    return "from 0" if math.isinf(ratio) else "to 0" if ratio == 0 else f"{ratio:.3g}x"
