"""Checks of how training batches are made: `data.sampler` and `data.augment` against the facts of the data."""

from __future__ import annotations

from collections.abc import Iterator

from lrflow.config.config import Config
from lrflow.config.objective import loss_of
from lrflow.errors import ConfigError, Problem
from lrflow.objectives import ChosenLoss, chosen_loss

_WITH_COLUMNS = ("lrflow.data.Table", "lrflow.data.Images")
"""Data modules whose weights are a column, `data.weight`."""


def check_batches(config: Config) -> Iterator[Problem]:
    """Yield a problem for each setting of the training batches that does not fit the data, as far as they are known."""
    yield from _check_sampler(config)
    augment, facts = config.data.augment, config.data.facts
    if (augment.flip or augment.crop) and facts is not None and facts.shape is not None and len(facts.shape) != 3:
        message = f"needs images of three dimensions; the inputs of the data have the shape {facts.shape}"
        yield Problem("data.augment", message, augment.plain(), "leave it out")


def _check_sampler(config: Config) -> Iterator[Problem]:
    data = config.data
    weight = data.plain().get("weight") if data.target in _WITH_COLUMNS else None
    if data.sampler == "weighted" and data.target in _WITH_COLUMNS and weight is None:
        yield Problem("data.sampler", "needs a column of weights", data.sampler, "data.weight=COLUMN")
    elif weight is not None and data.sampler != "weighted":
        hint = "data.sampler=weighted draws by it; data.columns={NAME: ignore} leaves a column of a table out"
        yield Problem("data.weight", "has no effect without data.sampler=weighted", weight, hint)
    if data.sampler == "balanced" and (kind := targets_of_data(config)) and kind.kind == "numbers":
        message = "draws all classes equally often, and the targets of the data are numbers"
        yield Problem("data.sampler", message, data.sampler, "data.sampler=weighted, or null")


def targets_of_data(config: Config) -> ChosenLoss | None:
    """Return the loss that shows the kind of the targets: that of the facts, or the run's; None: unknown."""
    of_facts = config.data.facts.loss if config.data.facts else None
    try:
        return chosen_loss(of_facts) if of_facts is not None else loss_of(config)
    except ConfigError:  # reported by itself
        return None
