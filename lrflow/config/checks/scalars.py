"""Checks of the section `scalars`: what a scalar lacks, and whether anything can use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from lrflow.config.config import Config
from lrflow.config.schemas.average import EMA
from lrflow.config.schemas.objects import MovingValue
from lrflow.config.schemas.scalars import OF_AVERAGE, Scalar
from lrflow.errors import ConfigError, Problem
from lrflow.limits import number, outside
from lrflow.schedules import Horizon

_DECAY = number(0, 1, below=True)

_MOVES = (*MovingValue.model_fields, "start", "over", "hold")
"""Keys by which a scalar moves from one value to another."""


def check_scalars(config: Config, horizon: Horizon | None) -> Iterator[Problem]:
    """Yield the problems of all scalars.

    Args:
        config: of the run.
        horizon: length of the run; None if unknown.
    """
    setters: dict[str, str] = {}
    for name, scalar in config.moving_scalars.items():
        key = f"scalars.{name}"
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            yield Problem(key, "expected a name of letters, digits and _, which does not begin with a digit", ...)
            continue
        yield from _of_curve(name, scalar, horizon)
        yield from _of_use(config, key, scalar)
        for target in scalar.targets:
            if (other := setters.setdefault(target, name)) != name:
                yield Problem(f"{key}.sets", f"scalars.{other} sets it already", target)


def _of_curve(name: str, scalar: Scalar, horizon: Horizon | None) -> Iterator[Problem]:
    given = [key for key in _MOVES if key in scalar.model_fields_set and getattr(scalar, key) is not None]
    if scalar.end_value is None and given:
        yield Problem(f"scalars.{name}.to", f"expected a number, to which it moves by {given[0]}", None)
        return
    try:
        planned = scalar.planned(name)
    except ConfigError as error:
        yield from error.problems
        return
    if horizon is None:
        return
    for problem in planned.check(horizon):
        # The shape and the durations of a part of the run are keys of the scalar itself.
        yield replace(problem, key=problem.key.replace(".schedule.", "."))


def _of_use(config: Config, key: str, scalar: Scalar) -> Iterator[Problem]:
    plain = config.model.target.startswith(("lrflow.models.", "lrflow.huggingface.", "torch.nn."))
    if plain and not scalar.targets:
        message = f"nothing reads it: {config.model.target} does not call self.planned"
        yield Problem(
            f"{key}.sets", message, None, f"{key}.sets=loss.label_smoothing, or another attribute that it moves"
        )
    for target in scalar.targets:
        if target == OF_AVERAGE:
            if not isinstance(config.average, EMA):
                yield Problem(f"{key}.sets", "only average=ema has a decay", target, "add average=ema")
            yield from outside({"from": _DECAY, "to": _DECAY}, scalar.ends, key)
        elif config.trainer.compile and not target.startswith("loss."):
            message = "a compiled network would be compiled again for each value"
            yield Problem(f"{key}.sets", message, target, "trainer.compile=false")
