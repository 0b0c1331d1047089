"""How the peak LR follows the batch, where the config asks for it: the group `scaling`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lrflow.errors import ConfigError, Problem

if TYPE_CHECKING:
    from lrflow.config.config import Config


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


def batch_scaling(config: Config, devices: int | None = None) -> BatchScaling | None:
    """What the group `scaling` asks for; None where it asks for nothing.

    Args:
        config: `scaling`, and what the batch is made of: `data.batch_size`, devices, nodes, accumulation.
        devices: processes that train together, all nodes counted; None: as the config says.

    Raises:
        ConfigError: the batch is not known.
    """
    asked, trainer = config.scaling, config.trainer
    if asked.rule == "none" or asked.reference is None:
        return None
    if asked.batch is not None:
        return BatchScaling(asked.rule, asked.batch, asked.reference)
    if config.data.batch_size is None:
        message = f"expected a number of examples: {asked.rule} scaling needs the batch, and the data names none"
        hint = "give data.batch_size where the data takes one, or the examples of an optimizer step: scaling.batch=N"
        raise ConfigError([Problem("scaling.batch", message, None, hint)])
    devices = devices or trainer.processes
    if devices is None:
        message = f"expected a number: {asked.rule} scaling needs to know how many devices there are"
        raise ConfigError([Problem("trainer.devices", message, "auto")])
    counts = {"devices": devices, "accumulated": trainer.accumulate_grad_batches}
    parts = [str(config.data.batch_size), *(f"{count} {what}" for what, count in counts.items() if count > 1)]
    batch = config.data.batch_size * math.prod(counts.values())
    return BatchScaling(asked.rule, batch, asked.reference, " x ".join(parts) if len(parts) > 1 else "")


def check_scaling(config: Config) -> list[Problem]:
    """The group `scaling`: is anything given that does nothing, or missing that it needs?"""
    asked = config.scaling
    if asked.rule == "none":
        given = {"scaling.reference": asked.reference, "scaling.batch": asked.batch}
        hint = "add scaling=linear or scaling=sqrt, or leave it out"
        return [
            Problem(key, "nothing is scaled by the batch", value, hint)
            for key, value in given.items()
            if value is not None
        ]
    if asked.reference is None:
        message = f"expected a number of examples: the batch for which {asked.rule} scaling leaves the LR as it is"
        return [Problem("scaling.reference", message, None)]
    if config.trainer.devices == "auto":
        return []  # the trainer will know
    try:
        batch_scaling(config)
    except ConfigError as error:
        return error.problems
    return []
