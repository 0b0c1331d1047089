"""The numbers of a population's steps: of each member its LR, from its own plan, and the settings of its optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from lrflow.plan import Plan
from lrflow.plan.scheduler import read_setting
from lrflow.vectorized.updates import NEVER, Numbers, Steps, Update

BLOCK = 256  # steps whose numbers are computed, and brought to the device, at once


class StepCoefficients:
    """What the update of each step multiplies by, for every member and group.

    Args:
        plans: one a member, with the same groups.
        optimizers: torch's, as an ordinary run of each member would have them: their parameter groups hold the
            settings that no plan moves, and the names of the plan's groups in `members`.
        update: the rule of them.
        device: where the population is.
        timeline: the plan's step that each step is made at; None: the run's own, one after the other.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        optimizers: Sequence[Optimizer],
        update: Update,
        device: torch.device,
        timeline: Steps | None = None,
    ) -> None:
        self._plans = list(plans)
        self._timeline = np.arange(plans[0].horizon.steps) if timeline is None else timeline
        self._update = update
        self._device = device
        self._fixed = {
            setting: np.array([_settings(*pair, setting) for pair in zip(plans, optimizers, strict=True)])
            for setting in update.settings
        }
        self._block: dict[str, Tensor] = {}
        self._first = -1

    @cached_property
    def start(self) -> Steps:
        """The first step that the update keeps a state of, `NEVER` where there is none; [members, groups]."""
        first = self._numbers(self._timeline[:1])
        if self._update.awaits is None:
            return np.zeros(first["lr"].shape[1:], dtype=np.int64)
        start = np.where(first[self._update.awaits][0] != 0, 0, NEVER)
        moving = any(moved.setting == self._update.awaits for plan in self._plans for moved, _ in plan.moved)
        for at in range(0, len(self._timeline) if moving else 0, BLOCK):
            if (start != NEVER).all():
                break
            awaited = self._numbers(self._timeline[at : at + BLOCK])[self._update.awaits] != 0
            found = np.where(awaited.any(axis=0), at + awaited.argmax(axis=0), NEVER)
            start = np.minimum(start, found)
        return start

    def at(self, step: int) -> dict[str, Tensor]:
        """The coefficients of a step, by name; [members, groups]."""
        first = step - step % BLOCK
        if self._first != first:
            planned = self._timeline[first : first + BLOCK]
            steps = np.arange(first, first + len(planned))
            found = self._update.coefficients(self._numbers(planned), steps, self.start)
            dtype = torch.get_default_dtype()
            self._block = {name: torch.from_numpy(values).to(self._device, dtype) for name, values in found.items()}
            self._first = first
        return {name: values[step - first] for name, values in self._block.items()}

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these members alone, in this order."""
        self._plans = [self._plans[row] for row in rows]
        self.start = self.start[list(rows)]
        self._fixed = {name: values[list(rows)] for name, values in self._fixed.items()}
        self._block = {name: values[:, list(rows)] for name, values in self._block.items()}

    def _numbers(self, steps: np.ndarray) -> Numbers:
        """`lr` and every setting; [n, members, groups]."""
        numbers: Numbers = {"lr": np.stack([plan.lr(steps) for plan in self._plans], axis=1)}
        for setting, fixed in self._fixed.items():
            numbers[setting] = np.repeat(fixed[None], len(steps), axis=0)
        for row, plan in enumerate(self._plans):
            for moved, columns in plan.moved:
                numbers[moved.setting][:, row, list(columns)] = moved(steps, plan.horizon)[:, None]
        return numbers


def _settings(plan: Plan, optimizer: Optimizer, setting: str) -> list[float]:
    """What the optimizer has for each group of the plan."""
    carrier = {name: group for group in optimizer.param_groups for name in group["members"]}
    return [float(read_setting(carrier[name], setting)) for name in plan.names]
