"""Tensors as arrays of Flower's messages, and back, exactly."""

from __future__ import annotations

import torch
from flwr.app import Array
from torch import Tensor

MEASURED = "measured/"
"""Before the number of a client in the name of its metrics, since the records of a message have different names."""


def array(value: Tensor) -> Array:
    """Return a tensor as an array of a message."""
    return Array(value.detach().cpu().numpy())


def tensor(value: Array) -> Tensor:
    """Return the tensor of an array of a message; a copy, since NumPy's is read-only."""
    return torch.from_numpy(value.numpy().copy())
