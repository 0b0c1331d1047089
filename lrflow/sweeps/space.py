"""The search space of a sweep: axes that a sampler can draw from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrflow.errors import ConfigError, Problem

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Assignment = dict[str, str]
"""What one trial gives to each swept key, as texts that Hydra reads."""


@dataclass(frozen=True)
class Condition:
    """That a swept key has one of some values."""

    key: str
    values: frozenset[str]

    def holds(self, assignment: Mapping[str, str]) -> bool:
        """Whether it does."""
        return assignment.get(self.key) in self.values

    def __str__(self) -> str:
        return f"{self.key}={','.join(sorted(self.values))}"


@dataclass(frozen=True)
class Axis:
    """One swept key: choices, or an interval of numbers.

    Args:
        key: as it is typed, `optimizer.lr`.
        choices: the values as texts; empty for an interval.
        low, high: the interval's ends, both of which are in it.
        log: whether the interval is drawn from in the logarithm.
        integer: whether its numbers are whole.
        when: the choice under which the axis is there; None: always.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    when: Condition | None = None

    @property
    def name(self) -> str:
        """Of the parameter in the study: a key may have a range of its own under each choice."""
        return f"{self.key} ({self.when})" if self.when else self.key

    @property
    def ends(self) -> tuple[str, ...]:
        """The values that are checked before the first trial: all choices, or both ends."""
        return self.choices or (self.text(self.low), self.text(self.high))

    def distribution(self) -> BaseDistribution:
        """As Optuna has it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def text(self, value: Any) -> str:
        """A value as Hydra reads it: numbers with six digits, within the interval."""
        if self.choices or self.integer:
            return str(int(value) if self.integer else value)
        return repr(min(max(float(f"{value:.6g}"), self.low), self.high))

    def describe(self) -> str:
        """The axis in a few words, for a person and for the comparison of two spaces."""
        kind = f"{'int ' if self.integer else ''}{'log ' if self.log else ''}[{self.low:g}, {self.high:g}]"
        return f"{self.name}: {', '.join(self.choices) if self.choices else kind}"


@dataclass(frozen=True)
class Space:
    """All that a sweep's trials are drawn from.

    Args:
        axes: the swept keys; of two with the same key, the one whose condition holds is taken.
        fixed: the overrides that every trial has.
        signs: what stands before a key in an override, `++`, by key.
    """

    axes: tuple[Axis, ...]
    fixed: tuple[str, ...] = ()
    signs: Mapping[str, str] | None = None

    def suggest(self, trial: Trial) -> Assignment:
        """What the sampler chooses for a trial; what it was given before stays."""
        chosen: Assignment = {}
        for axis in self._in_order(chosen):
            chosen[axis.key] = axis.text(trial._suggest(axis.name, axis.distribution()))
        return chosen

    def parameters(self, assignment: Mapping[str, str]) -> dict[str, str]:
        """An assignment of choices by the parameters' names in the study."""
        return {axis.name: assignment[axis.key] for axis in self._in_order(dict(assignment))}

    def overrides(self, assignment: Mapping[str, str]) -> list[str]:
        """The overrides of one trial."""
        signs = self.signs or {}
        return [*self.fixed, *(f"{signs.get(key, '')}{key}={value}" for key, value in assignment.items())]

    def grid(self) -> list[Assignment]:
        """Every combination of the choices; the last key varies fastest.

        Raises:
            ConfigError: there are intervals.
        """
        problems = [
            Problem(axis.key, "a grid takes values, not an interval", f"interval({axis.low:g},{axis.high:g})", hint)
            for axis in self.axes
            if not axis.choices
            for hint in (f"{axis.key}=1,2,3 or range(...); or another sweep.sampler",)
        ]
        if problems:
            raise ConfigError(problems)
        return list(self._assignments(self._switches, lambda values: itertools.product(*values)))

    def corners(self) -> list[Assignment]:
        """Assignments with every combination of options, in which every other choice and every end stands once."""
        heads = [axis for axis in self.axes if axis in self._switches or (axis.choices and "." not in axis.name)]
        return list(self._assignments(heads, _in_step))

    def common(self) -> dict[str, BaseDistribution]:
        """The parameters that every trial has."""
        return {axis.name: axis.distribution() for axis in self.axes if axis.when is None and not self._shadowed(axis)}

    def describe(self) -> list[str]:
        """The axes in a few words each."""
        return [axis.describe() for axis in self.axes]

    def _shadowed(self, axis: Axis) -> bool:
        return any(other.when is not None and other.key == axis.key for other in self.axes)

    @property
    def _switches(self) -> list[Axis]:
        """The axes that conditions speak of."""
        keys = {axis.when.key for axis in self.axes if axis.when}
        return [axis for axis in self.axes if axis.key in keys]

    def _in_order(self, chosen: Assignment) -> Iterator[Axis]:
        """The axes of a trial, those that others depend on first; `chosen` fills up meanwhile."""
        switches = self._switches
        yield from switches
        for key in dict.fromkeys(axis.key for axis in self.axes if axis not in switches):
            found = [axis for axis in self.axes if axis.key == key and (axis.when is None or axis.when.holds(chosen))]
            if found:
                yield max(found, key=lambda axis: axis.when is not None)

    def _assignments(
        self, heads: Sequence[Axis], combine: Callable[[list[tuple[str, ...]]], Any]
    ) -> Iterator[Assignment]:
        """Under each combination of the heads' choices, what `combine` makes of the values of the other axes."""
        for head in itertools.product(*(axis.choices for axis in heads)):
            chosen = dict(zip((axis.key for axis in heads), head, strict=True))
            rest = [axis for axis in self._in_order(chosen) if axis not in heads]
            for tail in combine([axis.ends for axis in rest]):
                yield chosen | dict(zip((axis.key for axis in rest), tail, strict=True))


def _in_step(values: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The first value of each axis, the second of each, and so on; an axis that has no more repeats its last."""
    count = max(map(len, values), default=1)
    return [tuple(ends[min(at, len(ends) - 1)] for ends in values) for at in range(count)]
