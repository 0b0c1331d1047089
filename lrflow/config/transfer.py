"""What a run takes from a tuned one, as numbers in its config: `optimizer.lr=from:RUN`, `scaling=transfer`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import OmegaConf

from lrflow.config.checks.tuned_run import changed_settings
from lrflow.config.config import Config
from lrflow.config.schemas.objects import Optimizer
from lrflow.config.targets import defaults, locate, optimizer_traits
from lrflow.config.tuned_run import RESIDUAL_MULTIPLIER, TunedRun, base_of
from lrflow.config.validation import validate
from lrflow.errors import ConfigError, Problem
from lrflow.optimizers.routed import route_key
from lrflow.plan import Plan
from lrflow.plan.theory import describe_ratio, main_curve
from lrflow.plan.transfer import Factor, of_batch, of_betas, of_depth, of_horizon, of_weight_decay, of_width
from lrflow.schedules import Horizon
from lrflow.schedules.bound import BestLRRatio, best_lr_ratio
from lrflow.wording import joined, number

_THEORY = "the best LRs of the two schedules, by theory (arXiv 2310.07831)"


def settled(config: Config, horizon: Horizon, report: Callable[[Any], None]) -> Config:
    """Return the config with the LR that it takes from another run as a number, and how it was computed.

    Both are in the config.yaml of the run, from which a resumed run reads them: it needs the other run no more.

    Args:
        config: of the run; returned as it is if it names no other run.
        horizon: length of the run.
        report: is called with one line per LR, and with what differs from the other run besides.

    Raises:
        ConfigError: the schedule of the other run cannot be built, or is 0 throughout.
    """
    tuned = config.tuned
    if tuned is None:
        return config
    source = config.source.copy()
    transfers = config.scaling.rule == "transfer"
    values, factors = (_transferred if transfers else _for_schedule)(config, tuned, horizon, report)
    given = {key: _plain(OmegaConf.select(source, key)) for key in values}
    for key, value in values.items():
        OmegaConf.update(source, key, value)
    record = {"from": tuned.path, "lr": tuned.lr(), "factors": factors, "given": given}
    OmegaConf.update(source, "scaling.found", record, force_add=True)
    for line in _differences(config, tuned, horizon):
        report(f"warning: {line}")
    new = validate(source, config.choices, config.overrides, config.run_folder, config.directions.metrics())
    new.remarks.extend(config.remarks)
    new.doubts.extend(config.doubts)
    return new


def _for_schedule(
    config: Config, tuned: TunedRun, horizon: Horizon, report: Callable[[Any], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the LRs of `optimizer.lr=from:RUN` by their keys, and the factors on them."""
    ratio, values = _ratio(config, tuned, horizon), {}
    rates = {f"{route_key(route)}.lr": tuned.lr(route) for route in (None, *config.optimizer.routes)}
    for key, before in rates.items():
        lr = float(f"{before * ratio.total:.6g}")
        values[key] = lr
        report(f"{key} {number(lr)} = {number(before)} of {tuned.path} x {describe_ratio(ratio)}: {_THEORY}")
    return values, {"schedule": ratio.schedule, "length": ratio.length}


def _transferred(
    config: Config, tuned: TunedRun, horizon: Horizon, report: Callable[[Any], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that `scaling=transfer` gives by their keys, and the factors on them by optimizer."""
    asked, values, factors = config.scaling, dict[str, Any](), dict[str, Any]()
    batch, samples = _sizes(config, tuned, horizon)
    shape = _ratio(config, tuned, horizon).schedule if asked.transfers("schedule") else None
    for key, own in config.optimizer.members.items():
        before = _settings_before(tuned, key, own)
        traits = optimizer_traits(own.target)
        parts = [] if shape is None else [Factor("schedule", shape, _THEORY)]
        if asked.transfers("horizon"):
            parts.append(of_horizon(samples, asked.exponent))
        if asked.transfers("batch") and traits.mup is not None:
            parts.append(of_batch(batch, traits.mup))
        if base := base_of(config.layers.plain()):
            parts.append(of_width(base))
            multipliers = (model.get(RESIDUAL_MULTIPLIER, 1.0) for model in (config.model.plain(), tuned.model))
            if (deeper := operator.truediv(*multipliers)) != 1:
                parts.append(of_depth(deeper))
        ratio = math.prod(part.value for part in parts)
        found: dict[str, Any] = {"lr": float(f"{before['lr'] * ratio:.6g}")}
        found |= {name: before[name] for name in ("weight_decay", "betas") if before.get(name) and name in own.node()}
        lines = [f"{key}.lr {number(found['lr'])} = {number(before['lr'])} x {number(ratio)}"]
        lines += [f"  {part.describe()}" for part in parts]
        if asked.transfers("batch") and traits.mup is None and batch != 1:
            lines.append(f"  batch: not scaled, since no rule is known for {own.target.rpartition('.')[2]}")
        if before.get("weight_decay") and asked.transfers("weight_decay") and traits.is_decoupled(own.node()):
            part = of_weight_decay(ratio, batch, samples)
            found["weight_decay"] = float(f"{before['weight_decay'] * part.value:.6g}")
            if part.value != 1:
                changed = f"{found['weight_decay']:g} instead of {before['weight_decay']:g}"
                lines.append(f"  {key}.weight_decay {changed}: {part.why}")
            parts.append(part)
        if before.get("betas") and asked.transfers("betas") and traits.mup == "adam":
            part, betas = of_betas(batch), list(before["betas"])
            found["betas"] = [betas[0], float(f"{betas[1] ** part.value:.9g}"), *betas[2:]]
            if part.value != 1:
                lines.append(f"  {key}.betas {found['betas']} instead of {betas}: {part.why}")
            parts.append(part)
        values |= {f"{key}.{name}": value for name, value in found.items()}
        factors[key] = [part.record() for part in parts]
        report("\n".join([f"transfer from {tuned.path}: {lines[0]}", *lines[1:]]))
    return values, factors


def _settings_before(tuned: TunedRun, key: str, own: Optimizer) -> dict[str, Any]:
    """Return the settings of an optimizer of the tuned run; those that are typed take their place.

    Args:
        tuned: the tuned run.
        key: config key of the optimizer.
        own: the same optimizer of the new run.
    """
    route = None if key == "optimizer" else key.rpartition(".")[2]
    theirs = {**tuned.settings(route), "lr": tuned.lr(route)}
    typed = {name: value for name, value in own.node().items() if f"{key}.{name}" in tuned.kept}
    return {**defaults(own.target), **theirs, **typed}


def _sizes(config: Config, tuned: TunedRun, horizon: Horizon) -> tuple[float, float]:
    """Return the batch of a step and the samples of the run, over those of the tuned run.

    Raises:
        ConfigError: the examples per step of one of the runs are not known.
    """
    before, steps = tuned.plan["horizon"].get("samples_per_step"), horizon.steps / tuned.plan["horizon"]["steps"]
    now = horizon.samples_per_step
    if not before or not now:
        whose = "this run has" if before else f"{tuned.path} had"
        message = f"it is not known how many examples per step {whose}"
        hint = "set data.batch_size, or horizon.samples_per_step with horizon.steps"
        raise ConfigError([Problem(tuned.key, message, tuned.path, hint)])
    return now / before, steps * now / before


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _ratio(config: Config, tuned: TunedRun, horizon: Horizon) -> BestLRRatio:
    """Return the best LR of the run's schedule over that of the other run's, by theory.

    Of a run whose groups have schedules of their own, the one counts that most of its parameters follow.
    """
    try:
        before = Plan.from_dict(tuned.plan, resolve=locate)
    except ConfigError as error:
        text = "; ".join(str(problem) for problem in error.problems)
        raise ConfigError([Problem(tuned.key, f"its plan.json cannot be read: {text}", tuned.given)]) from error
    curve = main_curve(before)
    own = config.schedule.curve().split_settings()[0]
    ratio = best_lr_ratio((own, horizon), (curve, before.horizon)) if curve else None
    if ratio is None:
        raise ConfigError([Problem(tuned.key, "one of the two schedules is 0 at every step", tuned.given)])
    return ratio


def _differences(config: Config, tuned: TunedRun, horizon: Horizon) -> Iterator[str]:
    """Yield a line per difference to the other run that the LR was not adapted to."""
    settings = changed_settings(config.optimizer, tuned.optimizer)
    if settings and tuned.key == "optimizer.lr":
        yield f"the LR of {tuned.path} was tuned with other settings: {joined(settings)}"
    then, now = (tuned.plan["horizon"].get("samples_per_step"), horizon.samples_per_step)
    if then and now and then != now and tuned.key == "optimizer.lr":
        yield f"{tuned.path} had {number(then)} examples per step, and this run has {number(now)}: the LR is not scaled"
    model: Any = _plain(config.source.model)
    names = [name for name in {**tuned.model, **model} if tuned.model.get(name) != model.get(name)]
    base = base_of(config.layers.plain())
    adapted = (*base, RESIDUAL_MULTIPLIER) if base else ()
    if changed := [name for name in names if name not in ("init_from", "fresh", "metrics", *adapted)]:
        rest = "layers=mup adapts it to " + ("widths and depth" if base is None else "what layers.base names")
        yield f"{tuned.path} had another model ({joined([f'model.{name}' for name in changed])}): {rest}"
    if tuned.status not in (None, "finished"):
        yield f"{tuned.path} did not finish: its status is {tuned.status}"
    if tuned.plan.get("events"):
        yield f"{tuned.path} changed its LR during the run: its plan was not what it trained with"
