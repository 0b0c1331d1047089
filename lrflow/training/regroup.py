"""Optimizer state from one grouping of the parameters to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def regroup(
    state: dict[str, Any],
    before: Sequence[Sequence[str]],
    now: Sequence[Sequence[str]],
    routes: Sequence[str | None] = (),
) -> dict[str, Any]:
    """An optimizer's state for other groups of the same parameters, so that their momentum is carried over by name.

    A parameter that another optimizer is to train starts without state, which would mean nothing to that one.

    Args:
        state: of `Optimizer.state_dict()`, whose numbers count the parameters in the order of `before`.
        before: names of the parameters of each group, when it was saved.
        now: names of the parameters of each group of the optimizer that is to load it.
        routes: of these groups; empty: none of them is routed.
    """
    number = {name: index for index, name in enumerate(name for group in before for name in group)}
    home = {name: group for group, names in zip(state["param_groups"], before, strict=True) for name in names}
    states, groups, count = {}, [], 0
    for names, route in zip(now, routes or [None] * len(now), strict=True):
        stayed = {name for name in names if name in home and home[name].get("route") == route}
        alike = [*(home[name] for name in names if name in stayed), *_of_route(state, route), state["param_groups"][0]]
        groups.append({**alike[0], "params": list(range(count, count + len(names)))})
        for name in names:
            if name in stayed and number[name] in state["state"]:
                states[count] = state["state"][number[name]]
            count += 1
    return {"state": states, "param_groups": groups}


def _of_route(state: dict[str, Any], route: str | None) -> list[dict[str, Any]]:
    return [group for group in state["param_groups"] if group.get("route") == route]
