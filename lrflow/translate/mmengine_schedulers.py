"""Parameter schedulers of mmengine (0.10): each changes the LR that the others left, at its own steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.translate.keys import Keys

FOREVER = 10**9
"""The end of a scheduler that names none."""

KINDS = ("StepLR", "MultiStepLR", "ConstantLR", "ExponentialLR", "CosineAnnealingLR", "LinearLR", "PolyLR")
_MULTIPLY = ("StepLR", "MultiStepLR", "ConstantLR", "ExponentialLR", "LinearLR")


@dataclass(frozen=True)
class Scheduler:
    """One scheduler of `param_scheduler`.

    Args:
        kind: its class, one of `KINDS`.
        unit: `epochs` or `steps`, in which begin, end and its arguments are.
        converted: whether it is declared in epochs and moves at every step.
        begin, end: between which it moves the LR.
        arguments: its own.
    """

    kind: str
    unit: str
    converted: bool
    begin: int
    end: int
    arguments: dict[str, Any]

    @classmethod
    def read(cls, keys: Keys, peak: float) -> Scheduler:
        """Read a scheduler.

        Raises:
            ConfigError: it is of another kind, or an argument is wrong.
        """
        kind = keys.word("type", "").removesuffix("ParamScheduler")
        kind = kind if kind.endswith("LR") else f"{kind}LR"
        if kind not in KINDS:
            keys.wrong("type", "is no scheduler that has a counterpart", did_you_mean(kind, KINDS))
        by_epoch, converted = keys.flag("by_epoch", True), keys.flag("convert_to_iter_based")
        begin, end = keys.whole("begin", 0), keys.whole("end", FOREVER, 1)
        if end <= begin:
            keys.wrong("end", f"expected more than begin, which is {begin}")
        unit = "epochs" if by_epoch else "steps"
        arguments: dict[str, Any] = {}
        if kind in ("StepLR", "MultiStepLR", "ExponentialLR"):
            arguments["gamma"] = keys.number("gamma", 0.1)
        if kind == "StepLR":
            arguments["size"] = keys.whole("step_size", 1, 1)
        if kind == "MultiStepLR":
            arguments["marks"] = sorted(int(mark) for mark in keys.numbers("milestones"))
        if kind == "ConstantLR":
            arguments["factor"] = keys.number("factor", 1 / 3, 1e-12)
        if kind == "LinearLR":
            arguments |= {"first": keys.number("start_factor", 1 / 3, 1e-12), "last": keys.number("end_factor", 1.0)}
        if kind in ("CosineAnnealingLR", "PolyLR"):
            ratio = keys.number("eta_min_ratio")
            arguments["low"] = keys.number("eta_min", 0.0) if ratio is None else ratio * peak
        if kind == "CosineAnnealingLR":
            arguments["size"] = keys.whole("T_max", end - begin, 1)
        if kind == "PolyLR":
            arguments["power"] = keys.number("power", 1.0)
        return cls(kind, unit, by_epoch and converted, begin, end, arguments)

    @property
    def length(self) -> int:
        """Units from its first change of the LR to its last."""
        return self.end - self.begin - 1

    def in_steps(self, per_epoch: int) -> Scheduler:
        """Return a converted scheduler as mmengine builds it for steps."""
        longer = {"marks": [mark * per_epoch for mark in self.arguments.get("marks", ())]}
        if "size" in self.arguments:
            longer["size"] = self.arguments["size"] * per_epoch
        end = self.end if self.end == FOREVER else self.end * per_epoch
        return Scheduler(self.kind, "steps", False, self.begin * per_epoch, end, {**self.arguments, **longer})

    def change(self, lr: float, at: int, peak: float) -> float:
        """Return the LR after a step of its clock.

        Args:
            lr: before it.
            at: number of the step.
            peak: LR of the optimizer.
        """
        n, a = at - self.begin, self.arguments
        if not self.begin <= at < self.end:
            return lr
        match self.kind:
            case "StepLR":
                return lr * a["gamma"] if n and n % a["size"] == 0 else lr
            case "MultiStepLR":
                return float(lr * a["gamma"] ** a["marks"].count(n))
            case "ExponentialLR":
                return lr * a["gamma"] if n else lr
            case "ConstantLR":
                return lr * a["factor"] if n == 0 else lr / a["factor"] if n == self.length else lr
            case "LinearLR":
                first, slope = a["first"], (a["last"] - a["first"]) / max(self.length, 1)
                return lr * first if n == 0 else lr * (first + slope * n) / (first + slope * (n - 1))
            case "CosineAnnealingLR":
                low, size = a["low"], a["size"]
                if n == 0:
                    return lr
                if (n - 1 - size) % (2 * size) == 0:
                    return lr + (peak - low) * (1 - math.cos(math.pi / size)) / 2
                ratio = (1 + math.cos(math.pi * n / size)) / (1 + math.cos(math.pi * (n - 1) / size))
                return low + ratio * (lr - low)
        low = a["low"]
        return lr if n == 0 else low + (lr - low) * (1 - 1 / (self.length - n + 1)) ** a["power"]


def simulate(schedulers: Sequence[Scheduler], peak: float, count: int, per_epoch: int) -> list[float]:
    """Return the LR at each step of a run, as a fraction of the peak.

    Args:
        schedulers: in their order; those that are converted are in steps.
        peak: LR of the optimizer.
        count: steps of the run.
        per_epoch: steps of an epoch.
    """
    lr, found = peak, []
    for scheduler in schedulers:
        lr = scheduler.change(lr, 0, peak)
    for step in range(1, count + 1):
        found.append(lr / peak)
        for unit, at in (("steps", step), ("epochs", step // per_epoch)):
            if unit == "steps" or step % per_epoch == 0:
                for scheduler in schedulers:
                    if scheduler.unit == unit:
                        lr = scheduler.change(lr, at, peak)
    if max(found) > 1 + 1e-9:
        raise ConfigError([Problem("param_scheduler", "raises the LR above that of the optimizer", max(found) * peak)])
    return [min(max(value, 0.0), 1.0) for value in found]


def form(
    schedulers: Sequence[Scheduler], unit: str, total: int, peak: float
) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
    """Return option, arguments of the shape and other keys of the schedule that a warmup and one scheduler are.

    Args:
        schedulers: in their order.
        unit: `epochs` or `steps`, in which the run is long.
        total: number of them.
        peak: LR of the optimizer.
    """
    rising = [each for each in schedulers if each.kind == "LinearLR" and each.begin == 0]
    rest = [each for each in schedulers if each not in rising]
    if len(rising) > 1 or len(rest) > 1 or any(each.arguments["last"] != 1.0 or each.length < 1 for each in rising):
        return None
    keys: dict[str, Any] = {}
    start = 0
    held = False
    if rising:
        (warmup,) = rising
        start, held = warmup.end, warmup.unit == "epochs" and not warmup.converted
        if warmup.end == FOREVER:
            return None
        keys = {"warmup": _duration(start, warmup.unit), "warmup_start": warmup.arguments["first"]}
        keys["warmup_ends_at"] = "last_step"
        if held:
            keys["hold"] = "1 epoch"
    if not rest:
        return "constant", {}, keys
    (main,) = rest
    a = main.arguments
    if main.kind in ("StepLR", "MultiStepLR"):
        marks = a["marks"] if "marks" in a else list(range(a["size"], min(total, main.end) - main.begin, a["size"]))
        marks = [main.begin + mark for mark in marks if mark and mark < main.end - main.begin]
        marks = [mark for mark in marks if main.unit != unit or mark < total]
        before = start if rising and rising[0].unit == main.unit else 0
        if not marks or len({*marks}) < len(marks) or len(marks) > 1000 or marks[0] <= before:
            return None
        return "multistep", {"gamma": a["gamma"], "milestones": [_duration(mark, main.unit) for mark in marks]}, keys
    same = not rising or (rising[0].unit, rising[0].converted) == (main.unit, main.converted)
    if main.kind not in ("CosineAnnealingLR", "PolyLR") or main.begin != start or main.unit != unit or not same:
        return None
    if main.unit == "epochs" and not main.converted:
        keys["hold"] = "1 epoch"
    keys["floor"] = f"{a['low']!r} lr" if a["low"] else 0.0
    if main.kind == "CosineAnnealingLR":
        return ("cosine", {}, keys) if a["size"] == total - start and main.end >= total else None
    if main.converted or main.length < 1 or (not a["low"] and main.length < total - start):
        return None
    if main.length != total - start:
        keys["shape_length"] = _duration(main.length, main.unit)
    return "polynomial", {"power": a["power"]}, keys


def _duration(count: int, unit: str) -> Any:
    return count if unit == "steps" else f"{count} epoch{'s' * (count != 1)}"
