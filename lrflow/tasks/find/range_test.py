"""find=range: sweeps over the LRs of a range, and what they say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lrflow.config import Config, locate
from lrflow.config.combinations import LINE_SEARCH
from lrflow.config.settings import RangeFind
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.optimizers.learning_rate_free import estimates_lr
from lrflow.plan.view import Grid, number
from lrflow.tasks.find.brief import brief_fit
from lrflow.tasks.find.confirm import confirm_range
from lrflow.training.ranks import rank
from lrflow.tuning.confirm import Confirmed
from lrflow.tuning.picture import plot
from lrflow.tuning.range_test import RangeTest, Sweep, sweep_plan
from lrflow.tuning.rules import Reading, judge, read


def find_range(config: Config, find: RangeFind, folder: Path, console: Console) -> dict[str, Any]:
    """Run the sweeps, read them, settle the answer by short runs where that is asked for; show and write it all.

    Returns:
        `lr` and its interval, `low` and `high`; `doubts` and `steps`.

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
        test.write(folder / "find.csv")
    _show(reading, test, console)
    answer: Reading | Confirmed = reading
    steps, content = test.steps, asdict(reading)
    if find.confirm:
        answer, more = _confirm(config, find, reading.lr, folder, console)
        steps += more
        content = {**asdict(answer), "range_test": content}
    if rank() == 0:
        content |= {"confident": answer.confident, "steps": steps}
        (folder / "find.json").write_text(json.dumps(content, indent=2) + "\n")
        plot(test, reading, config.optimizer.lr, folder / "find.png", answer if isinstance(answer, Confirmed) else None)
    verdict = judge(config.optimizer.lr, answer.interval, reading.ceiling)
    takes = "" if config.finds_lr else f"optimizer.lr={answer.lr:.2g} takes it ({verdict}); "
    told = f"{takes if answer.confident else ''}{steps} steps were made"
    console.print(told, soft_wrap=True, highlight=False)
    low, high = answer.interval
    return {"lr": answer.lr, "low": low, "high": high, "doubts": list(answer.doubts), "steps": steps}


def _confirm(config: Config, find: RangeFind, start: float, folder: Path, console: Console) -> tuple[Confirmed, int]:
    """Make the short runs, and tell of each as it ends."""
    say = partial(console.print, soft_wrap=True, highlight=False)
    say(f"short runs, each {find.confirm_length} of the whole one under its schedule:")

    def tell(lr: float, loss: float, steps: int) -> None:
        say(f"  LR {number(lr):>9}  {steps} steps  " + (f"loss {loss:.4g}" if math.isfinite(loss) else "diverged"))

    try:
        confirmed, steps = confirm_range(config, find, start, folder, tell)
    except ValueError as error:
        raise LrflowError(f"{error}, from an LR of {start:.3g} on: look at find.png of a range test") from error
    low, high = (number(rate) for rate in confirmed.interval)
    say(f"[bold]LR {number(confirmed.lr)}[/]  as good from {low} to {high}")
    for doubt in confirmed.doubts:
        say(f"[bold yellow]not confident:[/] {doubt}")
    return confirmed, steps


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
    """The losses of one sweep: of a new model, on data in an order of its own; [n]."""
    sweep = Sweep(rates)
    peak = config.optimizer.lr
    brief_fit(
        config,
        seed,
        find.steps,
        folder,
        lambda groups: sweep_plan(groups, peak, find.low, find.high, find.steps),
        sweep.callback,
    )
    return sweep.losses


def _told(seeds: Iterable[int], console: Console) -> Iterator[int]:
    """The seeds, with a progress bar on a terminal."""
    columns = (TextColumn("sweep {task.completed:.0f} of {task.total:.0f}"), BarColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(list(seeds))


def _show(reading: Reading, test: RangeTest, console: Console) -> None:
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
