"""Runs of a sweep that differ in numbers alone, trained together, each into a run folder of its own."""

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
from lrflow.config.run_schema import Train
from lrflow.display import QuietConsole
from lrflow.errors import LrflowError, StoppedError
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.tasks.membership import as_member, check_alike, load_shared, shared_state, verify
from lrflow.tasks.run_record import conclude, failure_recorded, open_folder, open_loggers, record_start
from lrflow.tasks.train import prepare
from lrflow.training.loggers import abandon_loggers, close_loggers
from lrflow.vectorized.eligibility import ineligible_because, population_key, shares_data
from lrflow.vectorized.fit import PopulationFit
from lrflow.vectorized.member import Member
from lrflow.vectorized.population import UnfitError
from lrflow.vectorized.timing import COMPILING, SHARE, Timing, time_ordinary, time_together

PAYS = 1.1
"""A population has to be so many times faster than its members one after the other: less may be noise."""


def train_together(
    configs: Mapping[int, Config], size: int, measure: bool, tell: Callable[[str], None]
) -> dict[int, Outcome]:
    """Train what can be trained together and gains by it.

    Args:
        configs: of the jobs, by their numbers.
        size: members of a population at most.
        measure: try first whether it pays; otherwise it is taken to.
        tell: is given a line on each population, and on what is left out and why.

    Returns:
        How the members' runs ended, by the numbers of their jobs; the other jobs are left to be run in the ordinary
        way.

    Raises:
        StoppedError: the process was asked to stop.
    """
    found: dict[int, Outcome] = {}
    kin: dict[str, list[int]] = {}
    apart: dict[str, list[int]] = {}
    for number, config in configs.items():
        if reason := ineligible_because(config):
            apart.setdefault(reason, []).append(number)
        else:
            kin.setdefault(population_key(config), []).append(number)
    before = shared_state(configs[numbers[0]] for numbers in kin.values())
    for numbers, loaded, why_few in _sets(kin.values(), configs):
        before.restore()
        if len(numbers) == 1:
            apart.setdefault(why_few, []).extend(numbers)
            continue
        try:
            chosen = list(_chunks(numbers, size))
            told = []
            if measure:
                trial = _measure([configs[number] for number in chosen[0]], loaded)
                ratio = math.floor(100 * trial.ratio) / 100  # so that what is shown is on its side of the limit
                told.append(f"measured {ratio:.2f} times as fast as one after the other")
                if trial.ratio < PAYS:
                    raise UnfitError(
                        f"together they would gain too little: {told[0]}, and less than {PAYS:.2f} may be noise"
                    )
            told.append(verify({number: configs[number] for number in numbers}, loaded))
            before.restore()
            tell(f"{_jobs(numbers)} train together: {'; '.join(told)}")
            for chunk in chosen:
                found |= _train([(number, configs[number]) for number in chunk], loaded)
        except StoppedError:
            raise
        except UnfitError as why:
            apart.setdefault(str(why), []).extend(n for n in numbers if n not in found)
        except Exception as error:  # memory that does not suffice, say: by themselves they may do
            apart.setdefault(f"together they failed, {_line(error)}", []).extend(n for n in numbers if n not in found)
    before.restore()  # so that what runs next finds what it would have found alone
    for reason, numbers in sorted(apart.items(), key=lambda told: told[1]):
        how = "runs by itself" if len(numbers) == 1 else "run one after the other"
        tell(f"{_jobs(numbers)} {how}: {reason}")
    return found


def _sets(
    kin: Iterable[Sequence[int]], configs: Mapping[int, Config]
) -> Iterator[tuple[Sequence[int], pl.LightningDataModule | None, str]]:
    """The sets of jobs that may train together.

    Yields:
        Their numbers; the data that all of them share, None where each loads its own; why there are no more of them.
    """
    unlike = "no other job differs from it in numbers alone"
    for numbers in kin:
        first = configs[numbers[0]]
        if not shares_data(first):
            yield numbers, None, f"{unlike} (data of your own may differ with the seed)"
            continue
        if len(numbers) == 1:
            yield numbers, None, unlike
            continue
        why = "load() of its data draws random numbers, and no other such job has its seed"
        try:
            loaded = load_shared(first)
        except Exception as error:  # which the jobs report where they are run by themselves
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
    """What the first of some runs costs a step alone, and what all of them cost together."""
    config, quiet = configs[0], QuietConsole(quiet=True)
    folder = RunFolder(config.run_folder or Path(config.output))  # nothing is written
    member = as_member(prepare(config, folder, None, [], quiet, copy.copy(loaded)))
    alone = prepare(config, folder, None, [], quiet, copy.copy(loaded))
    assert alone is not None
    step, before = time_ordinary(alone.trainer, alone.module, alone.data)
    size, steps, compiled = len(configs), member.plan.horizon.steps, config.trainer.compile
    whole = step * size * steps
    if compiled and before > COMPILING * whole:
        message = "too short for what compiling their step would take; without trainer.compile they may train together"
        raise UnfitError(message)
    try:
        together, compiling = time_together(member, size, SHARE * whole, compiled)
    except RuntimeError as error:
        raise UnfitError.of_vmap(error) from error
    return Timing(step, together, size, steps, compiling)


def _train(members: Sequence[tuple[int, Config]], loaded: pl.LightningDataModule | None) -> dict[int, Outcome]:
    """Train jobs as one population.

    Args:
        members: their numbers and configs.
        loaded: the data that all of them share; None: each loads its own.

    Returns:
        How each ended; without those that could not start, or turned out to differ: they are left as they were.

    Raises:
        UnfitError: they differ in more than weights, or something came up that a population cannot do.
    """
    started, quiet = time.monotonic(), QuietConsole(quiet=True)
    ready: list[tuple[int, Config, RunFolder, Member, list[Logger]]] = []
    begun: list[tuple[int, RunFolder, Member, list[Logger]]] = []
    with ExitStack() as open_:
        for number, config in members:
            folder = open_folder(config, None)
            loggers = open_loggers(config, folder)
            open_.callback(close_loggers, loggers)
            try:
                member = as_member(prepare(config, folder, None, loggers, quiet, copy.copy(loaded)))
                if config.trial and config.trial.pruner != "none":
                    from lrflow.tasks.pruning import follow_trial  # which takes Optuna

                    trainer = member.trainer
                    trainer.callbacks += follow_trial(config, folder.path, trainer, False, quiet)  # type: ignore[attr-defined]
            except LrflowError:
                continue  # it is told of where the job is run by itself
            if not ready or member.fits(ready[0][3]):
                ready.append((number, config, folder, member, loggers))
        check_alike([member for *_, member, _ in ready])
        for number, config, folder, member, loggers in ready:
            try:
                open_.enter_context(folder.locked())
            except LrflowError:
                continue
            open_.enter_context(_attempted(folder, loggers))
            record_start(config, folder, member.plan, 1, picture=False)
            begun.append((number, folder, member, loggers))
        if not begun:
            return {}
        config = members[0][1]
        assert isinstance(config.task, Train)
        PopulationFit(
            [member for _, _, member, _ in begun],
            config.trainer.val_every,
            config.trainer.log_every,
            bool(config.task.test),
            config.trainer.compile,
        ).run()
        seconds = time.monotonic() - started
        return {
            number: _conclude(folder, member, loggers, seconds, len(begun)) for number, folder, member, loggers in begun
        }


@contextmanager
def _attempted(folder: RunFolder, loggers: list[Logger]) -> Iterator[None]:
    """Leave nothing of what is done within when it fails, since the job then runs by itself in the same folder.

    What stops the process is recorded: no other run comes after it.
    """
    before = set(folder.path.iterdir()) - {folder.metrics, folder.checkpoints}  # to which such a run would add
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
    """Record how a member's run ended; its time is its share of the population's."""
    facts: dict[str, Any] = {
        "steps": member.steps,
        "planned": member.plan.horizon.steps,
        "folder": folder.path,
        "seconds": seconds,
    }
    ended = Outcome.finished(member.metrics, **facts)
    if member.error is not None:
        ended = Outcome.from_error(member.error, **facts)
    conclude(folder, ended, loggers, members=size)
    return replace(ended, seconds=seconds / size)


def _chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """As few populations as there have to be, as equal as can be."""
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
