"""What every feedback is: a factor between two bounds, its state, and what it looks at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lrflow.errors import ConfigError, Problem
from lrflow.feedback.limits import BOUNDS
from lrflow.limits import outside
from lrflow.metric import is_validation
from lrflow.schedules import Duration, Horizon
from lrflow.schedules.time import DurationLike


class Feedback(ABC):
    """A factor that the planned LR is multiplied by, moved by what the run measures.

    It knows neither a Trainer nor a plan; `lrflow.training.FeedbackLoop` hands it what it looks at and writes its
    factor into the scheduler.

    Args:
        min_factor: the factor never falls below this; above 0 and at most 1.
        max_factor: the factor never rises above this; at least 1.
        every: how often it is looked at, a duration; None: as `interval` says.

    Raises:
        ConfigError: values out of range, all of them at once; the keys are those of the group `feedback`.
    """

    told_from: ClassVar[float] = 1.0
    """A change is told once the factor is more than this many times what was told last, or less than a share of it."""

    nonfinite: ClassVar[str] = "the factor stays"
    """What it makes of a reading that is not finite."""

    def __init__(self, min_factor: float, max_factor: float, every: DurationLike | None) -> None:
        self.factor = 1.0
        self.min_factor, self.max_factor = min_factor, max_factor
        problems = outside(BOUNDS, locals(), "feedback")
        try:
            self._every = None if every is None else Duration.parse(every)
        except ValueError as error:
            problems.append(Problem("feedback.every", str(error), every))
        else:
            if self._every is not None and self._every.value == 0:
                problems.append(Problem("feedback.every", "expected a duration above 0", every))
        refuse(problems)

    def interval(self, horizon: Horizon) -> int:
        """How many optimizer steps lie between two looks; without `every`, those of an epoch.

        Raises:
            ConfigError: it is counted in epochs, and how long they are is not known.
        """
        every = self._every or Duration(1, "epochs")
        try:
            return max(1, every.steps(horizon))
        except ValueError:
            message = "cannot be counted in steps: the length of an epoch is not known"
            hint = "give a number of steps (500) or a share of the run (1%)"
            raise ConfigError([Problem("feedback.every", message, str(every), hint)]) from None

    @property
    def subject(self) -> str:
        """What its evidence is about: a state that was gathered about anything else says nothing to it."""
        return ""

    @abstractmethod
    def describe(self) -> str:
        """What it does, in one line."""

    @property
    def effect(self) -> str:
        """Where the LR that is used may lie."""
        low = f"down to {self.min_factor:g}x" if self.min_factor < 1 else ""
        high = f"up to {self.max_factor:g}x" if self.max_factor > 1 else ""
        return f"the LR used may go {' and '.join(filter(None, (low, high)))} of the planned one"

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What it has gathered and decided so far, as plain data and tensors; no settings."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; a factor outside of today's bounds goes to the nearest of them.

        Raises:
            KeyError, ValueError: it is the state of something else.
        """

    def multiply(self, by: float) -> None:
        """Move the factor, within its bounds."""
        self.set(self.factor * by)

    def set(self, factor: float) -> None:
        """Put the factor to a value, or to the nearest bound."""
        self.factor = min(max(factor, self.min_factor), self.max_factor)


class MetricFeedback(Feedback):
    """A feedback that looks at one number of the run now and then.

    Args:
        monitor: the metric. One of validation (`val/...`, `val_...`) is looked at after each validation, anything else
            each `every`; `train/loss` is the mean training loss since the last look.
        min_factor: lower bound.
        max_factor: upper bound.
        every: a duration; None: an epoch.
    """

    def __init__(self, monitor: str, min_factor: float, max_factor: float, every: DurationLike | None) -> None:
        super().__init__(min_factor, max_factor, every)
        self.monitor = monitor
        if self.after_validation and every is not None:
            hint = "leave feedback.every out, and say how often with trainer.val_every"
            refuse([Problem("feedback.every", f"{monitor} is looked at after each validation", every, hint)])

    @property
    def after_validation(self) -> bool:
        """Whether the metric is one of validation."""
        return is_validation(self.monitor)

    @property
    def subject(self) -> str:
        """The metric."""
        return self.monitor

    @abstractmethod
    def update(self, value: float) -> None:
        """Take the next reading, which may not be finite, and move the factor."""


class StepFeedback(Feedback):
    """A feedback that looks at gradients and weights before each optimizer step."""

    @abstractmethod
    def watch(self, parameters: Sequence[nn.Parameter], horizon: Horizon) -> None:
        """Begin, or go on after `load_state_dict`.

        Args:
            parameters: those that are trained, always in the same order, on the device where they stay.
            horizon: turns durations into steps.

        Raises:
            ValueError: the state that was loaded is of other parameters.
        """

    @abstractmethod
    def observe(self, lr: float) -> float | None:
        """Look at the weights and gradients just before a step; waits for the device once an interval, and not else.

        Args:
            lr: that the step is about to be made with.

        Returns:
            What was measured, at the end of an interval; the factor has been moved by then.
        """


def refuse(problems: Iterable[Problem]) -> None:
    """Raise the problems, if there are any.

    Raises:
        ConfigError: there are.
    """
    if problems := list(problems):
        raise ConfigError(problems)


def wide(device: torch.device) -> torch.dtype:
    """The widest float that a device has, for sums over many small numbers."""
    return torch.float32 if device.type == "mps" else torch.float64


def on_cpu(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copies for a checkpoint, which the run does not change any more."""
    return [tensor.detach().to("cpu", copy=True) for tensor in tensors]
