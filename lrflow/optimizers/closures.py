"""Optimizers that need more of a step than one forward and one backward pass: L-BFGS, and those of second order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim import Optimizer

from lrflow.optimizers.routed import members
from lrflow.optimizers.traits import traits_of


def fit_closure(optimizer: Optimizer, module: pl.LightningModule) -> None:
    """Let Lightning's automatic optimization give an optimizer what it needs of a step.

    A line search evaluates the loss several times per step, and compares; every evaluation draws the same random
    numbers, so that dropout does not make it another function each time. A batch that the module skips changes nothing.

    An optimizer of second order takes the gradients with their graph (`create_graph=True`) at the steps at which it
    estimates the Hessian, and they are let go after the step: a gradient and its graph hold each other in memory.

    Args:
        optimizer: changed in place where it is one of these; any other one is left alone.
        module: the module that is trained; changed in place for an optimizer of second order.
    """
    if traits_of(type(optimizer)).line_search:
        _evaluate_alike(optimizer)
    for member in members(optimizer).values():
        if traits_of(type(member)).second_order:
            _keep_graph(optimizer, member, module)


def _evaluate_alike(optimizer: Optimizer) -> None:
    step = optimizer.step
    device = optimizer.param_groups[0]["params"][0].device

    def step_alike(closure: Callable[[], Any]) -> Any:
        state = torch.get_rng_state()
        device_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

        def evaluate() -> Any:
            torch.set_rng_state(state)
            if device_state is not None:
                torch.cuda.set_rng_state(device_state, device)
            loss = closure()
            return torch.zeros(()) if loss is None else loss  # no gradient either: it is taken for the optimum

        return step(evaluate)

    optimizer.step = step_alike  # type: ignore[method-assign, assignment]


def _keep_graph(optimizer: Optimizer, member: Any, module: pl.LightningModule) -> None:
    backward = module.backward

    def backward_with_graph(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        due = member.param_groups[0].get("step", 0) % getattr(member, "update_period", 1) == 0
        backward(loss, *args, create_graph=due, **kwargs)

    def let_go(*_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    module.backward = backward_with_graph  # type: ignore[method-assign]
    optimizer.register_step_post_hook(let_go)
