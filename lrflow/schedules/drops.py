"""Shapes that drop at steps counted from the start of the run, and are constant between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrflow.errors import Problem
from lrflow.imports import np
from lrflow.schedules._arguments import Arguments, count_steps
from lrflow.schedules.curve import MOST_CHANGES, Shape, never_falls, periods_before, too_many_changes
from lrflow.schedules.time import Duration, DurationLike, Floats, Phase


@dataclass(frozen=True, init=False)
class Step(Shape):
    """A drop by the factor gamma after every period of the run; drops inside the warmup are left out.

    Args:
        gamma: the factor of each drop, above 0 and at most 1.
        every: a duration, the time between drops, counted from the start of the run.
    """

    gamma: float
    every: Duration

    def __init__(self, gamma: float = 0.1, every: DurationLike = "30%") -> None:
        args = Arguments(self.key)
        object.__setattr__(self, "gamma", args.number("gamma", gamma, 0.0, 1.0, open_low=True))
        object.__setattr__(self, "every", args.duration("every", every))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return gamma to the power of the number of drops so far."""
        every = max(self.every.interval(phase.horizon), 1)
        before = phase.start // every
        last = max(periods_before(phase.stop, every), before)
        drops = np.clip(np.floor(step / every), before, last) - before
        return np.power(self.gamma, drops)

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """Return the multiples of `every` inside the phase."""
        every = max(self.every.interval(phase.horizon), 1)
        return tuple(range((phase.start // every + 1) * every, phase.stop, every)[:MOST_CHANGES])

    def check(self, phase: Phase) -> list[Problem]:
        """Check that `every` has a step and ends inside the phase."""
        problems: list[Problem] = []
        every = count_steps(self.every, phase.horizon, "every", problems)
        if every == 0:
            problems.append(Problem("every", "is shorter than one step", str(self.every)))
        elif every is not None and not self.jumps(phase):
            problems.append(never_falls(self.every, every, phase))
        elif every is not None:
            problems += too_many_changes("every", self.every, phase.steps // every)
        return problems


MOST_MILESTONES = 10_000


@dataclass(frozen=True, init=False)
class MultiStep(Shape):
    """A drop by the factor gamma at each milestone of the run (He et al., 2016, arXiv:1512.03385).

    Args:
        gamma: the factor at each milestone, above 0 and at most 1.
        milestones: durations from the start of the run, each inside the phase; a repeated milestone counts each time.
    """

    gamma: float
    milestones: tuple[Duration, ...]

    def __init__(self, gamma: float = 0.1, milestones: Sequence[DurationLike] = ("50%", "75%")) -> None:
        args = Arguments(self.key)
        object.__setattr__(self, "gamma", args.number("gamma", gamma, 0.0, 1.0, open_low=True))
        if isinstance(milestones, str | Duration | int | float) or not milestones:
            args.wrong("milestones", milestones, "expected a list with at least one duration", "like [50%, 75%]")
            milestones = ()
        elif len(milestones) > MOST_MILESTONES:
            message = f"are {len(milestones):,}, of which {MOST_MILESTONES:,} are possible"
            args.wrong("milestones", ..., message, "use schedule=step, or a table of up to 100,000 points: tabulated")
            milestones = ()
        read = tuple(args.duration(f"milestones[{i}]", milestone) for i, milestone in enumerate(milestones))
        object.__setattr__(self, "milestones", read)
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return gamma to the power of the number of milestones passed."""
        drops = np.searchsorted(np.array(self.jumps(phase), dtype=np.float64), step, side="right")
        return np.power(self.gamma, drops.astype(np.float64))

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """Return the milestones inside the phase, in order; repeated ones are listed each time."""
        steps = sorted(milestone.steps(phase.horizon) for milestone in self.milestones)
        return tuple(step for step in steps if phase.start < step < phase.stop)

    def check(self, phase: Phase) -> list[Problem]:
        """Check that each milestone lies inside the phase."""
        problems: list[Problem] = []
        for i, milestone in enumerate(self.milestones):
            name, text = f"milestones[{i}]", str(milestone)
            step = count_steps(milestone, phase.horizon, name, problems)
            if step is None:
                continue
            if step >= phase.horizon.steps:
                problems.append(Problem(name, f"is step {step}, but the run has {phase.horizon.steps}", text))
            elif step >= phase.stop:
                problems.append(Problem(name, f"is step {step}, in the cooldown, which starts at {phase.stop}", text))
            elif step <= phase.start:
                problems.append(Problem(name, f"is step {step}, in the warmup, which ends at step {phase.start}", text))
        return problems
