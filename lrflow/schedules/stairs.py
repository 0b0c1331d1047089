"""Stairs: shapes that fall at once, at steps counted on the run's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrflow.errors import Problem
from lrflow.lazy import np
from lrflow.schedules.durations import Duration, DurationLike
from lrflow.schedules.fields import Fields, length
from lrflow.schedules.horizons import Floats, Phase
from lrflow.schedules.shape import Shape, last_before, never


@dataclass(frozen=True, init=False)
class Step(Shape):
    """Times gamma once every so often on the run's clock; what would fall inside the warmup is not counted.

    Args:
        gamma: the factor each time, above 0 and at most 1.
        every: a duration, counted from the start of the run.
    """

    gamma: float
    every: Duration

    def __init__(self, gamma: float = 0.1, every: DurationLike = "30%") -> None:
        fields = Fields(self.key)
        object.__setattr__(self, "gamma", fields.number("gamma", gamma, 0.0, 1.0, open_low=True))
        object.__setattr__(self, "every", fields.duration("every", every))
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """gamma to the number of drops so far."""
        every = max(self.every.steps(phase.horizon), 1)
        before = phase.start // every
        last = max(last_before(phase.stop, every), before)
        drops = np.clip(np.floor(step / every), before, last) - before
        return np.power(self.gamma, drops)

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """The multiples of `every` inside the phase."""
        every = max(self.every.steps(phase.horizon), 1)
        return tuple(range((phase.start // every + 1) * every, phase.stop, every))

    def check(self, phase: Phase) -> list[Problem]:
        """`every` must be a step at least, and come round inside the phase."""
        problems: list[Problem] = []
        every = length(self.every, phase.horizon, "every", problems)
        if every == 0:
            problems.append(Problem("every", "is shorter than one step", str(self.every)))
        elif every is not None and not self.jumps(phase):
            problems.append(never(self.every, every, phase))
        return problems


@dataclass(frozen=True, init=False)
class MultiStep(Shape):
    """Times gamma at each milestone on the run's clock (He et al., 2016, arXiv:1512.03385).

    Args:
        gamma: the factor at each milestone, above 0 and at most 1.
        milestones: durations from the start of the run, each inside the phase; one that stands twice counts twice.
    """

    gamma: float
    milestones: tuple[Duration, ...]

    def __init__(self, gamma: float = 0.1, milestones: Sequence[DurationLike] = ("50%", "75%")) -> None:
        fields = Fields(self.key)
        object.__setattr__(self, "gamma", fields.number("gamma", gamma, 0.0, 1.0, open_low=True))
        if isinstance(milestones, str | Duration | int | float) or not milestones:
            fields.wrong("milestones", milestones, "expected a list with at least one duration", "like [50%, 75%]")
            milestones = ()
        read = tuple(fields.duration(f"milestones[{i}]", milestone) for i, milestone in enumerate(milestones))
        object.__setattr__(self, "milestones", read)
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """gamma to the number of milestones passed."""
        drops = np.searchsorted(np.array(self.jumps(phase), dtype=np.float64), step, side="right")
        return np.power(self.gamma, drops.astype(np.float64))

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """The milestones inside the phase, in order; one that stands twice is there twice."""
        steps = sorted(milestone.steps(phase.horizon) for milestone in self.milestones)
        return tuple(step for step in steps if phase.start < step < phase.stop)

    def check(self, phase: Phase) -> list[Problem]:
        """Each milestone must lie inside the phase."""
        problems: list[Problem] = []
        for i, milestone in enumerate(self.milestones):
            name, shown = f"milestones[{i}]", str(milestone)
            step = length(milestone, phase.horizon, name, problems)
            if step is None:
                continue
            if step >= phase.horizon.steps:
                problems.append(Problem(name, f"is step {step}, but the run has {phase.horizon.steps}", shown))
            elif step >= phase.stop:
                problems.append(Problem(name, f"is step {step}, in the cooldown, which starts at {phase.stop}", shown))
            elif step <= phase.start:
                problems.append(
                    Problem(name, f"is step {step}, in the warmup, which ends at step {phase.start}", shown)
                )
        return problems
