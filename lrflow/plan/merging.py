"""Decay without decaying: the shares of checkpoints of a constant LR that replace a decay of it; without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.imports import np
from lrflow.plan.averaging import exponent_of
from lrflow.schedules import Horizon
from lrflow.schedules.curve import Curve
from lrflow.schedules.ramps import COOLDOWNS, cooldown
from lrflow.schedules.time import Floats, Phase
from lrflow.wording import counted

FEWEST_STRETCHES = 3
"""Fewest stretches between two checkpoints into which a decay may be divided."""


def decay(name: str, floor: float, stretch: Horizon, curve: Curve | None = None) -> Floats:
    """Return the multipliers of the LR at the steps of a decay, [steps]; they begin at 1, fall and never rise.

    Args:
        name: `task.as`: the shape, one of `COOLDOWNS` or an option of `schedule`.
        floor: multiplier after the last step.
        stretch: length of the decay.
        curve: the schedule of that option; not needed for one of `COOLDOWNS`.

    Raises:
        ConfigError: the shape is no decay, or does not fit into the stretch.
    """
    steps = np.arange(stretch.steps, dtype=np.float64)
    if name in COOLDOWNS:
        if name == "exponential" and floor == 0:
            message, hint = "an exponential decay cannot end at 0", "give a task.floor, such as 0.01"
            raise ConfigError([Problem("task.as", message, name, hint)])
        return cooldown(name, steps, Phase(0, stretch.steps, stretch), 1.0, floor)
    assert curve is not None
    if problems := curve.check(stretch):
        message = f"is no decay by itself: {problems[0].key.rpartition('.')[2]} {problems[0].message}"
        raise ConfigError([Problem("task.as", message, name, f"such as {', '.join(COOLDOWNS)}")])
    values: Floats = curve(steps, stretch)
    if abs(values[0] - 1) > 1e-9 or (np.diff(values) > 1e-12).any() or values[-1] == values[0]:
        hint = did_you_mean(name, COOLDOWNS) or f"such as {', '.join(COOLDOWNS)}"
        raise ConfigError([Problem("task.as", "does not begin at the peak and fall from there", name, hint)])
    return values


def shares(points: Sequence[int], start: int, multipliers: Floats) -> list[float]:
    """Return the share of each checkpoint in the merged weights; their sum is exactly 1.

    With fixed gradients a run whose LR is multiplied by w_i between the checkpoints i - 1 and i ends at the sum of
    (w_j - w_(j+1)) times checkpoint j, where w is 1 before the first and 0 after the last one (Tian et al., 2025,
    arXiv 2507.17634). Here w_i is the mean multiplier of the steps in between.

    Args:
        points: steps of the checkpoints in order; the first is not after the start of the decay, and the last is its
            end.
        start: steps before the decay.
        multipliers: of the steps of the decay.
    """
    whole = np.concatenate([np.ones(start - points[0]), multipliers])
    means = [float(whole[one - points[0] : other - points[0]].mean()) for one, other in pairwise(points)]
    return _summing_to_one([before - after for before, after in zip([1.0, *means], [*means, 0.0], strict=True)])


def _summing_to_one(found: list[float]) -> list[float]:
    """Return shares whose sum is 1 but for rounding, with the rounding taken from the largest."""
    largest = max(range(len(found)), key=lambda index: abs(found[index]))
    while (missing := 1.0 - math.fsum(found)) != 0.0:
        found[largest] += missing
    return found


def chosen(saved: Sequence[int], start: int, end: int, run: str) -> list[int]:
    """Return the steps of the checkpoints from which a decay is merged: the last one before it, and all in it.

    Args:
        saved: steps of the checkpoints of a run, in order.
        start: steps before the decay.
        end: its last step; one of `saved`.
        run: the folder, for messages.

    Raises:
        ConfigError: there is none before the decay, or there are too few in it.
    """
    kept = "trainer.checkpoint.keep=null keeps all checkpoints, and trainer.checkpoint.every sets their distance"
    if not any(step <= start for step in saved):
        message = (
            f"the decay would begin after step {start:,}, but the first checkpoint in {run} is of step {saved[0]:,}"
        )
        longest = end - saved[0]
        hint = f"at most task.over={longest}" if longest > 0 and len(saved) > FEWEST_STRETCHES else kept
        raise ConfigError([Problem("task.over", message, counted(end - start, "step"), hint)])
    first = max(step for step in saved if step <= start)
    points = [step for step in saved if first <= step <= end]
    if len(points) - 1 < FEWEST_STRETCHES:
        message = f"needs at least {FEWEST_STRETCHES + 1} checkpoints from step {start:,} to {end:,}, and {run} has"
        message += f" {len(points)}: {', '.join(f'{step:,}' for step in points)}"
        raise ConfigError([Problem("task.over", message, counted(end - start, "step"), f"a longer decay; or {kept}")])
    return points


def shares_of_averages(kept: Sequence[tuple[int, float]], width: float) -> list[float]:
    """Return the share of each power-function average of a run in one of another width, at the end of the last one.

    The profile of an average of width w at time T is proportional to t^gamma on [0, T]. The shares are those whose sum
    of profiles is nearest to the wanted profile, by least squares (Karras et al., 2024, arXiv 2312.02696, appendix C).

    Args:
        kept: step and width of each average, in the order of the steps.
        width: the wanted one.
    """
    end = kept[-1][0]
    edges = np.unique(np.concatenate([np.linspace(0, 1, 2001), [step / end for step, _ in kept]]))
    density = np.sqrt(np.diff(edges))

    def profile(step: int, of: float) -> Floats:
        mass: Floats = np.diff(np.minimum(edges * end / step, 1.0) ** (exponent_of(of) + 1.0)) / density
        return mass

    parts, wanted = np.stack([profile(step, of) for step, of in kept], axis=1), profile(end, width)
    # The last share is what the others leave of 1.
    others, *_ = np.linalg.lstsq(parts[:, :-1] - parts[:, -1:], wanted - parts[:, -1], rcond=1e-10)
    return _summing_to_one([*others.tolist(), 1.0 - math.fsum(others)])
