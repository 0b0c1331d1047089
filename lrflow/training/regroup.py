"""Map saved optimizer state to other parameter groups, by the names of the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def regroup(
    state: dict[str, Any],
    before: Sequence[Sequence[str]],
    now: Sequence[Sequence[str]],
    routes: Sequence[str | None] = (),
) -> dict[str, Any]:
    """Return an optimizer's state for other groups of the same parameters; momentum is matched by parameter name.

    A parameter that moved to another optimizer starts without state.

    Args:
        state: `Optimizer.state_dict()`; its indices count the parameters in the order of `before`.
        before: parameter names of each group when the state was saved.
        now: parameter names of each group of the optimizer that will load the state.
        routes: the route of each of these groups; empty: no group is routed.
    """
    index_of = {name: index for index, name in enumerate(name for group in before for name in group)}
    group_of = {name: group for group, names in zip(state["param_groups"], before, strict=True) for name in names}
    states, groups, count = {}, [], 0
    for names, route in zip(now, routes or [None] * len(now), strict=True):
        stayed = {name for name in names if name in group_of and group_of[name].get("route") == route}
        templates = [
            *(group_of[name] for name in names if name in stayed),
            *_of_route(state, route),
            state["param_groups"][0],
        ]
        groups.append({**templates[0], "params": list(range(count, count + len(names)))})
        for name in names:
            if name in stayed and index_of[name] in state["state"]:
                states[count] = state["state"][index_of[name]]
            count += 1
    return {"state": states, "param_groups": groups}


def _of_route(state: dict[str, Any], route: str | None) -> list[dict[str, Any]]:
    return [group for group in state["param_groups"] if group.get("route") == route]
