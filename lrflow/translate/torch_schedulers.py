"""Schedulers of torch.optim.lr_scheduler (2.13) by class and arguments: as a form of lrflow's, else as a curve."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.translate.keys import Keys
from lrflow.translate.translation import MOST_POINTS, Translation, epochs, shape

Curve = Callable[[int], float]
Form = tuple[str, dict[str, Any], dict[str, Any]]
"""Option of the group `schedule`, arguments of its shape, its other keys."""


@dataclass(frozen=True)
class Clock:
    """How a scheduler is stepped, and how long.

    Args:
        unit: `epochs`, or `steps`.
        total: number of them in the run; None: not known.
        peak: LR of the optimizer.
    """

    unit: str
    total: int | None
    peak: float

    def duration(self, count: float) -> Any:
        """Return a number of the clock's units as a duration."""
        return epochs(count) if self.unit == "epochs" else int(count)


def choose(name: str, keys: Keys, clock: Clock, into: Translation) -> None:
    """Choose the schedule of a scheduler of torch.

    Args:
        name: of its class, such as `CosineAnnealingLR`.
        keys: its arguments.
        clock: by which it is stepped.
        into: the translation, which gets the schedule.

    Raises:
        ConfigError: the class or an argument is not known, or a table is needed and the length of the run is not known.
    """
    held = {"hold": "1 epoch"} if clock.unit == "epochs" else {}
    if name in ("OneCycleLR", "CyclicLR") and keys.flag("cycle_momentum", True):
        low, high = (
            keys.number("base_momentum", 0.85 if name == "OneCycleLR" else 0.8),
            keys.number("max_momentum", 0.95),
        )
        why = f"torch moves the momentum (beta1) from {high:g} to {low:g} and back: schedule.also.momentum"
        into.leave("lr_scheduler.cycle_momentum", True, why)
    form = _form(name, keys, clock)
    if form is not None:
        option, arguments, more = form
        into.schedule(option, arguments, **{**held, **more})
        if option == "constant" and "warmup" not in more:
            into.values["schedule"].pop("hold", None)
        return
    curve = _curve(name, keys, clock)
    if clock.total is None or clock.total > MOST_POINTS:
        message = "needs a table of the whole run, whose length has to be known, and at most 100,000"
        raise ConfigError([Problem(name, message, clock.total, "give max_epochs in the file")])
    values = [curve(at) for at in range(clock.total)]
    if max(values) > 1.0 + 1e-12:
        raise ConfigError([Problem(name, "raises the LR above that of the optimizer", max(values) * clock.peak)])
    into.table([min(max(value, 0.0), 1.0) for value in values], "epochs" if held else "", **held)


def peak_of(name: str, keys: Keys, peak: float) -> float:
    """Return the peak LR: that of the optimizer, unless the scheduler sets its own."""
    lr: float = keys.number("max_lr", peak) if name in ("OneCycleLR", "CyclicLR") else peak
    return lr


def _form(name: str, keys: Keys, clock: Clock) -> Form | None:
    """Return the form of lrflow's that a scheduler has; None if it has none."""
    shorter = clock.total is None
    match name:
        case "StepLR":
            return "step", {"gamma": keys.number("gamma", 0.1), "every": clock.duration(_need(keys, "step_size"))}, {}
        case "MultiStepLR":
            marks, gamma = _milestones(keys), keys.number("gamma", 0.1)
            if clock.total is not None:
                marks = [mark for mark in marks if mark < clock.total]
            if not marks or marks[0] < 1 or len({*marks}) < len(marks):
                return None if clock.total is not None else ("constant", {}, {})
            return "multistep", {"gamma": gamma, "milestones": [clock.duration(mark) for mark in marks]}, {}
        case "ExponentialLR":
            return "exponential", {"gamma": _need(keys, "gamma", low=0.0), "every": clock.duration(1)}, {}
        case "CosineAnnealingLR":
            length, floor = _need(keys, "T_max"), keys.number("eta_min", 0.0)
            if not shorter and length < (clock.total or 0):
                return None
            after = None if length == clock.total else clock.duration(length)
            return "cosine", {}, {"floor": f"{floor!r} lr" if floor else 0.0, "shape_length": after}
        case "LinearLR" | "ConstantLR":
            length = keys.whole("total_iters", 5)
            factor = keys.number("start_factor" if name == "LinearLR" else "factor", 1 / 3)
            if keys.number("end_factor", 1.0) != 1.0 or not length:
                return None
            return "constant", {}, _warmup(name, factor, clock.duration(length))
        case "PolynomialLR":
            length, power = keys.whole("total_iters", 5, 1), keys.number("power", 1.0)
            if length < (clock.total or 0):
                return None
            after = None if length == clock.total else clock.duration(length)
            return "polynomial", {"power": power}, {"shape_length": after}
        case "SequentialLR":
            return _after_warmup(keys, clock)
    return None


def _warmup(name: str, factor: float, length: Any) -> dict[str, Any]:
    rising = {"warmup": length, "warmup_start": factor}
    return rising if name == "LinearLR" else {**rising, "warmup_shape": "constant"}


def _after_warmup(keys: Keys, clock: Clock) -> Form | None:
    """Return the form of a scheduler that follows a warmup, which is the usual `SequentialLR`."""
    nodes, marks = _inner(keys), keys.numbers("milestones")
    if len(nodes) != 2 or len(marks) != 1 or nodes[0][0] not in ("LinearLR", "ConstantLR"):
        return None
    (first, rising), (name, arguments) = nodes
    length = rising.whole("total_iters", 5)
    factor = rising.number("start_factor" if first == "LinearLR" else "factor", 1 / 3)
    if length != marks[0] or not length or rising.number("end_factor", 1.0) != 1.0:
        return None
    left = None if clock.total is None else clock.total - length
    form = _form(name, arguments, Clock(clock.unit, left, clock.peak))
    if form is None or "warmup" in form[2]:
        return None
    option, curve, more = form
    if option in ("step", "multistep"):  # which count from the end of the warmup here
        names = {"step": "Step", "multistep": "MultiStep"}
        option, curve = "piecewise", {"pieces": [{"shape": shape(names[option], **curve), "clock": "piece"}]}
    return option, curve, {**more, **_warmup(first, factor, clock.duration(length))}


def _curve(name: str, keys: Keys, clock: Clock) -> Curve:
    """Return the LR of a scheduler at each of its steps, as a fraction of the peak."""
    match name:
        case "StepLR":
            size, gamma = _need(keys, "step_size"), keys.number("gamma", 0.1)
            return lambda t: gamma ** (t // size)
        case "MultiStepLR":
            marks, gamma = _milestones(keys), keys.number("gamma", 0.1)
            return lambda t: gamma ** bisect.bisect_right(marks, t)
        case "ExponentialLR":
            gamma = _need(keys, "gamma", low=0.0)
            return lambda t: gamma**t
        case "CosineAnnealingLR":
            length, low = _need(keys, "T_max"), keys.number("eta_min", 0.0) / clock.peak
            return lambda t: low + (1 - low) * (1 + math.cos(math.pi * t / length)) / 2
        case "CosineAnnealingWarmRestarts":
            return _restarts(_need(keys, "T_0"), keys.whole("T_mult", 1, 1), keys.number("eta_min", 0.0) / clock.peak)
        case "LinearLR":
            length, first, last = (
                keys.whole("total_iters", 5),
                keys.number("start_factor", 1 / 3),
                keys.number("end_factor", 1.0),
            )
            return lambda t: first + (last - first) * min(t, length) / length if length else last
        case "ConstantLR":
            until, factor = keys.whole("total_iters", 5), keys.number("factor", 1 / 3)
            return lambda t: factor if t < until else 1.0
        case "PolynomialLR":
            end, power = keys.whole("total_iters", 5, 1), keys.number("power", 1.0)
            return lambda t: (1.0 - min(t, end) / end) ** power
        case "OneCycleLR":
            return _one_cycle(keys, clock)
        case "CyclicLR":
            return _cyclic(keys)
        case "SequentialLR":
            marks = [int(mark) for mark in keys.numbers("milestones")]
            parts = [_curve(*node, clock) for node in _inner(keys)]
            if len(marks) + 1 != len(parts):
                keys.wrong("milestones", f"expected one fewer than the {len(parts)} schedulers")
            return lambda t: parts[i := bisect.bisect_right(marks, t)](t - (marks[i - 1] if i else 0))
        case "ChainedScheduler":
            nodes = _inner(keys)
            if wrong := [node for node, inner in nodes if node not in _FACTORS or inner.number("eta_min", 0.0)]:
                keys.wrong("schedulers", f"{wrong[0]} in a ChainedScheduler has no counterpart")
            factors = [_curve(*node, clock) for node in nodes]
            return lambda t: math.prod(factor(t) for factor in factors)
    hint = did_you_mean(name, NAMES)
    raise ConfigError([Problem("lr_scheduler", "is no scheduler that has a counterpart", name, hint)])


def _restarts(first: int, factor: int, low: float) -> Curve:
    def value(t: int) -> float:
        size = first
        while t >= size:
            t, size = t - size, size * factor
        return low + (1 - low) * (1 + math.cos(math.pi * t / size)) / 2

    return value


def _one_cycle(keys: Keys, clock: Clock) -> Curve:
    """Return torch's one cycle: it ends at step total - 1, and its peak is at pct_start total - 1."""
    product: int = keys.whole("epochs", 0) * keys.whole("steps_per_epoch", 0)
    total: Any = keys.whole("total_steps") or product or clock.total
    if not total:
        keys.wrong("total_steps", "expected a number of steps")
    start = 1 / keys.number("div_factor", 25.0)
    end = start / keys.number("final_div_factor", 1e4)
    share = keys.number("pct_start", 0.3)
    marks, levels = [0.0, share * total - 1, total - 1], [start, 1.0, end]
    if keys.flag("three_phase"):
        marks, levels = [0.0, share * total - 1, 2 * share * total - 2, total - 1], [start, 1.0, start, end]
    straight = keys.word("anneal_strategy", "cos", ("cos", "linear")) == "linear"
    for other in ("cycle_momentum", "base_momentum", "max_momentum"):
        keys.raw(other)

    def value(t: int) -> float:
        i = next((i for i in range(1, len(marks)) if t <= marks[i]), len(marks) - 1)
        done = (t - marks[i - 1]) / (marks[i] - marks[i - 1])
        way = done if straight else (1 - math.cos(math.pi * done)) / 2
        return levels[i - 1] + (levels[i] - levels[i - 1]) * way

    return value


def _cyclic(keys: Keys) -> Curve:
    top = keys.number("max_lr")
    low = keys.number("base_lr", 0.0) / top
    up = keys.whole("step_size_up", 2000, 1)
    down = keys.whole("step_size_down", up, 1)
    mode, gamma = keys.word("mode", "triangular", ("triangular", "triangular2", "exp_range")), keys.number("gamma", 1.0)

    def value(t: int) -> float:
        cycle, at = divmod(t, up + down)
        height = at / up if at <= up else 1 - (at - up) / down
        scale = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": gamma**t}[mode]
        return low + (1 - low) * height * scale

    return value


def _inner(keys: Keys) -> list[tuple[str, Keys]]:
    """Return the schedulers inside another one."""
    nodes = keys.raw("schedulers", [])
    if not isinstance(nodes, Sequence) or not nodes or not all(isinstance(node, Mapping) for node in nodes):
        keys.wrong("schedulers", "expected a list of nodes with class_path and init_args")
    return [class_of(node, f"{keys.prefix}schedulers.{i}") for i, node in enumerate(nodes)]


def class_of(node: Any, key: str) -> tuple[str, Keys]:
    """Return the name of the class that a node with `class_path` and `init_args` has, and its arguments.

    Raises:
        ConfigError: it is no such node.
    """
    path = node if isinstance(node, str) else node.get("class_path") if isinstance(node, Mapping) else None
    arguments = node.get("init_args") or {} if isinstance(node, Mapping) else {}
    if not isinstance(path, str) or not isinstance(arguments, Mapping):
        raise ConfigError([Problem(key, "expected class_path and init_args", node)])
    return path.rpartition(".")[2], Keys(arguments, f"{key}.init_args.")


def _milestones(keys: Keys) -> list[int]:
    return sorted(int(mark) for mark in keys.numbers("milestones"))


def _need(keys: Keys, key: str, low: float = 1) -> Any:
    """Return a number that has no default."""
    value = keys.number(key, None, low)
    if value is None:
        keys.wrong(key, "expected a number: it has no default")
    return value


_FACTORS = ("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "LinearLR", "ConstantLR", "PolynomialLR")
NAMES = (*_FACTORS, "CosineAnnealingWarmRestarts", "OneCycleLR", "CyclicLR", "SequentialLR", "ChainedScheduler")
"""Schedulers that are translated; `ReduceLROnPlateau` is feedback, and not a schedule."""
