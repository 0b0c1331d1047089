"""The settings `data.loader`, `data.sampler` and the group `augment`: the loaders that a data module makes, changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, IterableDataset

from lrflow.augment.base import Augmented, Pipeline
from lrflow.config import Config, instantiate
from lrflow.config.checks.batches import run_loss, targets_of_data
from lrflow.config.checks.keys import needs_workers
from lrflow.config.objective import outputs_of
from lrflow.config.schemas.objects import Data, Loader
from lrflow.data import is_ordered, ordered
from lrflow.data.order import collate_whole
from lrflow.data.sampling import sampled
from lrflow.errors import ConfigError, Problem
from lrflow.training.loaders import map_loaders
from lrflow.training.look_ahead import combine

PREFETCHED = 2
"""Batches that a worker fetches ahead where nothing says how many; torch's default."""

_NO_WORKERS = "the data module makes its training loader without any"


def build_augmentation(config: Config) -> Callable[[Any], Pipeline] | None:
    """Return what makes the augmentation of training batches from the `pixel_moments` of the data; None: there is none.

    Raises:
        ConfigError: an augmentation cannot be built, or is no function of a batch.
    """
    steps = {name: instantiate(node, f"augment.{name}") for name, node in config.augment.nodes().items()}
    for name, step in steps.items():
        if not callable(step):
            message = "makes no function of (inputs, targets, generator)"
            raise ConfigError([Problem(f"augment.{name}._target_", message, config.augment.named[name].target)])
    targets = run_loss(config) or targets_of_data(config)
    kind = targets.kind if targets else None
    return partial(Pipeline, steps, kind, outputs_of(config)) if steps else None


def configure_loaders(
    data: pl.LightningDataModule, section: Data, augment: Callable[[Any], Pipeline] | None = None
) -> None:
    """Give the loaders of a data module the settings of `data.loader`, `data.sampler` and the augmentation.

    The loaders are those that the module makes, copied. So the settings also hold where a module makes its loaders in
    its own code, and without `data.sampler` the order of the data stays what it is.

    Args:
        data: changed in place. Its loaders raise a `ConfigError` where a setting cannot be changed without changing
            the batches or losing the state of the data.
        section: the section `data` of the config.
        augment: makes the augmentation of training batches from the `pixel_moments` of the data; None: there is none.
    """
    options = section.loader
    if augment is not None:
        _augment(data, augment)
    if section.sampler is not None:
        _sample(data, section.sampler)
    if not any(value is not None for value in options.parsed().values()):
        return

    def wrap(name: str) -> None:
        make = getattr(data, name)

        @wraps(make)
        def loaders() -> Any:
            made = make()
            if made is None or (isinstance(made, list) and not made):  # a part without examples
                return made
            flat = combine(made).flattened
            if problems := [problem for one in flat if (problem := _fixed(one, options))]:
                raise ConfigError(problems[:1])
            result = map_loaders(lambda loader: _with_settings(loader, options), made)
            workers = [loader.num_workers for loader in combine(result).flattened if isinstance(loader, DataLoader)]
            if name == "train_dataloader" and not any(workers) and (problems := needs_workers(section, _NO_WORKERS)):
                raise ConfigError(problems)
            return result

        setattr(data, name, loaders)

    for name in ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"):
        if is_overridden(name, data):
            wrap(name)


def _augment(data: pl.LightningDataModule, augment: Callable[[Any], Pipeline]) -> None:
    """Augment the batches of the training loaders; the loaders raise a `ConfigError` if they have another order."""
    make = data.train_dataloader

    def augmented(loader: DataLoader[Any]) -> DataLoader[Any]:
        if not is_ordered(ordered(loader, 0)) or loader.batch_size is None:
            message = "needs a training loader in lrflow's order, by which each batch has its own random numbers"
            raise ConfigError([Problem("augment", message, hint="leave it out")])
        result = copy.copy(loader)
        dataset = Augmented(loader.dataset, loader.collate_fn, augment(getattr(data, "pixel_moments", None)))
        vars(result).update(dataset=dataset, collate_fn=collate_whole, _iterator=None)
        return result

    data.train_dataloader = wraps(make)(lambda: map_loaders(augmented, make()))  # type: ignore[method-assign]


def _sample(data: pl.LightningDataModule, sampler: str) -> None:
    """Draw the examples of the training loaders in another way; the loaders raise a `ConfigError` if they cannot."""
    make = data.train_dataloader

    def drawn(loader: DataLoader[Any]) -> DataLoader[Any]:
        return sampled(loader, sampler, getattr(data, "train_weights", None))

    data.train_dataloader = wraps(make)(lambda: map_loaders(drawn, make()))  # type: ignore[method-assign]


def _fixed(loader: object, options: Loader) -> Problem | None:
    """Return the problem of a loader whose settings cannot be changed; None: they can."""
    name = type(loader).__name__
    if isinstance(loader, DataLoader) and not hasattr(loader, "state_dict"):
        if isinstance(loader.dataset, IterableDataset) and options.num_workers not in (None, loader.num_workers):
            message = (
                f"{type(loader.dataset).__name__} is an IterableDataset, which divides its examples among the workers "
                "itself: another number of workers would change the batches or repeat them"
            )
            hint = f"leave it out, which gives {loader.num_workers}, or set the number where the loader is made"
            return Problem("data.loader.num_workers", message, options.num_workers, hint)
        return None
    reason = (
        "saves its own state, which a changed copy would not do"
        if isinstance(loader, DataLoader)
        else "is no DataLoader of torch and has no such settings"
    )
    message = f"the data module returns an object of {name}, which {reason}"
    return Problem("data.loader", message, options.plain(), "leave it out, and set it where the loader is made")


def _with_settings(loader: DataLoader[Any], options: Loader) -> DataLoader[Any]:
    """Return a copy of a loader with other settings, as `ordered` makes one with another order."""
    result = copy.copy(loader)
    workers = loader.num_workers if options.num_workers is None else options.num_workers
    changed: dict[str, Any] = {"num_workers": workers, "_iterator": None}
    if options.pin_memory is not None:
        changed["pin_memory"] = options.pin_memory and torch.accelerator.is_available()  # torch warns without one
    if workers:
        keep = loader.persistent_workers if options.persistent_workers is None else options.persistent_workers
        ahead = options.prefetch_factor or loader.prefetch_factor or PREFETCHED
        changed |= {"persistent_workers": keep, "prefetch_factor": ahead}
    else:
        changed |= {"persistent_workers": False, "prefetch_factor": None, "timeout": 0}
    vars(result).update(changed)  # DataLoader forbids some assignments, because an existing iterator would ignore them
    return result
