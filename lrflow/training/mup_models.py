"""muP in a run: builds the smaller and wider variants of the model, and the layer rules from widths and depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from lrflow.config import Config, instantiate
from lrflow.config.checks.compatibility import route_of_matrices, table_of
from lrflow.config.targets import defaults, optimizer_traits, takes, with_arguments
from lrflow.config.tuned_run import RESIDUAL_MULTIPLIER
from lrflow.display import Grid
from lrflow.errors import ConfigError, Problem
from lrflow.layers import Rule
from lrflow.layers.mup import MatrixOptimizer, MuP, lr_scale
from lrflow.layers.parameters import Parameters
from lrflow.layers.residual_depth import Depth, pattern
from lrflow.layers.rules import Table
from lrflow.layers.widths import Width, describe_scales
from lrflow.optimizers.muon import update_scale
from lrflow.training.module import Supervised, planned_module
from lrflow.training.parameters import complete_module, has_deferred_parts
from lrflow.wording import joined, number, shape_text


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
        ConfigError: the widths cannot be determined, muP does not support the optimizer, or the residual multiplier is
            not that of the depth.
    """
    optimizer = config.optimizer.node()
    table = table_of(optimizer, mup.optimizer)
    matrices = _matrix_optimizer(config)
    narrow = build_variant(config, [mup.base], "layers.base", module)
    depth = mup.depth(parameters, narrow)
    before = base_multiplier(config, mup, depth)
    if depth.lists:
        narrow = build_variant(config, [{RESIDUAL_MULTIPLIER: before}, mup.base], "layers.base", module)
    wider = build_variant(config, [mup.base, mup.wider_arguments], "layers.wider", module)
    widths = mup.widths(parameters, narrow, wider)
    if matrices and not any(matrices.takes(width) for width in widths):
        message = f"names no width, by which hidden matrices are known, so that none would go to {matrices.route}"
        raise ConfigError(
            [Problem("layers.base", message, dict(mup.base), "name the width too, even if it is the same")]
        )
    own = defaults(config.optimizer.target) | optimizer
    eps = own.get("eps") if optimizer_traits(config.optimizer.target).mup == "adam" else None
    rules = mup.rules(widths, table, own.get("weight_decay"), eps if isinstance(eps, float) else None, matrices)
    report(widths_table(widths, table, matrices))
    if depth.lists:
        blocks = joined([f"{path or 'blocks'} {now} over {then}" for path, (now, then) in depth.lists.items()])
        inside = f"LR x {number(depth.ratio)}" if table == "sgd" else f"eps x {number(1 / depth.ratio)}"
        inside = inside if table == "sgd" or mup.scale_eps else "LR and eps as elsewhere"
        multiplier = number(before / depth.ratio)
        report(f"depth: {blocks}; branches x {multiplier}, inside them {inside} (CompleteP, arXiv 2505.01618)")
    told = describe_scales(widths, mup.rescale)
    if started := mup.start(widths):
        report(f"{', '.join(started)}: starts at zero, as muP has it (layers.readout=keep leaves it as it is)")
    for line in (*told, ""):
        report(line)
    return rules


def base_multiplier(config: Config, mup: MuP, depth: Depth) -> float:
    """Return the residual multiplier of the base of muP: `layers.base` has it, or else 1 for a base of another depth.

    Raises:
        ConfigError: the model is deeper than its base and takes no multiplier, or has another one than CompleteP's.
    """
    node, key = config.model.node(), f"model.{RESIDUAL_MULTIPLIER}"
    each = [f"{path or 'the model'} has {now} blocks, {then} in the base" for path, (now, then) in depth.lists.items()]
    if not takes(node["_target_"], RESIDUAL_MULTIPLIER):
        if not depth.lists:
            return 1.0
        message = f"{joined(each)}, and {node['_target_']} takes no {RESIDUAL_MULTIPLIER}, a factor on each branch"
        hint = "give the model this argument, or layers.base the depth of the model"
        raise ConfigError([Problem("layers.base", message, dict(mup.base), hint)])
    own = {**defaults(node["_target_"]), **node}.get(RESIDUAL_MULTIPLIER)
    before = mup.base.get(RESIDUAL_MULTIPLIER, 1.0 if depth.lists else own)
    for at, value in ((key, own), (f"layers.base.{RESIDUAL_MULTIPLIER}", before)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise ConfigError([Problem(at, "expected a number above 0", value)])
    expected = before / depth.ratio
    if not math.isclose(own, expected, rel_tol=1e-4):  # type: ignore[arg-type]
        why = joined(each) or "layers.base has this one, and the same depth"
        message = f"expected {expected:.6g}, since {why} (CompleteP, arXiv 2505.01618)"
        raise ConfigError([Problem(key, message, own, f"{key}={expected:.6g}")])
    return float(before)


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
            pattern(width.entry.name),
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
