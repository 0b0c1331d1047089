"""The plan on a terminal: its groups, its LRs at the landmarks, its checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from lrflow.plan.view import counted, grid, lines, number

if TYPE_CHECKING:
    from lrflow.plan.plan import Plan


@dataclass(frozen=True)
class PlanTable:
    """The plan for a terminal of any width.

    Args:
        plan: what to show.
    """

    plan: Plan

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _headline(self.plan)
        yield Text()
        yield _groups(self.plan)
        yield Text()
        yield _landmarks(self.plan)
        yield Text()
        yield _checks(self.plan, ascii_only=options.ascii_only)


def _headline(plan: Plan) -> Text:
    length = counted(plan.horizon.steps, "step")
    if plan.horizon.steps_per_epoch:
        length += f", {plan.horizon.epochs:.4g} epochs of {plan.horizon.steps_per_epoch:,}"
    return Text.assemble(("Plan ", "bold"), (f"{plan.fingerprint[:12]}  ", "dim"), length)


def _groups(plan: Plan) -> Table:
    table = grid("group", "tensors", "parameters", "LR scale", "peak LR", "weight decay")
    for group in plan.groups:
        counts = (group.name, f"{group.tensors:,}", f"{group.parameters:,}")
        if group.frozen:
            table.add_row(*counts, "frozen", "", "", style="dim")
        else:
            decay = "optimizer's" if group.weight_decay is None else number(group.weight_decay)
            table.add_row(*counts, f"{number(group.scale)}x", number(group.lr), decay)
    return table


def _landmarks(plan: Plan) -> Table:
    marks, shown = plan.landmarks(), lines(plan)
    rates = plan.lr(list(marks))
    table = grid("step", *(["all groups"] if len(shown) == 1 else [line.label() for line in shown]), "")
    for row, (step, why) in enumerate(marks.items()):
        table.add_row(f"{step:,}", *(number(rates[row, line.column]) for line in shown), why)
    return table


def _checks(plan: Plan, ascii_only: bool) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    for check in plan.check():
        mark = ("ok" if check.ok else "FAIL") if ascii_only else ("✓" if check.ok else "✗")
        table.add_row(Text(mark, "green" if check.ok else "bold red"), check.name, Text(check.detail, "dim"))
    return table
