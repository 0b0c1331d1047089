"""The updates of SGD, Adam and AdamW, made for all members of a population at once.

torch's own optimizers take one LR for a parameter group. Here every member has numbers of its own, so the rules are
written out: torch's arithmetic in torch's order, with a column of numbers where torch has a single one.

The numbers of a population's steps: of each member its LR, from its own plan, and the settings of its optimizer.
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
from lrflow.plan.scheduler import read_setting

Numbers = dict[str, npt.NDArray[np.float64]]
Steps = npt.NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
"""The step at which nothing begins."""


class Update(ABC):
    """An update rule.

    Args:
        switches: of the torch optimizer, such as `nesterov`: what members share, as its parameter groups have it.
    """

    settings: ClassVar[tuple[str, ...]]
    """The numbers that members may have of their own besides the LR, as `read_setting` knows them."""

    def __init__(self, switches: Mapping[str, Any]) -> None:
        self._switches = switches

    awaits: ClassVar[str | None] = None
    """The setting without which nothing is kept: the state begins at the first step where it is not zero."""

    @abstractmethod
    def kept(self, start: Steps) -> list[str]:
        """What is kept for each weight, by torch's names; zeros before the first step.

        Args:
            start: the first step that a state is kept of, `NEVER` where there is none; [members, groups].
        """

    @abstractmethod
    def coefficients(self, numbers: Numbers, steps: Steps, start: Steps) -> Numbers:
        """What the update multiplies by, computed in double precision as torch does.

        Args:
            numbers: `lr` and the rule's settings; [n, members, groups].
            steps: optimizer steps done before each; [n].
            start: as in `kept`.

        Returns:
            By name, [n, members, groups].
        """

    @abstractmethod
    def __call__(self, weights: Tensor, grad: Tensor, state: Mapping[str, Tensor], by: Mapping[str, Tensor]) -> None:
        """Make one step.

        Args:
            weights: of one group; [members, n], changed in place.
            grad: its gradients; [members, n], used up.
            state: what is kept, by name; [members, n], changed in place.
            by: the coefficients of the step; [members, 1].
        """

    def torch_state(self, state: Mapping[str, Tensor], steps: int) -> dict[str, Any]:
        """What torch's optimizer would have in its state for one parameter of one member, once that has begun.

        Args:
            state: what is kept, in the parameter's shape.
            steps: optimizer steps done.
        """
        return {"step": torch.tensor(float(steps)), **state}


class SGDUpdate(Update):
    """`torch.optim.SGD`: plain, with momentum, damped, Nesterov's."""

    settings = ("weight_decay", "momentum", "dampening")
    awaits = "momentum"

    def kept(self, start: Steps) -> list[str]:
        """The momentum, where any member has one at any time."""
        return ["momentum_buffer"] if (start != NEVER).any() else []

    def coefficients(self, numbers: Numbers, steps: Steps, start: Steps) -> Numbers:
        """torch starts the momentum with the whole gradient; where it is zero, the buffer is left as it is."""
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

    def __call__(self, weights: Tensor, grad: Tensor, state: Mapping[str, Tensor], by: Mapping[str, Tensor]) -> None:
        """Decay into the gradient, the gradient into the momentum, a step along it."""
        grad.addcmul_(weights, by["decay"])
        if (buffer := state.get("momentum_buffer")) is not None:
            buffer.mul_(by["old"]).addcmul_(grad, by["share"])
            moved = grad.addcmul(buffer, by["momentum"]) if self._switches["nesterov"] else buffer
            grad = torch.where(by["on"] != 0, moved, grad)
        weights.addcmul_(grad, by["lr"], value=-1)

    def torch_state(self, state: Mapping[str, Tensor], steps: int) -> dict[str, Any]:
        """The momentum alone."""
        return dict(state)


class AdamUpdate(Update):
    """`torch.optim.Adam` and `AdamW`: the decay in the gradient, or decoupled from it."""

    settings = ("weight_decay", "beta1", "beta2", "eps")

    def kept(self, start: Steps) -> list[str]:
        """Both moments, and AMSGrad's maximum."""
        return ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self._switches["amsgrad"] else [])]

    def coefficients(self, numbers: Numbers, steps: Steps, start: Steps) -> Numbers:
        """With the corrections of the moments' bias towards zero in them."""
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

    def __call__(self, weights: Tensor, grad: Tensor, state: Mapping[str, Tensor], by: Mapping[str, Tensor]) -> None:
        """Decay, then a step along the first moment over the root of the second."""
        if self._decoupled:
            weights.mul_(by["decay"])
        else:
            grad.addcmul_(weights, by["decay"])
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(grad, by["new1"])
        second.mul_(by["old2"]).addcmul_(grad.square_(), by["new2"])
        if self._switches["amsgrad"]:
            second = torch.maximum(state["max_exp_avg_sq"], second, out=state["max_exp_avg_sq"])
        root = second.sqrt().div_(by["root2"]).add_(by["eps"])
        weights.addcmul_(torch.div(first, root, out=root), by["step"], value=-1)

    @property
    def _decoupled(self) -> bool:
        return bool(self._switches["decoupled_weight_decay"])


UPDATES: dict[Table, type[Update]] = {"sgd": SGDUpdate, "adam": AdamUpdate}
"""The update rules that a population can train by, as the traits of optimizers name them."""


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
        moving = any(
            moved.setting == self._update.awaits for plan in self._plans for moved, _ in plan.scheduled_settings
        )
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
            for moved, columns in plan.scheduled_settings:
                numbers[moved.setting][:, row, list(columns)] = moved(steps, plan.horizon)[:, None]
        return numbers


def _settings(plan: Plan, optimizer: Optimizer, setting: str) -> list[float]:
    """What the optimizer has for each group of the plan."""
    carrier = {name: group for group in optimizer.param_groups for name in group["members"]}
    return [float(read_setting(carrier[name], setting)) for name in plan.names]
