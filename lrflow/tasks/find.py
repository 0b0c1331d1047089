"""task=find, optimizer.lr=auto and find.check: find the learning rate, a batch size or the warmup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lrflow.config import Config, save_config, validate
from lrflow.config.checks.warnings import unused_by_search
from lrflow.config.schemas.find import BatchSizeFind, CriticalBatchFind, RangeFind, StabilityFind, WarmupFind
from lrflow.config.targets import optimizer_traits
from lrflow.display import Grid, QuietConsole
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.launch import rank
from lrflow.metric import TRAIN_LOSS
from lrflow.reports.find_page import write_find_page
from lrflow.runs import PAGE, RunFolder
from lrflow.tasks.run_record import log_task, open_folder, own_environment
from lrflow.training.state import preserve_random_state
from lrflow.tuning.batch_size import Try, measure_sizes
from lrflow.tuning.batch_size_record import BatchSizes, scaled_rates
from lrflow.tuning.confirmation import Confirmation
from lrflow.tuning.critical_batch import measure_noise
from lrflow.tuning.critical_batch_record import CriticalBatch
from lrflow.tuning.find_record import RangeTest, Record, plot_range_test
from lrflow.tuning.range_test import run_sweeps
from lrflow.tuning.stability import find_ceiling
from lrflow.tuning.suggestion import Suggestion, compare_with_interval, suggest_lr
from lrflow.tuning.trial_runs import confirm_range
from lrflow.tuning.warmup import WarmupRun, measure_warmups
from lrflow.tuning.warmup_record import warmup_lines, warmup_result, warmup_table, write_warmup
from lrflow.wording import counted, number


def run(config: Config) -> dict[str, Any]:
    """Find the LR, or the batch size, by the method that `find` selects.

    Returns:
        The result of `find_lr`, and `folder`.

    Raises:
        ConfigError: the method does not apply to this optimizer, or the LR is not within the range.
        EndedEarlyError: something ended one of the short runs before its last step.
    """
    folder = open_folder(config, None, f"find-{config.title}")
    console = QuietConsole(quiet=rank() > 0)
    if remark := unused_by_search(config):
        console.print(remark, soft_wrap=True, highlight=False)
    with own_environment(folder):
        try:
            found = find_lr(config, folder, console)
        except BaseException:
            if rank() == 0:
                with suppress(OSError):
                    folder.config.unlink()
                    folder.discard()
            raise
    if rank() == 0:
        folder.write_environment()
        log_task(config, folder)
        written = ", ".join(sorted(path.name for path in (*folder.path.glob("find.*"), *folder.path.glob(PAGE))))
        console.print(f"{folder.path}/: {written}", soft_wrap=True, highlight=False)
    return {**found, "folder": str(folder.path)}


def find_lr(config: Config, folder: RunFolder, console: Console) -> dict[str, Any]:
    """Find the LR or the batch size of a run and record the measurements; the random generators are restored.

    Args:
        config: the configuration of the run; it is saved in the folder, where further devices read it.
        folder: the folder of the run.
        console: prints the result.

    Returns:
        `lr`, its interval `low` to `high`, `doubts` and `steps` (range test), or `ceiling` and `sharpness` (stability
        bound); or `batch_size`, `saturated` and `largest`; or `critical_batch` with its interval and `doubts`.
    """
    if rank() == 0:
        save_config(config, folder.config)
    with preserve_random_state():
        if isinstance(config.find, StabilityFind):
            return find_ceiling(config, config.find, folder.path, console)
        if isinstance(config.find, BatchSizeFind):
            return find_batch_size(config, config.find, folder.path, console)
        if isinstance(config.find, CriticalBatchFind):
            return find_critical_batch(config, config.find, folder.path, console)
        if isinstance(config.find, WarmupFind):
            return find_warmup(config, config.find, folder.path, console)
        return find_range(config, config.find, folder.path, console)


def resolve_auto_lr(config: Config, folder: RunFolder, console: Console) -> Config:
    """Return the config of a run with `optimizer.lr=auto` replaced by the LR that a range test finds.

    With `find.check` and an LR of its own, the config is returned as it is, after its LR was compared with the result.

    Args:
        config: the configuration of the run.
        folder: the folder of the run, where the measurements are recorded.
        console: prints the result.

    Raises:
        LrflowError: the LR is `auto`, and the result of the range test is not confident.
    """
    try:
        found = find_lr(config, folder, console)
    finally:
        if rank() == 0:
            with suppress(OSError):
                folder.config.unlink()  # the run writes its own when it starts
    if not config.finds_lr:
        return config
    if found["doubts"]:
        raise LrflowError(
            f"the range test found no LR with confidence: {'; '.join(found['doubts'])}\n"
            f"    optimizer.lr={found['lr']:.2g} uses its result nevertheless; {folder.path / 'find.png'} shows it"
        )
    return _with_lr(config, found)


def _with_lr(config: Config, found: dict[str, Any]) -> Config:
    """Return the config with the LR that was found and the record of the search (`find.found`).

    Both are in the config.yaml of the run, from which a resumed run reads them instead of finding the LR again.
    """
    assert isinstance(config.find, RangeFind)
    lr, interval = float(f"{found['lr']:.3g}"), [float(f"{found[end]:.3g}") for end in ("low", "high")]
    how = f"range test of {counted(config.find.sweep_count, 'sweep')}"
    how += ", settled by trial runs" if config.find.confirm else ""
    source = config.source.copy()
    OmegaConf.update(source, "optimizer.lr", lr)
    record = {"lr": lr, "interval": interval, "how": how, "steps": found["steps"]}
    OmegaConf.update(source, "find.found", record, force_add=True)
    return validate(source, config.choices, config.overrides, config.run_folder, config.directions.metrics())


def find_range(config: Config, find: RangeFind, folder: Path, console: Console) -> dict[str, Any]:
    """Run the LR sweeps of a range test, confirm the result by short runs with `find.confirm`, print and record it.

    Returns:
        `lr` and its interval, `low` and `high`; `doubts` and `steps`.

    Raises:
        ConfigError: the optimizer chooses its LR itself, a checkpoint does not fit, the sweeps are too short, or the
            loss diverges from the start of the range on.
        LrflowError: the loss is never finite.
    """
    _check_optimizer(config)
    test = run_sweeps(config, find, folder, partial(_with_progress, console=console))
    name, maximize = "the loss" if find.monitor == TRAIN_LOSS else find.monitor, find.metric.mode == "max"
    if not np.isfinite(test.losses[:, 0]).any():
        raise LrflowError(f"{name} is not finite even at an LR of {find.low:g}; look for NaN in the data")
    try:
        suggestion = suggest_lr(test.rates, test.losses, config.seed, name, maximize)
    except ValueError as error:
        raise ConfigError([Problem("find.low", str(error), find.low, "start lower")]) from error
    _print_suggestion(suggestion, test, console)
    if doubt := config.directions(find.monitor).guess_remark("find.mode"):
        console.print(doubt, soft_wrap=True, highlight=False)
    record = Record(test, suggestion, find.monitor, find.metric.mode, config.optimizer.lr)
    if find.confirm:
        confirmed, steps = _confirm(config, find, suggestion.lr, folder, console)
        record = replace(record, confirmed=confirmed, short_steps=steps)
    if rank() == 0:
        record.write(folder)
        plot_range_test(record, folder / "find.png")
        if config.task.name == "find" and config.report:  # a run shows its range test on its own page
            _write_page(folder, console)
    answer = record.answer
    verdict = compare_with_interval(config.optimizer.lr, answer.interval, suggestion.ceiling)
    advice = "" if config.finds_lr or not answer.confident else f"Use optimizer.lr={answer.lr:.2g} ({verdict}). "
    console.print(f"{advice}Cost: {counted(record.steps, 'step')}.", soft_wrap=True, highlight=False)
    low, high = answer.interval
    return {"lr": answer.lr, "low": low, "high": high, "doubts": list(answer.doubts), "steps": record.steps}


def find_batch_size(config: Config, find: BatchSizeFind, folder: Path, console: Console) -> dict[str, Any]:
    """Measure training steps at rising batch sizes, print and record them, and name the batch sizes to use.

    Returns:
        `batch_size`: the largest to use; `saturated`: the smallest with about the same throughput; `largest`: the
        largest that fits.

    Raises:
        ConfigError: the batch size of the data cannot be changed, or the run uses several devices.
        LrflowError: not even one example fits into memory.
    """
    with console.status("batch size", spinner="line") if console.is_terminal else nullcontext() as status:

        def report(one: Try) -> None:
            if status is not None:
                status.update(f"batch size {one.batch_size}: {'fits' if one.fits else one.reason}")

        tries, limit = measure_sizes(config, find, folder, report)
    if not any(one.fits for one in tries):
        raise LrflowError(f"a batch of one example does not fit into memory: {tries[0].reason}")
    found = BatchSizes(tries, limit, find.margin, config.data.batch_size, config.data.effective_batch_size, find.max)
    rates, line = scaled_rates(config, found.largest_to_use)
    found.write(folder, rates)
    console.print(found.table())
    task = config.task.name == "find"
    for words in found.lines() if task else [found.about_configured(), *found.lines()]:
        console.print(words, soft_wrap=True, highlight=False)
    if line and task:
        console.print(line, soft_wrap=True, highlight=False)
    return {"batch_size": found.largest_to_use, "saturated": found.fastest_to_use, "largest": found.largest}


def find_critical_batch(config: Config, find: CriticalBatchFind, folder: Path, console: Console) -> dict[str, Any]:
    """Measure the gradient noise of a run, print and record the critical batch and the LR that goes with it.

    Returns:
        `critical_batch`, its interval `low` to `high`, and `doubts`.

    Raises:
        ConfigError: the optimizer chooses its LR itself.
        LrflowError: the noise cannot be measured, or the loss became infinite.
    """
    _check_optimizer(config)
    with console.status("gradient noise", spinner="line") if console.is_terminal else nullcontext():
        run = measure_noise(config, find, folder)
    found = CriticalBatch(run, config.optimizer.lr, optimizer_traits(config.optimizer.target).bound == "sgd")
    if rank() == 0:
        found.write(folder)
    for words in found.lines():
        console.print(words, soft_wrap=True, highlight=False)
    console.print(found.table())
    console.print(found.advice(), soft_wrap=True, highlight=False)
    return found.result()


def find_warmup(config: Config, find: WarmupFind, folder: Path, console: Console) -> dict[str, Any]:
    """Search for the shortest warmup that keeps an LR above the best stable, print and record the result.

    Returns:
        `warmup` in steps, `warmup_lr`, the LR that it keeps stable, `unstable`, the lowest LR that is unstable without
        one, and `steps`.

    Raises:
        ConfigError: the optimizer chooses its LR itself.
    """
    _check_optimizer(config)
    with console.status("warmup", spinner="line") if console.is_terminal else nullcontext() as status:

        def report(made: WarmupRun) -> None:
            if status is not None:
                status.update(f"LR {number(made.lr)}, warmup of {counted(made.warmup, 'step')}")

        search = measure_warmups(config, find, folder, report)
    if rank() == 0:
        write_warmup(search, folder)
    for words in warmup_lines(search):
        console.print(words, soft_wrap=True, highlight=False)
    console.print(warmup_table(search))
    console.print(f"Cost: {counted(search.steps, 'step')}.", highlight=False)
    return warmup_result(search)


def _confirm(config: Config, find: RangeFind, start: float, folder: Path, console: Console) -> tuple[Confirmation, int]:
    """Make the short runs that confirm an LR, and print the result of each when it ends."""
    print_line = partial(console.print, soft_wrap=True, highlight=False)
    print_line(f"trial runs under the schedule, each {find.confirm_length} of the run:")
    what = "loss" if find.monitor == TRAIN_LOSS else find.monitor

    def report(lr: float, value: float, steps: int) -> None:
        print_line(
            f"  LR {number(lr):>9}  {counted(steps, 'step')}  "
            + (f"{what} {value:.4g}" if math.isfinite(value) else "diverged")
        )

    try:
        confirmed, steps = confirm_range(config, find, start, folder, report)
    except ValueError as error:
        raise LrflowError(f"{error}, from an LR of {start:.3g} on; see find.png of a range test") from error
    low, high = (number(rate) for rate in confirmed.interval)
    print_line(f"[bold]LR {number(confirmed.lr)}[/]  as good from {low} to {high}")
    for doubt in confirmed.doubts:
        print_line(f"[bold yellow]not confident:[/] {doubt}")
    return confirmed, steps


def _check_optimizer(config: Config) -> None:
    """Raise ConfigError for an optimizer that chooses its LR itself."""
    target = config.optimizer.target
    traits, message = optimizer_traits(target), None
    if traits.line_search:
        message = "searches for the length of each step itself"
    elif traits.estimates_lr:
        message = "estimates the LR itself, and its lr is a factor of the estimate"
    if message:
        raise ConfigError([Problem("optimizer._target_", message, target, "it has no LR to find")])


def _write_page(folder: Path, console: Console) -> None:
    try:
        write_find_page(folder)
    except LrflowError as error:
        console.print(f"no {PAGE}: {error}", style="dim", markup=False, highlight=False)


def _with_progress(seeds: Iterable[int], console: Console) -> Iterator[int]:
    """Yield the seeds of the sweeps, with a progress bar on a terminal."""
    columns = (TextColumn("sweep {task.completed:.0f} of {task.total:.0f}"), BarColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(list(seeds))


def _print_suggestion(suggestion: Suggestion, test: RangeTest, console: Console) -> None:
    print_line = partial(console.print, soft_wrap=True, highlight=False)
    low, high = (number(rate) for rate in suggestion.interval)
    within = f"  {low} to {high}, with 90% confidence over {len(test.losses)} sweeps" if len(test.losses) > 1 else ""
    print_line(f"[bold]LR {number(suggestion.lr)}[/]{within}")
    for doubt in suggestion.doubts:
        print_line(f"[bold yellow]not confident:[/] {doubt}")
    table = Grid("<rule", "LR")
    for name, rate in suggestion.marks.items():
        table.row(name, number(rate))
    table.row("diverges at", number(suggestion.ceiling) if suggestion.ceiling else f"above {number(test.rates[-1])}")
    console.print(table)
