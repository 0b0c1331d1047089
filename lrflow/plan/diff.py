"""The comparison of two plans, as data and as a table."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from lrflow.display import Grid
from lrflow.plan.table import describe, describe_length, describe_scalar, describe_setting, landmarks
from lrflow.plan.theory import ratio_texts
from lrflow.plan.values import PlanBase, PlanGroup
from lrflow.schedules import Continued
from lrflow.schedules.serialization import to_spec
from lrflow.wording import joined, number

SAMPLES = 10_000  # steps at which the LRs of two long runs are compared
SAME_LR = 1e-9  # relative difference up to which two LRs count as equal

TITLES = {"lr": "peak LR", "scale": "LR scale", "weight_decay": "weight decay"}  # settings, as in the plan's table


@dataclass(frozen=True)
class Change:
    """A setting of a group that changed.

    Args:
        group: the group's name in the later plan.
        setting: a field of PlanGroup.
        before: its value in the earlier plan (a description, for a schedule).
        after: its value in the later plan.
    """

    group: str
    setting: str
    before: object
    after: object


@dataclass(frozen=True)
class RateChange:
    """A landmark at which the LR changed.

    Args:
        groups: the names of the groups in the later plan.
        steps: the step in the earlier and in the later plan: the same, or the same fraction of the run if their lengths
            differ, which need not be a whole step.
        why: name of the landmark.
        before: LR in the earlier plan.
        after: LR in the later plan.
    """

    groups: tuple[str, ...]
    steps: tuple[float, float]
    why: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """`after` over `before`; infinite if `before` is 0."""
        return _ratio(self.before, self.after)


@dataclass(frozen=True)
class PlanDiff:
    """The changes from one plan to another; print it with rich.

    Runs of equal length are compared step by step, and so is a run with its continuation, up to the shorter one's end;
    others are compared at the same fraction of the run.

    Args:
        before: the earlier plan.
        after: the later plan.
    """

    before: PlanBase
    after: PlanBase

    @cached_property
    def same(self) -> bool:
        """Whether the plans are equal."""
        return self.before.fingerprint == self.after.fingerprint

    @cached_property
    def same_rates(self) -> bool:
        """Whether the groups that both plans train have the same LR at every compared step."""
        return self.furthest is None

    @cached_property
    def renamed(self) -> dict[str, str]:
        """Removed groups and the new groups that replace them: the only ones with as many tensors and parameters."""
        gone = _unique_sizes(self._only(self.before, self.after))
        new = _unique_sizes(self._only(self.after, self.before))
        return {gone[size]: new[size] for size in gone if size in new}

    @cached_property
    def removed(self) -> tuple[str, ...]:
        """Groups that only the earlier plan has."""
        return tuple(g.name for g in self._only(self.before, self.after) if g.name not in self.renamed)

    @cached_property
    def added(self) -> tuple[str, ...]:
        """Groups that only the later plan has."""
        return tuple(g.name for g in self._only(self.after, self.before) if g.name not in self.renamed.values())

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """The settings that changed, group by group."""
        found = []
        for old, new in self._pairs:
            for field in fields(old):
                was, now = getattr(old, field.name), getattr(new, field.name)
                if field.name == "schedule":
                    if to_spec(was) != to_spec(now):
                        found.append(Change(new.name, field.name, describe(was), describe(now)))
                elif field.name == "also":
                    found += _setting_changes(old, new)
                elif field.name == "settings":
                    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
                    found += [Change(new.name, name, was.get(name), now.get(name)) for name in names]
                elif field.name not in ("name", "depth") and was != now:
                    found.append(Change(new.name, field.name, was, now))
        return tuple(found)

    @cached_property
    def scalars(self) -> tuple[tuple[str, str, str], ...]:
        """The scalars that changed: name, and how the earlier and the later plan move it."""
        was, now = (
            {scalar.name: describe_scalar(scalar, plan.horizon) for scalar in plan.scalars}
            for plan in (self.before, self.after)
        )
        text = [(name, was.get(name, "none"), now.get(name, "none")) for name in {**was, **now}]
        return tuple(each for each in text if each[1] != each[2])

    @cached_property
    def rates(self) -> tuple[RateChange, ...]:
        """The landmarks of both plans at which the LR changed; groups that changed alike share an entry."""
        found: dict[tuple[tuple[float, float], str, float, float], list[str]] = {}
        for steps, why in self._landmarks():
            was, now = self.before.lr(steps[0]), self.after.lr(steps[1])
            for (left, right), name in self._columns.items():
                if not math.isclose(was[left], now[right], rel_tol=SAME_LR):
                    found.setdefault((steps, why, float(was[left]), float(now[right])), []).append(name)
        return tuple(RateChange(tuple(names), *key) for key, names in found.items())

    @cached_property
    def furthest(self) -> RateChange | None:
        """The step with the largest LR difference relative to the group's peak; None if all LRs are equal.

        The ratio of the LRs is not used: it is always largest where one of two curves reaches zero.
        """
        old_steps, new_steps = self._places()
        old, new = self.before.lr(old_steps), self.after.lr(new_steps)
        widest, place = SAME_LR, None
        for left, right in self._columns:
            peak = max(self.before.trainable[left].lr, self.after.trainable[right].lr)
            gaps = np.abs(new[:, right] - old[:, left])
            at = int(np.argmax(gaps))
            if gaps[at] > widest * peak:
                widest, place = gaps[at] / peak, (at, left, right)
        if place is None:
            return None
        at, left, right = place
        was, now = old[at, left], new[at, right]
        alike = [name for (a, b), name in self._columns.items() if (old[at, a], new[at, b]) == (was, now)]
        steps = (float(old_steps[at]), float(new_steps[at]))
        return RateChange(tuple(alike), steps, "furthest apart", float(was), float(now))

    @cached_property
    def lr_sum_ratios(self) -> dict[str, float]:
        """For each group in both plans, the ratio of its LR summed over the run, after over before."""
        old, new = _sums(self.before), _sums(self.after)
        return {name: _ratio(float(old[left]), float(new[right])) for (left, right), name in self._columns.items()}

    @cached_property
    def best_lrs(self) -> dict[str, list[str]]:
        """By how much the best LR of each group in both plans changes, by theory: each ratio, with its groups."""
        old, new = self.before.trainable, self.after.trainable
        pairs = ((name, old[left].schedule, new[right].schedule) for (left, right), name in self._columns.items())
        return ratio_texts(pairs, self.before.horizon, self.after.horizon)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _render(self, "->" if options.ascii_only else "→")

    @staticmethod
    def _only(plan: PlanBase, other: PlanBase) -> list[PlanGroup]:
        names = {group.name for group in other.groups}
        return [group for group in plan.groups if group.name not in names]

    @cached_property
    def _pairs(self) -> list[tuple[PlanGroup, PlanGroup]]:
        """The groups of both plans, each with its counterpart; renamed ones too."""
        new = {group.name: group for group in self.after.groups}
        named = ((group, self.renamed.get(group.name, group.name)) for group in self.before.groups)
        return [(group, new[name]) for group, name in named if name in new]

    @property
    def compared(self) -> tuple[str, ...]:
        """The groups that both plans train, by their names in the later plan."""
        return tuple(self._columns.values())

    @cached_property
    def _columns(self) -> dict[tuple[int, int], str]:
        """The columns of the groups that both plans train, with their names in the later plan."""
        return {
            (self.before.names.index(old.name), self.after.names.index(new.name)): new.name
            for old, new in self._pairs
            if not (old.frozen or new.frozen)
        }

    @cached_property
    def stepwise(self) -> bool:
        """Whether the plans are compared step by step instead of at the same fraction of the run."""
        continued = any(isinstance(curve, Continued) for plan in (self.before, self.after) for curve, _ in plan.curves)
        return continued or self.before.horizon.steps == self.after.horizon.steps

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps of both runs that are compared with each other."""
        old, new = self.before.horizon.steps, self.after.horizon.steps
        if self.stepwise:
            shorter = min(old, new)
            steps = np.unique(np.linspace(0, shorter - 1, min(shorter, SAMPLES)).round())
            return steps, steps
        progress = np.linspace(0, 1, SAMPLES, endpoint=False)
        return progress * old, progress * new

    def _landmarks(self) -> list[tuple[tuple[float, float], str]]:
        """Return the landmarks of both plans in the order of the run."""
        old, new = self.before.horizon.steps, self.after.horizon.steps
        ours, theirs = landmarks(self.after), landmarks(self.before)
        if self.stepwise:
            return [((step, step), why) for step, why in sorted({**theirs, **ours}.items()) if step < min(old, new)]
        marks: dict[tuple[float, float], str] = {(old - 1, new - 1): "last step"}
        for run, marked in ((old, theirs), (new, ours)):
            for step, why in marked.items():
                if why != "last step":
                    # A quarter of a run may lie between two steps.
                    share = int(why[:-1]) / 100 if why.endswith("%") else step / run
                    marks.setdefault((share * old, share * new), why)
        return sorted(marks.items())


def _setting_changes(old: PlanGroup, new: PlanGroup) -> list[Change]:
    """Return the scheduled settings that only one of the plans has, or that differ."""
    was, now = (
        {setting.title: describe_setting(setting, [group.schedule]) for setting in group.also} for group in (old, new)
    )
    text = [(title, was.get(title), now.get(title)) for title in {**was, **now}]
    return [Change(new.name, title, before, after) for title, before, after in text if before != after]


def _unique_sizes(groups: list[PlanGroup]) -> dict[tuple[int, int], str]:
    """Return the names of the groups whose size (tensors, parameters) no other group has, by that size."""
    sizes = Counter((group.tensors, group.parameters) for group in groups)
    named = {(group.tensors, group.parameters): group.name for group in groups}
    return {size: name for size, name in named.items() if sizes[size] == 1}


def _sums(plan: PlanBase) -> np.ndarray:
    """Return the LR of every trainable group, summed over the run."""
    steps = plan.horizon.steps
    return plan.lr(np.linspace(0, steps - 1, min(steps, SAMPLES))).mean(axis=0) * steps


def _ratio(before: float, after: float) -> float:
    if before == after:
        return 1.0
    return after / before if before else math.inf


def _render(diff: PlanDiff, arrow: str) -> RenderResult:
    """Yield the changes: the run, the groups, their settings, the LRs."""
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
        how = "step by step, up to the end of the shorter one" if diff.stepwise else "at the same fraction of each"
        yield Text(f"runs of different lengths, compared {how}", "dim")


def _summary(diff: PlanDiff, arrow: str) -> Grid:
    table = Grid("<", "<")
    was, now = describe_length(diff.before), describe_length(diff.after)
    if was != now:
        table.row(Text("run", "bold"), f"{was} {arrow} {now}")
    for name in diff.removed:
        table.row(Text("group", "bold"), f"- {name}", style="red")
    for name in diff.added:
        table.row(Text("group", "bold"), f"+ {name}", style="green")
    for old, new in diff.renamed.items():
        table.row(Text("group", "bold"), f"{old} {arrow} {new}, renamed")
    for (setting, before, after), names in _alike(diff).items():
        text = f"{_value_text(setting, before)} {arrow} {_value_text(setting, after)}"
        if setting in ("lr", "scale") and isinstance(before, float) and isinstance(after, float):
            text += f" ({_ratio_text(after / before if before else math.inf)})"
        table.row(Text(TITLES.get(setting, setting), "bold"), f"{_group_names(diff, names)}: {text}")
    for name, before, after in diff.scalars:
        table.row(Text("scalar", "bold"), f"{name}: {before} {arrow} {after}")
    if diff.furthest is None:
        both_plans = " in the groups of both plans" if diff.added or diff.removed else ""
        text = f"the same at every step{both_plans}" if diff.compared else "no group is trained in both"
        table.row(Text("LR", "bold"), text)
    else:
        far = diff.furthest
        text = f"{number(far.before)} {arrow} {number(far.after)} ({_ratio_text(far.ratio)})"
        where = f"{_group_names(diff, far.groups)} at step {_steps(far.steps, arrow)}"
        table.row(Text("furthest apart", "bold"), f"{where}: {text}")
        shares: dict[str, list[str]] = {}
        for name, ratio in diff.lr_sum_ratios.items():
            shares.setdefault(_ratio_text(ratio), []).append(name)
        text = "; ".join(f"{share} ({_group_names(diff, names)})" for share, names in shares.items())
        table.row(Text("LR, summed", "bold"), text)
    if list(diff.best_lrs) not in ([], ["1x"]):
        text = "; ".join(f"{ratio} ({_group_names(diff, names)})" for ratio, names in diff.best_lrs.items())
        table.row(Text("best LR, by theory", "bold"), text)
    return table


def _rates(diff: PlanDiff, arrow: str) -> Grid:
    table = Grid("step", "<when", "<groups", "before", "after", "change")
    for change in diff.rates:
        table.row(
            _steps(change.steps, arrow),
            change.why,
            _group_names(diff, change.groups),
            number(change.before),
            number(change.after),
            _ratio_text(change.ratio),
        )
    return table


def _alike(diff: PlanDiff) -> dict[tuple[str, object, object], list[str]]:
    """Return the changed settings; groups that changed alike share an entry."""
    found: dict[tuple[str, object, object], list[str]] = {}
    for change in diff.changes:
        found.setdefault((change.setting, change.before, change.after), []).append(change.group)
    return found


def _group_names(diff: PlanDiff, names: list[str] | tuple[str, ...]) -> str:
    everyone = len(names) > 1 and set(diff.compared) <= set(names)
    return "all groups" if everyone else joined(names)


def _steps(steps: tuple[float, float], arrow: str) -> str:
    before, after = (round(step) for step in steps)
    return f"{after:,}" if before == after else f"{before:,} {arrow} {after:,}"


def _value_text(setting: str, value: object) -> str:
    if value is None:
        return "the main optimizer" if setting == "route" else "the optimizer's"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _ratio_text(ratio: float) -> str:
    return "from 0" if math.isinf(ratio) else "to 0" if ratio == 0 else f"{ratio:.3g}x"
