"""Averages of the weights that training goes through: updated after each step, saved and restored exactly."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lrflow.plan.averaging import Averaging

log = logging.getLogger("lrflow")


class WeightAverages:
    """One or more averages of parameters. An update is one fused operation per average and never waits for the device.

    An average of half-precision parameters is in float32. Every process of a data-parallel run computes the same
    averages, since its weights are the same.

    Args:
        averaging: which steps enter, with which share.
        parameters: the parameters by name.
    """

    def __init__(self, averaging: Averaging, parameters: Mapping[str, nn.Parameter]) -> None:
        self.averaging = averaging
        self._entered = 0
        self._names = list(parameters)
        self._parameters = [parameter.detach() for parameter in parameters.values()]
        self._averages = [
            [torch.empty_like(one, dtype=torch.promote_types(one.dtype, torch.float32)) for one in self._parameters]
            for _ in range(averaging.count)
        ]

    @property
    def entered(self) -> int:
        """Number of weights that have entered; without any there is no average yet."""
        return self._entered

    @torch.no_grad()
    def update(self, step: int, decay: float | None = None) -> None:
        """Let the weights enter the averages if they do after this step, counted from 1.

        Args:
            step: optimizer steps made so far.
            decay: of `ema` at this step; None: that of all steps.
        """
        if not self.averaging.enters(step):
            return
        shares = self.averaging.shares(self._entered, decay)
        for average, share in zip(self._averages, shares, strict=True):
            if self._entered:
                torch._foreach_lerp_(average, _alike(self._parameters, average), share)
            else:
                torch._foreach_copy_(average, self._parameters)
        self._entered += 1

    @torch.no_grad()
    def write(self) -> None:
        """Write the evaluated average, the first one, into the parameters."""
        torch._foreach_copy_(self._parameters, self._averages[0])

    def evaluated(self) -> dict[str, Tensor]:
        """Return the evaluated average by parameter name; its tensors are those of the average, not copies."""
        return dict(zip(self._names, self._averages[0], strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint keeps."""
        averages = [dict(zip(self._names, average, strict=True)) for average in self._averages]
        return {
            "continues": list(self.averaging.continues),
            "entered": self._entered,
            "averages": averages if self._entered else [],
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Restore the averages, if they can be continued; otherwise averaging begins anew, which is reported.

        Args:
            state: what `state_dict` returned.
            step: steps of the run so far.
        """
        self._entered = 0
        if not state["entered"]:
            return
        averages = state["averages"]
        fits = state["continues"] == list(self.averaging.continues)
        fits = fits and all(set(average) == set(self._names) for average in averages)
        if not fits or step < self.averaging.first:
            why = "another one is configured now" if not fits else f"it now starts at step {self.averaging.first:,}"
            log.warning("the average of the weights so far is dropped: %s", why)
            return
        self._entered = state["entered"]
        for own, saved in zip(self._averages, averages, strict=True):
            torch._foreach_copy_(own, [saved[name] for name in self._names])


def _alike(parameters: list[Tensor], averages: list[Tensor]) -> list[Tensor]:
    """Return the parameters in the precision of their averages."""
    return [one.to(average.dtype) for one, average in zip(parameters, averages, strict=True)]
