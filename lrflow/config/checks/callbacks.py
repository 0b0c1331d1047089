"""Checks of the group `callbacks`: what does not work with a plan, values of Lightning's callbacks, misspelt names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lrflow.config.diagnostics import closest
from lrflow.errors import Problem, did_you_mean
from lrflow.imports import original_name

_LIGHTNINGS = "pytorch_lightning.callbacks."

_CLOCK = re.compile(r"\d+:\d\d:\d\d:\d\d")

_CHECKPOINTS = ("lrflow saves checkpoints itself, so that a resumed run continues exactly", "use trainer.checkpoint")
_WEIGHTS = "it replaces the weights or the schedule during the run, so the plan would not be executed"
_FREEZES = ("it adds parameter groups that the plan does not have", "use layers=gradual_unfreezing")
_BAR = ("lrflow shows the progress of a run itself", "use trainer.progress")

REFUSED: Mapping[str, tuple[str, str | None]] = {
    "Checkpoint": _CHECKPOINTS,
    "ModelCheckpoint": _CHECKPOINTS,
    "OnExceptionCheckpoint": _CHECKPOINTS,
    "StochasticWeightAveraging": (_WEIGHTS, "use average=swa"),
    "WeightAveraging": (_WEIGHTS, "use average=swa or average=ema"),
    "EMAWeightAveraging": (_WEIGHTS, "use average=ema"),
    "BaseFinetuning": _FREEZES,
    "BackboneFinetuning": _FREEZES,
    "ProgressBar": _BAR,
    "TQDMProgressBar": _BAR,
    "RichProgressBar": _BAR,
    "LearningRateFinder": (
        "it replaces the LR of the plan before the first step",
        "use task=find or optimizer.lr=auto",
    ),
    "BatchSizeFinder": (
        "it changes the batch size, so the length of the run would be another than the plan's",
        "set data.batch_size",
    ),
    "GradientAccumulationScheduler": (
        "it changes the number of steps of an epoch during the run, and a plan has the same number in every epoch",
        "use trainer.accumulate_grad_batches",
    ),
    "LearningRateMonitor": ("lrflow logs the planned and the actual LR of each group itself", "leave it out"),
    "SpikeDetection": ("Lightning (2.6.6) cannot restore its state, so the run could not be resumed", None),
    "Callback": ("it does nothing by itself", "name a class that is derived from it"),
}
"""Lightning's callbacks that do not work with a plan: why, and what to do instead."""


def check_switched_off(content: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for each misspelt callback that is switched off.

    Args:
        content: resolved config.
    """
    given = content.get("callbacks")
    known = {name: node for name, node in given.items() if node is not None} if isinstance(given, Mapping) else {}
    meant = {name: closest(name, known) for name in given or () if name not in known} if known else {}
    return [
        Problem(f"callbacks.{name}", "there is no such callback", None, f"did you mean callbacks.{near}?")
        for name, near in meant.items()
        if near
    ]


def check_of_lightning(content: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each value of Lightning's callbacks that Lightning rejects only when the run starts.

    Args:
        content: resolved config.
    """
    given, logger = content.get("callbacks"), content.get("logger")
    for name, node in given.items() if isinstance(given, Mapping) else ():
        target = original_name(str(node.get("_target_"))) if isinstance(node, Mapping) else ""
        if target == f"{_LIGHTNINGS}Timer":
            duration, interval = node.get("duration"), node.get("interval", "step")
            if not (duration is None or isinstance(duration, Mapping) or _CLOCK.fullmatch(str(duration))):
                instead = "such as 00:08:00:00, or use trainer.max_time='8 hours'"
                yield Problem(f"callbacks.{name}.duration", "expected DD:HH:MM:SS", duration, instead)
            elif duration is not None and not _lasts(duration):
                message = "is no time, so the run would end before its first step"
                yield Problem(f"callbacks.{name}.duration", message, duration, "such as 00:08:00:00")
            if interval not in ("step", "epoch"):
                hint = did_you_mean(str(interval), ("step", "epoch"))
                yield Problem(f"callbacks.{name}.interval", "expected step or epoch", interval, hint)
        elif target == f"{_LIGHTNINGS}DeviceStatsMonitor" and isinstance(logger, Mapping) and not any(logger.values()):
            message = "it only logs, and no logger is chosen"
            yield Problem(f"callbacks.{name}", message, ..., "such as logger=csv")


def _lasts(duration: object) -> bool:
    """Return whether a duration of Lightning's Timer is above zero; what cannot be read counts as such."""
    if isinstance(duration, Mapping):  # arguments of a timedelta
        return not duration or any(value != 0 for value in duration.values())
    return any(sign in "123456789" for sign in str(duration))


def refused(targets: Iterable[str], key: str) -> Problem | None:
    """Return the problem of a callback that does not work with a plan; None if none is known.

    Args:
        targets: dotted names of its class and of the base classes.
        key: config key of the callback.
    """
    for target in targets:
        room, _, name = original_name(target).rpartition(".")
        if f"{room}.".startswith(_LIGHTNINGS) and name in REFUSED:
            reason, instead = REFUSED[name]
            return Problem(f"{key}._target_", reason, target, instead)
    return None
