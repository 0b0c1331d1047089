"""The layer rules of a run: those of the config, and behind them those of its rule maker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl

from lrflow.config import Config, instantiate, locate
from lrflow.config.checks.compatibility import check_routes
from lrflow.config.schemas.layers import Rules
from lrflow.errors import ConfigError
from lrflow.layers import MuP, Rule, RuleMaker
from lrflow.layers.groups import behind
from lrflow.layers.parameters import Parameters
from lrflow.training.example import NoExampleError, trace_uses
from lrflow.training.module import planned_module
from lrflow.training.mup_models import mup_rules


def rules_of_run(
    config: Config,
    module: pl.LightningModule,
    data: pl.LightningDataModule | None,
    report: Callable[[Any], None],
) -> tuple[Parameters, Sequence[Rule]]:
    """Return the parameters of a model and the rules for them, in order.

    Args:
        config: `layers`, `optimizer`.
        module: the module to train.
        data: set up for training; one example shows in which order the module uses its layers. None: not loaded.
        report: is called with what a user should know before the run, such as an unknown order of layers.

    Raises:
        ConfigError: the rule maker cannot make rules for this model, or a rule has an unknown route.
    """
    parameters = Parameters.of(planned_module(module))
    front = config.layers.compiled()
    if isinstance(config.layers, Rules):
        return parameters, front
    made: Sequence[Rule]
    maker = instantiate(config.layers.node(), "layers")
    if isinstance(maker, MuP):
        made = mup_rules(config, maker, parameters, module, report)
    elif isinstance(maker, RuleMaker):
        if maker.follows_use:
            parameters = _with_order_of_use(parameters, module, data, report)
        made = maker.rules_of(parameters)
    else:
        made = maker.rules(parameters.model)
    rules = behind(front, made, parameters)
    if problems := check_routes(
        rules,
        config.optimizer.routes,
        lambda index: f"layers.rules[{index}].route" if index < len(front) else "layers.route",
    ):
        raise ConfigError(problems)
    return parameters, rules


def needs_example(config: Config) -> bool:
    """Whether the parameter groups depend on how the model uses its layers on an example of the data."""
    return not isinstance(config.layers, Rules) and getattr(locate(config.layers.target), "follows_use", False)


def _with_order_of_use(
    parameters: Parameters,
    module: pl.LightningModule,
    data: pl.LightningDataModule | None,
    report: Callable[[Any], None],
) -> Parameters:
    """Return the parameters with the order in which the module uses them, if an example shows that order."""
    try:
        return replace(parameters, uses=trace_uses(module, data))
    except NoExampleError as error:
        report(f"layers: ordered as the model declares them; their order of use is unknown: {error}")
        return parameters
