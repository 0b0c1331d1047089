"""Giving a Lightning module the optimizer and the plan that lrflow declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from lrflow.errors import LrflowError
from lrflow.plan import Plan, PlanScheduler

#: Settings of how torch computes a step; which of them an optimizer has differs between versions of torch.
_IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay"}

MakeOptimizer = Callable[[torch.device], torch.optim.Optimizer]


def supply_optimizer(
    module: pl.LightningModule, plan: Plan, make: MakeOptimizer, settings: Mapping[str, Any], compiled: bool = False
) -> None:
    """Make Lightning train `module` with this optimizer under this plan; the module's own optimizers are not asked.

    Args:
        module: changed in place.
        plan: what the LR follows.
        make: builds the optimizer for the device that the parameters have been moved to.
        settings: the optimizer's configured settings; they hold over those of a checkpoint, so that a run resumed
            under a changed configuration does what it says.
        compiled: `torch.compile` the step; the LR has to be a tensor then, or each new one would recompile.

    Raises:
        LrflowError: the module optimizes by hand; later, when a checkpoint is loaded, that it is of another optimizer.
    """

    def configure_optimizers() -> dict[str, Any]:
        optimizer = make(module.device)
        # The LR is among them for its kind, a number or a tensor; the plan writes its value.
        held = {*settings, "lr", "weight_decay", "name", "members"}
        configured = [
            {name: value for name, value in group.items() if name in held} for group in optimizer.param_groups
        ]

        def refuse_another(loading: torch.optim.Optimizer, state: dict[str, Any]) -> None:
            if missing := set(loading.defaults) - set(state["param_groups"][0]) - _IMPLEMENTATION:
                raise LrflowError(
                    f"the checkpoint is of another optimizer than {type(loading).__name__}: it has no "
                    f"{', '.join(sorted(missing))}\n    resume with the run's own optimizer, or start a new run"
                )

        def hold(loaded: torch.optim.Optimizer) -> None:
            for group, values in zip(loaded.param_groups, configured, strict=True):
                group.update(values)

        optimizer.register_load_state_dict_pre_hook(refuse_another)
        optimizer.register_load_state_dict_post_hook(hold)
        if compiled:
            compile_step(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": PlanScheduler(optimizer, plan), "interval": "step", "name": "plan"},
        }

    module.configure_optimizers = configure_optimizers  # type: ignore[method-assign, assignment]


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
