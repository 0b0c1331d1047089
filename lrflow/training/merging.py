"""Merging the checkpoints of a run under a constant LR into the weights that a decay of the LR would have given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrflow.errors import ConfigError, Problem
from lrflow.plan import Plan
from lrflow.training.checkpoint_file import AtomicCheckpointIO, read_checkpoint


@dataclass(frozen=True)
class Merged:
    """How weights were merged: the record in their checkpoint.

    Args:
        shape: `task.as`; `average` for averages that the run kept.
        steps: steps of the checkpoints.
        shares: share of each of them; their sum is 1.
        over: steps of the decay; 0 for averages.
        floor: multiplier of the LR at its end.
        width: of an average that is made from others; None: a decay, or the average that was evaluated.
        averages: which average of each checkpoint is merged; empty: the trained weights.
    """

    shape: str
    steps: tuple[int, ...]
    shares: tuple[float, ...]
    over: int = 0
    floor: float = 0.0
    width: float | None = None
    averages: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The file name of the checkpoint."""
        floor = f"-floor-{self.floor:g}" if self.floor else ""
        over = f"-over-{self.over}" if self.over else f"-width-{self.width:g}" if self.width else ""
        return f"merged-{self.shape}{over}{floor}-to-step-{self.steps[-1]:07d}.ckpt"

    def __str__(self) -> str:
        if self.averages:
            return f"{len(self.steps)} averages, of step {self.steps[0]:,} to {self.steps[-1]:,}"
        return f"{len(self.steps)} checkpoints, of step {self.steps[0]:,} to {self.steps[-1]:,}"

    def record(self) -> dict[str, Any]:
        """Return plain data for the checkpoint."""
        return {name: list(one) if isinstance(one, tuple) else one for name, one in asdict(self).items()}


def check_constant(plan: Plan, start: int, end: int, saved: Sequence[int], folder: Path) -> None:
    """Check that the LR of every group is constant from one step to another.

    Args:
        plan: of the run.
        start: first step.
        end: the step after the last one.
        saved: steps of the checkpoints of the run.
        folder: its checkpoints.

    Raises:
        ConfigError: an LR moves.
    """
    rates = plan.lr(np.arange(start, end))
    same = np.isclose(rates, rates[0], rtol=1e-9, atol=0).all(axis=1)
    if same.all():
        return
    moves = start + int(np.argmin(same))
    column = int(np.argmax(np.abs(rates - rates[0]).max(axis=0)))
    message = f"merging needs a constant LR, but between step {start:,} and {end:,} that of the run moves from "
    message += f"{rates[0, column]:.3g} to {rates[-1, column]:.3g}"
    earlier = [step for step in saved if step <= moves]
    hint = "train with schedule=constant_with_warmup"
    if earlier and earlier[-1] > start:
        hint = f"the LR is constant up to task.from={folder}/step-{earlier[-1]:07d}.ckpt; or {hint}"
    raise ConfigError([Problem("task.from", message, str(folder.parent), hint)])


def merged_weights(paths: Sequence[Path], merged: Merged, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the sum of the trained or averaged weights of checkpoints, each times its share, in double precision.

    All other tensors are those of the last checkpoint.

    Args:
        paths: the checkpoints; one at a time is in memory.
        merged: share of each, and which average.
        names: of the parameters.
    """
    sums: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    names = list(names)
    for path, share, average in zip(paths, merged.shares, merged.averages or repeat(None), strict=False):
        content = read_checkpoint(path, map_location="cpu", mmap=True)
        weights = {**content["state_dict"], **content["lrflow"].get("training", {})}  # not those that are evaluated
        own_average = {} if average is None else content["lrflow"]["average"]["averages"][average]
        for name in names:
            own = own_average.get(name, weights[name]).double() * share
            sums[name] = sums[name] + own if name in sums else own
    return {name: sums[name].to(one.dtype) if name in sums else one.clone() for name, one in weights.items()}


def write_merged(path: Path, last: Path, weights: Mapping[str, Tensor], merged: Merged) -> None:
    """Write merged weights as a checkpoint that can be evaluated and be started from, but not be resumed.

    Args:
        path: the file.
        last: the last of the merged checkpoints; its record of the run is copied.
        weights: all tensors of the module.
        merged: the record.

    Raises:
        OSError: the file cannot be written.
    """
    content = read_checkpoint(last, map_location="cpu", mmap=True)
    own = {key: value for key, value in content["lrflow"].items() if key not in ("training", "average", "end")}
    states = [{**state, "state": {}} for state in content["optimizer_states"]]
    changed = {"state_dict": dict(weights), "optimizer_states": states, "lrflow": {**own, "merged": merged.record()}}
    with torch.no_grad():
        AtomicCheckpointIO().save_checkpoint({**content, **changed}, path)
