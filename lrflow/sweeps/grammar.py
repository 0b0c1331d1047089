"""Reads a search space from Hydra's overrides, those of a sweep file and those of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.errors import HydraException

from lrflow.config.overrides import Override
from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.sweeps.space import Axis, Condition, Space

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader

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
