"""Several optimizers that train as one: where layer rules route groups of parameters to others than the main one."""

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
    """Optimizers of disjoint parameters, stepped together; each does to its own exactly what it does alone.

    To whatever takes one of torch's optimizers it is one: `param_groups` are the members' very dicts, one member's
    after another's; `state_dict` is made of the members' own, with all parameters numbered through, as torch does. A
    group that is loaded from another route than its own, whose state means nothing here, keeps its own settings and
    starts without state. Gradient scalers unscale and skip for all members at once, since it does not claim to do so
    itself, as fused kernels can.

    Args:
        optimizers: by the name of the route, None for the main one. Whatever adds groups or loads state
            afterwards does so here, not with a member.

    Raises:
        ConfigError: a member that cannot share a step, because it has to evaluate the model itself.
    """

    optimizers: dict[str | None, Optimizer]
    _turns: list[Optimizer]

    def __init__(self, optimizers: Mapping[str | None, Optimizer]) -> None:
        problems = check_members({route: type(optimizer) for route, optimizer in optimizers.items()})
        groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
        held = [id(parameter) for group in groups for parameter in group["params"]]
        if len(set(held)) != len(held):
            problems.append(Problem("optimizer.routes", "two of the optimizers hold the same parameter"))
        if problems:
            raise ConfigError(problems)
        # One of second order differentiates gradients, whose graph has to find every weight where it was.
        turns = sorted(optimizers.values(), key=lambda member: not traits_of(type(member)).second_order)
        # Not torch's own constructor, which would make groups and state of its own: these are the members'.
        self.__setstate__({"defaults": {}, "optimizers": dict(optimizers), "_turns": turns})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The members' groups, in the order of the members."""
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    @property
    def state(self) -> dict[Tensor, Any]:  # type: ignore[override]
        """The members' states, by parameter."""
        return {key: state for optimizer in self.optimizers.values() for key, state in optimizer.state.items()}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every member.

        Args:
            closure: evaluates the model anew and returns the loss; called once, before the members step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self._turns:
            optimizer.step()
        return loss

    def train(self) -> None:
        """Put members that keep other weights for evaluation (schedule-free ones) into training."""
        self._switch("train")

    def eval(self) -> None:
        """Put members that keep other weights for evaluation (schedule-free ones) into evaluation."""
        self._switch("eval")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: which member it would belong to is not known.

        Raises:
            LrflowError: always.
        """
        raise LrflowError("add the group to one of the routed optimizers before they are put together")

    def state_dict(self) -> dict[str, Any]:
        """What the members' own return, as one: `state` by the number of the parameter, and all `param_groups`."""
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
            ValueError: the groups are of other sizes.
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
        return {"defaults": self.defaults, "optimizers": self.optimizers, "_turns": self._turns}

    def _parts(self, state_dict: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """For each member what its own `state_dict` returned."""
        groups = iter(state_dict["param_groups"])
        for optimizer in self.optimizers.values():
            own = list(islice(groups, len(optimizer.param_groups)))
            numbers = [number for group in own for number in group["params"]]
            known = {number: state_dict["state"][number] for number in numbers if number in state_dict["state"]}
            yield _renumbered({"state": known, "param_groups": own}, 0)

    def _own(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """A state without what it says of groups that were another route's."""
        groups, dropped = [], set()
        for saved, own in zip(state_dict["param_groups"], self.param_groups, strict=False):
            if saved.get("route") != own.get("route"):
                dropped |= set(saved["params"])
                saved = {**own, "params": saved["params"]}
            groups.append(saved)
        groups += state_dict["param_groups"][len(groups) :]  # these are refused
        kept = {number: state for number, state in state_dict["state"].items() if number not in dropped}
        return {**state_dict, "state": kept, "param_groups": groups}

    def _switch(self, mode: str) -> None:
        for optimizer in self.optimizers.values():
            if traits_of(type(optimizer)).modes:
                getattr(optimizer, mode)()


def members(optimizer: Optimizer) -> dict[str | None, Optimizer]:
    """The optimizers that one is composed of, by their routes; itself, where it is a single one."""
    return optimizer.optimizers if isinstance(optimizer, Routed) else {None: optimizer}


def _renumbered(state_dict: dict[str, Any], first: int) -> dict[str, Any]:
    """The same state, of parameters that are counted from `first` in the order of the groups."""
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    count = {number: index for index, number in enumerate(numbers, first)}
    return {
        "state": {count.get(number, number): state for number, state in state_dict["state"].items()},
        "param_groups": [
            {**group, "params": [count[number] for number in group["params"]]} for group in state_dict["param_groups"]
        ],
    }


def check_members(kinds: Mapping[str | None, Callable[..., Optimizer]]) -> list[Problem]:
    """What keeps optimizers from sharing a step.

    Args:
        kinds: the class (or function) of each, by its route.
    """
    problems = []
    for route, kind in kinds.items() if len(kinds) > 1 else ():
        if traits_of(kind).needs_closure:
            message = f"{_name(kind)} evaluates the model several times a step, which optimizers beside it cannot share"
            problems.append(
                Problem(_key(route), message, hint="let it train every parameter: layers=uniform, without routes")
            )
    second = [route for route, kind in kinds.items() if traits_of(kind).second_order]
    for route in second[1:]:
        message = f"{_name(kinds[route])} differentiates the gradients, as {_name(kinds[second[0]])} does beside it"
        hint = "the step of the one changes the weights under the other: keep one of them"
        problems.append(Problem(_key(route), message, hint=hint))
    return problems


def _name(kind: Callable[..., Optimizer]) -> str:
    return getattr(kind, "__name__", "the optimizer")


def _key(route: str | None) -> str:
    return "optimizer" if route is None else f"optimizer.routes.{route}"
