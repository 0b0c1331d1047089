"""How this process was started: what torchrun, srun and other launchers say of it in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lrflow.errors import ConfigError, Problem

_LOWEST = {
    "RANK": 0,
    "LOCAL_RANK": 0,
    "NODE_RANK": 0,
    "GROUP_RANK": 0,
    "WORLD_SIZE": 1,
    "LOCAL_WORLD_SIZE": 1,
    "TORCHELASTIC_RESTART_COUNT": 0,
    "SLURM_PROCID": 0,
    "SLURM_LOCALID": 0,
    "SLURM_NODEID": 0,
    "SLURM_NTASKS": 1,
    "SLURM_NTASKS_PER_NODE": 1,
    "SLURM_NNODES": 1,
    "SLURM_STEP_NUM_TASKS": 1,
}
"""Variables that lrflow, Lightning or torch reads as whole numbers, by their lowest value."""

_HIGHEST_PORT = 65535

_programs = 0  # how many blocks of `within_a_program` are open


def check_environment() -> None:
    """Check the numbers that a launcher has set, before Lightning and torch read them.

    Raises:
        ConfigError: some of them are no whole numbers, are too low, or exclude each other.
    """
    if problems := list(_problems()):
        raise ConfigError(problems)


def _problems() -> Iterator[Problem]:
    for name, lowest in _LOWEST.items():
        value = os.environ.get(name)
        if value is not None and not (_is_number(value) and int(value) >= lowest):
            yield _problem(name, value, f"a whole number {'above 0' if lowest else 'of at least 0'}")
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if _is_number(rank) and _is_number(size) and 0 < int(size) <= int(rank):
        yield _problem("RANK", rank, f"less than WORLD_SIZE={size}")


def check_port() -> None:
    """Check the port at which the processes of a run meet, if the environment gives one.

    It is checked only for a run of several processes: Kubernetes sets MASTER_PORT to an address if it has a service
    with the name `master`.

    Raises:
        ConfigError: it is no port.
    """
    value = os.environ.get("MASTER_PORT")
    if value is not None and not (_is_number(value) and 0 <= int(value) <= _HIGHEST_PORT):
        raise ConfigError([_problem("MASTER_PORT", value, f"a port, a whole number of at most {_HIGHEST_PORT}")])


def is_first_here() -> bool:
    """Return whether this process is the only one of its run on this machine, or the first of several."""
    return not os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")).strip("0")


def is_one_of_several() -> bool:
    """Return whether torchrun or srun started several processes of one run, of which this is one."""
    torchrun = {"RANK", "MASTER_ADDR"} <= os.environ.keys() and os.environ.get("WORLD_SIZE", "1") != "1"
    return torchrun or ("SLURM_PROCID" in os.environ and os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1")


@contextmanager
def within_a_program() -> Iterator[None]:
    """Note that the block runs in a program of the user's, which must not be started again for further processes."""
    global _programs
    _programs += 1
    try:
        yield
    finally:
        _programs -= 1


def is_within_a_program() -> bool:
    """Return whether the command of this process is a program of the user's, rather than lrflow's command line."""
    return _programs > 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _problem(name: str, value: str, expected: str) -> Problem:
    hint = f"the launcher of the run sets this environment variable; for a run without a launcher: unset {name}"
    return Problem(name, f"in the environment, expected {expected}", value, hint)


def rank() -> int:
    """Return the global rank, from the environment, before any Trainer exists; 0 for a single process."""
    from pytorch_lightning.utilities import rank_zero_only  # here, since a start must stay light

    return int(getattr(rank_zero_only, "rank", 0) or 0)
