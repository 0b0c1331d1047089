"""Train runs of a sweep that differ only in numbers as populations; each run writes its own run folder."""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from lrflow.config import Config
from lrflow.config.schemas.task import Train
from lrflow.display import QuietConsole
from lrflow.errors import LrflowError, StoppedError
from lrflow.loggers.loggers import abandon_loggers, close_loggers
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.tasks.population_checks import (
    as_member,
    check_same_architecture,
    load_shared_data,
    snapshot_shared_state,
    verify,
)
from lrflow.tasks.prepare import prepare
from lrflow.tasks.run_record import conclude, failure_recorded, open_folder, open_loggers, record_start
from lrflow.training.group_norms import measuring_intervals
from lrflow.vectorized.eligibility import ineligible_because, population_key, shares_data
from lrflow.vectorized.fit import PopulationFit
from lrflow.vectorized.member import Member
from lrflow.vectorized.population import PopulationError
from lrflow.vectorized.timing import COMPILING, SHARE, Timing, time_ordinary, time_together

PAYS = 1.1
"""The least measured speedup over training one after the other at which runs train together; less may be noise."""


def train_together(
    configs: Mapping[int, Config], size: int, measure: bool, report: Callable[[str], None]
) -> dict[int, Outcome]:
    """Train the jobs that can train as populations, where that is faster.

    Args:
        configs: the configurations of the jobs, by job number.
        size: the most members of a population.
        measure: whether to measure the speedup first; otherwise it is assumed.
        report: prints a line per population, and a line per reason why jobs run alone.

    Returns:
        How the runs ended, by job number. The jobs that are missing have not run.

    Raises:
        StoppedError: a signal stopped the process.
    """
    outcomes: dict[int, Outcome] = {}
    candidates: dict[str, list[int]] = {}
    excluded: dict[str, list[int]] = {}  # by reason
    for number, config in configs.items():
        if reason := ineligible_because(config):
            excluded.setdefault(reason, []).append(number)
        else:
            candidates.setdefault(population_key(config), []).append(number)
    before = snapshot_shared_state(configs[numbers[0]] for numbers in candidates.values())
    for numbers, loaded, why_few in _split_by_data(candidates.values(), configs):
        before.restore()
        if len(numbers) == 1:
            excluded.setdefault(why_few, []).extend(numbers)
            continue
        try:
            populations = list(_chunks(numbers, size))
            findings = []
            if measure:
                timing = _measure([configs[number] for number in populations[0]], loaded)
                ratio = math.floor(100 * timing.ratio) / 100  # rounded down, never up to the limit
                findings.append(f"measured {ratio:.2f} times as fast as one after the other")
                if timing.ratio < PAYS:
                    raise PopulationError(
                        f"training together gains too little: {findings[0]}, and less than {PAYS:.2f} may be noise"
                    )
            findings.append(verify({number: configs[number] for number in numbers}, loaded))
            before.restore()
            report(f"{_jobs(numbers)} train together: {'; '.join(findings)}")
            for members in populations:
                outcomes |= _train([(number, configs[number]) for number in members], loaded)
        except StoppedError:
            raise
        except PopulationError as why:
            excluded.setdefault(str(why), []).extend(n for n in numbers if n not in outcomes)
        except Exception as error:  # too little memory, for example: alone they may succeed
            failure = f"training together failed, {_line(error)}"
            excluded.setdefault(failure, []).extend(n for n in numbers if n not in outcomes)
    before.restore()  # the next run finds the state that it would find if it ran alone
    for reason, numbers in sorted(excluded.items(), key=lambda item: item[1]):
        how = "runs alone" if len(numbers) == 1 else "run one after the other"
        report(f"{_jobs(numbers)} {how}: {reason}")
    return outcomes


def _split_by_data(
    candidates: Iterable[Sequence[int]], configs: Mapping[int, Config]
) -> Iterator[tuple[Sequence[int], pl.LightningDataModule | None, str]]:
    """Split candidates into sets of jobs that have the same data.

    Yields:
        Job numbers; the data that all of them share, None where each loads its own; the reason why there are no more.
    """
    unlike = "no other job differs from it only in numbers"
    for numbers in candidates:
        first = configs[numbers[0]]
        if not shares_data(first):
            yield numbers, None, f"{unlike} (data of your own may differ with the seed)"
            continue
        if len(numbers) == 1:
            yield numbers, None, unlike
            continue
        why = "load() of its data draws random numbers, and no other job has its seed"
        try:
            loaded = load_shared_data(first)
        except Exception as error:  # which the jobs report when they run alone
            loaded, why = None, f"its data cannot be loaded, {_line(error)}"
        if loaded is not None:
            yield numbers, loaded, unlike
            continue
        by_seed: dict[int, list[int]] = {}
        for number in numbers:
            by_seed.setdefault(configs[number].seed, []).append(number)
        yield from ((same, None, why) for same in by_seed.values())


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _measure(configs: Sequence[Config], loaded: pl.LightningDataModule | None = None) -> Timing:
    """Measure the time per step of the first of some runs alone, and of all of them together."""
    config, quiet = configs[0], QuietConsole(quiet=True)
    folder = RunFolder(config.run_folder or Path(config.output))  # nothing is written
    member = as_member(prepare(config, folder, None, [], quiet, copy.copy(loaded)))
    alone = prepare(config, folder, None, [], quiet, copy.copy(loaded))
    assert alone is not None
    step, startup = time_ordinary(alone.trainer, alone.module, alone.data)
    size, steps, compiled = len(configs), member.plan.horizon.steps, config.trainer.compile
    whole = step * size * steps
    if compiled and startup > COMPILING * whole:
        raise PopulationError("too short to compile their step; without trainer.compile they may train together")
    try:
        together, compiling = time_together(member, size, SHARE * whole, compiled)
    except RuntimeError as error:
        raise PopulationError.of_vmap(error) from error
    return Timing(step, together, size, steps, compiling)


def _train(members: Sequence[tuple[int, Config]], loaded: pl.LightningDataModule | None) -> dict[int, Outcome]:
    """Train jobs as one population.

    Args:
        members: job numbers and configurations.
        loaded: the data that all of them share; None: each loads its own.

    Returns:
        How each ended, by job number; jobs that could not start, or turned out to be incompatible, are missing.

    Raises:
        PopulationError: the models differ in more than weights, or do something that a population cannot do.
    """
    started, quiet = time.monotonic(), QuietConsole(quiet=True)
    ready: list[tuple[int, Config, RunFolder, Member, list[Logger]]] = []
    running: list[tuple[int, RunFolder, Member, list[Logger]]] = []
    with ExitStack() as stack:
        for number, config in members:
            folder = open_folder(config, None)
            try:
                with folder.locked():
                    folder.start_over()
            except LrflowError:  # another process runs it
                continue
            loggers = open_loggers(config, folder)
            stack.callback(close_loggers, loggers)
            try:
                member = as_member(prepare(config, folder, None, loggers, quiet, copy.copy(loaded)))
                if config.trial and config.trial.pruner != "none":
                    from lrflow.tasks.pruning import pruning_callbacks  # here, since it imports Optuna

                    trainer = member.trainer
                    trainer.callbacks += pruning_callbacks(config, folder.path, trainer, False, quiet)  # type: ignore[attr-defined]
            except LrflowError:
                continue  # reported when the job runs alone
            if not ready or member.is_compatible_with(ready[0][3]):
                ready.append((number, config, folder, member, loggers))
        check_same_architecture([member for *_, member, _ in ready])
        for number, config, folder, member, loggers in ready:
            try:
                stack.enter_context(folder.locked())
            except LrflowError:
                continue
            stack.enter_context(_removed_on_failure(folder, loggers))
            record_start(config, folder, member.plan, member.trainer, loggers=loggers, data=loaded)
            running.append((number, folder, member, loggers))
        if not running:
            return {}
        config = members[0][1]
        assert isinstance(config.task, Train)
        PopulationFit(
            [member for _, _, member, _ in running],
            config.trainer.val_every,
            config.trainer.log_every,
            bool(config.task.test),
            config.trainer.compile,
            measuring_intervals(config, running[0][2].plan.horizon)[0],
        ).run()
        seconds = time.monotonic() - started
        return {
            number: _conclude(folder, member, loggers, seconds, len(running))
            for number, folder, member, loggers in running
        }


@contextmanager
def _removed_on_failure(folder: RunFolder, loggers: list[Logger]) -> Iterator[None]:
    """Remove what the body wrote into a run folder if it fails, since the job then runs alone in the same folder.

    A stop of the process is recorded as the end of the run, since no run follows it.
    """
    before = set(folder.path.iterdir()) - {folder.metrics, folder.checkpoints}  # the next run would append to these
    try:
        yield
    except BaseException as error:
        if isinstance(error, StoppedError) or not isinstance(error, Exception):
            with failure_recorded(folder, {}, loggers):
                raise
        abandon_loggers(loggers)
        for path in set(folder.path.iterdir()) - before:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


def _conclude(folder: RunFolder, member: Member, loggers: list[Logger], seconds: float, size: int) -> Outcome:
    """Record how a member's run ended; the time in its outcome is its share of the population's."""
    facts: dict[str, Any] = {
        "steps": member.steps,
        "planned": member.plan.horizon.steps,
        "folder": folder.path,
        "seconds": seconds,
    }
    ended = Outcome.finished(member.metrics, **facts)
    if member.error is not None:
        ended = Outcome.from_error(member.error, **facts)
    conclude(folder, ended, loggers, members=size, **member.facts)
    return replace(ended, seconds=seconds / size)


def _chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Split jobs into the fewest populations, of nearly equal size."""
    count = -(-len(numbers) // size)
    ends = [round(len(numbers) * part / count) for part in range(count + 1)]
    return (numbers[start:end] for start, end in pairwise(ends))


def _jobs(numbers: Sequence[int]) -> str:
    """`job 3`, `jobs 0 to 7`, `jobs 0, 2 and 5`."""
    if len(numbers) == 1:
        return f"job {numbers[0]}"
    if list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"jobs {numbers[0]} to {numbers[-1]}"
    shown = [str(number) for number in numbers[:8]]
    rest = f" and {len(numbers) - 8} more" if len(numbers) > 8 else f" and {shown.pop()}"
    return f"jobs {', '.join(shown)}{rest}"
