"""Checks of a plan's learning rates before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from lrflow.errors import Problem
from lrflow.plan.scalars import PlanScalar
from lrflow.plan.values import PlanBase
from lrflow.schedules import Curve, Horizon, Schedule
from lrflow.schedules.curve import sampled
from lrflow.schedules.time import Floats
from lrflow.wording import counted, joined, number

CHUNK = 1 << 18  # steps evaluated at once, so that memory stays constant for long runs
WALKED = 1 << 23  # steps of a run up to which every step is checked; of a longer one, a sample of them
PEAK_TOLERANCE = 1e-3  # of the peak: how far the highest LR may stay below it
BOUND_TOLERANCE = 1e-9  # of the peak: tolerance for rounding at a bound
JUMP = 0.01  # relative change of the LR from which a change is a jump
MAX_DETAILS = 3  # schedules for which a passed check lists details
SUSPECTS = 512  # steepest steps per chunk that are examined for jumps


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        name: the condition.
        ok: whether it holds.
        detail: the numbers of the check, in a sentence.
    """

    name: str
    ok: bool
    detail: str


@dataclass
class _Facts:
    """Properties of one curve over the run, as multipliers of the peak."""

    warmup: int  # steps before the peak
    floor: float
    ends_at_floor: bool  # whether the curve has to be at its floor at the end
    highest: float = -math.inf
    highest_at: int = 0
    summit: float = -math.inf  # highest value between the neighbours of the highest step: a peak may lie between steps
    lowest: float = math.inf  # after the warmup
    lowest_at: int = 0
    finite: bool = True
    last: float = math.nan  # at the last step
    end: float = math.nan  # at the step after the last one, where the curve reaches its floor
    short_warmup: str = ""  # the declared warmup if it is less than a step
    declared: int = 0  # jumps inside the run
    allowed: float = 1.0  # highest multiplier that was declared: a warmup may fall from above the peak
    lower: bool = False  # whether the curve was declared so that it may stay below the peak
    frozen: int = 0  # steps before its groups train
    delay: int = 0  # steps before the clock of the schedule begins
    until: int = 0  # step from which its groups no longer train; the length of the run if they train to the end
    jump: tuple[int, float, float] | None = None  # first undeclared jump: step, from, to
    looked_at: int = 0  # number of sampled steps; 0: all


def check(plan: PlanBase) -> list[Check]:
    """Check the LR of every trainable group at every step of the run; of more than `WALKED` steps, at a sample of them.

    Returns:
        one Check each for: peak reached, peak never exceeded, floor met, no undeclared jump, warmup shorter than the
        run, schedule fits the run, every group moves; and if settings are scheduled: settings move.
    """
    walked = [(_walk(schedule, plan.horizon), _names(plan, columns)) for schedule, columns in plan.curves]
    return [
        _each(walked, "peak reached", _peak_reached),
        _each(walked, "peak never exceeded", _peak_kept),
        _each(walked, "floor met", _floor_met),
        _each(walked, "no undeclared jump", _no_jump),
        _each(walked, "warmup shorter than the run", lambda facts: _warmup(facts, plan.horizon)),
        _fits(plan),
        _moves(plan, walked),
        *([_settings_move(plan)] if plan.scheduled_settings or plan.scalars else []),
    ]


def _names(plan: PlanBase, columns: tuple[int, ...]) -> str:
    return joined([plan.names[column] for column in columns])


def _each(walked: list[tuple[_Facts, str]], name: str, holds: Callable[[_Facts], tuple[bool, str]]) -> Check:
    """Check every distinct curve; groups are named if the check fails or if the details differ."""
    results = [(*holds(facts), names) for facts, names in walked]
    failed = [f"{names}: {detail}" for ok, detail, names in results if not ok]
    if failed:
        return Check(name, False, "; ".join(failed))
    if not results:
        return Check(name, False, "no group is trained")
    if len({detail for _, detail, _ in results}) == 1:
        return Check(name, True, results[0][1])
    details = [f"{names}: {detail}" for _, detail, names in results]
    if len(details) > MAX_DETAILS:
        details = [details[0], details[-1], f"and so for {len(details) - 2} more"]
    return Check(name, True, "; ".join(details))


def _peak_reached(facts: _Facts) -> tuple[bool, str]:
    at = f"at step {facts.highest_at:,}"
    reached = facts.summit >= 1 - PEAK_TOLERANCE
    if facts.allowed > 1:
        return reached or facts.lower, f"{_percent(facts.summit)} where the warmup ends, at step {facts.warmup:,}"
    if reached and not facts.frozen:
        return True, at
    highest = f"the highest is {_percent(facts.highest)} of the peak, {at}"
    if facts.frozen:
        return reached, f"{highest}, frozen until step {facts.frozen:,}"
    return reached or facts.lower, highest


def _peak_kept(facts: _Facts) -> tuple[bool, str]:
    if not facts.finite:
        return False, "the LR is not a finite number everywhere"
    highest = f"the highest is {_percent(facts.highest)} of the peak"
    if facts.highest > facts.allowed + BOUND_TOLERANCE:
        return False, f"{highest}, at step {facts.highest_at:,}"
    if facts.allowed > 1:
        return True, f"{highest}, from which the warmup falls, as declared"
    return True, highest


def _floor_met(facts: _Facts) -> tuple[bool, str]:
    floor = f"the floor of {_percent(facts.floor)}"
    if not facts.lowest >= facts.floor - BOUND_TOLERANCE:  # written so that NaN fails
        return False, f"falls to {_percent(facts.lowest)} at step {facts.lowest_at:,}, under {floor}"
    if facts.ends_at_floor and not abs(facts.end - facts.floor) <= BOUND_TOLERANCE:
        return False, f"ends at {_percent(facts.end)} of the peak, not at {floor}"
    return True, f"last step at {_percent(facts.last)} of the peak, floor {_percent(facts.floor)}"


def _no_jump(facts: _Facts) -> tuple[bool, str]:
    if facts.jump is not None:
        step, before, after = facts.jump
        return False, f"from {_percent(before)} to {_percent(after)} of the peak at step {step:,}, not declared"
    found = counted(facts.declared, "declared jump") if facts.declared else "none at all"
    return True, f"{found}, among {facts.looked_at:,} steps" if facts.looked_at else found


def _percent(multiplier: float) -> str:
    return f"{100 * multiplier:.4g}%"


def _warmup(facts: _Facts, horizon: Horizon) -> tuple[bool, str]:
    begins = max(facts.frozen, facts.delay)
    warmup = facts.warmup - begins
    details = f"{warmup:,} of {horizon.steps:,} steps" if warmup else f"no warmup{facts.short_warmup}"
    return facts.warmup < horizon.steps, f"{details} from step {begins:,}" if warmup and begins else details


def _fits(plan: PlanBase) -> Check:
    problems = dict.fromkeys(
        f"{problem.key}: {problem.message}"
        for problem in chain(
            *(schedule.check(plan.horizon) for schedule, _ in plan.curves),
            *(setting.check(plan.horizon) for setting, _ in plan.scheduled_settings),
            *(scalar.check(plan.horizon) for scalar in plan.scalars),
        )
    )
    return Check("schedule fits the run", not problems, "; ".join(problems) or "every duration lies inside it")


def _settings_move(plan: PlanBase) -> Check:
    """Check that every scheduled setting has finite values and changes."""
    wrong, right = [], []
    moved: list[tuple[PlanScalar, tuple[int, ...]]] = [*plan.scheduled_settings, *((one, ()) for one in plan.scalars)]
    for setting, columns in moved:
        ends = [setting(steps, plan.horizon) for steps in _chunks(plan.horizon.steps)]
        low, high = min(float(values.min()) for values in ends), max(float(values.max()) for values in ends)
        details = f"{setting.title} {number(low)} to {number(high)}"
        if math.isfinite(low + high) and (low < high or setting.low == setting.high):
            right.append(details)
        else:
            wrong.append(f"{details} throughout" + (f", in {_names(plan, columns)}" if columns else ""))
    return Check("settings move", not wrong, "; ".join(dict.fromkeys(wrong or right)))


def _moves(plan: PlanBase, walked: list[tuple[_Facts, str]]) -> Check:
    """Check that every trainable group holds parameters and has an LR above zero at some step."""
    still = []
    for (facts, _), (_, columns) in zip(walked, plan.curves, strict=True):
        groups = [plan.trainable[column] for column in columns]
        still += [group.name for group in groups if not (group.parameters > 0 and group.lr * facts.highest > 0)]
    if still:
        return Check("every group moves", False, f"never moved: {joined(still)}")
    if not plan.trainable:
        return Check("every group moves", False, "every group is frozen")
    if first := min(plan.first_steps.values()):
        return Check("every group moves", False, f"none moves before step {first:,}")
    if (idle := _first_idle(plan)) is not None:
        return Check("every group moves", False, f"none moves from step {idle:,} on")
    peaks = sorted(group.lr for group in plan.trainable)
    spread = number(peaks[0]) if peaks[0] == peaks[-1] else f"{number(peaks[0])} to {number(peaks[-1])}"
    return Check("every group moves", True, f"peak LR {spread}")


def _first_idle(plan: PlanBase) -> int | None:
    """Return the step from which every group of a plan is frozen; None: some group trains to the end."""
    stops = plan.frozen_from
    late = [stops.get(name) for name in plan.names]
    ends = [stop for stop in late if stop is not None and stop < plan.horizon.steps]
    return max(ends) if ends and len(ends) == len(late) else None


def _walk(schedule: Curve, horizon: Horizon) -> _Facts:
    """Evaluate the curve at every step of the run, in chunks."""
    phase, unfrozen = schedule.phase(horizon), schedule.without_freezing()
    stop = schedule.frozen_from(horizon)
    until = horizon.steps if stop is None else max(min(stop, horizon.steps), 1)
    ends_at_floor = isinstance(unfrozen, Schedule) and unfrozen.ends_at_floor(horizon) and until == horizon.steps
    start = schedule.first_step(horizon)
    facts = _Facts(phase.start, getattr(schedule, "floor", 0.0), ends_at_floor, frozen=start, until=until)
    facts.lower, facts.allowed = schedule.may_stay_below, schedule.highest
    if isinstance(unfrozen, Schedule):
        facts.delay = unfrozen.delay.steps(horizon.rounding_to(unfrozen.rounding))
    declared = np.unique(np.ceil(np.asarray(list(schedule.jumps(horizon)), dtype=np.float64)))
    facts.declared = int(((declared > 0) & (declared < horizon.steps)).sum())
    marks = (phase.start, phase.stop, facts.frozen, until, *declared)
    for steps in _chunks(horizon.steps, marks):
        values = schedule(steps, horizon)
        facts.looked_at += len(steps) if horizon.steps > WALKED else 0
        trained = int(np.searchsorted(steps, until))
        if trained:
            _bounds(facts, steps[:trained], values[:trained])
        if facts.jump is None and facts.finite:
            facts.jump = _jump(schedule, horizon, steps, values, declared)
    if horizon.steps > WALKED and facts.finite:
        _zoom_to_peak(facts, schedule, horizon)
    around = np.linspace(max(facts.highest_at - 1, 0), min(facts.highest_at + 1, horizon.steps - 1), 1025)
    # A group that is unfrozen late may miss the peak of its schedule; the schedule is checked without the freezing.
    facts.summit = _walk(unfrozen, horizon).summit if facts.frozen else float(schedule(around, horizon).max())
    if facts.allowed > 1:
        facts.summit = float(schedule(phase.start, horizon))
    facts.last, facts.end = (float(value) for value in schedule([until - 1, until], horizon))
    if isinstance(unfrozen, Schedule) and unfrozen.warmup.value and not phase.start:
        facts.short_warmup = f": {unfrozen.warmup} of {counted(horizon.steps, 'step')} is less than one"
    return facts


def _chunks(steps: int, marks: Iterable[float] = ()) -> Iterator[np.ndarray]:
    """Yield the steps of the run in chunks; each begins with the last step of the one before, so no pair is missed.

    Of a run longer than `WALKED` these are evenly spaced steps, and those around the marks.
    """
    if steps <= WALKED:
        for start in range(0, steps, CHUNK):
            yield np.arange(max(start - 1, 0), min(start + CHUNK, steps))
        return
    around = np.add.outer(np.asarray(list(marks), dtype=np.int64), [-2, -1, 0, 1]).ravel()
    walked = np.union1d(sampled(steps), around[(around >= 0) & (around < steps)])
    for start in range(0, len(walked), CHUNK):
        yield walked[max(start - 1, 0) : start + CHUNK]


def _zoom_to_peak(facts: _Facts, schedule: Curve, horizon: Horizon) -> None:
    """Find the highest step near the highest of the sampled ones."""
    reach = horizon.steps // len(sampled(horizon.steps)) + 1
    while reach > 1:
        low, high = max(facts.highest_at - reach, 0), min(facts.highest_at + reach, horizon.steps - 1)
        steps = np.unique(np.linspace(low, high, 1025).round().astype(np.int64))
        _bounds(facts, steps, schedule(steps, horizon))
        reach //= 256


def _bounds(facts: _Facts, steps: np.ndarray, values: Floats) -> None:
    facts.finite = facts.finite and bool(np.isfinite(values).all())
    top = int(np.argmax(values))
    if values[top] > facts.highest:
        facts.highest, facts.highest_at = float(values[top]), int(steps[top])
    after = int(np.searchsorted(steps, facts.warmup))
    if after < len(values):
        low = after + int(np.argmin(values[after:]))
        if not values[low] >= facts.lowest:
            facts.lowest, facts.lowest_at = float(values[low]), int(steps[low])


def _jump(
    schedule: Curve, horizon: Horizon, steps: np.ndarray, values: Floats, declared: np.ndarray
) -> tuple[int, float, float] | None:
    """Return the first undeclared jump: the step after it, and the values before and after.

    At whole steps a steep curve looks like a jump. So the steepest intervals are halved repeatedly, always towards the
    larger change: on a continuous curve the change shrinks with the interval, at a jump it stays.
    """
    size = np.maximum(np.abs(values[:-1]), np.abs(values[1:]))
    change = np.abs(np.diff(values))
    passed = np.searchsorted(declared, steps, side="right")
    suspects = np.flatnonzero((change > JUMP * size) & (passed[1:] == passed[:-1]))
    if not len(suspects):
        return None
    if len(suspects) > SUSPECTS:
        suspects = np.sort(suspects[np.argsort(change[suspects])[-SUSPECTS:]])
    low, high = steps[suspects].astype(np.float64), steps[suspects + 1].astype(np.float64)
    at_low, at_high = values[suspects], values[suspects + 1]
    for _ in range(40):
        middle = (low + high) / 2
        at_middle = schedule(middle, horizon)
        left = np.abs(at_middle - at_low) > np.abs(at_high - at_middle)
        low, at_low = np.where(left, low, middle), np.where(left, at_low, at_middle)
        high, at_high = np.where(left, middle, high), np.where(left, at_middle, at_high)
    jumps = np.flatnonzero(np.abs(at_high - at_low) > JUMP * size[suspects])
    if not len(jumps):
        return None
    at, first = jumps[0], suspects[jumps[0]]
    if steps[first + 1] - steps[first] == 1:
        return int(steps[first + 1]), float(values[first]), float(values[first + 1])
    return math.ceil(high[at]), float(at_low[at]), float(at_high[at])


def misfits(plan: PlanBase, layers: Mapping[str, Any]) -> list[Problem]:
    """Return the schedules that do not fit the length of the run; if all do, the groups that would start too late.

    Args:
        plan: of the run.
        layers: the section `layers` of its config, which a message names.
    """
    problems = [problem for curve, _ in plan.curves for problem in curve.check(plan.horizon)]
    problems = problems or [problem for moved, _ in plan.scheduled_settings for problem in moved.check(plan.horizon)]
    problems += [problem for scalar in plan.scalars for problem in scalar.check(plan.horizon)]
    if problems:
        return problems
    run, starts = plan.horizon.steps, plan.first_steps
    if late := [f"{name} (step {start})" for name, start in starts.items() if start >= run]:
        message = f"the run has {counted(run, 'step')}, and these groups would be unfrozen later: {joined(late, 7)}"
        gradual = str(layers.get("_target_")).endswith(".GradualUnfreezing") and "every" in layers
        key, value = ("layers.every", layers["every"]) if gradual else ("layers", ...)
        return [Problem(key, message, value, "unfreeze them earlier, or train longer")]
    if first := min(starts.values(), default=0):
        message = f"nothing would train before step {first}: every group is unfrozen later"
        return [Problem("layers", message, ..., "one group has to train from the first step on")]
    if (idle := _first_idle(plan)) is not None:
        message = f"nothing would train from step {idle} on: every group is frozen by then"
        return [Problem("layers", message, ..., "one group has to train to the end")]
    return []
