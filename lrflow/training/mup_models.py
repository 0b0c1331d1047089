"""muP in a run: the models beside the model, the rules of the widths, and what is told of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from inspect import signature
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from lrflow.config import Config, instantiate, locate
from lrflow.config.compatibility import table_of
from lrflow.config.targets import with_arguments
from lrflow.display import Grid, number
from lrflow.errors import ConfigError
from lrflow.layers import Rule
from lrflow.layers.mup import MuP, Table, Width, lr_scale
from lrflow.layers.parameters import Parameters
from lrflow.training.module import Supervised, planned_module
from lrflow.training.parameters import complete_module, has_deferred_parts


def mup_rules(
    config: Config, mup: MuP, held: Parameters, module: pl.LightningModule, tell: Callable[[Any], None]
) -> list[Rule]:
    """The rules of `layers=mup`; sets the output weights to where muP has them start.

    Args:
        config: the model's arguments and the optimizer's.
        mup: as the config has it.
        held: the parameters of the model to be trained.
        module: that model.
        tell: is given the table of widths, and what else a person should know before the run.

    Raises:
        ConfigError: no widths can be told, or muP is not known for the optimizer.
    """
    optimizer = config.optimizer.node()
    table = table_of(optimizer, mup.optimizer)
    narrow = build_variant(config, [mup.base], "layers.base", module)
    wider = build_variant(config, [mup.base, mup.wider_arguments], "layers.wider", module)
    widths = mup.widths(held, narrow, wider)
    tell(widths_table(widths, table))
    if started := mup.start(widths):
        tell(f"{', '.join(started)}: starts at zero, as muP has it (layers.readout=keep leaves it as it is)")
    for width in widths:
        if width.init_warning:
            tell(width.init_warning)
    tell("")
    default = signature(locate(config.optimizer.target)).parameters.get("weight_decay")
    return mup.rules(widths, table, optimizer.get("weight_decay", default and default.default))


def build_variant(
    config: Config, changes: Sequence[Mapping[str, Any]], key: str, module: pl.LightningModule
) -> nn.Module:
    """The model with other arguments; torch's random numbers go on as if it had not been built.

    It is built for real, not on the meta device: constructors that look at a value fail there, and it is small.

    Args:
        config: whose model it is.
        changes: arguments, the last ones winning.
        key: where they come from.
        module: the model itself; what it made in its hooks, the other makes with the same trainer and data.

    Raises:
        ConfigError: the model refuses these arguments.
    """
    node = reduce(with_arguments, changes, config.model.node())
    try:
        with torch.random.fork_rng(devices=[]):
            model = instantiate(node)
            other = model if isinstance(model, pl.LightningModule) else Supervised(model, config.model.loss or "mse")
            if has_deferred_parts(other):
                complete_module(other, module.trainer, module.trainer.datamodule)  # type: ignore[attr-defined]
            return planned_module(other)
    except ConfigError as error:
        problems = []
        for problem in error.problems:
            name = problem.key.removeprefix("model.")
            at = f"{key}.{name}" if name.partition(".")[0] in changes[-1] else problem.key
            problems.append(replace(problem, key=at))
        raise ConfigError(problems) from error


def widths_table(widths: Sequence[Width], table: Table) -> Grid:
    """Roles and widths of the parameters; those of equal layers (`blocks.*.fc.weight`) in one row."""
    rows: dict[tuple[str, ...], int] = {}
    for width in widths:
        row = (
            re.sub(r"(?<![^.])\d+(?=\.)", "*", width.entry.name),
            width.role,
            _shape(width.base.shape),
            _shape(width.entry.parameter.shape),
            f"{number(lr_scale(width, table))}x",
        )
        rows[row] = rows.get(row, 0) + 1
    grid = Grid("<width of", "tensors", "<role", "<base", "<model", f"LR, {table}")
    for (name, *rest), count in rows.items():
        grid.row(name, str(count), *rest)
    return grid


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
