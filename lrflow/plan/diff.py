"""What changed from one plan to another: what a person who compares two runs wants to know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from lrflow.plan.plan import Plan, PlanGroup
from lrflow.plan.view import describe

SAMPLES = 10_000  # places at which the LRs of two long runs are compared


@dataclass(frozen=True)
class Change:
    """One setting of a group that is not what it was.

    Args:
        group: the group's name in the later plan.
        setting: a field of PlanGroup.
        before: its value in the earlier plan (a schedule's in words).
        after: its value in the later plan.
    """

    group: str
    setting: str
    before: object
    after: object


@dataclass(frozen=True)
class RateChange:
    """One landmark at which the LR is not what it was.

    Args:
        groups: names, in the later plan, of the groups it is true of.
        steps: the step in the earlier and in the later plan; equal where the horizons are.
        why: what the landmark is.
        before: LR in the earlier plan.
        after: LR in the later plan.
    """

    groups: tuple[str, ...]
    steps: tuple[int, int]
    why: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """After over before; infinite where before is 0."""
        return _ratio(self.before, self.after)


@dataclass(frozen=True)
class Extreme:
    """The place where two plans are furthest apart.

    Args:
        group: its name in the later plan.
        steps: the step in the earlier and in the later plan.
        ratio: LR after over LR before there.
    """

    group: str
    steps: tuple[int, int]
    ratio: float


@dataclass(frozen=True)
class PlanDiff:
    """What changed from one plan to another; print it with rich.

    Runs of equal length are compared step by step, others at the same fraction of the run.

    Args:
        before: the earlier plan.
        after: the later plan.
    """

    before: Plan
    after: Plan

    @cached_property
    def same(self) -> bool:
        """Whether nothing changed at all."""
        return self.before.fingerprint == self.after.fingerprint

    @cached_property
    def same_rates(self) -> bool:
        """Whether the groups that both plans train have the same LR at every place compared."""
        return self.furthest is None

    @cached_property
    def renamed(self) -> dict[str, str]:
        """Groups that are gone, each with the new one that holds as many tensors and parameters and is alone in it."""
        sizes = Counter((group.tensors, group.parameters) for group in self._only(self.before, self.after))
        gone = {
            (group.tensors, group.parameters): group.name
            for group in self._only(self.before, self.after)
            if sizes[group.tensors, group.parameters] == 1
        }
        new = self._only(self.after, self.before)
        sizes = Counter((group.tensors, group.parameters) for group in new)
        return {
            gone[size]: group.name
            for group in new
            if (size := (group.tensors, group.parameters)) in gone and sizes[size] == 1
        }

    @cached_property
    def removed(self) -> tuple[str, ...]:
        """Groups of the earlier plan that the later one does not have."""
        return tuple(g.name for g in self._only(self.before, self.after) if g.name not in self.renamed)

    @cached_property
    def added(self) -> tuple[str, ...]:
        """Groups of the later plan that the earlier one does not have."""
        return tuple(g.name for g in self._only(self.after, self.before) if g.name not in self.renamed.values())

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """The settings that changed, group by group."""
        found = []
        for old, new in self._pairs:
            for field in fields(PlanGroup):
                was, now = getattr(old, field.name), getattr(new, field.name)
                if field.name == "schedule":
                    if was.spec() != now.spec():
                        found.append(Change(new.name, field.name, describe(was), describe(now)))
                elif field.name != "name" and was != now:
                    found.append(Change(new.name, field.name, was, now))
        return tuple(found)

    @cached_property
    def rates(self) -> tuple[RateChange, ...]:
        """The landmarks of both plans at which the LR changed; groups that changed alike are told together."""
        found: dict[tuple[tuple[int, int], str, float, float], list[str]] = {}
        for steps, why in self._landmarks():
            was, now = self.before.lr(steps[0]), self.after.lr(steps[1])
            for (left, right), name in self._columns.items():
                if was[left] != now[right]:
                    found.setdefault((steps, why, float(was[left]), float(now[right])), []).append(name)
        return tuple(RateChange(tuple(names), *key) for key, names in found.items())

    @cached_property
    def furthest(self) -> Extreme | None:
        """Where, of all steps and groups, the LRs are furthest apart; None where they are the same."""
        old_steps, new_steps = self._places()
        old, new = self.before.lr(old_steps), self.after.lr(new_steps)
        found: Extreme | None = None
        for (left, right), name in self._columns.items():
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios = np.where(old[:, left] == new[:, right], 1.0, new[:, right] / old[:, left])
                at = int(np.argmax(np.abs(np.log(ratios))))
            if ratios[at] != 1 and (found is None or _distance(ratios[at]) > _distance(found.ratio)):
                found = Extreme(name, (int(old_steps[at]), int(new_steps[at])), float(ratios[at]))
        return found

    @cached_property
    def budget(self) -> dict[str, float]:
        """Of each group in both plans, its LR summed over the run, after over before: how far the run can move it."""
        old_steps, new_steps = self._places()
        old = self.before.lr(old_steps).mean(axis=0) * self.before.horizon.steps
        new = self.after.lr(new_steps).mean(axis=0) * self.after.horizon.steps
        return {name: _ratio(float(old[left]), float(new[right])) for (left, right), name in self._columns.items()}

    @staticmethod
    def _only(plan: Plan, other: Plan) -> list[PlanGroup]:
        names = {group.name for group in other.groups}
        return [group for group in plan.groups if group.name not in names]

    @cached_property
    def _pairs(self) -> list[tuple[PlanGroup, PlanGroup]]:
        """The groups of both plans, renamed ones too, each with its counterpart."""
        new = {group.name: group for group in self.after.groups}
        named = ((group, self.renamed.get(group.name, group.name)) for group in self.before.groups)
        return [(group, new[name]) for group, name in named if name in new]

    @cached_property
    def _columns(self) -> dict[tuple[int, int], str]:
        """Columns of the groups that both plans train, with their later names."""
        return {
            (self.before.names.index(old.name), self.after.names.index(new.name)): new.name
            for old, new in self._pairs
            if not (old.frozen or new.frozen)
        }

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps of both runs that are compared with each other."""
        old, new = self.before.horizon.steps, self.after.horizon.steps
        if old == new and old <= SAMPLES:
            return np.arange(old), np.arange(old)
        progress = np.linspace(0, 1, min(max(old, new), SAMPLES))
        return tuple((progress * (steps - 1)).round().astype(np.int64) for steps in (old, new))  # type: ignore[return-value]

    def _landmarks(self) -> Iterator[tuple[tuple[int, int], str]]:
        """The landmarks of both plans, in the order of the run."""
        old, new = self.before.horizon.steps, self.after.horizon.steps
        marks: dict[tuple[int, int], str] = {}
        for step, why in self.before.landmarks().items():
            marks[step, _across(step, old, new)] = why
        for step, why in self.after.landmarks().items():
            marks.setdefault((_across(step, new, old), step), why)
        yield from sorted(marks.items())


def diff(before: Plan, after: Plan) -> PlanDiff:
    """What changed from `before` to `after`."""
    return PlanDiff(before, after)


def _across(step: int, run: int, other: int) -> int:
    """The step of the other run at the same fraction of it; first meets first and last meets last."""
    return step if run == other else round(step * (other - 1) / max(run - 1, 1))


def _ratio(before: float, after: float) -> float:
    if before == after:
        return 1.0
    return after / before if before else math.inf


def _distance(ratio: float) -> float:
    return abs(math.log(ratio)) if ratio > 0 else math.inf
