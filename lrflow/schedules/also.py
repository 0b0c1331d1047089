"""Settings of the optimizer that a schedule moves besides the LR: momentum, betas, weight decay and the like."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.schedules.decays import Constant
from lrflow.schedules.fields import Fields
from lrflow.schedules.schedule import Schedule

BETA = re.compile(r"beta([1-9])")
"""An entry of `betas`, by its place: beta1 is the first."""


@dataclass(frozen=True)
class Also:
    """A setting of the optimizer that moves between two values over the run.

    It stands at `high` where its curve is 1 and at `low` where that is 0; inverse, the other way round. The values are
    those of the optimizer's own setting: a group whose setting is half of it moves between half the values, and one
    whose setting is 0 has it switched off, and stays there.

    Args:
        name: `momentum`, `beta1`, `beta2`, `weight_decay` or any other number among the optimizer's settings. Where no
            optimizer of the run has a `momentum`, it means `beta1`.
        curve: what moves it, in place of the peak LR; None: the curve of the LR.
        low: at least 0.
        high: at least `low`; None: the optimizer's own.
        inverse: whether it falls as the curve rises.
        optional: whether an optimizer that lacks the setting, or has it switched off, is left as it is.
    """

    name: str
    curve: Schedule | None = None
    low: float = 0.0
    high: float | None = None
    inverse: bool = False
    optional: bool = False

    def setting(self, known: Mapping[str, float]) -> str | None:
        """Which of an optimizer's settings it moves, None where there is no such one.

        Args:
            known: the optimizer's settings, as `numbers` gives them.
        """
        if self.name in known:
            return self.name
        return "beta1" if self.name == "momentum" and "beta1" in known else None

    def check(self, known: Mapping[str, float], key: str) -> list[Problem]:
        """What cannot be meant with an optimizer.

        Args:
            known: its settings, as `numbers` gives them.
            key: where the entry stands in the config.
        """
        setting = self.setting(known)
        if setting is None:
            if self.optional:
                return []
            others = [name for name in known if name != "lr"]
            others += ["momentum"] if "beta1" in known else []
            return [Problem(key, "the optimizer has no such setting", ..., did_you_mean(self.name, others))]
        own = known[setting]
        name = "betas" if BETA.fullmatch(setting) else setting
        if own == 0.0:
            hint = f"give optimizer.{name} a value, from which the groups of parameters differ in proportion"
            return [] if self.optional else [Problem(key, f"{setting} is 0, which is off, and stays off", ..., hint)]
        if self.high is None and self.low > own:
            return [Problem(f"{key}.low", f"is above {own:g}, the optimizer's own", self.low, "give a high too")]
        return []


def read(fields: Fields, given: Any) -> tuple[Also, ...]:
    """The entries of `schedule.also`, their problems noted.

    Args:
        fields: of the schedule that has them.
        given: by name, the arguments of a `Schedule` (but for its floor) and of an `Also`; or a list of `Also`s.
    """
    if isinstance(given, Mapping):
        found = [_entry(fields, str(name), entry) for name, entry in given.items() if entry is not None]
        return tuple(entry for entry in found if entry is not None)
    if isinstance(given, Sequence) and all(isinstance(entry, Also) for entry in given):
        return tuple(given)
    fields.wrong("also", given, "expected a mapping from settings to their schedules", "like {weight_decay: {low: 0}}")
    return ()


TIMES = ("shape", "warmup", "warmup_start", "warmup_shape", "cooldown", "cooldown_shape")
"""Arguments of the schedule that moves a setting: the LR's own schedule, if none of them is given."""

RANGE = ("low", "high", "inverse", "optional")


def _entry(fields: Fields, name: str, given: Any) -> Also | None:
    """One entry, or None and its problems noted."""
    key, before = f"also.{name}", len(fields.problems)
    if isinstance(given, Also):
        return replace(given, name=name)
    if name == "lr":
        fields.wrong(key, given, "the LR is what the schedule itself moves")
    if not isinstance(given, Mapping):
        fields.wrong(key, given, "expected a mapping", "like {low: 0.85, high: 0.95, inverse: true}")
        return None
    for word in given:
        if word not in (*TIMES, *RANGE):
            hint = "low is the floor" if word == "floor" else did_you_mean(str(word), (*TIMES, *RANGE))
            fields.wrong(f"{key}.{word}", given[word], "a scheduled setting takes no such argument", hint)
    low = _value(fields, name, "low", given.get("low"))
    high = _value(fields, name, "high", given.get("high"))
    if low is not None and high is not None and low > high:
        hint = "inverse: true makes a setting fall as its curve rises"
        fields.wrong(f"{key}.low", low, f"is above high, which is {high:g}", hint)
    curve = _curve(fields, key, {word: given[word] for word in TIMES if word in given})
    switches = {word: given.get(word, False) for word in ("inverse", "optional")}
    for word, value in switches.items():
        if not isinstance(value, bool):
            fields.wrong(f"{key}.{word}", value, "expected true or false")
    if len(fields.problems) > before:
        return None
    return Also(name, curve, low or 0.0, high, **switches)


def _curve(fields: Fields, key: str, times: Mapping[str, Any]) -> Schedule | None:
    """The schedule that moves a setting, which starts at `low` where it has a warmup; None: the LR's."""
    if not times:
        return None
    try:
        # Not the default of an LR, of which no step is to be spent at 0: `low` is a value like any other.
        return Schedule(**{"shape": Constant(), "warmup_start": 0.0, **times})
    except ConfigError as error:
        for problem in error.problems:
            fields.wrong(key + problem.key.removeprefix(Schedule.key), problem.value, problem.message, problem.hint)
    return None


def _value(fields: Fields, name: str, word: str, value: Any) -> float | None:
    """A value that the setting may have, as a float."""
    below_one = name == "momentum" or BETA.fullmatch(name)
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    if value is None or (fits and not (below_one and value >= 1)):
        return None if value is None else float(value)
    fields.wrong(f"also.{name}.{word}", value, "expected a number from 0" + (" and below 1" if below_one else " on"))
    return None


def numbers(settings: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among an optimizer's settings, its betas each by its own name.

    Args:
        settings: as a config or a parameter group has them, `{"lr": 0.1, "betas": [0.9, 0.999]}`.
    """
    betas = settings.get("betas")
    pairs = dict(settings)
    if isinstance(betas, list | tuple):
        pairs |= {f"beta{place}": beta for place, beta in enumerate(betas, start=1)}
    return {
        name: float(value)
        for name, value in pairs.items()
        if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    }


def highest(known: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Every setting that one of several optimizers has, at the highest value that it has there."""
    most: dict[str, float] = {}
    for settings in known:
        most |= {name: max(value, most.get(name, value)) for name, value in settings.items()}
    return most
