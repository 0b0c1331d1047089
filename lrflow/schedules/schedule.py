"""The schedule of a run: a warmup, a shape and a cooldown above a floor, and other settings scheduled with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from lrflow.errors import ConfigError, Problem
from lrflow.imports import np
from lrflow.schedules._arguments import Arguments, count_steps, prefix_keys
from lrflow.schedules.also import read_also
from lrflow.schedules.curve import MOST_CHANGES, Curve, ScheduledSetting, Shape, sampled, too_many_changes
from lrflow.schedules.decays import Constant
from lrflow.schedules.levels import AbsoluteLR
from lrflow.schedules.part import PartOfRun
from lrflow.schedules.ramps import COOLDOWNS, WARMUPS, cooldown
from lrflow.schedules.room import room_problems, skipped_peak
from lrflow.schedules.time import LATER, ROUNDINGS, Duration, DurationLike, Floats, Horizon, Phase
from lrflow.wording import counted

NO_TIME = Duration(0, "steps")

WARMUP_MODES = ("meet", "override", "multiply", "blend")
WARMUP_ENDS = ("next_step", "last_step")
SHAPE_STARTS = ("warmup_end", "start")
HELD_PARTS = ("all", "shape")


@dataclass(frozen=True, init=False)
class Schedule(Curve):
    """Warmup, shape and cooldown: the LR over a run as a fraction of its peak.

    The peak is exactly at the step where the warmup ends, unless the shape has a rise of its own or runs from the start
    of the run. If the shape or a cooldown leads to the floor, a run of T steps reaches it at step T, one after the last
    executed step, as in torch's schedulers.

    Args:
        shape: the curve between warmup and cooldown.
        warmup: a duration, during which the LR rises to the start of the shape.
        warmup_start: fraction of the peak at step 0, from 0 to 1 or in percent, or an LR (`1e-6 lr`); None:
            1 / (warmup steps + 1) of the value at the start of the shape, so that no step has an LR of 0 and all rises
            are equal; with `hold`, in units of it. Above 1, a multiple of the peak, from which the warmup falls.
        cooldown: a duration at the end, during which the LR falls from the end of the shape to the floor.
        floor: fraction of the peak, from 0 to 1 or in percent, or an LR (`1e-6 lr`), below which the LR never falls
            outside the warmup. A shape that ends at 0 is scaled to end at the floor; any other is clipped there.
        warmup_shape: the curve of the warmup: `linear`, `cosine`, `exponential` (by equal factors) or `constant` (at
            `warmup_start` throughout, then a jump).
        cooldown_shape: the curve of the cooldown: `linear`, `cosine`, `1-sqrt`, `1-square`, `power` ((1 - p)^1.2) or
            `exponential` (by equal factors, to a floor above 0).
        also: other optimizer settings to schedule: by name, the arguments of a `ScheduledSetting` and of the schedule
            that moves it, `{"momentum": {"low": 0.85, "high": 0.95, "inverse": True}}`.
        hold: a duration between changes of the LR: step t has the LR of the last multiple of `hold`, as with a
            scheduler that is stepped once per epoch. None: the LR changes at every step.
        shape_from: where the shape begins: `warmup_end`, or `start`: at step 0, below the warmup.
        shape_length: a duration from there to the end of the shape; None: to the cooldown or the end of the run. A run
            that is shorter cuts the shape off; after a shorter shape its last value stays.
        warmup_mode: what the warmup is to a shape that begins at the start: `meet`: it rises to the value of the shape
            at its end; `override`: it rises to the peak, then the LR is the shape's (timm); `multiply`: it is a factor,
            which rises to 1 (chained schedulers of torch); `blend`: it leads from `warmup_start` into the moving shape,
            `(1 - p) warmup_start + p shape` if it is linear (YOLO).
        warmup_ends_at: the step at which the warmup reaches its end: `next_step`: the first one after it; `last_step`:
            its own last one. The default start is then 1 / warmup steps.
        count_from: the number of the first step, 0 or 1. With 1, step t has the LR that it would have at t + 1; with
            `hold`, that of the next hold.
        hold_part: what `hold` holds: `all`, or `shape`: everything but the warmup.
        rounding: how durations become whole steps: `nearest` (half up), `up` or `down`.
        delay: a duration before the clock of the schedule begins, until when it has its first value: all of it is that
            of a run that begins later, of which shares (5%) are shares.

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
    hold: Duration = field(default=NO_TIME, metadata=LATER)
    shape_from: str = field(default="warmup_end", metadata=LATER)
    shape_length: Duration | None = field(default=None, metadata=LATER)
    warmup_mode: str = field(default="meet", metadata=LATER)
    warmup_ends_at: str = field(default="next_step", metadata=LATER)
    count_from: int = field(default=0, metadata=LATER)
    hold_part: str = field(default="all", metadata=LATER)
    rounding: str = field(default="nearest", metadata=LATER)
    delay: Duration = field(default=NO_TIME, metadata=LATER)

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
        shape_from: str = "warmup_end",
        shape_length: DurationLike | None = None,
        warmup_mode: str = "meet",
        warmup_ends_at: str = "next_step",
        count_from: int = 0,
        hold_part: str = "all",
        rounding: str = "nearest",
        delay: DurationLike = 0,
    ) -> None:
        args = Arguments(self.key)
        if not isinstance(shape, Shape):
            args.wrong("shape", shape, "expected a shape", "like lrflow.schedules.Cosine")
        if isinstance(count_from, bool) or count_from not in (0, 1):
            args.wrong("count_from", count_from, "expected 0 or 1, the number of the first step")
        read = {
            "shape": shape,
            "warmup": args.duration("warmup", warmup),
            "warmup_start": None if warmup_start is None else args.level("warmup_start", warmup_start, math.inf),
            "cooldown": args.duration("cooldown", cooldown),
            "floor": args.level("floor", floor),
            "warmup_shape": args.choice("warmup_shape", warmup_shape, tuple(WARMUPS)),
            "cooldown_shape": args.choice("cooldown_shape", cooldown_shape, COOLDOWNS),
            "also": read_also(args, also, Schedule) if also else (),
            "hold": args.interval("hold", hold),
            "shape_from": args.choice("shape_from", shape_from, SHAPE_STARTS),
            "shape_length": None if shape_length is None else args.duration("shape_length", shape_length),
            "warmup_mode": args.choice("warmup_mode", warmup_mode, WARMUP_MODES),
            "warmup_ends_at": args.choice("warmup_ends_at", warmup_ends_at, WARMUP_ENDS),
            "count_from": count_from,
            "hold_part": args.choice("hold_part", hold_part, HELD_PARTS),
            "rounding": args.choice("rounding", rounding, tuple(ROUNDINGS)),
            "delay": args.interval("delay", delay),
        }
        for name, value in read.items():
            object.__setattr__(self, name, value)
        if self.warmup_shape == "exponential" and self.warmup_start == 0.0:
            args.wrong("warmup_start", warmup_start, "an exponential warmup cannot start at 0")
        if self.cooldown_shape == "exponential" and self.floor == 0.0:
            message, hint = "an exponential cooldown cannot end at a floor of 0", "give a floor, such as 0.01"
            args.wrong("cooldown_shape", cooldown_shape, message, hint)
        if self.warmup_mode in WARMUP_MODES[1:] and self.shape_from == "warmup_end":
            message = "needs a shape that runs below the warmup"
            args.wrong("warmup_mode", warmup_mode, message, f"give {self.key}.shape_from=start")
        if self.warmup_ends_at == "last_step" and self.warmup_shape == "constant":
            message = "a constant warmup jumps at the step after it"
            args.wrong("warmup_ends_at", warmup_ends_at, message, "give next_step, or another warmup_shape")
        args.finish()

    def split_settings(self) -> tuple[Schedule, tuple[tuple[ScheduledSetting, Curve], ...]]:
        """Return the schedule of the LR alone, and the scheduled settings, each with the curve that moves it."""
        alone = replace(self, also=()) if self.also else self
        own = (entry.curve for entry in self.also)
        curves = (
            replace(curve, hold=self.hold, hold_part=self.hold_part, rounding=self.rounding, delay=self.delay)
            if isinstance(curve, Schedule)
            else alone
            for curve in own
        )
        return alone, tuple(zip(self.also, curves, strict=True))

    @cached_property
    def _late(self) -> PartOfRun | None:
        """The schedule without its delay, in the part of the run after it; None without a delay."""
        return PartOfRun(replace(self, delay=NO_TIME), self.delay) if self.delay.value else None

    def _after_delay(self, horizon: Horizon) -> Horizon:
        """Return the horizon on which the clock of the schedule runs: the rest of the run."""
        return horizon if self._late is None else self._late.part(horizon.rounding_to(self.rounding))[1]

    @property
    def may_stay_below(self) -> bool:
        """Whether the LR may stay below the peak, since the shape does, or has left it when the warmup ends."""
        return self.shape.may_stay_below or self.shape_from == "start" or self.count_from == 1

    @property
    def highest(self) -> float:
        """The highest multiplier, above 1 if a warmup falls from there."""
        return max(self.warmup_start or 0.0, 1.0) if self.warmup.value else 1.0

    def of_peak(self, lr: float) -> Schedule:
        """Return the schedule of a group with this peak LR, of which floor and start of the warmup are known fractions.

        Raises:
            ConfigError: one of them is above the peak.
        """
        levels: dict[str, Any] = {}
        problems = []
        for name in ("warmup_start", "floor"):
            level = getattr(self, name)
            if not isinstance(level, AbsoluteLR) or level.peak is not None or lr <= 0:
                continue
            levels[name] = AbsoluteLR(level.lr, lr)
            if level.lr > lr:
                hint = "a fraction, such as 0.01, is the same share of the peak of each group"
                problems.append(Problem(f"{self.key}.{name}", f"is above the peak LR, {lr:g}", level.declared, hint))
        if problems:
            raise ConfigError(problems)
        return replace(self, **levels) if levels else self

    def phase(self, horizon: Horizon) -> Phase:
        """Return the phase from the end of the warmup to the start of the cooldown."""
        if self._late is not None:
            return self._late.phase(horizon.rounding_to(self.rounding))
        phase, hold = self._phase(horizon), self._hold(horizon)
        if not self.count_from:
            return phase
        start = max(phase.start - (hold if self.hold_part == "all" else 1), 0)
        return Phase(start, max(start, phase.stop - hold if phase.stop < horizon.steps else phase.stop), horizon)

    def _phase(self, horizon: Horizon) -> Phase:
        """Return the same phase on the clock of the schedule, which may count from 1."""
        horizon = horizon.rounding_to(self.rounding)
        start = min(self.warmup.steps(horizon), horizon.steps)
        return Phase(start, max(start, horizon.steps - self.cooldown.steps_at_end(horizon)), horizon)

    def _shape_phase(self, horizon: Horizon) -> Phase:
        """Return the phase that the shape fills; one that the run cuts off ends after it."""
        between = self._phase(horizon)
        start = between.start if self.shape_from == "warmup_end" else 0
        if self.shape_length is None:
            return replace(between, start=start)
        stop = start + self.shape_length.steps(between.horizon, start)
        return Phase(start, stop, between.horizon.at_least(stop))

    def values(self, steps: Floats, horizon: Horizon) -> Floats:
        """Return the multipliers at an array of steps [n], all in [0, horizon.steps]."""
        if self._late is not None:
            return self._late.values(steps, horizon.rounding_to(self.rounding))
        hold, between, phase = self._hold(horizon), self._phase(horizon), self._shape_phase(horizon)
        moving = steps
        if hold > 1:  # the end of the run is left as it is: it has the schedule's last value
            steps = np.where(steps < horizon.steps, np.floor(steps / hold) * hold, steps)
        rising, unit = (steps, hold) if self.hold_part == "all" else (moving, 1)
        if self.count_from:
            rising, steps = np.minimum(rising + unit, horizon.steps), np.minimum(steps + hold, horizon.steps)
        values = self._above_floor(np.clip(steps, phase.start, between.stop), phase)
        if between.stop < horizon.steps:
            last = Phase(between.stop, horizon.steps, between.horizon)
            lower = cooldown(self.cooldown_shape, steps, last, self._at(between.stop, phase), self.floor)
            values = np.where(steps > between.stop, lower, values)
        warmup = self.warmup.steps(between.horizon)
        if warmup > 0:
            top = self._top(between.start, hold, phase)
            if self.warmup_ends_at == "last_step":
                units, reached = warmup / unit, max(warmup - unit, 0)
            else:
                units, reached = warmup / unit + 1, warmup
            low = top / units if self.warmup_start is None else self.warmup_start
            low = low if low > 1.0 else min(low, top)
            done = np.minimum(rising / reached, 1.0) if reached else np.ones_like(rising)
            rise = WARMUPS[self.warmup_shape](done, low, values if self.warmup_mode == "blend" else top)
            values = np.where(rising < warmup, rise * values if self.warmup_mode == "multiply" else rise, values)
        return values

    def _top(self, start: int, hold: int, phase: Phase) -> float:
        """Return the value that the warmup leads to; it is a factor with `warmup_mode=multiply`."""
        if self.warmup_mode != "meet":
            return 1.0
        return self._at(start if self.hold_part == "all" else max(start // hold * hold, phase.start), phase)

    def _hold(self, horizon: Horizon) -> int:
        """Return the number of steps between changes of the LR, 1 without `hold`."""
        return max(1, self.hold.interval(horizon.rounding_to(self.rounding)))

    def _at(self, step: int, phase: Phase) -> float:
        """Return the value of the shape, above the floor, at one step of its phase."""
        return float(self._above_floor(np.array([step], dtype=np.float64), phase)[0])

    def _above_floor(self, steps: Floats, phase: Phase) -> Floats:
        """Return the values of the shape, scaled or clipped to stay above the floor."""
        values = self.shape(steps, phase)
        if self.floor == 0.0:
            return values
        return self.floor + (1.0 - self.floor) * values if self.shape.lands else np.maximum(values, self.floor)

    def cut_off(self, horizon: Horizon) -> bool:
        """Whether the shape is longer than the run leaves room for."""
        horizon = self._after_delay(horizon)
        return self._shape_phase(horizon).stop > self._phase(horizon).stop

    def ends_at_floor(self, horizon: Horizon) -> bool:
        """Whether the LR has to be at the floor at the end of the run."""
        cooled = self._phase(self._after_delay(horizon)).stop < self._after_delay(horizon).steps
        return cooled or (self.shape.lands and not self.cut_off(horizon))

    def jumps(self, horizon: Horizon) -> tuple[int, ...]:
        """Return the steps, in order, at which the LR jumps: the end of a constant warmup, and the jumps of the shape.

        With `hold`, every change is a jump.
        """
        if self._late is not None:
            return self._late.jumps(horizon.rounding_to(self.rounding))
        between, factor = self._phase(horizon), self.warmup_mode in ("multiply", "blend")
        if (hold := self._hold(horizon)) > 1:
            count = min((horizon.steps - 1) // hold, MOST_CHANGES)
            moves = np.append(np.arange(1, count + 1) * hold, horizon.steps)
            if self.hold_part == "shape":
                # With count_from=1, the hold that follows may be another than the top.
                start = self.phase(horizon).start
                top, follows = self._top(between.start, hold, self._shape_phase(horizon)), float(self(start, horizon))
                leaves = self._drops_after_warmup() or (not factor and follows != top)
                moves = np.union1d(moves if factor else moves[moves > start], [start] if leaves else [])
                moves = moves[moves > 0].astype(np.int64)
            return tuple(moves[self(moves, horizon) != self(moves - 1, horizon)].tolist())
        ends = 0 < between.start <= horizon.steps and self._drops_after_warmup()
        shape = self.shape.jumps(self._shape_phase(horizon))
        found = ((between.start,) if ends else ()) + shape
        if self.shape_from == "start":
            found = tuple(sorted(step for step in found if factor or step >= between.start + (not ends)))
        if self.shape_length is not None:
            found = tuple(step for step in found if step <= between.stop)
        return tuple(step - self.count_from for step in found if step > self.count_from) if self.count_from else found

    def _drops_after_warmup(self) -> bool:
        """Whether the warmup does not lead to what follows it."""
        return self.warmup_shape == "constant" or self.warmup_mode == "override"

    def check(self, horizon: Horizon, key: str | None = None) -> list[Problem]:
        """Return every problem with this horizon: of the warmup, the cooldown, `hold` and the shape.

        Args:
            horizon: how long the run is.
            key: the schedule's key in the config.
        """
        if self._late is not None:
            late = self._delay_problems(horizon)
            return prefix_keys(key or self.key, late) or self._late.schedule.check(self._after_delay(horizon), key)
        problems = self.duration_problems(horizon) + self._hold_problems(horizon)
        cooldown = count_steps(self.cooldown, horizon.rounding_to(self.rounding), "cooldown", [])
        down = self.shape.lands and self.floor == 0.0 and self.shape_length is None
        if cooldown and (down or (not problems and self._cooldown_start(horizon) == 0.0)):
            message = f"would spend its {counted(cooldown, 'step')} at an LR of 0, which the shape has already reached"
            hint = "use a shape that does not fall to 0 (schedule=constant), or no cooldown"
            problems.append(Problem("cooldown", message, str(self.cooldown), hint))
        phase = None if problems or self.shape_length is None else self._shape_phase(horizon)
        if phase and phase.stop < self._phase(horizon).stop and self._at(phase.stop, phase) == 0.0:
            message = f"ends at step {phase.stop} at an LR of 0, where the rest of the run would stay"
            problems.append(Problem("shape_length", message, str(self.shape_length), "give a floor, or leave it out"))
        for entry, curve in self.split_settings()[1]:
            if isinstance(entry.curve, Schedule) and isinstance(curve, Schedule):
                problems += prefix_keys(f"also.{entry.name}", curve.duration_problems(horizon))
        return prefix_keys(key or self.key, problems)

    def _cooldown_start(self, horizon: Horizon) -> float:
        return self._at(self._phase(horizon).stop, self._shape_phase(horizon))

    def _delay_problems(self, horizon: Horizon) -> list[Problem]:
        found = self._late.part_problems(horizon.rounding_to(self.rounding)) if self._late else []
        return [replace(one, key="delay") for one in found]

    def duration_problems(self, horizon: Horizon) -> list[Problem]:
        """Return the problems of the durations: warmup, shape and cooldown that do not fit into the run."""
        if problems := self._delay_problems(horizon):
            return problems
        horizon = self._after_delay(horizon).rounding_to(self.rounding)
        moves = self.shape_from == "warmup_end" and not isinstance(self.shape, Constant)
        problems, placed = room_problems(self.warmup, self.cooldown, self.shape_length, moves, horizon)
        # The shape is checked against the whole run if its own phase is unknown.
        phase = self._shape_phase(horizon) if placed else Phase(0, horizon.steps, horizon)
        problems += prefix_keys("shape", self.shape.check(phase))
        # A curve is computed, which imports numpy.
        if self.warmup_start and not problems and self.warmup.steps(horizon):
            top = self._top(self._phase(horizon).start, self._hold(horizon), phase)
            if top < self.warmup_start <= 1.0:
                message = f"is above {top:g}, where the shape starts"
                problems.append(Problem("warmup_start", message, self.warmup_start))
        return problems

    def _hold_problems(self, horizon: Horizon) -> list[Problem]:
        """Return the problem of a `hold` as long as the run, or of one that skips the peak."""
        problems: list[Problem] = []
        rounded = horizon.rounding_to(self.rounding)
        hold = count_steps(self.hold, rounded, "hold", problems) or 1
        warmup = count_steps(self.warmup, rounded, "warmup", [])
        if hold > 1 and hold >= horizon.steps:
            message = f"is {counted(hold, 'step')}, but the run has only {horizon.steps}"
            problems.append(Problem("hold", message, str(self.hold), "the LR would never move"))
        elif hold > 1 and (found := too_many_changes("hold", self.hold, horizon.steps // hold)):
            problems += found
        elif self.hold_part == "all" and warmup and warmup % hold and warmup < horizon.steps:
            message = f"is {hold} steps, and a warmup of {warmup} is not a multiple of it: the peak would be skipped"
            whole = hold * max(1, round(warmup / hold))
            problems.append(Problem("hold", message, str(self.hold), f"give a warmup of {whole} steps, or none"))
        elif hold > 1 and not self.duration_problems(horizon):
            alone = replace(self, hold=NO_TIME)
            start = self.phase(horizon).start
            steps = np.union1d(sampled(horizon.steps, 1 << 17), [start])
            if self.warmup_mode == "override":  # whose rise to the peak ends in a drop: the shape's own top counts
                steps = steps[steps >= start]
            moving = alone(steps, horizon)
            held = (
                alone(np.arange(0, horizon.steps, hold), horizon) if self.hold_part == "all" else self(steps, horizon)
            )
            problems += skipped_peak(self.hold, hold, steps, moving, held)
        return problems
