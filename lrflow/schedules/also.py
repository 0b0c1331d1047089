"""Reads `schedule.also`: other optimizer settings that are scheduled, each along the curve of the LR or its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lrflow.errors import ConfigError
from lrflow.schedules._arguments import Arguments
from lrflow.schedules.curve import BETA, Curve, ScheduledSetting
from lrflow.schedules.decays import Constant

MakeSchedule = Callable[..., Curve]

TIMES = ("shape", "warmup", "warmup_start", "warmup_shape", "cooldown", "cooldown_shape")
"""Arguments of a setting's own schedule; if none is given, the setting follows the LR's schedule."""

RANGE = ("low", "high", "inverse", "optional")


def read_also(args: Arguments, given: Any, make: MakeSchedule) -> tuple[ScheduledSetting, ...]:
    """Return the entries of `schedule.also`; their problems are added to `args`.

    Args:
        args: arguments of the schedule.
        given: by name, the arguments of a `Schedule` (without its floor) and of a `ScheduledSetting`; or a list of
            `ScheduledSetting`.
        make: the class `Schedule`.
    """
    if isinstance(given, Mapping):
        found = [_read_setting(args, str(name), entry, make) for name, entry in given.items() if entry is not None]
        return tuple(entry for entry in found if entry is not None)
    if isinstance(given, Sequence) and all(isinstance(entry, ScheduledSetting) for entry in given):
        return tuple(given)
    args.wrong("also", given, "expected a mapping from settings to their schedules", "like {weight_decay: {low: 0}}")
    return ()


def _read_setting(args: Arguments, name: str, given: Any, make: MakeSchedule) -> ScheduledSetting | None:
    """Return one entry, or None after adding its problems."""
    key, before = f"also.{name}", len(args.problems)
    if isinstance(given, ScheduledSetting):
        return replace(given, name=name)
    if name == "lr":
        args.wrong(key, given, "the schedule itself sets the LR")
    if not isinstance(given, Mapping):
        args.wrong(key, given, "expected a mapping", "like {low: 0.85, high: 0.95, inverse: true}")
        return None
    for word in given:
        message = "a scheduled setting takes no such argument"
        if word == "floor":
            args.wrong(f"{key}.{word}", given[word], message, "low is the floor")
        elif word not in (*TIMES, *RANGE):
            args.unknown(f"{key}.{word}", given[word], message, (*TIMES, *RANGE))
    low = _setting_value(args, name, "low", given.get("low"))
    high = _setting_value(args, name, "high", given.get("high"))
    if low is not None and high is not None and low > high:
        hint = "inverse: true makes a setting fall while its curve rises"
        args.wrong(f"{key}.low", low, f"is above high, which is {high:g}", hint)
    curve = _setting_curve(args, key, {word: given[word] for word in TIMES if word in given}, make)
    switches = {word: given.get(word, False) for word in ("inverse", "optional")}
    for word, value in switches.items():
        if not isinstance(value, bool):
            args.wrong(f"{key}.{word}", value, "expected true or false")
    if len(args.problems) > before:
        return None
    return ScheduledSetting(name, curve, low or 0.0, high, **switches)


def _setting_curve(args: Arguments, key: str, times: Mapping[str, Any], make: MakeSchedule) -> Curve | None:
    """Return a setting's own schedule, whose warmup starts at `low`; None: the setting follows the LR's schedule."""
    if not times:
        return None
    try:
        # An LR must not start at 0 by default, but `low` is a value like any other.
        curve = make(**{"shape": Constant(), "warmup_start": 0.0, **times})
    except ConfigError as error:
        for problem in error.problems:
            args.wrong(key + problem.key.removeprefix(Curve.key), problem.value, problem.message, problem.hint)
        return None
    if curve.highest > 1:
        args.wrong(
            f"{key}.warmup_start", times["warmup_start"], "expected a number from 0 to 1: high is the highest value"
        )
    return curve


def _setting_value(args: Arguments, name: str, word: str, value: Any) -> float | None:
    """Return the value as a float; None, after adding its problem, if the setting cannot have it."""
    below_one = name == "momentum" or BETA.fullmatch(name)
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    if value is None or (fits and not (below_one and value >= 1)):
        return None if value is None else float(value)
    args.wrong(f"also.{name}.{word}", value, "expected a number from 0" + (" and below 1" if below_one else " on"))
    return None
