"""Checks of the group `health` that need more than one of its keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lrflow.config.diagnostics import closest
from lrflow.config.health_schema import Health
from lrflow.errors import Problem

if TYPE_CHECKING:
    from lrflow.config.config import Config


def check_health(config: Config) -> Iterator[Problem]:
    """Yield a problem for each misspelt monitor that is switched off, and for each action that nothing could cause."""
    health = config.health
    for name, node in (health.__pydantic_extra__ or {}).items():
        if node is None and (near := closest(name, list(Health.model_fields))):
            yield Problem(f"health.{name}", "there is no such monitor", None, f"did you mean health.{near}?")
    for kind, action in health.short_actions.items():
        if action != "watch" and kind not in health.nodes():
            yield Problem(
                f"health.on_{kind}", f"health.{kind} is off, so that nothing finds one", action, "health=watch"
            )
