"""The LR that a run takes from another one, as numbers in its config: `optimizer.lr=from:RUN`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import OmegaConf

from lrflow.config.checks.tuned_run import changed_settings
from lrflow.config.config import Config
from lrflow.config.targets import locate
from lrflow.config.tuned_run import TunedRun
from lrflow.config.validation import validate
from lrflow.errors import ConfigError, Problem
from lrflow.limits import FROM
from lrflow.plan import Plan
from lrflow.plan.theory import describe_ratio, main_curve
from lrflow.schedules import Horizon
from lrflow.schedules.bound import BestLRRatio, best_lr_ratio
from lrflow.wording import joined, number

SOURCE = "arXiv 2310.07831"


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
    ratio = _ratio(config, tuned, horizon)
    source, given = config.source.copy(), {}
    rates = {"optimizer.lr": tuned.lr, **{f"optimizer.routes.{n}.lr": tuned.lr_of(n) for n in config.optimizer.routes}}
    why = f"the best LRs of the two schedules, by theory ({SOURCE})"
    for key, before in rates.items():
        lr = float(f"{before * ratio.total:.6g}")
        given[key] = OmegaConf.select(source, key)
        OmegaConf.update(source, key, lr)
        report(f"{key} {number(lr)} = {number(before)} of {tuned.path} x {describe_ratio(ratio)}: {why}")
    record = {
        "from": tuned.path,
        "lr": tuned.lr,
        "factors": {"schedule": ratio.schedule, "length": ratio.length},
        "given": given,
    }
    OmegaConf.update(source, "scaling.found", record, force_add=True)
    for line in _differences(config, tuned, horizon):
        report(f"warning: {line}")
    new = validate(source, config.choices, config.overrides, config.run_folder, config.directions.metrics())
    new.remarks.extend(config.remarks)
    new.doubts.extend(config.doubts)
    return new


def _ratio(config: Config, tuned: TunedRun, horizon: Horizon) -> BestLRRatio:
    """Return the best LR of the run's schedule over that of the other run's, by theory.

    Of a run whose groups have schedules of their own, the one counts that most of its parameters follow.
    """
    value = f"{FROM}{tuned.path}"
    try:
        before = Plan.from_dict(tuned.plan, resolve=locate)
    except ConfigError as error:
        text = "; ".join(str(problem) for problem in error.problems)
        raise ConfigError([Problem(tuned.key, f"its plan.json cannot be read: {text}", value)]) from error
    curve = main_curve(before)
    own = config.schedule.curve().split_settings()[0]
    ratio = best_lr_ratio((own, horizon), (curve, before.horizon)) if curve else None
    if ratio is None:
        raise ConfigError([Problem(tuned.key, "one of the two schedules is 0 at every step", value)])
    return ratio


def _differences(config: Config, tuned: TunedRun, horizon: Horizon) -> Iterator[str]:
    """Yield a line per difference to the other run that the LR was not adapted to."""
    settings = changed_settings(config.optimizer, tuned.optimizer)
    if settings:
        yield f"the LR of {tuned.path} was tuned with other settings: {joined(settings)}"
    then, now = (tuned.plan["horizon"].get("samples_per_step"), horizon.samples_per_step)
    if then and now and then != now:
        yield f"{tuned.path} had {number(then)} examples per step, and this run has {number(now)}: the LR is not scaled"
    if tuned.status not in (None, "finished"):
        yield f"{tuned.path} did not finish: its status is {tuned.status}"
    if tuned.plan.get("events"):
        yield f"{tuned.path} changed its LR during the run: its plan was not what it trained with"
