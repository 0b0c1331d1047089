"""muP in a run: builds the narrower and wider variants of the model, and the layer rules from their widths."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from lrflow.config import Config, instantiate
from lrflow.config.checks.compatibility import route_of_matrices, table_of
from lrflow.config.targets import defaults, optimizer_traits, with_arguments
from lrflow.display import Grid
from lrflow.errors import ConfigError
from lrflow.layers import Rule
from lrflow.layers.mup import MatrixOptimizer, MuP, Width, lr_scale
from lrflow.layers.parameters import Parameters
from lrflow.layers.rules import Table
from lrflow.optimizers.muon import update_scale
from lrflow.training.module import Supervised, planned_module
from lrflow.training.parameters import complete_module, has_deferred_parts
from lrflow.wording import number, shape_text


def mup_rules(
    config: Config, mup: MuP, parameters: Parameters, module: pl.LightningModule, report: Callable[[Any], None]
) -> list[Rule]:
    """Return the rules of `layers=mup`, and initialize the output weights as muP requires.

    Args:
        config: holds the arguments of the model and the optimizer.
        mup: the configured rule maker.
        parameters: parameters of the model to train.
        module: the model to train.
        report: is called with the table of widths, and with other messages for the user before the run.

    Raises:
        ConfigError: the widths cannot be determined, or muP does not support the optimizer.
    """
    optimizer = config.optimizer.node()
    table = table_of(optimizer, mup.optimizer)
    matrices = _matrix_optimizer(config)
    narrow = build_variant(config, [mup.base], "layers.base", module)
    wider = build_variant(config, [mup.base, mup.wider_arguments], "layers.wider", module)
    widths = mup.widths(parameters, narrow, wider)
    own = defaults(config.optimizer.target) | optimizer
    eps = own.get("eps") if optimizer_traits(config.optimizer.target).mup == "adam" else None
    rules = mup.rules(widths, table, own.get("weight_decay"), eps if isinstance(eps, float) else None, matrices)
    report(widths_table(widths, table, matrices))
    if started := mup.start(widths):
        report(f"{', '.join(started)}: starts at zero, as muP has it (layers.readout=keep leaves it as it is)")
    for width in widths:
        if width.init_warning:
            report(width.init_warning)
    report("")
    return rules


def _matrix_optimizer(config: Config) -> MatrixOptimizer | None:
    """Return the optimizer of the route that takes hidden matrices; None: there is none."""
    routes = {name: route.plain() for name, route in config.optimizer.routes.items()}
    name = route_of_matrices(routes, [rule.route for rule in config.layers.rules])
    if name is None:
        return None
    settings = defaults(config.optimizer.routes[name].target) | routes[name]
    scale = partial(update_scale, settings.get("adjust_lr_fn"))
    return MatrixOptimizer(name, scale, settings.get("weight_decay"))


def build_variant(
    config: Config, changes: Sequence[Mapping[str, Any]], key: str, module: pl.LightningModule
) -> nn.Module:
    """Build the model with other arguments, without changing the state of torch's random number generator.

    It is not built on the meta device: constructors that read values fail there, and the variants are small.

    Args:
        config: holds the model's arguments.
        changes: arguments that replace these; later ones win.
        key: config key of the changes.
        module: the model itself; hooks of the variant that create parts use its trainer and data.

    Raises:
        ConfigError: the model rejects these arguments.
    """
    node = reduce(with_arguments, changes, config.model.node())
    try:
        with torch.random.fork_rng(devices=[]):
            model = instantiate(node, "model")
            variant = model if isinstance(model, pl.LightningModule) else Supervised(model, "mse")
            if has_deferred_parts(variant):
                complete_module(variant, module.trainer, module.trainer.datamodule)  # type: ignore[attr-defined]
            return planned_module(variant)
    except ConfigError as error:
        problems = []
        for problem in error.problems:
            name = problem.key.removeprefix("model.")
            at = f"{key}.{name}" if name.partition(".")[0] in changes[-1] else problem.key
            problems.append(replace(problem, key=at))
        raise ConfigError(problems) from error


def widths_table(widths: Sequence[Width], table: Table, matrices: MatrixOptimizer | None = None) -> Grid:
    """Return a table of roles and widths of the parameters, with one row for equal layers (`blocks.*.fc.weight`)."""
    rows: dict[tuple[str, ...], int] = {}
    for width in widths:
        row = (
            re.sub(r"(?<![^.])\d+(?=\.)", "*", width.entry.name),
            width.role,
            shape_text(width.base.shape),
            shape_text(width.entry.parameter.shape),
            f"{number(lr_scale(width, table, matrices))}x"
            + (f" of {matrices.route}" if matrices and matrices.takes(width) else ""),
        )
        rows[row] = rows.get(row, 0) + 1
    grid = Grid("<width of", "tensors", "<role", "<base", "<model", f"LR, {table}")
    for (name, *rest), count in rows.items():
        grid.row(name, str(count), *rest)
    return grid
