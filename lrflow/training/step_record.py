"""What a run records of each step before it is read: tensors stay on the device until then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Step:
    """What is known of a step so far.

    Attributes:
        loss: mean over its accumulation window; None: it has none.
        norm: of all gradients before clipping; None: there are none.
        parts: the mean squared norm of the gradients of parts of its batch; None: it is not measured.
        clip: the factor of a guard; None: 1.
        rates: the LR of each parameter group that the optimizer uses; None: it has not stepped yet.
        after: the LRs after the step; None: they are not recorded.
        factor: of the planned LRs.
        settings: other scheduled settings.
        estimates: factors of the LRs that the optimizer estimates.
        seconds: since the previous step.
        waited: seconds of them in which the process waited for data.
        is_measured: whether the norms of the groups are.
    """

    loss: Tensor | None = None
    norm: Tensor | None = None
    parts: Tensor | None = None
    clip: Tensor | None = None
    rates: list[Any] | None = None
    after: list[Any] | None = None
    factor = 1.0
    settings: Sequence[float] = ()
    estimates: Sequence[Any] = ()
    seconds = waited = 0.0
    is_measured = False


def column(values: Sequence[Tensor | None], device: torch.device, missing: float = 0.0) -> Tensor:
    """Return numbers on a device as one tensor, float32 [n]; None is `missing`."""
    if (known := next((one for one in values if one is not None), None)) is None:
        return torch.full((len(values),), missing, device=device)
    other = torch.full_like(known, missing)
    return torch.stack([other if one is None else one for one in values]).reshape(-1).float()


def copied(values: Sequence[Any]) -> list[Any]:
    """Return values of which tensors are copied."""
    return [one.clone() if isinstance(one, Tensor) else one for one in values]


def numbers(rates: Sequence[Sequence[Any]]) -> np.ndarray:
    """Return LRs as an array [steps, groups], float64; tensors are copied from their device at once."""
    if isinstance(rates[0][0], Tensor):
        return torch.stack([torch.stack([*row]) for row in rates]).double().cpu().numpy()
    return np.array(rates)
