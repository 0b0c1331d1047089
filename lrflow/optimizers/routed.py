"""Several optimizers combined into one, for groups that layer rules route to other optimizers than the main one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.optimizers.traits import traits_of


class Routed(Optimizer):
    """Optimizers of disjoint parameters that step together; each treats its parameters exactly as it would alone.

    It is a torch optimizer: `param_groups` are the members' own dicts, in the order of the members; `state_dict` is
    made of the members' own, with all parameters numbered consecutively, as torch does. A group that is loaded from the
    state of another route keeps its own settings and starts without state, because that state is of another optimizer.
    Gradient scalers unscale and skip all members at once, since this class does not claim to do so itself, as fused
    kernels can.

    Args:
        optimizers: the members by their routes, None for the main one. Later, add groups or load state only through
            this object, not through a member.

    Attributes:
        is_due: given a route, returns whether its member makes a step; None: every member does. Of a member that makes
            none the gradients are not used.

    Raises:
        ConfigError: a member cannot share a step, because it has to evaluate the model itself.
    """

    optimizers: dict[str | None, Optimizer]
    is_due: Callable[[str | None], bool] | None
    _step_order: list[str | None]

    def __init__(self, optimizers: Mapping[str | None, Optimizer]) -> None:
        problems = check_members({route: type(optimizer) for route, optimizer in optimizers.items()})
        groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
        held = [id(parameter) for group in groups for parameter in group["params"]]
        if len(set(held)) != len(held):
            problems.append(Problem("optimizer.routes", "two of the optimizers hold the same parameter"))
        if problems:
            raise ConfigError(problems)
        # A second-order member steps first: it differentiates gradients, whose graph needs the weights unchanged.
        turns = sorted(optimizers, key=lambda route: not traits_of(type(optimizers[route])).second_order)
        # torch's constructor is not called: it would make its own groups and state, and these are the members'.
        self.__setstate__({"defaults": {}, "optimizers": dict(optimizers), "is_due": None, "_step_order": turns})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The members' groups, in the order of the members."""
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    @property
    def state(self) -> dict[Tensor, Any]:  # type: ignore[override]
        """The members' states, by parameter."""
        return {key: state for optimizer in self.optimizers.values() for key, state in optimizer.state.items()}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every member that is due.

        Args:
            closure: evaluates the model again and returns the loss; called once, before the members step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for route in self._step_order:
            if self.is_due is None or self.is_due(route):
                self.optimizers[route].step()
        return loss

    def train(self) -> None:
        """Switch members with separate evaluation weights, such as schedule-free ones, to training."""
        self._switch("train")

    def eval(self) -> None:
        """Switch members with separate evaluation weights, such as schedule-free ones, to evaluation."""
        self._switch("eval")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Not supported: the member that the group belongs to is unknown.

        Raises:
            LrflowError: always.
        """
        raise LrflowError("add the group to one of the routed optimizers before they are put together")

    def state_dict(self) -> dict[str, Any]:
        """Return the members' state dicts as one: `state` by parameter number, and all `param_groups`."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        whole: dict[str, Any] = {"state": {}, "param_groups": []}
        first = 0
        for optimizer in self.optimizers.values():
            own = _renumbered(optimizer.state_dict(), first)
            whole["state"] |= own["state"]
            whole["param_groups"] += own["param_groups"]
            first += sum(len(group["params"]) for group in own["param_groups"])
        for after in self._optimizer_state_dict_post_hooks.values():
            whole = changed if (changed := after(self, whole)) is not None else whole
        return whole

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, each member its own part.

        Args:
            state_dict: of the same parameters in the same groups.

        Raises:
            ValueError: the groups have other sizes.
        """
        loaded = self._own(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            loaded = changed if (changed := before(self, loaded)) is not None else loaded
        sizes = [len(group["params"]) for group in self.param_groups]
        if len(loaded["param_groups"]) != len(sizes):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if [len(group["params"]) for group in loaded["param_groups"]] != sizes:
            raise ValueError("loaded state dict has a parameter group of another size than the optimizer's")
        for optimizer, own in zip(self.optimizers.values(), self._parts(loaded), strict=True):
            optimizer.load_state_dict(own)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            "optimizers": self.optimizers,
            "_step_order": self._step_order,
            "is_due": None,
        }

    def _parts(self, state_dict: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield for each member the part that its own `state_dict` returned."""
        groups = iter(state_dict["param_groups"])
        for optimizer in self.optimizers.values():
            own = list(islice(groups, len(optimizer.param_groups)))
            numbers = [number for group in own for number in group["params"]]
            known = {number: state_dict["state"][number] for number in numbers if number in state_dict["state"]}
            yield _renumbered({"state": known, "param_groups": own}, 0)

    def _own(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return a state without the parts of groups that belonged to another route."""
        groups, dropped = [], set()
        for saved, own in zip(state_dict["param_groups"], self.param_groups, strict=False):
            if saved.get("route") != own.get("route"):
                dropped |= set(saved["params"])
                saved = {**own, "params": saved["params"]}
            groups.append(saved)
        groups += state_dict["param_groups"][len(groups) :]  # more groups than here: `load_state_dict` raises for them
        kept = {number: state for number, state in state_dict["state"].items() if number not in dropped}
        return {**state_dict, "state": kept, "param_groups": groups}

    def _switch(self, mode: str) -> None:
        for optimizer in self.optimizers.values():
            if traits_of(type(optimizer)).modes:
                getattr(optimizer, mode)()


def member_optimizers(optimizer: Optimizer) -> dict[str | None, Optimizer]:
    """Return the members of a combined optimizer by their routes, or the optimizer itself under None."""
    return optimizer.optimizers if isinstance(optimizer, Routed) else {None: optimizer}


def is_due(step: int, every: int) -> bool:
    """Whether an optimizer that steps at every `every`-th step of the run, from its first one on, steps at `step`."""
    return (step + 1) % every == 0


def _renumbered(state_dict: dict[str, Any], first: int) -> dict[str, Any]:
    """Return the state with parameters numbered from `first` in the order of the groups."""
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    count = {number: index for index, number in enumerate(numbers, first)}
    return {
        "state": {count.get(number, number): state for number, state in state_dict["state"].items()},
        "param_groups": [
            {**group, "params": [count[number] for number in group["params"]]} for group in state_dict["param_groups"]
        ],
    }


def check_members(kinds: Mapping[str | None, Callable[..., Optimizer]]) -> list[Problem]:
    """Return the problems that prevent optimizers from sharing a step.

    Args:
        kinds: the class (or function) of each, by its route.
    """
    problems = []
    for route, kind in kinds.items() if len(kinds) > 1 else ():
        if traits_of(kind).needs_closure:
            message = f"{_name(kind)} evaluates the model several times per step, so no other optimizer can share it"
            problems.append(
                Problem(route_key(route), message, hint="let it train every parameter: layers=uniform, without routes")
            )
    second = [route for route, kind in kinds.items() if traits_of(kind).second_order]
    for route in second[1:]:
        message = f"{_name(kinds[route])} differentiates the gradients, and so does {_name(kinds[second[0]])}"
        hint = "the step of one changes the weights that the other needs unchanged: keep one of them"
        problems.append(Problem(route_key(route), message, hint=hint))
    return problems


def _name(kind: Callable[..., Optimizer]) -> str:
    return getattr(kind, "__name__", "the optimizer")


def route_key(route: str | None) -> str:
    """Return the config key of an optimizer by its route; None is the main one."""
    return "optimizer" if route is None else f"optimizer.routes.{route}"
