"""Checks of layer rules: names, freezing, and settings of an optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from lrflow.config.checks.compatibility import check_betas
from lrflow.config.composition.options import shipped_nodes
from lrflow.config.schemas import layers as schema
from lrflow.config.schemas.objects import Optimizer
from lrflow.config.schemas.ranges import check_ranges
from lrflow.config.signatures import parameters_in_source
from lrflow.config.targets import check_arguments, optimizer_traits
from lrflow.errors import Problem
from lrflow.layers import Rule
from lrflow.layers.rules import OWN_FIELDS
from lrflow.optimizers.traits import IMPLEMENTATION
from lrflow.schedules import Duration, Horizon
from lrflow.schedules._arguments import uncountable_hint
from lrflow.wording import counted

_NEVER = "the group would never train"

_ALWAYS = "the group would never be frozen: leave it out"

_SHORTER = "the LR would never reach the schedule"


def check_names(rules: Sequence[schema.Rule]) -> list[Problem]:
    """Return a problem for each rule with the name of an earlier one."""
    first: dict[str, int] = {}
    problems = []
    for index, rule in enumerate(rules):
        if first.setdefault(rule.name, index) != index:
            message = f"layers.rules[{first[rule.name]}] has the same name"
            problems.append(Problem(f"layers.rules[{index}].name", message, rule.name))
    return problems


def check_multiples(rules: Sequence[schema.Rule], why: str) -> Iterator[Problem]:
    """Yield a problem for each rule with an absolute LR, in a config whose peak LR is known only later.

    Args:
        rules: rules of the config.
        why: what makes it known only later, after `if`.
    """
    for index, rule in enumerate(rules):
        if isinstance(rule.lr, int | float):
            message = f"must be a multiple of the peak LR if {why}"
            yield Problem(f"layers.rules[{index}].lr", message, rule.lr, "write a multiple, such as 10x")


def check_freezing(rules: Sequence[Rule], horizon: Horizon | None, alone: bool = True) -> list[Problem]:
    """Return a problem for each rule that freezes or unfreezes its group too late, and one if nothing trains at first.

    Args:
        rules: rules of the config.
        horizon: length of the run; None if unknown.
        alone: whether all groups are made by these rules.
    """
    problems = []
    for index, rule in enumerate(rules):
        problems += _check_unfreezing(rule, f"layers.rules[{index}]", horizon)
        problems += _check_freeze_after(rule, f"layers.rules[{index}]", horizon)
    trained = [rule for rule in rules if not rule.freeze]
    late = [rule for rule in trained if rule.unfreeze is not None and Duration.parse(rule.unfreeze).value]
    if alone and trained and not problems and late == trained:
        hint = "remove unfreeze from one rule, so that its group trains from the first step"
        message = "nothing would train at first: every group is frozen at the start"
        problems.append(Problem("layers.rules", message, ..., hint))
    return problems


def _check_unfreezing(rule: Rule, key: str, horizon: Horizon | None) -> list[Problem]:
    if rule.unfreeze is None:
        return []
    start, warmup = Duration.parse(rule.unfreeze), Duration.parse(rule.unfreeze_warmup)
    if horizon is None:
        if start.unit == "fraction" and start.value >= 1:
            return [Problem(f"{key}.unfreeze", "expected less than the whole run", str(rule.unfreeze), _NEVER)]
        return []
    try:
        first, last = start.steps(horizon), start.steps(horizon) + warmup.steps(horizon)
    except ValueError as error:
        return [Problem(f"{key}.unfreeze", str(error), str(rule.unfreeze), uncountable_hint(start))]
    if first >= horizon.steps:
        message = f"is {counted(first, 'step')}, but the run has only {horizon.steps}"
        return [Problem(f"{key}.unfreeze", message, str(rule.unfreeze), _NEVER)]
    if last >= horizon.steps:
        message = f"ends at step {last}, but the run has only {horizon.steps}"
        return [Problem(f"{key}.unfreeze_warmup", message, str(rule.unfreeze_warmup), _SHORTER)]
    return []


def _check_freeze_after(rule: Rule, key: str, horizon: Horizon | None) -> list[Problem]:
    if rule.freeze_after is None:
        return []
    end, start = Duration.parse(rule.freeze_after), Duration.parse(rule.unfreeze or 0)
    where, given = f"{key}.freeze_after", str(rule.freeze_after)
    if horizon is None:
        if end.unit == "fraction" and end.value >= 1:
            return [Problem(where, "expected less than the whole run", given, _ALWAYS)]
        return []
    try:
        stop = end.steps(horizon)
    except ValueError as error:
        return [Problem(where, str(error), given, uncountable_hint(end))]
    if stop >= horizon.steps:
        return [Problem(where, f"is {counted(stop, 'step')}, but the run has only {horizon.steps}", given, _ALWAYS)]
    try:
        first = start.steps(horizon)
    except ValueError:  # a problem of `unfreeze`
        return []
    if stop <= first:
        message = f"is step {stop}" + (f", and the group trains only from step {first} on" if first else "")
        return [Problem(where, message, given, _NEVER)]
    return []


def check_settings(rules: Sequence[schema.Rule], optimizer: Optimizer) -> list[Problem]:
    """Return a problem for each setting of a rule that its optimizer does not take, or not per group.

    Args:
        rules: rules of the config.
        optimizer: the main optimizer, which is imported if a rule has settings.
    """
    problems: list[Problem] = []
    for index, rule in enumerate(rules):
        own = optimizer if rule.route is None else optimizer.routes.get(rule.route)
        if rule.settings and own is not None:
            problems += _check_settings(rule.settings, own, f"layers.rules[{index}].settings")
    return problems


def _check_settings(settings: Mapping[str, Any], optimizer: Optimizer, key: str) -> Iterator[Problem]:
    if optimizer.of_module:
        yield Problem(key, "the groups are those of the module's own optimizer", dict(settings), "leave it out")
        return
    traits = optimizer_traits(optimizer.target)
    whole = {*IMPLEMENTATION, *traits.state_switches, *traits.state_sizes, *Optimizer.offered}
    given = {}
    for name, value in settings.items():
        if name in whole:
            hint = f"set optimizer.{name}"
            yield Problem(f"{key}.{name}", "is a setting of the whole optimizer, not of a group", value, hint)
        elif name not in OWN_FIELDS:  # these are problems of the rule itself
            given[name] = value
    settled = parameters_in_source(optimizer.target) if any(shipped_nodes("optimizer", optimizer.target)) else None
    arguments = {"lr": optimizer.lr, **given}
    unknown = check_arguments(optimizer.target, arguments, key, extra=("params",), known_parameters=settled)
    unknown = [problem for problem in unknown if problem.key.removeprefix(f"{key}.") in given]
    yield from unknown
    known = {name: value for name, value in given.items() if f"{key}.{name}" not in {p.key for p in unknown}}
    try:
        Optimizer.model_validate({"_target_": optimizer.target, "lr": 1.0, **known})
    except ValidationError as error:
        for found in error.errors():
            name = str(found["loc"][0])
            yield Problem(f"{key}.{name}", str(found["msg"]), known.pop(name, ...))
    yield from check_ranges(known, traits.ranges, key)
    yield from check_betas(known.get("betas"), optimizer.target, key)
