"""Optimizer state is mapped to other groups by parameter name."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch

from lrflow.training.configure_optimizers import regroup

NAMES = ("a", "b", "c", "d")


def optimizer(groups: list[list[str]], weights: dict[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": [weights[name] for name in names]} for names in groups], lr=0.1)


def trained(groups: list[list[str]]) -> tuple[dict[str, Any], dict[str, float]]:
    """The state of an optimizer after a step with different gradients for each weight, and its first moments."""
    weights = {name: torch.nn.Parameter(torch.zeros(1)) for name in NAMES}
    made = optimizer(groups, weights)
    for index, weight in enumerate(weights.values()):
        weight.grad = torch.full((1,), index + 1.0)
    made.step()
    return made.state_dict(), {name: float(made.state[weight]["exp_avg"]) for name, weight in weights.items()}


def moments(groups: list[list[str]], state: dict[str, Any]) -> dict[str, float]:
    weights = {name: torch.nn.Parameter(torch.zeros(1)) for names in groups for name in names}
    loaded = optimizer(groups, weights)
    loaded.load_state_dict(state)
    return {name: float(loaded.state[weight]["exp_avg"]) for name, weight in weights.items() if loaded.state[weight]}


@pytest.mark.parametrize(
    "now", [[["a", "b", "c", "d"]], [["d"], ["c"], ["b"], ["a"]], [["a", "c"], ["b", "d"]], [["b"], ["d", "a", "c"]]]
)
@pytest.mark.parametrize("before", [[["a", "b", "c", "d"]], [["a", "b"], ["c", "d"]], [["d", "a"], ["c"], ["b"]]])
def test_every_parameter_keeps_its_state(before: list[list[str]], now: list[list[str]]) -> None:
    state, expected = trained(before)
    assert moments(now, regroup(state, before, now)) == expected


def test_in_any_order_of_groups() -> None:
    state, expected = trained([list(NAMES)])
    for order in permutations(NAMES):
        assert moments([list(order)], regroup(state, [list(NAMES)], [list(order)])) == expected


def test_new_parameters_start_without_state_and_removed_ones_are_dropped() -> None:
    before, now = [["a", "b"], ["c", "d"]], [["a", "new"], ["d"]]
    state, expected = trained(before)
    assert moments(now, regroup(state, before, now)) == {"a": expected["a"], "d": expected["d"]}


def test_a_group_takes_the_settings_of_its_first_parameter() -> None:
    state, _ = trained([["a", "b"], ["c", "d"]])
    state["param_groups"][1]["betas"] = (0.5, 0.5)
    found = regroup(state, [["a", "b"], ["c", "d"]], [["d"], ["a", "c"], ["b"]])
    assert [group["betas"] for group in found["param_groups"]] == [(0.5, 0.5), (0.9, 0.999), (0.9, 0.999)]
    assert [group["params"] for group in found["param_groups"]] == [[0], [1, 2], [3]]


def test_the_input_is_unchanged() -> None:
    state, _ = trained([["a", "b"], ["c", "d"]])
    copy = [dict(group) for group in state["param_groups"]]
    regroup(state, [["a", "b"], ["c", "d"]], [["d", "c", "b", "a"]])
    assert state["param_groups"] == copy
    assert list(state["state"]) == [0, 1, 2, 3]


class TestRoutes:
    """A parameter keeps its state only if it stays with its optimizer."""

    @pytest.fixture
    def state(self) -> dict[str, Any]:
        """AdamW has a and b, SGD on the route has c and d."""
        adamw = {"betas": (0.9, 0.999), "params": [0, 1]}
        routed = {"momentum": 0.9, "route": "sgd", "params": [2, 3]}
        moments = {0: {"exp_avg": "a"}, 1: {"exp_avg": "b"}, 2: {"momentum_buffer": "c"}, 3: {"momentum_buffer": "d"}}
        return {"state": moments, "param_groups": [adamw, routed]}

    BEFORE = (("a", "b"), ("c", "d"))

    def test_another_order_keeps_all_state(self, state: dict[str, Any]) -> None:
        found = regroup(state, self.BEFORE, [["b"], ["a"], ["d", "c"]], [None, None, "sgd"])
        assert [found["state"][number] for number in range(4)] == [
            {"exp_avg": "b"},
            {"exp_avg": "a"},
            {"momentum_buffer": "d"},
            {"momentum_buffer": "c"},
        ]
        assert [group.get("momentum") for group in found["param_groups"]] == [None, None, 0.9]

    def test_a_parameter_on_another_route_starts_without_state(self, state: dict[str, Any]) -> None:
        found = regroup(state, self.BEFORE, [["a"], ["c"], ["b"], ["d"]], [None, None, "sgd", "sgd"])
        assert found["state"] == {0: {"exp_avg": "a"}, 3: {"momentum_buffer": "d"}}
        assert ["betas" in group for group in found["param_groups"]] == [True, True, False, False]
        assert [group.get("route") for group in found["param_groups"]] == [None, None, "sgd", "sgd"]

    def test_a_removed_route(self, state: dict[str, Any]) -> None:
        found = regroup(state, self.BEFORE, [["a", "b"], ["c", "d"]])
        assert set(found["state"]) == {0, 1}
        assert all("betas" in group for group in found["param_groups"])
