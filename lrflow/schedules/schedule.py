"""The schedule: a warmup, a shape and a cooldown over a floor.

Ramps: the curves on which a warmup rises and a cooldown falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.imports import np
from lrflow.schedules._arguments import Fields, length, under
from lrflow.schedules.base import BETA, Curve, ScheduledSetting, Shape
from lrflow.schedules.decays import Constant, Cosine, Linear, Polynomial
from lrflow.schedules.time import LATER, Duration, DurationLike, Floats, Horizon, Phase


def _linear(done: Floats, low: float, top: float) -> Floats:
    return low + (top - low) * done


def _cosine(done: Floats, low: float, top: float) -> Floats:
    return low + (top - low) * 0.5 * (1.0 - np.cos(math.pi * done))


def _exponential(done: Floats, low: float, top: float) -> Floats:
    if low == 0.0:  # only below a top of 0: the schedule refuses it elsewhere
        return np.zeros_like(done)
    return np.minimum(low * (top / low) ** done, top)


def _constant(done: Floats, low: float, top: float) -> Floats:
    return np.full_like(done, low)


WARMUPS: dict[str, Callable[[Floats, float, float], Floats]] = {
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
    "constant": _constant,
}
"""By name: the multipliers at shares of the warmup that are over, in [0, 1), on the way from `low` up to `top`."""

_LANDINGS: dict[str, Shape] = {
    "linear": Linear(),
    "cosine": Cosine(),
    "1-sqrt": Polynomial(1.0, k=0.5),
    "1-square": Polynomial(1.0, k=2.0),
    "power": Polynomial(1.2),
}

COOLDOWNS = (*_LANDINGS, "exponential")
"""The names of the curves that a cooldown can follow."""


def cooldown(name: str, step: Floats, phase: Phase, top: float, floor: float) -> Floats:
    """The multipliers at these steps of a cooldown, on the way from `top` down to `floor`.

    1-sqrt is 1 - sqrt(p) (Haegele et al., 2024), 1-square 1 - p^2, power (1 - p)^1.2 (the nanoGPT speedruns, 2026),
    exponential falls by equal factors (Hu et al., MiniCPM, 2024).

    Args:
        name: one of `COOLDOWNS`.
        step: steps inside the phase.
        phase: the stretch that the cooldown fills.
        top: where it starts.
        floor: where it ends; above 0 for the exponential one.
    """
    if name == "exponential":
        return np.minimum(floor * (top / floor) ** (1.0 - phase.progress(step)), top)
    return floor + (top - floor) * _LANDINGS[name](step, phase)


NEARLY = 0.99  # share of the peak that a held LR has to reach


@dataclass(frozen=True, init=False)
class Schedule(Curve):
    """Warmup, shape and cooldown: what the LR does over a run, as a fraction of its peak.

    The peak stands exactly at the step where the warmup ends, unless the shape has a rise of its own; a run of T steps
    reaches the floor, if its shape or a cooldown leads there, at step T, one after the last executed, as torch's
    schedulers do.

    Args:
        shape: the curve between warmup and cooldown.
        warmup: a duration; the LR rises to where the shape starts.
        warmup_start: fraction of the peak at step 0, from 0 to 1 or in percent; None: 1 / (warmup steps + 1) of where
            the shape starts, so that no step is wasted at 0 and all rises are equal; with `hold`, stretches of it are
            counted in place of steps.
        cooldown: a duration; at the end the LR goes down from where the shape is to the floor.
        floor: fraction of the peak, from 0 to 1 or in percent, below which the LR never falls outside the warmup. A
            shape that lands on 0 lands on the floor instead; any other is cut off there.
        warmup_shape: how the warmup rises: `linear`, `cosine`, `exponential` (by equal factors) or `constant` (at its
            start throughout, and then at once).
        cooldown_shape: how the cooldown falls: `linear`, `cosine`, `1-sqrt`, `1-square`, `power` ((1 - p)^1.2) or
            `exponential` (by equal factors, down to a floor above 0).
        also: settings of the optimizer that move besides the LR: by name, the arguments of a `ScheduledSetting` and of
            the schedule that moves it, `{"momentum": {"low": 0.85, "high": 0.95, "inverse": True}}`.
        hold: a duration; the LR stays for so long before it moves: that of step t is the one of the last multiple of
            `hold`, as with a scheduler that is stepped once an epoch. None: it moves at each step.

    Raises:
        ConfigError: with every argument that cannot be.
    """

    shape: Shape
    warmup: Duration
    warmup_start: float | None
    cooldown: Duration
    floor: float
    warmup_shape: str = field(default="linear", metadata=LATER)
    cooldown_shape: str = field(default="linear", metadata=LATER)
    also: tuple[ScheduledSetting, ...] = field(default=(), metadata=LATER)
    hold: Duration = field(default=Duration(0, "steps"), metadata=LATER)

    def __init__(
        self,
        shape: Shape,
        warmup: DurationLike = 0,
        warmup_start: float | str | None = None,
        cooldown: DurationLike = 0,
        floor: float | str = 0.0,
        warmup_shape: str = "linear",
        cooldown_shape: str = "linear",
        also: Mapping[str, Any] | Sequence[ScheduledSetting] | None = None,
        hold: DurationLike | None = None,
    ) -> None:
        fields = Fields(self.key)
        if not isinstance(shape, Shape):
            fields.wrong("shape", shape, "expected a shape", "like lrflow.schedules.Cosine")
        start = None if warmup_start is None else fields.share("warmup_start", warmup_start)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "warmup", fields.duration("warmup", warmup))
        object.__setattr__(self, "warmup_start", start)
        object.__setattr__(self, "cooldown", fields.duration("cooldown", cooldown))
        object.__setattr__(self, "floor", fields.share("floor", floor))
        object.__setattr__(self, "warmup_shape", fields.choice("warmup_shape", warmup_shape, tuple(WARMUPS)))
        object.__setattr__(self, "cooldown_shape", fields.choice("cooldown_shape", cooldown_shape, COOLDOWNS))
        if self.warmup_shape == "exponential" and self.warmup_start == 0.0:
            fields.wrong("warmup_start", warmup_start, "an exponential warmup never gets away from 0")
        if self.cooldown_shape == "exponential" and self.floor == 0.0:
            message, hint = "an exponential cooldown never gets down to a floor of 0", "give a floor, such as 0.01"
            fields.wrong("cooldown_shape", cooldown_shape, message, hint)
        object.__setattr__(self, "also", _read_also(fields, also) if also else ())
        held = fields.duration("hold", 0 if hold is None else hold)
        object.__setattr__(self, "hold", held if held.value else Duration(0, "steps"))
        fields.finish()

    def split(self) -> tuple[Schedule, tuple[tuple[ScheduledSetting, Curve], ...]]:
        """The schedule of the LR alone, and each setting that moves besides with what moves it."""
        alone = replace(self, also=()) if self.also else self
        own = (entry.curve for entry in self.also)
        curves = (replace(curve, hold=self.hold) if isinstance(curve, Schedule) else alone for curve in own)
        return alone, tuple(zip(self.also, curves, strict=True))

    def phase(self, horizon: Horizon) -> Phase:
        """The stretch that the shape fills: from the end of the warmup to the start of the cooldown."""
        start = min(self.warmup.steps(horizon), horizon.steps)
        return Phase(start, max(start, horizon.steps - self.cooldown.steps(horizon)), horizon)

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """The multipliers at a row of steps that all lie in [0, horizon.steps]."""
        hold, phase = self._hold(horizon), self.phase(horizon)
        if hold > 1:  # but for the end of the run, where the schedule has arrived
            steps = np.where(steps < horizon.steps, np.floor(steps / hold) * hold, steps)
        values = self._above_floor(np.clip(steps, phase.start, phase.stop), phase)
        if phase.stop < horizon.steps:
            last = Phase(phase.stop, horizon.steps, horizon)
            lower = cooldown(self.cooldown_shape, steps, last, self._at(phase.stop, phase), self.floor)
            values = np.where(steps > phase.stop, lower, values)
        warmup = self.warmup.steps(horizon)
        if warmup > 0:
            top = self._at(phase.start, phase)
            low = top / (warmup / hold + 1) if self.warmup_start is None else min(self.warmup_start, top)
            rise = WARMUPS[self.warmup_shape](np.minimum(steps / warmup, 1.0), low, top)
            values = np.where(steps < warmup, rise, values)
        return values

    def _hold(self, horizon: Horizon) -> int:
        """For how many steps the LR stays before it moves, 1 where it moves at each."""
        return max(1, self.hold.steps(horizon))

    def _at(self, step: int, phase: Phase) -> float:
        """The shape at one step of its phase."""
        return float(self._above_floor(np.array([step], dtype=np.float64), phase)[0])

    def _above_floor(self, steps: Floats, phase: Phase) -> Floats:
        """The shape, lifted or cut so that it stays above the floor."""
        values = self.shape(steps, phase)
        if self.floor == 0.0:
            return values
        return self.floor + (1.0 - self.floor) * values if self.shape.lands else np.maximum(values, self.floor)

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """The steps, rising, at which the LR changes at once: the end of a constant warmup, and the shape's own.

        One that is held changes at once wherever it moves.
        """
        if (hold := self._hold(horizon)) > 1:
            moves = np.append(np.arange(hold, horizon.steps, hold), horizon.steps)
            return tuple(moves[self(moves, horizon) != self(moves - 1, horizon)].tolist())
        phase = self.phase(horizon)
        ends = self.warmup_shape == "constant" and 0 < phase.start <= horizon.steps
        return ((phase.start,) if ends else ()) + self.shape.jumps(phase)

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Everything that cannot be meant with this horizon: warmup and cooldown that do not fit, the shape's own.

        Args:
            horizon: how long the run is.
            key: where the schedule stands in the config.
        """
        problems = self.misfits(horizon) + self._passed_over(horizon)
        cooldown = length(self.cooldown, horizon, "cooldown", [])
        down = self.shape.lands and self.floor == 0.0
        if cooldown and (down or (not problems and self._at(self.phase(horizon).stop, self.phase(horizon)) == 0.0)):
            message = f"would spend its {cooldown} steps at an LR of 0, to which the shape has already come down"
            hint = "take a shape that stays up (schedule=constant), or no cooldown"
            problems.append(Problem("cooldown", message, str(self.cooldown), hint))
        for entry in self.also:
            if isinstance(entry.curve, Schedule):
                problems += under(f"also.{entry.name}", entry.curve.misfits(horizon))
        return under(key or self.key, problems)

    def misfits(self, horizon: Horizon) -> list[Problem]:
        """What of the warmup, the shape and the cooldown does not fit into the run, whatever they move."""
        problems: list[Problem] = []
        run = horizon.steps
        warmup = length(self.warmup, horizon, "warmup", problems)
        cooldown = length(self.cooldown, horizon, "cooldown", problems)
        phase = Phase(0, run, horizon)  # what the shape is checked against, as long as its own cannot be told
        if warmup is not None and warmup >= run:
            message = f"is {warmup} steps, but the run has only {run}"
            problems.append(Problem("warmup", message, str(self.warmup), "the peak would never be reached"))
        elif cooldown is not None and cooldown >= run:
            problems.append(Problem("cooldown", f"is {cooldown} steps, but the run has only {run}", str(self.cooldown)))
        elif warmup is not None and cooldown is not None:
            if warmup + cooldown > run:
                message = f"starts at step {run - cooldown}, before the warmup ends at step {warmup}"
                problems.append(Problem("cooldown", message, str(self.cooldown)))
            elif warmup + cooldown == run and not isinstance(self.shape, Constant):
                message = f"has no room: warmup ({warmup} steps) and cooldown ({cooldown}) fill the run of {run}"
                problems.append(Problem("shape", message))
            else:
                phase = self.phase(horizon)
        problems += under("shape", self.shape.check(phase))
        if warmup and self.warmup_start and not problems and self.warmup_start > self._at(phase.start, phase):
            message = f"is above {self._at(phase.start, phase):g}, where the shape starts"
            problems.append(Problem("warmup_start", message, self.warmup_start))
        return problems

    def _passed_over(self, horizon: Horizon) -> list[Problem]:
        """A hold that is as long as the run, or that passes over the end of the warmup or of the shape's own rise."""
        problems: list[Problem] = []
        hold, warmup = length(self.hold, horizon, "hold", problems) or 1, length(self.warmup, horizon, "warmup", [])
        if hold > 1 and hold >= horizon.steps:
            message = f"is {hold} steps, but the run has only {horizon.steps}"
            problems.append(Problem("hold", message, str(self.hold), "the LR would never move"))
        elif warmup and warmup % hold and warmup < horizon.steps:
            message = f"is {hold} steps, of which a warmup of {warmup} is no multiple: the peak would be passed over"
            whole = hold * max(1, round(warmup / hold))
            problems.append(Problem("hold", message, str(self.hold), f"give a warmup of {whole} steps, or none"))
        elif hold > 1 and not self.misfits(horizon):
            moving = replace(self, hold=Duration(0, "steps"))(np.arange(horizon.steps), horizon)
            top, reached = int(np.argmax(moving)), float(moving[::hold].max())
            if reached < NEARLY * moving[top]:
                message = f"is {hold} steps, and the LR would not come above {100 * reached:.3g}% of its peak"
                hint = f"the peak is at step {top}; let the shape rise for a multiple of {hold} steps"
                problems.append(Problem("hold", message, str(self.hold), hint))
        return problems


def _read_also(fields: Fields, given: Any) -> tuple[ScheduledSetting, ...]:
    """The entries of `schedule.also`, their problems noted.

    Args:
        fields: of the schedule that has them.
        given: by name, the arguments of a `Schedule` (but for its floor) and of a `ScheduledSetting`; or a list of the
            latter.
    """
    if isinstance(given, Mapping):
        found = [_read_setting(fields, str(name), entry) for name, entry in given.items() if entry is not None]
        return tuple(entry for entry in found if entry is not None)
    if isinstance(given, Sequence) and all(isinstance(entry, ScheduledSetting) for entry in given):
        return tuple(given)
    fields.wrong("also", given, "expected a mapping from settings to their schedules", "like {weight_decay: {low: 0}}")
    return ()


TIMES = ("shape", "warmup", "warmup_start", "warmup_shape", "cooldown", "cooldown_shape")
"""Arguments of the schedule that moves a setting: the LR's own schedule, if none of them is given."""

RANGE = ("low", "high", "inverse", "optional")


def _read_setting(fields: Fields, name: str, given: Any) -> ScheduledSetting | None:
    """One entry, or None and its problems noted."""
    key, before = f"also.{name}", len(fields.problems)
    if isinstance(given, ScheduledSetting):
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
    low = _setting_value(fields, name, "low", given.get("low"))
    high = _setting_value(fields, name, "high", given.get("high"))
    if low is not None and high is not None and low > high:
        hint = "inverse: true makes a setting fall as its curve rises"
        fields.wrong(f"{key}.low", low, f"is above high, which is {high:g}", hint)
    curve = _setting_curve(fields, key, {word: given[word] for word in TIMES if word in given})
    switches = {word: given.get(word, False) for word in ("inverse", "optional")}
    for word, value in switches.items():
        if not isinstance(value, bool):
            fields.wrong(f"{key}.{word}", value, "expected true or false")
    if len(fields.problems) > before:
        return None
    return ScheduledSetting(name, curve, low or 0.0, high, **switches)


def _setting_curve(fields: Fields, key: str, times: Mapping[str, Any]) -> Schedule | None:
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


def _setting_value(fields: Fields, name: str, word: str, value: Any) -> float | None:
    """A value that the setting may have, as a float."""
    below_one = name == "momentum" or BETA.fullmatch(name)
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    if value is None or (fits and not (below_one and value >= 1)):
        return None if value is None else float(value)
    fields.wrong(f"also.{name}.{word}", value, "expected a number from 0" + (" and below 1" if below_one else " on"))
    return None
