"""The updates of SGD, Adam and AdamW for all members of a population at once, and their coefficients per step.

torch's optimizers take one LR per parameter group. Here every member has its own LR and settings, so the updates are
written out: torch's arithmetic in torch's order, with a column of numbers in place of each number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim import Optimizer

from lrflow.optimizers.traits import Table
from lrflow.plan import Plan
from lrflow.plan.lr_scheduler import read_setting

Numbers = dict[str, npt.NDArray[np.float64]]
Steps = npt.NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
"""The first step of a state that never starts."""

BLOCK = 256
"""Steps whose coefficients are computed and moved to the device at once."""


class Update(ABC):
    """An update rule.

    Args:
        switches: the settings that members share, such as `nesterov`, as in a parameter group of the torch optimizer.
    """

    settings: ClassVar[tuple[str, ...]]
    """The settings besides the LR in which members may differ, by the names of `read_setting`."""

    state_setting: ClassVar[str | None] = None
    """The state starts at the first step where this setting is not zero; None: it starts at the first step."""

    def __init__(self, switches: Mapping[str, Any]) -> None:
        self._switches = switches

    @abstractmethod
    def state_names(self, start: Steps) -> list[str]:
        """torch's names of the state tensors per weight, which are zero before the first step.

        Args:
            start: the first step that has a state, `NEVER` where there is none; [members, groups].
        """

    @abstractmethod
    def coefficients(self, numbers: Numbers, steps: Steps, start: Steps) -> Numbers:
        """Compute the coefficients of the update, in double precision as torch does.

        Args:
            numbers: `lr` and the settings of the rule; [n, members, groups].
            steps: the number of optimizer steps before each step; [n].
            start: as in `state_names`.

        Returns:
            The coefficients by name; [n, members, groups].
        """

    @abstractmethod
    def __call__(
        self, weights: Tensor, grad: Tensor, state: Mapping[str, Tensor], coefficients: Mapping[str, Tensor]
    ) -> None:
        """Make one step of one group.

        Args:
            weights: the weights of the group; [members, n], changed in place.
            grad: the gradients; [members, n], overwritten.
            state: the state tensors by name; [members, n], changed in place.
            coefficients: the coefficients of the step, by name; [members, 1].
        """

    def torch_state(self, state: Mapping[str, Tensor], steps: int) -> dict[str, Any]:
        """Return the state that torch's optimizer would have for one parameter of one member.

        Args:
            state: the state tensors by name, in the shape of the parameter.
            steps: optimizer steps made.
        """
        return {"step": torch.tensor(float(steps)), **state}


class SGDUpdate(Update):
    """`torch.optim.SGD`: plain, with momentum, damped, Nesterov's."""

    settings = ("weight_decay", "momentum", "dampening")
    state_setting = "momentum"

    def state_names(self, start: Steps) -> list[str]:
        """The momentum buffer, if any member has momentum at any step."""
        return ["momentum_buffer"] if (start != NEVER).any() else []

    def coefficients(self, numbers: Numbers, steps: Steps, start: Steps) -> Numbers:
        """torch initializes the buffer with the whole gradient; with zero momentum, it does not change the buffer."""
        momentum = numbers["momentum"]
        on = momentum != 0
        begins = steps[:, None, None] == start
        return {
            "lr": numbers["lr"],
            "decay": numbers["weight_decay"],
            "momentum": momentum,
            "on": on.astype(float),
            "old": np.where(on, momentum, 1.0),
            "share": np.where(on, np.where(begins, 1.0, 1.0 - numbers["dampening"]), 0.0),
        }

    def __call__(
        self, weights: Tensor, grad: Tensor, state: Mapping[str, Tensor], coefficients: Mapping[str, Tensor]
    ) -> None:
        """Add the decay to the gradient, and the gradient to the momentum; then step along the momentum."""
        grad.addcmul_(weights, coefficients["decay"])
        if (buffer := state.get("momentum_buffer")) is not None:
            buffer.mul_(coefficients["old"]).addcmul_(grad, coefficients["share"])
            moved = grad.addcmul(buffer, coefficients["momentum"]) if self._switches["nesterov"] else buffer
            grad = torch.where(coefficients["on"] != 0, moved, grad)
        weights.addcmul_(grad, coefficients["lr"], value=-1)

    def torch_state(self, state: Mapping[str, Tensor], steps: int) -> dict[str, Any]:
        """The momentum buffer; torch's SGD counts no steps."""
        return dict(state)


class AdamUpdate(Update):
    """`torch.optim.Adam` and `AdamW`: the decay in the gradient, or decoupled from it."""

    settings = ("weight_decay", "beta1", "beta2", "eps")

    def state_names(self, start: Steps) -> list[str]:
        """Both moments, and AMSGrad's maximum."""
        return ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self._switches["amsgrad"] else [])]

    def coefficients(self, numbers: Numbers, steps: Steps, start: Steps) -> Numbers:
        """The coefficients include the bias correction of both moments."""
        beta1, beta2, count = numbers["beta1"], numbers["beta2"], (steps + 1)[:, None, None]
        decay = 1.0 - numbers["lr"] * numbers["weight_decay"] if self._decoupled else numbers["weight_decay"]
        return {
            "decay": decay,
            "new1": 1.0 - beta1,
            "old2": beta2,
            "new2": 1.0 - beta2,
            "eps": numbers["eps"],
            "step": numbers["lr"] / (1.0 - beta1**count),
            "root2": np.sqrt(1.0 - beta2**count),
        }

    def __call__(
        self, weights: Tensor, grad: Tensor, state: Mapping[str, Tensor], coefficients: Mapping[str, Tensor]
    ) -> None:
        """Decay, then step along the first moment divided by the root of the second."""
        if self._decoupled:
            weights.mul_(coefficients["decay"])
        else:
            grad.addcmul_(weights, coefficients["decay"])
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(grad, coefficients["new1"])
        second.mul_(coefficients["old2"]).addcmul_(grad.square_(), coefficients["new2"])
        if self._switches["amsgrad"]:
            second = torch.maximum(state["max_exp_avg_sq"], second, out=state["max_exp_avg_sq"])
        root = second.sqrt().div_(coefficients["root2"]).add_(coefficients["eps"])
        weights.addcmul_(torch.div(first, root, out=root), coefficients["step"], value=-1)

    @property
    def _decoupled(self) -> bool:
        return bool(self._switches["decoupled_weight_decay"])


UPDATES: dict[Table, type[Update]] = {"sgd": SGDUpdate, "adam": AdamUpdate}
"""The update rules of populations, by their names in the traits of optimizers."""


class StepCoefficients:
    """The coefficients of the update at each step, for every member and group.

    Args:
        plans: the plans of the members, with the same groups.
        optimizers: the torch optimizers of the members. Their parameter groups hold the settings that no plan changes,
            and under `members` the names of the plan's groups.
        update: the update rule of these optimizers.
        device: the device of the population.
        timeline: the step of the plan for each step of the population; None: all steps of the plan in order.
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
        """The first step at which the update has a state, `NEVER` where it has none; [members, groups]."""
        first = self._numbers(self._timeline[:1])
        setting = self._update.state_setting
        if setting is None:
            return np.zeros(first["lr"].shape[1:], dtype=np.int64)
        start = np.where(first[setting][0] != 0, 0, NEVER)
        moving = any(moved.setting == setting for plan in self._plans for moved, _ in plan.scheduled_settings)
        for at in range(0, len(self._timeline) if moving else 0, BLOCK):
            if (start != NEVER).all():
                break
            nonzero = self._numbers(self._timeline[at : at + BLOCK])[setting] != 0
            start = np.minimum(start, np.where(nonzero.any(axis=0), at + nonzero.argmax(axis=0), NEVER))
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
        """Keep only these members, in this order."""
        self._plans = [self._plans[row] for row in rows]
        self.start = self.start[list(rows)]
        self._fixed = {name: values[list(rows)] for name, values in self._fixed.items()}
        self._block = {name: values[:, list(rows)] for name, values in self._block.items()}

    def _numbers(self, steps: np.ndarray) -> Numbers:
        """`lr` and all settings; [n, members, groups]."""
        numbers: Numbers = {"lr": np.stack([plan.lr(steps) for plan in self._plans], axis=1)}
        for setting, fixed in self._fixed.items():
            numbers[setting] = np.repeat(fixed[None], len(steps), axis=0)
        for row, plan in enumerate(self._plans):
            for moved, columns in plan.scheduled_settings:
                numbers[moved.setting][:, row, list(columns)] = moved(steps, plan.horizon)[:, None]
        return numbers


def _settings(plan: Plan, optimizer: Optimizer, setting: str) -> list[float]:
    """The value of a setting in the optimizer, for each group of the plan."""
    group_of = {name: group for group in optimizer.param_groups for name in group["members"]}
    return [float(read_setting(group_of[name], setting)) for name in plan.names]
