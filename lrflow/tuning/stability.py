"""The stability bound (`find=stability`): the highest LR that the curvature at the start of training allows."""

from __future__ import annotations

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
from lrflow.config.checks.compatibility import check_combination
from lrflow.config.schemas.find import StabilityFind
from lrflow.display import Grid
from lrflow.errors import ConfigError, LrflowError
from lrflow.files import write_json
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
from lrflow.training.trainer import build_trainer, check_launched
from lrflow.training.trainer_options import lightning_options
from lrflow.wording import number

ABOVE_BOUND = "steps along the sharpest direction grow until the curvature decreases"


def find_ceiling(
    config: Config, find: StabilityFind, folder: Path, console: Console, plan: Plan | None = None
) -> dict[str, Any]:
    """Measure the sharpness at the start of the run, and print and write the highest stable LR.

    Args:
        config: of the run.
        find: the settings of the measurement.
        folder: receives `find.json`.
        console: for the result.
        plan: of the run; its first step and its peak are compared with the bound. None: the configured LR is.

    Returns:
        `ceiling` and `sharpness`.

    Raises:
        ConfigError: the optimizer has no known bound, or the run uses several devices.
        LrflowError: the loss has no finite curvature, or cannot be differentiated twice.
    """
    trainer = build_trainer(lightning_options(config), folder, [], config.trainer.log_every)
    check_launched(trainer)
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
            if traits_of(type(optimizer)).bound != "sgd":  # all others precondition by statistics of the gradients
                _collect_statistics(module, optimizer, batches[: find.gradients])
            check_twice_differentiable(module_loss(module, batches[:1]), dict(module.named_parameters()))
            loss = module_loss(module, batches[: find.batches])
            # The optimizer was made with the peak LRs.
            measured = current_sharpness(module, optimizer, loss, find.products, seed=config.seed)
            shares = [] if plan is None else list(_plan_shares(config, find, module, optimizer, loss, plan))
        except (ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            hint = "; look for NaN in the data" if "not finite" in reason else ""
            raise LrflowError(f"the curvature cannot be measured: {reason}{hint}") from error
    ceiling = measured.ceiling(config.optimizer.lr)
    content = {**asdict(measured), "share": measured.share, "ceiling": ceiling, "lr": config.optimizer.lr}
    if plan is not None:
        content["plan"] = [{"step": step, "lr": lr, "share": share} for step, lr, share in shares]
    write_json(folder / "find.json", content)
    if plan is None:
        _print_bound(config, measured, ceiling, console)
    else:
        _print_plan_shares(shares, console)
    return {"ceiling": ceiling, "sharpness": measured.top}


def _collect_statistics(module: pl.LightningModule, optimizer: torch.optim.Optimizer, batches: list[Any]) -> None:
    """Fill the optimizer's statistics of the gradients by steps at an LR of 0, which leave the weights unchanged."""
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


def _plan_shares(
    config: Config,
    find: StabilityFind,
    module: pl.LightningModule,
    optimizer: torch.optim.Optimizer,
    loss: LossFunction,
    plan: Plan,
) -> Iterator[tuple[int, float, float]]:
    """Yield the step, the highest LR and its share of the bound for the plan's first step and for its peak."""
    scheduler = PlanScheduler(optimizer, plan)
    highest = plan.lr(np.arange(plan.horizon.steps)).max(axis=1)
    for step in sorted({0, int(highest.argmax())}):
        scheduler.step(step)
        measured = current_sharpness(module, optimizer, loss, find.products, seed=config.seed)
        yield step, float(highest[step]), measured.share


def _print_bound(config: Config, measured: MeasuredSharpness, ceiling: float, console: Console) -> None:
    text = f"[bold]the LR is stable up to {number(ceiling)}[/] at the start of training"
    console.print(f"{text}; configured: {number(config.optimizer.lr)}", soft_wrap=True, highlight=False)
    table = Grid("<", "")
    table.row("sharpness (largest eigenvalue of P^-1 H)", number(measured.top))
    table.row("limit of LR times sharpness", number(measured.limit))
    table.row("share of it that the configured LR uses", f"{100 * measured.share:.3g}%")
    table.row("relative error", f"{measured.error:.1g}")
    table.row("Hessian-vector products", str(measured.products))
    console.print(table)
    if measured.share > 1:
        console.print(f"[bold yellow]above the bound:[/] {ABOVE_BOUND}", soft_wrap=True, highlight=False)


def _print_plan_shares(shares: list[tuple[int, float, float]], console: Console) -> None:
    table = Grid("<stability bound at the first weights", "step", "LR", "share of it")
    for step, lr, share in shares:
        table.row("first step" if step == 0 else "peak", f"{step:,}", number(lr), f"{100 * share:.3g}%")
    console.print(table)
    step, _, share = shares[-1]
    if share > 1:
        subject = "the plan starts" if step == 0 or shares[0][2] > 1 else f"by step {step:,} the plan is"
        text = f"[bold yellow]{subject} above the bound:[/] {ABOVE_BOUND}"
        console.print(text, soft_wrap=True, highlight=False)
