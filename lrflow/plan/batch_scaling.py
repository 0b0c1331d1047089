"""The batch of an optimizer step, as devices and accumulation make it, and the scaling of the peak LR with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StepBatch:
    """The batch of an optimizer step.

    Args:
        per_device: examples per batch and device.
        devices: processes that train together, on all nodes.
        accumulated: batches per optimizer step on each device.
    """

    per_device: int
    devices: int = 1
    accumulated: int = 1

    @property
    def size(self) -> int:
        """Examples per optimizer step."""
        return self.per_device * self.devices * self.accumulated

    @property
    def parts(self) -> str:
        """The factors of the size, `256 x 2 devices x 2 accumulated`; empty if there is only one."""
        counts = {"devices": self.devices, "accumulated": self.accumulated}
        parts = [str(self.per_device), *(f"{count} {what}" for what, count in counts.items() if count > 1)]
        return " x ".join(parts) if len(parts) > 1 else ""

    def describe(self) -> str:
        """Return the size and its factors: `batch 1024 = 256 x 2 devices x 2 accumulated`."""
        return f"batch {self.size} = {self.parts or self.per_device}"

    @classmethod
    def divided(cls, size: int, per_device: int, devices: int) -> StepBatch | None:
        """Return a batch of a size, divided over devices and accumulation; None if it cannot be divided exactly.

        Args:
            size: examples per optimizer step.
            per_device: examples per batch and device; fewer only if the devices have more places than `size`.
            devices: processes that train together.
        """
        accumulated = max(1, size // (per_device * devices))
        divided = cls(min(per_device, size // devices), devices, accumulated)
        return divided if divided.size == size else None

    @classmethod
    def nearest_sizes(cls, size: int, per_device: int, devices: int) -> list[int]:
        """Return the sizes below and above `size` that can be divided, the nearer one first."""
        each = per_device * devices if size > per_device * devices else devices
        below = size - size % each
        return sorted((near for near in (below, below + each) if near), key=lambda near: abs(near - size))

    @classmethod
    def nearest_per_device(cls, size: int, per_device: int, devices: int) -> int | None:
        """Return the most examples per batch and device, at most `per_device`, by which `size` can be divided."""
        if size % devices:
            return None
        share = size // devices
        return next(each for each in range(min(per_device, share), 0, -1) if share % each == 0)


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
