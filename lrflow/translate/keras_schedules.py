"""Schedules of keras.optimizers.schedules (3.15) by class and config: as a form of lrflow's, else as a curve."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from typing import Any

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.translate.keys import MOST, Keys
from lrflow.translate.translation import MOST_POINTS, Translation

Curve = Callable[[int], float]
Form = tuple[str, dict[str, Any], dict[str, Any]]
"""Option of the group `schedule`, arguments of its shape, its other keys."""


def choose(name: str, keys: Keys, into: Translation, accumulated: int, updates: int | None) -> float:
    """Choose the schedule of a class of Keras, which is a function of the batches so far; set the length of the run.

    Args:
        name: of the class, such as `CosineDecay`.
        keys: its config.
        into: the translation, which gets the schedule.
        accumulated: batches per update.
        updates: number of them in the run; None: not known, the run ends with the schedule.

    Returns:
        the peak LR.

    Raises:
        ConfigError: the class or a value is not known, or a table is needed and the length of the run is not known.
    """
    if name not in NAMES:
        hint = did_you_mean(name, NAMES)
        raise ConfigError([Problem(f"{keys.prefix}class_name", "is no schedule that has a counterpart", name, hint)])
    curve, peak, end = _curve(name, keys)
    if not peak > 0:
        raise ConfigError([Problem(f"{keys.prefix}initial_learning_rate", "expected an LR above 0", peak)])
    form = _form(name, keys, peak, updates) if accumulated == 1 else None
    if updates is None and end:
        updates = end // accumulated
        into.set("trainer", max_epochs=None)
        into.length(steps=updates)
        into.note("the file does not say how long the run is: it ends with the schedule")
    if form is not None:
        option, arguments, more = form
        if updates is not None and "shape_length" in more and more["shape_length"] + more.get("warmup", 0) == updates:
            more = {**more, "shape_length": None}
        into.schedule(option, arguments, **more)
        return keys.number("warmup_target") if more.get("warmup_start", 0.0) > 1 else peak
    if updates is None or not 0 < updates <= MOST_POINTS:
        hint = "give epochs and steps_per_epoch in the file"
        message = "needs a table of the whole run, whose length has to be known, and at most 100,000 updates"
        raise ConfigError([Problem(name, message, updates, hint)])
    values = [curve(at * accumulated + accumulated - 1) / peak for at in range(updates)]
    if max(values) > 1.0 + 1e-12:
        raise ConfigError([Problem(name, "raises the LR above its first value", max(values) * peak)])
    if accumulated > 1:
        into.note("Keras counts batches, and not updates: each update has the LR of its last batch")
    into.table([min(max(value, 0.0), 1.0) for value in values])
    return peak


def _form(name: str, keys: Keys, peak: float, updates: int | None) -> Form | None:
    """Return the form of lrflow's that a schedule has; None if it has none."""
    match name:
        case "ExponentialDecay":
            every, rate = keys.number("decay_steps", None, 1), _rate(keys)
            stairs = keys.flag("staircase")
            if every != int(every) or not 0 < rate <= 1:
                return None
            return "exponential", {"gamma": rate, "every": int(every), "staircase": stairs}, {}
        case "InverseTimeDecay":
            every, rate = keys.number("decay_steps", None, 1), _rate(keys)
            if keys.flag("staircase") or every != int(every) or not rate > 0:
                return None
            return "inverse_time", {"gamma": rate, "power": 1.0, "every": int(every)}, {}
        case "PolynomialDecay":
            low, length = keys.number("end_learning_rate", 1e-4), keys.number("decay_steps", None, 1)
            if keys.flag("cycle") or length != int(length) or low > peak:
                return None
            more = {"floor": f"{low!r} lr" if low else 0.0, "shape_length": int(length)}
            return "polynomial", {"power": keys.number("power", 1.0)}, more
        case "PiecewiseConstantDecay":
            marks, values = _pieces(keys)
            points = [[0, values[0] / peak]]
            points += [[mark + 1, value / peak] for mark, value in zip(marks, values[1:], strict=True)]
            return "tabulated", {"points": points, "between": "hold"}, {}
        case "CosineDecay":
            length, first = keys.number("decay_steps", None, 1), keys.number("initial_learning_rate")
            warmup = keys.whole("warmup_steps", 0) if "warmup_target" in keys else 0
            if length != int(length):
                return None
            rise = {"warmup": warmup, "warmup_start": first / keys.number("warmup_target")} if warmup else {}
            return "cosine", {}, {"floor": keys.number("alpha", 0.0), "shape_length": int(length), **rise}
        case "CosineDecayRestarts":
            period, factor = keys.number("first_decay_steps", None, 1), keys.number("t_mul", 2.0)
            decay = keys.number("m_mul", 1.0)
            if period != int(period) or factor < 1 or factor != int(factor) or not 0 < decay <= 1:
                return None
            last = end = int(period)
            if factor == 1:
                end *= math.ceil(max(2 * period, updates or _LONG) / end)
            while end < max(2 * period, updates or _LONG):
                last *= int(factor)
                end += last
            arguments = {"period": int(period), "multiplier": factor, "decay": decay}
            return "warm_restarts", arguments, {"floor": keys.number("alpha", 0.0), "shape_length": end}
    return None


_LONG = 1_000_000
"""Steps for which restarts are written where the length of the run is not known: Keras has no end of them."""


def _curve(name: str, keys: Keys) -> tuple[Curve, float, int | None]:
    """Return the LR at each batch, the highest one, and the batch at which it no longer changes, if there is one."""
    if name == "PiecewiseConstantDecay":
        marks, values = _pieces(keys)
        return lambda t: values[bisect.bisect_left(marks, t)], max(values), None
    if name == "CosineDecay":
        return _cosine(keys)
    first = keys.number("initial_learning_rate")
    if first is None:
        keys.wrong("initial_learning_rate", "expected a number: it has no default")
    unit = keys.number("first_decay_steps" if name == "CosineDecayRestarts" else "decay_steps", None, 1)
    if unit is None:
        keys.wrong("decay_steps", "expected a number: it has no default")
    down: Callable[[float], float] = math.floor if keys.flag("staircase") else float
    if name == "ExponentialDecay":
        rate = _rate(keys)
        return lambda t: first * _power(rate, down(t / unit)), first, None
    if name == "InverseTimeDecay":
        rate = _rate(keys)
        return lambda t: first / (1 + rate * down(t / unit)), first, None
    if name == "PolynomialDecay":
        low, power, cycle = keys.number("end_learning_rate", 1e-4), keys.number("power", 1.0), keys.flag("cycle")

        def polynomial(t: int) -> float:
            length = unit * max(1, math.ceil(t / unit)) if cycle else unit
            return float((first - low) * (1 - min(t, length) / length) ** power + low)

        return polynomial, max(first, low), None if cycle else math.ceil(unit)
    factor, decay = keys.number("t_mul", 2.0, 1), keys.number("m_mul", 1.0)
    low = keys.number("alpha", 0.0)

    starts, sizes, heights = [0.0], [unit], [1.0]  # of the periods so far: t rises

    def restarts(t: int) -> float:
        while t >= starts[-1] + sizes[-1]:
            starts.append(starts[-1] + sizes[-1])
            sizes.append(sizes[-1] * factor)
            heights.append(min(heights[-1] * decay, MOST))
        at = bisect.bisect_right(starts, t) - 1
        fall = (1 + math.cos(math.pi * (t - starts[at]) / sizes[at])) / 2
        return float(first * ((1 - low) * heights[at] * fall + low))

    return restarts, first, None


def _power(base: float, exponent: float) -> float:
    """Return a power; one that is too large for a number is infinite, which the check of the values refuses."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def _cosine(keys: Keys) -> tuple[Curve, float, int | None]:
    first, length = keys.number("initial_learning_rate"), keys.number("decay_steps", None, 1)
    if first is None or length is None:
        key = "initial_learning_rate" if first is None else "decay_steps"
        keys.wrong(key, "expected a number: it has no default")
    low, target, warmup = keys.number("alpha", 0.0), keys.number("warmup_target"), keys.whole("warmup_steps", 0)
    if target is None:
        target, warmup = first, 0

    def value(t: int) -> float:
        if t < warmup:
            return float(first + (target - first) * t / warmup)
        done = min(t - warmup, length) / length
        return float(target * ((1 - low) * (1 + math.cos(math.pi * done)) / 2 + low))

    return value, max(first, target) if warmup else target, math.ceil(length) + warmup


def _rate(keys: Keys) -> float:
    rate = keys.number("decay_rate")
    if rate is None:
        keys.wrong("decay_rate", "expected a number: it has no default")
    return float(rate)


def _pieces(keys: Keys) -> tuple[list[int], list[float]]:
    """Return the last batch of each piece but the last, and the LR of each piece."""
    marks, values = [int(mark) for mark in keys.numbers("boundaries")], keys.numbers("values")
    if len(values) != len(marks) + 1 or marks != sorted({*marks}):
        keys.wrong("boundaries", f"expected rising numbers, one fewer than the {len(values)} values")
    return marks, values


NAMES = (
    "ExponentialDecay",
    "InverseTimeDecay",
    "PolynomialDecay",
    "PiecewiseConstantDecay",
    "CosineDecay",
    "CosineDecayRestarts",
)
"""Schedules that are translated."""
