"""Scaling of the peak LR with the batch of an optimizer step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class BatchScaling:
    """A factor on the peak LR of every group, from the ratio of an optimizer step's batch to a reference batch.

    `linear`: batch / reference (Goyal et al., 2017, arXiv 1706.02677). `sqrt`: its square root (Krizhevsky, 2014,
    arXiv 1404.5997; for Adam Malladi et al., 2022, arXiv 2205.10287, whose rule changes betas and eps too).

    Args:
        rule: `linear` or `sqrt`.
        batch: examples per optimizer step.
        reference: examples per optimizer step for which the config's LRs were chosen.
        parts: factors of the batch, `256 x 2 devices x 2 accumulated`; empty if the batch was given.
    """

    rule: str
    batch: int
    reference: int
    parts: str = ""

    @property
    def factor(self) -> float:
        """The factor on every peak LR."""
        ratio = self.batch / self.reference
        return ratio if self.rule == "linear" else math.sqrt(ratio)

    def record(self) -> dict[str, Any]:
        """Return the scaling as plain data for the record of a run."""
        return {**asdict(self), "factor": self.factor}

    def describe(self, optimizer: Mapping[str, Any]) -> str:
        """Describe the scaling in one line; a second line names settings that the rule would scale but lrflow does not.

        Args:
            optimizer: content of the config group `optimizer`.
        """
        lr, betas, eps = optimizer["lr"], optimizer.get("betas"), optimizer.get("eps")
        parts = f" ({self.parts})" if self.parts else ""
        line = (
            f"peak LR {lr:.6g} x {self.factor:.4g} = {lr * self.factor:.4g}: "
            f"{self.rule} scaling, batch {self.batch}{parts} over reference {self.reference}"
        )
        if self.rule == "sqrt" and isinstance(eps, float) and isinstance(betas, Sequence) and len(betas) == 2:
            return f"{line}\n{self._unscaled_settings(betas, eps)}"
        return line

    def _unscaled_settings(self, betas: Sequence[float], eps: float) -> str:
        """Describe the rule's 1 - kappa (1 - beta) and eps / sqrt(kappa), with kappa = batch / reference."""
        kappa = self.batch / self.reference
        scaled = [1 - kappa * (1 - beta) for beta in betas]
        if min(scaled) < 0:
            return "nothing else is scaled; the rule for Adam has no betas for a batch this much larger"
        scaled_betas = ",".join(f"{beta:.6g}" for beta in scaled)
        return (
            "nothing else is scaled; the rule for Adam also has "
            f"optimizer.betas=[{scaled_betas}] optimizer.eps={eps / math.sqrt(kappa):.3g}"
        )
