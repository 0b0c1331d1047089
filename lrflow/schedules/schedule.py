"""The schedule of a run: a warmup, a shape and a cooldown above a floor, and other settings scheduled with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lrflow.errors import ConfigError, Problem
from lrflow.imports import np
from lrflow.schedules._arguments import Arguments, count_steps, prefix_keys
from lrflow.schedules.curve import BETA, MOST_CHANGES, Curve, ScheduledSetting, Shape, sampled, too_many_changes
from lrflow.schedules.decays import Constant, Cosine, Linear, Polynomial
from lrflow.schedules.time import LATER, Duration, DurationLike, Floats, Horizon, Phase

MIN_HELD_PEAK = 0.99  # of the peak, which an LR that changes only every `hold` steps must reach


@dataclass(frozen=True, init=False)
class Schedule(Curve):
    """Warmup, shape and cooldown: the LR over a run as a fraction of its peak.

    The peak is exactly at the step where the warmup ends, unless the shape has a rise of its own. If the shape or a
    cooldown leads to the floor, a run of T steps reaches it at step T, one after the last executed step, as in torch's
    schedulers.

    Args:
        shape: the curve between warmup and cooldown.
        warmup: a duration, during which the LR rises to the start of the shape.
        warmup_start: fraction of the peak at step 0, from 0 to 1 or in percent; None: 1 / (warmup steps + 1) of the
            value at the start of the shape, so that no step has an LR of 0 and all rises are equal; with `hold`, in
            units of it.
        cooldown: a duration at the end, during which the LR falls from the end of the shape to the floor.
        floor: fraction of the peak, from 0 to 1 or in percent, below which the LR never falls outside the warmup. A
            shape that ends at 0 is scaled to end at the floor; any other is clipped there.
        warmup_shape: the curve of the warmup: `linear`, `cosine`, `exponential` (by equal factors) or `constant` (at
            `warmup_start` throughout, then a jump).
        cooldown_shape: the curve of the cooldown: `linear`, `cosine`, `1-sqrt`, `1-square`, `power` ((1 - p)^1.2) or
            `exponential` (by equal factors, to a floor above 0).
        also: other optimizer settings to schedule: by name, the arguments of a `ScheduledSetting` and of the schedule
            that moves it, `{"momentum": {"low": 0.85, "high": 0.95, "inverse": True}}`.
        hold: a duration between changes of the LR: step t has the LR of the last multiple of `hold`, as with a
            scheduler that is stepped once per epoch. None: the LR changes at every step.

    Raises:
        ConfigError: lists every argument that is wrong.
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
        args = Arguments(self.key)
        if not isinstance(shape, Shape):
            args.wrong("shape", shape, "expected a shape", "like lrflow.schedules.Cosine")
        start = None if warmup_start is None else args.share("warmup_start", warmup_start)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "warmup", args.duration("warmup", warmup))
        object.__setattr__(self, "warmup_start", start)
        object.__setattr__(self, "cooldown", args.duration("cooldown", cooldown))
        object.__setattr__(self, "floor", args.share("floor", floor))
        object.__setattr__(self, "warmup_shape", args.choice("warmup_shape", warmup_shape, tuple(WARMUPS)))
        object.__setattr__(self, "cooldown_shape", args.choice("cooldown_shape", cooldown_shape, COOLDOWNS))
        if self.warmup_shape == "exponential" and self.warmup_start == 0.0:
            args.wrong("warmup_start", warmup_start, "an exponential warmup cannot start at 0")
        if self.cooldown_shape == "exponential" and self.floor == 0.0:
            message, hint = "an exponential cooldown cannot end at a floor of 0", "give a floor, such as 0.01"
            args.wrong("cooldown_shape", cooldown_shape, message, hint)
        object.__setattr__(self, "also", _read_also(args, also) if also else ())
        held = args.duration("hold", 0 if hold is None else hold)
        object.__setattr__(self, "hold", held if held.value else Duration(0, "steps"))
        args.finish()

    def split_settings(self) -> tuple[Schedule, tuple[tuple[ScheduledSetting, Curve], ...]]:
        """Return the schedule of the LR alone, and the scheduled settings, each with the curve that moves it."""
        alone = replace(self, also=()) if self.also else self
        own = (entry.curve for entry in self.also)
        curves = (replace(curve, hold=self.hold) if isinstance(curve, Schedule) else alone for curve in own)
        return alone, tuple(zip(self.also, curves, strict=True))

    def phase(self, horizon: Horizon) -> Phase:
        """Return the phase of the shape: from the end of the warmup to the start of the cooldown."""
        start = min(self.warmup.steps(horizon), horizon.steps)
        return Phase(start, max(start, horizon.steps - self.cooldown.steps(horizon)), horizon)

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the multipliers at an array of steps [n], all in [0, horizon.steps]."""
        hold, phase = self._hold(horizon), self.phase(horizon)
        if hold > 1:  # the end of the run is left as it is: it has the schedule's last value
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
        """Return the number of steps between changes of the LR, 1 without `hold`."""
        return max(1, self.hold.steps(horizon))

    def _at(self, step: int, phase: Phase) -> float:
        """Return the value of the shape, above the floor, at one step of its phase."""
        return float(self._above_floor(np.array([step], dtype=np.float64), phase)[0])

    def _above_floor(self, steps: Floats, phase: Phase) -> Floats:
        """Return the values of the shape, scaled or clipped to stay above the floor."""
        values = self.shape(steps, phase)
        if self.floor == 0.0:
            return values
        return self.floor + (1.0 - self.floor) * values if self.shape.lands else np.maximum(values, self.floor)

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """Return the steps, in order, at which the LR jumps: the end of a constant warmup, and the jumps of the shape.

        With `hold`, every change is a jump.
        """
        if (hold := self._hold(horizon)) > 1:
            count = min((horizon.steps - 1) // hold, MOST_CHANGES)
            moves = np.append(np.arange(1, count + 1) * hold, horizon.steps)
            return tuple(moves[self(moves, horizon) != self(moves - 1, horizon)].tolist())
        phase = self.phase(horizon)
        ends = self.warmup_shape == "constant" and 0 < phase.start <= horizon.steps
        return ((phase.start,) if ends else ()) + self.shape.jumps(phase)

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Return every problem with this horizon: of the warmup, the cooldown, `hold` and the shape.

        Args:
            horizon: how long the run is.
            key: the schedule's key in the config.
        """
        problems = self.duration_problems(horizon) + self._hold_problems(horizon)
        cooldown = count_steps(self.cooldown, horizon, "cooldown", [])
        down = self.shape.lands and self.floor == 0.0
        if cooldown and (down or (not problems and self._at(self.phase(horizon).stop, self.phase(horizon)) == 0.0)):
            message = f"would spend its {cooldown} steps at an LR of 0, which the shape has already reached"
            hint = "use a shape that does not fall to 0 (schedule=constant), or no cooldown"
            problems.append(Problem("cooldown", message, str(self.cooldown), hint))
        for entry in self.also:
            if isinstance(entry.curve, Schedule):
                problems += prefix_keys(f"also.{entry.name}", entry.curve.duration_problems(horizon))
        return prefix_keys(key or self.key, problems)

    def duration_problems(self, horizon: Horizon) -> list[Problem]:
        """Return the problems of the durations: warmup, shape and cooldown that do not fit into the run."""
        problems: list[Problem] = []
        run = horizon.steps
        warmup = count_steps(self.warmup, horizon, "warmup", problems)
        cooldown = count_steps(self.cooldown, horizon, "cooldown", problems)
        phase = Phase(0, run, horizon)  # the shape is checked against the whole run if its own phase is unknown
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
        problems += prefix_keys("shape", self.shape.check(phase))
        if warmup and self.warmup_start and not problems and self.warmup_start > self._at(phase.start, phase):
            message = f"is above {self._at(phase.start, phase):g}, where the shape starts"
            problems.append(Problem("warmup_start", message, self.warmup_start))
        return problems

    def _hold_problems(self, horizon: Horizon) -> list[Problem]:
        """Return the problem of a `hold` as long as the run, or of one that skips the peak."""
        problems: list[Problem] = []
        hold, warmup = (
            count_steps(self.hold, horizon, "hold", problems) or 1,
            count_steps(self.warmup, horizon, "warmup", []),
        )
        if hold > 1 and hold >= horizon.steps:
            message = f"is {hold} steps, but the run has only {horizon.steps}"
            problems.append(Problem("hold", message, str(self.hold), "the LR would never move"))
        elif hold > 1 and (found := too_many_changes("hold", self.hold, horizon.steps // hold)):
            problems += found
        elif warmup and warmup % hold and warmup < horizon.steps:
            message = f"is {hold} steps, and a warmup of {warmup} is not a multiple of it: the peak would be skipped"
            whole = hold * max(1, round(warmup / hold))
            problems.append(Problem("hold", message, str(self.hold), f"give a warmup of {whole} steps, or none"))
        elif hold > 1 and not self.duration_problems(horizon):
            alone = replace(self, hold=Duration(0, "steps"))
            steps = np.union1d(sampled(horizon.steps, 1 << 17), [self.phase(horizon).start])
            moving = alone(steps, horizon)
            top, reached = int(steps[np.argmax(moving)]), float(alone(np.arange(0, horizon.steps, hold), horizon).max())
            if reached < MIN_HELD_PEAK * moving.max():
                message = f"is {hold} steps, and the LR would not rise above {100 * reached:.3g}% of its peak"
                hint = f"the peak is at step {top}; let the shape rise for a multiple of {hold} steps"
                problems.append(Problem("hold", message, str(self.hold), hint))
        return problems


TIMES = ("shape", "warmup", "warmup_start", "warmup_shape", "cooldown", "cooldown_shape")
"""Arguments of a setting's own schedule; if none is given, the setting follows the LR's schedule."""

RANGE = ("low", "high", "inverse", "optional")


def _read_also(args: Arguments, given: Any) -> tuple[ScheduledSetting, ...]:
    """Return the entries of `schedule.also`; their problems are added to `args`.

    Args:
        args: arguments of the schedule.
        given: by name, the arguments of a `Schedule` (without its floor) and of a `ScheduledSetting`; or a list of
            `ScheduledSetting`.
    """
    if isinstance(given, Mapping):
        found = [_read_setting(args, str(name), entry) for name, entry in given.items() if entry is not None]
        return tuple(entry for entry in found if entry is not None)
    if isinstance(given, Sequence) and all(isinstance(entry, ScheduledSetting) for entry in given):
        return tuple(given)
    args.wrong("also", given, "expected a mapping from settings to their schedules", "like {weight_decay: {low: 0}}")
    return ()


def _read_setting(args: Arguments, name: str, given: Any) -> ScheduledSetting | None:
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
    curve = _setting_curve(args, key, {word: given[word] for word in TIMES if word in given})
    switches = {word: given.get(word, False) for word in ("inverse", "optional")}
    for word, value in switches.items():
        if not isinstance(value, bool):
            args.wrong(f"{key}.{word}", value, "expected true or false")
    if len(args.problems) > before:
        return None
    return ScheduledSetting(name, curve, low or 0.0, high, **switches)


def _setting_curve(args: Arguments, key: str, times: Mapping[str, Any]) -> Schedule | None:
    """Return a setting's own schedule, whose warmup starts at `low`; None: the setting follows the LR's schedule."""
    if not times:
        return None
    try:
        # An LR must not start at 0 by default, but `low` is a value like any other.
        return Schedule(**{"shape": Constant(), "warmup_start": 0.0, **times})
    except ConfigError as error:
        for problem in error.problems:
            args.wrong(key + problem.key.removeprefix(Schedule.key), problem.value, problem.message, problem.hint)
    return None


def _setting_value(args: Arguments, name: str, word: str, value: Any) -> float | None:
    """Return the value as a float; None, after adding its problem, if the setting cannot have it."""
    below_one = name == "momentum" or BETA.fullmatch(name)
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    if value is None or (fits and not (below_one and value >= 1)):
        return None if value is None else float(value)
    args.wrong(f"also.{name}.{word}", value, "expected a number from 0" + (" and below 1" if below_one else " on"))
    return None


def _linear(done: Floats, low: float, top: float) -> Floats:
    return low + (top - low) * done


def _cosine(done: Floats, low: float, top: float) -> Floats:
    return low + (top - low) * 0.5 * (1.0 - np.cos(math.pi * done))


def _exponential(done: Floats, low: float, top: float) -> Floats:
    if low == 0.0:  # only if top is 0 too: the schedule raises otherwise
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
"""By name: (elapsed shares of the warmup in [0, 1), multiplier at its start, at its end) to multipliers."""

_FALLS: dict[str, Shape] = {
    "linear": Linear(),
    "cosine": Cosine(),
    "1-sqrt": Polynomial(1.0, k=0.5),
    "1-square": Polynomial(1.0, k=2.0),
    "power": Polynomial(1.2),
}

COOLDOWNS = (*_FALLS, "exponential")
"""The names of the curves of a cooldown."""


def cooldown(name: str, step: Floats, phase: Phase, top: float, floor: float) -> Floats:
    """Return the multipliers at these steps of a cooldown, which falls from `top` to `floor`.

    1-sqrt is 1 - sqrt(p) (Haegele et al., 2024), 1-square is 1 - p^2, power is (1 - p)^1.2 (the nanoGPT speedruns,
    2026), exponential falls by equal factors (Hu et al., MiniCPM, 2024).

    Args:
        name: one of `COOLDOWNS`.
        step: steps inside the phase.
        phase: the steps of the cooldown.
        top: multiplier at its start.
        floor: multiplier at its end; above 0 for `exponential`.
    """
    if name == "exponential":
        return np.minimum(floor * (top / floor) ** (1.0 - phase.progress(step)), top)
    return floor + (top - floor) * _FALLS[name](step, phase)
