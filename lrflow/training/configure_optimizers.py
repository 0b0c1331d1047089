"""Replace a module's `configure_optimizers` by the configured optimizer under the plan, and regroup its saved state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from lrflow.errors import LrflowError
from lrflow.optimizers import adapt_to_lightning, traits_of
from lrflow.optimizers.routed import Routed, is_due, member_optimizers
from lrflow.optimizers.traits import IMPLEMENTATION
from lrflow.plan import Plan, PlanScheduler
from lrflow.training.manual_optimization import ManualOptimizers
from lrflow.training.parameters import check_coverage
from lrflow.training.scalars import planned_of

_WRITTEN = ("lr", "weight_decay", "name", "members", "route", "every", "settings")
"""Keys that lrflow writes into every parameter group. The plan sets the value of `lr`; its type is kept here."""

MakeOptimizer = Callable[[torch.device], torch.optim.Optimizer]


def supply_optimizer(
    module: pl.LightningModule,
    plan: Plan,
    make: MakeOptimizer,
    settings: Mapping[str, Any],
    compiled: bool = False,
    routes: Mapping[str, Mapping[str, Any]] | None = None,
    changed: Collection[str | None] = (),
) -> None:
    """Make Lightning train `module` with this optimizer under this plan; its own `configure_optimizers` is ignored.

    A module that uses manual optimization gets each member of a `Routed` optimizer from its `optimizers()`.

    Args:
        module: changed in place.
        plan: the plan of the LR and other scheduled settings.
        make: builds the optimizer for the device of the parameters.
        settings: configured optimizer settings; they override those in the checkpoint when a run is resumed.
        compiled: `torch.compile` the step of an optimizer that can be compiled. The LR then has to be a tensor, or
            every new value would recompile. Ignored if the plan schedules other settings: a compiled step computes
            with a wrong value of a beta2 that changes (torch 2.13, inductor on the CPU).
        routes: configured settings of each optimizer that groups are routed to.
        changed: routes (None: the main one) whose class or settings differ from those of the checkpoint's run; none of
            their settings is taken from the checkpoint.

    Raises:
        LrflowError: later, when a checkpoint of another optimizer is loaded.
    """
    automatic = module.automatic_optimization  # if it switches later, the loop raises an error

    def configure_optimizers() -> dict[str, Any]:
        optimizer = make(module.device)
        every = {route: each.param_groups[0].get("every", 1) for route, each in member_optimizers(optimizer).items()}
        check_coverage(module, optimizer)
        adapt_to_lightning(optimizer, module)
        kept: dict[str | None, set[str]] = {name: {*own, *_WRITTEN} for name, own in (routes or {}).items()}
        kept[None] = {*settings, *_WRITTEN}
        for route, member in member_optimizers(optimizer).items():
            if route in changed:
                kept[route] |= _arguments(type(member))
        fresh = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]

        def reject_other_optimizer(loading: torch.optim.Optimizer, state: dict[str, Any]) -> None:
            for route, member in member_optimizers(loading).items():
                saved = next(group for group in state["param_groups"] if group.get("route") == route)
                if missing := set(member.defaults) - set(saved) - IMPLEMENTATION:
                    raise LrflowError(
                        f"the checkpoint is of another optimizer than {type(member).__name__}: it has no "
                        f"{', '.join(sorted(missing))}\n    resume with the run's own optimizer, or start a new run"
                    )

        def restore_configured(loaded: torch.optim.Optimizer) -> None:
            for group, now in zip(loaded.param_groups, fresh, strict=True):
                own = {*kept[now.get("route")], *now.get("settings", ()), *group.pop("settings", ())}
                group.update({name: value for name, value in now.items() if name in own})

        optimizer.register_load_state_dict_pre_hook(reject_other_optimizer)
        optimizer.register_load_state_dict_post_hook(restore_configured)
        parts = member_optimizers(optimizer).values()
        if compiled and not plan.scheduled_settings and all(traits_of(type(member)).compilable for member in parts):
            for member in parts:
                compile_step(member)
        scheduler = PlanScheduler(optimizer, plan)
        if planned := planned_of(module):
            planned.follow(scheduler)
        if not automatic:
            ManualOptimizers.supply(module, optimizer, every, [None, *(routes or ())])
            return {"optimizer": optimizer, "lr_scheduler": scheduler}
        if isinstance(optimizer, Routed) and max(every.values()) > 1:
            optimizer.is_due = lambda route: is_due(scheduler.last_epoch, every[route])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "plan"}}

    module.configure_optimizers = configure_optimizers  # type: ignore[method-assign, assignment]


def _arguments(optimizer: type) -> set[str]:
    """Return the arguments of an optimizer's class and of its base classes: AdamW fixes some arguments of Adam."""
    inits = [vars(base)["__init__"] for base in optimizer.__mro__ if "__init__" in vars(base)]
    return {name for init in inits for name in inspect.signature(init).parameters} - {"self", "params"}


def compile_step(optimizer: torch.optim.Optimizer, **options: Any) -> None:
    """Compile the update of an optimizer; the closure, with the forward and backward pass, stays uncompiled.

    Args:
        optimizer: changed in place.
        options: arguments of `torch.compile`.
    """
    update = torch.compile(optimizer.step, **options)

    def step(closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        update()
        return loss

    optimizer.step = step  # type: ignore[method-assign]


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
