"""The search space of a sweep: axes with conditions, read from Hydra overrides and from sweep files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.errors import HydraException

from lrflow.config.composition.grammar import axis_problem, check_count
from lrflow.config.composition.overrides import Override
from lrflow.errors import ConfigError, Problem, did_you_mean

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial


LOG_KEYS = ("lr", "learning_rate", "weight_decay")
"""Last parts of keys whose intervals are logarithmic unless they are tagged `linear`."""


Assignment = dict[str, str]
"""The values of one trial by swept key, as texts that Hydra parses."""


@dataclass(frozen=True)
class Space:
    """The search space of a sweep.

    Args:
        axes: the swept keys; if several have the same key, the one whose condition holds is used.
        fixed: the overrides that all trials share.
        signs: the prefix of a key in an override (`++`), by key.
    """

    axes: tuple[Axis, ...]
    fixed: tuple[str, ...] = ()
    signs: Mapping[str, str] | None = None

    def suggest(self, trial: Trial) -> Assignment:
        """Draw the values of a trial; values that it already has are kept."""
        chosen: Assignment = {}
        for axis in self._in_order(chosen):
            chosen[axis.key] = axis.text(trial._suggest(axis.name, axis.distribution()))
        return chosen

    def parameters(self, assignment: Mapping[str, str]) -> dict[str, str]:
        """Return an assignment of choices by the names of the parameters in the study."""
        return {axis.name: assignment[axis.key] for axis in self._in_order(dict(assignment))}

    def values(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Return the values of a trial by the names of the parameters in the study, from overrides of its run.

        Raises:
            KeyError: a swept key has no value.
            ValueError: a value is not in the space.
        """
        return {axis.name: axis.value(given[axis.key]) for axis in self._in_order(dict(given))}

    def overrides(self, assignment: Mapping[str, str]) -> list[str]:
        """Return the overrides of one trial."""
        signs = self.signs or {}
        return [*self.fixed, *(f"{signs.get(key, '')}{key}={value}" for key, value in assignment.items())]

    def grid(self) -> list[Assignment]:
        """Return all combinations of the choices; the last key varies fastest.

        Raises:
            ConfigError: an axis is an interval, or there are too many combinations.
        """
        problems = [
            Problem(axis.key, "a grid needs values, not an interval", f"interval({axis.low:g},{axis.high:g})", hint)
            for axis in self.axes
            if not axis.choices
            for hint in (f"{axis.key}=1,2,3 or range(...); or another sweep.sampler",)
        ]
        if problems:
            raise ConfigError(problems)
        check_count({axis.key: len(axis.choices) for axis in self.axes if axis.when is None})
        return list(self._assignments(self._switches, lambda values: itertools.product(*values)))

    def corners(self) -> list[Assignment]:
        """Return assignments to check: all combinations of options, with each other choice and end at least once."""
        heads = [axis for axis in self.axes if axis in self._switches or (axis.choices and "." not in axis.name)]
        check_count({axis.key: len(axis.choices) for axis in heads})
        return list(self._assignments(heads, _in_step))

    def common(self) -> dict[str, BaseDistribution]:
        """Return the parameters that every trial has."""
        return {axis.name: axis.distribution() for axis in self.axes if axis.when is None and not self._shadowed(axis)}

    def describe(self) -> list[str]:
        """Return each axis in a few words."""
        return [axis.describe() for axis in self.axes]

    def _shadowed(self, axis: Axis) -> bool:
        """Whether an axis with a condition may replace this one."""
        return any(other.when is not None and other.key == axis.key for other in self.axes)

    @property
    def _switches(self) -> list[Axis]:
        """The axes that conditions depend on."""
        keys = {axis.when.key for axis in self.axes if axis.when}
        return [axis for axis in self.axes if axis.key in keys]

    def _in_order(self, chosen: Assignment) -> Iterator[Axis]:
        """Yield the axes of a trial, the switches first; the caller fills `chosen` between them."""
        switches = self._switches
        yield from switches
        for key in dict.fromkeys(axis.key for axis in self.axes if axis not in switches):
            found = [axis for axis in self.axes if axis.key == key and (axis.when is None or axis.when.holds(chosen))]
            if found:
                yield max(found, key=lambda axis: axis.when is not None)

    def _assignments(
        self, heads: Sequence[Axis], combine: Callable[[list[tuple[str, ...]]], Any]
    ) -> Iterator[Assignment]:
        """Yield the choices of the heads, combined with what `combine` returns for the other axes."""
        for head in itertools.product(*(axis.choices for axis in heads)):
            chosen = dict(zip((axis.key for axis in heads), head, strict=True))
            rest = [axis for axis in self._in_order(chosen) if axis not in heads]
            for tail in combine([axis.ends for axis in rest]):
                yield chosen | dict(zip((axis.key for axis in rest), tail, strict=True))


@dataclass(frozen=True)
class Axis:
    """One swept key: choices, or an interval of numbers.

    Args:
        key: as it is typed, `optimizer.lr`.
        choices: the values as texts; empty for an interval.
        low, high: the ends of the interval, both included.
        log: whether values are drawn in the logarithm.
        integer: whether values are integers.
        when: the condition under which the axis is sampled; None: always.
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
        """The name of the parameter in the study; it includes the condition, as a key may have several axes."""
        return f"{self.key} ({self.when})" if self.when else self.key

    @property
    def ends(self) -> tuple[str, ...]:
        """The values to check before the first trial: all choices, or both ends of the interval."""
        return self.choices or (self.text(self.low), self.text(self.high))

    def distribution(self) -> BaseDistribution:
        """Return the axis as a distribution of Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def text(self, value: Any) -> str:
        """Return a value as Hydra parses it: numbers with six digits, within the interval."""
        if self.choices or self.integer:
            return str(int(value) if self.integer else value)
        return repr(min(max(float(f"{value:.6g}"), self.low), self.high))

    def value(self, text: str) -> Any:
        """Return the value in the study of a text that `text` returned, or of the same text in other quotes.

        Raises:
            ValueError: it is not on the axis.
        """
        if self.choices:
            same = [choice for choice in self.choices if choice == text or choice.strip("'\"") == text.strip("'\"")]
            if not same:
                raise ValueError(f"{self.key}={text} is none of {', '.join(self.choices)}")
            return same[0]
        value = int(text) if self.integer else float(text)
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.key}={text} is not in [{self.low:g}, {self.high:g}]")
        return value

    def describe(self) -> str:
        """Return the axis in a few words, for messages and to compare two spaces."""
        kind = f"{'int ' if self.integer else ''}{'log ' if self.log else ''}[{self.low:g}, {self.high:g}]"
        return f"{self.name}: {', '.join(self.choices) if self.choices else kind}"


@dataclass(frozen=True)
class Condition:
    """A condition that a swept key has one of several values."""

    key: str
    values: frozenset[str]

    def holds(self, assignment: Mapping[str, str]) -> bool:
        """Whether the assignment meets the condition."""
        return assignment.get(self.key) in self.values

    def __str__(self) -> str:
        return f"{self.key}={','.join(sorted(self.values))}"


def read_space(
    params: Mapping[str, Any] | None,
    when: Mapping[str, Mapping[str, Any]] | None,
    typed: Iterable[Override],
    loader: ConfigLoader | None = None,
) -> Space:
    """Read a search space from a sweep file and the command line.

    Args:
        params: of the sweep file; overrides by key.
        when: of the sweep file; overrides by key, by their condition (`optimizer=sgd`).
        typed: overrides of the command line; they replace those of the file.
        loader: expands globs of options.

    Raises:
        ConfigError: all problems of the space.
    """
    problems: list[Problem] = []
    expanded = [override.within(loader) for override in typed]
    keys = {override.key for override in expanded}
    given: list[tuple[Override | None, Condition | None]]
    given = [(_read(loader, key, value, problems), None) for key, value in (params or {}).items() if key not in keys]
    given += [(override, None) for override in expanded]
    offered = {key: _choices(_read(loader, key, value, [])) for key, value in (params or {}).items()}
    for text, part in (when or {}).items():
        condition = _condition([text])
        given += [
            (_read(loader, key, value, problems), condition) for key, value in (part or {}).items() if key not in keys
        ]
    axes: list[Axis] = []
    fixed: list[Override] = []
    signs: dict[str, str] = {}
    for override, when_given in given:
        if override is None:
            continue
        signs[override.key] = override.sign
        if not override.is_swept and when_given is None:
            fixed.append(override)
        else:
            axes += _axes(override, when_given, problems)
    axes = _resolve_conditions(axes, fixed, offered, problems)
    if problems:
        raise ConfigError(problems)
    return Space(tuple(axes), tuple(override.text for override in fixed), signs)


def _read(loader: ConfigLoader | None, key: str, value: Any, problems: list[Problem]) -> Override | None:
    """Return an override of a sweep file; config keys get the prefix `++`, as on the command line of lrflow."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    plain = key.lstrip("+")
    try:
        override = Override(plain, text, "++" if "." in plain else "").within(loader)
    except HydraException:
        problems.append(Problem(key, "cannot be parsed", text, "such as 0.1,0.01 or interval(0.001,0.1)"))
        return None
    if problem := axis_problem(key, text, override.parsed.value()):
        problems.append(problem)
        return None
    return override


def _choices(override: Override | None) -> list[str]:
    parsed = override.parsed if override else None
    return list(parsed.sweep_string_iterator()) if parsed is not None and parsed.is_discrete_sweep() else []


def _condition(texts: Iterable[str]) -> Condition:
    """Parse a condition such as `optimizer=sgd,momentum`, or the tags `optimizer:sgd` and `optimizer:momentum`."""
    pairs = [text.replace(":", "=", 1).partition("=")[::2] for text in texts]
    return Condition(pairs[0][0].strip(), frozenset(value.strip() for _, given in pairs for value in given.split(",")))


def _axes(override: Override, condition: Condition | None, problems: list[Problem]) -> list[Axis]:
    """Return the axis of an override; empty if its range is empty. Problems are added to `problems`."""
    key, value, text = override.key, override.parsed.value(), override.given
    tags = set(getattr(value, "tags", ()))
    conditions = sorted(tag for tag in tags if ":" in tag or "=" in tag)
    for tag in sorted(tags - {"log", "linear", *conditions}):
        hint = f"{did_you_mean(tag, ('log', 'linear'))}; a condition is tag(optimizer:sgd, ...)"
        problems.append(Problem(key, "there is no such tag", tag, hint))
    if conditions:
        if condition is not None or len({_condition([tag]).key for tag in conditions}) > 1:
            problems.append(Problem(key, "a condition must depend on one key", text))
        condition = _condition(conditions)
    if not isinstance(value, IntervalSweep):
        if tags & {"log", "linear"}:
            problems.append(Problem(key, "the tags log and linear need interval(...)", text))
        texts = list(override.parsed.sweep_string_iterator()) if override.is_swept else [text]
        if isinstance(value, RangeSweep) and not texts:
            problems.append(Problem(key, "this range is empty", text))
            return []
        return [Axis(key, tuple(dict.fromkeys(texts)), when=condition)]
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    usually = key.rpartition(".")[2] in LOG_KEYS
    log = "log" in tags or (usually and "linear" not in tags and (low > 0 or key.endswith("lr")))
    if not low < high:
        problems.append(Problem(key, "expected interval(LOW,HIGH) with LOW below HIGH", text))
    elif log and low <= 0:
        hint = "such as interval(1e-5,1); use tag(linear, interval(...)) for a linear one"
        problems.append(Problem(key, "a logarithmic interval must start above 0", text, hint))
    integer = isinstance(low, int) and isinstance(high, int)
    return [Axis(key, low=low, high=high, log=log, integer=integer, when=condition)]


def _resolve_conditions(
    axes: list[Axis], fixed: Sequence[Override], offered: Mapping[str, Sequence[str]], problems: list[Problem]
) -> list[Axis]:
    """Return the axes whose condition can hold, without conditions that always hold.

    A condition on a key that is not swept, or on a value that it never has, is a problem.
    """
    fixed_values = {override.key: override.given for override in fixed}
    switches = {axis.key: axis for axis in axes if axis.when is None and axis.choices}
    kept: list[Axis] = []
    for axis in axes:
        if axis.when is None:
            kept.append(axis)
            continue
        key, values = axis.when.key, axis.when.values
        choices = switches[key].choices if key in switches else ()
        possible = {fixed_values[key]} if key in fixed_values else set(choices)
        known = possible | set(offered.get(key, ()))  # the command line may omit choices that the file has
        if not possible:
            problems.append(Problem(axis.key, f"has a condition on {key}, which is not swept", str(axis.when)))
        elif unknown := sorted(values - known):
            message = f"has a condition on {key}, which is never {unknown[0]}"
            problems.append(Problem(axis.key, message, str(axis.when), did_you_mean(unknown[0], known)))
        elif values & possible:
            kept.append(axis if key in switches else replace(axis, when=None))
    unconditional = {axis.key for axis in kept if axis.when is None and axis not in axes}
    return [axis for axis in kept if axis.key not in unconditional or axis not in axes]


def _in_step(values: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the first value of each axis, then the second of each, and so on; shorter axes repeat their last value."""
    count = max(map(len, values), default=1)
    return [tuple(ends[min(at, len(ends) - 1)] for ends in values) for at in range(count)]
