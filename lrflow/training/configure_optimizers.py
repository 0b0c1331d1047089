"""Giving a Lightning module the optimizer and the plan that lrflow declares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from lrflow.errors import LrflowError
from lrflow.optimizers import adapt_to_lightning, traits_of
from lrflow.optimizers.routed import member_optimizers
from lrflow.optimizers.traits import IMPLEMENTATION
from lrflow.plan import Plan, PlanScheduler
from lrflow.training.parameters import check_coverage

#: What lrflow writes into every parameter group; the LR for its kind, a number or a tensor: the plan writes its value.
_WRITTEN = ("lr", "weight_decay", "name", "members", "route")

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
    """Make Lightning train `module` with this optimizer under this plan; the module's own optimizers are not asked.

    Args:
        module: changed in place.
        plan: what the LR follows.
        make: builds the optimizer for the device that the parameters have been moved to.
        settings: the optimizer's configured settings; they hold over those of a checkpoint, so that a run resumed
            under a changed configuration does what it says.
        compiled: `torch.compile` the step of an optimizer that can be compiled; the LR has to be a tensor then, or
            each new one would recompile. Not where the plan moves other settings: a compiled step takes a beta2 that
            changes for another number (torch 2.13, inductor on the CPU; a test shows it).
        routes: the configured settings of each optimizer that groups are routed to.
        changed: the routes (None: the main one) that the run of a checkpoint had another class or other settings for:
            none of their settings is the checkpoint's, whether or not they are configured.

    Raises:
        LrflowError: later, when a checkpoint is loaded, that it is of another optimizer.
    """

    def configure_optimizers() -> dict[str, Any]:
        optimizer = make(module.device)
        check_coverage(module, optimizer)
        adapt_to_lightning(optimizer, module)
        held: dict[str | None, set[str]] = {name: {*own, *_WRITTEN} for name, own in (routes or {}).items()}
        held[None] = {*settings, *_WRITTEN}
        for route, member in member_optimizers(optimizer).items():
            if route in changed:
                held[route] |= _arguments(type(member))
        configured = [
            {name: value for name, value in group.items() if name in held[group.get("route")]}
            for group in optimizer.param_groups
        ]

        def refuse_another(loading: torch.optim.Optimizer, state: dict[str, Any]) -> None:
            for route, member in member_optimizers(loading).items():
                saved = next(group for group in state["param_groups"] if group.get("route") == route)
                if missing := set(member.defaults) - set(saved) - IMPLEMENTATION:
                    raise LrflowError(
                        f"the checkpoint is of another optimizer than {type(member).__name__}: it has no "
                        f"{', '.join(sorted(missing))}\n    resume with the run's own optimizer, or start a new run"
                    )

        def hold(loaded: torch.optim.Optimizer) -> None:
            for group, values in zip(loaded.param_groups, configured, strict=True):
                group.update(values)

        optimizer.register_load_state_dict_pre_hook(refuse_another)
        optimizer.register_load_state_dict_post_hook(hold)
        parts = member_optimizers(optimizer).values()
        if compiled and not plan.scheduled_settings and all(traits_of(type(member)).compilable for member in parts):
            for member in parts:
                compile_step(member)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": PlanScheduler(optimizer, plan), "interval": "step", "name": "plan"},
        }

    module.configure_optimizers = configure_optimizers  # type: ignore[method-assign, assignment]


def _arguments(made: type) -> set[str]:
    """The settings of an optimizer's class, with those that a class fixes for its base, as AdamW does for Adam."""
    inits = [vars(base)["__init__"] for base in made.__mro__ if "__init__" in vars(base)]
    return {name for init in inits for name in inspect.signature(init).parameters} - {"self", "params"}


def compile_step(optimizer: torch.optim.Optimizer, **options: Any) -> None:
    """Compile the update of an optimizer, with the closure outside: it holds the whole forward and backward.

    Args:
        optimizer: changed in place.
        options: for `torch.compile`.
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
