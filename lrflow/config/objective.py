"""The loss and the metrics of a plain module as the config chooses them, checked against the facts of the data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from lrflow.config.annotations import check_value
from lrflow.config.checks.nodes import annotated
from lrflow.config.config import Config
from lrflow.config.signatures import named_in_source
from lrflow.config.targets import locate
from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.limits import Limit, is_whole, number, outside
from lrflow.objectives import (
    DESCRIBED,
    LANGUAGE_MODEL,
    LOSSES,
    ChosenLoss,
    ChosenScore,
    chosen_loss,
    chosen_score,
    in_units,
    is_of_torch,
    named_metrics,
    of_tokens,
)

_WEIGHTS = ("weight", "pos_weight")
"""Arguments of losses that are tensors: a list of numbers, one per output."""

_LIMITS = {
    "label_smoothing": number(0, 1),
    "beta": number(0),
    "delta": number(0, above=True),
    "eps": number(0),
    "ignore_index": Limit("a whole number", is_whole),
}
"""Valid values of arguments of losses that torch checks in the first step, or never."""

_OF_LOGITS = {"nll": "cross_entropy", "bce": "bce_with_logits", "kl_div": "cross_entropy"}
"""The losses that do the same with logits."""

_OF_METRICS = ("compute_on_cpu", "sync_on_compute", "dist_sync_on_step", "compute_with_cache")
"""Arguments of every metric."""


def loss_of(config: Config) -> ChosenLoss | None:
    """Return the loss of the config; None if it names none.

    Raises:
        ConfigError: there is no such loss.
    """
    if config.model.loss is None:
        return None
    facts = config.data.facts
    loss = in_units(chosen_loss(config.model.loss, facts.loss if facts else None), facts.units if facts else None)
    return of_tokens(loss, facts.bytes_per_token) if facts and facts.head == LANGUAGE_MODEL else loss


def metrics_of(config: Config) -> dict[str, ChosenScore]:
    """Return the metrics of `model.metrics` by the names under which they are logged.

    Raises:
        ConfigError: every metric that does not exist or does not fit the loss.
    """
    loss, found, problems = loss_of(config), {}, []
    for name, given in named_metrics(config.model.metrics).items():
        try:
            found[name] = chosen_score(name, given, loss, outputs_of(config))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return found


def logged_by(config: Config) -> list[str]:
    """Return the names of all metrics that a plain module with this loss logs, without `val/` or `test/`."""
    loss = loss_of(config)
    return list(dict.fromkeys([*(loss.logged if loss else ()), *named_metrics(config.model.metrics)]))


def outputs_of(config: Config) -> int | None:
    """Return the number of outputs of the model, by its arguments or else by the facts of the data; None: unknown."""
    own = _own_outputs(config)
    return config.data.facts.outputs if own is None and config.data.facts else own


def _own_outputs(config: Config) -> int | None:
    given = config.model.plain()
    return next((value for value in (given.get("outputs"), given.get("out_features")) if type(value) is int), None)


def check_objective(config: Config) -> Iterator[Problem]:
    """Yield a problem for a loss that does not exist or does not fit the data, and for each such metric."""
    of_data = None
    if config.data.facts and config.data.facts.loss is not None:
        try:
            of_data = chosen_loss(config.data.facts.loss, key="data.facts.loss")
        except ConfigError as error:
            yield from error.problems
    try:
        loss = loss_of(config)
    except ConfigError as error:
        yield from error.problems
        return
    if loss is not None:
        yield from _check_loss(config, loss)
        if of_data is not None:
            yield from _check_targets(config, loss, of_data)
    try:
        metrics = metrics_of(config)
    except ConfigError as error:
        yield from error.problems
        return
    for name, metric in metrics.items():
        if metric.task is not None:
            given = named_metrics(config.model.metrics)[name]
            own = {argument: value for argument, value in given.items() if argument not in ("_target_", "task")}
            key = f"model.metrics.{name}"
            yield from _check_arguments(metric.target, own, key, _OF_METRICS)
            # what a class inherits has a default, but for the number of classes, which is filled in
            required = [one.name for one in named_in_source(metric.target)[0].values() if one.default is one.empty]
            lacking = [argument for argument in required if argument not in metric.arguments]
            yield from (Problem(f"{key}.{argument}", f"{name} needs it") for argument in lacking)


def _check_loss(config: Config, loss: ChosenLoss) -> Iterator[Problem]:
    given = config.model.loss if isinstance(config.model.loss, Mapping) else {}
    arguments = {name: value for name, value in given.items() if name not in ("name", "_target_")}
    if is_of_torch(loss):
        plain = {name: value for name, value in arguments.items() if name not in _WEIGHTS}
        yield from outside(_LIMITS, plain, "model.loss")
        if loss.outputs in ("probabilities", "log_probabilities") and config.model.target.startswith("lrflow.models."):
            needed = loss.outputs.replace("_", "-")
            message = f"needs {needed}, and the outputs of lrflow's models are logits"
            yield Problem("model.loss", message, str(loss), f"use {_OF_LOGITS[str(loss)]}")
        yield from _check_arguments(f"torch.nn.modules.loss.{loss.target.rpartition('.')[2]}", plain, "model.loss")
        for name in _WEIGHTS:
            if name in arguments:
                yield from _check_weights(loss, name, arguments[name], outputs_of(config))


def _check_targets(config: Config, loss: ChosenLoss, of_data: ChosenLoss) -> Iterator[Problem]:
    """Yield a problem if the loss needs other targets than those of the data."""
    outputs, classes = _own_outputs(config), config.data.facts.outputs if config.data.facts else None
    if loss.kind is None or of_data.kind is None or loss.kind == of_data.kind:
        return
    if (of_data.kind, loss.kind) in (("labels", "numbers"), ("distributions", "numbers")):
        return
    single = outputs in (None, 1) and (loss.kind == "numbers" or (loss.kind == "labels" and classes in (None, 2)))
    if of_data.kind == "classes" and single:  # one number per example; two classes are one label
        return
    message = f"needs {DESCRIBED[loss.kind]}, and the targets of the data are {DESCRIBED[of_data.kind]}"
    names = ", ".join(name for name, one in LOSSES.items() if one.kind == of_data.kind)
    two = ", or any loss of labels with model.outputs=1" if (classes, loss.kind) == (2, "labels") else ""
    hint = f"these fit: {names}{two}; data.facts.loss states what the targets are"
    yield Problem("model.loss", message, str(loss), hint)


def _check_weights(loss: ChosenLoss, name: str, value: Any, outputs: int | None) -> Iterator[Problem]:
    key = f"model.loss.{name}"
    if not named_in_source(f"torch.nn.modules.loss.{loss.target.rpartition('.')[2]}")[0].keys() & {name}:
        yield Problem(key, f"{loss} takes no {name}", value)
    elif value is not None and not _are_weights(value):
        yield Problem(key, "expected a list of numbers, each at least 0, one per output", value)
    elif value is not None and outputs is not None and len(value) != outputs:
        yield Problem(key, f"has {len(value)} weights, and the model has {outputs} outputs", value)


def _are_weights(value: Any) -> bool:
    numbers = isinstance(value, list) and all(
        isinstance(one, int | float) and not isinstance(one, bool) for one in value
    )
    return numbers and all(0 <= one < math.inf for one in value) and any(value)


def _parameters(target: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class; it is imported only if it inherits them, as a few of torchmetrics do."""
    if named := named_in_source(target)[0]:
        return named
    found = locate(target)
    parameters = inspect.signature(found).parameters.values()
    return {one.name: annotated(found, one.name) for one in parameters if one.kind is not one.VAR_KEYWORD}


def _check_arguments(target: str, given: Mapping[str, Any], key: str, also: tuple[str, ...] = ()) -> Iterator[Problem]:
    """Yield a problem for each argument that a class does not take, and for each value that it does not allow."""
    if not given:
        return
    known = _parameters(target)
    for name, value in given.items():
        if name not in known and name not in also:
            hint = did_you_mean(name, known)
            yield Problem(f"{key}.{name}", f"{target.rpartition('.')[2]} takes no {name}", value, hint)
        elif name in known and (problem := check_value(known[name], value, f"{key}.{name}")):
            yield problem
