"""A sweep, checked as a whole before its first job."""

from __future__ import annotations

from pathlib import Path

from lrflow.config.catalogue import Catalogue
from lrflow.config.compose import checked, composer
from lrflow.config.overrides import Overrides, as_typed, read
from lrflow.errors import ConfigError, LrflowError, Problem


class SweepError(ConfigError):
    """Problems of the jobs of a sweep.

    Args:
        found: problems by the numbers of the jobs that have them.
        jobs: the overrides of each job.
    """

    def __init__(self, found: dict[tuple[int, ...], list[Problem]], jobs: list[str]) -> None:
        super().__init__([problem for problems in found.values() for problem in problems])
        self.found = found
        self.jobs = jobs


def check_sweep(overrides: Overrides, config_dir: Path | None, catalogue: Catalogue) -> None:
    """Composes and checks every job of a sweep.

    Raises:
        ConfigError: every problem of every job, identical ones once.
    """
    if overrides.problems:
        raise ConfigError(overrides.problems)
    jobs = overrides.jobs()
    holders: dict[Problem, list[int]] = {}
    with composer(config_dir) as composing:
        for number, job in enumerate(jobs):
            try:
                checked(read(job, catalogue), composing, catalogue)
            except ConfigError as error:
                for problem in error.problems:
                    key = next((known for known in holders if repr(known) == repr(problem)), problem)
                    holders.setdefault(key, []).append(number)
    if not holders:
        return
    found: dict[tuple[int, ...], list[Problem]] = {}
    for problem, numbers in holders.items():
        found.setdefault(tuple(numbers), []).append(problem)
    raise SweepError(found, [" ".join(as_typed(job)) for job in jobs])
