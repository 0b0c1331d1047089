"""Checks of how training batches are made: `data.sampler` and the group `augment` against the facts of the data."""

from __future__ import annotations

from collections.abc import Iterator

from lrflow.augment.traits import LIMITS, traits_named
from lrflow.config.config import Config
from lrflow.config.objective import loss_of, outputs_of
from lrflow.errors import ConfigError, Problem
from lrflow.limits import outside
from lrflow.objectives import LANGUAGE_MODEL, ChosenLoss, chosen_loss, is_of_torch

_WITH_COLUMNS = ("lrflow.data.Table", "lrflow.data.Images")
"""Data modules whose weights are a column, `data.weight`."""


def check_batches(config: Config) -> Iterator[Problem]:
    """Yield a problem for each setting of the training batches that does not fit the data, as far as they are known."""
    yield from _check_sampler(config)
    for name, node in config.augment.named.items():
        if traits := traits_named(node.target):
            key = f"augment.{name}"
            yield from outside(LIMITS, node.plain(), key)
            shape = config.data.facts.shape if config.data.facts else None
            if traits.images and shape is not None and len(shape) != 3:
                message = f"needs images of three dimensions; the inputs of the data have the shape {shape}"
                yield Problem(key, message, hint=f"augment.{name}=null leaves it out")
            if traits.mixes:
                yield from _check_mixing(config, key, traits.numbers)


def _check_mixing(config: Config, key: str, numbers: bool) -> Iterator[Problem]:
    """Yield a problem if the inputs or targets do not mix, or the loss takes no mixed targets."""
    of_data, facts, loss = targets_of_data(config), config.data.facts, run_loss(config)
    if facts and facts.cardinalities:
        message = "mixes inputs, and the indices of categories do not mix"
        yield Problem(key, message, hint="data.categories=one_hot, with another model than model=table")
    if facts and getattr(facts, "vocabulary", None):
        yield Problem(key, "mixes inputs, and the tokens of texts do not mix", hint=f"{key}=null leaves it out")
    if of_data and of_data.kind == "numbers" and not numbers:
        message = "mixes classes by the area of their images, and the targets of the data are numbers"
        yield Problem(key, message, hint="augment=mixup mixes numbers")
        return
    kind = loss.kind if loss else of_data and of_data.kind
    if kind == "classes" and outputs_of(config) is None:
        yield Problem(key, "mixes targets and needs the number of classes", hint="such as data.facts.outputs=10")
    if loss is None or kind != "classes" or not is_of_torch(loss):
        return
    if str(loss) != "cross_entropy":
        message = f"makes targets of probabilities of the classes, which {loss} does not take"
        yield Problem(key, message, hint="model.loss=cross_entropy")
    elif loss.ignored is not None:
        message = f"torch ignores no class where targets are probabilities, and {key} makes such"
        yield Problem("model.loss.ignore_index", message, loss.ignored, "leave one of them out")


def _check_sampler(config: Config) -> Iterator[Problem]:
    data = config.data
    weight = data.plain().get("weight") if data.target in _WITH_COLUMNS else None
    if data.sampler == "weighted" and data.target in _WITH_COLUMNS and weight is None:
        yield Problem("data.sampler", "needs a column of weights", data.sampler, "data.weight=COLUMN")
    elif data.sampler == "weighted" and data.target.startswith("lrflow.") and data.target not in _WITH_COLUMNS:
        message = "the training examples have no weights"
        yield Problem("data.sampler", message, data.sampler, "data=table or data=images with data.weight=COLUMN")
    elif weight is not None and data.sampler != "weighted":
        hint = "data.sampler=weighted draws by it; data.columns={NAME: ignore} leaves a column of a table out"
        yield Problem("data.weight", "has no effect without data.sampler=weighted", weight, hint)
    if data.sampler == "balanced" and getattr(data.facts, "head", None) == LANGUAGE_MODEL:
        message = "draws all classes equally often, and a language model has none"
        yield Problem("data.sampler", message, data.sampler, "null")
    if data.sampler == "balanced" and (kind := targets_of_data(config)) and kind.kind == "numbers":
        message = "draws all classes equally often, and the targets of the data are numbers"
        yield Problem("data.sampler", message, data.sampler, "data.sampler=weighted, or null")


def run_loss(config: Config) -> ChosenLoss | None:
    """Return the loss of the run; None: a LightningModule's own, or one that is reported by itself."""
    try:
        return loss_of(config)
    except ConfigError:
        return None


def targets_of_data(config: Config) -> ChosenLoss | None:
    """Return the loss that shows the kind of the targets: that of the facts, or the run's; None: unknown."""
    of_facts = config.data.facts.loss if config.data.facts else None
    try:
        return chosen_loss(of_facts) if of_facts is not None else run_loss(config)
    except ConfigError:  # reported by itself
        return None
