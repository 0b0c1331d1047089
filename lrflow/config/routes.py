"""Whether the rules of the layers and the routes of the optimizer are made for each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lrflow.config import schema
from lrflow.errors import Problem, did_you_mean

if TYPE_CHECKING:
    from lrflow.layers import Rule  # takes torch to import


def check_routes(
    rules: Sequence[schema.Rule | Rule], routes: Mapping[str, schema.Optimizer], key: str = "layers.rules[{}].route"
) -> list[Problem]:
    """Rules that take a route which is not there, optimizers that no rule leaves anything for, routes within routes.

    Args:
        rules: all of them.
        routes: `optimizer.routes`.
        key: where a rule says its route; `{}` is its number.
    """
    problems = [
        Problem(f"optimizer.routes.{name}.routes", "a route has none of its own", hint="declare it beside this one")
        for name, route in routes.items()
        if route.routes
    ]
    for index, rule in enumerate(rules):
        if rule.route is not None and rule.route not in routes:
            hint = did_you_mean(rule.route, routes) or "there are none: optimizer=muon brings one"
            problems.append(Problem(key.format(index), "there is no such route", rule.route, hint))
    if problems:
        return problems
    taken = {rule.route for rule in rules if not rule.freeze}
    for name in routes:
        if name not in taken:
            hint = f"layers=muon has a rule that routes to muon; ~optimizer.routes.{name} takes this one away"
            problems.append(
                Problem(f"optimizer.routes.{name}", "no rule of the layers routes anything to it", hint=hint)
            )
    if taken and None not in taken:
        hint = "let the optimizer itself be one that they are routed to"
        problems.append(Problem("optimizer", "every rule routes its parameters elsewhere", hint=hint))
    return problems
