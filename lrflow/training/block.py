"""The signals of consecutive optimizer steps, and the rows that loggers get of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from lrflow.columns import DATA_TIME, NOISE_SCALE
from lrflow.training.group_norms import GroupNorms
from lrflow.training.noise_scale import GradientNoise


@dataclass(frozen=True)
class Block:
    """The signals of consecutive optimizer steps.

    Args:
        first: the first step.
        loss: the mean training loss over each step's accumulation window on this device; [n], float64. Meaningless for
            skipped steps.
        grad_norm: the norm of all gradients before clipping; [n], float64.
        seconds: wall time since the previous step; [n], float64.
        data_seconds: the part of it for which the process waited for data; [n], float64. None: it is not measured.
        planned: the plan's LR; [n, groups], float64.
        actual: the LR the optimizer used; [n, groups], float64.
        estimate: the factor of the LR from an optimizer that has one, such as an estimate of the LR, NaN for groups of
            other optimizers; [n, groups], float64. None if no optimizer has one.
        settings: other scheduled settings as the optimizer used them, by name such as `momentum/head`, and scalars of
            the plan; [n], float64.
        norms: norms of each group at some of the steps; None: they are not measured.
        noise: estimates of the gradient noise at some of the steps; None: there are none.
        machine: what these steps took of the machine, by column (see `machine_use`); empty: it is not measured.
        clip: the factor by which a guard made the gradient norm smaller: 1 if nothing was clipped, 0 if it skipped the
            step; [n], float64. None: the run has no guard.
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
    data_seconds: np.ndarray | None = None
    norms: GroupNorms | None = None
    noise: GradientNoise | None = None
    machine: Mapping[str, float] = field(default_factory=dict)
    clip: np.ndarray | None = None
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
            data_seconds=None if self.data_seconds is None else self.data_seconds[rows],
            norms=None if self.norms is None else self.norms.part(rows.start, rows.stop),
            noise=None if self.noise is None else self.noise.part(rows.start, rows.stop),
            machine=self.machine if rows.stop == len(self) else {},
            clip=None if self.clip is None else self.clip[rows],
            skipped=self.skipped[rows],
        )

    @property
    def effective(self) -> np.ndarray:
        """The LR of the steps, multiplied by the estimate if there is one; [n, groups], float64."""
        return self.actual if self.estimate is None else self.actual * np.nan_to_num(self.estimate, nan=1.0)

    def rows(self, columns: Sequence[str], names: Sequence[str]) -> Iterator[tuple[list[str], list[list[Any]]]]:
        """Yield the rows of consecutive steps with the same columns: `step` and a value per column.

        Args:
            columns: of every step: loss, gradient norm, time, the LR of each group, the factor of a guard, other
                scheduled settings, and estimates of the LR.
            names: the plan's groups.
        """
        values = [self.loss, self.grad_norm, self.seconds.round(6), self.actual, self.planned]
        values += [*([] if self.clip is None else [self.clip]), *self.settings.values()]
        columns = list(columns)
        if self.estimate is not None:
            estimating = ~np.isnan(self.estimate[0])
            values += [self.estimate[:, estimating], self.effective[:, estimating]]
        if self.data_seconds is not None:
            columns.insert(3, DATA_TIME)
            values.insert(3, self.data_seconds.round(6))
        rows = [[self.first + index, *row] for index, row in enumerate(np.column_stack(values).tolist())]
        for index in np.flatnonzero(self.skipped):
            rows[index][1] = None  # no loss, unlike a NaN loss
        further: dict[int, dict[str, float | None]] = defaultdict(dict)  # at some of the steps
        if self.norms is not None:
            also = self.norms.columns(names)
            measured = np.column_stack(list(also.values())).tolist()
            for row, cells in zip(self.norms.rows.tolist(), measured, strict=True):
                defined = [None if cell != cell else cell for cell in cells]
                further[row] |= zip(also, defined, strict=True)
        if self.noise is not None:
            for row, scale in zip(self.noise.rows.tolist(), self.noise.scale.tolist(), strict=True):
                further[row][NOISE_SCALE] = scale if scale == scale else None
        if self.machine:
            further[len(self) - 1] |= self.machine
        for more, indices in groupby(range(len(self)), lambda index: tuple(further.get(index, ()))):
            yield [*columns, *more], [[*rows[index], *further[index].values()] for index in indices]
