"""Checks of the group `health` that need more than one of its keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lrflow.config.checks.metrics import no_validation
from lrflow.config.diagnostics import closest
from lrflow.config.schemas.detector_limits import READ_NORMS
from lrflow.config.schemas.health import Health
from lrflow.errors import Problem

if TYPE_CHECKING:
    from lrflow.config.config import Config


def check_health(config: Config) -> Iterator[Problem]:
    """Yield a problem for each misspelt monitor that is switched off, and for each action that nothing could cause."""
    health = config.health
    for name, node in (health.__pydantic_extra__ or {}).items():
        if node is None and (near := closest(name, list(Health.model_fields))):
            yield Problem(f"health.{name}", "there is no such monitor", None, f"did you mean health.{near}?")
    if health.action != "watch" and not health.nodes().keys() - {"sharpness"}:
        yield Problem(
            "health.action", "every monitor is off, so that nothing finds anything", health.action, "health=watch"
        )
    yield from _blind(config)
    for kind, action in health.short_actions.items():
        if action != "watch" and kind not in health.nodes():
            yield Problem(
                f"health.on_{kind}", f"health.{kind} is off, so that nothing finds one", action, "health=watch"
            )


def _blind(config: Config) -> Iterator[Problem]:
    """Yield a problem for each detector that is to act, and that this run does not measure what it needs."""
    for name, node in config.health.nodes().items():
        action, target = node.get("action"), node["_target_"]
        if action in (None, "watch", "ignore"):
            continue
        key = f"health.on_{name}" if name in config.health.short_actions else f"health.{name}.action"
        needs_norms = target.startswith("lrflow.health.") and target.rpartition(".")[2] in READ_NORMS
        if needs_norms and config.signals.every is None:
            message = "needs the norms of each group, which this run does not measure"
            yield Problem(key, message, action, "signals=default, or signals.every=50")
        elif needs_norms and config.trainer.strategy_name.startswith(("fsdp", "deepspeed")):
            message = f"needs the norms of each group, which {config.trainer.strategy_name} divides among the devices"
            yield Problem(key, message, action, "trainer.strategy=ddp")
        elif target == "lrflow.health.Overfitting" and (off := no_validation(config)):
            yield Problem(key, f"there is no validation: {off[0]} is {off[1]}", action, f"give {off[0]} another value")
