"""Resumed runs: the rest of the curve in each mode."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from lrflow.errors import ConfigError
from lrflow.schedules import (
    Constant,
    Continued,
    Cosine,
    Exponential,
    Horizon,
    Linear,
    MultiStep,
    Schedule,
    Step,
)

OLD, LONGER, SHORTER = Horizon(100, 20), Horizon(200, 20), Horizon(60, 20)
LINEAR = Schedule(Linear())
WARM = Schedule(Linear(), 20, 0)

TABLE: list[tuple[Continued, Horizon, dict[int, float]]] = [
    # A line from 1 to 0 over 100 steps, resumed at step 40, where it is at 0.6.
    (Continued(LINEAR, 40, OLD, "keep"), LONGER, {0: 1, 39: 0.61, 40: 0.6, 99: 0.01, 100: 0, 150: 0, 300: 0}),
    (Continued(LINEAR, 40, OLD, "rescale"), LONGER, {0: 1, 39: 0.61, 40: 0.8, 100: 0.5, 200: 0, 300: 0}),
    (Continued(LINEAR, 40, OLD, "extend"), LONGER, {0: 1, 39: 0.61, 40: 0.6, 120: 0.3, 200: 0, 300: 0}),
    (Continued(LINEAR, 40, OLD, "rewarm"), LONGER, {0: 1, 39: 0.61, 40: 1, 120: 0.5, 200: 0, 300: 0}),
    # The warmup of the rest, 20 steps, goes from the LR of step 40 to the peak.
    (Continued(WARM, 40, OLD, "rewarm"), LONGER, {39: 61 / 80, 40: 0.75, 48: 0.85, 60: 1, 130: 0.5, 200: 0}),
    (Continued(WARM, 100, OLD, "rewarm"), LONGER, {99: 1 / 80, 100: 0, 110: 0.5, 120: 1, 160: 0.5, 200: 0}),
    (Continued(Continued(WARM, 40, OLD, "keep"), 100, LONGER, "rewarm"), LONGER, {90: 0.125, 110: 0.5, 120: 1}),
    (Continued(LINEAR, 40, OLD, "decay_now"), LONGER, {0: 1, 39: 0.61, 40: 0.6, 120: 0.3, 200: 0, 300: 0}),
    (Continued(LINEAR, 40, OLD, "keep"), SHORTER, {39: 0.61, 40: 0.6, 59: 0.41, 60: 0.4, 99: 0.4}),
    (Continued(LINEAR, 40, OLD, "rescale"), SHORTER, {39: 0.61, 40: 1 / 3, 60: 0, 99: 0}),
    (Continued(LINEAR, 40, OLD, "extend"), SHORTER, {39: 0.61, 40: 0.6, 50: 0.3, 60: 0, 99: 0}),
    (Continued(LINEAR, 40, OLD, "decay_now"), SHORTER, {39: 0.61, 40: 0.6, 50: 0.3, 60: 0, 99: 0}),
    # A plateau is cooled down, a staircase stretched, a floor met.
    (Continued(Schedule(Constant()), 100, OLD, "decay_now"), LONGER, {99: 1, 100: 1, 150: 0.5, 200: 0}),
    (Continued(Schedule(Constant(), floor=0.2), 100, OLD, "decay_now"), LONGER, {100: 1, 150: 0.6, 200: 0.2}),
    (Continued(Schedule(Constant(), cooldown=20), 60, OLD, "extend"), LONGER, {60: 1, 130: 1, 165: 0.5, 200: 0}),
    (Continued(Schedule(Step(0.1, 30)), 50, OLD, "extend"), Horizon(150), {50: 0.1, 69: 0.1, 70: 0.01, 130: 0.001}),
    # Resumed within the warmup: the rest of it is stretched too, or it goes down from where it is.
    (Continued(Schedule(Linear(), 20, 0), 10, OLD, "extend"), Horizon(190), {0: 0, 10: 0.5, 20: 0.75, 30: 1, 110: 0.5}),
    (Continued(Schedule(Linear(), 20, 0), 10, OLD, "decay_now"), Horizon(110), {5: 0.25, 10: 0.5, 60: 0.25, 110: 0}),
    (Continued(Schedule(Linear(), 20, 0, floor=0.8), 10, OLD, "decay_now"), LONGER, {10: 0.5, 100: 0.5, 200: 0.5}),
    # Resumed after the end: nothing of the curve is left to stretch.
    (Continued(Schedule(Cosine(), floor=0.1), 100, OLD, "extend"), LONGER, {99: 0.1002220, 100: 0.1, 150: 0.1}),
    # Resumed twice.
    (
        Continued(Continued(LINEAR, 40, OLD, "extend"), 120, LONGER, "decay_now"),
        Horizon(130),
        {0: 1, 39: 0.61, 40: 0.6, 80: 0.45, 120: 0.3, 125: 0.15, 130: 0},
    ),
    (
        Continued(Continued(LINEAR, 40, OLD, "keep"), 50, SHORTER, "rescale"),
        LONGER,
        {39: 0.61, 49: 0.51, 50: 0.5, 99: 0.01, 150: 0},  # the kept curve is on the old horizon, whatever the new one
    ),
]


@pytest.mark.parametrize(("curve", "horizon", "expected"), TABLE, ids=lambda cell: getattr(cell, "how", ""))
def test_the_multipliers_of_a_resumed_run(curve: Continued, horizon: Horizon, expected: dict[int, float]) -> None:
    assert curve(list(expected), horizon) == pytest.approx(list(expected.values()), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("how", "horizon", "jumps"),
    [
        ("keep", LONGER, (50, 75)),
        ("rescale", LONGER, (50, 60, 100, 150)),
        ("extend", LONGER, (50, 113)),  # 60 + 15 / 40 * 140 = 112.5: the first whole step after it
        ("decay_now", LONGER, (50,)),
        ("keep", Horizon(70), (50,)),
        ("rescale", Horizon(80), (50, 60)),
        ("extend", Horizon(80), (50, 68)),
    ],
)
def test_the_steps_at_which_a_resumed_run_jumps(how: str, horizon: Horizon, jumps: tuple[int, ...]) -> None:
    curve = Continued(Schedule(MultiStep(0.1, ["50%", "75%"])), 60, OLD, how)
    assert curve.jumps(horizon) == jumps
    rates = curve(np.arange(horizon.steps), horizon)
    falls = {step for step, (before, after) in enumerate(pairwise(rates), 1) if abs(after - before) > 0.05}
    assert falls <= set(jumps)


@pytest.mark.parametrize(
    ("how", "horizon", "phase"),
    [
        ("keep", LONGER, (10, 80)),
        ("keep", SHORTER, (10, 60)),
        ("rescale", LONGER, (20, 180)),
        ("extend", Horizon(150), (10, 110)),
        ("decay_now", LONGER, (10, 40)),
    ],
)
def test_the_phase_of_a_resumed_run(how: str, horizon: Horizon, phase: tuple[int, int]) -> None:
    warmup, cooldown = ("10%", "10%") if how == "rescale" else (10, 20)
    found = Continued(Schedule(Constant(), warmup, cooldown=cooldown), 40 if how != "extend" else 50, OLD, how)
    assert (found.phase(horizon).start, found.phase(horizon).stop) == phase


@pytest.mark.parametrize(
    ("arguments", "key", "fragment"),
    [
        ({"how": "stretch"}, "resume.horizon", "expected keep, rescale, extend, decay_now"),
        ({"at": -1}, "resume.at", "a whole number >= 0"),
        ({"at": 2.5}, "resume.at", "a whole number >= 0"),
        ({"before": 100}, "resume.before", "expected a horizon"),
        ({"schedule": Cosine()}, "resume.schedule", "expected a schedule"),
    ],
    ids=str,
)
def test_invalid_arguments(arguments: dict[str, object], key: str, fragment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Continued(**{"schedule": LINEAR, "at": 40, "before": OLD, "how": "keep", **arguments})
    (problem,) = caught.value.problems
    assert problem.key == key
    assert fragment in problem.message


def test_a_misspelt_mode_gets_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean rescale"):
        Continued(LINEAR, 40, OLD, "rescaled")


@pytest.mark.parametrize(
    ("curve", "horizon", "messages"),
    [
        (Continued(LINEAR, 40, OLD, "extend"), LONGER, []),
        (Continued(LINEAR, 40, OLD, "keep"), SHORTER, []),
        (Continued(LINEAR, 60, OLD, "keep"), SHORTER, ["resume.horizon: the run is resumed at step 60, but now has"]),
        (Continued(LINEAR, 40, OLD, "keep"), LONGER, ["resume.horizon: the old schedule ends at an LR of 0, where"]),
        (Continued(LINEAR, 100, OLD, "extend"), LONGER, ["resume.horizon: the old schedule ends at an LR of 0"]),
        (Continued(LINEAR, 100, OLD, "rescale"), LONGER, []),
        (
            Continued(Schedule(MultiStep(0.1, [90])), 40, OLD, "rescale"),
            SHORTER,
            ["layers.rules[0].schedule.shape.milestones[0]: is step 90, but the run has 60"],
        ),
        (Continued(Schedule(MultiStep(0.1, [90])), 40, OLD, "extend"), SHORTER, []),
        (
            Continued(Schedule(Exponential(0.9)), 40, Horizon(100), "rescale"),
            Horizon(60),
            ["layers.rules[0].schedule.shape.every = '1 epoch': 1 epoch cannot be counted in steps"],  # said once
        ),
    ],
    ids=lambda cell: getattr(cell, "how", ""),
)
def test_problems_of_a_resumed_run_with_its_horizon(curve: Continued, horizon: Horizon, messages: list[str]) -> None:
    texts = [
        str(problem).replace(f" = {curve.how!r}", "") for problem in curve.check(horizon, "layers.rules[0].schedule")
    ]
    texts = [text.replace(" = '90 steps'", "") for text in texts]
    assert len(texts) == len(messages), texts
    assert all(text.startswith(start) for text, start in zip(texts, messages, strict=True)), texts
