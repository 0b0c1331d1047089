"""find=range: sweeps over the LRs of a range, and what they say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lrflow.config import Config, locate
from lrflow.config.combinations import LINE_SEARCH, check_combination
from lrflow.config.settings import RangeFind
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.optimizers.learning_rate_free import estimates_lr
from lrflow.plan.view import Grid, number
from lrflow.tasks import build
from lrflow.tasks.data import ready_data
from lrflow.tasks.train import lightning_options
from lrflow.training import EvaluationWeights
from lrflow.training.ranks import rank
from lrflow.training.supply import supply_optimizer
from lrflow.training.trainer import build_trainer
from lrflow.tuning.picture import plot
from lrflow.tuning.range_test import RangeTest, Sweep, sweep_plan
from lrflow.tuning.rules import Reading, read


def find_range(config: Config, find: RangeFind, folder: Path, console: Console) -> dict[str, Any]:
    """Run the sweeps, read them, show and write what they say.

    Returns:
        `lr` and its interval, `low` and `high`.

    Raises:
        ConfigError: the optimizer chooses its LR itself, or the loss diverges from the start of the range on.
        LrflowError: the loss is never finite.
    """
    _refuse(config)
    rates = np.geomspace(find.low, find.high, find.steps)
    seeds = range(config.seed, config.seed + find.sweeps)
    test = RangeTest(rates, np.array([_sweep(config, find, rates, seed, folder) for seed in _told(seeds, console)]))
    if not np.isfinite(test.losses[:, 0]).any():
        raise LrflowError(f"the loss is not finite at an LR of {find.low:g} already: look for NaN in the data")
    try:
        reading = read(rates, test.losses, config.seed)
    except ValueError as error:
        raise ConfigError([Problem("find.low", str(error), find.low, "start lower")]) from error
    if rank() == 0:
        content = {**asdict(reading), "confident": reading.confident, "steps": test.steps}
        (folder / "find.json").write_text(json.dumps(content, indent=2) + "\n")
        test.write(folder / "find.csv")
        plot(test, reading, config.optimizer.lr, folder / "find.png")
    _show(config, reading, test, console)
    low, high = reading.interval
    return {"lr": reading.lr, "low": low, "high": high}


def _refuse(config: Config) -> None:
    target = config.optimizer.target
    message = None
    if target in LINE_SEARCH:
        message = "searches for the length of each step itself"
    elif estimates_lr(locate(target)):
        message = "estimates the LR itself, and its lr is a factor of the estimate"
    if message:
        raise ConfigError([Problem("optimizer._target_", message, target, "there is no LR to be found")])


def _sweep(
    config: Config, find: RangeFind, rates: npt.NDArray[np.float64], seed: int, folder: Path
) -> npt.NDArray[np.float64]:
    """The losses of one sweep, by Lightning's loop: of a new model, on data in an order of its own; [n]."""
    pl.seed_everything(seed, verbose=False)
    options = lightning_options(config) | {"max_epochs": -1, "max_steps": find.steps, "limit_val_batches": 0}
    trainer = build_trainer(options, folder, [], config.trainer.log_every)
    if problems := check_combination(config, trainer.world_size):
        raise ConfigError(problems)
    data, module = ready_data(config, trainer, seed), build.build_module(config)
    groups = build.build_groups(config, module, trainer.world_size)
    plan = sweep_plan(groups, config.optimizer.lr, find.low, find.high, find.steps)
    routes = {name: route.node() for name, route in config.optimizer.routes.items()}
    make = partial(build.make_optimizer, config, groups)
    supply_optimizer(module, plan, make, config.optimizer.node(), config.trainer.compile, routes)
    sweep = Sweep(rates)
    trainer.callbacks += [EvaluationWeights(0, seed), sweep.callback(plan)]  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    return sweep.losses


def _told(seeds: Iterable[int], console: Console) -> Iterator[int]:
    """The seeds, with a progress bar on a terminal."""
    columns = (TextColumn("sweep {task.completed:.0f} of {task.total:.0f}"), BarColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(list(seeds))


def _show(config: Config, reading: Reading, test: RangeTest, console: Console) -> None:
    say = partial(console.print, soft_wrap=True, highlight=False)
    low, high = (number(rate) for rate in reading.interval)
    within = f"  {low} to {high}, in 9 of 10 resamples of {len(test.losses)} sweeps" if len(test.losses) > 1 else ""
    say(f"[bold]LR {number(reading.lr)}[/]{within}")
    for doubt in reading.doubts:
        say(f"[bold yellow]not confident:[/] {doubt}")
    table = Grid("<rule", "LR")
    for name, rate in reading.marks.items():
        table.row(name, number(rate))
    table.row("diverges at", number(reading.ceiling) if reading.ceiling else f"above {number(test.rates[-1])}")
    console.print(table)
    steps = f"{test.steps} steps were made"
    takes = f"optimizer.lr={reading.lr:.2g} takes it (it is {number(config.optimizer.lr)}); "
    say(f"{takes if reading.confident else ''}{steps}")
