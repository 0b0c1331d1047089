"""The LR that a run used, and what changed it on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrflow.history import read_history


@dataclass(frozen=True)
class Actual:
    """The LR that a run used.

    Args:
        steps: the steps that are known; [n], int64.
        rates: the LR of each trainable group at these; [n, groups], float64.
        events: what changed it, as plain data: `step`, `action`, `factor`, `reason`, and `to` of a rollback.
    """

    steps: np.ndarray
    rates: np.ndarray
    events: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, metrics: Path, names: Sequence[str], events: Sequence[Mapping[str, Any]]) -> Actual:
        """Read the LRs from the metrics of a run.

        Args:
            metrics: the file metrics.csv.
            names: of the trainable groups of the plan.
            events: what changed the LR.

        Raises:
            ValueError: it lacks a group.
        """
        wanted = [f"lr/{name}" for name in names]
        series = read_history(metrics, lambda column: column in wanted)
        if missing := [name for name in wanted if name not in series]:
            raise ValueError(f"{metrics} has no {missing[0]}")
        steps = series[wanted[0]].steps
        return cls(steps, np.stack([series[name].values[: len(steps)] for name in wanted], axis=1), events)
