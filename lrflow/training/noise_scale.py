"""The gradient noise scale of a run: how large a batch has to be so that its gradient is more signal than noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class GradientNoise:
    """Estimates from some steps; G is the gradient of the expected loss, S the covariance of that of one example.

    Args:
        rows: positions of the steps in their block; [m], int.
        trace: tr(S) at each of these steps, unbiased; [m], float64.
        squared: |G|^2, unbiased, so it may be negative; [m], float64.
        scale: tr(S) / |G|^2 in examples, each averaged over this and earlier steps; NaN while one is not positive;
            [m], float64.
    """

    rows: np.ndarray
    trace: np.ndarray
    squared: np.ndarray
    scale: np.ndarray

    def part(self, start: int, stop: int) -> GradientNoise:
        """Return the estimates at these positions in the block, counted from `start`."""
        inside = (self.rows >= start) & (self.rows < stop)
        return GradientNoise(self.rows[inside] - start, self.trace[inside], self.squared[inside], self.scale[inside])


def estimate_noise(small: Any, large: Any, parts: Any, examples: Any) -> tuple[Any, Any]:
    """Return unbiased estimates of tr(S) and |G|^2 (McCandlish et al., 2018, appendix A.1).

    Args:
        small: squared norm of the gradient of a part of a batch, or its mean over the parts.
        large: squared norm of the gradient of the batch.
        parts: how many times as large as a part the batch is, more than 1.
        examples: examples in a part.
    """
    return examples * parts * (small - large) / (parts - 1), (parts * large - small) / (parts - 1)
