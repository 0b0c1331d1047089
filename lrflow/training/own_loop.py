"""Plans for training loops of one's own: of a module and keyword arguments, with its optimizer and scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import nn

from lrflow.config.composition.options import Catalogue
from lrflow.config.schemas.layers import Rules
from lrflow.config.schemas.objects import Schedule as ScheduleNode
from lrflow.config.targets import instantiate, locate
from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.layers import Group, Rule, RuleMaker, resolve
from lrflow.layers.parameters import Parameters
from lrflow.optimizers import build_optimizer, traits_of
from lrflow.plan import Plan, PlanScheduler
from lrflow.schedules import Curve, DurationLike, Horizon, Schedule, Shape
from lrflow.training.configure_optimizers import supply_optimizer
from lrflow.wording import counted

MakeOptimizer = Callable[[torch.device | str | None], torch.optim.Optimizer]


@dataclass(frozen=True)
class ModulePlan(Plan):
    """The plan of a torch module, which also makes the module's optimizer and the scheduler that executes the plan.

    Args:
        groups: all groups of the module, frozen ones too.
        horizon: how long the run is, in optimizer steps.
        make_optimizer: makes the optimizer for a device; None: the one that the parameters are on.
        settings: the optimizer's settings.
    """

    make_optimizer: MakeOptimizer = field(compare=False, repr=False, kw_only=True)
    settings: Mapping[str, Any] = field(compare=False, repr=False, kw_only=True)

    def build(self, device: torch.device | str | None = None) -> tuple[torch.optim.Optimizer, PlanScheduler]:
        """Return the module's optimizer, and its scheduler: `step()` it after each step of the optimizer.

        Args:
            device: where the module's parameters will be; None: where they are now.
        """
        optimizer = self.make_optimizer(device)
        return optimizer, PlanScheduler(optimizer, self)


def plan_module(
    module: nn.Module,
    *,
    steps: int,
    optimizer: str | Callable[..., torch.optim.Optimizer] = "adamw",
    lr: float | None = None,
    schedule: str | Curve | Shape = "cosine",
    warmup: DurationLike | None = None,
    cooldown: DurationLike | None = None,
    layers: str | Sequence[Rule] | RuleMaker = "no_decay",
    steps_per_epoch: int | None = None,
    **settings: Any,
) -> ModulePlan:
    """Compile the plan of a torch module, without Hydra and without a config.

    Args:
        module: the module; its parameters must exist already.
        steps: length of the run in optimizer steps.
        optimizer: an option of the group `optimizer`, such as `adamw`; or a class such as `torch.optim.SGD`.
        lr: peak LR; None: that of the option.
        schedule: an option of the group `schedule`, such as `cosine`; or a schedule or shape of `lrflow.schedules`.
        warmup: duration of the warmup, such as 100 (steps) or `5%`; None: that of the schedule.
        cooldown: duration of the cooldown; None: that of the schedule.
        layers: an option of the group `layers`, or rules, or what makes them.
        steps_per_epoch: optimizer steps per epoch, for durations in epochs; None: unknown.
        settings: further settings of the optimizer, such as `momentum=0.9`.

    Raises:
        ConfigError: every problem of an argument, or why these settings have no plan.
    """
    problems: list[Problem] = []
    made = _part(problems, lambda: _optimizer(optimizer, lr, settings))
    curve = _part(problems, lambda: _schedule(schedule, warmup, cooldown))
    rules = _part(problems, lambda: _rules(layers, module))
    horizon = _part(problems, lambda: _horizon(steps, steps_per_epoch))
    if problems:
        raise ConfigError(problems)
    node, factory = made
    decay = node.get("weight_decay", None if "weight_decay" in inspect.signature(factory).parameters else 0.0)
    groups = resolve(module, rules, node["lr"], decay, key="layers")
    if later := [group.name for group in groups if group.unfreeze or group.freeze_after]:
        message = f"freezes {', '.join(later)} for a part of the run, which only lrflow's own training does"
        raise ConfigError([Problem("layers", message, hint="freeze it for the whole run, or use lrflow.train")])
    make = partial(_build, groups, node, factory)
    make(None)  # reports arguments that the optimizer does not take
    plan = Plan.compile(groups, curve, horizon, node)
    if problems := [problem for one, _ in plan.curves for problem in one.check(horizon)]:
        raise ConfigError(problems)
    return ModulePlan(plan.groups, horizon, make_optimizer=make, settings=node)


def _build(
    groups: Sequence[Group],
    settings: Mapping[str, Any],
    factory: Callable[..., torch.optim.Optimizer],
    device: torch.device | str | None,
) -> torch.optim.Optimizer:
    return build_optimizer(groups, settings, factory, device or groups[0].parameters[0][1].device)


def _part(problems: list[Problem], make: Callable[[], Any]) -> Any:
    """Return what `make` returns; None if it finds problems, which are added to the others."""
    try:
        return make()
    except ConfigError as error:
        problems += error.problems
        return None


def _optimizer(
    optimizer: str | Callable[..., Any], lr: float | None, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], Callable[..., torch.optim.Optimizer]]:
    """Return the optimizer's settings, and what makes it."""
    if isinstance(optimizer, str):
        content = _option("optimizer", optimizer)
        factory = locate(content["_target_"], "optimizer")
    elif callable(optimizer):
        content, factory = {}, optimizer
    else:
        raise ConfigError([Problem("optimizer", "expected an option's name or an optimizer's class", optimizer)])
    node = {**content, **settings, **({} if lr is None else {"lr": lr})}
    rate = node.get("lr")
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < float("inf"):
        raise ConfigError([Problem("lr", "expected the peak LR, a number above 0", rate)])
    return node, factory


def _schedule(schedule: str | Curve | Shape, warmup: DurationLike | None, cooldown: DurationLike | None) -> Curve:
    changes: dict[str, Any] = {
        name: value for name, value in (("warmup", warmup), ("cooldown", cooldown)) if value is not None
    }
    if isinstance(schedule, str):
        made = instantiate({**ScheduleNode.spec_of(_option("schedule", schedule)), **changes}, "schedule")
        assert isinstance(made, Curve)
        return made
    if isinstance(schedule, Shape):
        return Schedule(schedule, **changes)
    if isinstance(schedule, Schedule):
        return replace(schedule, **changes)
    if isinstance(schedule, Curve) and not changes:
        return schedule
    message = "expected an option's name, or a schedule or shape of lrflow.schedules"
    if isinstance(schedule, Curve):
        message = f"{type(schedule).__name__} has no {' and no '.join(changes)}"
    raise ConfigError([Problem("schedule", message, schedule)])


def _rules(layers: str | Sequence[Rule] | RuleMaker, module: nn.Module) -> Sequence[Rule]:
    if isinstance(layers, str):
        content = _option("layers", layers)
        if "_target_" not in content:
            return Rules.model_validate(content).compiled()
        layers = instantiate({name: value for name, value in content.items() if name != "rules"}, "layers")
    if isinstance(layers, RuleMaker):
        return layers.rules_of(Parameters.of(module))
    if (
        isinstance(layers, Sequence)
        and not isinstance(layers, str)
        and layers
        and all(isinstance(rule, Rule) for rule in layers)
    ):
        return layers
    raise ConfigError([Problem("layers", "expected an option's name, or rules of lrflow.layers", layers)])


def _horizon(steps: int, steps_per_epoch: int | None) -> Horizon:
    try:
        return Horizon(steps, steps_per_epoch)
    except (TypeError, ValueError) as error:
        raise ConfigError([Problem("steps", str(error), steps)]) from error


def _option(group: str, name: str) -> dict[str, Any]:
    """Return the content of one of lrflow's own options.

    Raises:
        ConfigError: there is no such option, or it is made of options of other groups.
    """
    options = Catalogue().options(group)
    if name not in options:
        raise ConfigError([Problem(group, "there is no such option", name, did_you_mean(name, options))])
    content: Any = OmegaConf.to_container(OmegaConf.load(options[name].path))
    composed = isinstance(content, Mapping) and ("defaults" in content or "routes" in content)
    if not isinstance(content, dict) or composed or "${" in str(content):
        hint = f"lrflow.plan('{group}={name}', ...) plans a whole config"
        raise ConfigError([Problem(group, "this option is made of others, so it needs a config", name, hint)])
    return content


class Planned(pl.Callback):
    """Makes a Trainer of one's own train under a plan: `pl.Trainer(callbacks=[lrflow.Planned(plan)], max_steps=...)`.

    The plan's optimizer and scheduler take the place of the module's `configure_optimizers`, which Lightning (2.6.6)
    wants to exist. It saves and restores both with its checkpoints.

    Args:
        plan: of the module that is trained, as `lrflow.plan(module, ...)` returns it.

    Raises:
        ConfigError: the plan is of no module, or its optimizer needs more than a Trainer gives; when the fit starts,
            also if the Trainer's run is of another length than the plan.
    """

    def __init__(self, plan: ModulePlan) -> None:
        if not isinstance(plan, ModulePlan):
            message = f"expected the plan of a module, got {type(plan).__name__}"
            raise ConfigError([Problem("plan", message, hint="lrflow.plan(module, ...) makes one")])
        kind = type(plan.make_optimizer(None))
        if traits_of(kind).modes:
            message = f"{kind.__name__} trains at other weights than it is evaluated at, which a Trainer does not know"
            raise ConfigError([Problem("optimizer", message, hint="use lrflow.train")])
        self.plan = plan

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Replace the module's optimizer, before Lightning makes it."""
        if stage == "fit":
            supply_optimizer(pl_module, self.plan, self.plan.make_optimizer, self.plan.settings)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the run is as long as its plan."""
        steps, planned = trainer.estimated_stepping_batches, self.plan.horizon.steps
        if steps != planned:
            message = f"the plan has {counted(planned, 'step')}, and the Trainer would make {steps:,}"
            raise ConfigError(
                [Problem("steps", message, planned, f"plan steps={steps}, or Trainer(max_steps={planned})")]
            )
