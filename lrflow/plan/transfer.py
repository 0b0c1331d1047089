"""How LR, weight decay and beta2 go from a tuned run to one of another length, batch or size: factors with sources."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrflow.layers.rules import Table
from lrflow.wording import number

EXPONENT = 0.32
"""The best LR falls as the samples of the run to this power (Bjorck et al., 2024, arXiv 2409.19913)."""

EXPONENTS = (0.28, 0.5)
"""The lowest and the highest published exponent: Filatov et al., 2025 (arXiv 2510.03871); theory (arXiv 2310.07831)."""

PARTS = ("schedule", "horizon", "batch", "weight_decay", "betas")
"""What is transferred, unless `scaling.without` names it."""


@dataclass(frozen=True)
class Factor:
    """A factor on a setting of the tuned run.

    Args:
        what: one of `PARTS`.
        value: the factor; for betas, the exponent of beta2.
        why: its rule and source.
        low: the factor under the published exponent that makes it lowest; None: the rule has one exponent.
        high: the same for the highest.
    """

    what: str
    value: float
    why: str
    low: float | None = None
    high: float | None = None

    def describe(self) -> str:
        """Return the factor in one line: `horizon 0.642 (0.5 to 0.678): 4x the samples ^ -0.32 (arXiv 2409.19913)`."""
        within = f" ({number(self.low)} to {number(self.high)})" if self.low and self.high and self.value != 1 else ""
        return f"{self.what.replace('_', ' ')} {number(self.value)}{within}: {self.why}"

    def record(self) -> dict[str, Any]:
        """Return the factor as plain data."""
        return {name: value for name, value in vars(self).items() if value is not None}


def of_horizon(ratio: float, exponent: float = EXPONENT) -> Factor:
    """Return the factor on the LR for a run of `ratio` times as many samples."""
    low, high = sorted(ratio**-each for each in EXPONENTS)
    source = "arXiv 2409.19913" if exponent == EXPONENT else "scaling.exponent"
    why = f"{number(ratio)}x the samples ^ -{exponent:g} ({source})"
    return Factor("horizon", ratio**-exponent, why, low, high)


def of_batch(ratio: float, table: Table) -> Factor:
    """Return the factor on the LR for a batch of `ratio` times as many examples.

    Args:
        ratio: the batch over that of the tuned run.
        table: `adam`: the square root (Malladi et al., 2022, arXiv 2205.10287); `sgd`: linear (Goyal et al., 2017).
    """
    if table == "sgd":
        return Factor("batch", ratio, f"{number(ratio)}x the batch, linear for SGD (arXiv 1706.02677)")
    return Factor("batch", math.sqrt(ratio), f"root of {number(ratio)}x the batch, for Adam (arXiv 2205.10287)")


def of_width(base: Mapping[str, Any]) -> Factor:
    """Return the factor on the LR for a model of another width than the base of muP, whose rules have their own."""
    sizes = ", ".join(f"{name} {value}" for name, value in base.items())
    return Factor("width", 1.0, f"layers=mup scales each group from its base, {sizes} (arXiv 2203.03466)")


def of_depth(multiplier: float) -> Factor:
    """Return the factor on the LR for another depth, which the model's residual multiplier makes 1 (CompleteP).

    Args:
        multiplier: residual multiplier of the model over that of the tuned run: its blocks over those of the model.
    """
    why = f"{number(1 / multiplier)}x the blocks, whose branches are multiplied by {number(multiplier)}"
    return Factor("depth", 1.0, f"{why} (CompleteP, arXiv 2505.01618)")


def of_weight_decay(lr: float, batch: float, samples: float) -> Factor:
    """Return the factor on a decoupled weight decay that keeps the timescale batch / (LR x decay x samples).

    AdamW averages over the last 1 / (LR x decay) steps, and Wang and Aitchison, 2024, arXiv 2405.13698, keep this time
    constant, in epochs. Here it keeps its share of the run, which is the same for equally many epochs. Bergsma et al.,
    2025, arXiv 2505.13738, confirm it for another batch, but find a smaller share for more samples per parameter.

    Args:
        lr: LR over that of the tuned run.
        batch: examples per step over those of the tuned run.
        samples: samples of the run over those of the tuned run.
    """
    return Factor(
        "weight_decay", batch / (lr * samples), "the same timescale, as a share of the run (arXiv 2405.13698)"
    )


def of_betas(batch: float) -> Factor:
    """Return the exponent of beta2 that keeps its half-life in samples (Marek et al., 2025, arXiv 2507.07101)."""
    return Factor("betas", batch, f"beta2 ^ {number(batch)}, the same half-life in samples (arXiv 2507.07101)")
