"""Rules that unfreeze their groups: whether the run is long enough, and whether anything trains from its start."""

from __future__ import annotations

from collections.abc import Sequence

from lrflow.errors import Problem
from lrflow.layers import Rule
from lrflow.schedules import Duration, Horizon
from lrflow.schedules.fields import uncounted

_NEVER = "the group would never train"
_SHORTER = "the LR would never come to what the schedule says"


def check_freezing(rules: Sequence[Rule], horizon: Horizon | None) -> list[Problem]:
    """What this run has no room for.

    Args:
        rules: of the config.
        horizon: how long the run is; None where that is not known.
    """
    problems = []
    for index, rule in enumerate(rules):
        problems += _check_rule(rule, f"layers.rules[{index}]", horizon)
    trained = [rule for rule in rules if not rule.freeze]
    late = [rule for rule in trained if rule.unfreeze is not None and Duration.parse(rule.unfreeze).value]
    if trained and not problems and late == trained:
        hint = "one group has to train from the first step on: leave out its unfreeze"
        problems.append(
            Problem("layers.rules", "nothing would train at first: every group is unfrozen later", ..., hint)
        )
    return problems


def _check_rule(rule: Rule, key: str, horizon: Horizon | None) -> list[Problem]:
    if rule.unfreeze is None:
        return []
    start, warmup = Duration.parse(rule.unfreeze), Duration.parse(rule.unfreeze_warmup)
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
