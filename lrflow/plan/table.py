"""The table of a plan for a terminal, and what tables and figures show: landmarks, curves, descriptions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from textwrap import wrap
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from lrflow.display import Grid
from lrflow.plan.checks import check
from lrflow.plan.scalars import PlanScalar
from lrflow.plan.values import PlanBase, PlanSetting
from lrflow.schedules import Continued, Curve, Duration, FrozenAfter, Horizon, OwnSteps, Schedule, Unfreezing
from lrflow.schedules.batch_schedule import BatchScaled
from lrflow.schedules.levels import AbsoluteLR
from lrflow.schedules.part import PartOfRun
from lrflow.schedules.serialization import to_spec
from lrflow.wording import counted, joined, number

MAX_WITH_FREEZING = 3  # schedules up to which each is described with its freezing
MAX_JUMPS = 6  # jumps of a schedule that are landmarks
MAX_ENTRIES = 4  # of a list in a description
NUMBER = 10  # width of a column of LRs, with the space after it


@dataclass(frozen=True)
class PlanTable:
    """The table of a plan for a terminal of any width.

    Args:
        plan: the plan.
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


def landmarks(plan: PlanBase) -> dict[int, str]:
    """Return the landmarks in order, each with its name: start, warmup's end, quarters, jumps, last step."""
    steps, last = plan.horizon.steps, plan.horizon.steps - 1
    marks: dict[int, str] = {0: "start", last: "last step"}

    def add(step: int, why: str) -> None:
        if 0 < step < last:
            marks.setdefault(step, why)

    for start in sorted({*plan.first_steps.values()}):
        names = [name for name in plan.names if plan.first_steps[name] == start]
        add(start, f"unfreezes: {joined(_leading(names), 2)}")
    for stop in sorted({*plan.frozen_from.values()}):
        names = [name for name, at in plan.frozen_from.items() if at == stop]
        add(stop, f"freezes: {joined(_leading(names), 2)}")
    for schedule, _ in plan.curves:
        # If many groups are unfrozen one by one, only the starts are landmarks, not the ends of their warmups.
        phase = (schedule if len(plan.curves) <= MAX_WITH_FREEZING else schedule.without_freezing()).phase(plan.horizon)
        add(phase.start, "warmup ends")
        add(phase.stop, "cooldown starts")
        if isinstance(schedule, Continued):
            add(schedule.at, "resumed")
    for start, size in (plan.horizon.batch.changes(steps) if plan.horizon.batch else [])[:MAX_JUMPS]:
        add(start, f"batch {size:,}")
    for schedule, _ in plan.curves:
        found: Iterable[int] = schedule.jumps(plan.horizon)
        if isinstance(schedule, OwnSteps):  # not each of its steps
            own = plan.horizon.of_every(schedule.every)
            found = (schedule.every * math.ceil(jump) for jump in schedule.schedule.jumps(own))
        jumps = sorted({math.ceil(jump) for jump in found if 0 < jump < steps})
        indices = np.linspace(0, len(jumps) - 1, min(len(jumps), MAX_JUMPS)).round().astype(int)
        for index in indices:
            before, after = schedule([jumps[index] - 1, jumps[index]], plan.horizon)
            add(jumps[index], "drop" if after < before else "jump")
    for setting in (*(setting for setting, _ in plan.scheduled_settings), *plan.scalars):
        phase = setting.curve.phase(plan.horizon)
        is_part = isinstance(setting.curve, PartOfRun)
        add(phase.start, f"{setting.name} begins" if is_part else f"warmup of {setting.name} ends")
        add(phase.stop, f"{setting.name} ends" if is_part else f"cooldown of {setting.name} starts")
        for jump in setting.curve.jumps(plan.horizon)[:MAX_JUMPS]:
            add(jump, f"jump of {setting.name}")
    for quarter in (25, 50, 75):
        add(steps * quarter // 100, f"{quarter}%")
    return dict(sorted(marks.items()))


def _leading(names: Sequence[str]) -> list[str]:
    """Return the names without parts of a layer (`stem/no_decay`) if the layer itself (`stem`) is among them."""
    return [name for name in names if name.rpartition("/")[0] not in names]


def sample_steps(plan: PlanBase, rows: int) -> np.ndarray:
    """Return all steps of the run, or at most `rows` of a longer one: evenly spaced, and every landmark.

    For a jump both its sides are included, so that it is drawn vertically.
    """
    steps = plan.horizon.steps
    if steps <= rows:
        return np.arange(steps)
    marks = np.array(list(landmarks(plan)))
    marks = np.unique(np.concatenate([marks, np.maximum(marks - 1, 0)]))
    even = np.linspace(0, steps - 1, max(rows - len(marks), 2)).round().astype(np.int64)
    return np.union1d(even, marks)


@dataclass(frozen=True)
class Line:
    """Groups with the same LR at every step.

    Args:
        names: of the groups.
        column: column of their LR in `plan.lr`.
    """

    names: tuple[str, ...]
    column: int

    def label(self, count: int = 3) -> str:
        """Return the names, or the first of them and how many more there are."""
        return joined(self.names, count)


def lines(plan: PlanBase) -> list[Line]:
    """Return the distinct LR curves of a plan, in the order of their first group."""
    found: dict[tuple[int, float], list[int]] = {}
    for index, (_, columns) in enumerate(plan.curves):
        for column in columns:
            found.setdefault((index, plan.trainable[column].lr), []).append(column)
    merged = sorted(found.values(), key=lambda columns: columns[0])
    return [Line(tuple(plan.names[column] for column in columns), columns[0]) for columns in merged]


def describe(schedule: Curve, horizon: Horizon | None = None) -> str:
    """Describe the schedule in a few words, as it was declared: `cosine, warmup 5%, floor 0.1`.

    Args:
        schedule: the schedule or curve to describe.
        horizon: of the run; then a declared warmup or cooldown of less than a step is marked as such. None: no run is
            known.
    """
    if isinstance(schedule, Continued):
        return f"{describe(schedule.schedule)}; from step {schedule.at:,}: {schedule.how}"
    if isinstance(schedule, Unfreezing):
        warmup = f", warmup {schedule.warmup}" if schedule.warmup.value else ""
        return f"frozen for {schedule.at}{warmup}, then {describe(schedule.schedule)}"
    if isinstance(schedule, FrozenAfter):
        return f"{describe(schedule.schedule, horizon)}; frozen after {schedule.at}"
    if isinstance(schedule, PartOfRun):
        start = f" from {schedule.start}" if schedule.start.value else ""
        return f"{describe(schedule.schedule)}{start}" + (f" over {schedule.over}" if schedule.over else "")
    if isinstance(schedule, BatchScaled):
        how = "the root of the batch" if schedule.rule == "sqrt" else "the batch"
        return f"{describe(schedule.schedule, horizon)}, x {how} / {schedule.largest:,}"
    if isinstance(schedule, OwnSteps):
        own = None if horizon is None else horizon.of_every(schedule.every)
        return f"{describe(schedule.schedule, own)}; one step at every {schedule.every} of the run"
    if isinstance(schedule, Schedule):
        spec = to_spec(schedule)
        for name in ("warmup", "cooldown"):
            duration: Duration = getattr(schedule, name)
            if horizon is not None and duration.value and not duration.steps(horizon) and name in spec:
                spec[name] = f"{spec[name]} (less than a step)"
        for name in ("warmup_start", "floor"):
            if isinstance(level := getattr(schedule, name), AbsoluteLR):  # the same in groups with other peaks
                spec[name] = level.declared
        if horizon is not None and schedule.shape_length is not None and schedule.cut_off(horizon):
            spec["shape_length"] += " (cut off)"
        return ", ".join(_words(spec.pop("shape")) + _words(spec)[1:])
    return ", ".join(_words(to_spec(schedule)))


def describe_setting(setting: PlanSetting, lr: Sequence[Curve] = ()) -> str:
    """Describe a scheduled setting in a few words: `0.85 to 0.95, inverse to the LR`.

    Args:
        setting: the scheduled setting.
        lr: the curves of the LR.
    """
    curve = "the LR" if setting.curve in lr else describe(setting.curve)
    along = "inverse to " if setting.inverse else "as " if setting.curve in lr else ""
    return f"{number(setting.low)} to {number(setting.high)}, {along}{curve}"


def describe_scalar(scalar: PlanScalar, horizon: Horizon) -> str:
    """Describe a scalar in a few words, as it was declared: `0.2 to 0, linear`.

    Args:
        scalar: the scalar.
        horizon: of the run.
    """
    first, other = scalar.ends(horizon)
    if first == other:
        return f"{number(first)} throughout"
    return f"{number(first)} to {number(other)}, {describe(scalar.curve, horizon)}"


def setting_lines(plan: PlanBase) -> list[tuple[str, str, int]]:
    """Return for each variant of a scheduled setting: its name, its label, and a column of `Plan.setting`."""
    found = []
    for setting, columns in plan.scheduled_settings:
        everyone = sum(other.name == setting.name for other, _ in plan.scheduled_settings) == 1
        of_groups = "" if everyone else f" of {joined([plan.names[column] for column in columns], 3)}"
        found.append((setting.name, setting.title + of_groups, columns[0]))
    return found


def setting_columns(plan: PlanBase) -> list[tuple[str, int, str]]:
    """Return for each scheduled setting of a group: its name, the group's column, and a title `momentum/head`."""
    return [
        (name, column, f"{name}/{plan.names[column]}")
        for name in plan.also
        for column in sorted(chain(*(columns for setting, columns in plan.scheduled_settings if setting.name == name)))
    ]


def _words(spec: dict[str, Any]) -> list[str]:
    """Return the name of the class, then its arguments without those that have no effect."""
    arguments = {
        key: value
        for key, value in spec.items()
        if key != "_target_" and value not in (None, False, 0, "0%", "0 steps")
    }
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", spec["_target_"].rpartition(".")[2]).lower()
    return [name.replace("multi step", "multistep"), *(f"{key} {_format(value)}" for key, value in arguments.items())]


def _format(value: object) -> str:
    """Format a value: the ends of a long list, the shape and the arguments of a nested part."""
    if isinstance(value, list):
        entries = value if len(value) <= MAX_ENTRIES else [*value[: MAX_ENTRIES - 1], "...", value[-1]]
        return " ".join(f"({_format(item)})" if isinstance(item, dict | list) else str(item) for item in entries)
    if isinstance(value, dict):
        rest = {key: item for key, item in value.items() if key != "shape"}
        return ", ".join(_words(value["shape"]) + _words(rest)[1:] if "shape" in value else _words(value))
    return str(value)


def describe_length(plan: PlanBase) -> str:
    """Describe the length of a run: `938 steps, 2 epochs of 469`.

    Samples are added if the plan uses them or if there are no epochs: `976 steps, 499,712 samples`.
    """
    horizon = plan.horizon
    words = counted(horizon.steps, "step")
    if horizon.has_epochs:
        words += f", {counted(f'{horizon.epochs:.4g}', 'epoch')}"
        words += f" of {horizon.steps_per_epoch:,}" if horizon.steps_per_epoch else ""
    if horizon.samples and (plan.in_samples or not horizon.steps_per_epoch):
        words += f", {horizon.samples:,.0f} samples"
    return words


def _head(plan: PlanBase) -> Grid:
    table = Grid("<", "<")
    table.row(Text("Plan", "bold"), Text(plan.fingerprint[:12], "dim"))
    table.row(Text("run", "bold"), describe_length(plan))
    schedules: dict[str, list[str]] = {}
    for curve, columns in plan.curves:
        # If many groups are unfrozen one by one, the table of groups lists their first steps instead.
        words = describe(curve if len(plan.curves) <= MAX_WITH_FREEZING else curve.without_freezing(), plan.horizon)
        schedules.setdefault(words, []).extend(plan.names[column] for column in columns)
    for words, names in schedules.items():
        table.row(Text("schedule", "bold"), words + (f" ({joined(names)})" if len(schedules) > 1 else ""))
    for setting, columns in plan.scheduled_settings:
        names = [plan.names[column] for column in columns]
        of_groups = "" if len(names) == len(plan.names) else f" ({joined(names)})"
        how = describe_setting(setting, [plan.trainable[column].schedule for column in columns])
        table.row(Text("also", "bold"), f"{setting.title} {how}{of_groups}")
    for scalar in plan.scalars:
        table.row(Text("scalar", "bold"), f"{scalar.name} {describe_scalar(scalar, plan.horizon)}")
    return table


def _groups(plan: PlanBase, narrow: bool = False) -> Grid:
    """Return the table of groups; columns that are empty for all are omitted, and tensors in a narrow table."""
    routed, layered = any(group.route for group in plan.groups), any(group.depth is not None for group in plan.groups)
    late = any(plan.first_steps.values())
    ending = bool(plan.frozen_from)
    special = any(group.settings for group in plan.groups)
    table = Grid(
        "<group",
        *(["<route"] if routed else []),
        *(["depth"] if layered else []),
        *([] if narrow else ["tensors"]),
        *("parameters", "LR scale", "peak LR", "weight\ndecay" if narrow else "weight decay"),
        *(["from step"] if late else []),
        *(["to step"] if ending else []),
        *(["<settings"] if special else []),
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
            if setting := next((setting for setting in group.also if setting.setting == "weight_decay"), None):
                decay = f"{number(setting.low)} to {number(setting.high)}"
            cells += [f"{number(group.scale)}x", number(group.lr), decay]
            cells += [f"{plan.first_steps[group.name]:,}"] if late else []
            cells += [f"{plan.frozen_from.get(group.name, plan.horizon.steps):,}"] if ending else []
            own = ", ".join(f"{name} {_format(value)}" for name, value in group.settings.items())
            cells += [own] if special else []
            table.row(*cells)
    return table


def _rates(plan: PlanBase, width: int) -> Iterator[Grid | Text]:
    """Yield the LRs and settings at the landmarks: one row per landmark if all columns fit, else one row per group."""
    curves, marks = lines(plan), landmarks(plan)
    labels = ["LR of all groups"] if len(curves) == 1 else [line.label() for line in curves]
    rates = plan.lr(list(marks))[:, [line.column for line in curves]]
    for name, label, column in setting_lines(plan):
        labels.append(label)
        rates = np.column_stack([rates, plan.setting(name, list(marks))[:, column]])
    labels += [scalar.name for scalar in plan.scalars]
    rates = np.column_stack([rates, plan.scalar_values(list(marks))])
    if (batch := plan.horizon.batch) is not None:
        labels.append("batch")
        rates = np.column_stack([rates, batch.sizes_at(np.array(list(marks)))])
    needed = sum(max(NUMBER, *(len(word) + 2 for word in label.split())) for label in labels)
    if needed <= width - 40:
        table = Grid("step", *(["epoch"] if plan.horizon.has_epochs else []), "<", *labels)
        for (step, why), row in zip(marks.items(), rates, strict=True):
            when = [f"{step:,}", *([f"{plan.horizon.epochs_at(step):.3g}"] if plan.horizon.has_epochs else []), why]
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
    """Return the heading of a column of LRs: the step, and the landmark's name wrapped below it."""
    return "\n".join([f"{step:,}", *wrap(why, NUMBER - 2, break_long_words=False)])


def _blocks(marks: list[tuple[int, str]], width: int) -> list[dict[int, str]]:
    """Return columns in blocks that fit the width; quarters of the run are omitted before a second block."""
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
