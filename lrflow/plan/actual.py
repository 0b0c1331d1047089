"""The LR that a run used, and what changed it on the way."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


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
            OSError, ValueError: the file cannot be read.
            KeyError: it lacks a group.
        """
        with metrics.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            places = {title: place for place, title in enumerate(header)}
            columns = [places[f"lr/{name}"] for name in names]
            at = places["step"]
            known = [(int(row[at]), *(float(row[column]) for column in columns)) for row in rows if row[columns[0]]]
        table = np.array(known, dtype=np.float64).reshape(len(known), 1 + len(columns))
        return cls(table[:, 0].astype(np.int64), table[:, 1:], events)
