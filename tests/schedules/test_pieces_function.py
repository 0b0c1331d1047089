"""A custom function as a shape: evaluated elementwise, and found again by its name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lrflow.errors import ConfigError
from lrflow.schedules import Function, Horizon, Schedule
from lrflow.schedules.serialization import from_spec, to_spec

RUN = Horizon(100, 10)


def late(progress: float, power: float = 4.0, knots: tuple[float, ...] = ()) -> float:
    """A function of the math module, not of numpy."""
    return 1.0 - math.pow(progress, power)


def fails(progress: float) -> float:
    raise KeyError("x")


def resolve(target: str) -> Any:
    return {f"{__name__}.late": late, "lrflow.schedules.Schedule": Schedule}[target]


def spec(**arguments: Any) -> dict[str, Any]:
    return {"_target_": "lrflow.schedules.Schedule", "shape": {"_target_": f"{__name__}.late", **arguments}}


def test_it_is_called_with_the_elapsed_share() -> None:
    schedule = Schedule(Function(late), warmup=10, cooldown=20)
    steps = np.arange(10, 81)
    assert schedule(steps, RUN).tolist() == [1.0 - ((step - 10) / 70) ** 4 for step in range(10, 81)]
    assert schedule(45, RUN) == schedule([45], RUN)[0]


def test_a_config_names_it_with_its_arguments() -> None:
    schedule = from_spec(spec(power=3, knots=[0.1, 0.2]), resolve=resolve)
    assert schedule == Schedule(Function(late, (("power", 3), ("knots", (0.1, 0.2)))))
    assert hash(schedule)
    again = json.loads(json.dumps(to_spec(schedule)))
    assert again["shape"] == {"_target_": f"{__name__}.late", "power": 3, "knots": [0.1, 0.2]}
    assert from_spec(again, resolve=resolve) == schedule


def test_a_misspelt_argument_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.shape\.powr = 3: late takes no such argument\n.*mean power\?"):
        from_spec(spec(powr=3), resolve=resolve)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fails, "fails(0) fails: KeyError: 'x'"),
        (lambda progress: "x", "<lambda>(0) fails: ValueError: could not convert string to float: 'x'"),
        (lambda progress: 1 + progress, "<lambda>(0.5) is 1.5, not a multiplier from 0 to 1"),
        (lambda progress: math.nan, "<lambda>(0) is nan, not a multiplier from 0 to 1"),
    ],
)
def test_a_function_without_a_multiplier_is_reported(function: Callable[..., float], message: str) -> None:
    (problem,) = Schedule(Function(function)).check(RUN)
    assert (problem.key, problem.message) == ("schedule.shape", message)
    assert Schedule(Function(late)).check(RUN) == []
