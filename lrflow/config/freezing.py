"""Rules that freeze and unfreeze their groups: whether they can be meant, and whether the run is long enough."""

from __future__ import annotations

from collections.abc import Sequence

from lrflow.config.schema import Rule
from lrflow.errors import Problem
from lrflow.schedules import Horizon
from lrflow.schedules.fields import uncounted

_NEVER = "the group would never train"
_SHORTER = "the LR would never come to what the schedule says"


def check_freezing(rules: Sequence[Rule], horizon: Horizon | None) -> list[Problem]:
    """What no rule can mean, and what this run has no room for.

    Args:
        rules: as the config has them.
        horizon: how long the run is; None where that is not known.
    """
    problems = []
    for index, rule in enumerate(rules):
        problems += _check_rule(rule, f"layers.rules[{index}]", horizon)
    trained = [rule for rule in rules if not rule.freeze]
    if trained and not problems and all(rule.unfreeze and rule.unfreeze.value for rule in trained):
        hint = "one group has to train from the first step on: leave out its unfreeze"
        problems.append(
            Problem("layers.rules", "nothing would train at first: every group is unfrozen later", ..., hint)
        )
    return problems


def _check_rule(rule: Rule, key: str, horizon: Horizon | None) -> list[Problem]:
    if rule.freeze and rule.unfreeze is not None:
        hint = "remove it, or remove freeze"
        return [Problem(f"{key}.unfreeze", "a frozen group does not train", str(rule.unfreeze), hint)]
    if rule.unfreeze is None:
        if rule.unfreeze_warmup.value:
            hint = "add unfreeze, or give the group a schedule with a warmup"
            return [Problem(f"{key}.unfreeze_warmup", "the group is never unfrozen", str(rule.unfreeze_warmup), hint)]
        if not rule.freeze and not rule.freeze_statistics:
            return [Problem(f"{key}.freeze_statistics", "the group is not frozen", False, "remove it")]
        return []
    start, warmup = rule.unfreeze, rule.unfreeze_warmup
    if horizon is None:
        if start.unit == "fraction" and start.value >= 1:
            return [Problem(f"{key}.unfreeze", "is no less than the whole run", str(rule.unfreeze), _NEVER)]
        return []
    try:
        first, last = start.steps(horizon), start.steps(horizon) + warmup.steps(horizon)
    except ValueError as error:
        return [Problem(f"{key}.unfreeze", str(error), str(rule.unfreeze), uncounted(start))]
    if first >= horizon.steps:
        message = f"is {first} steps, but the run has only {horizon.steps}"
        return [Problem(f"{key}.unfreeze", message, str(rule.unfreeze), _NEVER)]
    if last >= horizon.steps:
        message = f"is over at step {last}, but the run has only {horizon.steps}"
        return [Problem(f"{key}.unfreeze_warmup", message, str(rule.unfreeze_warmup), _SHORTER)]
    return []
