"""The search space of a sweep: axes with conditions, read from Hydra overrides and from sweep files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.errors import HydraException

from lrflow.config.overrides import Override
from lrflow.errors import ConfigError, Problem, did_you_mean

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
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


LOG_KEYS = ("lr", "learning_rate", "weight_decay")
"""Last parts of keys whose intervals are drawn from in the logarithm, unless they are tagged `linear`."""


def read_space(
    params: Mapping[str, Any] | None,
    when: Mapping[str, Mapping[str, Any]] | None,
    typed: Iterable[Override],
    loader: ConfigLoader | None = None,
) -> Space:
    """Reads a space.

    Args:
        params: overrides by key, of a sweep file.
        when: overrides by key, by the choice that they hold under (`optimizer=sgd`).
        typed: overrides of the command line, which take the place of those of the file.
        loader: knows what a glob of options stands for.

    Raises:
        ConfigError: every problem of the space.
    """
    problems: list[Problem] = []
    mine = [override.within(loader) for override in typed]
    keys = {override.key for override in mine}
    given: list[tuple[Override | None, Condition | None]]
    given = [(_read(loader, key, value, problems), None) for key, value in (params or {}).items() if key not in keys]
    given += [(override, None) for override in mine]
    offered = {key: _choices(_read(loader, key, value, [])) for key, value in (params or {}).items()}
    for text, part in (when or {}).items():
        under = _condition([text])
        given += [
            (_read(loader, key, value, problems), under) for key, value in (part or {}).items() if key not in keys
        ]
    axes: list[Axis] = []
    fixed: list[Override] = []
    signs: dict[str, str] = {}
    for override, condition in given:
        if override is None:
            continue
        signs[override.key] = override.sign
        if not override.is_swept and condition is None:
            fixed.append(override)
        else:
            axes += _axis(override, condition, problems)
    axes = _under_conditions(axes, fixed, offered, problems)
    if problems:
        raise ConfigError(problems)
    return Space(tuple(axes), tuple(override.text for override in fixed), signs)


def _read(loader: ConfigLoader | None, key: str, value: Any, problems: list[Problem]) -> Override | None:
    """An override of a sweep file; a key of the config is given with `++`, as on lrflow's command line."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    plain = key.lstrip("+")
    try:
        return Override(plain, text, "++" if "." in plain else "").within(loader)
    except HydraException:
        problems.append(Problem(key, "this cannot be read", text, "such as 0.1,0.01 or interval(0.001,0.1)"))
        return None


def _choices(override: Override | None) -> list[str]:
    parsed = override.parsed if override else None
    return list(parsed.sweep_string_iterator()) if parsed is not None and parsed.is_discrete_sweep() else []


def _condition(texts: Iterable[str]) -> Condition:
    """Of `optimizer=sgd,momentum`, or of the tags `optimizer:sgd` and `optimizer:momentum`."""
    pairs = [text.replace(":", "=", 1).partition("=")[::2] for text in texts]
    return Condition(pairs[0][0].strip(), frozenset(value.strip() for _, given in pairs for value in given.split(",")))


def _axis(override: Override, condition: Condition | None, problems: list[Problem]) -> list[Axis]:
    """The axis that an override makes; none where something is wrong with it."""
    key, value, shown = override.key, override.parsed.value(), override.given
    tags = set(getattr(value, "tags", ()))
    held = sorted(tag for tag in tags if ":" in tag or "=" in tag)
    for tag in sorted(tags - {"log", "linear", *held}):
        hint = f"{did_you_mean(tag, ('log', 'linear'))}; a condition is tag(optimizer:sgd, ...)"
        problems.append(Problem(key, "there is no such tag", tag, hint))
    if held:
        if condition is not None or len({_condition([tag]).key for tag in held}) > 1:
            problems.append(Problem(key, "a condition speaks of one key", shown))
        condition = _condition(held)
    if not isinstance(value, IntervalSweep):
        if tags & {"log", "linear"}:
            problems.append(Problem(key, "log and linear go with interval(...)", shown))
        texts = list(override.parsed.sweep_string_iterator()) if override.is_swept else [shown]
        if isinstance(value, RangeSweep) and not texts:
            problems.append(Problem(key, "this range is empty", shown))
            return []
        return [Axis(key, tuple(dict.fromkeys(texts)), when=condition)]
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    usually = key.rpartition(".")[2] in LOG_KEYS
    log = "log" in tags or (usually and "linear" not in tags and (low > 0 or key.endswith("lr")))
    if not low < high:
        problems.append(Problem(key, "expected interval(LOW,HIGH) with LOW below HIGH", shown))
    elif log and low <= 0:
        hint = "such as interval(1e-5,1); tag(linear, interval(...)) is drawn from evenly"
        problems.append(Problem(key, "a logarithmic interval starts above 0", shown, hint))
    integer = isinstance(low, int) and isinstance(high, int)
    return [Axis(key, low=low, high=high, log=log, integer=integer, when=condition)]


def _under_conditions(
    axes: list[Axis], fixed: Sequence[Override], offered: Mapping[str, Sequence[str]], problems: list[Problem]
) -> list[Axis]:
    """The axes whose condition can hold; a condition of what there never is, is a problem."""
    settled = {override.key: override.given for override in fixed}
    switches = {axis.key: axis for axis in axes if axis.when is None and axis.choices}
    kept: list[Axis] = []
    for axis in axes:
        if axis.when is None:
            kept.append(axis)
            continue
        key, values = axis.when.key, axis.when.values
        now = {settled[key]} if key in settled else set(switches[key].choices) if key in switches else set()
        known = now | set(offered.get(key, ()))  # a command line may leave out choices that the file speaks of
        if not now:
            problems.append(Problem(axis.key, f"stands under a condition of {key}, which is not swept", str(axis.when)))
        elif unknown := sorted(values - known):
            message = f"stands under a condition of {key}, which is never {unknown[0]}"
            problems.append(Problem(axis.key, message, str(axis.when), did_you_mean(unknown[0], known)))
        elif values & now:
            kept.append(axis if key in switches else replace(axis, when=None))
    settled_now = {axis.key for axis in kept if axis.when is None and axis not in axes}
    return [axis for axis in kept if axis.key not in settled_now or axis not in axes]
