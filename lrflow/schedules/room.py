"""Whether the parts of a schedule have room in a run, and whether an LR that is held reaches its peak."""

from __future__ import annotations

from lrflow.errors import Problem
from lrflow.imports import np
from lrflow.schedules._arguments import count_steps
from lrflow.schedules.time import Duration, Floats, Horizon
from lrflow.wording import counted

MIN_HELD_PEAK = 0.99
"""Share of the peak that an LR must reach which changes only every `hold` steps."""


def room_problems(
    warmup: Duration, cooldown: Duration, length: Duration | None, moves: bool, horizon: Horizon
) -> tuple[list[Problem], bool]:
    """Return the problems of parts that do not fit into the run, and whether the phase of the shape is known.

    Args:
        warmup: of the schedule.
        cooldown: of the schedule.
        length: of the shape; None: it fills the run.
        moves: whether the shape needs steps between the warmup and the cooldown.
        horizon: how long the run is.
    """
    problems: list[Problem] = []
    rise = count_steps(warmup, horizon, "warmup", problems)
    fall = count_steps(cooldown, horizon, "cooldown", problems)
    own = None if length is None else count_steps(length, horizon, "shape_length", problems)
    if own == 0:
        problems.append(Problem("shape_length", "is shorter than one step", str(length)))
    run = horizon.steps
    if rise is not None and rise >= run:
        message = f"is {counted(rise, 'step')}, but the run has only {run}"
        problems.append(Problem("warmup", message, str(warmup), "the peak would never be reached"))
    elif fall is not None and fall >= run:
        problems.append(Problem("cooldown", f"is {counted(fall, 'step')}, but the run has only {run}", str(cooldown)))
    elif rise is not None and fall is not None:
        if rise + fall > run:
            message = f"starts at step {run - fall}, before the warmup ends at step {rise}"
            problems.append(Problem("cooldown", message, str(cooldown)))
        elif rise + fall == run and moves:
            message = f"has no room: warmup ({rise} steps) and cooldown ({fall}) fill the run of {run}"
            problems.append(Problem("shape", message))
        else:
            return problems, length is None or bool(own)
    return problems, False


def skipped_peak(hold: Duration, count: int, steps: Floats, moving: Floats, held: Floats) -> list[Problem]:
    """Return the problem of a `hold` that skips the peak, or none.

    Args:
        hold: as it was given.
        count: its steps.
        steps: of the run.
        moving: multipliers at these steps, as they would be without the hold.
        held: multipliers with it.
    """
    top, reached = int(steps[np.argmax(moving)]), float(held.max())
    if reached >= MIN_HELD_PEAK * moving.max():
        return []
    message = f"is {count} steps, and the LR would not rise above {100 * reached:.3g}% of its peak"
    hint = f"the peak is at step {top}; let the shape rise for a multiple of {count} steps"
    return [Problem("hold", message, str(hold), hint)]
