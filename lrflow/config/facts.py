"""Checks that a model of lrflow's fits the facts of the data, before torch would fail in the first step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

from lrflow.config.config import Config
from lrflow.config.objective import loss_of
from lrflow.errors import ConfigError, Problem

_WHOLE = ("lrflow.models.Logistic", "lrflow.models.MLP")
"""Models that flatten their input: only the number of its values counts."""
_IMAGE = ("lrflow.models.CNN", "lrflow.models.ResNet")


def check_facts(config: Config) -> Iterator[Problem]:
    """Yield a problem for each size of a model of lrflow's that the data contradict; facts that are not known pass."""
    model, facts = config.model, config.data.facts
    if facts is None or model.target not in (*_WHOLE, *_IMAGE):
        return
    given = model.plain()
    shape, outputs = given.get("shape"), given.get("outputs")
    if facts.shape is not None and _is_shape(shape) and not _takes(model.target, shape, facts.shape):
        hint = f"leave it out, or set data.facts.shape if the data have other inputs; {_sizes(model.target)}"
        yield Problem("model.shape", f"the inputs of the data have the shape {facts.shape}", shape, hint)
    if facts.outputs is None or not isinstance(outputs, int) or isinstance(outputs, bool):
        return
    try:
        loss = loss_of(config)
    except ConfigError:  # reported by itself
        return
    classes = loss is not None and loss.kind == "classes"
    if outputs == 1 and loss is not None and not classes:  # two classes are one label, and one number for each example
        return
    if outputs < facts.outputs or (outputs != facts.outputs and not classes):
        what = (
            f"the data have {facts.outputs} classes" if classes else f"the data have {facts.outputs} values to predict"
        )
        yield Problem("model.outputs", what, outputs, f"leave it out: it is {facts.outputs} then")


def _is_shape(shape: Any) -> TypeGuard[list[int]]:
    return isinstance(shape, list) and all(isinstance(size, int) for size in shape)


def _takes(target: str, shape: Sequence[int], given: Sequence[int]) -> bool:
    if target in _WHOLE:
        return math.prod(shape) == math.prod(given)
    if target.endswith("ResNet"):  # it takes the mean over any image
        return list(shape[:1]) == list(given[:1])
    return list(shape) == list(given)


def _sizes(target: str) -> str:
    name = target.rpartition(".")[2]
    return f"{name} needs the same {'number of values' if target in _WHOLE else 'sizes'}"
