"""Warnings before step 0, for people and plan.json: a plan that suits its optimizer badly, and doubtful settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from torch.optim import Optimizer as TorchOptimizer

from lrflow.config import Config, locate
from lrflow.config.checks.keys import settings_of
from lrflow.config.checks.metrics import guessed_modes
from lrflow.config.checks.warnings import warnings_before_start
from lrflow.config.schemas.average import SWA, averaging_of
from lrflow.config.schemas.objects import Optimizer
from lrflow.config.step_batch import batch_scaling, step_batch
from lrflow.config.targets import optimizer_traits
from lrflow.optimizers.routed import route_key
from lrflow.optimizers.traits import traits_of
from lrflow.plan import Plan
from lrflow.schedules import Horizon
from lrflow.wording import counted, number

_SAMPLED_STEPS = 1000  # steps at which a schedule is evaluated


def warnings_of(config: Config, plan: Plan, length: Horizon) -> list[str]:
    """Return the warnings before step 0, one line each; nothing is refused.

    Args:
        config: of the run.
        plan: of the run.
        length: of the run without its cooldown, of which all durations but those of the LR are shares.
    """
    optimizers: dict[str | None, Any] = {None: locate(config.optimizer.target)}
    optimizers |= {route: locate(optimizer.target) for route, optimizer in config.optimizer.routes.items()}
    return [*advise(plan, optimizers), *_of_average(config, plan, length), *warnings_before_start(config, length)]


def _of_average(config: Config, plan: Plan, length: Horizon) -> list[str]:
    """Return a line if a mean of weights some time apart is taken where the LR falls, or if its memory is too long."""
    average, averaging = config.average, averaging_of(config.average, length, config.moving_scalars)
    if averaging is None or averaging.first > plan.horizon.steps:
        return []
    if isinstance(average, SWA):
        steps = np.unique(np.linspace(averaging.first - 1, plan.horizon.steps - 1, _SAMPLED_STEPS).astype(int))
        rates = plan.lr(steps)
        moving = [column for column, top in enumerate(rates.max(axis=0)) if rates[:, column].min() < 0.99 * top]
        if moving:
            low, top = rates[:, moving[0]].min(), rates[:, moving[0]].max()
            return [
                f"average=swa is meant for a constant LR, but from step {averaging.first:,} on the LR moves between "
                f"{low:.3g} and {top:.3g}: use schedule=constant_with_warmup"
            ]
    memory, steps_left = 1 / (1 - averaging.decay), plan.horizon.steps - averaging.first + 1
    if averaging.kind == "ema" and not averaging.warmup and memory > steps_left:
        return [
            f"the average remembers {counted(f'{memory:,.0f}', 'step')}, but the run averages only {steps_left:,}: it "
            "stays close to the first weights; use average.over=10% or average.warmup=true"
        ]
    return []


def plan_extras(config: Config, plan: Plan, length: Horizon, devices: int | None = None) -> dict[str, Any]:
    """Return what plan.json holds besides the plan: how batch and peak LR were made, what is averaged, the warnings.

    Args:
        config: of the run.
        plan: of the run.
        length: of the run without its cooldown.
        devices: number of training processes; None: that of the config.
    """
    scaling, averaging = batch_scaling(config, devices), averaging_of(config.average, length, config.moving_scalars)
    divided = step_batch(config, devices) if config.data.effective_batch_size is not None else None
    found = {
        "batch": {**asdict(divided), "size": divided.size} if divided else None,
        "scaling": scaling.record() if scaling else None,
        "transfer": config.scaling.found,
        "timescale": timescales(config, plan),
        "average": averaging.record() if averaging else None,
        "warnings": warnings_of(config, plan, length),
    }
    return {name: value for name, value in found.items() if value}


def timescales(config: Config, plan: Plan) -> dict[str, float]:
    """Return the steps over which decoupled weight decay averages, 1 / (peak LR x weight decay), by optimizer.

    Of the groups of an optimizer, the one with the most parameters counts, of those that decay (Wang and Aitchison,
    2024, arXiv 2405.13698). Optimizers without decoupled weight decay have no entry.
    """
    found = {}
    declared: dict[str | None, Optimizer] = {None: config.optimizer} | config.optimizer.routes
    for route, optimizer in declared.items():
        settings = settings_of(optimizer)
        usual = settings.get("weight_decay") or 0.0
        if config.optimizer.of_module or not optimizer_traits(optimizer.target).is_decoupled(settings):
            continue
        decays = [
            (group.parameters, group.lr * (usual if group.weight_decay is None else group.weight_decay))
            for group in plan.trainable
            if group.route == route
        ]
        decaying = [(size, product) for size, product in decays if product > 0]
        if decaying:
            found[route_key(route)] = 1 / max(decaying)[1]
    return found


def describe_timescales(config: Config, plan: Plan) -> list[str]:
    """Return a line per optimizer with decoupled weight decay: its timescale in steps, epochs and whole runs."""
    lines = []
    for key, steps in timescales(config, plan).items():
        epoch = plan.horizon.steps_per_epoch
        times = [counted(round(steps), "step"), *([counted(number(steps / epoch), "epoch")] if epoch else [])]
        times.append(f"{number(steps / plan.horizon.steps)} times the run")
        lines.append(f"timescale of the weight decay: 1 / ({key}.lr x weight decay) = {', '.join(times)}")
    return lines


def report_advice(config: Config, plan: Plan, length: Horizon, report: Callable[[Any], None]) -> None:
    """Report the timescale of the weight decay, the warnings before step 0, and what was guessed."""
    for line in describe_timescales(config, plan):
        report(line)
    for warning in warnings_of(config, plan, length):
        report(f"warning: {warning}")
    if config.run_folder is None:  # otherwise this is reported once for the whole sweep
        for guessed in guessed_modes(config.directions):
            report(guessed)
    if config.trainer.compile and plan.scheduled_settings:
        report(f"the optimizer's update is not compiled, since other settings move: {', '.join(plan.also)}")


def advise(plan: Plan, optimizers: Mapping[str | None, Callable[..., TorchOptimizer]]) -> list[str]:
    """Return one line per way in which a plan does not suit its optimizers.

    Args:
        plan: of the run.
        optimizers: the class of each route's optimizer; the key None is the main one.
    """
    advice = []
    for route, factory in optimizers.items():
        columns = [column for column, group in enumerate(plan.trainable) if group.route == route]
        if not columns:
            continue
        key = route_key(route)
        name, traits = getattr(factory, "__name__", key), traits_of(factory, f"{key}._target_")
        lr = plan.trainable[columns[0]].lr
        if traits.estimates_lr and lr != 1.0:
            advice.append(
                f"{name} estimates the LR itself; {key}.lr is a multiplier on it and is 1 in its paper, found {lr:g}"
            )
        first = float(plan.lr(0)[columns[0]])
        if traits.first_lr_only and (first != lr or _find_decay(plan, columns)):
            advice.append(
                f"{name} adapts a step size per weight itself, starting from the LR of step 0, {first:.3g}, and the "
                "schedule has no effect after that: use schedule=constant"
            )
        if traits.modes and (fall := _find_decay(plan, columns)):
            advice.append(
                f"{name} averages its weights instead of decaying the LR, but the schedule decays it from "
                f"{fall[0]:g} to {fall[1]:.3g}: use schedule=constant_with_warmup"
            )
    return advice


def _find_decay(plan: Plan, columns: list[int]) -> tuple[float, float] | None:
    """Return the peak LR, and the lowest LR after it, of the first group whose LR decays; None if none does."""
    steps = np.unique(np.linspace(0, plan.horizon.steps - 1, _SAMPLED_STEPS).astype(int))
    rates = plan.lr(steps)
    for column in columns:
        peak, lowest = plan.trainable[column].lr, rates[int(np.argmax(rates[:, column])) :, column].min()
        if lowest < 0.99 * peak:
            return peak, float(lowest)
    return None
