"""The base classes of feedback: a factor on the LR between two bounds, with its own state."""

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
    """A factor on the planned LR that reacts to the run.

    It needs neither a Trainer nor a plan: `lrflow.training.FeedbackLoop` passes the measurements to it and its factor
    to the scheduler.

    Args:
        min_factor: lower bound of the factor; above 0 and at most 1.
        max_factor: upper bound of the factor; at least 1.
        every: a duration, the interval between updates; None: see `interval`.

    Raises:
        ConfigError: lists every value out of range; the keys are those of the group `feedback`.
    """

    log_ratio: ClassVar[float] = 1.0
    """Log a change only if the factor moved by more than this ratio since the last logged value."""

    nonfinite: ClassVar[str] = "the factor stays"
    """What happens on a reading that is not finite, for the log."""

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
        raise_problems(problems)

    def interval(self, horizon: Horizon) -> int:
        """Return the optimizer steps between two updates; an epoch by default.

        Raises:
            ConfigError: the interval is in epochs, whose length is unknown.
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
        """Identifies what the state was computed from; a checkpointed state with another subject is dropped."""
        return ""

    @abstractmethod
    def describe(self) -> str:
        """Describe the feedback in one line."""

    @property
    def lr_range(self) -> str:
        """Describe the range of the LR under this feedback."""
        low = f"down to {self.min_factor:g}x" if self.min_factor < 1 else ""
        high = f"up to {self.max_factor:g}x" if self.max_factor > 1 else ""
        return f"the LR used may go {' and '.join(filter(None, (low, high)))} of the planned one"

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data and tensors, without settings."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state; a factor outside the current bounds is set to the nearest bound.

        Raises:
            KeyError, ValueError: the state is of another feedback.
        """

    def multiply(self, by: float) -> None:
        """Multiply the factor, within its bounds."""
        self.set(self.factor * by)

    def set(self, factor: float) -> None:
        """Set the factor to a value, or to the nearest bound."""
        self.factor = min(max(factor, self.min_factor), self.max_factor)


class MetricFeedback(Feedback):
    """A feedback that reacts to one metric of the run.

    Args:
        monitor: the metric. A validation metric (`val/...`, `val_...`) is read after each validation, any other every
            `every`; `train/loss` is the mean training loss since the last reading.
        min_factor: lower bound.
        max_factor: upper bound.
        every: a duration; None: an epoch.
    """

    def __init__(self, monitor: str, min_factor: float, max_factor: float, every: DurationLike | None) -> None:
        super().__init__(min_factor, max_factor, every)
        self.monitor = monitor
        if self.after_validation and every is not None:
            hint = "leave feedback.every out and set trainer.val_every"
            raise_problems([Problem("feedback.every", f"{monitor} is read after each validation", every, hint)])

    @property
    def after_validation(self) -> bool:
        """Whether it is a validation metric."""
        return is_validation(self.monitor)

    @property
    def subject(self) -> str:
        """The metric."""
        return self.monitor

    @abstractmethod
    def update(self, value: float) -> None:
        """Take the next reading, which may be infinite or NaN, and move the factor."""


class StepFeedback(Feedback):
    """A feedback that reads gradients and weights before each optimizer step."""

    @abstractmethod
    def watch(self, parameters: Sequence[nn.Parameter], horizon: Horizon) -> None:
        """Start, or continue after `load_state_dict`.

        Args:
            parameters: the trained parameters, always in the same order, on their final device.
            horizon: converts durations to steps.

        Raises:
            ValueError: the loaded state is of other parameters.
        """

    @abstractmethod
    def observe(self, lr: float) -> float | None:
        """Read weights and gradients just before a step; synchronises with the device only once per interval.

        Args:
            lr: the LR of the step.

        Returns:
            At the end of an interval the measurement, after the factor was moved; else None.
        """


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise one ConfigError with all problems, if there are any.

    Raises:
        ConfigError: there are problems.
    """
    if problems := list(problems):
        raise ConfigError(problems)


def widest_float(device: torch.device) -> torch.dtype:
    """Return the widest float type of a device, for sums over many small numbers."""
    return torch.float32 if device.type == "mps" else torch.float64


def cpu_copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return copies on the CPU, for a checkpoint."""
    return [tensor.detach().to("cpu", copy=True) for tensor in tensors]
