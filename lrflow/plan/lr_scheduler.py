"""The scheduler that executes a plan: it writes the planned LRs and settings into the optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.plan.values import PlanBase, PlanSetting
from lrflow.schedules.curve import BETA
from lrflow.schedules.serialization import to_spec

BLOCK = 1024  # steps whose LRs are computed at once, so that a single step costs almost nothing


class PlanChangedWarning(UserWarning):
    """Warns that a scheduler's state was saved under another plan than the current one."""


class PlanScheduler(LRScheduler):
    """Writes `plan.lr(step) * feedback * factors(step)` into every parameter group; step it after each optimizer step.

    It also writes the scheduled settings of the plan and passes on its scalars (`pass_scalars_to`); the factors have no
    effect on these.

    It is a torch scheduler and works wherever those do (in Lightning with interval "step"). Unlike torch's own it
    leaves `optimizer.step` unwrapped, adds no `initial_lr`, and has no state but its step counter. The constructor
    writes the LR of step 0. Parameter groups may be replaced afterwards, as `Optimizer.load_state_dict` does.

    Args:
        optimizer: its parameter groups carry `members`, the names of the plan's groups merged into them (set by
            `lrflow.optimizers.build_optimizer`), or only `name`.
        plan: the plan to execute.

    Raises:
        ConfigError: a parameter group that the plan does not have, or whose members have different LRs or settings in
            the plan; one that lacks a scheduled setting.
    """

    def __init__(self, optimizer: Optimizer, plan: PlanBase) -> None:
        # torch's constructor is not called: it wraps optimizer.step and writes initial_lr into the groups.
        self.optimizer = optimizer
        self.plan = plan
        self._columns = _columns(optimizer, plan)
        self._settings = _settings(optimizer, plan, self._columns)
        self._feedback = 1.0
        self._factors: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        self._receive: Callable[[Mapping[str, float]], None] | None = None
        self._move_to(0)

    @property
    def base_lrs(self) -> list[float | Tensor]:  # type: ignore[override]
        """The peak LR of each parameter group."""
        return [self.plan.trainable[column].lr for column in self._columns]

    @property
    def feedback(self) -> float:
        """The factor on top of the plan, 1.0 unless a feedback sets it; setting it takes effect at once."""
        return self._feedback

    @feedback.setter
    def feedback(self, factor: float) -> None:
        self._feedback = float(factor)
        self._write()

    @property
    def factor(self) -> float:
        """What the planned LR of the current step is multiplied by: feedback and the factors of `multiply`."""
        return self._feedback * self._products[self.last_epoch - self._block_end]

    def multiply(self, name: str, factor: Callable[[np.ndarray], np.ndarray]) -> None:
        """Multiply the LRs by a factor of the step, from the current step on.

        Args:
            name: of the factor; one of the same name is replaced.
            factor: takes steps [n] and returns factors [n], float64.
        """
        self._factors[name] = factor
        self._move_to(self.last_epoch)

    def step(self, epoch: int | None = None) -> None:
        """Write the LRs of the next optimizer step.

        Args:
            epoch: the step to go to, by the name that torch's schedulers have for it; None: the next one.
        """
        if epoch is not None:
            return self._move_to(epoch)
        self.last_epoch += 1
        if self.last_epoch >= self._block_end:
            self._fill_block()
        # The same as `_write`, inlined because this runs at every step of a training.
        feedback = self._feedback
        for group, lr in zip(self.optimizer.param_groups, self._block[self.last_epoch - self._block_end], strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * feedback)
            else:
                group["lr"] = lr * feedback
        if self._settings:
            self._write_settings()
        if self._receive:
            self._pass_scalars()
        return None

    def pass_scalars_to(self, receive: Callable[[Mapping[str, float]], None]) -> None:
        """Call a function with the plan's scalars by name: at once, and at each step with those of the next one."""
        self._receive = receive
        self._pass_scalars()

    def follow(self, plan: PlanBase) -> None:
        """Execute another plan of the same groups and settings from the current step on."""
        self.plan = plan
        self._settings = _settings(self.optimizer, plan, self._columns)
        self._move_to(self.last_epoch)

    def planned(self) -> list[float]:
        """Return the planned LR of each parameter group at the current step, without feedback and other factors."""
        return self.plan.lr(np.array([self.last_epoch]))[0, self._columns].tolist()

    def get_lr(self) -> list[float | Tensor]:
        """Return the LR of each parameter group at the current step: plan times feedback and other factors."""
        return [lr * self._feedback for lr in self._block[self.last_epoch - self._block_end]]

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the LR in each parameter group (copies of tensors)."""
        rates = (group["lr"] for group in self.optimizer.param_groups)
        return [lr.clone() if isinstance(lr, Tensor) else lr for lr in rates]

    def state_dict(self) -> dict[str, Any]:
        """Return the step counter and the plan's fingerprint; the curve is compiled again from the config."""
        return {"step": self.last_epoch, "fingerprint": self.plan.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved step and write this plan's LRs; warn PlanChangedWarning if the state is of another plan."""
        if state_dict["fingerprint"] != self.plan.fingerprint:
            warnings.warn(
                f"the scheduler's state was saved under another plan ({state_dict['fingerprint'][:12]}, "
                f"this one is {self.plan.fingerprint[:12]}); step {state_dict['step']} continues under this one",
                PlanChangedWarning,
                stacklevel=2,
            )
        self._move_to(state_dict["step"])

    def _move_to(self, step: int) -> None:
        self.last_epoch = step
        self._fill_block()
        self._write()
        self._pass_scalars()

    def _pass_scalars(self) -> None:
        if self._receive:
            row = self._scalars[self.last_epoch - self._block_end]
            self._receive({scalar.name: value for scalar, value in zip(self.plan.scalars, row, strict=True)})

    def _fill_block(self) -> None:
        """Compute the rows of the next steps, from the current one on."""
        steps = np.arange(self.last_epoch, self.last_epoch + BLOCK)
        rates = self.plan.lr(steps)[:, self._columns]
        product = np.ones(BLOCK)
        for factor in self._factors.values():
            product = product * factor(steps)
        if self._factors:
            rates = rates * product[:, None]
        self._products: list[float] = product.tolist()
        self._block: list[list[float]] = rates.tolist()
        self._block_end = self.last_epoch + BLOCK  # the row of a step is block[step - end]
        self._scalars: list[list[float]] = self.plan.scalar_values(steps).tolist()
        if self._settings:
            values = {name: self.plan.setting(name, steps) for name in self.plan.also}
            columns = [values[setting.name][:, self._columns[index]] for index, setting in self._settings]
            self._values: list[list[float]] = np.column_stack(columns).tolist()

    def _write(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        if self._settings:
            self._write_settings()

    def _write_settings(self) -> None:
        for (index, setting), value in zip(
            self._settings, self._values[self.last_epoch - self._block_end], strict=True
        ):
            write_setting(self.optimizer.param_groups[index], setting.setting, value)


def read_setting(group: Mapping[str, Any], setting: str) -> Any:
    """Return a setting of a parameter group by the name that a plan has for it; None if the group lacks it."""
    if setting not in group and (beta := BETA.fullmatch(setting)):
        betas, place = group.get("betas", ()), int(beta.group(1))
        return betas[place - 1] if len(betas) >= place else None
    return group.get(setting)


def write_setting(group: dict[str, Any], setting: str, value: float) -> None:
    """Set a setting of a parameter group to a value; a tensor is filled in place."""
    present = read_setting(group, setting)
    if isinstance(present, Tensor):
        present.fill_(value)
    elif setting in group:
        group[setting] = value
    else:
        place = int(setting.removeprefix("beta")) - 1
        betas = group["betas"]
        group["betas"] = (*betas[:place], value, *betas[place + 1 :])


def _columns(optimizer: Optimizer, plan: PlanBase) -> list[int]:
    """Return the plan's column that each parameter group follows."""
    columns, problems = [], []
    known = {name: column for column, name in enumerate(plan.names)}
    for index, group in enumerate(optimizer.param_groups):
        members = group.get("members") or [group.get("name")]
        key = f"optimizer.param_groups[{index}]"
        if unknown := [member for member in members if member not in known]:
            hint = did_you_mean(str(unknown[0]), known)
            problems.append(Problem(key, "is not a trainable group of the plan", unknown[0], hint))
            continue
        lead, *others = (plan.trainable[known[member]] for member in members)
        for other in others:
            alike = other.lr == lead.lr and other.also == lead.also
            if not alike or to_spec(other.schedule) != to_spec(lead.schedule):
                problems.append(Problem(key, f"{lead.name} and {other.name} share it, but their plans differ"))
        columns.append(known[lead.name])
    if problems:
        raise ConfigError(problems)
    return columns


def _settings(optimizer: Optimizer, plan: PlanBase, columns: list[int]) -> list[tuple[int, PlanSetting]]:
    """Return the scheduled settings, each with the index of its parameter group."""
    found, problems = [], []
    for index, (group, column) in enumerate(zip(optimizer.param_groups, columns, strict=True)):
        for setting in plan.trainable[column].also:
            if read_setting(group, setting.setting) is None:
                hint = did_you_mean(setting.setting, [name for name in group if name not in ("params", "members")])
                key = f"schedule.also.{setting.name}"
                problems.append(Problem(key, f"{type(optimizer).__name__} has no {setting.setting}", ..., hint))
            found.append((index, setting))
    if problems:
        raise ConfigError(problems)
    return found
