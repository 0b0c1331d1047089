"""The numbers of a population's steps: of each member its LR, from its own plan, and the settings of its optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from lrflow.plan import Plan
from lrflow.plan.scheduler import read_setting
from lrflow.vectorized.updates import Numbers, Update

BLOCK = 256  # steps whose numbers are computed, and brought to the device, at once


class StepNumbers:
    """What the update of each step multiplies by, for every member and group.

    Args:
        plans: one a member, with the same groups.
        optimizers: torch's, as an ordinary run of each member would have them: their parameter groups hold the
            settings that no plan moves, and the names of the plan's groups in `members`.
        update: the rule of them.
        device: where the population is.
    """

    def __init__(
        self, plans: Sequence[Plan], optimizers: Sequence[Optimizer], update: Update, device: torch.device
    ) -> None:
        self._plans = list(plans)
        self._update = update
        self._device = device
        self._fixed = {
            setting: np.array([_settings(*pair, setting) for pair in zip(plans, optimizers, strict=True)])
            for setting in update.settings
        }
        self._block: dict[str, Tensor] = {}
        self._first = -1

    def kept(self) -> list[str]:
        """What the update keeps for each weight under these numbers."""
        return self._update.kept(self._numbers(np.arange(1)))

    def at(self, step: int) -> dict[str, Tensor]:
        """The coefficients of a step, by name; [members, groups]."""
        first = step - step % BLOCK
        if self._first != first:
            steps = np.arange(first, first + BLOCK)
            found = self._update.coefficients(self._numbers(steps), steps)
            dtype = torch.get_default_dtype()
            self._block = {name: torch.from_numpy(values).to(self._device, dtype) for name, values in found.items()}
            self._first = first
        return {name: values[step - first] for name, values in self._block.items()}

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these members alone, in this order."""
        self._plans = [self._plans[row] for row in rows]
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
