"""What `layers=mup` needs of the rest of the config: a narrower model, and an optimizer whose scaling is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from lrflow.config.targets import check_arguments, optimizer_traits
from lrflow.errors import ConfigError, Problem
from lrflow.optimizers.traits import known_with

TARGET = "lrflow.layers.MuP"


def table_of(optimizer: Mapping[str, Any], asked: str = "auto") -> Literal["adam", "sgd"]:
    """Which of muP's tables an optimizer takes.

    Args:
        optimizer: the group's content.
        asked: `layers.optimizer`.

    Raises:
        ConfigError: it is not known, or its weight decay has no known rule.
    """
    if asked in ("adam", "sgd"):
        return "adam" if asked == "adam" else "sgd"
    target = str(optimizer.get("_target_"))
    traits = optimizer_traits(target)
    if traits.mup is None:
        hint = f"it is for {', '.join(sorted(known_with('mup')))}; "
        hint += "if yours moves as one of them, say so: layers.optimizer=adam or sgd"
        raise ConfigError([Problem("optimizer._target_", "no rule of muP is known for this optimizer", target, hint)])
    decay = optimizer.get("weight_decay")
    if decay and traits.mup == "adam" and not traits.is_decoupled(optimizer):
        message = "this decay passes through the normalised gradient, where no rule of muP is known for it"
        hint = "take optimizer=adamw, whose decay is kept in proportion, or optimizer.weight_decay=0"
        raise ConfigError([Problem("optimizer.weight_decay", message, decay, hint)])
    return traits.mup


def check_mup(content: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the use of muP, as far as the config tells; nothing where it is not used.

    Args:
        content: the resolved config.
    """
    layers, model, optimizer = (content.get(group) for group in ("layers", "model", "optimizer"))
    if not isinstance(layers, Mapping) or layers.get("_target_") != TARGET:
        return
    if isinstance(optimizer, Mapping) and "_target_" in optimizer:
        try:
            table_of(optimizer, str(layers.get("optimizer", "auto")))
        except ConfigError as error:
            yield from error.problems
    for name in ("base", "wider"):
        if isinstance(arguments := layers.get(name), Mapping) and isinstance(model, Mapping):
            yield from _check_arguments(model, arguments, f"layers.{name}")


def _check_arguments(model: Mapping[str, Any], arguments: Mapping[str, Any], key: str) -> Iterator[Problem]:
    """Which arguments the model does not take."""
    if "_target_" in arguments:
        yield Problem(f"{key}._target_", "it is the same class as the model's", arguments["_target_"], "leave it out")
    elif new := {name: value for name, value in arguments.items() if name not in model}:
        known = [name for name in model if not str(name).startswith("_")]
        for problem in check_arguments(str(model.get("_target_")), {**model, **new}, "model", ignore=("loss",)):
            name = problem.key.removeprefix("model.")
            if name in new:
                hint = (problem.hint or f"known: {', '.join(known)}").replace("model.", f"{key}.")
                yield Problem(f"{key}.{name}", problem.message, problem.value, hint)
