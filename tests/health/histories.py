"""Histories of runs that never were, for detectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrflow.health import Detector, Facts, Finding, History
from lrflow.training import Block
from lrflow.training.group_norms import GroupNorms


def history(
    loss: np.ndarray,
    growth: float | None = None,
    lr: np.ndarray | float = 0.3,
    steps: int | None = None,
    grad_norm: np.ndarray | float = 1.0,
    cosine: float = float("nan"),
    **facts: Any,
) -> History:
    """Return the history of these losses.

    Args:
        loss: of each step; [n].
        growth: how many times the norm of the weights has grown; None: no norms are measured.
        lr: of each step, or of all.
        steps: of the plan; None: as many as there are losses.
        grad_norm: of each step, or of all.
        cosine: of all updates that are measured.
        facts: other facts.
    """
    count = len(loss)
    norms = None
    if growth is not None:
        rows = np.arange(0, count, max(1, count // 50))
        weight = np.linspace(1, growth, len(rows))[:, None]
        norms = GroupNorms(rows, weight, weight, 0.01 * weight, np.full(len(rows), cosine))
    rates = np.broadcast_to(np.asarray(lr, dtype=float), (count,))[:, None]
    made = History(Facts(steps or count, **{"lr": float(np.max(lr)), **facts}))
    gradients = np.broadcast_to(np.asarray(grad_norm, dtype=float), (count,))
    made.extend(Block(0, loss, gradients, np.ones(count), rates, rates, norms=norms))
    return made


def judged(detector: Detector, kind: str, shown: History) -> Finding | None:
    """Return what a detector finds."""
    detector.kind = kind
    return detector.judge(shown)
