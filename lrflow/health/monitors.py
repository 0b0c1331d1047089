"""Building the monitors of a run from its config."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl

from lrflow.config import Config, instantiate
from lrflow.config.checks.keys import settings_of
from lrflow.config.targets import optimizer_traits
from lrflow.errors import ConfigError, Problem
from lrflow.health.actions import Actions
from lrflow.health.detector import Detection, Detector, Watch
from lrflow.health.history import Facts
from lrflow.optimizers.traits import Traits
from lrflow.plan import Plan
from lrflow.plan.values import peak_step
from lrflow.training.monitor import Monitor, Watched

_SAMPLED_STEPS = 1000  # steps at which the plan is searched for its peak
_RETURNS = frozenset({"return", "returns", "reward", "rewards"})  # words of the metric of a run by a policy gradient


def build_monitors(config: Config, run: Watched, only: Collection[str] | None = None) -> list[Monitor]:
    """Build the monitors of a run; all detectors together are one monitor.

    Args:
        config: of the run.
        run: the run to watch.
        only: names in `health` to build; None: all.

    Returns:
        The active monitors, in the order of the config.

    Raises:
        ConfigError: a monitor cannot watch this run, or a node does not build a monitor; lists all problems.
    """
    built: list[Monitor] = []
    detectors: dict[str, Detector] = {}
    problems: list[Problem] = []
    for name, node in config.monitors.items():
        if only is not None and name not in only:
            continue
        try:
            monitor = instantiate(node, f"health.{name}")
            if isinstance(monitor, Detector):
                if monitor.action != "ignore":
                    detectors[name] = monitor
                continue
            if not isinstance(monitor, Monitor):
                kind = type(monitor).__name__
                message = f"builds {'an' if kind[0] in 'AEIOU' else 'a'} {kind}, which is no lrflow.health.Monitor"
                hint = (
                    "return it from configure_callbacks of your LightningModule"
                    if isinstance(monitor, pl.Callback)
                    else None
                )
                raise ConfigError([Problem(f"health.{name}._target_", message, node["_target_"], hint)])
            if monitor.active:
                monitor.begin(name, run)
                built.append(monitor)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    if detectors:
        actions = Actions(config.health, run.horizon)
        detection = Detection(Watch(facts_of(config, run.plan), detectors), config.health.action, actions)
        detection.begin("", run)  # any other name may be that of a monitor in `health`
        built.append(detection)
    return built


def facts_of(config: Config, plan: Plan) -> Facts:
    """Return what detectors know of a run before its first step."""
    steps = np.unique(np.linspace(0, plan.horizon.steps - 1, _SAMPLED_STEPS).astype(int))
    rates, lr = plan.lr(steps).max(axis=1), float(max(group.lr for group in plan.trainable))
    known = not config.optimizer.of_module
    settings = settings_of(config.optimizer) if known else {}
    traits = optimizer_traits(config.optimizer.target) if known else Traits()
    metric = config.trainer.checkpoint.metric
    return Facts(
        steps=plan.horizon.steps,
        warmup=int(steps[peak_step(rates)]),
        lr=lr,
        multiple=lr / config.optimizer.lr,
        decays=bool(rates[-1] < 0.5 * rates.max()),
        momentum=math.nan if traits.modes else _momentum(settings),
        weight_decay=float(settings.get("weight_decay") or 0.0),
        estimates=traits.estimates_lr,
        groups=tuple(plan.names),
        metric=metric,
        losses=metric is None or _RETURNS.isdisjoint(re.split(r"[^a-z]+", metric.name.lower())),
    )


def _momentum(settings: Mapping[str, Any]) -> float:
    """Return the weight of the previous update in an update of an optimizer with these settings; NaN: unknown."""
    betas = settings.get("betas")
    given = betas[0] if isinstance(betas, tuple | list) and betas else settings.get("momentum", settings.get("beta1"))
    return float(given) if isinstance(given, int | float) else math.nan
