"""find=stability: the highest LR that is stable where the training starts."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import move_data_to_device
from rich.console import Console
from torch import Tensor

from lrflow.config import Config
from lrflow.config.settings import StabilityFind
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.plan.view import Grid, number
from lrflow.tasks import build
from lrflow.tasks.data import ready_data
from lrflow.tasks.train import lightning_options
from lrflow.training.trainer import build_trainer
from lrflow.tuning.module_loss import as_a_function, module_loss
from lrflow.tuning.sharpness import Loss, Sharpness, measure_sharpness, preconditioner, stability_limit


def find_ceiling(config: Config, find: StabilityFind, folder: Path, console: Console) -> dict[str, Any]:
    """Measure the sharpness at the start of the run, show and write which LR it allows.

    Returns:
        `ceiling` and `sharpness`.

    Raises:
        ConfigError: the optimizer has no known bound, or several devices were asked for.
        LrflowError: the loss has no finite curvature.
    """
    trainer = build_trainer(lightning_options(config), folder, [], config.trainer.log_every)
    _refuse(config, trainer)
    pl.seed_everything(config.seed, verbose=False)
    data, module = ready_data(config, trainer, config.seed), build.build_module(config)
    module.to(trainer.strategy.root_device)
    groups = build.build_groups(config, module)
    optimizer = build.make_optimizer(config, groups, trainer.strategy.root_device)
    batches = [
        move_data_to_device(batch, trainer.strategy.root_device)
        for batch in islice(data.train_dataloader(), max(find.batches, find.gradients))
    ]
    # A compiled model cannot be differentiated twice.
    with as_a_function(module), torch.compiler.set_stance("force_eager"):
        if not isinstance(optimizer, torch.optim.SGD):
            _gather(module, optimizer, batches[: find.gradients])
        loss = module_loss(module, batches[: find.batches])
        try:
            found = _measure(config, find, module, optimizer, loss)
        except ValueError as error:
            raise LrflowError(f"the curvature cannot be measured: {error}; look for NaN in the data") from error
    ceiling = found.ceiling(config.optimizer.lr)
    facts = {**asdict(found), "share": found.share, "ceiling": ceiling, "lr": config.optimizer.lr}
    (folder / "find.json").write_text(json.dumps(facts, indent=2) + "\n")
    _show(config, found, ceiling, console)
    return {"ceiling": ceiling, "sharpness": found.top}


def _refuse(config: Config, trainer: pl.Trainer) -> None:
    problems = []
    name = config.optimizer.target.rpartition(".")[2]
    known = "it is known of SGD, Adam, AdamW, RMSprop and Adagrad"
    if stability_limit(name, config.optimizer.node()) is None:
        problems.append(Problem("optimizer._target_", "no stability bound is known of it", name, known))
    if config.optimizer.routes:
        problems.append(Problem("optimizer.routes", "no stability bound is known of several optimizers", ..., known))
    if trainer.world_size > 1:
        message = "the stability bound is measured on one device"
        problems.append(Problem("trainer.devices", message, config.trainer.devices, "trainer.devices=1"))
    if problems:
        raise ConfigError(problems)


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


def _measure(
    config: Config,
    find: StabilityFind,
    module: pl.LightningModule,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
) -> Sharpness:
    name = config.optimizer.target.rpartition(".")[2]
    names = {parameter: name for name, parameter in module.named_parameters()}
    own = [{names[p]: p.detach() for p in group["params"]} for group in optimizer.param_groups]
    divided: dict[str, Tensor] | None = None
    if not isinstance(optimizer, torch.optim.SGD):
        divided = {
            names[parameter]: divisor
            for group in optimizer.param_groups
            for parameter in group["params"]
            if (divisor := preconditioner(name, group, optimizer.state[parameter])) is not None
        }
    # AdamW takes its decay off the weights themselves, the others put it into the gradient.
    decays = [0.0 if name == "AdamW" else float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups]
    limit = stability_limit(name, optimizer.param_groups[0])
    assert limit is not None
    return measure_sharpness(
        loss,
        own,
        rates=[float(group["lr"]) for group in optimizer.param_groups],
        limit=limit,
        preconditioners=divided,
        decay=decays,
        products=find.products,
        seed=config.seed,
    )


def _show(config: Config, found: Sharpness, ceiling: float, console: Console) -> None:
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
        say("[bold yellow]above the bound:[/] steps along the sharpest direction grow until the curvature gives way")
