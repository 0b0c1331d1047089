"""The preprocessing of the data that a model was trained on: kept in checkpoints, and put in front of a network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lrflow.data import DataModule
from lrflow.errors import LrflowError
from lrflow.training.checkpoint_file import encode

log = logging.getLogger("lrflow")

PROBES = 8
"""Inputs by which it is tested whether a preprocessing is a scale and a shift."""


def preprocessing_of(data: pl.LightningDataModule) -> dict[str, Any] | None:
    """Return what a checkpoint keeps of the preprocessing of the data; None: nothing was fitted to the data.

    Args:
        data: set up for training.

    Returns:
        `of`, the class of the data module, and `values`, what its `fit_normalisation` computed.
    """
    if not isinstance(data, DataModule) or not data.fitted:
        return None
    record = {"of": _name(data), "values": data.fitted}
    try:
        encode({"preprocessing": record})
    except LrflowError:
        kinds = ", ".join(f"{name} ({type(value).__name__})" for name, value in data.fitted.items())
        log.warning(
            "%s.fit_normalisation computes what a checkpoint cannot hold, so an evaluation computes it again: %s",
            type(data).__name__,
            kinds,
        )
        return None
    return record


def restore_preprocessing(data: pl.LightningDataModule, record: Mapping[str, Any] | None) -> None:
    """Make a data module apply what a run has applied; one of another class, or without a fit, is left as it is.

    Args:
        data: not set up yet.
        record: of the run's checkpoint, as `preprocessing_of` returned it; None: an earlier version saved none.
    """
    if record is None or not isinstance(data, DataModule) or record.get("of") != _name(data):
        return
    if type(data).fit_normalisation is not DataModule.fit_normalisation:
        data.use_fitted(record["values"])


class Preprocessed(nn.Module):
    """A network that takes the data as they are read: with the data module's `normalise` in front.

    Args:
        network: maps normalised inputs to outputs.
        data: whose `normalise` is applied.
        units: mean and standard deviation of the targets, if the outputs are scaled to them: those of the whole are in
            the units of the targets.
    """

    def __init__(self, network: nn.Module, data: DataModule, units: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.network = network
        self._normalise = data.normalise
        self._mean, self._scale = units or (0.0, 1.0)
        self._is_scaled = units is not None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's output for a batch of inputs [batch, ...] as `load` returns them."""
        output: Tensor = self.network(self._normalise(inputs))
        return output * self._scale + self._mean if self._is_scaled else output


def scale_and_shift(data: DataModule, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """Return the preprocessing as a scale and a shift, if it is one: normalised = inputs * scale + shift.

    Args:
        data: set up.
        shape: of one input.

    Returns:
        Two float32 tensors of this shape, or without dimensions if all their elements are equal; None: it is not
        elementwise and linear, to a relative error of 1e-4 at random inputs.
    """
    generator = torch.Generator().manual_seed(0)
    try:
        shift = data.normalise(torch.zeros(1, *shape, dtype=torch.float64))
        if shift.shape != (1, *shape) or not shift.is_floating_point():
            return None
        scale = data.normalise(torch.ones(1, *shape, dtype=torch.float64)) - shift
        probes = torch.rand(PROBES, *shape, generator=generator, dtype=torch.float64) * 4 - 2
        probes = probes * torch.logspace(0, 2, PROBES, dtype=torch.float64).reshape(-1, *(1 for _ in shape))
        found = data.normalise(probes)
    except Exception:  # a user's code that takes other inputs
        return None
    scale, shift = scale.double(), shift.double()
    if not torch.allclose(found.double(), probes * scale + shift, rtol=1e-4, atol=1e-4):
        return None
    return _collapsed(scale[0].float()), _collapsed(shift[0].float())


def _collapsed(values: Tensor) -> Tensor:
    first = values.flatten()[:1]
    return first[0].clone() if bool((values == first).all()) else values.clone()


def _name(data: pl.LightningDataModule) -> str:
    return f"{type(data).__module__}.{type(data).__qualname__}"
