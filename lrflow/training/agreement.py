"""Agreement of processes that torchrun or srun started: the first decides what is resumed, and all have to see it."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning_fabric.plugins.environments import SLURMEnvironment

from lrflow.config.restart import Decision
from lrflow.errors import ConfigError, Problem

PATIENCE = timedelta(minutes=10)
"""Time for which the processes wait for the slowest one to start."""

_kept: list[dist.Store] = []  # the first process serves the store until it ends


class Agreement:
    """One question that all processes of a run answer alike, before the run is composed.

    Args:
        request: what this process was asked to resume. Processes with other requests than the first are other runs.
    """

    def __init__(self, request: str) -> None:
        self.request = request
        self.store, self.rank, self.world = _join()

    def decide(self, decision: Decision) -> None:
        """Announce the decision of the first process, and check that all others can follow it.

        Raises:
            ConfigError: a process does not see the checkpoint; every process raises it.
        """
        self.store.set("decision", json.dumps({"request": self.request, **asdict(decision)}, default=str))
        if decision.checkpoint is not None:
            answers = [self.store.get(f"blind/{rank}").decode() for rank in range(1, self.world)]
            blind = [answer for answer in answers if answer]
            self.store.set("blind", json.dumps(blind))
            self._check(blind, decision.checkpoint)

    def follow(self) -> Decision | None:
        """Return the decision of the first process; None: it belongs to another run.

        Raises:
            ConfigError: a process does not see the checkpoint; every process raises it.
        """
        found: dict[str, Any] = json.loads(self.store.get("decision"))
        other = found.pop("request") != self.request
        checkpoint = None if found["checkpoint"] is None else Path(found["checkpoint"])
        if checkpoint is not None:
            sees = other or checkpoint.is_file()
            self.store.set(f"blind/{self.rank}", "" if sees else f"process {self.rank} on {socket.gethostname()}")
            if not other:
                self._check(json.loads(self.store.get("blind")), checkpoint)
        return None if other else Decision(**{**found, "checkpoint": checkpoint})

    @staticmethod
    def _check(blind: list[str], checkpoint: Path) -> None:
        if blind:
            more = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
            message = f"the first process sees this checkpoint, but {blind[0]}{more} does not, so none of them resumes"
            hint = "put the run folders on a disk that all nodes share: output=FOLDER"
            raise ConfigError([Problem("resume", message, str(checkpoint), hint)])


def connect_restarted(backend: str, timeout: timedelta | None) -> None:
    """Connect the processes that torchrun has started again; those of a first start are left to Lightning.

    torchrun (torch 2.13) keeps one store for all starts. Processes that find there the addresses of those that have
    died would wait for them until the timeout, so those of each start use names of their own.

    Args:
        backend: of `torch.distributed`, such as gloo.
        timeout: time for which a process waits for the others; None: the backend's own.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0 and not dist.is_initialized():
        store, rank, world = _join()
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)


def _join() -> tuple[dist.Store, int, int]:
    """Return the store of all processes, the rank of this one, and their number.

    Raises:
        ConfigError: srun was called in a way that Lightning does not support.
    """
    if "RANK" in os.environ:
        store, rank, world = next(iter(dist.rendezvous("env://", timeout=PATIENCE)))
    else:
        try:
            slurm = SLURMEnvironment()
        except RuntimeError as error:  # Lightning does not accept how srun was called
            raise ConfigError(
                [Problem("trainer", f"Lightning rejects how srun started it: {error}".rstrip("."))]
            ) from error
        rank, world = slurm.global_rank(), slurm.world_size()
        address, port = slurm.main_address, slurm.main_port
        store = dist.TCPStore(address, port, world, rank == 0, PATIENCE, wait_for_workers=False, multi_tenant=True)
    _kept.append(store)
    return dist.PrefixStore(f"lrflow/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store), rank, world
