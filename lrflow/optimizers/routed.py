"""Several optimizers that train as one: where layer rules route groups of parameters to others than the main one."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrflow.errors import ConfigError, LrflowError, Problem


class Routed(Optimizer):
    """Optimizers of disjoint parameters, stepped together; each does to its own exactly what it does alone.

    To whatever takes one of torch's optimizers it is one: `param_groups` are the members' very dicts, one member's
    after another's; `state_dict` numbers all parameters through, as torch does. A group that is loaded from another
    route than its own, whose state means nothing here, keeps its own settings and starts without state. Gradient
    scalers unscale and skip for all members at once, since it does not claim to do so itself, as fused kernels can.

    Args:
        optimizers: by the name of the route, None for the main one. Whatever adds groups or loads state
            afterwards does so here, not with a member.

    Raises:
        ConfigError: a member that cannot share a step, because it has to evaluate the model itself.
    """

    optimizers: dict[str | None, Optimizer]

    def __init__(self, optimizers: Mapping[str | None, Optimizer]) -> None:
        problems = check_members({route: type(optimizer) for route, optimizer in optimizers.items()})
        groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
        held = [id(parameter) for group in groups for parameter in group["params"]]
        if len(set(held)) != len(held):
            problems.append(Problem("optimizer.routes", "two of the optimizers hold the same parameter"))
        if problems:
            raise ConfigError(problems)
        # Not torch's own constructor, which would make groups and state of its own: these are the members'.
        self.__setstate__({"defaults": {}, "optimizers": dict(optimizers)})

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
        for optimizer in self.optimizers.values():
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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Args:
            state_dict: of the same parameters in the same groups.

        Raises:
            ValueError: the groups are of other sizes.
        """
        super().load_state_dict(self._own(state_dict))

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What torch hands over when it unpickles (the members), and when it loads (groups and state for them)."""
        rest = {name: value for name, value in state.items() if name not in ("param_groups", "state")}
        super().__setstate__(rest)
        if "param_groups" not in state:
            return
        groups, states = iter(state["param_groups"]), state["state"]
        for optimizer in self.optimizers.values():
            own = list(islice(groups, len(optimizer.param_groups)))
            parameters = [parameter for group in own for parameter in group["params"]]
            known = {parameter: states[parameter] for parameter in parameters if parameter in states}
            optimizer.__setstate__({"state": defaultdict(dict, known), "param_groups": own})

    def _own(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """A state without what it says of groups that were another route's."""
        groups, dropped = [], set()
        for saved, own in zip(state_dict["param_groups"], self.param_groups, strict=False):
            if saved.get("route") != own.get("route"):
                dropped |= set(saved["params"])
                saved = {**own, "params": saved["params"]}
            groups.append(saved)
        groups += state_dict["param_groups"][len(groups) :]  # torch refuses these
        kept = {number: state for number, state in state_dict["state"].items() if number not in dropped}
        return {**state_dict, "state": kept, "param_groups": groups}

    def _switch(self, mode: str) -> None:
        for optimizer in self.optimizers.values():
            if hasattr(optimizer, mode):
                getattr(optimizer, mode)()


def check_members(kinds: Mapping[str | None, Callable[..., Optimizer]]) -> list[Problem]:
    """What keeps optimizers from sharing a step.

    Args:
        kinds: the class (or function) of each, by its route.
    """
    problems = []
    for route, kind in kinds.items() if len(kinds) > 1 else ():
        closure = inspect.signature(getattr(kind, "step", kind)).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            message = (
                f"{kind.__name__} evaluates the model several times a step, which optimizers beside it cannot share"
            )
            key = "optimizer" if route is None else f"optimizer.routes.{route}"
            problems.append(Problem(key, message, hint="let it train every parameter: layers=uniform, without routes"))
    return problems
