"""Which of several processes this one is."""

from __future__ import annotations

from pytorch_lightning.utilities import rank_zero_only


def rank() -> int:
    """The global rank, known from the environment before any Trainer is made; 0 for a single process."""
    return int(getattr(rank_zero_only, "rank", 0) or 0)
