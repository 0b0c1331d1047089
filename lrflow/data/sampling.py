"""The setting `data.sampler`: how often an epoch draws each example, by the classes or weights of the training part."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from lrflow.data.order import Draws, is_ordered, ordered
from lrflow.data.splits import are_classes
from lrflow.errors import ConfigError, Problem


def sampled(loader: DataLoader[Any], sampler: str, weights: Any = None) -> DataLoader[Any]:
    """Return a copy of a training loader that draws its examples in another way.

    An epoch of `balanced` and `weighted` has as many draws as there are examples.

    Args:
        loader: in lrflow's order, or in one that lrflow can replace.
        sampler: `sequential`, `shuffled`, `balanced` or `weighted`.
        weights: numbers of at least 0, one per example, for `weighted`; None: the data have none.

    Raises:
        ConfigError: the loader has an order of its own, its examples have no classes, or the weights do not fit.
    """
    draws = None
    if sampler == "balanced":
        targets = targets_of(loader.dataset)
        if targets is None or not are_classes(targets):
            name = type(loader.dataset).__name__
            reason = f"{name} has no attribute `targets`" if targets is None else "its targets are no class numbers"
            raise _problem(sampler, f"draws all classes equally often, and {reason}", "data.sampler=weighted, or null")
        draws = Draws.balanced(np.asarray(targets))
    elif sampler == "weighted":
        draws = Draws(_checked(weights, len(loader.dataset)))  # type: ignore[arg-type]
    result = ordered(loader, 0, shuffle=sampler != "sequential", draws=draws)
    if not is_ordered(result):
        raise _problem(sampler, "the data module makes a training loader with an order of its own", "leave it out")
    return result


def targets_of(dataset: object) -> torch.Tensor | None:
    """Return the targets of all examples of a data set, without loading any; None: it does not hold them.

    Args:
        dataset: a `TensorDataset`, one with an attribute `targets`, or one that wraps such a data set as `dataset`.
    """
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1] if len(dataset.tensors) > 1 else None
    if (own := getattr(dataset, "targets", None)) is not None:
        return torch.as_tensor(own)
    if (inner := getattr(dataset, "dataset", None)) is None or (found := targets_of(inner)) is None:
        return None
    return found[torch.as_tensor(dataset.indices)] if isinstance(dataset, Subset) else found


def _checked(weights: Any, examples: int) -> np.ndarray:
    """Return weights as an array.

    Raises:
        ConfigError: they are not one finite number of at least 0 for each example, or all of them are 0.
    """
    if weights is None:
        hint = "data.weight=COLUMN of a table or a list of images; a data module of your own has `train_weights`"
        raise _problem("weighted", "the training examples have no weights", hint)
    found = np.asarray(weights, np.float64)
    if found.shape != (examples,):
        expected = f"expected {examples:,} weights, one for each training example"
        raise _problem("weighted", f"{expected}; train_weights has the shape {list(found.shape)}")
    if not np.isfinite(found.sum()) or (found < 0).any() or not found.any():
        raise _problem("weighted", "expected finite weights of at least 0, some of them above 0")
    return found


def _problem(sampler: str, message: str, hint: str | None = None) -> ConfigError:
    return ConfigError([Problem("data.sampler", message, sampler, hint)])
