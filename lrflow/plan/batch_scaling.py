"""How the peak LR follows the batch of an optimizer step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class BatchScaling:
    """One factor for the peak LR of every group, from the batch of an optimizer step over a reference batch.

    `linear`: batch / reference (Goyal et al., 2017, arXiv 1706.02677). `sqrt`: its square root (Krizhevsky, 2014,
    arXiv 1404.5997; for Adam Malladi et al., 2022, arXiv 2205.10287, whose rule changes betas and eps too).

    Args:
        rule: `linear` or `sqrt`.
        batch: examples of an optimizer step.
        reference: examples of an optimizer step for which the LRs of the config are right.
        parts: what the batch is made of, `256 x 2 devices x 2 accumulated`; empty: it was given.
    """

    rule: str
    batch: int
    reference: int
    parts: str = ""

    @property
    def factor(self) -> float:
        """What every peak is multiplied by."""
        ratio = self.batch / self.reference
        return ratio if self.rule == "linear" else math.sqrt(ratio)

    def record(self) -> dict[str, Any]:
        """What was done, as plain data for the record of a run."""
        return {**asdict(self), "factor": self.factor}

    def describe(self, optimizer: Mapping[str, Any]) -> str:
        """What is done to the peak LR, in one line, and in a second one what the rule has besides that is not done.

        Args:
            optimizer: the group's content.
        """
        lr, betas, eps = optimizer["lr"], optimizer.get("betas"), optimizer.get("eps")
        parts = f" ({self.parts})" if self.parts else ""
        line = (
            f"peak LR {lr:.6g} x {self.factor:.4g} = {lr * self.factor:.4g}: "
            f"{self.rule} scaling, batch {self.batch}{parts} over reference {self.reference}"
        )
        if self.rule == "sqrt" and isinstance(eps, float) and isinstance(betas, Sequence) and len(betas) == 2:
            return f"{line}\n{self._beside_lr(betas, eps)}"
        return line

    def _beside_lr(self, betas: Sequence[float], eps: float) -> str:
        """Over kappa = batch / reference: beta becomes 1 - kappa (1 - beta), eps becomes eps / sqrt(kappa)."""
        kappa = self.batch / self.reference
        scaled = [1 - kappa * (1 - beta) for beta in betas]
        if min(scaled) < 0:
            return "nothing else is scaled; the rule for Adam has no betas at a batch so much larger"
        shown = ",".join(f"{beta:.6g}" for beta in scaled)
        return (
            "nothing else is scaled; the rule for Adam also has "
            f"optimizer.betas=[{shown}] optimizer.eps={eps / math.sqrt(kappa):.3g}"
        )
