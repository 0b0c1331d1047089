"""find=stability: the highest LR that is stable where the training starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import move_data_to_device
from rich.console import Console
from torch import Tensor

from lrflow import assemble
from lrflow.config import Config
from lrflow.config.compatibility import check_combination
from lrflow.config.find_schema import StabilityFind
from lrflow.display import Grid, number
from lrflow.errors import ConfigError, LrflowError
from lrflow.files import write_whole
from lrflow.health.sharpness import current_sharpness
from lrflow.optimizers.traits import traits_of
from lrflow.plan import Plan, PlanScheduler
from lrflow.training.curvature import (
    LossFunction,
    MeasuredSharpness,
    as_pure_function,
    check_twice_differentiable,
    module_loss,
)
from lrflow.training.loaders import set_up_data
from lrflow.training.trainer import build_trainer


def find_ceiling(
    config: Config, find: StabilityFind, folder: Path, console: Console, plan: Plan | None = None
) -> dict[str, Any]:
    """Measure the sharpness at the start of the run, show and write which LR it allows.

    Args:
        config: of the run.
        find: what is asked for.
        folder: gets find.json.
        console: is told what is found.
        plan: of the run; where it is given, its first step and its peak are held against the bound. None: the
            configured LR is.

    Returns:
        `ceiling` and `sharpness`.

    Raises:
        ConfigError: the optimizer has no known bound, or several devices were asked for.
        LrflowError: the loss has no finite curvature, or cannot be differentiated twice.
    """
    trainer = build_trainer(assemble.lightning_options(config), folder, [], config.trainer.log_every)
    if problems := check_combination(config, trainer.world_size):
        raise ConfigError(problems)
    pl.seed_everything(config.seed, verbose=False)
    data = set_up_data(assemble.build_data(config), trainer, config.seed)
    module = assemble.build_module(config, trainer=trainer, data=data)
    groups = assemble.build_groups(config, module, data=data)
    module.to(trainer.strategy.root_device)
    optimizer = assemble.make_optimizer(config, groups, trainer.strategy.root_device)
    batches = [
        move_data_to_device(batch, trainer.strategy.root_device)
        for batch in islice(data.train_dataloader(), max(find.batches, find.gradients))
    ]
    with as_pure_function(module):
        try:
            if traits_of(type(optimizer)).bound != "sgd":  # which alone divides by no statistics
                _gather(module, optimizer, batches[: find.gradients])
            check_twice_differentiable(module_loss(module, batches[:1]), dict(module.named_parameters()))
            loss = module_loss(module, batches[: find.batches])
            # First at the peak LRs, as the optimizer was made.
            found = current_sharpness(module, optimizer, loss, find.products, seed=config.seed)
            along = [] if plan is None else list(_along(config, find, module, optimizer, loss, plan))
        except (ValueError, RuntimeError) as error:
            why = str(error).partition("\n")[0]
            hint = "; look for NaN in the data" if "not finite" in why else ""
            raise LrflowError(f"the curvature cannot be measured: {why}{hint}") from error
    ceiling = found.ceiling(config.optimizer.lr)
    facts = {**asdict(found), "share": found.share, "ceiling": ceiling, "lr": config.optimizer.lr}
    if plan is not None:
        facts["plan"] = [{"step": step, "lr": lr, "share": share} for step, lr, share in along]
    write_whole(folder / "find.json", json.dumps(facts, indent=2) + "\n")
    if plan is None:
        _show(config, found, ceiling, console)
    else:
        _show_along(along, console)
    return {"ceiling": ceiling, "sharpness": found.top}


def _gather(module: pl.LightningModule, optimizer: torch.optim.Optimizer, batches: list[Any]) -> None:
    """Let the optimizer see some gradients, for the statistics it divides by; at an LR of 0 the weights stay."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * 0
    parameters: dict[str, Tensor] = dict(module.named_parameters())
    for batch in batches:
        optimizer.zero_grad()
        module_loss(module, [batch])(parameters).backward()
        optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _along(
    config: Config,
    find: StabilityFind,
    module: pl.LightningModule,
    optimizer: torch.optim.Optimizer,
    loss: LossFunction,
    plan: Plan,
) -> Iterator[tuple[int, float, float]]:
    """Step, highest LR and share of the bound, at the first weights, of the plan's first step and of its peak."""
    scheduler = PlanScheduler(optimizer, plan)
    highest = plan.lr(np.arange(plan.horizon.steps)).max(axis=1)
    for step in sorted({0, int(highest.argmax())}):
        scheduler.step(step)
        found = current_sharpness(module, optimizer, loss, find.products, seed=config.seed)
        yield step, float(highest[step]), found.share


def _show(config: Config, found: MeasuredSharpness, ceiling: float, console: Console) -> None:
    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    configured = number(config.optimizer.lr)
    say(f"[bold]the LR is stable up to {number(ceiling)}[/] where the training starts; it is {configured}")
    table = Grid("<", "")
    table.row("sharpness (largest eigenvalue of P^-1 H)", number(found.top))
    table.row("limit of LR times sharpness", number(found.limit))
    table.row("share of it that the configured LR uses", f"{100 * found.share:.3g}%")
    table.row("relative error", f"{found.error:.1g}")
    table.row("Hessian-vector products", str(found.products))
    console.print(table)
    if found.share > 1:
        say(f"[bold yellow]above the bound:[/] {ABOVE}")


def _show_along(along: list[tuple[int, float, float]], console: Console) -> None:
    table = Grid("<stability bound at the first weights", "step", "LR", "share of it")
    for step, lr, share in along:
        table.row("first step" if step == 0 else "peak", f"{step:,}", number(lr), f"{100 * share:.3g}%")
    console.print(table)
    step, _, share = along[-1]
    if share > 1:
        which = "the plan starts" if step == 0 or along[0][2] > 1 else f"by step {step:,} the plan is"
        text = f"[bold yellow]{which} above the bound:[/] {ABOVE}"
        console.print(text, soft_wrap=True, highlight=False)


ABOVE = "steps along the sharpest direction grow until the curvature gives way"
