"""The signals of consecutive optimizer steps, and the rows that loggers get of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from lrflow.training.group_norms import GroupNorms


@dataclass(frozen=True)
class Block:
    """The signals of consecutive optimizer steps.

    Args:
        first: the first step.
        loss: the mean training loss over each step's accumulation window on this device; [n], float64. Meaningless for
            skipped steps.
        grad_norm: the norm of all gradients before clipping; [n], float64.
        seconds: wall time since the previous step; [n], float64.
        planned: the plan's LR; [n, groups], float64.
        actual: the LR the optimizer used; [n, groups], float64.
        estimate: the factor of the LR from an optimizer that estimates its LR, NaN for groups of other optimizers;
            [n, groups], float64. None if no optimizer estimates its LR.
        settings: other scheduled settings as the optimizer used them, by name such as `momentum/head`; [n], float64.
        norms: norms of each group at some of the steps; None: they are not measured.
        skipped: whether `training_step` returned None for every batch of the step, which then has no loss and no
            gradient; [n], or one value for all, bool.
    """

    first: int
    loss: np.ndarray
    grad_norm: np.ndarray
    seconds: np.ndarray
    planned: np.ndarray
    actual: np.ndarray
    estimate: np.ndarray | None = None
    settings: Mapping[str, np.ndarray] = field(default_factory=dict)
    norms: GroupNorms | None = None
    skipped: np.ndarray = field(default_factory=lambda: np.zeros((), bool))

    def __post_init__(self) -> None:
        object.__setattr__(self, "skipped", np.broadcast_to(self.skipped, self.loss.shape))

    @property
    def losses(self) -> np.ndarray:
        """The losses of steps that were not skipped; [n or fewer], float64."""
        return self.loss[~self.skipped]

    def __len__(self) -> int:
        return len(self.loss)

    def part(self, start: int, stop: int) -> Block:
        """Return the steps from `start` up to but excluding `stop`, numbered as in the run."""
        rows = slice(start - self.first, stop - self.first)
        return replace(
            self,
            first=start,
            loss=self.loss[rows],
            grad_norm=self.grad_norm[rows],
            seconds=self.seconds[rows],
            planned=self.planned[rows],
            actual=self.actual[rows],
            estimate=None if self.estimate is None else self.estimate[rows],
            settings={name: values[rows] for name, values in self.settings.items()},
            norms=None if self.norms is None else self.norms.part(rows.start, rows.stop),
            skipped=self.skipped[rows],
        )

    @property
    def effective(self) -> np.ndarray:
        """The LR of the steps, multiplied by the estimate if there is one; [n, groups], float64."""
        return self.actual if self.estimate is None else self.actual * np.nan_to_num(self.estimate, nan=1.0)

    def rows(self, columns: Sequence[str], names: Sequence[str]) -> Iterator[tuple[list[str], list[list[Any]]]]:
        """Yield the rows of consecutive steps with the same columns: `step` and a value per column.

        Args:
            columns: of every step: loss, gradient norm, time, the LR of each group, and other scheduled settings.
            names: the plan's groups.
        """
        values = [self.loss, self.grad_norm, self.seconds.round(6), self.actual, self.planned, *self.settings.values()]
        if self.estimate is not None:
            estimating = ~np.isnan(self.estimate[0])
            values += [self.estimate[:, estimating], self.effective[:, estimating]]
        rows = [[self.first + index, *row] for index, row in enumerate(np.column_stack(values).tolist())]
        for index in np.flatnonzero(self.skipped):
            rows[index][1] = None  # no loss, unlike a NaN loss
        if self.norms is None or not len(self.norms.rows):
            yield list(columns), rows
            return
        also = self.norms.columns(names)
        measured = np.column_stack(list(also.values()))
        further = {
            int(row): [None if value != value else value for value in values]  # NaN: not defined there
            for row, values in zip(self.norms.rows, measured.tolist(), strict=True)
        }
        for is_measured, indices in groupby(range(len(self)), further.__contains__):
            if is_measured:
                yield [*columns, *also], [[*rows[index], *further[index]] for index in indices]
            else:
                yield list(columns), [rows[index] for index in indices]
