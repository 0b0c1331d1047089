"""Snapshots of a run's whole state: what one is, its file, and which of them a run keeps."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lrflow.runs import RunFolder, name_of_step, step_of

_PLAIN = {int, float, bool, str, type(None)}
"""Types of values that need no copy."""

PREFIX = "rollbacks-"
"""Start of the file names of snapshots, before the number of rollbacks up to then."""


@dataclass
class Snapshot:
    """The state of a run after some steps.

    Args:
        name: of its file.
        content: that of a checkpoint, on the CPU, and shared with nothing.
        is_written: whether the file exists.
    """

    name: str
    content: dict[str, Any]
    is_written: bool = False

    @property
    def step(self) -> int:
        """The number of optimizer steps made."""
        return step_of(Path(self.name))


def superfluous(steps: Sequence[int]) -> int:
    """Return the index of the snapshot to drop: the first and the newest stay, and ages grow about geometrically.

    It is the one without which the gap between its neighbours is the smallest relative to its age. How much too far a
    run goes back is then in proportion to how late it notices that something is wrong.

    Args:
        steps: of at least three snapshots, ascending.
    """
    gaps = {at: (steps[at + 1] - steps[at - 1]) / (steps[-1] - steps[at]) for at in range(1, len(steps) - 1)}
    return min(gaps, key=lambda at: gaps[at])


def snapshots_of(folder: RunFolder) -> Path:
    """Return the folder with the snapshots of a run."""
    return folder.checkpoints / "snapshots"


def snapshot_name(step: int, rollbacks: int) -> str:
    """Return the file name of a snapshot, which differs from that of the same step before a rollback."""
    return f"{PREFIX}{rollbacks}-{name_of_step(step)}"


def copied(value: Any, copies: dict[int, torch.Tensor] | None = None) -> Any:
    """Return a copy of nested containers with copies of their tensors on the CPU; equal tensors stay one."""
    copies = {} if copies is None else copies
    if isinstance(value, torch.Tensor):
        if id(value) not in copies:
            copies[id(value)] = value.detach().to("cpu", copy=True)
        return copies[id(value)]
    if type(value) in (list, tuple) and set(map(type, value)) <= _PLAIN:
        return copy.copy(value)
    if type(value) in (dict, OrderedDict):
        result = copy.copy(value)  # keeps the attribute that torch adds to a state_dict
        for key, part in value.items():
            if type(part) not in _PLAIN:
                result[key] = copied(part, copies)
        return result
    if type(value) in (list, tuple):
        return type(value)(copied(part, copies) for part in value)
    return value
