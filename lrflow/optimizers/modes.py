"""Optimizers with two modes: they train at other weights than those that are meant to be used."""

from __future__ import annotations

from torch.optim import Optimizer


def has_modes(optimizer: Optimizer | type[Optimizer]) -> bool:
    """Whether an optimizer, or a class of optimizers, has `train()` and `eval()`, as the schedule-free ones do."""
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


def members(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizers that one is composed of, or itself."""
    composed = getattr(optimizer, "optimizers", None)
    return list(composed.values()) if composed else [optimizer]
