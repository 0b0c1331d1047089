"""Optimizer state from one grouping of the parameters to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def regroup(state: dict[str, Any], before: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> dict[str, Any]:
    """An optimizer's state for other groups of the same parameters, so that their momentum is carried over by name.

    Args:
        state: of `Optimizer.state_dict()`, whose numbers count the parameters in the order of `before`.
        before: names of the parameters of each group, when it was saved.
        now: names of the parameters of each group of the optimizer that is to load it.
    """
    number = {name: index for index, name in enumerate(name for group in before for name in group)}
    home = {name: group for group, names in zip(state["param_groups"], before, strict=True) for name in names}
    states, groups, count = {}, [], 0
    for names in now:
        known = next((home[name] for name in names if name in home), state["param_groups"][0])
        groups.append({**known, "params": list(range(count, count + len(names)))})
        for name in names:
            if name in number and number[name] in state["state"]:
                states[count] = state["state"][number[name]]
            count += 1
    return {"state": states, "param_groups": groups}
