"""The guard that skips a step whose loss or gradient norm is an outlier."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from lrflow.clip.clip import Clip, Gradients, check_arguments, clip_norm

FEWEST = 20
"""Number of steps that a mean needs at least, unless the window is shorter."""


class Skip(Clip):
    """Skips a step whose loss or gradient norm is more than `sigma` standard deviations above that of the last steps.

    Mean and deviation are those of the last `window` steps, once there are half as many, at least 20. As in OLMo-core's
    SkipStepOptimizer (OLMo 2, 2025, arXiv:2501.00656, section 3), those of skipped steps count too, so that a lasting
    change is soon accepted; unlike there, values far below the mean are no reason to skip. A value that is not finite
    is one, and is not remembered.

    A skipped step has no gradients, so that the optimizer changes neither weights nor its statistics, whatever it is.
    This is decided on the CPU: each step waits for the device.

    Args:
        sigma: number of standard deviations.
        window: number of steps that are remembered.
        max_norm: also limits the gradient norm of the steps that are made; None: no such limit.
    """

    def __init__(self, sigma: float = 6.0, window: int = 128, max_norm: float | None = None) -> None:
        check_arguments(self, locals())
        self.sigma, self.window, self.max_norm = sigma, window, max_norm
        self._fewest = min(window, max(FEWEST, window // 2))
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)

    def __call__(self, gradients: Gradients) -> Tensor:
        """Skip the step, or let it pass."""
        loss, norm = torch.stack([gradients.loss.to(gradients.norm), gradients.norm]).tolist()
        skips = self._is_outlier(loss, self._losses) or self._is_outlier(norm, self._norms)
        for value, known in ((loss, self._losses), (norm, self._norms)):
            if math.isfinite(value):
                known.append(value)
        if skips:
            gradients.drop()
            return gradients.norm.new_zeros(())
        if self.max_norm is None:
            return gradients.norm.new_ones(())
        return clip_norm(gradients, self.max_norm)

    def _is_outlier(self, value: float, known: Sequence[float]) -> bool:
        if len(known) < self._fewest:
            return False
        return not math.isfinite(value) or value - fmean(known) > self.sigma * stdev(known) > 0

    def state_dict(self) -> dict[str, Any]:
        """Return the losses and norms that are remembered."""
        return {"losses": list(self._losses), "norms": list(self._norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them, or the last of them if the window became shorter."""
        self._losses = deque(state["losses"], self.window)
        self._norms = deque(state["norms"], self.window)
