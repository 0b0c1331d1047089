"""Settings of the optimizer that `schedule.also` moves: does the optimizer have them?"""

from __future__ import annotations

from typing import Any

from lrflow.config.schema import Optimizer
from lrflow.config.targets import defaults
from lrflow.errors import Problem
from lrflow.schedules import Curve
from lrflow.schedules.curve import highest_settings, numeric_settings


def settings_of(optimizer: Optimizer) -> dict[str, Any]:
    """The settings of an optimizer, those that its signature gives among them, and under `routes` those of the others.

    It imports the optimizer.
    """
    routes = {name: settings_of(route) for name, route in optimizer.routes.items()}
    return {**defaults(optimizer.target), **optimizer.node(), "routes": routes}


def check_also(curve: Curve, key: str, optimizer: Optimizer, decays: bool) -> list[Problem]:
    """What a schedule moves that the optimizer does not have; nothing is imported where the config tells.

    Args:
        curve: the schedule.
        key: where it stands.
        optimizer: of the run.
        decays: whether layer rules set weight decays of their own.
    """
    problems = []
    for entry, _ in curve.split()[1]:
        if entry.optional:
            continue
        known = highest_settings(numeric_settings(each.node()) for each in (optimizer, *optimizer.routes.values()))
        if entry.setting(known) is None:
            settings = settings_of(optimizer)
            known = highest_settings(numeric_settings(each) for each in (settings, *settings["routes"].values()))
        if entry.name == "weight_decay" and decays and not known.get("weight_decay"):
            continue
        problems += entry.check(known, f"{key}.also.{entry.name}")
    return problems
