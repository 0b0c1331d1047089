"""The optimizer of a LightningModule's own `configure_optimizers`: its groups, and its scheduler as a table."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.core.optimizer import _configure_optimizers, _configure_schedulers_automatic_opt
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch import nn
from torch.optim import Optimizer

from lrflow.config import Config
from lrflow.config.checks.compatibility import check_optimizer
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.layers import Group
from lrflow.optimizers import traits_of
from lrflow.schedules import Constant, Curve, Horizon, Schedule, Tabulated
from lrflow.schedules.tabulated import MOST_POINTS
from lrflow.training.branches import Branch
from lrflow.training.state import preserve_random_state
from lrflow.wording import counted, joined

_KEY = "optimizer"


@dataclass(frozen=True)
class ModuleOptimizer:
    """What a module's `configure_optimizers` returns.

    Args:
        module: the module.
        optimizer: its optimizer.
        schedulers: its schedulers, as Lightning has them.
    """

    module: pl.LightningModule
    optimizer: Optimizer
    schedulers: Sequence[LRSchedulerConfig]

    @classmethod
    def of(cls, module: pl.LightningModule) -> ModuleOptimizer:
        """Call a module's `configure_optimizers`, without an effect on random numbers.

        Raises:
            ConfigError: the module has none, or makes no optimizer, several, or a scheduler that cannot be planned.
        """
        name = type(module).__name__
        if not is_overridden("configure_optimizers", module):
            message = f"{name} has no configure_optimizers of its own"
            raise ConfigError([Problem(_KEY, message, "module", "choose an optimizer, such as optimizer=adamw")])
        with preserve_random_state():
            made: Any = type(module).configure_optimizers(module)  # `supply_optimizer` replaces that of the object
        if made is None:
            raise ConfigError([Problem(_KEY, f"{name}.configure_optimizers returns None", "module")])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizers, schedulers, monitor = _configure_optimizers(made)
                configs = _configure_schedulers_automatic_opt(schedulers, monitor)
        except (MisconfigurationException, TypeError, KeyError) as error:
            message = f"Lightning does not accept what {name}.configure_optimizers returns: {error}"
            raise ConfigError([Problem(_KEY, message, "module")]) from error
        if len(optimizers) != 1:
            message = f"{name} makes {len(optimizers)} optimizers, and automatic optimization has one"
            raise ConfigError(
                [Problem(_KEY, message, "module", "choose one optimizer, and layer rules that route groups")]
            )
        return cls(module, optimizers[0], configs)

    def groups(self, horizon: Horizon, accumulate: int, scheduled: bool, factor: float = 1.0) -> list[Group]:
        """Return the parameter groups of the optimizer, and one for the parameters that it leaves out.

        Those are frozen: plain Lightning would compute their gradients and never change them.

        Args:
            horizon: length of the run.
            accumulate: number of batches per optimizer step.
            scheduled: whether the groups follow the module's own scheduler; false: the schedule of the run.
            factor: multiple of the module's LRs.

        Raises:
            ConfigError: the optimizer holds parameters of another module or twice, or the scheduler cannot be planned.
        """
        names = {parameter: name for name, parameter in self.module.named_parameters()}
        self._check_parameters(names)
        rates = self._rates(horizon, accumulate) if scheduled else None
        found = []
        titles = _titles(
            [[names[one] for one in group["params"]] for group in self.optimizer.param_groups], self.optimizer
        )
        for at, group in enumerate(self.optimizer.param_groups):
            initial = float(group.get("max_lr", group.get("initial_lr", group["lr"])))  # max_lr: of OneCycleLR
            peak, curve = (initial, None) if rates is None else _curve([row[at] for row in rates])
            found.append(
                Group(
                    titles[at],
                    tuple((names[one], one) for one in group["params"]),
                    lr=peak * factor,
                    scale=1.0,
                    weight_decay=_number(group.get("weight_decay")),
                    schedule=curve,
                    apart=True,
                )
            )
        if wrong := [group for group in found if not 0 < group.lr < math.inf]:
            message = f"the LR of its group {wrong[0].name} is {wrong[0].lr:g} throughout the run"
            hint = "leave parameters that are not to be trained out of the optimizer"
            raise ConfigError([Problem(_KEY, message, "module", hint)])
        highest = max(group.lr for group in found)
        found = [replace(group, scale=group.lr / highest) for group in found]
        held = {one for group in found for _, one in group.parameters}
        left = [(name, one) for one, name in names.items() if one not in held]
        for _, parameter in left:
            parameter.requires_grad_(False)
        if left:
            found.append(Group("frozen", tuple(left), lr=0.0, scale=0.0, frozen=True, freeze_statistics=False))
        return found

    def planned(self, groups: Sequence[Group]) -> Optimizer:
        """Return the optimizer for a run: its parameter groups carry the names of the plan's groups.

        Raises:
            LrflowError: its groups are not those of the plan.
        """
        planned = [group for group in groups if not group.frozen]
        own = self.optimizer.param_groups
        same = len(own) == len(planned) and all(
            len(group["params"]) == len(plan.parameters)
            and all(one is other for one, (_, other) in zip(group["params"], plan.parameters, strict=True))
            for group, plan in zip(own, planned, strict=True)
        )
        if not same:
            name = type(self.module).__name__
            raise LrflowError(f"{name}.configure_optimizers makes other parameter groups than when the run was planned")
        for group, plan in zip(own, planned, strict=True):
            group["name"], group["members"] = plan.name, [plan.name]
        return self.optimizer

    def _check_parameters(self, names: Mapping[nn.Parameter, str]) -> None:
        seen: set[nn.Parameter] = set()
        problems = []
        for at, group in enumerate(self.optimizer.param_groups):
            foreign = sum(one not in names for one in group["params"])
            twice = [names[one] for one in group["params"] if one in seen]
            seen |= {*group["params"]}
            if foreign:
                message = f"its parameter group {at} has {foreign} parameters that are not the module's"
                problems.append(Problem(_KEY, message, "module"))
            if twice:
                problems.append(Problem(_KEY, f"parameters are in two of its groups: {joined(twice, 7)}", "module"))
        if problems:
            raise ConfigError(problems)

    def _rates(self, horizon: Horizon, accumulate: int) -> list[list[float]]:
        """Return the LR of each group at each step, by stepping copies of the schedulers as Lightning would."""
        self._check_schedulers(horizon, accumulate)
        memo: dict[int, Any] = {id(one): one for group in self.optimizer.param_groups for one in group["params"]}
        memo[id(self.module)] = self.module
        try:
            optimizer, schedulers = copy.deepcopy((self.optimizer, list(self.schedulers)), memo)
        except Exception as error:
            message = f"its scheduler cannot be copied, and so not planned: {error}"
            raise ConfigError([Problem(_KEY, message, "module", _REPLACE)]) from error
        rates = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the scheduler is stepped without its optimizer
            for step in range(horizon.steps):
                rates.append([float(group["lr"]) for group in optimizer.param_groups])
                for config in schedulers:
                    if _is_due(config, step, horizon):
                        config.scheduler.step()  # type: ignore[call-arg]
        return rates

    def _check_schedulers(self, horizon: Horizon, accumulate: int) -> None:
        problems = []
        for config in self.schedulers:
            kind = type(config.scheduler).__name__
            if config.reduce_on_plateau:
                hint = f"schedule=constant feedback=plateau feedback.monitor={config.monitor}, or any other schedule"
                message = f"{kind} reacts to {config.monitor} during the run, so it cannot be planned"
                problems.append(Problem("schedule", message, "module", hint))
            elif horizon.steps_per_epoch is None and (config.interval == "epoch" or config.frequency != 1):
                message = f"{kind} counts epochs, whose length is unknown"
                problems.append(Problem("schedule", message, "module", "horizon.steps_per_epoch=N"))
            elif config.interval == "step" and config.frequency != 1 and accumulate > 1:
                message = f"{kind} is stepped at every {config.frequency} batches, between which there may be no step"
                problems.append(Problem("schedule", message, "module", _REPLACE))
        name = type(self.module).__name__
        if not self.schedulers and hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):  # a mark of torch's schedulers
            message = (
                f"{name}.configure_optimizers makes a scheduler and does not return it, so nobody knows when it steps"
            )
            problems.append(Problem("schedule", message, "module", f"return it, or {_REPLACE}"))
        if is_overridden("lr_scheduler_step", self.module) and self.schedulers:
            message = f"{name} overrides lr_scheduler_step, which no plan can foresee"
            problems.append(Problem("schedule", message, "module", _REPLACE))
        if problems:
            raise ConfigError(problems)


_REPLACE = "choose a schedule, such as schedule=cosine: it replaces the module's scheduler"


def module_groups(
    config: Config, module: pl.LightningModule, horizon: Horizon | None, report: Callable[[Any], None]
) -> list[Group]:
    """Return the groups of the module's own optimizer, which follow its scheduler unless the run has a schedule.

    Args:
        config: of the run.
        module: the module to train, with a trainer.
        horizon: length of the run.
        report: is called with a line about the optimizer, and one about the parameters that it leaves out.

    Raises:
        ConfigError: the optimizer or its scheduler cannot be planned.
    """
    assert horizon is not None
    own, scheduled = ModuleOptimizer.of(module), config.schedule.of_module
    groups = own.groups(horizon, config.trainer.accumulate_grad_batches, scheduled, config.optimizer.lr)
    kind = type(own.optimizer)
    if problems := list(check_optimizer(config, config.optimizer, traits_of(kind), "optimizer")):
        raise ConfigError(problems)
    names = ", ".join(type(one.scheduler).__name__ for one in own.schedulers)
    way = f" with {names}" if names and scheduled else f"; {names} is replaced by the schedule" if names else ""
    report(f"optimizer: {kind.__name__} of {type(module).__name__}.configure_optimizers{way}")
    if left := [name for group in groups if group.frozen for name, _ in group.parameters]:
        report(f"not in the module's optimizer, and so not trained: {joined(left, 7)}")
    return groups


def check_same_length(config: Config, horizon: Horizon, branches: Sequence[Branch]) -> None:
    """Check that a resumed run under the module's own scheduler has the length for which that was planned.

    Args:
        config: of the resumed run.
        horizon: its length by the config.
        branches: the branches of the run, this one included.

    Raises:
        ConfigError: it has another length.
    """
    if config.schedule.of_module and branches and branches[0].before.steps != horizon.steps:
        before = counted(branches[0].before.steps, "step")
        message = f"the module's scheduler was planned for {before}, and the run would have {horizon.steps:,}"
        hint = "resume with the same length, or start a new run"
        raise ConfigError([Problem("resume.horizon", message, config.resume.horizon, hint)])


def _is_due(config: LRSchedulerConfig, step: int, horizon: Horizon) -> bool:
    """Return whether Lightning (2.6.6) steps a scheduler after this optimizer step."""
    if config.interval == "step" and config.frequency == 1:
        return True
    assert horizon.steps_per_epoch is not None
    epoch, within = divmod(step, horizon.steps_per_epoch)
    if config.interval == "step":  # counted within each epoch
        return (within + 1) % config.frequency == 0
    return within + 1 == horizon.steps_per_epoch and (epoch + 1) % config.frequency == 0


def _curve(rates: Sequence[float]) -> tuple[float, Curve]:
    """Return the peak LR of a group, and the schedule whose multiples of it are these LRs, one per step.

    Raises:
        ConfigError: an LR is negative or not finite, or changes too often for a table.
    """
    if not all(0 <= rate < math.inf for rate in rates):
        wrong = next(step for step, rate in enumerate(rates) if not 0 <= rate < math.inf)
        message = f"the module's scheduler gives the LR {rates[wrong]:g} at step {wrong}"
        raise ConfigError([Problem("schedule", message, "module", _REPLACE)])
    peak = max(rates)
    if not peak:
        return 0.0, Schedule(Constant())
    changes = [step for step, rate in enumerate(rates) if not step or rate != rates[step - 1]]
    if len(changes) > MOST_POINTS:
        message = (
            f"the module's scheduler changes the LR {len(changes):,} times, and a table has {MOST_POINTS:,} points"
        )
        raise ConfigError([Problem("schedule", message, "module", _REPLACE)])
    if held := len(changes) < len(rates) / 2:
        steps = changes
    else:  # a line through each step is no jump; a stretch at one LR has two ends
        steps = sorted({*changes, *(step - 1 for step in changes if step), len(rates) - 1})
    points = [(step, _multiplier(rates[step], peak)) for step in steps]
    return peak, Schedule(Tabulated(points, between="hold" if held else "linear"))


def _multiplier(rate: float, peak: float) -> float:
    """Return the multiplier whose product with the peak is this LR, to the last bit where there is one."""
    quotient = rate / peak
    near = (quotient, math.nextafter(quotient, 0.0), math.nextafter(quotient, 1.0))
    return next((one for one in near if one * peak == rate), quotient)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _titles(groups: Sequence[Sequence[str]], optimizer: Optimizer) -> list[str]:
    """Return a name of each group: its own, else what its parameters have in common, else its number."""
    own = [str(group.get("name", "")) for group in optimizer.param_groups]
    decays = ["decay" if group.get("weight_decay") else "no_decay" for group in optimizer.param_groups]
    prefixes = [_prefix(names) for names in groups]
    ways: list[list[str]] = [
        own,
        ["all"] if len(groups) == 1 else [],
        prefixes,
        decays,
        [f"{prefix}/{decay}" if prefix else decay for prefix, decay in zip(prefixes, decays, strict=True)],
    ]
    numbered = [f"group{at}" for at in range(len(groups))]
    return next((way for way in ways if way and all(way) and len({*way}) == len(way)), numbered)


def _prefix(names: Sequence[str]) -> str:
    """Return the module that holds all of these parameters; empty if that is the whole model."""
    paths = [name.split(".")[:-1] for name in names]
    alike = takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False))
    return ".".join(parts[0] for parts in alike)
