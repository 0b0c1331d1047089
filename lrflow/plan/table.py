"""The plan on a terminal: its groups, its LRs at the landmarks, its checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from lrflow.display import Grid, joined, number
from lrflow.plan.base import PlanBase
from lrflow.plan.checks import check
from lrflow.plan.view import FEW, describe, describe_setting, landmarks, length, lines, setting_lines

NUMBER = 10  # characters of a column of LRs, with the space behind it


@dataclass(frozen=True)
class PlanTable:
    """The plan for a terminal of any width.

    Args:
        plan: what to show.
    """

    plan: PlanBase

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _head(self.plan)
        yield Text()
        groups = _groups(self.plan)
        needed = Measurement.get(console, options.update(width=10_000), groups).maximum
        yield groups if needed <= options.max_width else _groups(self.plan, narrow=True)
        if self.plan.trainable:
            yield Text()
            yield from _rates(self.plan, options.max_width)
        yield Text()
        yield _checks(self.plan, ("ok", "FAIL") if options.ascii_only else ("✓", "✗"))


def _head(plan: PlanBase) -> Grid:
    table = Grid("<", "<")
    table.row(Text("Plan", "bold"), Text(plan.fingerprint[:12], "dim"))
    table.row(Text("run", "bold"), length(plan))
    schedules: dict[str, list[str]] = {}
    for curve, columns in plan.curves:
        # Where many groups are unfrozen one by one, the table of the groups says from which step on each trains.
        words = describe(curve if len(plan.curves) <= FEW else curve.unfrozen(), plan.horizon)
        schedules.setdefault(words, []).extend(plan.names[column] for column in columns)
    for words, names in schedules.items():
        table.row(Text("schedule", "bold"), words + (f" ({joined(names)})" if len(schedules) > 1 else ""))
    for moved, columns in plan.moved:
        whose = "" if len(columns) == len(plan.names) else f" ({joined([plan.names[column] for column in columns])})"
        how = describe_setting(moved, [plan.trainable[column].schedule for column in columns])
        table.row(Text("also", "bold"), f"{moved.title} {how}{whose}")
    return table


def _groups(plan: PlanBase, narrow: bool = False) -> Grid:
    """Every group; columns that say nothing of any of them are left out, and in a narrow table the tensors."""
    routed, layered = any(group.route for group in plan.groups), any(group.depth is not None for group in plan.groups)
    late = any(plan.starts.values())
    table = Grid(
        "<group",
        *(["<route"] if routed else []),
        *(["depth"] if layered else []),
        *([] if narrow else ["tensors"]),
        *("parameters", "LR scale", "peak LR", "weight\ndecay" if narrow else "weight decay"),
        *(["from step"] if late else []),
    )
    for group in plan.groups:
        cells = [group.name]
        cells += [group.route or ""] if routed else []
        cells += ["" if group.depth is None else str(group.depth)] if layered else []
        cells += [] if narrow else [f"{group.tensors:,}"]
        cells.append(f"{group.parameters:,}")
        if group.frozen:
            table.row(*cells, "frozen", style="dim")
        else:
            decay = "optimizer's" if group.weight_decay is None else number(group.weight_decay)
            if moved := next((moved for moved in group.also if moved.setting == "weight_decay"), None):
                decay = f"{number(moved.low)} to {number(moved.high)}"
            cells += [f"{number(group.scale)}x", number(group.lr), decay]
            table.row(*cells, *([f"{plan.starts[group.name]:,}"] if late else []))
    return table


def _rates(plan: PlanBase, width: int) -> Iterator[Grid | Text]:
    """LRs and what else moves, at the landmarks: a row a landmark while all fit side by side, else a row a group."""
    shown, marks = lines(plan), landmarks(plan)
    labels = ["LR of all groups"] if len(shown) == 1 else [line.label() for line in shown]
    rates = plan.lr(list(marks))[:, [line.column for line in shown]]
    for name, label, column in setting_lines(plan):
        labels.append(label)
        rates = np.column_stack([rates, plan.setting(name, list(marks))[:, column]])
    epochs = plan.horizon.steps_per_epoch
    needed = sum(max(NUMBER, *(len(word) + 2 for word in label.split())) for label in labels)
    if needed <= width - 40:
        table = Grid("step", *(["epoch"] if epochs else []), "<", *labels)
        for (step, why), row in zip(marks.items(), rates, strict=True):
            when = [f"{step:,}", *([f"{step / epochs:.3g}"] if epochs else []), why]
            table.row(*when, *(number(rate) for rate in row))
        yield table
        return
    names = min(max(len(label) for label in labels), width // 3) + 2
    for block in _blocks(list(marks.items()), width - names):
        table = Grid("<LR at step", *block.values())
        for label, column in zip(labels, rates.T, strict=True):
            table.row(label, *(number(column[index]) for index in block))
        yield table
        if len(marks) - 1 not in block:
            yield Text()


def _heading(step: int, why: str) -> str:
    """A landmark above a column of LRs: the step, and under it why, in as little width as it needs."""
    return "\n".join([f"{step:,}", *wrap(why, NUMBER - 2, break_long_words=False)])


def _blocks(marks: list[tuple[int, str]], width: int) -> list[dict[int, str]]:
    """Columns by the place of their landmark, as many at once as fit; quarters of the run go before there are two."""
    left_out: set[str] = set()
    for quarters in ({"25%", "75%"}, {"50%"}, set[str]()):
        blocks: list[dict[int, str]] = []
        left = 0
        for index, (step, why) in enumerate(marks):
            heading = _heading(step, why)
            needed = max(NUMBER, *(len(line) + 2 for line in heading.splitlines()))
            if why in left_out:
                continue
            if needed > left:
                blocks.append({})
                left = max(width, needed)
            blocks[-1][index] = heading
            left -= needed
        if len(blocks) == 1:
            break
        left_out |= quarters
    return blocks


def _checks(plan: PlanBase, marks: tuple[str, str]) -> Grid:
    good, bad = marks
    table = Grid("<", "<", "<")
    for one in check(plan):
        mark = Text(good, "green") if one.ok else Text(bad, "bold red")
        table.row(mark, one.name, Text(one.detail, "dim" if one.ok else ""))
    return table
