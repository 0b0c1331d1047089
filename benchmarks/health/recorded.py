"""A run as its folder has it: the series of `metrics.csv` as arrays."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.health.problems import Cell, Problem

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recorded:
    """The signals of a run.

    Args:
        cell: which run it is.
        loss: training loss of each step; [n].
        grad_norm: norm of all gradients of each step; [n].
        lr: the highest LR of all groups at each step; [n].
        groups: names of the groups.
        rates: LR of each group at each step; [n, groups].
        seconds: time of each step; [n].
        measured: the steps at which the norms of each group were measured; [m].
        gradient: norm of each group's gradient there; [m, groups].
        weight: norm of each group's weights; [m, groups].
        update: norm of each group's update; [m, groups].
        cosine: cosine between an update and the one before, NaN at the first of a pair; [m].
        validated: number of steps made before each validation; [v].
        metrics: the metrics of validations by name; [v] each.
        status: how the run ended, such as `finished`.
    """

    cell: Cell
    loss: Floats
    grad_norm: Floats
    lr: Floats
    groups: tuple[str, ...]
    rates: Floats
    seconds: Floats
    measured: Steps
    gradient: Floats
    weight: Floats
    update: Floats
    cosine: Floats
    validated: Steps
    metrics: dict[str, Floats]
    status: str = "finished"

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.loss)

    @property
    def update_ratio(self) -> Floats:
        """Norm of each update divided by that of the weights; [m, groups]."""
        return np.divide(self.update, self.weight, out=np.full_like(self.update, np.nan), where=self.weight > 0)

    @classmethod
    def read(cls, folder: Path) -> Recorded:
        """Read a run folder."""
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        names = rows.pop(0)
        table = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows], dtype=np.float64)
        columns = dict(zip(names, table.T, strict=True))
        texts = {name: np.array([row[index] != "" for row in rows]) for index, name in enumerate(names)}
        each = texts["train/step_time"]
        groups = tuple(name.removeprefix("lr/") for name in names if name.startswith("lr/"))
        norms = each & texts[f"update_norm/{groups[0]}"] if f"update_norm/{groups[0]}" in texts else each & False

        def by_group(kind: str, rows: npt.NDArray[np.bool_]) -> Floats:
            return np.column_stack([columns[f"{kind}/{name}"][rows] for name in groups])

        validations = [name for name in names if name.startswith("val/")]
        validated = np.any([texts[name] for name in validations], axis=0) if validations else each & False
        rates = by_group("lr", each)
        some = norms.any()
        empty = np.zeros((0, len(groups)))
        return cls(
            Cell.at(folder),
            columns["train/loss"][each],
            columns["train/grad_norm"][each],
            rates.max(1),
            groups,
            rates,
            columns["train/step_time"][each],
            columns["step"][norms].astype(int),
            by_group("grad_norm", norms) if some else empty,
            by_group("weight_norm", norms) if some else empty,
            by_group("update_norm", norms) if some else empty,
            columns["train/update_cosine"][norms] if some else np.zeros(0),
            columns["step"][validated].astype(int) + 1,
            {name: columns[name][validated] for name in validations},
            json.loads((folder / "summary.json").read_text())["status"],
        )


def read_all(problem: Problem, runs: Path) -> Iterator[Recorded]:
    """Yield the runs of a problem that have ended."""
    for cell in problem.cells():
        if (runs / cell.place / "summary.json").is_file():
            yield Recorded.read(runs / cell.place)
